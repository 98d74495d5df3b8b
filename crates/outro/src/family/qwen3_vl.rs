//! Qwen3-VL, dense: rows of some of the tower's blocks go to the decoder's first layers, too; frames stand in the prompt
//! after their times; the axes take turns among the rotary frequencies.

use outro_media::{Sampling, Spread};

use super::{Family, Names, qwen_vision, qwen_vision_tokens, qwen3};
use crate::config::{
    Activation, Config, FrameRule, Json, PixelRule, PositionRule, Stamps, TextConfig, VisionConfig,
    VisionNames,
};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_vl",
    names: NAMES,
    parse,
};

const NAMES: Names = Names {
    text: "model.language_model.",
    lm_head: "lm_head.weight",
    vision: "model.visual.",
    merger: "model.visual.merger.",
    audio: "",
    skipped: &[],
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

fn parse(json: &Json) -> Result<Config> {
    let text = text(&json.at("text_config"), json, None)?;
    let vision = vision(&json.at("vision_config"), &text, VISION)?;
    // The processors' defaults, in tokens of a picture, where the checkpoint does not say; without `cap_pixels_per_frame`,
    // which was not there when the models came out.
    let token = (vision.patch * vision.merge).pow(2);
    Ok(Config {
        model_type: FAMILY.model_type.into(),
        vision: Some(vision),
        audio: None,
        tokens: qwen_vision_tokens(json)?,
        positions: PositionRule::Grid,
        frames: FrameRule {
            sampling: Sampling {
                spread: Spread::Even,
                ..Sampling::default()
            },
            pixels: PixelRule::Volume {
                image: (64 * token, 16384 * token),
                video: (128 * token, 768 * token),
            },
            stamps: Some(Stamps {
                before: "<",
                after: " seconds>",
                between: "",
                delimited: true,
            }),
            ..FrameRule::default()
        },
        names: NAMES,
        system: "",
        text,
    })
}

/// The decoder's configuration; `outer` is what it stands in.
pub(super) fn text(json: &Json, outer: &Json, experts: Option<bool>) -> Result<TextConfig> {
    let mut text = qwen3::decoder(json, experts)?;
    text.tied |= outer.at("tie_word_embeddings").bool_or(false)?;
    let rope = super::rope(json);
    if text.rope_sections.is_none() {
        return Err(rope
            .at("mrope_section")
            .error("missing: how many frequencies follow time, height and width"));
    }
    let turns = rope.at("mrope_interleaved");
    // Later releases of transformers do not write it any more.
    text.rope_in_turn = turns.bool_or(true)?;
    if text.rope_in_turn {
        return Ok(text);
    }
    Err(turns.error("false is not supported; no released checkpoint of the family has it"))
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
    let indexes = json.at("deepstack_visual_indexes");
    let deepstack: Vec<usize> = indexes.list()?;
    if !deepstack.is_sorted_by(|a, b| a < b) || deepstack.last().is_some_and(|l| *l >= depth) {
        let problem = format!("is {deepstack:?}, must ascend and stay below depth = {depth}");
        return Err(indexes.error(problem));
    }
    if deepstack.len() > text.layers {
        let problem = format!(
            "has {} blocks, the decoder only {} layers",
            deepstack.len(),
            text.layers
        );
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
