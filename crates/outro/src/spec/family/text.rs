//! Text models with the same decoder: plain Qwen2 and Llama.

use super::decoder::{self, Kind, decoder, tied};
use super::{Family, Names, SYSTEM};
use crate::error::Result;
use crate::spec::config::{Config, FrameRule, Held, Json, PositionRule, SpecialTokens, TextConfig};

pub(super) const NAMES: Names = Names {
    text: "model.",
    lm_head: "lm_head.weight",
    vision: "",
    merger: "",
    audio: "",
    skipped: &[],
    unused: &[],
    renamed: &[],
};

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    names: NAMES,
    parse: |json| text("qwen2", json, "Qwen2Config", decoder::QWEN2),
};

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    names: NAMES,
    parse: |json| text("llama", json, "LlamaConfig", Kind::default()),
};

fn text(model_type: &str, json: &Json, class: &str, kind: Kind) -> Result<Config> {
    let json = json.of_class(class);
    Ok(only(model_type, decoder(&json, tied(&json, &json)?, kind)?))
}

/// A decoder and nothing else.
pub(super) fn only(model_type: &str, text: TextConfig) -> Config {
    Config {
        model_type: model_type.into(),
        text,
        vision: None,
        audio: None,
        tokens: SpecialTokens::default(),
        positions: PositionRule::Text,
        frames: FrameRule::default(),
        names: NAMES,
        system: SYSTEM,
        held: Held::default(),
    }
}
