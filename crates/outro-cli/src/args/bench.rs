//! `outro bench` as it is typed.

use clap::{Args, ValueEnum};
use outro::checkpoint::Imitated;
use outro_lab::bench::Work;

use super::flags::{DtypeFlag, ModelFlags, WeightFlags};
use super::{Weights, spelled_out, weights};
use crate::fault::Fault;

#[derive(Debug, Args)]
pub(crate) struct BenchFlags {
    #[command(flatten)]
    model: ModelFlags,
    /// Random weights of a published size, made in memory, instead of a checkpoint: qwen2.5-omni-3b, qwen2.5-vl-7b, ...
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    shape: Option<String>,
    /// With --shape: only so many decoder layers, where memory or patience is short.
    #[arg(long, value_name = "N", requires = "shape")]
    layers: Option<usize>,
    /// Rows of the prompt.
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt_tokens: usize,
    /// Frames of 448 x 448 that go through the vision tower before it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    frames: usize,
    /// Seconds of sound that go through the audio tower before it.
    #[arg(long, value_name = "S", default_value_t = 0)]
    audio_seconds: usize,
    /// Decode steps.
    #[arg(long, value_name = "N", default_value_t = 32)]
    new_tokens: usize,
    /// Rounds; strategies alternate within each, and medians are over all.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Also decode so many requests of each strategy, and one of each, in one step, and tell the gain over one after the other.
    #[arg(long, value_name = "N", default_value_t = 1)]
    requests: usize,
    /// Also probe the prompt as `outro sinks` does, and tell time and memory beside those of a plain prefill.
    #[arg(long)]
    probe: bool,
    /// How the decoder's weights are held: --dtype and --quantize in one, and with --shape as other tools pack them.
    #[arg(long = "weights", value_name = "TYPE", conflicts_with_all = ["dtype", "quantize"],
        value_parser = ["auto", "f32", "bf16", "f16", "q8_0", "q6_k", "q4_k", "awq", "gptq", "fp8", "nf4", "mlx4"])]
    held: Option<String>,
    /// A name of `outro eval list`, as in outro:gamma=2 or vcd+outro; may be repeated, ratios are to the first [default:
    /// baseline and outro].
    #[arg(long, value_name = "NAME", default_value = "both", hide_default_value = true)]
    strategy: Vec<String>,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: WeightFlags,
}

/// `outro bench`.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) model: ModelFlags,
    pub(crate) shape: Option<String>,
    pub(crate) layers: Option<usize>,
    pub(crate) work: Work,
    pub(crate) weights: Weights,
    pub(crate) strategies: Vec<String>,
    pub(crate) json: bool,
}

pub(super) fn bench(f: BenchFlags) -> anyhow::Result<Bench> {
    for (flag, n) in [
        ("--prompt-tokens", f.prompt_tokens),
        ("--new-tokens", f.new_tokens),
        ("--rounds", f.rounds),
        ("--layers", f.layers.unwrap_or(1)),
    ] {
        if n == 0 {
            return Err(Fault::usage(format!("{flag} is 0"))
                .hint("give a number from 1 up")
                .into());
        }
    }
    let mut held = f.weights;
    let imitated: Option<Imitated> = f.held.as_deref().and_then(|name| name.parse().ok());
    if let (Some(packed), None) = (imitated, &f.shape) {
        return Err(Fault::usage(format!(
            "--weights {}: a checkpoint's weights are as they are",
            packed.name()
        ))
        .hint("give --shape, or a checkpoint that is packed so")
        .into());
    }
    if let Some(name) = f.held.filter(|_| imitated.is_none()) {
        match DtypeFlag::from_str(&name, false) {
            Ok(dtype) => held.dtype = dtype,
            Err(_) => held.quantize = Some(name),
        }
    }
    let mut weights = weights(&held, outro::Activations::Reduced)?;
    weights.load.imitated = imitated;
    Ok(Bench {
        model: f.model,
        shape: f.shape,
        layers: f.layers,
        work: Work {
            prompt_tokens: f.prompt_tokens,
            new_tokens: f.new_tokens,
            frames: f.frames,
            audio_seconds: f.audio_seconds,
            rounds: f.rounds,
            requests: f.requests,
            probe: f.probe,
        },
        weights,
        strategies: spelled_out(&f.strategy)?,
        json: f.json,
    })
}
