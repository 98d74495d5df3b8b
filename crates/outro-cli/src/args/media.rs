//! What a question is about: media by flags and by their names alone, how they are read, and the question itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use outro::chat::Part;
use outro_media::{Decoder, Kind, guess};

use super::flags::{DecoderFlag, MediaFlags, ReadingFlags};
use crate::fault::Fault;

/// The word that stands for standard input.
const STDIN: &str = "-";

/// What goes before the question, and how it is read.
#[derive(Clone, Debug)]
pub(crate) struct Media {
    /// In the order in which they were typed.
    pub(crate) parts: Vec<Part>,
    /// How they are read.
    pub(crate) reading: Reading,
}

/// How media files are read; what was not typed is the model's own way.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) fps: Option<f64>,
    pub(crate) frames: Option<usize>,
    pub(crate) start: Option<f64>,
    pub(crate) end: Option<f64>,
    pub(crate) max_pixels: Option<usize>,
    pub(crate) max_video_tokens: Option<usize>,
    pub(crate) audio_in_video: bool,
    pub(crate) options: outro_media::Options,
}

pub(super) fn question(text: Option<String>) -> anyhow::Result<String> {
    let missing = if text.is_some() {
        "the question is empty"
    } else {
        "there is no QUESTION"
    };
    text.filter(|t| !t.trim().is_empty()).ok_or_else(|| {
        Fault::usage(missing)
            .hint("write it in quotes after flags and files, or give - to read it from stdin")
            .into()
    })
}

/// One question per line; blank lines separate nothing and are skipped.
pub(super) fn questions(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = if path == Path::new(STDIN) {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.map_err(|e| {
        Fault::failure(format!("--questions {}: {e}", path.display()))
            .hint("give a UTF-8 text file with one question per line, or - for stdin")
    })?;
    let list: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect();
    if list.is_empty() {
        return Err(
            Fault::failure(format!("--questions {}: holds no question", path.display()))
                .hint("write one question per line")
                .into(),
        );
    }
    Ok(list)
}

/// Media in the order in which they were typed, which clap keeps as indices, and the question: what stands without a flag and is
/// no file.
pub(super) fn asked(
    f: MediaFlags,
    words: &[String],
    typed: &ArgMatches,
) -> anyhow::Result<(Media, Option<String>)> {
    let mut parts: Vec<(usize, Part)> = Vec::new();
    let indices = |name: &str| typed.indices_of(name).into_iter().flatten();
    let mut add = |name: &str, paths: Vec<PathBuf>, part: fn(PathBuf) -> Part| -> anyhow::Result<()> {
        for (i, path) in indices(name).zip(paths) {
            let part = part(path);
            check(&part)?;
            parts.push((i, part));
        }
        Ok(())
    };
    add("video", f.video, |p| Part::Video(p.into()))?;
    add("image", f.image, |p| Part::Image(p.into()))?;
    add("audio", f.audio, |p| Part::Audio(p.into()))?;
    let mut asked: Option<String> = None;
    for (i, word) in indices("question").zip(words) {
        if let Some(part) = file(word)? {
            parts.push((i, part));
            continue;
        }
        let word = if word == STDIN {
            std::io::read_to_string(std::io::stdin())
                .map(|text| text.trim().to_owned())
                .map_err(|e| Fault::failure(format!("the question from stdin: {e}")))?
        } else {
            word.clone()
        };
        if let Some(first) = asked.replace(word.clone()) {
            return Err(Fault::usage(format!("two questions: `{first}` and `{word}`"))
                .hint("put a question of several words in quotes, and several questions into a file for --questions")
                .into());
        }
    }
    parts.sort_by_key(|(i, _)| *i);
    let parts = parts.into_iter().map(|(_, p)| p).collect();
    let reading = reading(&f.reading)?;
    Ok((Media { parts, reading }, asked))
}

/// What a word without a flag is as a file: a medium of its kind, or none.
fn file(word: &str) -> anyhow::Result<Option<Part>> {
    const ENDINGS: [&str; 17] = [
        "mp4", "mov", "mkv", "webm", "avi", "m4v", "wav", "mp3", "flac", "ogg", "m4a", "png", "jpg", "jpeg",
        "webp", "gif", "bmp",
    ];
    let path = Path::new(word);
    if !path.is_file() {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let meant =
            !word.contains(char::is_whitespace) && ENDINGS.contains(&ending.to_ascii_lowercase().as_str());
        return if meant {
            Err(Fault::failure(format!("{word}: there is no such file"))
                .hint("check the file's name")
                .into())
        } else {
            Ok(None)
        };
    }
    match guess(path) {
        Some(Kind::Video) => Ok(Some(Part::Video(path.into()))),
        Some(Kind::Image) => Ok(Some(Part::Image(path.into()))),
        Some(Kind::Audio) => Ok(Some(Part::Audio(path.into()))),
        None => Err(Fault::usage(format!(
            "{word} is a file, and neither a video, nor an image, nor sound"
        ))
        .hint("ask about media; questions in a file are given with --questions FILE")
        .into()),
    }
}

/// Before anything heavy: a mistyped name, or a picture given as a video, should not cost a model load.
fn check(part: &Part) -> anyhow::Result<()> {
    let (flag, path, good) = match part {
        Part::Video(p) => ("--video", p, Kind::Video),
        Part::Image(p) => ("--image", p, Kind::Image),
        Part::Audio(p) => ("--audio", p, Kind::Audio),
        Part::Text(_) => return Ok(()),
    };
    let wrong = |why: String, hint: String| -> anyhow::Result<()> {
        Err(Fault::failure(format!("{flag} {}: {why}", path.display()))
            .hint(hint)
            .into())
    };
    match std::fs::metadata(path) {
        Err(e) => return wrong(e.to_string(), "check the file's name".into()),
        Ok(m) if m.is_dir() => return wrong("is a directory".into(), "give a file".into()),
        Ok(_) => {}
    }
    // A video's sound may be asked about alone, and a GIF or WebP may move.
    let moves = || {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        ["gif", "webp"].contains(&ending.to_ascii_lowercase().as_str())
    };
    let (what, other) = match guess(path) {
        Some(Kind::Image) if good != Kind::Image && !moves() => ("a picture", "--image"),
        Some(Kind::Audio) if good != Kind::Audio => ("sound", "--audio"),
        Some(Kind::Video) if good == Kind::Image => ("a video", "--video"),
        _ => return Ok(()),
    };
    wrong(format!("is {what}"), format!("give it with {other}"))
}

pub(super) fn reading(f: &ReadingFlags) -> anyhow::Result<Reading> {
    let seconds = |flag: &str, x: Option<f64>| match x {
        Some(x) if !(x.is_finite() && x >= 0.0) => {
            Err(Fault::usage(format!("{flag} is {x}")).hint("give seconds from 0 up"))
        }
        x => Ok(x),
    };
    let (start, end) = (seconds("--start", f.start)?, seconds("--end", f.end)?);
    if let (Some(s), Some(e)) = (start, end)
        && e <= s
    {
        return Err(Fault::usage(format!("--end {e} is not after --start {s}"))
            .hint("give an end after the start")
            .into());
    }
    if let Some(fps) = f.fps
        && !(fps.is_finite() && fps > 0.0)
    {
        return Err(Fault::usage(format!("--fps is {fps}"))
            .hint("give a rate above 0")
            .into());
    }
    if let Some(n) = f.frames
        && n < 2
    {
        return Err(Fault::usage(format!("--frames is {n}"))
            .hint("a video needs at least 2 frames; use --image for one picture")
            .into());
    }
    if f.max_pixels.is_some_and(|n| n < 28 * 28) {
        return Err(Fault::usage("--max-pixels is below 784")
            .hint("one token covers 28 x 28 = 784 pixels; 602112 is usual")
            .into());
    }
    if f.max_tokens_per_video == Some(0) {
        return Err(Fault::usage("--max-tokens-per-video is 0")
            .hint("a video of two frames takes some hundred tokens at least")
            .into());
    }
    if !(f.deadline.is_finite() && f.deadline > 0.0 && f.deadline <= 1e6) {
        return Err(Fault::usage(format!("--deadline is {}", f.deadline))
            .hint("give seconds above 0 and up to 1000000")
            .into());
    }
    let decoder = match f.decoder {
        DecoderFlag::Auto => Decoder::Auto,
        DecoderFlag::Builtin => Decoder::Builtin,
        DecoderFlag::Ffmpeg => Decoder::Ffmpeg,
    };
    Ok(Reading {
        fps: f.fps,
        frames: f.frames,
        start,
        end,
        max_pixels: f.max_pixels,
        max_video_tokens: f.max_tokens_per_video,
        audio_in_video: !f.no_audio_in_video,
        options: outro_media::Options {
            decoder,
            deadline: Duration::from_secs_f64(f.deadline),
            // Our own binary is the decoder's child process; without a path to it the library decodes in-process.
            worker: std::env::current_exe().ok(),
            exif: !f.no_exif,
            ..outro_media::Options::default()
        },
    })
}
