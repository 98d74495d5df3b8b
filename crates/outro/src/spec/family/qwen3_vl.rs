//! Qwen3-VL, dense or with experts: rows of some of the tower's blocks go to the decoder's first layers, too; frames stand in the prompt
//! after their times; the axes take turns among the rotary frequencies.

use outro_media::{Sampling, Spread};

use super::decoder::{QWEN3_AXES, tied};
use super::{Family, Names, qwen_vision, qwen_vision_tokens, qwen3};
use crate::error::Result;
use crate::spec::config::{
    Activation, Config, FrameRule, Held, Json, PositionRule, ResizePolicy, TextConfig, Timestamps,
    VisionConfig, VisionNames,
};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_vl",
    names: NAMES,
    parse: |json| {
        let json = &json.of_class("Qwen3VLConfig");
        let text = json.object("text_config", "Qwen3VLTextConfig")?;
        let text = self::text(&text, tied(json, &text)?, None)?;
        let vision = json.object("vision_config", "Qwen3VLVisionConfig")?;
        whole(FAMILY.model_type, json, text, &vision)
    },
};

/// With experts.
pub(super) const MOE: Family = Family {
    model_type: "qwen3_vl_moe",
    names: NAMES,
    parse: |json| {
        let json = &json.of_class("Qwen3VLMoeConfig");
        let text = json.object("text_config", "Qwen3VLMoeTextConfig")?;
        let text = self::text(&text, tied(json, &text)?, Some(true))?;
        let vision = json.object("vision_config", "Qwen3VLMoeVisionConfig")?;
        whole(MOE.model_type, json, text, &vision)
    },
};

const NAMES: Names = Names {
    text: "model.language_model.",
    lm_head: "lm_head.weight",
    vision: "model.visual.",
    merger: "model.visual.merger.",
    audio: "",
    skipped: &[],
    unused: &[],
    renamed: &[],
};

pub(super) const VISION: VisionNames = VisionNames {
    patch: "patch_embed.proj",
    positions: "pos_embed",
    blocks: "blocks.",
    norms: ["norm1", "norm2"],
    qkv: &["attn.qkv"],
    proj: "attn.proj",
    mlp: &["mlp.linear_fc1", "mlp.linear_fc2"],
    norm: "merger.norm",
    merge: ["linear_fc1", "linear_fc2"],
    deepstack: ["deepstack_merger_list.", "norm"],
};

fn whole(model_type: &str, json: &Json, text: TextConfig, vision: &Json) -> Result<Config> {
    let vision = self::vision(vision, &text, VISION)?;
    // Where the checkpoint does not say: of images the processor's default, in tokens of a picture; of videos what all
    // published sizes have, which is 32 times the processor's default.
    let token = (vision.patch * vision.merge).pow(2);
    Ok(Config {
        model_type: model_type.into(),
        vision: Some(vision),
        audio: None,
        tokens: qwen_vision_tokens(json)?,
        positions: PositionRule::Grid,
        frames: FrameRule {
            sampling: Sampling {
                spread: Spread::Even,
                ..Sampling::default()
            },
            pixels: ResizePolicy::Volume {
                image: (64 * token, 16384 * token),
                video: (4096, 25_165_824),
            },
            timestamps: Some(Timestamps {
                before: "<",
                after: " seconds>",
                between: "",
                delimited: true,
            }),
            ..FrameRule::default()
        },
        names: NAMES,
        system: "",
        held: Held::default(),
        text,
    })
}

/// The decoder's configuration, with experts or without.
pub(super) fn text(json: &Json, tied: bool, experts: Option<bool>) -> Result<TextConfig> {
    let mut text = qwen3::decoder(json, tied, Some(QWEN3_AXES), experts)?;
    // Later releases of transformers do not write it any more.
    for rope in ["rope_scaling", "rope_parameters"] {
        let turns = json.at(rope).at("mrope_interleaved");
        if !turns.bool_or(true)? {
            return Err(
                turns.unsupported("false is not supported; no released checkpoint of the family has it")
            );
        }
    }
    text.rope.mrope_interleaved = true;
    Ok(text)
}

/// The tower of Qwen3-VL and Qwen3-Omni.
pub(super) fn vision(json: &Json, text: &TextConfig, names: VisionNames) -> Result<VisionConfig> {
    let tower = qwen_vision(json, text, 16, names)?;
    let depth = tower.depth;
    let table = json.at("num_position_embeddings");
    let side = table.size()?.isqrt();
    if side * side != table.size()? {
        return Err(table.error(format!("is {}, must be a square", table.size()?)));
    }
    let learned = json.at("apply_vit_abs_pos_embed");
    if !learned.bool_or(true)? {
        return Err(
            learned.unsupported("false is not supported; no released checkpoint of the family has it")
        );
    }
    let indexes = json.at("deepstack_visual_indexes");
    let deepstack: Vec<usize> = indexes.list()?;
    if !deepstack.is_sorted_by(|a, b| a < b) || deepstack.last().is_some_and(|l| *l >= depth) {
        let problem = format!("is {deepstack:?}, must ascend and stay below depth = {depth}");
        return Err(indexes.error(problem));
    }
    Ok(VisionConfig {
        activation: Activation::parse(&json.at("hidden_act"), Activation::GeluTanh)?,
        patch_bias: true,
        positions: Some(side),
        deepstack,
        ..tower
    })
}
