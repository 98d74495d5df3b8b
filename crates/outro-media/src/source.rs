//! Opening a media file: what it is, which decoder reads it, and its frames or samples.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::audio::{SAMPLE_RATE, resample};
use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::resize::Resize;
use crate::worker::{self, Job};
use crate::{builtin, ffmpeg};

/// Who decodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// ffmpeg where it is found, otherwise the built-in decoders.
    #[default]
    Auto,
    /// The built-in decoders.
    Builtin,
    /// The ffmpeg program.
    Ffmpeg,
}

impl FromStr for Decoder {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Self::Auto),
            "builtin" => Ok(Self::Builtin),
            "ffmpeg" => Ok(Self::Ffmpeg),
            _ => Err(Error::range(
                "decoder",
                format!("is `{s}`; possible: auto, builtin, ffmpeg"),
            )),
        }
    }
}

impl std::fmt::Display for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Builtin => "builtin",
            Self::Ffmpeg => "ffmpeg",
        })
    }
}

/// How files are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Who decodes.
    pub decoder: Decoder,
    /// How long a decoder may go without producing anything.
    pub deadline: Duration,
    /// A program that hands its arguments to [`worker::run`] when the first is [`worker::ARG`]: built-in decoders
    /// then run in a child process, so that a crash or a hang is an error.
    pub worker: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            decoder: Decoder::Auto,
            deadline: Duration::from_mins(2),
            worker: None,
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Moving pictures, with or without sound.
    Video,
    /// One picture.
    Image,
    /// Sound alone.
    Audio,
}

/// What is known of a file without decoding it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediaInfo {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// The container's name.
    pub container: String,
    /// Its first video stream, or the image.
    pub video: Option<VideoInfo>,
    /// Its first audio stream.
    pub audio: Option<AudioInfo>,
    /// Who will decode it.
    pub decoder: Decoder,
}

/// A video stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoInfo {
    /// Codec name, such as `h264`.
    pub codec: String,
    /// Columns of pixels as displayed.
    pub width: usize,
    /// Rows of pixels as displayed.
    pub height: usize,
    /// Average frames a second.
    pub fps: f64,
    /// Number of frames.
    pub frames: usize,
    /// Seconds.
    pub duration: f64,
}

/// An audio stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioInfo {
    /// Codec name, such as `aac`.
    pub codec: String,
    /// Channels.
    pub channels: usize,
    /// Samples a second.
    pub sample_rate: u32,
    /// Seconds.
    pub duration: f64,
}

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sniffed {
    Mp4,
    Image,
    Audio,
    Other(&'static str),
}

fn sniff(path: &Path) -> Result<Sniffed> {
    let kind = std::fs::metadata(path).map_err(Error::io(path))?.file_type();
    // Opening a pipe waits for somebody to write, and no deadline would end that.
    if !kind.is_file() && !kind.is_dir() {
        return Err(Error::damaged(
            path,
            "is not a file: a pipe or a device cannot be read",
        ));
    }
    let mut head = Vec::new();
    File::open(path)
        .map_err(Error::io(path))?
        .take(16)
        .read_to_end(&mut head)
        .map_err(Error::io(path))?;
    if head.is_empty() {
        return Err(Error::damaged(path, "is empty (0 bytes)"));
    }
    let at = |start: usize, magic: &[u8]| head.get(start..start + magic.len()) == Some(magic);
    // An mp4 that holds sound alone is called m4a, and the built-in decoders read it as sound.
    let m4a = at(4, b"ftypM4A") || at(4, b"ftypM4B");
    Ok(
        if at(4, b"ftyp") && !m4a || at(4, b"moov") || at(4, b"mdat") || at(4, b"wide") || at(4, b"free") {
            Sniffed::Mp4
        } else if at(0, b"\x89PNG")
            || at(0, b"\xFF\xD8\xFF")
            || at(0, b"GIF8")
            || at(0, b"RIFF") && at(8, b"WEBP")
        {
            Sniffed::Image
        } else if m4a
            || at(0, b"RIFF") && at(8, b"WAVE")
            || at(0, b"fLaC")
            || at(0, b"OggS")
            || at(0, b"ID3")
            || head.len() > 1 && head[0] == 0xFF && head[1] & 0xE0 == 0xE0
        {
            Sniffed::Audio
        } else if at(0, b"\x1A\x45\xDF\xA3") {
            Sniffed::Other("Matroska or WebM")
        } else if at(0, b"RIFF") && at(8, b"AVI ") {
            Sniffed::Other("AVI")
        } else {
            Sniffed::Other("this format")
        },
    )
}

/// Reads streams and sizes. No picture or sound is decoded.
///
/// # Errors
/// Empty, damaged and unreadable files, and formats that need ffmpeg while it is missing.
pub fn probe(path: &Path, o: &Options) -> Result<MediaInfo> {
    let kind = sniff(path)?;
    if kind == Sniffed::Image {
        return builtin::probe_image(path);
    }
    match use_ffmpeg(path, o, &kind) {
        Ok(true) => ffmpeg::probe(path, o),
        Ok(false) => worker::probe(path, kind == Sniffed::Mp4, o),
        Err(e) => Err(e),
    }
}

fn use_ffmpeg(path: &Path, o: &Options, kind: &Sniffed) -> Result<bool> {
    let missing = |format: &str, reason: &str| Error::NeedsFfmpeg {
        path: path.into(),
        format: format.into(),
        reason: reason.into(),
    };
    match (o.decoder, kind) {
        (Decoder::Ffmpeg, _) if !ffmpeg::found() => Err(missing("--decoder ffmpeg", "which was not found")),
        (Decoder::Ffmpeg, _) => Ok(true),
        (Decoder::Auto, _) if ffmpeg::found() => Ok(true),
        (Decoder::Auto, Sniffed::Other(format)) => Err(missing(format, "which was not found")),
        (Decoder::Builtin, Sniffed::Other(format)) => Err(missing(format, "which --decoder builtin forbids")),
        _ => Ok(false),
    }
}

/// Decodes the frames with these numbers (presentation order, ascending) of a file that was probed, at the file's own size.
///
/// # Errors
/// Files without pictures, damaged streams, decoders that hang or crash.
pub fn read_frames(file: &MediaInfo, indices: &[usize], o: &Options) -> Result<Frames> {
    collect(file, indices, None, o)
}

/// As [`read_frames`], resized one by one as they come, so that large frames never pile up.
///
/// # Errors
/// As [`read_frames`].
pub fn read_frames_sized(
    file: &MediaInfo,
    indices: &[usize],
    size: (usize, usize),
    resize: Resize,
    o: &Options,
) -> Result<Frames> {
    collect(file, indices, Some((size, resize)), o)
}

fn collect(
    file: &MediaInfo,
    indices: &[usize],
    size: Option<((usize, usize), Resize)>,
    o: &Options,
) -> Result<Frames> {
    let path = &file.path;
    if indices.is_empty() || indices.windows(2).any(|w| w[0] >= w[1]) {
        return Err(Error::range("frames", "numbers must be ascending, and not none"));
    }
    let mut all: Option<Frames> = None;
    let mut sink = |f: Frames| -> Result<()> {
        let f = match size {
            Some(((h, w), resize)) => resize(&f, h, w),
            None => f,
        };
        match &mut all {
            None => all = Some(f),
            Some(a) if (a.height, a.width) == (f.height, f.width) => {
                a.count += f.count;
                a.data.extend_from_slice(&f.data);
            }
            Some(_) => {
                return Err(Error::damaged(
                    path,
                    "changes its size between frames; re-encode it",
                ));
            }
        }
        Ok(())
    };
    if file.decoder == Decoder::Ffmpeg {
        ffmpeg::frames(file, indices, o, &mut sink)?;
    } else {
        worker::stream(path, &Job::Frames(indices.to_vec()), o, &mut sink)?;
    }
    let got = all.as_ref().map_or(0, |f| f.count);
    match all {
        Some(f) if f.count == indices.len() => Ok(f),
        _ => Err(Error::damaged(
            path,
            format!(
                "gave {got} of {} frames; it is truncated or damaged",
                indices.len()
            ),
        )),
    }
}

/// Decodes one picture: alpha on white, first frame of an animation.
///
/// # Errors
/// Damaged or enormous pictures.
pub fn read_image(path: &Path, _o: &Options) -> Result<Frames> {
    match sniff(path)? {
        Sniffed::Image => builtin::read_image(path),
        _ => Err(Error::damaged(
            path,
            "is no png, jpeg, webp or gif; give videos with --video and sound with --audio",
        )),
    }
}

/// Decodes sound of a file that was probed: mono, 16 kHz, channels averaged before resampling, between two times in seconds.
///
/// # Errors
/// As [`read_frames`], and files without sound.
pub fn read_audio(file: &MediaInfo, start: Option<f64>, end: Option<f64>, o: &Options) -> Result<Vec<f32>> {
    for (what, time) in [("start", start), ("end", end)] {
        if time.is_some_and(|t| !t.is_finite() || t < 0.0) {
            return Err(Error::range(what, "must be 0 seconds or later"));
        }
    }
    let path = &file.path;
    let (samples, rate) = if file.decoder == Decoder::Ffmpeg {
        ffmpeg::audio(file, o)?
    } else {
        worker::audio(path, o)?
    };
    let at = |t: f64| ((t * f64::from(rate)).round() as usize).min(samples.len());
    let range = start.map_or(0, at)..end.map_or(samples.len(), at);
    if range.is_empty() {
        let seconds = samples.len() as f64 / f64::from(rate.max(1));
        return Err(Error::damaged(
            path,
            format!("has no sound between start and end; it lasts {seconds:.2} seconds"),
        ));
    }
    Ok(resample(&samples[range], rate, SAMPLE_RATE))
}
