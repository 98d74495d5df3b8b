//! The engine's one error type, of what kind an error is, and what helps.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use outro_media::ErrorKind;

/// What helps, as data: each program has words of its own for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hint {
    /// A shorter part of the video, fewer frames of it, or smaller ones.
    ShorterVideo,
    /// Smaller images, or fewer.
    SmallerImages,
    /// A shorter part of the sound.
    ShorterAudio,
    /// A shorter question.
    ShorterText,
    /// Hold the weights in a type with a wider range.
    WiderDtype,
    /// Take the checkpoint whose weights are not quantised, and quantise them while loading.
    QuantiseHere,
    /// What helps with a media file.
    Media(outro_media::Hint),
}

/// Tokens of a prompt by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokens {
    /// All.
    pub total: usize,
    /// Words, roles and delimiters.
    pub text: usize,
    /// Of images.
    pub image: usize,
    /// Of videos' frames.
    pub video: usize,
    /// Of sound.
    pub audio: usize,
}

impl PromptTokens {
    /// That a model which takes so many takes these.
    ///
    /// # Errors
    /// [`Error::TokenBudget`].
    pub fn fit(self, limit: usize) -> Result<()> {
        if self.total <= limit {
            return Ok(());
        }
        Err(Error::TokenBudget { tokens: self, limit })
    }

    /// The kinds, with what makes each shorter.
    fn kinds(&self) -> [(usize, &'static str, Hint); 4] {
        [
            (self.video, "video", Hint::ShorterVideo),
            (self.image, "image", Hint::SmallerImages),
            (self.audio, "audio", Hint::ShorterAudio),
            (self.text, "text", Hint::ShorterText),
        ]
    }

    /// What makes the largest part shorter.
    fn hint(&self) -> Option<Hint> {
        // Of two alike the first.
        let largest = self.kinds().into_iter().rev().max_by_key(|k| k.0);
        largest.filter(|k| k.0 > 0).map(|k| k.2)
    }
}

impl fmt::Display for PromptTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (n, name, _) in self.kinds().iter().filter(|k| k.0 > 0) {
            write!(f, "{between}{n} {name}")?;
            between = " + ";
        }
        Ok(())
    }
}

/// What can go wrong between a checkpoint, an input and an answer. Every message names the place; what to do is in it, or is a
/// [`Hint`] where a program has its own words for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A JSON file (config, index, template) is not what it should be.
    #[error("{path}: field `{field}`: {problem}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Dotted path of the field; empty for the whole file.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A checkpoint, or a part of one, is not there.
    #[error("{path}: {problem}", path = path.display())]
    Missing {
        /// The file or directory.
        path: PathBuf,
        /// What is missing and what to do.
        problem: String,
    },
    /// A file asks for what is not done here.
    #[error("{}: {problem}", place(path, field))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Dotted path of the field; empty for the whole file.
        field: String,
        /// What is asked for, and what is done.
        problem: String,
        /// What helps.
        hint: Option<Hint>,
    },
    /// A checkpoint's weights are truncated, of the wrong shape or not those of its configuration.
    #[error("{path}: {problem}", path = path.display())]
    Checkpoint {
        /// The shard, index or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A tensor holds numbers that the type asked for cannot hold.
    #[error("{path}: tensor `{tensor}` holds values beyond {dtype}", path = path.display())]
    Narrow {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type.
        dtype: &'static str,
    },
    /// A prepared input does not fit the model, or does not fit itself.
    #[error("{key}: {problem}")]
    Input {
        /// The tensor or argument.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A setting has a value that it cannot have.
    #[error("setting `{key}`: {problem}")]
    Setting {
        /// The key, as typed.
        key: String,
        /// What is wrong and which values are possible.
        problem: String,
    },
    /// The tokenizer or chat template failed.
    #[error("{path}: {problem}", path = path.display())]
    Tokenizer {
        /// The tokenizer's or template's file.
        path: PathBuf,
        /// What failed.
        problem: String,
    },
    /// The prompt does not fit the model ([`PromptTokens::fit`]).
    #[error("the prompt would have {} tokens, the model takes {limit}: {tokens}", tokens.total)]
    TokenBudget {
        /// Tokens that the prompt would have.
        tokens: PromptTokens,
        /// What the model takes (`max_position_embeddings`).
        limit: usize,
    },
    /// Prompt and answer have as many tokens as the model takes.
    #[error("the answer has filled the context of {limit} tokens")]
    ContextFull {
        /// What the model takes (`max_position_embeddings`).
        limit: usize,
    },
    /// A media file could not be read.
    #[error(transparent)]
    Media(outro_media::Error),
    /// The caller's [`outro_media::Cancel`] was set.
    #[error("cancelled")]
    Cancelled,
    /// The computation left the numbers: the checkpoint holds NaN or infinity, or overflowed.
    #[error("{place}: not a finite number; the checkpoint is damaged or needs a wider type of weights")]
    NotFinite {
        /// Layer or tensor.
        place: String,
    },
}

/// A file, or a field of it.
fn place(path: &Path, field: &str) -> String {
    let path = path.display();
    if field.is_empty() {
        path.to_string()
    } else {
        format!("{path}: field `{field}`")
    }
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

impl From<outro_media::Error> for Error {
    fn from(error: outro_media::Error) -> Self {
        match error {
            outro_media::Error::Cancelled => Self::Cancelled,
            error => Self::Media(error),
        }
    }
}

impl Error {
    /// Of what kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Missing { .. } => ErrorKind::NotFound,
            Self::Input { .. } | Self::Setting { .. } | Self::Narrow { .. } => ErrorKind::Invalid,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::TokenBudget { .. } | Self::ContextFull { .. } => ErrorKind::TooLong,
            Self::Config { .. }
            | Self::Checkpoint { .. }
            | Self::Tokenizer { .. }
            | Self::NotFinite { .. } => ErrorKind::Damaged,
            Self::Media(e) => e.kind(),
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// What helps, where a program has words of its own for it.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Unsupported { hint, .. } => *hint,
            Self::TokenBudget { tokens, .. } => tokens.hint(),
            Self::Narrow { .. } | Self::NotFinite { .. } => Some(Hint::WiderDtype),
            Self::Media(e) => e.hint().map(Hint::Media),
            Self::Io { .. }
            | Self::Config { .. }
            | Self::Missing { .. }
            | Self::Checkpoint { .. }
            | Self::Input { .. }
            | Self::Setting { .. }
            | Self::Tokenizer { .. }
            | Self::ContextFull { .. }
            | Self::Cancelled => None,
        }
    }

    /// Wraps an IO error with its path.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// A [`Error::Config`].
    pub fn config(path: impl Into<PathBuf>, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config {
            path: path.into(),
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// A [`Error::Checkpoint`].
    pub fn checkpoint(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Checkpoint {
            path: path.into(),
            problem: problem.into(),
        }
    }

    /// A [`Error::Missing`].
    pub fn missing(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Missing {
            path: path.into(),
            problem: problem.into(),
        }
    }

    /// A [`Error::Unsupported`] without a hint.
    pub fn unsupported(
        path: impl Into<PathBuf>,
        field: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self::Unsupported {
            path: path.into(),
            field: field.into(),
            problem: problem.into(),
            hint: None,
        }
    }

    /// A [`Error::Setting`].
    pub fn setting(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Setting {
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// A [`Error::Input`].
    pub fn input(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Input {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

/// That `typed` is none of `known`: which of them it may be a slip of, and all of them.
pub fn unknown<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let meant = nearest(typed, &known).map_or_else(String::new, |k| format!(", did you mean `{k}`?"));
    format!("`{typed}` is unknown{meant}; known: {}", known.join(", "))
}

/// The name that differs least from what was typed, if it differs little.
fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    // Of long words two letters may be wrong, of short ones one.
    let most = |k: &str| if k.len().min(typed.len()) > 4 { 2 } else { 1 };
    let distance = |k: &str| strsim::damerau_levenshtein(&typed.to_lowercase(), k);
    let close = known.iter().map(|k| (distance(k), *k));
    let close = close.filter(|(d, k)| *d <= most(k) && *d < k.len());
    close.min_by_key(|(d, _)| *d).map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_kind_and_hint() {
        let tokens = |video, text| PromptTokens {
            total: video + text,
            video,
            text,
            ..PromptTokens::default()
        };
        let io = |kind: std::io::ErrorKind| Error::io("a")(kind.into());
        let hung = || outro_media::Error::Hung {
            path: "a.mp4".into(),
            program: "ffmpeg".into(),
            seconds: 1.0,
        };
        let pairs = [
            (io(std::io::ErrorKind::NotFound), ErrorKind::NotFound, None),
            (io(std::io::ErrorKind::StorageFull), ErrorKind::Internal, None),
            (Error::config("a", "b", "c"), ErrorKind::Damaged, None),
            (Error::missing("a", "c"), ErrorKind::NotFound, None),
            (Error::unsupported("a", "b", "c"), ErrorKind::Unsupported, None),
            (Error::checkpoint("a", "c"), ErrorKind::Damaged, None),
            (
                Error::Narrow {
                    path: "a".into(),
                    tensor: "b".into(),
                    dtype: "f16",
                },
                ErrorKind::Invalid,
                Some(Hint::WiderDtype),
            ),
            (Error::input("a", "c"), ErrorKind::Invalid, None),
            (Error::setting("a", "c"), ErrorKind::Invalid, None),
            (
                Error::Tokenizer {
                    path: "a".into(),
                    problem: "c".into(),
                },
                ErrorKind::Damaged,
                None,
            ),
            (
                tokens(3, 2).fit(4).unwrap_err(),
                ErrorKind::TooLong,
                Some(Hint::ShorterVideo),
            ),
            (
                tokens(1, 4).fit(4).unwrap_err(),
                ErrorKind::TooLong,
                Some(Hint::ShorterText),
            ),
            (Error::ContextFull { limit: 4 }, ErrorKind::TooLong, None),
            (
                hung().into(),
                ErrorKind::Internal,
                Some(Hint::Media(outro_media::Hint::LongerDeadline)),
            ),
            (outro_media::Error::Cancelled.into(), ErrorKind::Cancelled, None),
            (
                Error::NotFinite { place: "a".into() },
                ErrorKind::Damaged,
                Some(Hint::WiderDtype),
            ),
        ];
        for (error, kind, hint) in pairs {
            assert_eq!((error.kind(), error.hint()), (kind, hint), "{error:?}");
        }
        let said = tokens(3, 2).fit(4).unwrap_err().to_string();
        assert_eq!(
            said,
            "the prompt would have 5 tokens, the model takes 4: 3 video + 2 text"
        );
    }

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["baseline", "outro", "vcd", "mod", "avcd", "gamma"];
        for (typed, meant) in [
            ("otro", Some("outro")),
            ("vdc", Some("vcd")),
            ("gama", Some("gamma")),
            ("basline", Some("baseline")),
            ("OUTRO", Some("outro")),
            ("x", None),
            ("nothing", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, &known), meant, "{typed}");
        }
        let text = unknown("gama", known);
        assert!(
            text.contains("did you mean `gamma`?") && text.contains("avcd"),
            "{text}"
        );
        assert!(!unknown("nothing", known).contains("mean"));
    }
}
