//! Child processes whose output is read in pieces, under a deadline.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};

/// Runs a command and hands its output to `sink` in pieces of `size` bytes (the last may be shorter). A command
/// that writes nothing for `deadline` is killed.
pub(crate) fn run(
    mut command: Command,
    path: &Path,
    deadline: Duration,
    size: usize,
    sink: &mut dyn FnMut(Vec<u8>) -> Result<()>,
) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let started = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.map_err(|e| Error::decoder(path, format!("{name} cannot be started: {e}")))?;
    let (Some(mut stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
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
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        // What matters is at the end of a short text; a decoder that complains without end is not followed.
        let _ = stderr.take(1 << 16).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let outcome = loop {
        match receive.recv_timeout(deadline) {
            Ok(Ok(piece)) => {
                let last = piece.len() < size;
                if !piece.is_empty()
                    && let Err(e) = sink(piece)
                {
                    break Err(e);
                }
                if last {
                    break Ok(());
                }
            }
            Ok(Err(e)) => break Err(Error::decoder(path, format!("reading from {name}: {e}"))),
            Err(RecvTimeoutError::Timeout) => {
                let problem = format!(
                    "{name} produced nothing for {} s and was stopped; --deadline gives it longer",
                    deadline.as_secs_f32()
                );
                break Err(Error::decoder(path, problem));
            }
            Err(RecvTimeoutError::Disconnected) => break Ok(()),
        }
    };
    if outcome.is_err() {
        let _ = child.kill();
    }
    drop(receive);
    let status = child
        .wait()
        .map_err(|e| Error::decoder(path, format!("waiting for {name}: {e}")))?;
    outcome?;
    if status.success() {
        return Ok(());
    }
    let said = complaints.join().unwrap_or_default();
    let said = said
        .lines()
        .rev()
        .find(|l| !l.trim().is_empty())
        .unwrap_or("without a word")
        .trim()
        .to_string();
    match status.code() {
        Some(_) => Err(Error::damaged(path, format!("cannot be decoded: {said}"))),
        None => Err(Error::decoder(
            path,
            format!("{name} crashed ({status}) on this file"),
        )),
    }
}
