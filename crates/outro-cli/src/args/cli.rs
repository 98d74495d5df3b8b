//! Commands and what can be typed after them. Meaning and validation are in the parent module.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use outro::strategy::settings_of;

use super::bench::BenchFlags;
use super::eval::EvalCommand;
use super::flags::{
    DtypeFlag, MediaFlags, MethodFlags, ModelFlags, ReadingFlags, TraceStrategy, WeightFlags,
};
use super::sampling::SamplingFlags;
use super::serve::ServeFlags;
use super::sinks::{PruneFlags, SinksFlags};
use super::synth::SynthFlags;
use super::tune::TuneFlags;

/// Ask a multimodal language model about a video with sound, on your CPU, with or without OutRo: an intervention on attention
/// sinks at inference time, without training.
#[derive(Debug, Parser)]
#[command(
    name = "outro",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = EXAMPLES
)]
pub(crate) struct Cli {
    /// Worker threads; 0 means one per CPU core.
    #[arg(
        long,
        global = true,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub(crate) threads: usize,
    /// Print nothing on stderr but errors.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Cmd,
}

const EXAMPLES: &str = "\
Examples:
  outro demo
  outro ask clip.mp4 \"What do you see and hear?\"
  outro ask --model Qwen/Qwen2.5-Omni-3B --video clip.mp4 --strategy both \"What do you see and hear?\"

Without --model, outro-tiny answers, a demonstration model that knows a synthetic world of shapes and sounds and nothing else.";

#[derive(Debug, Subcommand)]
pub(crate) enum Cmd {
    /// Answer a question about media. The answer goes to stdout, everything else to stderr.
    Ask(Box<AskFlags>),
    /// Talk with a model, turn by turn; `/video FILE` and the like show it something.
    ///
    /// Lines of stdin are turns. Every turn runs the whole conversation, for OutRo looks at all of it. Lines that begin with / are
    /// commands; /help lists them.
    Chat(Box<ChatFlags>),
    /// Serve models to OpenAI's clients: conversations with text, pictures, videos and their sound, with OutRo or without it.
    ///
    /// POST /v1/chat/completions and /v1/completions, streamed or not; /v1/models, /v1/files, /tokenize, /metrics and others
    /// (docs/server.md). Requests of many clients are computed together.
    Serve(Box<ServeFlags>),
    /// Run prepared inputs in f32 and write logits, tokens, sinks and activations, to compare with another implementation.
    #[command(long_about = trace_help())]
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
    /// Write a checkpoint in any form (GGUF, packed, with adapters) as a plain one: config.json, safetensors, tokenizer.
    Convert(ConvertFlags),
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
    /// Check this machine: ffmpeg, CPU, memory and which models fit it, caches, whether the hub can be reached.
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

KEY of --set, and VALUE:";

/// [`TRACE_HELP`] and the method's settings.
fn trace_help() -> String {
    let rows = settings_of("outro").map(|s| format!("\n  {:<17} {}; {}", s.name, s.form.words(), s.help));
    TRACE_HELP.to_owned() + &rows.collect::<String>()
}

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

#[derive(Debug, Args)]
pub(crate) struct AskFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    /// The question, in quotes; - reads it from stdin. Media files may stand before it without a flag.
    #[arg(value_name = "QUESTION", required_unless_present = "questions")]
    pub(crate) question: Vec<String>,
    /// A file with one question per line, or - for stdin; decoded media and encoder outputs are reused. No question knows of
    /// another.
    #[arg(long, value_name = "FILE")]
    pub(crate) questions: Option<PathBuf>,
    /// How to answer: a name of `outro eval list`, as in vcd:alpha=0.5, several joined by +, as in vcd+outro, or both for
    /// baseline and outro; may be repeated, two stand side by side.
    /// [default: outro; baseline on models of text alone]
    #[arg(long, value_name = "NAME")]
    pub(crate) strategy: Vec<String>,
    /// System prompt [default: the sentence of the model's card].
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// One JSON object per question on stdout instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) media: MediaFlags,
    #[command(flatten)]
    pub(crate) sampling: SamplingFlags,
    #[command(flatten)]
    pub(crate) method: MethodFlags,
    #[command(flatten)]
    pub(crate) prune: PruneFlags,
    #[command(flatten)]
    pub(crate) weights: WeightFlags,
}

#[derive(Debug, Args)]
pub(crate) struct ChatFlags {
    /// Files that are shown with the first turn, and its words.
    #[arg(value_name = "FILE|WORDS")]
    pub(crate) question: Vec<String>,
    /// How to answer: a name of `outro eval list`, as in outro:gamma=2 or vcd+outro [default: outro; baseline on models of text
    /// alone].
    #[arg(long, value_name = "NAME")]
    pub(crate) strategy: Option<String>,
    /// System prompt [default: the sentence of the model's card].
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    #[command(flatten)]
    pub(crate) media: MediaFlags,
    #[command(flatten)]
    pub(crate) method: MethodFlags,
    #[command(flatten)]
    pub(crate) sampling: SamplingFlags,
    #[command(flatten)]
    pub(crate) weights: WeightFlags,
}

#[derive(Debug, Args)]
pub(crate) struct TraceFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
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
    /// The question, in quotes; - reads it from stdin. Media files may stand before it without a flag.
    #[arg(value_name = "QUESTION", required = true)]
    pub(crate) question: Vec<String>,
    /// Where to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// System prompt [default: the sentence of the model's card].
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) media: MediaFlags,
}

#[derive(Debug, Args)]
pub(crate) struct InspectFlags {
    /// A checkpoint directory, a GGUF file, a hub id, or a media file.
    #[arg(value_name = "MODEL|FILE")]
    pub(crate) target: String,
    /// The checkpoint that a media file would be given to.
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    /// JSON on stdout.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reading: ReadingFlags,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    /// The directory to write; it must not hold a checkpoint.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// What numbers become. auto keeps plain tensors as they are and makes packed ones f32, which changes none.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Memory")]
    pub(crate) dtype: DtypeFlag,
}
