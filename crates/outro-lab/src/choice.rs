//! The answer parser. It never guesses: a reply that does not say which answer it means is invalid, with the reason.

mod earlier;
mod names;
mod read;
mod words;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::task::Gold;
pub use crate::task::Parser;

impl Parser {
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

impl Invalid {
    /// As it stands in a log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NoAnswer => "no_answer",
            Self::Ambiguous => "ambiguous",
            Self::NotAnOption => "not_an_option",
        }
    }
}

/// Whether a parsed answer is the right one.
pub fn is_right(parsed: &str, gold: &Gold) -> bool {
    parsed == gold.text()
}
