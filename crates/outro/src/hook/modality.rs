//! Which rows of a prompt are picture, sound or words.

use crate::prompt::positions::Span;

/// What a row is to a strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Modality {
    Visual,
    Audio,
    Language,
}

impl Modality {
    pub(crate) const ALL: [Self; 3] = [Self::Visual, Self::Audio, Self::Language];

    pub(crate) fn of(span: &Span) -> Self {
        match span {
            Span::Text => Self::Language,
            Span::Image { .. } | Span::Video { .. } => Self::Visual,
            Span::Audio { .. } => Self::Audio,
        }
    }
}
