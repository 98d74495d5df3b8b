//! LLaVA-OneVision with a Qwen2 decoder: a SigLIP tower over squares of one size, an image in parts, frames of a video
//! with half their rows and columns, and a learned newline.

use outro_media::{Sampling, Spread};

use super::decoder::{QWEN2, decoder, tied};
use super::{Family, Names, siglip_vision};
use crate::error::Result;
use crate::spec::config::{
    AnyRes, Config, FrameRule, Held, Json, PositionRule, SpecialTokens, TextConfig, VisionConfig, VisionNames,
};

pub(super) const FAMILY: Family = Family {
    model_type: "llava_onevision",
    names: NAMES,
    parse,
};

/// As the hub has them; newer releases of transformers write them otherwise.
const NAMES: Names = Names {
    text: "language_model.model.",
    lm_head: "language_model.lm_head.weight",
    vision: "vision_tower.vision_model.",
    merger: "multi_modal_projector.",
    audio: "",
    skipped: &[],
    // Features are taken before them.
    unused: &[
        "vision_tower.vision_model.post_layernorm.",
        "vision_tower.vision_model.head.",
    ],
    renamed: &[
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.", ""),
        ("lm_head.", "language_model.lm_head."),
    ],
};

const VISION: VisionNames = VisionNames {
    patch: "embeddings.patch_embedding",
    positions: "embeddings.position_embedding",
    blocks: "encoder.layers.",
    norms: ["layer_norm1", "layer_norm2"],
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    proj: "self_attn.out_proj",
    mlp: &["mlp.fc1", "mlp.fc2"],
    // Features are those of the last layer, before the tower's own norm.
    norm: "",
    merge: ["linear_1", "linear_2"],
    deepstack: [""; 2],
};

fn parse(json: &Json) -> Result<Config> {
    let json = &json.of_class("LlavaOnevisionConfig");
    let text = json.object("text_config", "Qwen2Config")?;
    text.at("model_type").only(&["qwen2"])?;
    let text = decoder(&text, tied(json, &text)?, QWEN2)?;
    // Older releases of transformers call an id an index.
    let id = |new: &str, old: &str| {
        let (given, old) = (json.at(new), json.at(old));
        if given.present() { given } else { old }.id().map(Some)
    };
    Ok(Config {
        model_type: FAMILY.model_type.into(),
        vision: Some(tower(json, &text)?),
        audio: None,
        tokens: SpecialTokens {
            image: id("image_token_id", "image_token_index")?,
            video: id("video_token_id", "video_token_index")?,
            ..SpecialTokens::default()
        },
        positions: PositionRule::Text,
        frames: FrameRule {
            sampling: Sampling {
                // As the authors evaluate it: 32 frames, or all that there are.
                spread: Spread::Floor,
                fps: 1000.0,
                max_frames: 32,
                ..Sampling::default()
            },
            timed: true,
            after: "\n",
            ..FrameRule::default()
        },
        names: NAMES,
        system: "",
        held: Held::default(),
        text,
    })
}

fn tower(json: &Json, text: &TextConfig) -> Result<VisionConfig> {
    json.at("vision_feature_select_strategy").only(&["full"])?;
    json.at("projector_hidden_act").only(&["gelu"])?;
    let v = json.object("vision_config", "SiglipVisionConfig")?;
    v.at("model_type").only(&["siglip_vision_model"])?;
    let tower = siglip_vision(&v, text, VISION)?;
    let side = v.at("image_size").size()?;
    if side < tower.patch {
        return Err(v.at("image_size").error(format!(
            "is {side}, must be at least patch_size = {}",
            tower.patch
        )));
    }
    Ok(VisionConfig {
        depth: layers(&json.at("vision_feature_layer"), tower.depth)?,
        positions: Some(side / tower.patch),
        anyres: Some(AnyRes {
            side,
            resolutions: resolutions(&json.at("image_grid_pinpoints"), side)?,
            most: most(&json.at("vision_aspect_ratio"))?,
            newline: "image_newline",
        }),
        ..tower
    })
}

/// Blocks whose output is the feature: counted from the end, the last is -1.
fn layers(json: &Json, all: usize) -> Result<usize> {
    let layer = json.integer_or(-1)?;
    let used = if layer < 0 { all as i64 + 1 + layer } else { layer };
    match usize::try_from(used) {
        Ok(used) if (1..=all).contains(&used) => Ok(used),
        _ => Err(json.error(format!(
            "is {layer}, the tower has {all} layers (num_hidden_layers)"
        ))),
    }
}

/// Sizes of whole parts; the published ones are all from 1 x 1 to 6 x 6.
fn resolutions(json: &Json, side: usize) -> Result<Vec<[usize; 2]>> {
    if !json.present() {
        return Ok((1..=6)
            .flat_map(|h| (1..=6).map(move |w| [h * side, w * side]))
            .collect());
    }
    let pairs = json.pairs()?;
    match pairs.iter().find(|p| p.iter().any(|n| *n == 0 || n % side != 0)) {
        _ if pairs.is_empty() => Err(json.error("is empty; at least one resolution is needed")),
        Some(pair) => Err(json.error(format!(
            "holds {pair:?}, must be multiples of image_size = {side}"
        ))),
        None => Ok(pairs),
    }
}

/// `anyres_max_9` is 9.
fn most(json: &Json) -> Result<usize> {
    if !json.present() {
        return Ok(9);
    }
    let text = json.str()?;
    let number = text.strip_prefix("anyres_max_").and_then(|n| n.parse().ok());
    number
        .filter(|n| (1..=1024).contains(n))
        .ok_or_else(|| json.error(format!("is {text}, must be anyres_max_ and a number")))
}
