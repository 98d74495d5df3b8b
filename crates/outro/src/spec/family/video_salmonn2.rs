//! video-SALMONN 2+: Qwen2.5-VL, and Whisper's encoder with a windowed Q-Former. Its `model_type` is Qwen2.5-VL's; what
//! tells it apart is `audio_config`.

use outro_media::{Sampling, Spread};

use super::qwen2_5_vl::{self, MODEL_TYPE, NAMES};
use super::{Family, Names, SYSTEM, qwen_vision_tokens, qwen2_5_vision, rate};
use crate::error::Result;
use crate::spec::config::{
    AudioConfig, AudioProjector, Config, FrameRule, Held, Json, PositionRule, QFormerConfig, ResizePolicy,
    SpecialTokens, TextConfig,
};

const MOST_FRAMES: usize = 768;
/// Of an image, and of a frame of a long video.
const PIXELS: usize = 61_250;

/// The authors' default, where config.json does not say it.
const AUDIO_TOKEN: u32 = 151_665;

/// Both models of this `model_type`.
pub(super) const FAMILY: Family = Family {
    model_type: MODEL_TYPE,
    names: NAMES,
    parse: |json| {
        if json.at("audio_config").present() {
            config(&json.of_class("Qwen2_5_VLConfig"))
        } else {
            qwen2_5_vl::config(json)
        }
    },
};

fn config(json: &Json) -> Result<Config> {
    let text = qwen2_5_vl::text(json, "Qwen2_5_VLTextConfig")?;
    let vision = &json.object("vision_config", "Qwen2_5_VLVisionConfig")?;
    // Read, as Qwen2.5-VL reads it; positions do not depend on it.
    rate(&vision.at("tokens_per_second"), 2.0)?;
    let tokens = qwen_vision_tokens(json)?;
    let audio = json.at("audio_token_id");
    let tokens = SpecialTokens {
        audio: Some(if audio.present() { audio.id()? } else { AUDIO_TOKEN }),
        audio_start: tokens.vision_start,
        audio_end: tokens.vision_end,
        ..tokens
    };
    Ok(Config {
        model_type: MODEL_TYPE.into(),
        vision: Some(qwen2_5_vision(vision, &text, &["attn.qkv"])?),
        audio: Some(sound(&json.at("audio_config"), &text)?),
        tokens,
        // The authors' code fixes it, config.json does not name it.
        positions: PositionRule::Salmonn { per_second: 2.0 },
        frames: FrameRule {
            // What the authors' code for inference sets, whatever the checkpoint's files say.
            sampling: Sampling {
                spread: Spread::Floor,
                fps: 10.0,
                min_frames: 16,
                max_frames: MOST_FRAMES,
                ..Sampling::default()
            },
            pixels: ResizePolicy::Fixed {
                image: (16 * 28 * 28, PIXELS),
                video: (4 * 28 * 28, PIXELS * MOST_FRAMES * 19 / 20),
                full: PIXELS,
            },
            timed: true,
            after: "\n",
            // The template that checkpoints bring is Qwen2.5-VL's, which knows no sound; the authors' code leaves it unused.
            plain_chat: true,
            ..FrameRule::default()
        },
        names: Names {
            audio: "audio.",
            ..NAMES
        },
        system: SYSTEM,
        held: Held::default(),
        text,
    })
}

/// A width that heads divide.
fn width(json: &Json, key: &str, heads: &str) -> Result<(usize, usize)> {
    let (hidden, n) = (json.at(key).size()?, json.at(heads).size()?);
    if hidden.is_multiple_of(n) {
        return Ok((hidden, n));
    }
    let problem = format!("is {hidden}, must be a multiple of {heads} = {n}");
    Err(json.at(key).error(problem))
}

fn sound(json: &Json, text: &TextConfig) -> Result<AudioConfig> {
    json.at("activation_function").only(&["gelu"])?;
    let scaled = json.at("scale_embedding");
    if scaled.bool_or(false)? {
        return Err(scaled.unsupported("true is not supported; no released checkpoint of the family uses it"));
    }
    let (hidden, heads) = width(json, "d_model", "encoder_attention_heads")?;
    let positions = json.at("max_source_positions").size()?;
    // Whisper's 1500 rows are 30 seconds; the reference counts so whatever the encoder has.
    let rows = |key: &str| -> Result<usize> {
        let field = json.at(key);
        let rows = (1500.0 * field.positive_or(0.5)? / 30.0).round_ties_even();
        if rows >= 1.0 && rows <= positions as f64 {
            return Ok(rows as usize);
        }
        Err(field.error(format!(
            "is {rows} rows, must be 1 to max_source_positions = {positions}"
        )))
    };
    let q = json.at("qformer_config");
    q.at("hidden_act").only(&["gelu"])?;
    q.at("position_embedding_type").only(&["absolute"])?;
    let (wide, q_heads) = width(&q, "hidden_size", "num_attention_heads")?;
    let inner = q.at("encoder_width").size_or(hidden)?;
    if inner != hidden {
        let problem = format!("is {inner}, must equal d_model = {hidden}");
        return Err(q.at("encoder_width").error(problem));
    }
    let every = q.at("cross_attention_freq").size_or(1)?;
    if every != 1 {
        let problem = format!("is {every}, only 1 is supported; the released checkpoints have it");
        return Err(q.at("cross_attention_freq").unsupported(problem));
    }
    Ok(AudioConfig {
        layers: json.at("encoder_layers").size()?,
        hidden,
        heads,
        intermediate: json.at("encoder_ffn_dim").size()?,
        mel_bins: json.at("num_mel_bins").size_or(128)?,
        n_window: positions,
        max_positions: positions,
        out: text.hidden,
        projector: AudioProjector::QFormer(QFormerConfig {
            layers: q.at("num_hidden_layers").size()?,
            hidden: wide,
            heads: q_heads,
            intermediate: q.at("intermediate_size").size()?,
            norm_eps: q.at("layer_norm_eps").positive_or(1e-12)? as f32,
            count: q.at("query_length").size_or(1)?,
            window: rows("second_per_window")?,
            stride: rows("second_stride")?,
        }),
    })
}
