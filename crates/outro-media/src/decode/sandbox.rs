//! What a child process gives up before it meets a file: memory and time without end, writing, the network and, where the
//! kernel has Landlock, every file but the one that it was asked about.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::info::Options;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
mod rlimit;

/// First argument of a program that is asked to be a worker; hand all arguments after it to [`crate::worker::run`].
pub const ARG: &str = "__media-worker";

/// In place of a job: the program behind the file's name takes the place of this one.
pub(crate) const EXEC: &str = "exec";

/// The exit status of a child that could not become what it was asked to be.
pub(crate) const UNSTARTED: u8 = 125;

/// What a child needs of its environment: who starts it may have keys in there.
const KEPT: [&str; 5] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "OUTRO_FFMPEG",
    "SystemRoot",
    "RUST_MIN_STACK",
];

/// How a child is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confined {
    /// Most bytes of address space.
    pub(crate) memory: u64,
    /// Most seconds of processor time.
    pub(crate) processor: u64,
}

impl Confined {
    /// As options say; `None` where they ask for nothing.
    fn of(o: &Options) -> Option<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        o.limits.isolate.then(|| Self {
            memory: o.limits.memory,
            processor: o
                .limits
                .decode
                .as_secs()
                .saturating_add(1)
                .saturating_mul(threads),
        })
    }
}

/// The command of a child for `file`, up to the file's name; `job` is what it is asked for.
pub(crate) fn child(worker: &Path, job: &str, file: &Path, o: &Options) -> Result<Command> {
    let mut command = Command::new(worker);
    let confined = Confined::of(o);
    if confined.is_some() {
        command.env_clear();
        command.envs(KEPT.into_iter().filter_map(|k| Some((k, std::env::var_os(k)?))));
    }
    let json = serde_json::to_string(&confined).map_err(|e| Error::decoder(file, e.to_string()))?;
    command.arg(ARG).arg(json).arg(job).arg(file);
    Ok(command)
}

/// A command of another program that reads `file`: confined where options say so, by way of the worker.
pub(crate) fn program(program: &Path, file: &Path, o: &Options) -> Result<Command> {
    if !o.limits.isolate {
        return Ok(Command::new(program));
    }
    let mut command = child(worker(file, o)?, EXEC, file, o)?;
    command.arg(program);
    Ok(command)
}

/// The program that children are made of.
///
/// # Errors
/// Options that ask for isolation and name none.
pub(crate) fn worker<'a>(file: &Path, o: &'a Options) -> Result<&'a Path> {
    let missing = || {
        Error::decoder(
            file,
            "decoders are to be isolated, and no program is named that can be one",
        )
    };
    o.worker.as_deref().ok_or_else(missing)
}

/// Confines this process, for good. `program` is what it may become.
pub(crate) fn enter(confined: Confined, file: &Path, program: Option<&Path>) -> io::Result<()> {
    #[cfg(unix)]
    rlimit::set(confined)?;
    #[cfg(target_os = "linux")]
    linux::enter(file, program)?;
    let _ = (confined, file, program);
    Ok(())
}

/// Becomes another program, or says why not; where a process cannot become another, waits for it.
pub(crate) fn exec(program: &OsString, args: &[OsString]) -> io::Result<ExitCode> {
    let mut command = Command::new(program);
    // Every thread takes 64 MiB of address space for a heap of its own otherwise.
    command.args(args).env("MALLOC_ARENA_MAX", "2");
    #[cfg(unix)]
    return Err(std::os::unix::process::CommandExt::exec(&mut command));
    #[cfg(not(unix))]
    command.status().map(|s| match s.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What isolation is on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// Memory, processor time and files that are written are bounded.
    pub limits: bool,
    /// Sockets cannot be opened.
    pub network: bool,
    /// The version of the kernel's Landlock, by which a child reads one file only; `None` where there is none.
    pub landlock: Option<u32>,
}

/// What isolation is on this machine.
pub fn isolation() -> Isolation {
    #[cfg(target_os = "linux")]
    let (network, landlock) = (linux::FILTERED, linux::landlock());
    #[cfg(not(target_os = "linux"))]
    let (network, landlock) = (false, None);
    Isolation {
        limits: cfg!(unix),
        network,
        landlock,
    }
}
