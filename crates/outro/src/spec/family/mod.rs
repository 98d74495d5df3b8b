//! The model families: how `config.json` reads and what the tensors are called. Everything else is shared.

mod decoder;
pub(crate) mod gguf;
mod llava_onevision;
pub(crate) mod quantised;
mod qwen2_5_omni;
mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3;
mod qwen3_omni;
mod qwen3_vl;
mod text;
mod video_salmonn2;
mod videollama3;

use crate::error::Result;
pub use crate::spec::config::Names;
use crate::spec::config::{
    Activation, Config, Json, Merger, Norm, SpecialTokens, TextConfig, VisionConfig, VisionNames, Windows,
};

/// One family, as data. A caller's own goes to [`Config::load_among`].
pub struct Family {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// Where its tensors are; what [`Config::names`] is where the file does not say otherwise.
    pub names: Names,
    /// Reads the configuration.
    pub parse: fn(&Json) -> Result<Config>,
}

/// Every family that OutRo runs.
pub const FAMILIES: &[&Family] = &[
    &qwen2_5_omni::FAMILY,
    &video_salmonn2::FAMILY,
    &qwen2_vl::FAMILY,
    &llava_onevision::FAMILY,
    &videollama3::FAMILY,
    &videollama3::AUTHORS,
    &text::QWEN2,
    &text::LLAMA,
    &qwen3::DENSE,
    &qwen3::MOE,
    &qwen3_vl::FAMILY,
    &qwen3_vl::MOE,
    &qwen3_omni::FAMILY,
    &qwen2_5_omni::THINKER,
    &qwen3_omni::THINKER,
];

/// The system sentence of most chat models.
pub const SYSTEM: &str = "You are a helpful assistant.";

/// The family of a `model_type`.
pub fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|f| f.model_type == model_type)
}

/// Chooses the family by `model_type`, the caller's `own` first, and lets it read the rest.
pub(crate) fn parse(json: &Json, own: &[&Family]) -> Result<Config> {
    let field = json.at("model_type");
    let model_type = field.str()?;
    let all = || own.iter().chain(FAMILIES);
    let family = all().find(|f| f.model_type == model_type).ok_or_else(|| {
        let known: Vec<_> = all().map(|f| f.model_type).collect();
        let nearest = known.iter().min_by_key(|k| distance(k, model_type));
        field.unsupported(format!(
            "unknown architecture `{model_type}`; known: {}; the nearest is {}",
            known.join(", "),
            nearest.unwrap_or(&"none")
        ))
    })?;
    let scheme = quantised::scheme(json)?;
    let mut config = (family.parse)(json)?;
    json.unread()?;
    config.held.scheme = scheme;
    Ok(config)
}

/// How far two names are from each other: letters to change, add or remove (Levenshtein), less twice those with which
/// both begin; `_`, `-` and `.` left out.
fn distance(a: &str, b: &str) -> i64 {
    let letters = |s: &str| -> Vec<char> {
        s.to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric())
            .take(64)
            .collect()
    };
    let (a, b) = (letters(a), letters(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    let alike = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    row[b.len()] as i64 - 2 * alike as i64
}

/// Ids of the Qwen vision models' placeholders.
fn qwen_vision_tokens(json: &Json) -> Result<SpecialTokens> {
    let id = |key: &str| json.at(key).id().map(Some);
    Ok(SpecialTokens {
        image: id("image_token_id")?,
        video: id("video_token_id")?,
        vision_start: id("vision_start_token_id")?,
        vision_end: id("vision_end_token_id")?,
        ..SpecialTokens::default()
    })
}

/// That a tower's patches turn as the reference's do: releases of transformers from 5 on write how.
fn axial(json: &Json) -> Result<()> {
    for key in ["rope_parameters", "rope_scaling"] {
        let rope = json.at(key);
        rope.has_fields()?;
        for kind in ["rope_type", "type"] {
            rope.at(kind).only(&["axial", "default"])?;
        }
        let theta = rope.at("rope_theta");
        if theta.positive_or(THETA)? != THETA {
            return Err(theta.unsupported(format!("is {}, only {THETA} is supported", theta.positive()?)));
        }
    }
    Ok(())
}

/// The base of all towers' rotary embeddings.
const THETA: f64 = 10_000.0;

/// Width, heads and width of the MLP of a vision tower, `heads` under that key.
fn tower_sizes(json: &Json, width: &str, heads: &str) -> Result<(usize, usize)> {
    let (hidden, n) = (json.at(width).size()?, json.at(heads).size()?);
    if !hidden.is_multiple_of(n) || !(hidden / n).is_multiple_of(4) {
        return Err(json.at(width).error(format!(
            "is {hidden}, must be {heads} = {n} times a multiple of 4"
        )));
    }
    Ok((hidden, n))
}

/// The width that a tower hands to the decoder.
fn tower_out(json: &Json, key: &str, text: &TextConfig) -> Result<usize> {
    let out = json.at(key).size()?;
    if out == text.hidden {
        return Ok(out);
    }
    Err(json.at(key).error(format!(
        "is {out}, must equal the decoder's hidden_size = {}",
        text.hidden
    )))
}

/// Patch size in pixels and merge size in patches (default 2).
fn patch_and_merge(json: &Json, patch: usize) -> Result<(usize, usize)> {
    let (patch, merge) = (
        json.at("patch_size").size_or(patch)?,
        json.at("spatial_merge_size").size_or(2)?,
    );
    if patch.saturating_mul(merge) <= 4096 {
        return Ok((patch, merge));
    }
    let problem = format!("is {patch}, times spatial_merge_size = {merge} it must be at most 4096 pixels");
    Err(json.at("patch_size").error(problem))
}

/// How often a second something is counted.
fn rate(json: &Json, default: f64) -> Result<f64> {
    let rate = json.positive_or(default)?;
    if rate <= 1e6 {
        return Ok(rate);
    }
    Err(json.error(format!("is {rate}, must be at most 1000000")))
}

/// Colour channels, under any of their names.
fn channels(json: &Json) -> Result<usize> {
    let names = ["in_channels", "in_chans", "num_channels"].map(|key| json.at(key));
    let channels = names.iter().find(|n| n.present()).unwrap_or(&names[0]);
    match channels.size_or(3)? {
        3 => Ok(3),
        n => Err(channels.error(format!("is {n}, must be 3: pictures are red, green and blue"))),
    }
}

/// Tensor names of the Qwen2 and Qwen2.5 vision towers.
const QWEN_VISION: VisionNames = VisionNames {
    patch: "patch_embed.proj",
    positions: "",
    blocks: "blocks.",
    norms: ["norm1", "norm2"],
    qkv: &["attn.qkv"],
    proj: "attn.proj",
    mlp: &["mlp.fc1", "mlp.fc2"],
    norm: "merger.ln_q",
    merge: ["mlp.0", "mlp.2"],
    deepstack: [""; 2],
};

/// What the towers of Qwen2.5 and later have in common; what a family's does differently goes on top.
fn qwen_vision(json: &Json, text: &TextConfig, patch: usize, names: VisionNames) -> Result<VisionConfig> {
    axial(json)?;
    let (hidden, heads) = tower_sizes(json, "hidden_size", "num_heads")?;
    let (patch, merge) = patch_and_merge(json, patch)?;
    Ok(VisionConfig {
        depth: json.at("depth").size()?,
        hidden,
        heads,
        intermediate: json.at("intermediate_size").size()?,
        channels: channels(json)?,
        patch,
        temporal: json.at("temporal_patch_size").size_or(2)?,
        merge,
        image_merge: merge,
        norm: Norm::Layer,
        // The reference fixes it, config.json does not name it.
        norm_eps: 1e-6,
        activation: Activation::Silu,
        patch_bias: false,
        rotary: true,
        positions: None,
        windows: None,
        merger: Merger::Concat,
        deepstack: Vec::new(),
        anyres: None,
        out: tower_out(json, "out_hidden_size", text)?,
        names,
    })
}

/// A Qwen2.5 vision tower's configuration.
fn qwen2_5_vision(json: &Json, text: &TextConfig, qkv: &'static [&'static str]) -> Result<VisionConfig> {
    let names = VisionNames {
        qkv,
        mlp: &["mlp"],
        ..QWEN_VISION
    };
    json.at("hidden_act").only(&["silu"])?;
    let tower = qwen_vision(json, text, 14, names)?;
    let (side, token) = (json.at("window_size").size()?, tower.patch * tower.merge);
    if side < token {
        return Err(json.at("window_size").error(format!(
            "is {side}, must be at least patch_size x spatial_merge_size = {token}"
        )));
    }
    Ok(VisionConfig {
        norm: Norm::Rms,
        windows: Some(Windows {
            side,
            full_blocks: json.at("fullatt_block_indexes").list()?,
        }),
        ..tower
    })
}

/// A SigLIP tower's configuration, without positions; what a family does differently goes on top.
fn siglip_vision(json: &Json, text: &TextConfig, names: VisionNames) -> Result<VisionConfig> {
    axial(json)?;
    let (hidden, heads) = tower_sizes(json, "hidden_size", "num_attention_heads")?;
    Ok(VisionConfig {
        depth: json.at("num_hidden_layers").size()?,
        hidden,
        heads,
        intermediate: json.at("intermediate_size").size()?,
        channels: channels(json)?,
        patch: json.at("patch_size").size()?,
        temporal: 1,
        merge: 1,
        image_merge: 1,
        norm: Norm::Layer,
        norm_eps: json.at("layer_norm_eps").positive_or(1e-6)? as f32,
        activation: Activation::parse(&json.at("hidden_act"), Activation::GeluTanh)?,
        patch_bias: true,
        rotary: false,
        positions: None,
        windows: None,
        merger: Merger::Mean,
        deepstack: Vec::new(),
        anyres: None,
        out: text.hidden,
        names,
    })
}
