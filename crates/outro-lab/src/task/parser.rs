//! Which rules read a reply. The rules are in [`crate::choice`].

use crate::error::{Error, Result};

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
    pub fn named(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|p| p.name() == name)
            .ok_or_else(|| Error::setting("parser", outro::unknown(name, Self::ALL.map(Self::name))))
    }
}
