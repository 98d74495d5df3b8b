//! The ffmpeg program, and ffprobe where it lies beside it: every format there is, over pipes. Versions 4.2 to 9.

mod comb;
mod packets;
mod ppm;
mod probe;
mod seek;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::decode::process::{Ended, More, run};
use crate::decode::sandbox;
use crate::error::{Error, Result};
use crate::info::{Decoded, MediaInfo, Options};
use crate::note::{Note, NoteKind};
use crate::picture::frames::Frames;
use crate::sound::resample::mono;
use comb::Comb;
use ppm::Ppm;
pub(crate) use probe::probe;

/// `OUTRO_FFMPEG`, or `ffmpeg` on the PATH.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("OUTRO_FFMPEG")
        .filter(|v| !v.is_empty())
        .map_or_else(|| PathBuf::from("ffmpeg"), PathBuf::from)
}

/// ffprobe, where it lies beside ffmpeg.
fn prober() -> Option<PathBuf> {
    let ffmpeg = program();
    let name = ffmpeg
        .file_name()
        .map(OsStr::to_string_lossy)
        .unwrap_or_default()
        .replace("ffmpeg", "ffprobe");
    let prober = ffmpeg.with_file_name(name);
    (prober != ffmpeg && is_there(&prober)).then_some(prober)
}

/// Whether ffprobe lies beside ffmpeg; without it ffmpeg is asked what a file is.
pub fn prober_found() -> bool {
    prober().is_some()
}

/// The first line of `ffmpeg -version`, if ffmpeg can be run.
pub fn version() -> Option<String> {
    let out = Command::new(program())
        .arg("-version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    out.status
        .success()
        .then(|| text.lines().next().unwrap_or_default().to_string())
}

/// Whether ffmpeg is there: looked up in the file system, without running it.
pub(crate) fn found() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| is_there(&program()))
}

fn is_there(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join(program).is_file()))
}

/// The arguments that pass frames on as they come. `-vsync` is gone in ffmpeg 9, `-fps_mode` is there from 5.1 on.
fn every_frame() -> [&'static str; 2] {
    static NEW: OnceLock<bool> = OnceLock::new();
    let new = *NEW.get_or_init(|| {
        let out = Command::new(program())
            .args(["-hide_banner", "-h", "long"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        out.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("-fps_mode"))
    });
    if new {
        ["-fps_mode", "passthrough"]
    } else {
        ["-vsync", "0"]
    }
}

/// What an input may open: itself. A file that names others, or an address, is none.
const PROTOCOLS: &str = "file";

/// A path as ffmpeg takes it, whatever it is called.
pub(crate) fn url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}

/// ffmpeg with a file as its input, and what comes before that.
pub(crate) fn input(path: &Path, options: &[&str], o: &Options) -> Result<Command> {
    let mut command = sandbox::program(&program(), path, o)?;
    command
        .args(["-v", "error", "-nostdin"])
        .args(options)
        .args(["-protocol_whitelist", PROTOCOLS, "-i"])
        .arg(url(path));
    Ok(command)
}

/// Refuses formats that are a list of other files, and text that ffmpeg would draw.
fn names_others(path: &Path, format: &str) -> Result<()> {
    let refused = [
        "hls",
        "applehttp",
        "concat",
        "dash",
        "imf",
        "sdp",
        "image2",
        "tty",
        "webm_dash_manifest",
        "vobsub",
    ];
    if format.split(',').any(|name| refused.contains(&name)) {
        let problem =
            format!("is a list of other files or text ({format}), which is not opened; give a media file");
        return Err(Error::unusable(path, problem, None));
    }
    Ok(())
}

/// Frames by number, as they pass. The default conversion to rgb24 is the one whose bytes equal the reference reader's.
pub(crate) fn frames(
    file: &MediaInfo,
    indices: &[usize],
    o: &Options,
    sink: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<Decoded> {
    let done = seek::frames(file, indices, o, sink)?;
    match &indices[done..] {
        [] => Ok(Decoded::default()),
        rest => pass(file, rest, o, sink),
    }
}

/// Decodes a file from its beginning. Every frame is counted; those around the wanted ones come through the pipe.
fn pass(
    file: &MediaInfo,
    indices: &[usize],
    o: &Options,
    sink: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<Decoded> {
    let path = &file.path;
    let promised = file.video.as_ref().map_or(0, |v| v.frames);
    let last = indices.last().copied().unwrap_or(0);
    let step = indices.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
    // Numbers that reach the end depend on where it is: then everything is counted.
    let limit = (last + step.max(1) < promised).then_some(last + 1);
    let comb = Comb::new(indices);
    // A change of size within the file must not begin the filters, and so the numbers, anew.
    let mut command = input(path, &["-progress", "pipe:2", "-reinit_filter", "0"], o)?;
    let filters = format!(
        "[0:{}]split=2[all][some];[some]select='{}'[picked]",
        file.streams.video,
        comb.expression()
    );
    command
        .args(["-filter_complex", &filters, "-map", "[all]"])
        .args(every_frame());
    if let Some(limit) = limit {
        command.args(["-frames:v", &limit.to_string()]);
    }
    command
        .args(["-f", "null", "-", "-map", "[picked]"])
        .args(every_frame())
        .args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]);
    let (mut numbers, mut wanted) = (comb.numbers(), indices.iter().peekable());
    let mut ppm = Ppm::default();
    let ended = run(command, path, o, 1 << 20, &mut |piece| {
        ppm.push(path, &piece, &mut |frame| {
            let number = numbers.next();
            if wanted.next_if(|w| Some(**w) == number).is_some() {
                sink(frame)?;
            }
            Ok(())
        })?;
        Ok(More::Yes)
    })?
    .ok()?;
    let total = ended.frames.filter(|n| limit.is_none_or(|l| *n < l));
    Ok(Decoded {
        total,
        notes: complaints(path, "pictures", &ended),
    })
}

/// What a decoder that went on all the same complained about. What is said about the output is about what we asked for.
fn complaints(path: &Path, what: &str, ended: &Ended) -> Vec<Note> {
    let ours = [
        "[null @",
        "[image2pipe @",
        "[wav @",
        "[out#",
        "[rawvideo @",
        "[swscaler @",
    ];
    let mut about = ended
        .lines
        .iter()
        .map(|l| l.trim())
        .filter(|l| !ours.iter().any(|o| l.starts_with(o)) && !l.starts_with("Last message repeated"));
    let Some(first) = about.next() else {
        return Vec::new();
    };
    // `[aac @ 0x55dcd157ea80]`: where in memory that was is another number every time.
    let first = match first.split_once(" @ 0x") {
        Some((before, rest)) => format!(
            "{before}{}",
            rest.trim_start_matches(|c: char| c.is_ascii_hexdigit())
        ),
        None => first.to_string(),
    };
    let more = match ended.messages {
        1 => String::new(),
        n => format!(" (and {} more lines)", n - 1),
    };
    let text = format!("its {what} are damaged; what could be decoded is used: {first}{more}");
    vec![Note::new(NoteKind::Damaged, path, text)]
}

/// Mono samples at the file's own rate, up to `end` seconds. The program's own mixing weights and scales channels, so it is
/// not used. Of several tracks the first that can be decoded is taken, in the order that was found when the file was probed.
pub(crate) fn audio(file: &MediaInfo, end: Option<f64>, o: &Options) -> Result<(Vec<f32>, u32, Vec<Note>)> {
    let path = &file.path;
    let mut notes = Vec::new();
    let mut problem = None;
    for track in &file.streams.audio {
        let mut sound = Wav::default();
        let mut command = input(path, &[], o)?;
        command.args([
            "-map",
            &format!("0:{track}"),
            "-f",
            "wav",
            "-c:a",
            "pcm_f32le",
            "-",
        ]);
        let ended = run(command, path, o, 1 << 16, &mut |piece| {
            let more = sound.push(path, &piece, end)?;
            let seconds = sound.samples.len() as f64 / f64::from(sound.rate.max(1));
            o.limits.lasting(path, seconds)?;
            Ok(more)
        })?;
        if sound.samples.is_empty() {
            let why = match ended.ok() {
                Err(e @ (Error::Damaged { .. } | Error::Unusable { .. })) => e,
                Err(e) => return Err(e),
                Ok(_) => Error::damaged(path, "its sound holds no sample"),
            };
            let text = format!("the sound in its stream {track} is passed over: {why}");
            notes.push(Note::new(NoteKind::TrackLeftOut, path, text));
            problem.get_or_insert(why);
            continue;
        }
        notes.extend(complaints(path, "sounds", &ended));
        return Ok((sound.samples, sound.rate, notes));
    }
    Err(problem.unwrap_or_else(|| Error::NoStream {
        path: path.clone(),
        what: "audio stream",
    }))
}

/// A WAV file of 32-bit floats as it comes, which says its own rate and channels.
#[derive(Default)]
struct Wav {
    /// Bytes that are not samples yet.
    rest: Vec<u8>,
    channels: usize,
    rate: u32,
    /// Averages of channels.
    samples: Vec<f32>,
}

impl Wav {
    fn push(&mut self, path: &Path, piece: &[u8], end: Option<f64>) -> Result<More> {
        self.rest.extend_from_slice(piece);
        if self.channels == 0 && !self.header(path)? {
            return Ok(More::Yes);
        }
        let whole = self.rest.len() / (4 * self.channels) * (4 * self.channels);
        let values: Vec<f32> = self.rest[..whole]
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        self.samples.extend(mono(&values, self.channels));
        self.rest.drain(..whole);
        let enough = end.is_some_and(|t| self.samples.len() as f64 > t * f64::from(self.rate));
        Ok(if enough { More::Enough } else { More::Yes })
    }

    /// Takes the header off, once it has come whole.
    fn header(&mut self, path: &Path) -> Result<bool> {
        let number = |b: &[u8]| b.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        let (mut at, mut format) = (12, None);
        while let Some(chunk) = self.rest.get(at..at + 8) {
            let size = number(&chunk[4..]);
            if chunk.starts_with(b"fmt ") {
                format = self.rest.get(at + 8..at + 16);
            }
            if chunk.starts_with(b"data") {
                let format = format.unwrap_or(&[0; 8]);
                (self.channels, self.rate) = (number(&format[2..4]), number(&format[4..]) as u32);
                self.rest.drain(..at + 8);
                break;
            }
            at += 8 + size + size % 2;
        }
        if self.rest.len() > 1 << 20 || self.channels > 0 && self.rate == 0 {
            return Err(Error::decoder(
                path,
                "ffmpeg gave no sound of the form asked for (WAV)",
            ));
        }
        Ok(self.channels > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_comes_whole_however_it_is_cut() {
        let mut wav = b"RIFF\xff\xff\xff\xffWAVEfmt \x12\0\0\0\x03\0\x02\0\x40\x1f\0\0".to_vec();
        wav.extend([0; 10]);
        wav.extend(b"LIST\x03\0\0\0abc\0data\xff\xff\xff\xff");
        wav.extend([0.5f32, 1.5, -1.0, 0.0].iter().flat_map(|x| x.to_le_bytes()));
        for size in [1, 3, 7, 4096] {
            let mut sound = Wav::default();
            for piece in wav.chunks(size) {
                assert_eq!(sound.push(Path::new("x"), piece, None).unwrap(), More::Yes);
            }
            assert_eq!((sound.rate, sound.samples), (8000, vec![1.0, -0.5]));
        }
        let mut sound = Wav::default();
        assert_eq!(
            sound.push(Path::new("x"), &wav, Some(0.0001)).unwrap(),
            More::Enough
        );
    }
}
