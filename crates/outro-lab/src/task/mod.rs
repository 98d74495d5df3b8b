//! Benchmarks: from their official files to samples. A task knows no model.

mod parser;
mod prompt;
mod read;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use parser::Parser;
pub use prompt::{Options, PROFILES, Profile, Template};
pub use table::{TASKS, Task, VOCABULARY};

/// The right answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gold {
    /// Yes or no.
    YesNo(bool),
    /// An option by its letter.
    Letter {
        /// The letter, upper case.
        right: char,
        /// How many options there are, from `A` on.
        options: usize,
    },
    /// A word of [`VOCABULARY`].
    Word(String),
}

impl Gold {
    /// In words: `Yes`, `B`, `two`.
    pub fn text(&self) -> String {
        match self {
            Self::YesNo(yes) => if *yes { "Yes" } else { "No" }.into(),
            Self::Letter { right, .. } => right.to_string(),
            Self::Word(word) => word.clone(),
        }
    }
}

/// A question about a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Unique in its task; the row's number in its file is part of it.
    pub id: String,
    /// The video's name in the file.
    pub video_id: String,
    /// Where the video is.
    pub video: PathBuf,
    /// The part of the video that is asked about, in seconds; `None` for all of it.
    pub clip: Option<(f64, f64)>,
    /// The benchmark's own category.
    pub category: String,
    /// The benchmark's other divisions: duration, domain.
    pub groups: BTreeMap<String, String>,
    /// What the answer takes (`picture`, `sound`, `both`), where the file says so.
    pub needs: Option<String>,
    /// What is put to the model.
    pub prompt: String,
    /// The options without their letters; none for yes and no.
    pub options: Vec<String>,
    /// The right answer.
    pub gold: Gold,
}

/// A task's questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// In the file's order.
    pub samples: Vec<Sample>,
    /// The file, or the directory of the files.
    pub file: PathBuf,
    /// SHA-256 of the annotations.
    pub sha256: String,
    /// Rows that are not scored here, by what they are.
    pub left_out: BTreeMap<String, usize>,
}

/// SHA-256 as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = |b: u8| [b >> 4, b & 15].map(|d| char::from_digit(u32::from(d), 16).unwrap_or('0'));
    Sha256::digest(bytes).iter().flat_map(|b| digits(*b)).collect()
}

#[cfg(test)]
mod tests;
