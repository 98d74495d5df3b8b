//! `outro sinks` as it is typed, and `--prune`, which other commands take too.

use std::path::PathBuf;

use clap::{ArgMatches, Args};
use outro::method::PruneConfig;

use super::flags::{MediaFlags, MethodFlags, ModelFlags, TraceStrategy, WeightFlags};
use super::{Media, Switches, Weights, media, switches, weights};
use crate::fault::Fault;

/// Dropping tokens on the way.
#[derive(Debug, Default, Args)]
pub(crate) struct PruneFlags {
    /// Keep only this share of the video and audio tokens after layer N, ranked by the attention of the sinks' queries.
    #[arg(long, value_name = "layer=N,keep=SHARE")]
    pub(crate) prune: Option<PruneConfig>,
}

#[derive(Debug, Args)]
pub(crate) struct SinksFlags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    media: MediaFlags,
    /// The question [default: What do you see and hear?].
    #[arg(value_name = "QUESTION", conflicts_with_all = ["inputs", "data"])]
    question: Option<String>,
    /// Prepared inputs (`outro prepare`) instead of media and a question.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "video", "image", "audio"])]
    inputs: Option<PathBuf>,
    /// The questions of a benchmark instead, whose means are shown: the directory that `outro eval run --data` takes.
    #[arg(long, value_name = "DIR", requires = "task", conflicts_with_all = ["video", "image", "audio"])]
    data: Option<PathBuf>,
    /// With --data: the benchmark; `outro eval list` names them.
    #[arg(long, value_name = "NAME", requires = "data")]
    task: Option<String>,
    /// With --data: only the first N questions.
    #[arg(long, value_name = "N", requires = "data")]
    limit: Option<usize>,
    /// Show the scores of this log of `outro eval run` too.
    #[arg(long, value_name = "LOG")]
    scores: Option<PathBuf>,
    /// Where the report, the tables and profile.json go; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write every figure of the report as a picture too, into figures/ beside it.
    #[arg(long)]
    png: bool,
    /// Look at the plain model (OutRo works on a copy), or at the model with OutRo.
    #[arg(long, value_enum, default_value = "baseline")]
    strategy: TraceStrategy,
    /// Phi_VLM: a sink's dimensions reach this multiple of the token's root mean square.
    #[arg(long, value_name = "X", default_value_t = 20.0, allow_negative_numbers = true)]
    tau: f32,
    /// Phi_VLM: the sink dimensions [default: the two that stand out at this prompt's sinks].
    #[arg(long, value_name = "D,D,...", value_delimiter = ',')]
    dims: Vec<usize>,
    /// Attention-mass detector: mean attention above which a token is a sink.
    #[arg(long, value_name = "X", default_value_t = 0.3, allow_negative_numbers = true)]
    epsilon: f32,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    method: MethodFlags,
    /// System prompt [default: the sentence of the model's card].
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    weights: WeightFlags,
}

/// What is looked at.
#[derive(Debug)]
pub(crate) enum Subject {
    /// A question about media.
    Asked { media: Media, question: String },
    /// Prepared inputs.
    Inputs(PathBuf),
    /// Questions of a benchmark.
    Set {
        task: String,
        data: PathBuf,
        limit: usize,
        media: Media,
    },
}

/// `outro sinks`.
#[derive(Debug)]
pub(crate) struct Sinks {
    pub(crate) model: Option<String>,
    pub(crate) subject: Subject,
    pub(crate) out: PathBuf,
    pub(crate) png: bool,
    /// A log of `outro eval run`.
    pub(crate) scores: Option<PathBuf>,
    pub(crate) act: bool,
    pub(crate) tau: f32,
    pub(crate) dims: Vec<usize>,
    pub(crate) epsilon: f32,
    pub(crate) prune: Option<PruneConfig>,
    pub(crate) method: Switches,
    pub(crate) system: Option<String>,
    pub(crate) weights: Weights,
}

pub(super) fn sinks(f: SinksFlags, typed: &ArgMatches) -> anyhow::Result<Sinks> {
    for (flag, x) in [("--tau", f.tau), ("--epsilon", f.epsilon)] {
        if !(x.is_finite() && x > 0.0) {
            return Err(Fault::usage(format!("{flag} is {x}"))
                .hint("give a number above 0")
                .into());
        }
    }
    if f.limit == Some(0) {
        return Err(Fault::usage("--limit is 0")
            .hint("give a number from 1 up")
            .into());
    }
    let media = media(f.media, typed)?;
    let subject = match (f.inputs, f.data, f.task) {
        (Some(path), ..) => Subject::Inputs(path),
        (None, Some(data), Some(task)) => Subject::Set {
            task,
            data,
            limit: f.limit.unwrap_or(usize::MAX),
            media,
        },
        _ => Subject::Asked {
            media,
            question: super::question(f.question.unwrap_or_else(|| "What do you see and hear?".into()))?,
        },
    };
    Ok(Sinks {
        model: f.model.model,
        subject,
        out: f.out,
        png: f.png,
        scores: f.scores,
        act: f.strategy == TraceStrategy::Outro,
        tau: f.tau,
        dims: f.dims,
        epsilon: f.epsilon,
        prune: f.prune.prune,
        method: Switches::new(switches(&f.method)?)?,
        system: f.system,
        weights: weights(&f.weights)?,
    })
}
