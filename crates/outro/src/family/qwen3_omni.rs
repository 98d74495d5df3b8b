//! Qwen3-Omni: the thinker, a mixture of experts with Qwen3-VL's tower and an audio tower of its own. The talker and
//! code2wav only make speech and are never read.

use super::{Family, Names, qwen2_5_omni, qwen3_vl, rate};
use crate::config::{
    AudioConfig, AudioForm, Config, FrameRule, Json, PixelRule, PositionRule, SpecialTokens, TextConfig,
    VisionNames,
};
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_omni_moe",
    names: NAMES,
    parse,
};

const NAMES: Names = Names {
    skipped: &["talker.", "code2wav."],
    ..qwen2_5_omni::NAMES
};

const VISION: VisionNames = VisionNames {
    norm: "merger.ln_q",
    merge: ["mlp.0", "mlp.2"],
    deepstack: ["merger_list.", "ln_q"],
    ..qwen3_vl::VISION
};

fn parse(json: &Json) -> Result<Config> {
    let thinker = json.at("thinker_config");
    if !thinker.present() {
        return Err(thinker.error("missing; a Qwen3-Omni checkpoint has it"));
    }
    let text = qwen3_vl::text(&thinker.at("text_config"), &thinker, Some(true))?;
    let vision = qwen3_vl::vision(&thinker.at("vision_config"), &text, VISION)?;
    let audio = audio(&thinker.at("audio_config"), &text)?;
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
        model_type: FAMILY.model_type.into(),
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
            pixels: PixelRule::Twice((128 * token, 768 * token)),
            ..FrameRule::default()
        },
        names: NAMES,
        system: "",
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
        form: AudioForm::Planes {
            channels: json.at("downsample_hidden_size").size()?,
            chunks: window / chunk,
        },
        ..audio
    })
}
