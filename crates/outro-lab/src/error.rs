//! What can go wrong in the lab.

use std::path::PathBuf;

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
