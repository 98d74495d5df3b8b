//! What can be wrong with a media file. Every message names the file; what to do is a [`Hint`] where a program has its own
//! words for it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Kinds of errors, for callers that act on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file, model or part of one is not there.
    NotFound,
    /// A setting, a question or an input cannot be what it is.
    Invalid,
    /// It may be right, and nothing here can do it.
    Unsupported,
    /// The prompt, or the answer, does not fit the model.
    TooLong,
    /// A file is broken, cut off, or not what its name or its neighbours say.
    Damaged,
    /// The caller asked to stop.
    Cancelled,
    /// The system or a helper program failed.
    Internal,
}

impl ErrorKind {
    /// Of an operating system's error on a file.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound,
            io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput => Self::Invalid,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Damaged,
            _ => Self::Internal,
        }
    }
}

/// What helps, as data: each program has words of its own for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Hint {
    /// Give the file as an image.
    GiveAsImage,
    /// Give the file as a video or as sound.
    GiveAsVideoOrAudio,
    /// Give the video's one frame as an image, and its sound for itself.
    GiveAsImageAndAudio,
    /// ffmpeg is missing, or forbidden.
    NeedsFfmpeg,
    /// Give the decoder more time.
    LongerDeadline,
}

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
        source: io::Error,
    },
    /// The file is empty or damaged.
    #[error("{path}: {problem}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The file may be whole, and is not what can be used here: a pipe, a list of files, too many pixels, another medium.
    #[error("{path}: {problem}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: String,
        /// As what it can be used.
        hint: Option<Hint>,
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
    #[error("{path}: {format} needs ffmpeg, {reason}", path = path.display())]
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
    /// A decoder crashed, or gave what it should not.
    #[error("{path}: {problem}", path = path.display())]
    Decoder {
        /// The file.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
    /// A decoder hung ([`crate::Options::deadline`]).
    #[error("{path}: {program} produced nothing for {seconds} s and was stopped", path = path.display())]
    Hung {
        /// The file.
        path: PathBuf,
        /// The decoder.
        program: String,
        /// How long that was.
        seconds: f32,
    },
    /// The video has one frame, and the model takes pairs.
    #[error(
        "video: has one frame, and at least two are needed; save it as a picture \
         (ffmpeg -i VIDEO -frames:v 1 picture.png)"
    )]
    OneFrame,
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
    /// Why ffmpeg is needed, or is not used.
    pub(crate) const NOT_FOUND: &str = "which was not found";
    pub(crate) const FORBIDDEN: &str = "which the choice of the built-in decoder forbids";
    pub(crate) const UNKNOWN: &str = "the built-in decoder does not know it";

    /// Of what kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Unusable { .. } | Self::NoStream { .. } | Self::OneFrame | Self::Range { .. } => {
                ErrorKind::Invalid
            }
            Self::NeedsFfmpeg { .. } => ErrorKind::Unsupported,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Decoder { .. } | Self::Hung { .. } => ErrorKind::Internal,
        }
    }

    /// What helps, where a program has words of its own for it.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Unusable { hint, .. } => *hint,
            Self::NeedsFfmpeg { .. } => Some(Hint::NeedsFfmpeg),
            Self::Hung { .. } => Some(Hint::LongerDeadline),
            Self::OneFrame => Some(Hint::GiveAsImageAndAudio),
            Self::Io { .. }
            | Self::Damaged { .. }
            | Self::NoStream { .. }
            | Self::Cancelled
            | Self::Decoder { .. }
            | Self::Range { .. } => None,
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn unusable(path: &Path, problem: impl Into<String>, hint: impl Into<Option<Hint>>) -> Self {
        Self::Unusable {
            path: path.into(),
            problem: problem.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn needs_ffmpeg(path: &Path, format: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::NeedsFfmpeg {
            path: path.into(),
            format: format.into(),
            reason: reason.into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_kind_and_hint() {
        let path = || PathBuf::from("a.mp4");
        let io = |kind: io::ErrorKind| Error::io(&path())(kind.into());
        let pairs = [
            (io(io::ErrorKind::NotFound), ErrorKind::NotFound, None),
            (io(io::ErrorKind::PermissionDenied), ErrorKind::Internal, None),
            (io(io::ErrorKind::UnexpectedEof), ErrorKind::Damaged, None),
            (Error::damaged(&path(), "is empty"), ErrorKind::Damaged, None),
            (
                Error::unusable(&path(), "is a picture", Hint::GiveAsImage),
                ErrorKind::Invalid,
                Some(Hint::GiveAsImage),
            ),
            (
                Error::NoStream {
                    path: path(),
                    what: "video stream",
                },
                ErrorKind::Invalid,
                None,
            ),
            (
                Error::needs_ffmpeg(&path(), "Ogg", "which was not found"),
                ErrorKind::Unsupported,
                Some(Hint::NeedsFfmpeg),
            ),
            (Error::Cancelled, ErrorKind::Cancelled, None),
            (Error::decoder(&path(), "crashed"), ErrorKind::Internal, None),
            (
                Error::Hung {
                    path: path(),
                    program: "ffmpeg".into(),
                    seconds: 1.0,
                },
                ErrorKind::Internal,
                Some(Hint::LongerDeadline),
            ),
            (
                Error::OneFrame,
                ErrorKind::Invalid,
                Some(Hint::GiveAsImageAndAudio),
            ),
            (Error::range("fps", "is 0"), ErrorKind::Invalid, None),
        ];
        for (error, kind, hint) in pairs {
            assert_eq!((error.kind(), error.hint()), (kind, hint), "{error:?}");
        }
    }
}
