//! The built-in decoders in a child process of the caller's own program: C++ and hostile bytes can crash or hang
//! it, and that is then an error message.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use crate::decode::audio;
use crate::decode::builtin;
use crate::decode::guard::guarded;
use crate::decode::process;
use crate::error::{Error, ErrorKind, Hint, Result};
use crate::info::{Decoded, MediaInfo, Options};
use crate::note::Note;
use crate::picture::frames::Frames;

/// First argument of a program that is asked to be a worker; hand all arguments after it to [`run`].
pub const ARG: &str = "__media-worker";

/// What a worker is asked for, as JSON in its first argument; the file is its second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// JSON of a [`MediaInfo`].
    Probe,
    /// Frames by number: height and width in 8 bytes each, then RGB, frame after frame; a size of 0 and JSON of a
    /// [`Decoded`] are the end.
    Frames(Vec<usize>),
    /// The rate and the number of f32 samples in 8 bytes each, then the samples, piece after piece; a number of 0 and JSON
    /// of a [`Decoded`] are the end.
    Audio,
}

/// An error without its file, which the parent knows, as a child's last line.
#[derive(Serialize, Deserialize)]
enum Told {
    Io { kind: ErrorKind, problem: String },
    Damaged { problem: String },
    Unusable { problem: String, hint: Option<Hint> },
    NoStream { what: String },
    NeedsFfmpeg { format: String, reason: String },
    Cancelled,
    Decoder { problem: String },
    Hung { program: String, seconds: f32 },
    OneFrame,
    Range { what: String, problem: String },
}

/// What a file can lack.
const STREAMS: [&str; 2] = ["video stream", "audio stream"];

/// Characters of a message that pass: a line of a child is not kept beyond a length, and half of a line is no JSON.
const LONGEST: usize = 300;

impl Told {
    fn of(error: Error) -> Self {
        let short = |text: String| text.chars().take(LONGEST).collect();
        match error {
            Error::Io { source, .. } => Self::Io {
                kind: ErrorKind::of_io(&source),
                problem: short(source.to_string()),
            },
            Error::Damaged { problem, .. } => Self::Damaged {
                problem: short(problem),
            },
            Error::Unusable { problem, hint, .. } => Self::Unusable {
                problem: short(problem),
                hint,
            },
            Error::NoStream { what, .. } => Self::NoStream { what: what.into() },
            Error::NeedsFfmpeg { format, reason, .. } => Self::NeedsFfmpeg {
                format: short(format),
                reason: short(reason),
            },
            Error::Cancelled => Self::Cancelled,
            Error::Decoder { problem, .. } => Self::Decoder {
                problem: short(problem),
            },
            Error::Hung { program, seconds, .. } => Self::Hung { program, seconds },
            Error::OneFrame => Self::OneFrame,
            Error::Range { what, problem } => Self::Range {
                what,
                problem: short(problem),
            },
        }
    }

    /// The error again, about the file `path`.
    fn about(self, path: &Path) -> Error {
        let same = |kind| match kind {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::Invalid => io::ErrorKind::InvalidInput,
            ErrorKind::Damaged => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        match self {
            Self::Io { kind, problem } => Error::io(path)(io::Error::new(same(kind), problem)),
            Self::Damaged { problem } => Error::damaged(path, problem),
            Self::Unusable { problem, hint } => Error::unusable(path, problem, hint),
            Self::NoStream { what } => match STREAMS.into_iter().find(|s| *s == what) {
                Some(what) => Error::NoStream {
                    path: path.into(),
                    what,
                },
                None => Error::unusable(path, format!("holds no {what}"), None),
            },
            Self::NeedsFfmpeg { format, reason } => Error::needs_ffmpeg(path, format, reason),
            Self::Cancelled => Error::Cancelled,
            Self::Decoder { problem } => Error::decoder(path, problem),
            Self::Hung { program, seconds } => Error::Hung {
                path: path.into(),
                program,
                seconds,
            },
            Self::OneFrame => Error::OneFrame,
            Self::Range { what, problem } => Error::range(&what, problem),
        }
    }
}

/// The child's side: does the job and writes the result to standard output.
pub fn run(args: &[OsString]) -> ExitCode {
    let [job, path] = args else {
        return fail("two arguments are needed");
    };
    let Some(job) = job.to_str().and_then(|j| serde_json::from_str(j).ok()) else {
        return fail("unknown job");
    };
    let path = PathBuf::from(path);
    let mut out = io::stdout().lock();
    let done = perform(&job, &path, &mut |bytes| {
        out.write_all(bytes).map_err(Error::io(&path))
    });
    match done.and_then(|()| io::stdout().flush().map_err(Error::io(&path))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&serde_json::to_string(&Told::of(e)).unwrap_or_default()),
    }
}

fn fail(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::FAILURE
}

/// Does a job; a panic of a demuxer or decoder is an error.
fn perform(job: &Job, path: &Path, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    guarded(path, "decoder", || match job {
        Job::Probe => write(&json(path, &builtin::probe(path)?)?),
        Job::Frames(indices) => {
            let decoded = builtin::frames(path, indices, &mut |f| {
                write(&head(f.height, f.width))?;
                write(&f.data)
            })?;
            write(&head(0, 0))?;
            write(&json(path, &decoded)?)
        }
        Job::Audio => {
            let notes = audio::read(path, &mut |samples, rate| {
                if samples.is_empty() {
                    return Ok(());
                }
                write(&head(rate as usize, samples.len()))?;
                write(&samples.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
            })?;
            write(&head(0, 0))?;
            write(&json(path, &Decoded { total: None, notes })?)
        }
    })
}

fn json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::damaged(path, e.to_string()))
}

/// Two numbers in front of a piece.
fn head(a: usize, b: usize) -> [u8; 16] {
    (a as u128 | (b as u128) << 64).to_le_bytes()
}

/// The parent's side: starts a worker, or does the job in this process when there is none.
fn output(path: &Path, job: &Job, o: &Options, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    builtin::readable(path)?;
    let Some(program) = &o.worker else {
        return perform(job, path, sink);
    };
    let json = serde_json::to_string(job).map_err(|e| Error::decoder(path, e.to_string()))?;
    let mut command = Command::new(program);
    command.arg(ARG).arg(json).arg(path);
    let ended = process::run(command, path, (o.deadline, &o.cancel), 1 << 16, &mut |piece| {
        sink(&piece)?;
        Ok(process::More::Yes)
    })?;
    if ended.failed.is_some()
        && let Ok(told) = serde_json::from_str::<Told>(&ended.last)
    {
        return Err(told.about(path));
    }
    ended.ok().map(drop)
}

/// Hands the pieces of a job to `sink`: two numbers and as many bytes as `bytes` makes of them.
fn pieces(
    path: &Path,
    job: &Job,
    o: &Options,
    bytes: fn(usize, usize) -> usize,
    sink: &mut dyn FnMut(usize, usize, Vec<u8>) -> Result<()>,
) -> Result<Decoded> {
    let (mut buffer, mut ended): (Vec<u8>, bool) = (Vec::new(), false);
    output(path, job, o, &mut |more| {
        buffer.extend_from_slice(more);
        while let Some((head, rest)) = buffer.split_first_chunk::<16>().filter(|_| !ended) {
            let both = u128::from_le_bytes(*head);
            let (a, b) = (both as u64 as usize, (both >> 64) as usize);
            let size = bytes(a, b);
            if size == 0 {
                ended = true;
                buffer.drain(..16);
                break;
            }
            if rest.len() < size {
                break;
            }
            sink(a, b, rest[..size].to_vec())?;
            buffer.drain(..16 + size);
        }
        Ok(())
    })?;
    serde_json::from_slice(&buffer).map_err(|e| no_answer(path, &e))
}

fn no_answer(path: &Path, e: &serde_json::Error) -> Error {
    Error::decoder(path, format!("the built-in decoder gave no answer: {e}"))
}

pub(crate) fn probe(path: &Path, o: &Options) -> Result<MediaInfo> {
    let mut json = Vec::new();
    output(path, &Job::Probe, o, &mut |b| {
        json.extend_from_slice(b);
        Ok(())
    })?;
    let info: MediaInfo = serde_json::from_slice(&json).map_err(|e| no_answer(path, &e))?;
    // JSON may have changed the name.
    Ok(MediaInfo {
        path: path.into(),
        ..info
    })
}

pub(crate) fn frames(
    path: &Path,
    indices: &[usize],
    o: &Options,
    sink: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<Decoded> {
    let bytes = |height: usize, width: usize| height.saturating_mul(width).saturating_mul(3);
    pieces(
        path,
        &Job::Frames(indices.to_vec()),
        o,
        bytes,
        &mut |height, width, data| {
            sink(Frames {
                count: 1,
                height,
                width,
                data,
            })
        },
    )
}

/// Mono samples, their rate, and notes.
pub(crate) fn audio(path: &Path, o: &Options) -> Result<(Vec<f32>, u32, Vec<Note>)> {
    let (mut samples, mut at) = (Vec::new(), 0);
    let decoded = pieces(
        path,
        &Job::Audio,
        o,
        |_, n| n.saturating_mul(4),
        &mut |rate, _, bytes| {
            at = u32::try_from(rate).unwrap_or(0);
            samples.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
            Ok(())
        },
    )?;
    Ok((samples, at, decoded.notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a child says is the error that it had, in words, kind and hint.
    #[test]
    fn every_error_survives_the_pipe() {
        let path = || PathBuf::from("a.mp4");
        let io = |kind: io::ErrorKind| Error::io(&path())(kind.into());
        for error in [
            io(io::ErrorKind::NotFound),
            io(io::ErrorKind::PermissionDenied),
            io(io::ErrorKind::IsADirectory),
            io(io::ErrorKind::UnexpectedEof),
            Error::io(&path())(io::Error::from_raw_os_error(2)),
            Error::damaged(&path(), "two\nlines and \"quotes\""),
            Error::unusable(&path(), "is a picture", Hint::GiveAsImage),
            Error::unusable(&path(), "is a pipe", None),
            Error::NoStream {
                path: path(),
                what: STREAMS[0],
            },
            Error::NoStream {
                path: path(),
                what: STREAMS[1],
            },
            Error::needs_ffmpeg(&path(), "Ogg", Error::NOT_FOUND),
            Error::Cancelled,
            Error::decoder(&path(), "crashed"),
            Error::Hung {
                path: path(),
                program: "ffmpeg".into(),
                seconds: 1.5,
            },
            Error::OneFrame,
            Error::range("fps", "is 0"),
        ] {
            let before = (error.to_string(), error.kind(), error.hint());
            let is_stream = matches!(error, Error::NoStream { .. });
            let line = serde_json::to_string(&Told::of(error)).unwrap();
            assert!(!line.contains('\n'), "{line}");
            let after = serde_json::from_str::<Told>(&line).unwrap().about(&path());
            assert_eq!((after.to_string(), after.kind(), after.hint()), before);
            assert_eq!(matches!(after, Error::NoStream { .. }), is_stream);
        }
        let long = Told::of(Error::damaged(&path(), "\u{1}".repeat(10_000)));
        assert!(serde_json::to_string(&long).unwrap().len() < 2000);
    }
}
