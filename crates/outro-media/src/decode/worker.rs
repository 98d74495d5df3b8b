//! The built-in decoders in a child process of the caller's own program: C++ and hostile bytes can crash or hang
//! it, and that is then an error message.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decode::audio;
use crate::decode::builtin;
use crate::decode::guard::guarded;
use crate::decode::process;
use crate::decode::sandbox::{self, Confined};
use crate::decode::{ffmpeg, image};
use crate::error::{Error, ErrorKind, Hint, Result};
use crate::info::{Decoded, Decoder, Limits, MediaInfo, Options};
use crate::note::Note;
use crate::picture::frames::Frames;

pub use crate::decode::sandbox::ARG;

/// What a worker is asked for, as JSON in its second argument; the first says how it is confined, the file is its third.
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
    /// JSON of a [`MediaInfo`].
    ProbePicture(Look),
    /// As [`Job::Frames`], one frame.
    Picture(Look),
}

/// How a picture is read: what [`Options`] say of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    decoder: Decoder,
    exif: bool,
    pixels: u64,
    deadline: Duration,
}

impl Look {
    fn of(o: &Options) -> Self {
        Self {
            decoder: o.decoder,
            exif: o.exif,
            pixels: o.limits.pixels,
            deadline: o.deadline,
        }
    }

    fn options(&self) -> Options {
        Options {
            decoder: self.decoder,
            exif: self.exif,
            deadline: self.deadline,
            limits: Limits {
                pixels: self.pixels,
                ..Limits::default()
            },
            ..Options::default()
        }
    }
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
    let [confined, job, path, rest @ ..] = args else {
        return fail("three arguments are needed");
    };
    let Some(confined) = confined.to_str().and_then(|c| serde_json::from_str(c).ok()) else {
        return fail("unknown limits");
    };
    let path = PathBuf::from(path);
    if let (Some((program, args)), true) = (rest.split_first(), job == sandbox::EXEC) {
        let became = confine(confined, &path, Some(Path::new(program)));
        return became
            .and_then(|()| sandbox::exec(program, args))
            .unwrap_or_else(|e| {
                fail(&e.to_string());
                ExitCode::from(sandbox::UNSTARTED)
            });
    }
    let Some(job) = job.to_str().and_then(|j| serde_json::from_str(j).ok()) else {
        return fail("unknown job");
    };
    // Pictures of some formats are brought into another by ffmpeg, which is confined with its parent.
    let program = matches!(job, Job::ProbePicture(_) | Job::Picture(_)).then(ffmpeg::program);
    if let Err(e) = confine(confined, &path, program.as_deref()) {
        fail(&e.to_string());
        return ExitCode::from(sandbox::UNSTARTED);
    }
    let mut out = io::stdout().lock();
    let done = perform(&job, &path, &mut |bytes| {
        out.write_all(bytes).map_err(Error::io(&path))
    });
    match done.and_then(|()| io::stdout().flush().map_err(Error::io(&path))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&serde_json::to_string(&Told::of(e)).unwrap_or_default()),
    }
}

fn confine(confined: Option<Confined>, path: &Path, program: Option<&Path>) -> io::Result<()> {
    confined.map_or(Ok(()), |c| sandbox::enter(c, path, program))
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
        Job::ProbePicture(look) => write(&json(path, &image::probe(path, &look.options())?)?),
        Job::Picture(look) => {
            let f = image::read(path, &look.options())?;
            write(&head(f.height, f.width))?;
            write(&f.data)?;
            write(&head(0, 0))?;
            write(&json(path, &Decoded::default())?)
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
    if o.worker.is_none() && !o.limits.isolate {
        return perform(job, path, sink);
    }
    let json = serde_json::to_string(job).map_err(|e| Error::decoder(path, e.to_string()))?;
    let command = sandbox::child(sandbox::worker(path, o)?, &json, path, o)?;
    let ended = process::run(command, path, o, 1 << 16, &mut |piece| {
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
    info(path, &Job::Probe, o)
}

/// What a picture is: in this process unless decoders are to be isolated.
pub(crate) fn picture_info(path: &Path, o: &Options) -> Result<MediaInfo> {
    if o.limits.isolate {
        return info(path, &Job::ProbePicture(Look::of(o)), o);
    }
    image::probe(path, o)
}

/// One picture: in this process unless decoders are to be isolated.
pub(crate) fn picture(path: &Path, o: &Options) -> Result<Frames> {
    if !o.limits.isolate {
        return image::read(path, o);
    }
    let mut all = Frames::default();
    one_by_one(path, &Job::Picture(Look::of(o)), o, &mut |f| {
        all = f;
        Ok(())
    })?;
    Ok(all)
}

fn info(path: &Path, job: &Job, o: &Options) -> Result<MediaInfo> {
    let mut json = Vec::new();
    output(path, job, o, &mut |b| {
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
    one_by_one(path, &Job::Frames(indices.to_vec()), o, sink)
}

/// Frames of a job, as they come.
fn one_by_one(
    path: &Path,
    job: &Job,
    o: &Options,
    sink: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<Decoded> {
    let bytes = |height: usize, width: usize| height.saturating_mul(width).saturating_mul(3);
    pieces(path, job, o, bytes, &mut |height, width, data| {
        sink(Frames {
            count: 1,
            height,
            width,
            data,
        })
    })
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
            o.limits
                .lasting(path, samples.len() as f64 / f64::from(at.max(1)))
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
