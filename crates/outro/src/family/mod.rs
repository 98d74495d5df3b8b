//! The model families: how `config.json` reads and what the tensors are called. Everything else is shared.

mod qwen2_5_omni;
mod qwen2_5_vl;
mod qwen3;
mod text;

use crate::config::{Config, Json, TextConfig, VisionConfig};
use crate::error::Result;

/// One family, as data.
pub struct Family {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// Reads the configuration.
    parse: fn(&Json) -> Result<Config>,
    /// Where its tensors are.
    pub names: Names,
}

/// Tensor name prefixes of a checkpoint, dots included.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Before `embed_tokens.weight`, `layers.N.*` and `norm.weight`.
    pub text: &'static str,
    /// The untied output head's tensor.
    pub lm_head: &'static str,
    /// Before the vision tower's tensors.
    pub vision: &'static str,
    /// Before the audio tower's tensors.
    pub audio: &'static str,
    /// Parts that are never read (speech output).
    pub skipped: &'static [&'static str],
}

/// Every family that OutRo runs.
pub const FAMILIES: &[&Family] = &[
    &qwen2_5_omni::FAMILY,
    &qwen2_5_vl::FAMILY,
    &text::QWEN2,
    &text::LLAMA,
    &qwen3::DENSE,
    &qwen3::MOE,
];

pub(crate) use text::gguf;

/// The family of a `model_type`.
pub fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|f| f.model_type == model_type)
}

/// Chooses the family by `model_type` and lets it read the rest.
pub(crate) fn parse(json: &Json) -> Result<Config> {
    let field = json.at("model_type");
    let model_type = field.str()?;
    let family = find(model_type).ok_or_else(|| {
        let known: Vec<_> = FAMILIES.iter().map(|f| f.model_type).collect();
        let nearest = known.iter().max_by_key(|k| {
            k.bytes()
                .zip(model_type.bytes())
                .take_while(|(a, b)| a == b)
                .count()
        });
        field.error(format!(
            "unknown architecture `{model_type}`; known: {}; the nearest is {}",
            known.join(", "),
            nearest.unwrap_or(&"none")
        ))
    })?;
    (family.parse)(json)
}

/// What says how positions are rotated: newer releases of transformers have another name for it.
fn rope<'a>(json: &Json<'a>) -> Json<'a> {
    let newer = json.at("rope_parameters");
    if newer.present() {
        newer
    } else {
        json.at("rope_scaling")
    }
}

/// A Qwen2-style decoder's configuration.
fn qwen2_text(json: &Json, tied: bool) -> Result<TextConfig> {
    let hidden = json.at("hidden_size").size()?;
    let heads = json.at("num_attention_heads").size()?;
    let kv_heads = json.at("num_key_value_heads").size_or(heads)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(json.at("num_key_value_heads").error(format!(
            "is {kv_heads}, must divide num_attention_heads = {heads}"
        )));
    }
    let head_dim = match json.at("head_dim") {
        given if given.present() => given.size()?,
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
    if json.at("use_sliding_window").bool_or(false)? {
        return Err(json.at("use_sliding_window").error(
            "sliding-window attention is not supported; no released checkpoint of the family uses it",
        ));
    }
    let act = json.at("hidden_act");
    if act.present() && act.str()? != "silu" {
        return Err(act.error(format!("is {}, only silu is supported", act.str()?)));
    }
    let rope = rope(json);
    let sections = rope.at("mrope_section");
    let rope_sections = if sections.present() {
        let list = sections.list()?;
        match <[usize; 3]>::try_from(list.clone()) {
            Ok(s) if s.iter().sum::<usize>() == head_dim / 2 => Some(s),
            _ => {
                return Err(sections.error(format!(
                    "is {list:?}, must be three numbers with the sum head_dim / 2 = {}",
                    head_dim / 2
                )));
            }
        }
    } else {
        None
    };
    Ok(TextConfig {
        hidden,
        layers: json.at("num_hidden_layers").size()?,
        heads,
        kv_heads,
        head_dim,
        intermediate: json.at("intermediate_size").size()?,
        vocab: json.at("vocab_size").size()?,
        max_positions: json.at("max_position_embeddings").size_or(32768)?,
        rope_theta: match json.at("rope_theta") {
            given if given.present() => given.positive()?,
            _ => rope.at("rope_theta").positive_or(10000.0)?,
        },
        rope_sections,
        rope_in_turn: rope.at("mrope_interleaved").bool_or(false)?,
        norm_eps: json.at("rms_norm_eps").positive_or(1e-6)? as f32,
        rope_divisors: None,
        qkv_bias: true,
        qk_norm: false,
        moe: None,
        interleaved: false,
        tied,
    })
}

/// A Qwen2.5 vision tower's configuration.
fn qwen2_5_vision(json: &Json, text: &TextConfig, fused_qkv: bool) -> Result<VisionConfig> {
    let hidden = json.at("hidden_size").size()?;
    let heads = json.at("num_heads").size()?;
    if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(4) {
        return Err(json.at("hidden_size").error(format!(
            "is {hidden}, must be num_heads = {heads} times a multiple of 4"
        )));
    }
    let (patch, merge, window) = (
        json.at("patch_size").size()?,
        json.at("spatial_merge_size").size()?,
        json.at("window_size").size()?,
    );
    if window < patch * merge {
        return Err(json.at("window_size").error(format!(
            "is {window}, must be at least patch_size x spatial_merge_size = {}",
            patch * merge
        )));
    }
    let out = json.at("out_hidden_size").size()?;
    if out != text.hidden {
        return Err(json.at("out_hidden_size").error(format!(
            "is {out}, must equal the decoder's hidden_size = {}",
            text.hidden
        )));
    }
    let depth = json.at("depth").size()?;
    let full_blocks = json.at("fullatt_block_indexes").list()?;
    Ok(VisionConfig {
        depth,
        hidden,
        heads,
        intermediate: json.at("intermediate_size").size()?,
        channels: if json.at("in_channels").present() {
            json.at("in_channels").size()?
        } else {
            json.at("in_chans").size_or(3)?
        },
        patch,
        temporal: json.at("temporal_patch_size").size()?,
        merge,
        window,
        full_blocks,
        out,
        fused_qkv,
    })
}
