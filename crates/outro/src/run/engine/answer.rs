//! What comes back.

use std::collections::BTreeMap;

use outro_media::Note;
use serde::Serialize;

use crate::error::PromptTokens;

/// One strategy's answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    /// The strategy's name.
    pub strategy: String,
    /// What the model said.
    pub text: String,
    /// Tokens of it.
    pub tokens: usize,
    /// Their ids.
    #[serde(skip)]
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// The five likeliest first tokens, before any sampling.
    pub first_token_top5: Vec<Candidate>,
    /// Logits `[vocab]` of the first token.
    #[serde(skip)]
    pub first_logits: Vec<f32>,
    /// For each token its log-probability and the likeliest tokens in its place, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<(f64, Vec<Candidate>)>,
    /// Wall-clock seconds of this strategy's own work.
    pub seconds: Spent,
    /// Layer -> prompt positions taken for sinks; absent without OutRo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sinks: Option<BTreeMap<usize, Vec<usize>>>,
    /// Layer -> sinks whose mask was relaxed there; absent without OutRo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relaxed_at: Option<BTreeMap<usize, Vec<usize>>>,
    /// Media tokens that pruning dropped; absent without pruning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruned: Option<usize>,
    /// Bytes of keys and values after the prompt, of all passes.
    pub cache_bytes: usize,
    /// Passes through the decoder, for the prompt and all tokens.
    pub passes: usize,
    /// Tokens of the prompt by kind.
    #[serde(skip)]
    pub prompt_tokens: PromptTokens,
    /// What is to be known about the media.
    #[serde(skip)]
    pub notes: Vec<Note>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    #[default]
    /// The model ended it, a stop string came, or the caller wanted no more.
    Stop,
    /// The asked number of tokens was reached.
    Length,
}

/// A token that could have come.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Its id.
    pub token: u32,
    /// Its text.
    pub text: String,
    /// Its probability.
    pub probability: f64,
}

/// Seconds of the phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    /// What the strategy did before the prompt: media with noise on them are encoded.
    #[serde(skip)]
    pub encode: f64,
    /// The prompt.
    pub prefill: f64,
    /// Rows that prompts share, run by the first that needed them; 0 for the others.
    #[serde(skip)]
    pub shared: f64,
    /// The tokens. Steps that several requests shared count in equal parts.
    pub decode: f64,
}
