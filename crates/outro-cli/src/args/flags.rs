//! Flags that several commands take. Meaning and validation are in the parent module.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// The checkpoint.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ModelFlags {
    /// A checkpoint directory, a GGUF file, or a hub id such as Qwen/Qwen2.5-Omni-3B [default: OUTRO_MODEL, else outro-tiny,
    /// the demonstration model inside the program].
    #[arg(long, short, value_name = "DIR|FILE|ID")]
    pub(crate) model: Option<String>,
    /// The file of a GGUF model's towers, which see and hear [default: the most exact mmproj file beside it].
    #[arg(long, value_name = "FILE")]
    pub(crate) mmproj: Option<PathBuf>,
    /// A LoRA adapter of the model (peft), merged into its weights while they are read; may be repeated. A weight other than 1
    /// stands behind it.
    #[arg(long, value_name = "DIR|ID[=WEIGHT]")]
    pub(crate) adapter: Vec<String>,
}

/// Media and how they are read.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Media")]
pub(crate) struct MediaFlags {
    /// A video; its sound is used too. Media may be repeated and mixed, their order is kept.
    #[arg(long, value_name = "FILE")]
    pub(crate) video: Vec<PathBuf>,
    /// An image.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// A sound file.
    #[arg(long, value_name = "FILE")]
    pub(crate) audio: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: ReadingFlags,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Media")]
pub(crate) struct ReadingFlags {
    /// Frames per second taken from a video [default: the model's, mostly 2].
    #[arg(
        long,
        value_name = "RATE",
        allow_negative_numbers = true,
        conflicts_with = "frames"
    )]
    pub(crate) fps: Option<f64>,
    /// Take exactly this many frames from a video instead of a rate.
    #[arg(long, value_name = "N")]
    pub(crate) frames: Option<usize>,
    /// Start of the part that is used, in seconds.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) start: Option<f64>,
    /// End of the part that is used, in seconds.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) end: Option<f64>,
    /// Most pixels of a frame after resizing [default: the model's, mostly 602112 for a video].
    #[arg(long, value_name = "N")]
    pub(crate) max_pixels: Option<usize>,
    /// Most tokens of a video's frames: frames get fewer pixels first, then there are fewer of them [default: the model's own,
    /// else no limit].
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens_per_video: Option<usize>,
    /// Ignore the sound of videos.
    #[arg(long)]
    pub(crate) no_audio_in_video: bool,
    /// Leave pictures as they are stored, as the Qwen utils do, instead of turning them upright by their EXIF orientation.
    #[arg(long)]
    pub(crate) no_exif: bool,
    /// What decodes video and sound.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) decoder: DecoderFlag,
    /// Give up on a file operation after this many seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 120.0,
        allow_negative_numbers = true
    )]
    pub(crate) deadline: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DecoderFlag {
    /// ffmpeg where it is present, else the built-in decoders.
    #[default]
    Auto,
    /// The built-in decoders (H.264 and AAC in mp4; common audio and image formats).
    Builtin,
    /// The ffmpeg program (PATH or OUTRO_FFMPEG).
    Ffmpeg,
}

/// The method's switches. Defaults are the model's own where its outro.json has some, which help says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "OutRo")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
pub(crate) struct MethodFlags {
    /// Strength of the rotation towards the sink direction [default: the model's own, else 3].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) gamma: Option<String>,
    /// Temperature of the rotation's gate; --temperature is another thing and draws tokens [default: the model's own, else
    /// 0.1].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) gate_temperature: Option<String>,
    /// A sink's largest activation is at least this [default: the model's own, else 100].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) abs_threshold: Option<String>,
    /// ... and at least this many times the layer's median [default: the model's own, else 1000].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) median_multiple: Option<String>,
    /// First layer in which sinks are looked for [default: the model's own, else 0].
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    pub(crate) start_layer: Option<String>,
    /// Layer before which the search for sinks ends [default: the model's own, else number of layers - 2].
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    pub(crate) end_layer: Option<String>,
    /// Relax the mask at every N-th layer [default: the model's own, else layers / 7].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) interval: Option<String>,
    /// Relax the mask at these layers instead of an interval, joined by commas or +.
    #[arg(long, value_name = "L,L,...", conflicts_with = "interval")]
    pub(crate) layers: Option<String>,
    /// Relax each sink once (the default).
    #[arg(long, conflicts_with = "always")]
    pub(crate) once: bool,
    /// Relax a sink again at every relaxation layer.
    #[arg(long)]
    pub(crate) always: bool,
    /// Leave out the rotation.
    #[arg(long)]
    pub(crate) no_rotate: bool,
    /// Leave out the relaxation of the causal mask.
    #[arg(long)]
    pub(crate) no_relax: bool,
    /// Do not restore the length of rotated outputs.
    #[arg(long)]
    pub(crate) no_rescale: bool,
    /// Whether decoded tokens are rotated: as the paper says (default) or as its release does.
    #[arg(long, value_name = "paper|release")]
    pub(crate) decode: Option<String>,
    /// Prompt positions that are taken for sinks instead of detecting them, joined by commas or +.
    #[arg(long, value_name = "T,T,...")]
    pub(crate) sinks: Option<String>,
    /// Any switch by its name: gamma, gate_temperature, abs_threshold, median_multiple, start_layer, end_layer, interval,
    /// layers, once, rotate, relax, rescale, decode, sinks.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TraceStrategy {
    /// The plain model.
    Baseline,
    /// With OutRo.
    Outro,
}

/// How weights, and what is computed from them, are held.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
pub(crate) struct WeightFlags {
    /// How weights are held in memory.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) dtype: DtypeFlag,
    /// Make the decoder's matrices smaller; the result is kept in OUTRO_CACHE, or outro/ in the user's cache directory.
    #[arg(long, value_name = "q8_0|q6_k|q4_k")]
    pub(crate) quantize: Option<String>,
    /// Neither read nor write kept quantised weights.
    #[arg(long, requires = "quantize")]
    pub(crate) no_quantize_cache: bool,
    /// What weights are multiplied with [default: auto; f32 in `sinks`].
    #[arg(long, value_enum)]
    pub(crate) activations: Option<ActivationsFlag>,
    /// How keys and values of past tokens are held: f16 takes half the memory of f32, q8_0 about a quarter, q4 a sixth;
    /// docs/generation.md says what it costs.
    #[arg(long, value_name = "f32|f16|q8_0|q4", default_value = "f32")]
    pub(crate) kv: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationsFlag {
    /// What engines for this format do by default: 8 bits with quantised weights, bf16 with bf16 weights where the processor
    /// multiplies it faster, else f32. docs/generation.md says what it costs.
    #[value(alias = "reduced")]
    Auto,
    /// Exact.
    F32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeFlag {
    /// As in the checkpoint.
    Auto,
    /// 32-bit floats.
    F32,
    /// Brain floats in memory, f32 arithmetic.
    Bf16,
    /// Half floats in memory, f32 arithmetic.
    F16,
}

impl From<DtypeFlag> for outro::Dtype {
    fn from(flag: DtypeFlag) -> Self {
        match flag {
            DtypeFlag::Auto => Self::Auto,
            DtypeFlag::F32 => Self::F32,
            DtypeFlag::Bf16 => Self::Bf16,
            DtypeFlag::F16 => Self::F16,
        }
    }
}
