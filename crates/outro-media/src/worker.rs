//! The built-in decoders in a child process of the caller's own program: C++ and hostile bytes can crash or hang
//! it, and that is then an error message.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use crate::builtin;
use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::process;
use crate::sound;
use crate::source::{MediaInfo, Options};

/// First argument of a program that is asked to be a worker; hand all arguments after it to [`run`].
pub const ARG: &str = "__media-worker";

/// What a worker is asked for, as JSON in its first argument; the file is its second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// JSON of a [`MediaInfo`]; whether it is an mp4.
    Probe(bool),
    /// Frames by number: height and width in 8 bytes each, then RGB, frame after frame.
    Frames(Vec<usize>),
    /// The rate in 8 bytes, then f32 samples.
    Audio,
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
    let mut out = std::io::stdout().lock();
    let done = perform(&job, &path, &mut |bytes| {
        out.write_all(bytes).map_err(Error::io(&path))
    });
    match done.and_then(|()| std::io::stdout().flush().map_err(Error::io(&path))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The parent puts the path before it again.
            let message = e.to_string();
            fail(
                message
                    .strip_prefix(&format!("{}: ", path.display()))
                    .unwrap_or(&message),
            )
        }
    }
}

fn fail(message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::FAILURE
}

fn perform(job: &Job, path: &Path, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    match job {
        Job::Probe(mp4) => {
            let info = builtin::probe(path, *mp4)?;
            let json = serde_json::to_vec(&info).map_err(|e| Error::damaged(path, e.to_string()))?;
            write(&json)
        }
        Job::Frames(indices) => builtin::frames(path, indices, &mut |f| {
            write(&(f.height as u64).to_le_bytes())?;
            write(&(f.width as u64).to_le_bytes())?;
            write(&f.data)
        }),
        Job::Audio => {
            let mut started = false;
            sound::read(path, &mut |samples, rate| {
                if !std::mem::replace(&mut started, true) {
                    write(&u64::from(rate).to_le_bytes())?;
                }
                write(&samples.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
            })
        }
    }
}

/// The parent's side: starts a worker, or does the job in this process when there is none.
fn output(path: &Path, job: &Job, o: &Options, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    builtin::readable(path)?;
    let Some(program) = &o.worker else {
        let guarded = std::panic::AssertUnwindSafe(|| perform(job, path, sink));
        return std::panic::catch_unwind(guarded)
            .unwrap_or_else(|_| Err(Error::decoder(path, "the built-in decoder failed on this file")));
    };
    let json = serde_json::to_string(job).map_err(|e| Error::decoder(path, e.to_string()))?;
    let mut command = Command::new(program);
    command.arg(ARG).arg(json).arg(path);
    process::run(command, path, o.deadline, 1 << 16, &mut |piece| sink(&piece))
}

pub(crate) fn probe(path: &Path, mp4: bool, o: &Options) -> Result<MediaInfo> {
    let mut json = Vec::new();
    output(path, &Job::Probe(mp4), o, &mut |b| {
        json.extend_from_slice(b);
        Ok(())
    })?;
    serde_json::from_slice(&json)
        .map_err(|e| Error::decoder(path, format!("the built-in decoder gave no answer: {e}")))
}

pub(crate) fn stream(
    path: &Path,
    job: &Job,
    o: &Options,
    sink: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<()> {
    let mut buffer: Vec<u8> = Vec::new();
    output(path, job, o, &mut |bytes| {
        buffer.extend_from_slice(bytes);
        while let Some((head, rest)) = buffer.split_first_chunk::<16>() {
            let [height, width] = [0, 8].map(|i| {
                head[i..i + 8]
                    .iter()
                    .rev()
                    .fold(0usize, |n, b| n << 8 | usize::from(*b))
            });
            let size = height.saturating_mul(width).saturating_mul(3);
            if rest.len() < size {
                break;
            }
            sink(Frames {
                count: 1,
                height,
                width,
                data: rest[..size].to_vec(),
            })?;
            buffer.drain(..16 + size);
        }
        Ok(())
    })
}

pub(crate) fn audio(path: &Path, o: &Options) -> Result<(Vec<f32>, u32)> {
    let mut bytes = Vec::new();
    output(path, &Job::Audio, o, &mut |b| {
        bytes.extend_from_slice(b);
        Ok(())
    })?;
    let (head, samples) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| Error::decoder(path, "the built-in decoder gave no answer"))?;
    let rate = u32::try_from(u64::from_le_bytes(*head)).unwrap_or(0);
    Ok((
        samples
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        rate,
    ))
}
