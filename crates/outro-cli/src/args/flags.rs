//! What can be typed. Meaning and validation are in the parent module.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::bench::BenchFlags;
use super::eval::EvalCommand;
use super::sampling::SamplingFlags;
use super::sinks::{PruneFlags, SinksFlags};
use super::synth::SynthFlags;
use super::tune::TuneFlags;

/// Ask multimodal models about video, images and audio, with OutRo: attention-sink guided decoding, no training.
#[derive(Debug, Parser)]
#[command(
    name = "outro",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Worker threads; 0 means one per CPU core.
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// Print nothing on stderr but errors.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Cmd,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cmd {
    /// Answer a question about media. The answer goes to stdout, everything else to stderr.
    Ask(Box<AskFlags>),
    /// Run prepared inputs in f32 and write logits, tokens, sinks and activations, to compare with another implementation.
    #[command(long_about = TRACE_HELP)]
    Trace(TraceFlags),
    /// Do everything up to the model and write the tensors that its forward pass takes.
    #[command(long_about = PREPARE_HELP)]
    Prepare(PrepareFlags),
    /// Say what a checkpoint or a media file is, how many tokens it becomes and what memory a run needs.
    ///
    /// Of a checkpoint also which tokenizer and chat template are in use, and which tensors are missing, of another shape, or
    /// there and not needed, from headers alone. Exits with 1 where the model would not run.
    Inspect(InspectFlags),
    /// Measure accuracy on a benchmark, with and without OutRo, with paired statistics.
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Search the method's settings for a model on a part of a benchmark, and write them as its outro.json.
    Tune(Box<TuneFlags>),
    /// Measure speed and memory, beside the machine's limits; several strategies alternate.
    Bench(Box<BenchFlags>),
    /// Show what attention sinks are and do on a prompt or a set: an HTML report, tables and JSON.
    Sinks(Box<SinksFlags>),
    /// Render short videos of a synthetic world with questions in the forms of AVHBench and Daily-Omni.
    Synth(SynthFlags),
    /// Render a clip of the synthetic world, ask three questions about it, show the plain model and OutRo side by side.
    Demo {
        /// Which clip.
        #[arg(long, value_name = "S", default_value_t = 0)]
        seed: u64,
        /// Keep the clip in this mp4 file.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        model: ModelFlags,
    },
    /// Check this machine: ffmpeg, CPU features, threads, memory, hub cache.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

const TRACE_HELP: &str = "\
Run prepared inputs in f32 and write what the model computed, to compare with another implementation.

INPUTS is a safetensors file with the keyword arguments of the model's forward pass:
  input_ids [1,S]  attention_mask [1,S] (all ones)
  pixel_values [rows, columns]  image_grid_thw [images,3]
  pixel_values_videos [rows, columns]  video_grid_thw [videos,3]  video_second_per_grid [videos]
  input_features [n,128,frames]  feature_attention_mask [n,frames]
Floats may be f32, f16 or bf16. Every key may carry the prefix `input.`. `outro prepare` writes such files.
File metadata: use_audio_in_video = \"true\" where audio and video tokens are interleaved; without it they are taken
for interleaved where the start of vision is followed by the start of audio.

OUT is a safetensors file:
  position_ids [3,S] f32         rotary positions: time, height, width
  prefill_logits [N,vocab] f32   logits of the last N prompt rows (--last)
  tokens [steps] i64             greedy tokens; tokens[0] is chosen by the last row of the prefill
  decode_logits [steps,vocab]    row i: the logits of the step that was fed tokens[i]
and with --capture:
  head_outputs.L [S,heads,head_dim]   what enters o_proj of layer L during the prefill (after OutRo's changes)
  vbar.L [kv_heads,head_dim]          mean value vector of the sinks of layer L
  hidden.L [S,hidden]                 what enters layer L, before its norm
  image_embeds, video_embeds, audio_embeds [tokens,hidden]   what the encoders give (embeds)
File metadata: `sinks` and `relaxed_at`, JSON objects from layer to prompt positions (`sinks` lists every layer that was
looked at, also where there are none); `strategy`; `settings`, the
--set values as a JSON object; `outro`, the version.

KEY of --set: gamma, temperature, abs_threshold, median_multiple, start_layer, end_layer, interval, layers (a,b,c),
once, rotate, relax, rescale (true|false), decode (paper|release), sinks (a,b,c: instead of detection).";

const PREPARE_HELP: &str = "\
Do everything up to the model and write the tensors that its forward pass takes.

OUT is a safetensors file with the keys that `outro trace` and a Python peer take:
  input_ids [1,S] i64  attention_mask [1,S] i64
  pixel_values [rows, columns] f32  image_grid_thw [images,3] i64
  pixel_values_videos [rows, columns] f32  video_grid_thw [videos,3] i64  video_second_per_grid [videos] f32
  input_features [n,128,frames] f32  feature_attention_mask [n,frames] i64
A row of pixels is one patch (3 x 2 x 14 x 14 values); features are valid mel frames, padded to the longest.
File metadata: use_audio_in_video (true|false), kind (text, image, video, audio, audio-in-video, mixed).
Without a tokenizer in the checkpoint only the media tensors are written.
An existing OUT is replaced only when everything has succeeded.";

/// The checkpoint.
#[derive(Debug, Args)]
pub(crate) struct ModelFlags {
    /// A checkpoint directory, a GGUF file of a Qwen2 or Llama text model, or a hub id such as Qwen/Qwen2.5-Omni-3B.
    #[arg(long, short, value_name = "DIR|FILE|ID")]
    pub(crate) model: Option<String>,
}

/// Media and how they are read.
#[derive(Debug, Default, Args)]
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

/// The method's switches.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "OutRo")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
pub(crate) struct MethodFlags {
    /// Strength of the rotation towards the sink direction [default: 3].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) gamma: Option<String>,
    /// Temperature of the rotation's gate [default: 0.1].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) gate_temperature: Option<String>,
    /// A sink's largest activation is at least this [default: 100].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) abs_threshold: Option<String>,
    /// ... and at least this many times the layer's median [default: 1000].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) median_multiple: Option<String>,
    /// First layer where OutRo acts [default: 0].
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    pub(crate) start_layer: Option<String>,
    /// Layer before which OutRo stops acting [default: number of layers - 2].
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    pub(crate) end_layer: Option<String>,
    /// Relax the mask at every N-th layer [default: layers / 7].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) interval: Option<String>,
    /// Relax the mask at these layers instead of an interval.
    #[arg(long, value_name = "L,L,...")]
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
    /// Prompt positions that are taken for sinks instead of detecting them.
    #[arg(long, value_name = "T,T,...")]
    pub(crate) sinks: Option<String>,
    /// Any switch by its name: gamma, temperature, abs_threshold, median_multiple, start_layer, end_layer, interval,
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
    /// What weights are multiplied with.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) activations: ActivationsFlag,
    /// How keys and values of past tokens are held; f16 takes half the memory.
    #[arg(long, value_name = "f32|f16", default_value = "f32")]
    pub(crate) kv: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationsFlag {
    /// Exact.
    F32,
    /// Rounded to what the processor multiplies fastest: 8 bits with quantised weights, bf16 with bf16 weights.
    Reduced,
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

#[derive(Debug, Args)]
pub(crate) struct AskFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    #[command(flatten)]
    pub(crate) media: MediaFlags,
    /// The question.
    #[arg(
        value_name = "QUESTION",
        required_unless_present = "questions",
        conflicts_with = "questions"
    )]
    pub(crate) question: Option<String>,
    /// A file with one question per line; decoded media and encoder outputs are reused.
    #[arg(long, value_name = "FILE")]
    pub(crate) questions: Option<PathBuf>,
    /// How to answer: a name of `outro eval list`, as in vcd:alpha=0.5, several joined by +, as in vcd+outro, or both for
    /// baseline and outro; may be repeated, two stand side by side.
    #[arg(long, value_name = "NAME", default_value = "outro")]
    pub(crate) strategy: Vec<String>,
    #[command(flatten)]
    pub(crate) method: MethodFlags,
    #[command(flatten)]
    pub(crate) prune: PruneFlags,
    /// System prompt [default: the sentence of the model's card].
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// One JSON object per question on stdout instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingFlags,
    #[command(flatten)]
    pub(crate) weights: WeightFlags,
}

#[derive(Debug, Args)]
pub(crate) struct TraceFlags {
    /// The checkpoint directory, or a GGUF file.
    #[arg(long, short, value_name = "DIR|FILE")]
    pub(crate) model: String,
    /// Prepared inputs.
    #[arg(long, value_name = "FILE")]
    pub(crate) inputs: PathBuf,
    /// Where to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// How to run.
    #[arg(long, value_enum, default_value = "outro")]
    pub(crate) strategy: TraceStrategy,
    /// A switch of the method by its name; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Greedy steps after the prefill.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) steps: usize,
    /// Prompt rows, counted from the end, whose logits are written.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) last: usize,
    /// Activations to write as well.
    #[arg(long, value_enum, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) capture: Vec<CaptureFlag>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CaptureFlag {
    /// What enters o_proj, per layer.
    #[value(name = "head_outputs")]
    HeadOutputs,
    /// The sinks' mean value vector, per layer.
    Vbar,
    /// What enters each layer.
    Hidden,
    /// What the encoders give.
    Embeds,
}

#[derive(Debug, Args)]
pub(crate) struct PrepareFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    #[command(flatten)]
    pub(crate) media: MediaFlags,
    /// The question.
    #[arg(value_name = "QUESTION")]
    pub(crate) question: String,
    /// Where to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// System prompt [default: the sentence of the model's card].
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectFlags {
    /// A checkpoint directory, a GGUF file, a hub id, or a media file.
    #[arg(value_name = "MODEL|FILE")]
    pub(crate) target: String,
    /// The checkpoint that a media file would be given to.
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    #[command(flatten)]
    pub(crate) reading: ReadingFlags,
    /// JSON on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}
