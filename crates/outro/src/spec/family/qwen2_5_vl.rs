//! Qwen2.5-VL: the same decoder and vision tower as the Omni thinker, its own names and positions.

use super::decoder::{self, Kind, QWEN2_AXES, decoder, nested, tied};
use super::{Family, Names, SYSTEM, qwen_vision_tokens, qwen2_5_vision, rate, video_salmonn2};
use crate::config::{Config, FrameRule, Json, PositionRule, TextConfig};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2_5_vl",
    names: NAMES,
    parse,
};

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

fn parse(json: &Json) -> Result<Config> {
    let json = &json.of_class("Qwen2_5_VLConfig");
    let text = text(json, "Qwen2_5_VLTextConfig")?;
    let vision = json.object("vision_config", "Qwen2_5_VLVisionConfig")?;
    let rate = rate(&vision.at("tokens_per_second"), 2.0)?;
    // Its authors kept the `model_type`.
    if json.at("audio_config").present() {
        return video_salmonn2::config(json, text, &vision);
    }
    Ok(Config {
        model_type: FAMILY.model_type.into(),
        vision: Some(qwen2_5_vision(&vision, &text, &["attn.qkv"])?),
        audio: None,
        tokens: qwen_vision_tokens(json)?,
        positions: PositionRule::QwenVl {
            tokens_per_second: rate,
        },
        frames: FrameRule::default(),
        names: NAMES,
        system: SYSTEM,
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
