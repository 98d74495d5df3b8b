//! Qwen2.5-Omni: the thinker. The talker and token2wav only make speech and are never read.

use super::decoder::{self, Kind, QWEN2_AXES, decoder};
use super::{Family, Names, qwen2_5_vision, rate};
use crate::error::Result;
use crate::spec::config::{
    AudioConfig, AudioProjector, Config, FrameRule, Held, Json, PositionRule, SpecialTokens, TextConfig,
};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2_5_omni",
    names: NAMES,
    parse: |json| thinker(&whole(json, "a Qwen2.5-Omni")?, FAMILY.model_type, NAMES),
};

/// The thinker's part of a whole model's configuration.
pub(super) fn whole<'a>(json: &Json<'a>, model: &str) -> Result<Json<'a>> {
    let thinker = json.at("thinker_config");
    if thinker.has_fields()? {
        return Ok(thinker);
    }
    Err(thinker.error(format!("missing; {model} checkpoint has it")))
}

/// The system sentence of the model card, with which the authors' release asks.
const OMNI_SYSTEM: &str = "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of \
perceiving auditory and visual inputs, as well as generating text and speech.";

pub(super) const NAMES: Names = Names {
    text: "thinker.model.",
    lm_head: "thinker.lm_head.weight",
    vision: "thinker.visual.",
    merger: "thinker.visual.merger.",
    audio: "thinker.audio_tower.",
    skipped: &["talker.", "token2wav."],
    // The reference has it and never uses it.
    unused: &["thinker.audio_tower.audio_bos_eos_token."],
    renamed: &[],
};

/// The thinker alone, as what is trained of it is saved: its configuration is the whole, its names have no prefix.
pub(super) const THINKER: Family = Family {
    model_type: "qwen2_5_omni_thinker",
    names: THINKER_NAMES,
    parse: |json| thinker(json, THINKER.model_type, THINKER_NAMES),
};

pub(super) const THINKER_NAMES: Names = Names {
    text: "model.",
    lm_head: "lm_head.weight",
    vision: "visual.",
    merger: "visual.merger.",
    audio: "audio_tower.",
    skipped: &[],
    unused: &["audio_tower.audio_bos_eos_token."],
    renamed: &[],
};

/// Whether its output head is the embedding: the decoder's fields say it. What stands beside them is a default of all
/// configuration classes, which means nothing here.
pub(super) fn tied<'a>(thinker: &Json<'a>, text: &Json<'a>) -> Result<bool> {
    let inner = text.at("tie_word_embeddings");
    if inner.present() {
        inner
    } else {
        thinker.at("tie_word_embeddings")
    }
    .bool_or(false)
}

fn thinker(json: &Json, model_type: &str, names: Names) -> Result<Config> {
    let thinker = json.of_class("Qwen2_5OmniThinkerConfig");
    let text = thinker.object("text_config", "Qwen2_5OmniTextConfig")?;
    let kind = Kind {
        axes: Some(QWEN2_AXES),
        ..decoder::QWEN2
    };
    let text = decoder(&text, tied(&thinker, &text)?, kind)?;
    let vision = thinker.object("vision_config", "Qwen2_5OmniVisionEncoderConfig")?;
    let vision = qwen2_5_vision(&vision, &text, &["attn.q", "attn.k", "attn.v"])?;
    let audio = thinker.object("audio_config", "Qwen2_5OmniAudioEncoderConfig")?;
    let audio = self::audio(&audio, &text)?;
    let id = |key: &str| thinker.at(key).id().map(Some);
    Ok(Config {
        model_type: model_type.into(),
        vision: Some(vision),
        audio: Some(audio),
        tokens: SpecialTokens {
            audio: id("audio_token_index")?,
            image: id("image_token_index")?,
            video: id("video_token_index")?,
            audio_start: id("audio_start_token_id")?,
            audio_end: id("audio_end_token_id")?,
            vision_start: id("vision_start_token_id")?,
            vision_end: id("vision_end_token_id")?,
        },
        positions: PositionRule::Tmrope {
            per_second: rate(&thinker.at("position_id_per_seconds"), 25.0)?,
            seconds_per_chunk: rate(&thinker.at("seconds_per_chunk"), 2.0)?,
        },
        frames: FrameRule {
            limits: Some((128 * 28 * 28, 768 * 28 * 28)),
            ..FrameRule::default()
        },
        names,
        system: OMNI_SYSTEM,
        held: Held::default(),
        text,
    })
}

/// The audio tower's configuration.
pub(super) fn audio(json: &Json, text: &TextConfig) -> Result<AudioConfig> {
    let hidden = json.at("d_model").size()?;
    let heads = json.at("encoder_attention_heads").size()?;
    if !hidden.is_multiple_of(heads) || !hidden.is_multiple_of(2) || hidden < 4 {
        return Err(json.at("d_model").error(format!(
            "is {hidden}, must be even, at least 4 and a multiple of encoder_attention_heads = {heads}"
        )));
    }
    json.at("activation_function").only(&["gelu"])?;
    if json.at("scale_embedding").bool_or(false)? {
        return Err(json
            .at("scale_embedding")
            .unsupported("true is not supported; no released checkpoint of the family uses it"));
    }
    let out = json.at("output_dim").size()?;
    if out != text.hidden {
        return Err(json.at("output_dim").error(format!(
            "is {out}, must equal the decoder's hidden_size = {}",
            text.hidden
        )));
    }
    let n_window = json.at("n_window").size()?;
    let max_positions = json.at("max_source_positions").size()?;
    if n_window > max_positions {
        return Err(json.at("n_window").error(format!(
            "is {n_window}, must not exceed max_source_positions = {max_positions}"
        )));
    }
    Ok(AudioConfig {
        layers: json.at("encoder_layers").size()?,
        hidden,
        heads,
        intermediate: json.at("encoder_ffn_dim").size()?,
        mel_bins: json.at("num_mel_bins").size()?,
        n_window,
        max_positions,
        out,
        projector: AudioProjector::AvgPool2,
    })
}
