//! Benchmarks: from their official files to samples. A task knows no model.

mod avhbench;
mod daily_omni;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// How a question with options asks for its answer; part of a run's identity. A change of words is a new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name on the command line and in `outro.json`.
    pub name: &'static str,
    /// The last line of the prompt.
    pub request: &'static str,
}

/// All of them; the first is the default.
pub const PROFILES: [Profile; 2] = [
    Profile {
        name: "letter",
        request: "Answer with the letter.",
    },
    Profile {
        name: "option",
        request: "Answer with an option.",
    },
];

impl Profile {
    /// By name; the default for `None`.
    ///
    /// # Errors
    /// A name that is not in [`PROFILES`].
    pub fn named(name: Option<&str>) -> Result<&'static Self> {
        let Some(name) = name else {
            return Ok(&PROFILES[0]);
        };
        PROFILES.iter().find(|p| p.name == name).ok_or_else(|| {
            let known: Vec<_> = PROFILES.iter().map(|p| p.name).collect();
            Error::setting(
                "profile",
                format!("{name} is not known; known: {}", known.join(", ")),
            )
        })
    }
}

/// A question about a video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Unique in its task; the row's number in its file is part of it.
    pub id: String,
    /// The video's name in the file.
    pub video_id: String,
    /// Where the video is.
    pub video: PathBuf,
    /// The benchmark's own category.
    pub category: String,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// In the file's order.
    pub samples: Vec<Sample>,
    /// The file.
    pub file: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
    /// Rows that are not scored here (captions).
    pub skipped: usize,
}

/// A benchmark.
pub struct Task {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    load: fn(&Path, &Profile) -> Result<Loaded>,
}

/// All benchmarks.
pub const TASKS: [Task; 2] = [
    Task {
        name: "avhbench",
        about: "AVHBench: yes/no questions on hallucination across picture and sound (QA.json, videos/ID.mp4)",
        load: avhbench::load,
    },
    Task {
        name: "daily-omni",
        about: "Daily-Omni: four options on events in picture and sound (qa.json, Videos/ID/ID_video.mp4)",
        load: daily_omni::load,
    },
];

impl Task {
    /// By name.
    ///
    /// # Errors
    /// A name that is not in [`TASKS`].
    pub fn named(name: &str) -> Result<&'static Self> {
        TASKS.iter().find(|t| t.name == name).ok_or_else(|| {
            let known: Vec<_> = TASKS.iter().map(|t| t.name).collect();
            Error::setting(
                "task",
                format!("{name} is not known; known: {}", known.join(", ")),
            )
        })
    }

    /// Reads the questions in `dir`, to be put in the profile's way.
    ///
    /// # Errors
    /// A missing file; a row with a missing or impossible field, by row and field.
    pub fn load(&self, dir: &Path, profile: &Profile) -> Result<Loaded> {
        (self.load)(dir, profile)
    }
}

/// The first of `names` in `dir`, as a list of rows; and its SHA-256.
fn rows<R: DeserializeOwned>(dir: &Path, names: &[&str]) -> Result<(PathBuf, Vec<R>, String)> {
    let found = names.iter().map(|n| dir.join(n)).find(|p| p.is_file());
    let file = found.ok_or_else(|| Error::file(dir, format!("holds no {}", names.join(" or "))))?;
    let bytes = std::fs::read(&file).map_err(Error::io(&file))?;
    let list: Vec<serde_json::Value> = serde_json::from_slice(&bytes)
        .map_err(|e| Error::file(&file, format!("is not a JSON list of questions: {e}")))?;
    let row = |(i, v)| serde_json::from_value(v).map_err(|e| Error::file(&file, format!("row {i}: {e}")));
    let rows: Vec<R> = list.into_iter().enumerate().map(row).collect::<Result<_>>()?;
    if rows.is_empty() {
        return Err(Error::file(&file, "holds no question"));
    }
    Ok((file.clone(), rows, hex(&bytes)))
}

/// SHA-256 as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = |b: u8| [b >> 4, b & 15].map(|d| char::from_digit(u32::from(d), 16).unwrap_or('0'));
    Sha256::digest(bytes).iter().flat_map(|b| digits(*b)).collect()
}

/// The first of `places` that exists, else the first: a missing video is its samples' failure, not the task's.
fn video(dir: &Path, places: &[String]) -> PathBuf {
    let mut paths = places.iter().map(|p| dir.join(p));
    let usual = paths.next().unwrap_or_default();
    if usual.exists() {
        usual
    } else {
        paths.find(|p| p.exists()).unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(task: &str, name: &str, text: &str) -> Result<Loaded> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        Task::named(task).unwrap().load(dir.path(), &PROFILES[0])
    }

    #[test]
    fn official_rows_become_samples() {
        let text = r#"[
            {"video_id": "7", "task": "AV Matching", "text": "Same?", "label": "Yes"},
            {"video_id": "7", "task": "AV Captioning", "text": "Describe.", "label": "A dog."},
            {"video_id": "7", "task": "AV Matching", "text": "Same? answer Yes or No", "label": "no"}]"#;
        let loaded = load("avhbench", "QA.json", text).unwrap();
        assert_eq!((loaded.samples.len(), loaded.skipped), (2, 1));
        let prompts: Vec<_> = loaded.samples.iter().map(|s| s.prompt.as_str()).collect();
        assert_eq!(prompts, ["Same? Answer yes or no.", "Same? answer Yes or No"]);
        assert_eq!(loaded.samples[1].gold, Gold::YesNo(false));
        assert!(loaded.samples[0].video.ends_with("videos/7.mp4"));

        let text = r#"[{"Question": "What?", "Choice": ["A. x", "y", "C. z", "D. w"], "Answer": "B", "video_id": "v",
            "Type": "Inference", "video_category": "c", "video_duration": "30s"}]"#;
        let sample = load("daily-omni", "qa.json", text).unwrap().samples.remove(0);
        assert_eq!(
            sample.prompt,
            "What?\nA. x\nB. y\nC. z\nD. w\nAnswer with the letter."
        );
        assert_eq!(
            sample.gold,
            Gold::Letter {
                right: 'B',
                options: 4
            }
        );
        assert!(sample.video.ends_with("Videos/v/v_video.mp4"));
    }

    #[test]
    fn rows_that_cannot_be_meant_are_named() {
        for (task, name, text, part) in [
            ("avhbench", "QA.json", "{}", "list"),
            ("avhbench", "QA.json", "[]", "no question"),
            (
                "avhbench",
                "QA.json",
                r#"[{"video_id": "1", "task": "AV Matching", "text": "x"}]"#,
                "label",
            ),
            (
                "avhbench",
                "QA.json",
                r#"[{"video_id": "1", "task": "AV Matching", "text": "x", "label": "maybe"}]"#,
                "maybe",
            ),
            (
                "avhbench",
                "QA.json",
                r#"[{"video_id": "../1", "task": "T", "text": "x", "label": "Yes"}]"#,
                "video_id",
            ),
            ("avhbench", "other.json", "[]", "QA.json"),
            (
                "daily-omni",
                "qa.json",
                r#"[{"Question": "q", "Choice": ["A. x"], "Answer": "A", "video_id": "v", "Type": "t"}]"#,
                "Choice",
            ),
            (
                "daily-omni",
                "qa.json",
                r#"[{"Question": "q", "Choice": ["x", "y"], "Answer": "C", "video_id": "v", "Type": "t"}]"#,
                "Answer",
            ),
            (
                "daily-omni",
                "qa.json",
                r#"[{"Question": "q", "Choice": ["B. x", "A. y"], "Answer": "A", "video_id": "v", "Type": "t"}]"#,
                "Choice",
            ),
        ] {
            let message = load(task, name, text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(Task::named("nope").is_err_and(|e| e.to_string().contains("avhbench")));
    }
}
