//! What a checkpoint's `config.json` says, in one shape for all families.

mod rope;

use std::path::PathBuf;

use crate::error::Result;
use crate::weights::checkpoint::{Adapter, Renames};
use outro_media::{HOP, MAX_SECONDS, SAMPLE_RATE, Sampling};

pub use crate::weights::checkpoint::Scheme;
pub use crate::weights::json::Json;
pub use rope::{Rope, Scaling};

/// A model's hyperparameters. Built by its family from `config.json`; nothing is assumed that the file can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family's `model_type`, a key of [`crate::family::FAMILIES`].
    pub model_type: String,
    /// The text decoder.
    pub text: TextConfig,
    /// The vision tower, if the model sees.
    pub vision: Option<VisionConfig>,
    /// The audio tower, if the model listens.
    pub audio: Option<AudioConfig>,
    /// Ids of the placeholders and their delimiters.
    pub tokens: SpecialTokens,
    /// How rotary positions of media are counted.
    pub positions: PositionRule,
    /// How videos are looked at.
    pub frames: FrameRule,
    /// Where its tensors are.
    pub names: Names,
    /// The system sentence where neither the caller nor the model's files have one.
    pub system: &'static str,
    /// In which files it is held, where they are not those of a checkpoint directory.
    pub held: Held,
}

/// What a checkpoint's form adds to a configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// The file of the towers (mmproj) of a GGUF file.
    pub towers: Option<PathBuf>,
    /// How its linear layers are packed, where config.json says that they are.
    pub scheme: Option<Scheme>,
    /// Adapters to be merged into its weights, in their order.
    pub adapters: Vec<Adapter>,
    /// Of a GGUF file: the config.json that says the same.
    pub fields: Option<serde_json::Value>,
    /// What the user should know of it.
    pub notes: Vec<String>,
    /// What the tensors of GGUF files are called.
    pub(crate) renames: Renames,
}

/// Tensor name prefixes of a checkpoint, dots included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Before `embed_tokens.weight`, `layers.N.*` and `norm.weight`.
    pub text: &'static str,
    /// The untied output head's tensor.
    pub lm_head: &'static str,
    /// Before the vision tower's tensors.
    pub vision: &'static str,
    /// Before the two linear layers that turn the tower's rows into tokens.
    pub merger: &'static str,
    /// Before the audio tower's tensors.
    pub audio: &'static str,
    /// Parts that are never read (speech output).
    pub skipped: &'static [&'static str],
    /// Parts of the model that its forward pass never needs.
    pub unused: &'static [&'static str],
    /// Prefixes as other releases write them, and what they are called above; the first that fits is replaced.
    pub renamed: &'static [(&'static str, &'static str)],
}

/// The text decoder (`text_config`).
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Width of the residual stream (`hidden_size`).
    pub hidden: usize,
    /// Decoder layers L (`num_hidden_layers`).
    pub layers: usize,
    /// Query heads H (`num_attention_heads`).
    pub heads: usize,
    /// Key/value heads G (`num_key_value_heads`).
    pub kv_heads: usize,
    /// Head dimension D (`head_dim`, else `hidden_size / num_attention_heads`).
    pub head_dim: usize,
    /// Width of the gated MLP (`intermediate_size`).
    pub intermediate: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Longest sequence (`max_position_embeddings`, or what `rope_scaling` stretches it to).
    pub max_positions: usize,
    /// Rotary positions (`rope_theta`, `rope_scaling`).
    pub rope: Rope,
    /// RMS norm epsilon (`rms_norm_eps`).
    pub norm_eps: f32,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether each head's query and key pass an RMS norm before rotary embedding.
    pub qk_norm: bool,
    /// Experts in the place of the MLP, at some layers.
    pub moe: Option<MoeConfig>,
    /// Whether rows of q and k are stored in llama.cpp's order, with rotary pairs side by side; undone at loading.
    pub rope_pairs_interleaved: bool,
    /// Whether the output head is the embedding (`tie_word_embeddings`).
    pub tied: bool,
}

/// A mixture of experts: each token is routed to its top-k experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoeConfig {
    /// Experts of a layer (`num_experts`).
    pub experts: usize,
    /// Experts a token is routed to (`num_experts_per_tok`).
    pub top_k: usize,
    /// Width of one expert's gated MLP (`moe_intermediate_size`).
    pub intermediate: usize,
    /// Whether the top-k experts' shares are scaled to the sum 1 (`norm_topk_prob`).
    pub normalised: bool,
    /// A layer has experts if `(index + 1) % sparse_step == 0` (`decoder_sparse_step`).
    pub sparse_step: usize,
    /// Layers that have an MLP nevertheless (`mlp_only_layers`).
    pub dense_layers: Vec<usize>,
}

impl MoeConfig {
    /// Whether this layer has experts.
    pub fn at(&self, layer: usize) -> bool {
        (layer + 1).is_multiple_of(self.sparse_step) && !self.dense_layers.contains(&layer)
    }
}

/// The vision tower (`vision_config`).
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Blocks (`depth`).
    pub depth: usize,
    /// Width.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Colour channels (`in_channels`).
    pub channels: usize,
    /// Pixels on a patch's side (`patch_size`).
    pub patch: usize,
    /// Frames in a patch (`temporal_patch_size`).
    pub temporal: usize,
    /// Patches on the side of a video's token (`spatial_merge_size`).
    pub merge: usize,
    /// Patches on the side of an image's token.
    pub image_merge: usize,
    /// The norms.
    pub norm: Norm,
    /// Their epsilon.
    pub norm_eps: f32,
    /// The MLP's activation (`hidden_act`).
    pub activation: Activation,
    /// Whether the patch embedding has a bias.
    pub patch_bias: bool,
    /// Whether queries and keys turn with a patch's row and column.
    pub rotary: bool,
    /// Patches on the side of a square with a learned position each, which is added to the patch embedding; between them
    /// positions are interpolated where a picture has another size (Qwen3-VL).
    pub positions: Option<usize>,
    /// Windows that attention does not leave; it never leaves a frame.
    pub windows: Option<Windows>,
    /// How patches become a token.
    pub merger: Merger,
    /// Blocks whose rows become tokens, too, each behind a merger of its own; the decoder adds them behind its first layers
    /// (`deepstack_visual_indexes`).
    pub deepstack: Vec<usize>,
    /// Pictures go through the tower in parts of one size; `None` takes them as they are.
    pub anyres: Option<AnyRes>,
    /// Width of the tokens handed to the decoder (`out_hidden_size`).
    pub out: usize,
    /// What its tensors are called.
    pub names: VisionNames,
}

/// Pictures in parts (LLaVA-OneVision): an image that stands alone is also looked at in squares, others and frames once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnyRes {
    /// Pixels on a part's side (`image_size`).
    pub side: usize,
    /// Heights and widths that the parts may cover together (`image_grid_pinpoints`).
    pub resolutions: Vec<[usize; 2]>,
    /// Parts whose tokens an image may have; more are interpolated (`vision_aspect_ratio`, `anyres_max_9`).
    pub most: usize,
    /// The tensor that ends a row of tokens.
    pub newline: &'static str,
}

/// Attention windows of a vision tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Pixels on a window's side (`window_size`).
    pub side: usize,
    /// Blocks that attend over a whole frame (`fullatt_block_indexes`).
    pub full_blocks: Vec<usize>,
}

/// A norm of a vision tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Root mean square, with a weight.
    Rms,
    /// Mean and variance, with a weight and a bias.
    Layer,
}

/// The nonlinearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// With the error function.
    Gelu,
    /// With the hyperbolic tangent.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

impl Activation {
    /// By the name that `hidden_act` has, or a family's default.
    pub(crate) fn parse(json: &Json, default: Self) -> Result<Self> {
        if !json.present() {
            return Ok(default);
        }
        match json.str()? {
            "silu" => Ok(Self::Silu),
            "gelu" => Ok(Self::Gelu),
            "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "quick_gelu" => Ok(Self::QuickGelu),
            other => Err(json.unsupported(format!(
                "is {other}; silu, gelu, gelu_pytorch_tanh and quick_gelu are supported"
            ))),
        }
    }
}

/// How `merge x merge` neighbouring patches become a token, before two linear layers with a GELU between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merger {
    /// Side by side: the first layer is `merge * merge * hidden` wide.
    Concat,
    /// Their mean; the first layer gives the decoder's width.
    Mean,
}

/// What a vision tower's tensors are called behind the prefix `Names::vision`, `.weight` and `.bias` left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisionNames {
    /// The patch embedding.
    pub patch: &'static str,
    /// The learned positions, if there are any.
    pub positions: &'static str,
    /// Before a block's number.
    pub blocks: &'static str,
    /// In a block: the norms before attention and before the MLP.
    pub norms: [&'static str; 2],
    /// In a block: one matrix for query, key and value, or one each.
    pub qkv: &'static [&'static str],
    /// In a block: the projection behind attention.
    pub proj: &'static str,
    /// In a block: both layers of the MLP, or the prefix of a gated one.
    pub mlp: &'static [&'static str],
    /// The norm after the last block; empty for none.
    pub norm: &'static str,
    /// The two layers that follow, behind `Names::merger`.
    pub merge: [&'static str; 2],
    /// Before the number of a merger of `VisionConfig::deepstack`, and its norm.
    pub deepstack: [&'static str; 2],
}

/// How a family's processor looks at videos, and writes pictures into the prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameRule {
    /// Which frames are taken where nobody says otherwise.
    pub sampling: Sampling,
    /// How large pictures become.
    pub pixels: ResizePolicy,
    /// Fewest and most pixels of a frame that the processor's code sets, whatever the checkpoint's files say; for
    /// [`ResizePolicy::PerFrame`].
    pub limits: Option<PixelLimits>,
    /// Whether a grid step lasts as long as its frames do, and not as long as the wanted rate says.
    pub timed: bool,
    /// Each frame stands apart, after its time.
    pub timestamps: Option<Timestamps>,
    /// A frame's tokens whose pixels are those of the frame before are left out.
    pub drops_static_patches: bool,
    /// What follows a medium where the checkpoint has no chat template.
    pub after: &'static str,
    /// Prompts are plain ChatML whatever chat template the checkpoint has.
    pub plain_chat: bool,
}

/// Fewest and most pixels of a picture.
pub type PixelLimits = (usize, usize);

/// How large pictures become. Numbers of [`ResizePolicy::TotalBudget`] and [`ResizePolicy::Volume`] are defaults: a checkpoint's files come
/// before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResizePolicy {
    /// Each frame has limits of its own (qwen-omni-utils).
    #[default]
    PerFrame,
    /// As before, with sides that are multiples of 28, whatever the model's tokens are; then the processor resizes to theirs
    /// and to these limits of a frame (Qwen3-Omni).
    TwoStep(PixelLimits),
    /// All frames of a video share the most (VideoLLaMA3).
    TotalBudget {
        /// Of an image.
        image: PixelLimits,
        /// Fewest of a frame, most of all.
        video: PixelLimits,
    },
    /// They share the fewest, too (Qwen3-VL).
    Volume {
        /// Of an image.
        image: PixelLimits,
        /// Of all frames.
        video: PixelLimits,
    },
    /// As [`ResizePolicy::TotalBudget`], whatever the checkpoint's files say (video-SALMONN 2+).
    Fixed {
        /// Of an image.
        image: PixelLimits,
        /// Fewest of a frame, most of all.
        video: PixelLimits,
        /// Most of a frame of a video that has as many frames as one may have.
        full: usize,
    },
}

/// The words around a frame: its seconds stand, with one decimal, between the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// Before the seconds.
    pub before: &'static str,
    /// Between the seconds and the frame's tokens.
    pub after: &'static str,
    /// Between frames.
    pub between: &'static str,
    /// Whether each frame has the start and end tokens that stand around the video in the template; they follow `after`.
    pub delimited: bool,
}

/// The audio tower (`audio_config`).
#[derive(Clone, Debug, PartialEq)]
pub struct AudioConfig {
    /// Layers (`encoder_layers`).
    pub layers: usize,
    /// Width (`d_model`).
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Mel bins of the input.
    pub mel_bins: usize,
    /// Half a chunk, in mel frames (`n_window`): attention does not cross a chunk of `2 * n_window`.
    pub n_window: usize,
    /// Longest chunk after the strided convolutions (`max_source_positions`).
    pub max_positions: usize,
    /// Width of the tokens handed to the decoder (`output_dim`).
    pub out: usize,
    /// How mel frames become tokens.
    pub projector: AudioProjector,
}

/// What is before and behind an audio tower's layers.
#[derive(Clone, Debug, PartialEq)]
pub enum AudioProjector {
    /// Two convolutions over time, the second of stride 2; pairs of the encoder's rows are averaged (Qwen2.5-Omni).
    AvgPool2,
    /// The same convolutions, in chunks that are always whole; queries look at windows of the encoder's rows
    /// (video-SALMONN 2+).
    QFormer(QFormerConfig),
    /// Three convolutions of stride 2 over time and mel bins; each row becomes a token (Qwen3-Omni).
    Linear {
        /// Channels of the convolutions (`downsample_hidden_size`).
        channels: usize,
        /// Chunks that attention sees together (`n_window_infer / (2 * n_window)`).
        chunks: usize,
    },
}

/// A windowed Q-Former: BERT layers whose learned queries attend to each other and to a window of the encoder's rows.
#[derive(Clone, Debug, PartialEq)]
pub struct QFormerConfig {
    /// Layers (`num_hidden_layers`).
    pub layers: usize,
    /// Width (`hidden_size`).
    pub hidden: usize,
    /// Attention heads (`num_attention_heads`).
    pub heads: usize,
    /// Width of the MLP (`intermediate_size`).
    pub intermediate: usize,
    /// Layer norm epsilon (`layer_norm_eps`).
    pub norm_eps: f32,
    /// Query tokens of a window (`query_length`).
    pub count: usize,
    /// Rows of a window (`second_per_window`).
    pub window: usize,
    /// Rows from a window to the next (`second_stride`).
    pub stride: usize,
}

impl AudioConfig {
    /// Tokens that an audio of `frames` mel frames becomes: a convolution of stride 2, then pairs are averaged, or queries
    /// look at windows of whole chunks; or three of stride 2, chunk by chunk.
    pub fn tokens(&self, frames: usize) -> usize {
        let chunk = 2 * self.n_window;
        match &self.projector {
            AudioProjector::AvgPool2 => frames.div_ceil(2) / 2,
            AudioProjector::QFormer(q) => frames / chunk * q.windows(self.n_window) * q.count,
            AudioProjector::Linear { .. } => frames / chunk * self.rows(chunk) + self.rows(frames % chunk),
        }
    }

    /// Rows that a chunk of `frames` mel frames becomes.
    pub(crate) fn rows(&self, frames: usize) -> usize {
        match self.projector {
            AudioProjector::Linear { .. } => frames.div_ceil(8),
            _ => frames.div_ceil(2),
        }
    }

    /// Mel frames that the feature extractor makes of so many samples at 16,000 a second, beside a sound of `longest`.
    pub fn mel_frames(&self, samples: usize, longest: usize) -> usize {
        match self.projector {
            AudioProjector::AvgPool2 => samples
                .div_ceil(HOP)
                .min(MAX_SECONDS * SAMPLE_RATE as usize / HOP),
            AudioProjector::QFormer(_) => samples.div_ceil(HOP).next_multiple_of(2 * self.n_window),
            AudioProjector::Linear { .. } => samples.div_ceil(HOP).min(longest.max(samples) / HOP),
        }
    }
}

impl QFormerConfig {
    /// Windows of a chunk of `rows`.
    pub(crate) fn windows(&self, rows: usize) -> usize {
        (rows - self.window) / self.stride + 1
    }
}

/// Ids of the placeholder tokens and their delimiters. `None` where a family lacks one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// One token of audio (`audio_token_index`).
    pub audio: Option<u32>,
    /// One token of an image.
    pub image: Option<u32>,
    /// One token of a video.
    pub video: Option<u32>,
    /// Before audio.
    pub audio_start: Option<u32>,
    /// After audio.
    pub audio_end: Option<u32>,
    /// Before an image or a video.
    pub vision_start: Option<u32>,
    /// After an image or a video.
    pub vision_end: Option<u32>,
}

/// How rotary positions of media tokens are counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PositionRule {
    /// One counter for all three axes: a text model.
    Text,
    /// Qwen2-VL: a step of time is one position.
    Grid,
    /// Qwen2.5-VL: frame number times `second_per_grid` times `tokens_per_second`.
    QwenVl {
        /// `vision_config.tokens_per_second`.
        tokens_per_second: f64,
    },
    /// video-SALMONN 2+: frame number times `second_per_grid` times this; sound counts in time and width beside its video.
    Salmonn {
        /// Positions of a second.
        per_second: f64,
    },
    /// Qwen2.5-Omni: time-aligned (TMRoPE), audio interleaved with its video in chunks.
    Tmrope {
        /// `position_id_per_seconds`.
        per_second: f64,
        /// `seconds_per_chunk`.
        seconds_per_chunk: f64,
    },
    /// Qwen3-Omni: times are not rounded; audio and frames of one video merge by time, token by token.
    Merged {
        /// `position_id_per_seconds`.
        per_second: f64,
    },
}
