//! `outro.json`, a model's own settings beside its weights.
//!
//! ```json
//! {
//!   "format": 1,
//!   "note": "one line that is shown when the model is used",
//!   "system": "",
//!   "method": { "gamma": 1.0, "abs_threshold": 8.0, "median_multiple": 20.0, "layers": [1, 2] },
//!   "media": { "fps": 2.0, "max_pixels": 7056 }
//! }
//! ```
//! Every key but `format` may be missing. `method` takes the fields of [`OutRoConfig`]; `media` takes `fps` (frames a
//! second), `frames` (a fixed number instead) and `max_pixels` (of a frame or image) and
//! `max_video_tokens` (of a video's frames); `system` replaces the family's
//! system sentence, and an empty one means none; `profile` is how questions with options are put; `tuned` lists what the
//! method's settings were chosen on. What a caller sets explicitly wins over the file.
//!
//! [`OutRoConfig`]: https://docs.rs/outro/latest/outro/method/struct.OutRoConfig.html

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::weights::checkpoint::files;
use crate::weights::json::read_json;

/// The file's name.
pub const FILE: &str = files::SETTINGS;

/// What `outro.json` says; everything absent where there is no file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Version of the file's form; 1.
    pub format: u32,
    /// Shown when the model is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The system sentence; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// How questions with options are put to the model, by the name that `outro-lab` has for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The method's settings, by their names.
    pub method: Map<String, Value>,
    /// How media are read.
    pub media: MediaSettings,
    /// What `method` was chosen on, by `outro tune`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tuned: Vec<Tuned>,
}

/// Questions on which settings were tuned. A score on them would flatter these settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The benchmark.
    pub task: String,
    /// SHA-256 of its annotations.
    pub questions_sha256: String,
    /// How many questions were asked.
    pub questions: usize,
    /// Names of the videos that they are about; all questions about them count as used.
    pub videos: Vec<String>,
}

/// `media` of `outro.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaSettings {
    /// Frames a second taken from a video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// A fixed number of frames instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<usize>,
    /// Most pixels of a frame and of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pixels: Option<usize>,
    /// Most tokens of a video's frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_video_tokens: Option<usize>,
}

impl Settings {
    /// Reads `outro.json` of the directory `dir`, or `NAME.outro.json` beside the file `NAME.gguf`, if there is one.
    ///
    /// # Errors
    /// A file with an unknown or impossible field, by name.
    pub fn load(dir: &Path) -> Result<Self> {
        Ok(Self::read(&Self::place(dir))?.unwrap_or_default())
    }

    /// Where the settings of a checkpoint, or of a GGUF file, are looked for.
    pub fn place(dir: &Path) -> PathBuf {
        if dir.is_file() {
            dir.with_extension(FILE)
        } else {
            dir.join(FILE)
        }
    }

    /// Reads such a file under any name; `None` where there is none.
    ///
    /// # Errors
    /// A file with an unknown or impossible field, by name.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(value) = read_json(path)? else {
            return Ok(None);
        };
        let bad = |field: &str, problem: String| Error::config(path, field, problem);
        let settings: Self =
            serde_json::from_value(value).map_err(|e| bad("outro.json", format!("cannot be used: {e}")))?;
        if settings.format != 1 {
            return Err(bad(
                "format",
                format!("is {}, this version reads 1", settings.format),
            ));
        }
        let m = &settings.media;
        if let Some(fps) = m.fps.filter(|f| !(f.is_finite() && *f > 0.0)) {
            return Err(bad("media.fps", format!("is {fps}, must be above 0")));
        }
        if let Some(n) = m.frames.filter(|n| *n < 2) {
            return Err(bad("media.frames", format!("is {n}, must be at least 2")));
        }
        if let Some(n) = m.max_pixels.filter(|n| *n < 784) {
            return Err(bad("media.max_pixels", format!("is {n}, must be at least 784")));
        }
        if m.max_video_tokens == Some(0) {
            return Err(bad("media.max_video_tokens", "is 0, must be at least 1".into()));
        }
        Ok(Some(settings))
    }
}
