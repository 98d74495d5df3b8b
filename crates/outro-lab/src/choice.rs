//! THE answer parser. It never guesses: a reply that does not say which answer it means is invalid, with the reason.

mod earlier;
mod names;
mod read;
mod words;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result as Outcome};
use crate::task::Gold;

/// Rules of reading replies, by name and version; part of a run's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parser {
    /// Ours of the first version; what logs have that were begun before there was a second.
    Outro1,
    /// Ours: statements, with marks, negation, alternatives and corrections.
    #[default]
    Outro2,
    /// The authors' (kaistmm/OutRo at 2bee38c), with its mistakes: `Because` is B, `According` is A.
    Release,
}

impl Parser {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Outro2, Self::Outro1, Self::Release];

    /// As it stands in a log and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outro1 => "outro-1",
            Self::Outro2 => "outro-2",
            Self::Release => "release-1",
        }
    }

    /// By name.
    ///
    /// # Errors
    /// A name that no parser has.
    pub fn named(name: &str) -> Outcome<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::setting("parser", format!("{name} is not known; known: {known}"))
        })
    }

    /// What a reply says by these rules: `Yes`, `No`, a letter, or a word of the vocabulary. `texts` are the options without
    /// their letters.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn read(self, reply: &str, gold: &Gold, texts: &[String]) -> Result<String, Invalid> {
        match (self, gold) {
            (Self::Outro2, _) => read::read(reply, gold, texts),
            (Self::Release, Gold::Letter { .. }) => earlier::release(reply),
            // The release's rule for yes and no is our first one; it has none for words.
            _ => earlier::parse(reply, gold, texts),
        }
    }
}

/// Why a reply is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invalid {
    /// Nothing but white space.
    Empty,
    /// No answer is in it.
    NoAnswer,
    /// It names more than one answer.
    Ambiguous,
    /// The letter is not one of the options.
    NotAnOption,
}

/// Whether a parsed answer is the right one.
pub fn is_right(parsed: &str, gold: &Gold) -> bool {
    parsed == gold.text()
}
