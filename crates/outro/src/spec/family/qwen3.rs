//! Qwen3: no biases, RMS norms of queries and keys, a head size of its own; dense or with experts.

use super::Family;
use super::decoder::{self, Kind, tied};
use super::text::{NAMES, only};
use crate::error::Result;
use crate::spec::config::{Json, MoeConfig, TextConfig};

pub(super) const DENSE: Family = Family {
    model_type: "qwen3",
    parse: |json| {
        let json = json.of_class("Qwen3Config");
        Ok(only("qwen3", decoder(&json, tied(&json, &json)?, None, None)?))
    },
    names: NAMES,
};

pub(super) const MOE: Family = Family {
    model_type: "qwen3_moe",
    parse: |json| {
        let json = json.of_class("Qwen3MoeConfig");
        Ok(only(
            "qwen3_moe",
            decoder(&json, tied(&json, &json)?, None, Some(false))?,
        ))
    },
    names: NAMES,
};

/// A Qwen3 decoder's configuration. Experts' shares are normalised where it does not say, or not.
pub(super) fn decoder(
    json: &Json,
    tied: bool,
    axes: Option<[usize; 3]>,
    experts: Option<bool>,
) -> Result<TextConfig> {
    let bias = json.at("attention_bias");
    if bias.bool_or(false)? {
        return Err(bias.unsupported("true is not supported; no released checkpoint of the family uses it"));
    }
    let kind = Kind {
        qkv_bias: false,
        qk_norm: true,
        experts: experts.is_some(),
        axes,
    };
    let text = decoder::decoder(json, tied, kind)?;
    Ok(TextConfig {
        moe: experts
            .map(|normalised| moe(json, text.layers, normalised))
            .transpose()?,
        ..text
    })
}

fn moe(json: &Json, layers: usize, normalised: bool) -> Result<MoeConfig> {
    // Newer releases of transformers write the first name.
    let [newer, older] = ["num_local_experts", "num_experts"].map(|key| json.at(key));
    let experts = if newer.present() { &newer } else { &older }.size()?;
    if older.present() && older.size()? != experts {
        return Err(older.error(format!("is {}, num_local_experts is {experts}", older.size()?)));
    }
    let top_k = json.at("num_experts_per_tok").size()?;
    if top_k > experts {
        return Err(json
            .at("num_experts_per_tok")
            .error(format!("is {top_k}, there are {experts} experts (num_experts)")));
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
        top_k,
        intermediate: json.at("moe_intermediate_size").size()?,
        normalised: json.at("norm_topk_prob").bool_or(normalised)?,
        sparse_step: json.at("decoder_sparse_step").size_or(1)?,
        dense_layers,
    })
}
