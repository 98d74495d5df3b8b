//! Which checkpoint a command works with.

use std::path::{Path, PathBuf};

use crate::fault::Fault;
use crate::hub;
use crate::ui::Ui;

/// The tiny random checkpoint that the repository carries, for a first run without downloads.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/omni-tiny");

/// What the user is told about it.
const TINY_NOTE: &str =
    "no --model was given: using a tiny checkpoint of random weights; its words mean nothing";

/// A checkpoint directory or a GGUF file.
#[derive(Debug)]
pub(crate) struct Source {
    /// The directory, or the file.
    pub(crate) dir: PathBuf,
    /// Whether it is the random checkpoint of the repository.
    pub(crate) random: bool,
}

/// `--model`, else `OUTRO_MODEL`, else the repository's random checkpoint, with a note.
pub(crate) fn open(model: Option<&str>, ui: &Ui) -> anyhow::Result<Source> {
    if let Some(model) = model {
        return Ok(Source {
            dir: hub::resolve(model, ui)?,
            random: false,
        });
    }
    let from_env = std::env::var("OUTRO_MODEL").ok().filter(|m| !m.is_empty());
    let dir = match &from_env {
        Some(model) => hub::resolve(model, ui)?,
        None => PathBuf::from(TINY),
    };
    if !dir.join("config.json").is_file() && !outro::checkpoint::is_gguf(&dir) {
        return Err(
            Fault::failure("no --model was given and there is no default checkpoint")
                .hint("give --model Qwen/Qwen2.5-Omni-3B or a checkpoint directory, or set OUTRO_MODEL")
                .into(),
        );
    }
    let random = is_random(&dir);
    if random {
        ui.note(TINY_NOTE);
    } else {
        ui.note(&format!(
            "no --model was given: using OUTRO_MODEL = {}",
            from_env.unwrap_or_default()
        ));
    }
    Ok(Source { dir, random })
}

/// No trained checkpoint is that small: a decoder of less than 512 channels is a fixture.
fn is_random(dir: &Path) -> bool {
    outro::config::Config::load(dir).map_or(true, |c| c.text.hidden < 512)
}
