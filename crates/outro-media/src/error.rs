//! What can be wrong with a media file. Every message names the file and says what to do.

use std::path::{Path, PathBuf};

/// A media error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is empty, damaged, or not of a kind that is understood.
    #[error("{path}: {problem}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The file has no stream of the kind asked for.
    #[error("{path}: holds no {what}", path = path.display())]
    NoStream {
        /// The file.
        path: PathBuf,
        /// `video stream` or `audio stream`.
        what: &'static str,
    },
    /// The format needs ffmpeg, which is missing or was forbidden.
    #[error(
        "{path}: {format} needs ffmpeg, {reason}; install ffmpeg, or set OUTRO_FFMPEG to the program",
        path = path.display()
    )]
    NeedsFfmpeg {
        /// The file.
        path: PathBuf,
        /// The format or codec.
        format: String,
        /// Why ffmpeg is not used.
        reason: String,
    },
    /// Decoding was stopped by its caller ([`crate::Cancel`]).
    #[error("cancelled")]
    Cancelled,
    /// A decoder hung or crashed.
    #[error("{path}: {problem}", path = path.display())]
    Decoder {
        /// The file.
        path: PathBuf,
        /// What happened, and the option that helps.
        problem: String,
    },
    /// Sizes, counts or times that cannot be.
    #[error("{what}: {problem}")]
    Range {
        /// The value's name.
        what: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// A media result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn decoder(path: &Path, problem: impl Into<String>) -> Self {
        Self::Decoder {
            path: path.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn range(what: &str, problem: impl Into<String>) -> Self {
        Self::Range {
            what: what.into(),
            problem: problem.into(),
        }
    }
}
