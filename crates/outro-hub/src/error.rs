//! What can go wrong, of what kind it is, and what to do about it.

use std::fmt;
use std::path::Path;

use outro::ErrorKind;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The name is no path that exists and no hub id.
    Name,
    /// An environment variable or setting cannot be used.
    Settings,
    /// The network is forbidden, and the cache lacks something.
    Offline,
    /// The hub gives no answer, or none of its own.
    Unreachable,
    /// The hub wants another token, or none will do.
    Denied,
    /// The hub has no such model, or no such revision of it.
    NotFound,
    /// Too many requests.
    Busy,
    /// The repository holds nothing that the engine can run.
    Unusable,
    /// A transfer broke off, or brought other bytes than the hub announced.
    Transfer,
    /// A file of the cache cannot be read or written.
    Io,
}

/// A failure: one sentence, and where there is one a way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What failed.
    pub cause: Cause,
    message: String,
    hint: Option<String>,
}

impl Error {
    pub(crate) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
            hint: None,
        }
    }

    /// For `map_err` on file operations.
    pub(crate) fn io(path: &Path, what: &str) -> impl FnOnce(std::io::Error) -> Self {
        move |e| Self::new(Cause::Io, format!("{}: {what}: {e}", path.display()))
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Of what kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self.cause {
            Cause::Name | Cause::Offline | Cause::NotFound => ErrorKind::NotFound,
            Cause::Settings | Cause::Denied => ErrorKind::Invalid,
            Cause::Unusable => ErrorKind::Unsupported,
            Cause::Unreachable | Cause::Busy | Cause::Transfer | Cause::Io => ErrorKind::Internal,
        }
    }

    /// What to do about it.
    pub fn way_out(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Bytes for a reader: `1.5 GiB`.
pub fn human_bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_kind() {
        for (cause, kind) in [
            (Cause::Name, ErrorKind::NotFound),
            (Cause::Settings, ErrorKind::Invalid),
            (Cause::Offline, ErrorKind::NotFound),
            (Cause::Unreachable, ErrorKind::Internal),
            (Cause::Denied, ErrorKind::Invalid),
            (Cause::NotFound, ErrorKind::NotFound),
            (Cause::Busy, ErrorKind::Internal),
            (Cause::Unusable, ErrorKind::Unsupported),
            (Cause::Transfer, ErrorKind::Internal),
            (Cause::Io, ErrorKind::Internal),
        ] {
            assert_eq!(Error::new(cause, "").kind(), kind, "{cause:?}");
        }
    }
}
