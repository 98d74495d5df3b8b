//! From a checkpoint's directory or file to its [`Config`].

use std::path::Path;

use crate::error::{Error, Result};
use crate::spec::config::Config;
use crate::spec::family::{self, Family};
use crate::weights::checkpoint::{Checkpoint, Reading, Scheme, base_of, files};
use crate::weights::json::{Json, read_json};

impl Config {
    /// Reads `dir/config.json`, or the metadata of a GGUF file.
    ///
    /// # Errors
    /// An unreadable file, an unknown architecture, and fields that are missing, mistyped or contradictory, each by name.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::load_among(dir, &[])
    }

    /// [`Config::load`] of a GGUF file whose towers (mmproj) are in `towers`; where nobody says so they are found beside it.
    ///
    /// # Errors
    /// As [`Config::load`]; towers for anything but a GGUF file.
    pub fn load_held(dir: &Path, towers: Option<&Path>) -> Result<Self> {
        match towers {
            Some(_) if !dir.is_file() => {
                let problem = format!("belongs to a GGUF file; {} is none", dir.display());
                Err(Error::setting("mmproj", problem))
            }
            Some(_) => family::gguf::config(dir, towers),
            None => Self::load(dir),
        }
    }

    /// [`Config::load`] with families of the caller, which come before [`family::FAMILIES`].
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_among(dir: &Path, own: &[&Family]) -> Result<Self> {
        if dir.is_file() {
            return family::gguf::config(dir, None);
        }
        let path = dir.join("config.json");
        let Some(value) = read_json(&path)? else {
            return Err(without_config(dir));
        };
        family::parse(&Json::of_transformers(&path, &value), own)
    }

    /// Opens the weights that this is the configuration of.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn checkpoint(&self, dir: &Path) -> Result<Checkpoint> {
        if let (true, Some(adapter)) = (self.text.rope_pairs_interleaved, self.held.adapters.first()) {
            let problem = "cannot be merged into a GGUF file of llama, whose query and key rows lie in another order; take the \
                           safetensors checkpoint";
            return Err(Error::unsupported(&adapter.dir, "", problem));
        }
        let mut renamed = self.names.renamed.to_vec();
        if let Some(Scheme::Mlx { .. }) = self.held.scheme {
            // MLX's models keep their parts under names of their own.
            let parts = [
                ("language_model.model.", self.names.text),
                (
                    "language_model.lm_head.",
                    self.names.lm_head.trim_end_matches("weight"),
                ),
                ("vision_tower.", self.names.vision),
                ("audio_tower.", self.names.audio),
            ];
            renamed.extend(parts.into_iter().filter(|(_, to)| !to.is_empty()));
        }
        let reading = Reading {
            skip: self.names.skipped,
            renamed: &renamed,
            scheme: self.held.scheme.as_ref(),
            adapters: &self.held.adapters,
            towers: self.held.towers.as_deref(),
            stored: Some(&self.held.renames),
        };
        Checkpoint::open(dir, reading)
    }
}

/// What a directory without config.json may be.
fn without_config(dir: &Path) -> Error {
    match base_of(dir) {
        Ok(None) => {}
        Ok(Some(base)) => {
            let problem = format!(
                "is {base}: this is an adapter of it, which alone is no model: give the model, and \
                 the adapter beside it"
            );
            return Error::unsupported(dir.join(files::ADAPTER), "base_model_name_or_path", problem);
        }
        Err(e) => return e,
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut ggufs: Vec<_> = entries
        .map(|f| f.path())
        .filter(|p| p.extension().is_some_and(|e| e == "gguf"))
        .collect();
    ggufs.sort();
    match ggufs.first() {
        Some(file) => Error::missing(
            dir,
            format!(
                "holds no config.json; to run a GGUF file give the file itself: {}",
                file.display()
            ),
        ),
        None => Error::missing(
            dir,
            "holds no config.json; give a checkpoint directory as the hub stores it",
        ),
    }
}
