//! Qwen2.5-VL: the same decoder and vision tower as the Omni thinker, its own names and positions.

use super::{Family, Names, SYSTEM, qwen_vision_tokens, qwen2_5_vision, qwen2_text, rate, video_salmonn2};
use crate::config::{Config, FrameRule, Json, PositionRule};
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
    renamed: &[("model.language_model.", "model."), ("model.visual.", "visual.")],
};

fn parse(json: &Json) -> Result<Config> {
    // Newer releases of transformers nest the decoder's fields, older ones do not.
    let nested = json.at("text_config");
    let text = if nested.present() { &nested } else { json };
    let tied = json.at("tie_word_embeddings").bool_or(false)?;
    let text = qwen2_text(text, tied)?;
    let vision = json.at("vision_config");
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
            tokens_per_second: rate(&vision.at("tokens_per_second"), 2.0)?,
        },
        frames: FrameRule::default(),
        names: NAMES,
        system: SYSTEM,
        text,
    })
}
