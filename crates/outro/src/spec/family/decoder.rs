//! The decoder's configuration, the same for all families, and what it cannot be.

use super::Json;
use crate::error::Result;
use crate::spec::config::{Rope, TextConfig};

/// Frequencies that follow time, height and width where config.json does not say: those of Qwen2-VL and its heirs.
pub(super) const QWEN2_AXES: [usize; 3] = [16, 24, 24];
/// Those of Qwen3-VL and Qwen3-Omni.
pub(super) const QWEN3_AXES: [usize; 3] = [24, 20, 20];

/// Fields by which decoders differ that are not among these families, with the value that changes nothing. Some checkpoints
/// keep a family's `model_type` and bring code of their own.
const FOREIGN: [(&str, Neutral); 32] = [
    ("alibi", Neutral::No),
    ("attention_chunk_size", Neutral::No),
    ("attention_multiplier", Neutral::No),
    ("attn_logit_softcapping", Neutral::No),
    ("clip_qkv", Neutral::No),
    ("embedding_multiplier", Neutral::One),
    ("final_logit_softcapping", Neutral::No),
    ("is_causal", Neutral::One),
    ("kv_lora_rank", Neutral::No),
    ("logit_scale", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("mlp_bias", Neutral::No),
    ("n_routed_experts", Neutral::No),
    ("n_shared_experts", Neutral::No),
    ("no_rope_layers", Neutral::No),
    ("num_experts", Neutral::No),
    ("num_local_experts", Neutral::No),
    ("parallel_attn", Neutral::No),
    ("parallel_residual", Neutral::No),
    ("partial_rotary_factor", Neutral::One),
    ("q_lora_rank", Neutral::No),
    ("qk_layernorm", Neutral::No),
    ("query_pre_attn_scalar", Neutral::No),
    ("residual_multiplier", Neutral::One),
    ("rotary_pct", Neutral::One),
    ("scale_depth", Neutral::No),
    ("scale_emb", Neutral::One),
    ("shared_expert_intermediate_size", Neutral::No),
    ("use_bidirectional_attention", Neutral::No),
    ("use_mrope", Neutral::No),
    ("use_parallel_residual", Neutral::No),
    ("use_qk_norm", Neutral::No),
];

/// What a field may say.
#[derive(Clone, Copy, PartialEq)]
enum Neutral {
    /// `false`, 0, or an empty list.
    No,
    /// `true` or 1.
    One,
}

/// What tells decoders apart beside numbers.
#[derive(Clone, Copy, Default)]
pub(super) struct Kind {
    /// Whether q, k and v have biases.
    pub(super) qkv_bias: bool,
    /// Whether queries and keys are normed.
    pub(super) qk_norm: bool,
    /// Whether there may be experts.
    pub(super) experts: bool,
    /// Three axes of positions, and the default of how many frequencies follow each.
    pub(super) axes: Option<[usize; 3]>,
}

/// Qwen2's.
pub(super) const QWEN2: Kind = Kind {
    qkv_bias: true,
    qk_norm: false,
    experts: false,
    axes: None,
};

/// Where the decoder's fields stand: below `text_config`, or beside all others as before transformers 4.52.
pub(super) fn nested<'a>(json: &Json<'a>, class: &str) -> Json<'a> {
    let nested = json.at("text_config");
    if nested.present() { nested } else { json.clone() }.of_class(class)
}

/// Whether the output head is the embedding. Releases of transformers write it beside the decoder's fields, outside them, or both.
pub(super) fn tied<'a>(outer: &Json<'a>, text: &Json<'a>) -> Result<bool> {
    let [outer, inner] = [outer, text].map(|json| json.at("tie_word_embeddings").bool_or(false));
    Ok(outer? || inner?)
}

/// A decoder's configuration, without experts.
pub(super) fn decoder(json: &Json, tied: bool, kind: Kind) -> Result<TextConfig> {
    let hidden = json.at("hidden_size").size()?;
    let layers = json.at("num_hidden_layers").size()?;
    let heads = json.at("num_attention_heads").size()?;
    let kv_heads = json.at("num_key_value_heads").size_or(heads)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(json.at("num_key_value_heads").error(format!(
            "is {kv_heads}, must divide num_attention_heads = {heads}"
        )));
    }
    let head_dim = match json.at("head_dim") {
        given if given.known() => given.size()?,
        _ if hidden.is_multiple_of(heads) => hidden / heads,
        _ => {
            return Err(json.at("hidden_size").error(format!(
                "is {hidden}, must be a multiple of num_attention_heads = {heads}"
            )));
        }
    };
    if !head_dim.is_multiple_of(2) {
        return Err(json
            .at("head_dim")
            .error(format!("is {head_dim}, must be even for rotary embedding")));
    }
    json.at("hidden_act").only(&["silu"])?;
    foreign(json, kind)?;
    let written = json.at("max_position_embeddings").size_or(32768)?;
    let rope = Rope::read(json, head_dim, written, kind.axes)?;
    let max_positions = rope.context(written);
    windows(json, layers, max_positions, kind.experts)?;
    Ok(TextConfig {
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        intermediate: json.at("intermediate_size").size()?,
        vocab: json.at("vocab_size").size()?,
        max_positions,
        rope,
        norm_eps: json.at("rms_norm_eps").positive_or(1e-6)? as f32,
        qkv_bias: kind.qkv_bias,
        qk_norm: kind.qk_norm,
        moe: None,
        rope_pairs_interleaved: false,
        tied,
    })
}

/// Refuses what would change results and is not computed.
fn foreign(json: &Json, kind: Kind) -> Result<()> {
    for (key, neutral) in FOREIGN {
        let neutral = match key {
            "num_experts" | "num_local_experts" if kind.experts => continue,
            "use_qk_norm" if kind.qk_norm => Neutral::One,
            _ => neutral,
        };
        let field = json.at(key);
        if field.says(&[if neutral == Neutral::No { 0.0 } else { 1.0 }]) {
            continue;
        }
        return Err(field.unsupported(format!(
            "is {}, which is not supported; this family's decoder does not have it",
            field.shown()
        )));
    }
    Ok(())
}

/// Refuses attention that does not see all tokens before a token, where a window is shorter than what the model takes.
fn windows(json: &Json, layers: usize, longest: usize, experts: bool) -> Result<()> {
    let [window, uses, first, kinds] = [
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "layer_types",
    ]
    .map(|key| json.at(key));
    let short = window.known() && window.integer_or(0)? < longest as i64;
    if kinds.present() {
        for kind in kinds.strings()?.into_iter().take(layers) {
            if kind != "full_attention" && (kind != "sliding_attention" || short || !window.known()) {
                return Err(kinds.unsupported(format!("holds {kind}; only full_attention is supported")));
            }
        }
    }
    if !short {
        return Ok(());
    }
    let tokens = window.integer_or(0)?;
    if uses.known() {
        let first = first.integer_or(0)?;
        // Decoders with experts have the window in all layers.
        if uses.bool_or(false)? && (experts || first < layers as i64) && !kinds.present() {
            return Err(uses.unsupported(format!(
                "is true: some layers would see {tokens} tokens only (sliding_window), which is not supported"
            )));
        }
        return Ok(());
    }
    Err(window.unsupported(format!(
        "is {tokens}: layers that see so many tokens only are not supported"
    )))
}
