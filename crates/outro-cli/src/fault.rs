//! How a command fails: `error: ...`, then `hint: ...`, and an exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use crate::hints;

// docs/settings.md has the table of exit codes.
/// Exit code of a contradictory command line.
const USAGE: u8 = 2;
/// Exit code of a command that was understood and failed.
const FAILURE: u8 = 1;

/// An error with a way out, or one that the command line caused.
#[derive(Debug)]
pub(crate) struct Fault {
    message: String,
    hint: Option<String>,
    usage: bool,
}

impl Fault {
    /// The command line is wrong (exit code 2).
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            usage: true,
        }
    }

    /// The command failed (exit code 1).
    pub(crate) fn failure(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            usage: false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// Prints the chain of causes and returns the exit code. A reader that went away is not an error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let (text, code) = render(error);
    // A closed stderr leaves only the exit code.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(code)
}

pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// The error in one line, with its hint.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let (text, _) = render(error);
    let text = text.trim_end().replace("\nhint: ", "; ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// The text for stderr and the exit code.
pub(crate) fn render(error: &anyhow::Error) -> (String, u8) {
    let mut message = String::new();
    let (mut hint, mut code) = (None, FAILURE);
    for cause in error.chain() {
        let text = cause.to_string();
        // Libraries often repeat their source in their own message.
        if !message.contains(&text) {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
        if let Some(fault) = cause.downcast_ref::<Fault>() {
            hint = hint.or_else(|| fault.hint.clone());
            if fault.usage {
                code = USAGE;
            }
        }
        hint = hint.or_else(|| hints::of(cause).map(str::to_owned));
        // A library's own error may stand in the lab's without being its cause.
        let engine = match cause.downcast_ref::<outro_lab::Error>() {
            Some(outro_lab::Error::Setting { .. }) => {
                code = USAGE;
                None
            }
            Some(outro_lab::Error::Engine(e)) => Some(e),
            _ => cause.downcast_ref::<outro::Error>(),
        };
        if let Some(outro::Error::Setting { .. }) = engine {
            code = USAGE;
        }
    }
    let mut out = format!("error: {message}\n");
    if let Some(hint) = hint {
        out.push_str("hint: ");
        out.push_str(&hint);
        out.push('\n');
    }
    (out, code)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn chain_hint_and_code() {
        let e = anyhow::Error::new(Fault::usage("--fps is -1").hint("give a rate above 0"))
            .context("reading the flags");
        assert_eq!(
            render(&e),
            (
                "error: reading the flags: --fps is -1\nhint: give a rate above 0\n".into(),
                2
            )
        );
        let e = anyhow::Error::new(Fault::failure("no")).context("a b: no");
        assert_eq!(render(&e), ("error: a b: no\n".into(), 1));
    }

    #[test]
    fn broken_pipe_is_recognised_anywhere_in_the_chain() {
        let e: anyhow::Result<()> =
            Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).context("writing the answer");
        assert!(is_broken_pipe(&e.unwrap_err()));
    }
}
