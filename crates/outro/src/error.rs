//! The engine's one error type.

use std::path::PathBuf;

/// What can go wrong between a checkpoint, an input and an answer. Every message names the place and the way out.
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
    /// A checkpoint's weights are missing, truncated or of the wrong shape.
    #[error("{path}: {problem}", path = path.display())]
    Checkpoint {
        /// The shard, index or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
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
    /// The prompt does not fit the model.
    #[error("the prompt would have {tokens} tokens, the model takes {limit}: {breakdown}")]
    TokenBudget {
        /// Tokens that the prompt would have.
        tokens: usize,
        /// What the model takes (`max_position_embeddings`).
        limit: usize,
        /// Tokens by kind, and the flags that help.
        breakdown: String,
    },
    /// A media file could not be read.
    #[error(transparent)]
    Media(outro_media::Error),
    /// The caller's [`outro_media::Cancel`] was set.
    #[error("cancelled")]
    Cancelled,
    /// The computation left the numbers: the checkpoint holds NaN or infinity, or overflowed.
    #[error("{place}: not a finite number; the checkpoint is damaged or needs a wider --dtype")]
    NotFinite {
        /// Layer or tensor.
        place: String,
    },
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
