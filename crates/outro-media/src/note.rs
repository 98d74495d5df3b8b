//! Notes: what a user should know about a file that was read all the same. Data, so that logs and `--json` carry them.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoteKind {
    /// The video holds another number of frames than its packets promised, and they were picked anew.
    Recounted,
    /// Parts are damaged: what the decoder gave all the same was used.
    Damaged,
    /// A video without sound, or whose sound cannot be decoded.
    NoSound,
    /// A sound track was passed over.
    TrackLeftOut,
    /// Which of several sound tracks was taken.
    TrackTaken,
    /// The sound begins or ends at another time than the picture.
    SoundOffset,
    /// The model hears or sees only a part.
    Cut,
    /// Fewer pixels or frames than the processor would take, so that the caller's limit on tokens is kept.
    Reduced,
    /// The picture was turned as its EXIF orientation says.
    Turned,
    /// It is unlike what the model was trained on.
    Unfamiliar,
    /// What a header says is wrong, and was not believed.
    Header,
    /// Anything else, also what a later version says.
    #[serde(other)]
    Other,
}

impl NoteKind {
    /// Whether it matters only to those who use the file's sound.
    pub fn is_about_sound(self) -> bool {
        matches!(
            self,
            Self::NoSound | Self::TrackLeftOut | Self::TrackTaken | Self::SoundOffset
        )
    }
}

/// Something about a file that its user should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is about.
    pub kind: NoteKind,
    /// The file.
    pub path: String,
    /// A line of words.
    pub text: String,
}

impl Note {
    /// A note on a file.
    pub fn new(kind: NoteKind, path: &Path, text: impl Into<String>) -> Self {
        Self {
            kind,
            path: path.display().to_string(),
            text: text.into(),
        }
    }

    /// Says that the sound begins so many seconds after its picture, or before it, where that is worth a note.
    pub(crate) fn late(path: &Path, seconds: f64) -> Option<Self> {
        let when = if seconds > 0.0 { "after" } else { "before" };
        let text = format!(
            "its sound begins {:.2} s {when} its picture; each is counted from its own beginning",
            seconds.abs()
        );
        (seconds.abs() > 0.1).then(|| Self::new(NoteKind::SoundOffset, path, text))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}
