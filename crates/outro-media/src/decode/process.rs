//! Child processes whose output is read in pieces, under a deadline.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::decode::sandbox::UNSTARTED;
use crate::error::{Error, Result};
use crate::info::Options;

/// How often a silent command is checked.
const POLL: Duration = Duration::from_millis(50);

/// Whether more of a command's output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    /// Yes.
    Yes,
    /// No: the command is stopped, which is no failure.
    Enough,
}

/// How a command ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// What it said on stderr: the first lines.
    pub(crate) lines: Vec<String>,
    /// How many lines that were.
    pub(crate) messages: usize,
    /// The number behind the last `frame=`, as ffmpeg's `-progress` prints it.
    pub(crate) frames: Option<usize>,
    /// Its last line on stderr.
    pub(crate) last: String,
    /// It ended with a failure.
    pub(crate) failed: Option<Error>,
}

impl Ended {
    /// The failure as an error.
    pub(crate) fn ok(mut self) -> Result<Self> {
        self.failed.take().map_or(Ok(self), Err)
    }
}

/// Runs a command and hands its output to `sink` in pieces of `size` bytes (the last may be shorter). A command that
/// neither writes anything nor reports a further frame for the deadline of `o` is killed, as one is that works longer than its
/// limits say, and when its cancel is set.
///
/// # Errors
/// Commands that cannot be started, hang or crash; what `sink` refuses. That a command says by its exit status that it failed
/// is in [`Ended`].
pub(crate) fn run(
    mut command: Command,
    path: &Path,
    o: &Options,
    size: usize,
    sink: &mut dyn FnMut(Vec<u8>) -> Result<More>,
) -> Result<Ended> {
    let (deadline, cancel) = (o.deadline, &o.cancel);
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let name = name.to_string_lossy().into_owned();
    let started = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.map_err(|e| Error::decoder(path, format!("{name} cannot be started: {e}")))?;
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Error::decoder(path, format!("{name} gave no pipes")));
    };
    let (send, receive) = sync_channel::<std::io::Result<Vec<u8>>>(4);
    thread::spawn(move || {
        loop {
            let mut piece = Vec::with_capacity(size.min(1 << 24));
            let result = stdout.by_ref().take(size as u64).read_to_end(&mut piece);
            let last = result.is_err() || piece.len() < size;
            if send.send(result.map(|_| piece)).is_err() || last {
                return;
            }
        }
    });
    // Frames that it has reported, and one more, so that 0 says that there is no report.
    let reported = Arc::new(AtomicU64::new(0));
    let progress = Arc::clone(&reported);
    let complaints = thread::spawn(move || {
        let mut messages = Messages::default();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut buffer) {
            for byte in &buffer[..n] {
                messages.push(*byte, &progress);
            }
        }
        messages.end(&progress);
        messages
    });
    let (mut known, mut waited, mut worked) = (0, Duration::ZERO, Duration::ZERO);
    let outcome = loop {
        if cancel.is_set() {
            break Err(Error::Cancelled);
        }
        let (a_while, since) = (POLL.min(deadline), Instant::now());
        let received = receive.recv_timeout(a_while);
        worked += since.elapsed();
        if worked > o.limits.decode {
            let problem = format!("takes more than {} s to decode", o.limits.decode.as_secs_f32());
            break Err(Error::unusable(path, problem, None));
        }
        waited = match received {
            Err(RecvTimeoutError::Timeout) => waited + a_while,
            _ => Duration::ZERO,
        };
        match received {
            Err(RecvTimeoutError::Timeout) if waited < deadline => {}
            Ok(Ok(piece)) => {
                let last = piece.len() < size;
                let more = if piece.is_empty() {
                    Ok(More::Yes)
                } else {
                    sink(piece)
                };
                match more {
                    Ok(More::Yes) if !last => {}
                    more => break more,
                }
            }
            Ok(Err(e)) => break Err(Error::decoder(path, format!("reading from {name}: {e}"))),
            Err(RecvTimeoutError::Timeout) => {
                // Frames that nobody wants are work, too.
                let now = reported.load(Ordering::Relaxed);
                if std::mem::replace(&mut known, now) != now {
                    waited = Duration::ZERO;
                    continue;
                }
                break Err(Error::Hung {
                    path: path.into(),
                    program: name.clone(),
                    seconds: deadline.as_secs_f32(),
                });
            }
            Err(RecvTimeoutError::Disconnected) => break Ok(More::Yes),
        }
    };
    let stopped = !matches!(outcome, Ok(More::Yes));
    if stopped {
        let _ = child.kill();
    }
    drop(receive);
    let status = child
        .wait()
        .map_err(|e| Error::decoder(path, format!("waiting for {name}: {e}")))?;
    outcome?;
    // A grandchild may keep the pipe open; who was stopped has nothing to say.
    let messages = if stopped {
        Messages::default()
    } else {
        complaints.join().unwrap_or_default()
    };
    let failed = match status.code() {
        _ if stopped || status.success() => None,
        Some(code) if code == i32::from(UNSTARTED) => {
            let problem = format!("{name} cannot be started: {}", messages.last);
            return Err(Error::decoder(path, problem));
        }
        Some(_) => {
            let last = if messages.last.is_empty() {
                "(no error output)"
            } else {
                &messages.last
            };
            Some(Error::damaged(path, format!("cannot be decoded: {last}")))
        }
        None => {
            let problem = format!("{name} crashed ({status}) on this file");
            return Err(Error::decoder(path, problem));
        }
    };
    Ok(Ended {
        lines: messages.lines,
        messages: messages.count,
        last: messages.last,
        frames: reported
            .load(Ordering::Relaxed)
            .checked_sub(1)
            .map(|n| n as usize),
        failed,
    })
}

/// Lines that are kept, and bytes of each: a decoder may complain without end.
const KEPT: (usize, usize) = (400, 2000);

/// What a command says, line by line.
#[derive(Default)]
struct Messages {
    line: Vec<u8>,
    lines: Vec<String>,
    last: String,
    count: usize,
}

impl Messages {
    fn push(&mut self, byte: u8, progress: &AtomicU64) {
        match byte {
            b'\n' | b'\r' => self.end(progress),
            _ if self.line.len() < KEPT.1 => self.line.push(byte),
            _ => {}
        }
    }

    fn end(&mut self, progress: &AtomicU64) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line))
            .trim_end()
            .to_string();
        if line.trim().is_empty() {
            return;
        }
        if let Some((key, value)) = line.split_once('=')
            && is_progress(key)
        {
            if let ("frame", Ok(n)) = (key, value.trim().parse::<u64>()) {
                progress.store(n + 1, Ordering::Relaxed);
            }
            return;
        }
        self.count += 1;
        self.last = line.trim().to_string();
        if self.lines.len() < KEPT.0 {
            self.lines.push(line);
        }
    }
}

/// The keys of ffmpeg's `-progress`.
fn is_progress(key: &str) -> bool {
    let keys = [
        "frame",
        "fps",
        "bitrate",
        "total_size",
        "out_time",
        "out_time_us",
        "out_time_ms",
        "dup_frames",
        "drop_frames",
        "speed",
        "progress",
    ];
    keys.contains(&key) || key.starts_with("stream_") && key.ends_with("_q")
}
