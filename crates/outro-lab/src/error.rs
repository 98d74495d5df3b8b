//! What can go wrong in the lab.

use std::path::PathBuf;

use outro::{ErrorKind, Hint};

/// Result of the lab's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the lab. Every message names the file or the setting that it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is there and does not hold what it should.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, by field or line.
        problem: String,
    },
    /// A log that belongs to another run, or is being written by one.
    #[error("{}: {problem}", path.display())]
    OtherRun {
        /// The log.
        path: PathBuf,
        /// By what it differs.
        problem: String,
    },
    /// A contradictory setting.
    #[error("{key}: {problem}")]
    Setting {
        /// Its name.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Whoever answers cannot go on.
    #[error("{0}")]
    Answerer(String),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] outro::Error),
    /// A media file could not be read or written.
    #[error(transparent)]
    Media(#[from] outro_media::Error),
}

impl Error {
    /// Of what kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::File { .. } => ErrorKind::Damaged,
            Self::OtherRun { .. } | Self::Setting { .. } => ErrorKind::Invalid,
            Self::Answerer(_) => ErrorKind::Internal,
            Self::Engine(e) => e.kind(),
            Self::Media(e) => e.kind(),
        }
    }

    /// What helps, where a program has words of its own for it.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Engine(e) => e.hint(),
            Self::Media(e) => e.hint().map(Hint::Media),
            Self::Io { .. }
            | Self::File { .. }
            | Self::OtherRun { .. }
            | Self::Setting { .. }
            | Self::Answerer(_) => None,
        }
    }

    /// For `map_err` on file operations.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn setting(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Setting {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_kind_and_hint() {
        let missing = || Error::io("a")(std::io::ErrorKind::NotFound.into());
        let other = Error::OtherRun {
            path: "a".into(),
            problem: "b".into(),
        };
        let still = || outro_media::Error::OneFrame;
        let hint = Some(Hint::Media(outro_media::Hint::GiveAsImageAndAudio));
        for (error, kind, hint) in [
            (missing(), ErrorKind::NotFound, None),
            (Error::file("a", "b"), ErrorKind::Damaged, None),
            (other, ErrorKind::Invalid, None),
            (Error::setting("a", "b"), ErrorKind::Invalid, None),
            (Error::Answerer("a".into()), ErrorKind::Internal, None),
            (Error::Engine(still().into()), ErrorKind::Invalid, hint),
            (Error::Media(still()), ErrorKind::Invalid, hint),
        ] {
            assert_eq!((error.kind(), error.hint()), (kind, hint), "{error:?}");
        }
    }
}
