//! How `ask` chooses tokens: the model's generation_config.json, with what was typed on top.

use outro::generate::{FILE, GenerationConfig, Sampling};
use outro::prepare::Preparer;
use serde::Serialize;

use crate::args::sampling::Sampled;
use crate::ui::Ui;

/// Longest answer where nobody says a number.
const MAX_NEW_TOKENS: usize = 256;

/// How the tokens of an answer are chosen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Chosen {
    #[serde(flatten)]
    pub(crate) sampling: Sampling,
    pub(crate) max_new_tokens: usize,
    /// What the model's file asks for and nobody does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unsupported: Vec<String>,
}

/// Settles it for a model, with a note on what the model's file changes and one on what of it is left out.
pub(crate) fn settle(asked: &Sampled, model: &Preparer, ui: &Ui) -> anyhow::Result<Chosen> {
    let mut file = model.generation()?;
    if asked.greedy {
        file = GenerationConfig {
            max_new_tokens: file.max_new_tokens,
            ..GenerationConfig::default()
        };
    }
    let both = asked.typed.or(&file);
    let sampling = both.sampling(asked.seed)?;
    if let Some(words) = sampling
        .words()
        .filter(|_| asked.typed.sampling(asked.seed).ok() != Some(sampling.clone()))
    {
        let how = if sampling.do_sample {
            "tokens are drawn"
        } else {
            "the likeliest token after a penalty"
        };
        ui.note(&format!("{FILE}: {how} ({words}); --greedy undoes it"));
    }
    if !both.unsupported.is_empty() {
        let list = both.unsupported.join(", ");
        ui.note(&format!(
            "{FILE}: not supported and left out: {list}; answers can differ from transformers'"
        ));
    }
    Ok(Chosen {
        sampling,
        max_new_tokens: both.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
        unsupported: both.unsupported,
    })
}
