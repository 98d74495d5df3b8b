//! Qwen2.5-Omni: the thinker. The talker and token2wav only make speech and are never read.

use super::{Family, Names, qwen2_5_vision, qwen2_text, rate};
use crate::config::{
    AudioConfig, AudioForm, Config, FrameRule, Json, PositionRule, SpecialTokens, TextConfig,
};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2_5_omni",
    names: NAMES,
    parse,
};

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
    renamed: &[],
};

fn parse(json: &Json) -> Result<Config> {
    let thinker = json.at("thinker_config");
    if !thinker.present() {
        return Err(thinker.error("missing; a Qwen2.5-Omni checkpoint has it"));
    }
    let text = thinker.at("text_config");
    let tied = text.at("tie_word_embeddings").bool_or(false)?;
    let text = qwen2_text(&text, tied)?;
    let vision = qwen2_5_vision(
        &thinker.at("vision_config"),
        &text,
        &["attn.q", "attn.k", "attn.v"],
    )?;
    let audio = audio(&thinker.at("audio_config"), &text)?;
    let id = |key: &str| thinker.at(key).id().map(Some);
    Ok(Config {
        model_type: FAMILY.model_type.into(),
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
        frames: FrameRule::default(),
        names: NAMES,
        system: OMNI_SYSTEM,
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
    let act = json.at("activation_function");
    if act.present() && act.str()? != "gelu" {
        return Err(act.error(format!("is {}, only gelu is supported", act.str()?)));
    }
    if json.at("scale_embedding").bool_or(false)? {
        return Err(json
            .at("scale_embedding")
            .error("true is not supported; no released checkpoint of the family uses it"));
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
        form: AudioForm::Pairs,
    })
}
