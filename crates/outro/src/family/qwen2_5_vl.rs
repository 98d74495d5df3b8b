//! Qwen2.5-VL: the same decoder and vision tower as the Omni thinker, its own names and positions.

use super::{Family, Names, qwen2_5_vision, qwen2_text};
use crate::config::{Config, Json, PositionRule, SpecialTokens};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2_5_vl",
    parse,
    names: Names {
        text: "model.",
        lm_head: "lm_head.weight",
        vision: "visual.",
        audio: "",
        skipped: &[],
    },
};

fn parse(json: &Json) -> Result<Config> {
    // Newer releases of transformers nest the decoder's fields, older ones do not.
    let nested = json.at("text_config");
    let text = if nested.present() { &nested } else { json };
    let tied = json.at("tie_word_embeddings").bool_or(false)?;
    let text = qwen2_text(text, tied)?;
    let id = |key: &str| json.at(key).id().map(Some);
    let vision = json.at("vision_config");
    Ok(Config {
        model_type: FAMILY.model_type.into(),
        vision: Some(qwen2_5_vision(&vision, &text, true)?),
        audio: None,
        tokens: SpecialTokens {
            image: id("image_token_id")?,
            video: id("video_token_id")?,
            vision_start: id("vision_start_token_id")?,
            vision_end: id("vision_end_token_id")?,
            ..SpecialTokens::default()
        },
        positions: PositionRule::QwenVl {
            tokens_per_second: vision.at("tokens_per_second").positive_or(2.0)?,
        },
        text,
    })
}
