//! How tokens are chosen: flags that go on top of the model's generation_config.json.

use clap::Args;
use outro::generate::GenerationConfig;

use crate::fault::Fault;

/// What is left out is as the model's generation_config.json says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingFlags {
    /// Longest answer, in tokens [default: the model's own, else 256].
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Take the likeliest token, without a repetition penalty, whatever the model's generation_config.json says.
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    pub(crate) greedy: bool,
    /// Draw tokens at this temperature; 0 takes the likeliest. OutRo's gate has another one, --gate-temperature.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Draw from this many of the likeliest tokens; 0 is all [default: the model's own, else 50].
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<usize>,
    /// Draw from the smallest set of tokens with this probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Draw from tokens with at least this share of the likeliest one's probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Divide positive logits of the prompt's and the answer's tokens by this, multiply negative ones; 1 does nothing.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Seed of the draws; every strategy and question begins with it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}

/// What was typed about choosing tokens.
#[derive(Clone, Debug)]
pub(crate) struct Sampled {
    /// Wins over the model's file, field by field.
    pub(crate) typed: GenerationConfig,
    /// Whether the model's file is left out.
    pub(crate) greedy: bool,
    pub(crate) seed: u64,
}

/// Checks the flags.
pub(super) fn sampled(f: &SamplingFlags) -> anyhow::Result<Sampled> {
    if f.max_new_tokens == Some(0) {
        return Err(Fault::usage("--max-new-tokens is 0")
            .hint("give a number from 1 up")
            .into());
    }
    let draws = f.top_k.is_some() || f.top_p.is_some() || f.min_p.is_some();
    let typed = GenerationConfig {
        // These flags have no use but to draw.
        do_sample: f.temperature.map(|t| t > 0.0).or((draws).then_some(true)),
        temperature: f.temperature,
        top_k: f.top_k,
        top_p: f.top_p,
        min_p: f.min_p,
        repetition_penalty: f.repetition_penalty,
        max_new_tokens: f.max_new_tokens,
        unsupported: Vec::new(),
    };
    if let Some((field, problem)) = typed.problem() {
        return Err(Fault::usage(format!("--{} {problem}", field.replace('_', "-"))).into());
    }
    Ok(Sampled {
        typed,
        greedy: f.greedy,
        seed: f.seed,
    })
}
