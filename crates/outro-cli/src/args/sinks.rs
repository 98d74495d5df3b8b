//! `outro sinks` as it is typed, and `--prune`, which other commands take too.

use std::path::PathBuf;

use clap::{ArgMatches, Args};
use outro::method::PruneConfig;

use super::flags::{MediaFlags, MethodFlags, ModelFlags, TraceStrategy, WeightFlags};
use super::{Media, Switches, Weights, asked, pruned, switches, weights};
use crate::fault::Fault;

/// Dropping tokens on the way.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "OutRo")]
pub(crate) struct PruneFlags {
    /// Keep only this share of the video and audio tokens after layer N, ranked by the attention of the sinks' queries.
    #[arg(long, value_name = "layer=N,keep=SHARE")]
    pub(crate) prune: Option<PruneConfig>,
}

#[derive(Debug, Args)]
pub(crate) struct SinksFlags {
    #[command(flatten)]
    model: ModelFlags,
    /// The question, in quotes; - reads it from stdin. Media files may stand before it without a flag [default: What do you
    /// see and hear?].
    #[arg(value_name = "QUESTION", conflicts_with_all = ["inputs", "data"])]
    question: Vec<String>,
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
    /// Look at the plain model (OutRo works on a copy), or at the model with OutRo. The report follows one pass through the
    /// decoder, so that strategies of several passes cannot be looked at; `outro eval run` scores them.
    #[arg(long, value_enum, default_value = "baseline")]
    strategy: TraceStrategy,
    /// Phi_VLM: a sink's dimensions reach this multiple of the token's root mean square [default: 20, in a model too narrow for
    /// it half of the most that there can be].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    tau: Option<f32>,
    /// Phi_VLM: the sink dimensions, joined by commas or + [default: the two that stand out at this prompt's sinks].
    #[arg(long, value_name = "D,D,...")]
    dims: Option<String>,
    /// Attention-mass detector: mean attention above which a token is a sink.
    #[arg(long, value_name = "X", default_value_t = 0.3, allow_negative_numbers = true)]
    epsilon: f32,
    /// System prompt [default: the sentence of the model's card].
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    method: MethodFlags,
    #[command(flatten)]
    prune: PruneFlags,
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

impl Subject {
    /// How media are read, where some may be.
    pub(crate) fn media(&self) -> Option<&Media> {
        match self {
            Self::Asked { media, .. } | Self::Set { media, .. } => Some(media),
            Self::Inputs(_) => None,
        }
    }
}

/// `outro sinks`.
#[derive(Debug)]
pub(crate) struct Sinks {
    pub(crate) model: ModelFlags,
    pub(crate) subject: Subject,
    pub(crate) out: PathBuf,
    pub(crate) png: bool,
    /// A log of `outro eval run`.
    pub(crate) scores: Option<PathBuf>,
    /// The name of what is looked at, as of `ask` and `eval run`: the plain model or OutRo, with what is dropped.
    pub(crate) strategy: String,
    /// `None`: as wide as the model allows.
    pub(crate) tau: Option<f32>,
    pub(crate) dims: Vec<usize>,
    pub(crate) epsilon: f32,
    pub(crate) method: Switches,
    pub(crate) system: Option<String>,
    pub(crate) weights: Weights,
}

pub(super) fn sinks(f: SinksFlags, typed: &ArgMatches) -> anyhow::Result<Sinks> {
    for (flag, x) in [("--tau", f.tau.unwrap_or(1.0)), ("--epsilon", f.epsilon)] {
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
    let (media, question) = asked(f.media, &f.question, typed)?;
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
            question: super::question(Some(
                question.unwrap_or_else(|| "What do you see and hear?".into()),
            ))?,
        },
    };
    Ok(Sinks {
        model: f.model,
        subject,
        out: f.out,
        png: f.png,
        scores: f.scores,
        strategy: pruned(
            match f.strategy {
                TraceStrategy::Baseline => "baseline",
                TraceStrategy::Outro => "outro",
            },
            f.prune.prune,
        ),
        tau: f.tau,
        dims: f.dims.as_deref().map(dims).transpose()?.unwrap_or_default(),
        epsilon: f.epsilon,
        method: Switches::new(switches(&f.method)?)?,
        system: f.system,
        weights: weights(&f.weights, outro::Activations::F32)?,
    })
}

/// Dimensions by number.
fn dims(text: &str) -> anyhow::Result<Vec<usize>> {
    let all = text.split([',', '+']).map(|d| d.trim().parse().ok());
    all.collect::<Option<_>>().ok_or_else(|| {
        Fault::usage(format!("--dims is `{text}`"))
            .hint("give whole numbers joined by commas or +")
            .into()
    })
}
