//! Qwen3: no biases, RMS norms of queries and keys, a head size of its own; dense or with experts.

use super::text::{NAMES, divisors, only};
use super::{Family, qwen2_text};
use crate::config::{Json, MoeConfig, TextConfig};
use crate::error::Result;

pub(super) const DENSE: Family = Family {
    model_type: "qwen3",
    parse: |json| Ok(only("qwen3", decoder(json, None)?)),
    names: NAMES,
};

pub(super) const MOE: Family = Family {
    model_type: "qwen3_moe",
    parse: |json| Ok(only("qwen3_moe", decoder(json, Some(false))?)),
    names: NAMES,
};

/// A Qwen3 decoder's configuration. Experts' shares are normalised where it does not say, or not.
pub(super) fn decoder(json: &Json, experts: Option<bool>) -> Result<TextConfig> {
    // Unlike in Qwen2 it does not follow from the width.
    json.at("head_dim").size()?;
    if json.at("attention_bias").bool_or(false)? {
        return Err(json
            .at("attention_bias")
            .error("true is not supported; no released checkpoint of the family uses it"));
    }
    let tied = json.at("tie_word_embeddings").bool_or(false)?;
    let text = qwen2_text(json, tied)?;
    Ok(TextConfig {
        qkv_bias: false,
        qk_norm: true,
        rope_divisors: divisors(json, &text)?,
        moe: experts
            .map(|normalised| moe(json, text.layers, normalised))
            .transpose()?,
        ..text
    })
}

fn moe(json: &Json, layers: usize, normalised: bool) -> Result<MoeConfig> {
    // Newer releases of transformers write the second name.
    let newer = json.at("num_local_experts");
    let experts = if newer.present() {
        newer
    } else {
        json.at("num_experts")
    }
    .size()?;
    let chosen = json.at("num_experts_per_tok").size()?;
    if chosen > experts {
        return Err(json
            .at("num_experts_per_tok")
            .error(format!("is {chosen}, there are {experts} experts (num_experts)")));
    }
    let dense = json.at("mlp_only_layers");
    let dense_layers = if dense.present() {
        dense.list()?
    } else {
        Vec::new()
    };
    if let Some(layer) = dense_layers.iter().find(|l| **l >= layers) {
        return Err(dense.error(format!("names layer {layer}, num_hidden_layers is {layers}")));
    }
    Ok(MoeConfig {
        experts,
        chosen,
        intermediate: json.at("moe_intermediate_size").size()?,
        normalised: json.at("norm_topk_prob").bool_or(normalised)?,
        step: json.at("decoder_sparse_step").size_or(1)?,
        dense_layers,
    })
}
