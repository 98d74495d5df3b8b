//! Qwen2.5-VL: the same decoder and vision tower as the Omni thinker, its own names and positions.

use super::decoder::{self, Kind, QWEN2_AXES, decoder, nested, tied};
use super::{Names, SYSTEM, qwen_vision_tokens, qwen2_5_vision, rate};
use crate::error::Result;
use crate::spec::config::{Config, FrameRule, Held, Json, PositionRule, TextConfig};

pub(super) const MODEL_TYPE: &str = "qwen2_5_vl";

/// As the hub has them; newer releases of transformers write them with other prefixes.
pub(super) const NAMES: Names = Names {
    text: "model.",
    lm_head: "lm_head.weight",
    vision: "visual.",
    merger: "visual.merger.",
    audio: "",
    skipped: &[],
    unused: &[],
    renamed: &[("model.language_model.", "model."), ("model.visual.", "visual.")],
};

pub(super) fn config(json: &Json) -> Result<Config> {
    let json = &json.of_class("Qwen2_5_VLConfig");
    let text = text(json, "Qwen2_5_VLTextConfig")?;
    let vision = json.object("vision_config", "Qwen2_5_VLVisionConfig")?;
    let rate = rate(&vision.at("tokens_per_second"), 2.0)?;
    Ok(Config {
        model_type: MODEL_TYPE.into(),
        vision: Some(qwen2_5_vision(&vision, &text, &["attn.qkv"])?),
        audio: None,
        tokens: qwen_vision_tokens(json)?,
        positions: PositionRule::QwenVl {
            tokens_per_second: rate,
        },
        frames: FrameRule::default(),
        names: NAMES,
        system: SYSTEM,
        held: Held::default(),
        text,
    })
}

/// The decoder of Qwen2-VL and its heirs.
pub(super) fn text(json: &Json, class: &str) -> Result<TextConfig> {
    let text = nested(json, class);
    let kind = Kind {
        axes: Some(QWEN2_AXES),
        ..decoder::QWEN2
    };
    decoder(&text, tied(json, &text)?, kind)
}
