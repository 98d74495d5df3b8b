//! VideoLLaMA3: a SigLIP tower for pictures of any size, whose video tokens are means of 2 x 2 patches, before a Qwen2
//! decoder; frames stand in the prompt after their times, without what did not change.
//!
//! Two layouts are public: the authors', with code of its own (`videollama3_qwen2`), and that of transformers.

use outro_media::{Sampling, Spread};

use super::decoder::{QWEN2, decoder, tied};
use super::{Family, Names, siglip_vision};
use crate::error::Result;
use crate::spec::config::{
    Config, FrameRule, Held, Json, PositionRule, ResizePolicy, SpecialTokens, TextConfig, Timestamps,
    VisionConfig, VisionNames,
};

pub(super) const FAMILY: Family = Family {
    model_type: "video_llama_3",
    names: NAMES,
    parse: |json| {
        let json = json.of_class("VideoLlama3Config");
        let text = json.object("text_config", "Qwen2Config")?;
        let tied = tied(&json, &text)?;
        let id = |key: &str| json.at(key).id().map(Some);
        let tokens = (id("image_token_id")?, id("video_token_id")?);
        config(
            FAMILY.model_type,
            &text,
            tied,
            &json.object("vision_config", "VideoLlama3VisionConfig")?,
            tokens,
            NAMES,
        )
    },
};

/// The authors' layout: the decoder's fields stand at the top, one placeholder is for images and frames alike.
pub(super) const AUTHORS: Family = Family {
    model_type: "videollama3_qwen2",
    names: AUTHORS_NAMES,
    parse: |json| {
        json.at("mm_projector_type").only(&["mlp2x_gelu"])?;
        let id = Some(json.at("image_token_index").id()?);
        let vision = json.object("vision_encoder_config", "VideoLlama3VisionConfig")?;
        let text = json.of_class("Qwen2Config");
        let tied = tied(json, &text)?;
        let mut config = config(AUTHORS.model_type, &text, tied, &vision, (id, id), AUTHORS_NAMES)?;
        config.frames.drops_static_patches = json.at("use_token_compression").bool_or(true)?;
        Ok(config)
    },
};

const NAMES: Names = Names {
    text: "model.language_model.",
    lm_head: "lm_head.weight",
    vision: "model.vision_model.",
    merger: "model.projector.",
    audio: "",
    skipped: &[],
    unused: &[],
    renamed: &[],
};

const AUTHORS_NAMES: Names = Names {
    text: "model.",
    vision: "model.vision_encoder.",
    merger: "model.mm_projector.",
    ..NAMES
};

const VISION: VisionNames = VisionNames {
    patch: "embeddings.patch_embedding",
    positions: "",
    blocks: "encoder.layers.",
    norms: ["layer_norm1", "layer_norm2"],
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    proj: "self_attn.out_proj",
    mlp: &["mlp.fc1", "mlp.fc2"],
    norm: "post_layernorm",
    merge: ["readout.0", "readout.2"],
    deepstack: [""; 2],
};

fn config(
    model_type: &str,
    text: &Json,
    tied: bool,
    vision: &Json,
    (image, video): (Option<u32>, Option<u32>),
    names: Names,
) -> Result<Config> {
    let text = decoder(text, tied, QWEN2)?;
    let vision = tower(vision, &text)?;
    // Tokens of a picture, of one image or of all frames; a side of a token is its patches'.
    let limits = |merge: usize| {
        let token = (vision.patch * merge).pow(2);
        (16 * token, 16384 * token)
    };
    let pixels = ResizePolicy::TotalBudget {
        image: limits(vision.image_merge),
        video: limits(vision.merge),
    };
    Ok(Config {
        model_type: model_type.into(),
        vision: Some(vision),
        audio: None,
        tokens: SpecialTokens {
            image,
            video,
            ..SpecialTokens::default()
        },
        positions: PositionRule::Text,
        frames: FrameRule {
            sampling: Sampling {
                spread: Spread::Starts,
                fps: 1.0,
                max_frames: 180,
                ..Sampling::default()
            },
            pixels,
            timestamps: Some(Timestamps {
                before: "Time ",
                after: "s:",
                between: ",",
                delimited: false,
            }),
            drops_static_patches: true,
            after: "\n",
            ..FrameRule::default()
        },
        names,
        system: "",
        held: Held::default(),
        text,
    })
}

fn tower(json: &Json, text: &TextConfig) -> Result<VisionConfig> {
    Ok(VisionConfig {
        // The processors' settings; config.json does not name them.
        merge: 2,
        rotary: true,
        ..siglip_vision(json, text, VISION)?
    })
}
