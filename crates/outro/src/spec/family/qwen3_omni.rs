//! Qwen3-Omni: the thinker, a mixture of experts with Qwen3-VL's tower and an audio tower of its own. The talker and
//! code2wav only make speech and are never read.

use super::qwen2_5_omni::{THINKER_NAMES, tied, whole};
use super::{Family, Names, qwen2_5_omni, qwen3_vl, rate};
use crate::error::Result;
use crate::spec::config::{
    AudioConfig, AudioProjector, Config, FrameRule, Held, Json, PositionRule, ResizePolicy, SpecialTokens,
    TextConfig, VisionNames,
};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_omni_moe",
    names: NAMES,
    parse: |json| thinker(&whole(json, "a Qwen3-Omni")?, FAMILY.model_type, NAMES),
};

/// The thinker alone, as what is trained of it is saved.
pub(super) const THINKER: Family = Family {
    model_type: "qwen3_omni_moe_thinker",
    names: THINKER_NAMES,
    parse: |json| thinker(json, THINKER.model_type, THINKER_NAMES),
};

const NAMES: Names = Names {
    skipped: &["talker.", "code2wav."],
    unused: &[],
    ..qwen2_5_omni::NAMES
};

const VISION: VisionNames = VisionNames {
    norm: "merger.ln_q",
    merge: ["mlp.0", "mlp.2"],
    deepstack: ["merger_list.", "ln_q"],
    ..qwen3_vl::VISION
};

fn thinker(json: &Json, model_type: &str, names: Names) -> Result<Config> {
    let thinker = json.of_class("Qwen3OmniMoeThinkerConfig");
    let text = thinker.object("text_config", "Qwen3OmniMoeTextConfig")?;
    let text = qwen3_vl::text(&text, tied(&thinker, &text)?, Some(true))?;
    let vision = thinker.object("vision_config", "Qwen3OmniMoeVisionEncoderConfig")?;
    let vision = qwen3_vl::vision(&vision, &text, VISION)?;
    let audio = thinker.object("audio_config", "Qwen3OmniMoeAudioEncoderConfig")?;
    let audio = self::audio(&audio, &text)?;
    let id = |key: &str| thinker.at(key).id();
    // Some releases write only the start tokens; the end tokens follow them in the vocabulary.
    let end = |key: &str, start: u32| {
        let end = thinker.at(key);
        match start.checked_add(1) {
            Some(next) if !end.present() => Ok(next),
            _ => end.id(),
        }
    };
    let (vision_start, audio_start) = (id("vision_start_token_id")?, id("audio_start_token_id")?);
    let token = (vision.patch * vision.merge).pow(2);
    Ok(Config {
        model_type: model_type.into(),
        vision: Some(vision),
        audio: Some(audio),
        tokens: SpecialTokens {
            audio: Some(id("audio_token_id")?),
            image: Some(id("image_token_id")?),
            video: Some(id("video_token_id")?),
            audio_start: Some(audio_start),
            audio_end: Some(end("audio_end_token_id", audio_start)?),
            vision_start: Some(vision_start),
            vision_end: Some(end("vision_end_token_id", vision_start)?),
        },
        positions: PositionRule::Merged {
            per_second: rate(&thinker.at("position_id_per_seconds"), 25.0)?,
        },
        frames: FrameRule {
            // The processor's default, in tokens of a frame. It also takes a frame a second for granted where nobody says a
            // rate, whatever qwen-omni-utils took; here times are those of the rate at which frames were taken.
            pixels: ResizePolicy::TwoStep((128 * token, 768 * token)),
            ..FrameRule::default()
        },
        names,
        system: "",
        held: Held::default(),
        text,
    })
}

fn audio(json: &Json, text: &TextConfig) -> Result<AudioConfig> {
    let audio = qwen2_5_omni::audio(json, text)?;
    let (window, chunk) = (json.at("n_window_infer").size()?, 2 * audio.n_window);
    if window < chunk {
        let problem = format!("is {window}, must be at least 2 * n_window = {chunk}");
        return Err(json.at("n_window_infer").error(problem));
    }
    Ok(AudioConfig {
        projector: AudioProjector::Linear {
            channels: json.at("downsample_hidden_size").size()?,
            chunks: window / chunk,
        },
        ..audio
    })
}
