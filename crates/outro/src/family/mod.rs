//! The model families: how `config.json` reads and what the tensors are called. Everything else is shared.

mod llava_onevision;
mod qwen2_5_omni;
mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3;
mod qwen3_omni;
mod qwen3_vl;
mod text;
mod video_salmonn2;
mod videollama3;

pub use crate::config::Names;
use crate::config::{
    Activation, Config, Json, Merger, Norm, SpecialTokens, TextConfig, VisionConfig, VisionNames, Windows,
};
use crate::error::Result;

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
    &qwen2_5_vl::FAMILY,
    &qwen2_vl::FAMILY,
    &llava_onevision::FAMILY,
    &videollama3::FAMILY,
    &videollama3::AUTHORS,
    &text::QWEN2,
    &text::LLAMA,
    &qwen3::DENSE,
    &qwen3::MOE,
    &qwen3_vl::FAMILY,
    &qwen3_omni::FAMILY,
];

pub(crate) use text::gguf;

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
        field.error(format!(
            "unknown architecture `{model_type}`; known: {}; the nearest is {}",
            known.join(", "),
            nearest.unwrap_or(&"none")
        ))
    })?;
    (family.parse)(json)
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

/// Pixels on the side of a patch, and patches on the side of a token, of which a family's default is two.
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
    let (hidden, heads) = tower_sizes(json, "hidden_size", "num_heads")?;
    let (patch, merge) = patch_and_merge(json, patch)?;
    Ok(VisionConfig {
        depth: json.at("depth").size()?,
        hidden,
        heads,
        intermediate: json.at("intermediate_size").size()?,
        channels: channels(json)?,
        patch,
        temporal: json.at("temporal_patch_size").size()?,
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
        tiles: None,
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
        tiles: None,
        out: text.hidden,
        names,
    })
}
