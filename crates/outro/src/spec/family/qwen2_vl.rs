//! Qwen2-VL: the tower without windows, layer norms and a plain MLP; a grid step of a video is one position.

use super::qwen2_5_vl::{NAMES, text};
use super::{
    Family, QWEN_VISION, SYSTEM, axial, channels, patch_and_merge, qwen_vision_tokens, tower_out, tower_sizes,
};
use crate::error::Result;
use crate::spec::config::{
    Activation, Config, FrameRule, Held, Json, Merger, Norm, PositionRule, TextConfig, VisionConfig,
};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2_vl",
    names: NAMES,
    parse,
};

fn parse(json: &Json) -> Result<Config> {
    let json = &json.of_class("Qwen2VLConfig");
    let text = text(json, "Qwen2VLTextConfig")?;
    Ok(Config {
        model_type: FAMILY.model_type.into(),
        vision: Some(vision(
            &json.object("vision_config", "Qwen2VLVisionConfig")?,
            &text,
        )?),
        audio: None,
        tokens: qwen_vision_tokens(json)?,
        positions: PositionRule::Grid,
        frames: FrameRule::default(),
        names: NAMES,
        system: SYSTEM,
        held: Held::default(),
        text,
    })
}

fn vision(json: &Json, text: &TextConfig) -> Result<VisionConfig> {
    axial(json)?;
    let (hidden, heads) = tower_sizes(json, "embed_dim", "num_heads")?;
    let ratio = json.at("mlp_ratio").positive_or(4.0)?;
    let (patch, merge) = patch_and_merge(json, 14)?;
    Ok(VisionConfig {
        depth: json.at("depth").size()?,
        hidden,
        heads,
        intermediate: (hidden as f64 * ratio.min(64.0)) as usize,
        channels: channels(json)?,
        patch,
        temporal: json.at("temporal_patch_size").size_or(2)?,
        merge,
        image_merge: merge,
        norm: Norm::Layer,
        // The reference fixes it, config.json does not name it.
        norm_eps: 1e-6,
        activation: Activation::parse(&json.at("hidden_act"), Activation::QuickGelu)?,
        patch_bias: false,
        rotary: true,
        positions: None,
        windows: None,
        merger: Merger::Concat,
        deepstack: Vec::new(),
        anyres: None,
        out: tower_out(json, "hidden_size", text)?,
        names: QWEN_VISION,
    })
}
