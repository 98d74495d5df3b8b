//! `outro eval` as it is typed.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use outro_lab::run::Ablation;

use super::flags::{ModelFlags, ReadingFlags, WeightFlags};
use super::sinks::PruneFlags;
use super::{Reading, Weights, reading, weights};
use crate::fault::Fault;

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// The benchmarks that are known.
    List,
    /// Answer a benchmark's questions, into a log that grows by a line per answer. Started again on the same log it goes on.
    Run(Box<EvalFlags>),
    /// Sum a log up.
    Report {
        /// The log.
        #[arg(value_name = "FILE")]
        log: PathBuf,
        /// In what form.
        #[arg(long, value_enum, default_value = "markdown")]
        format: ReportFormat,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// Tables.
    Markdown,
    /// Everything, for programs.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AblateFlag {
    /// No sound.
    Sound,
    /// Black frames.
    Picture,
}

#[derive(Debug, Args)]
pub(crate) struct EvalFlags {
    /// The benchmark; `outro eval list` names them.
    #[arg(value_name = "TASK")]
    task: String,
    /// The directory with its questions and videos.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The log; an existing one of the same run is continued.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelFlags,
    /// baseline, outro, outro:KEY=VALUE,... (lists with +, as in layers=0+5), prune:layer=N,keep=SHARE,
    /// heads:off=LAYER.HEAD+..., zero-k:top=N, sink-value:scale=X, or several joined by /; may be repeated, the first is what
    /// the others are compared with [default: baseline and outro].
    #[arg(long, value_name = "NAME")]
    strategy: Vec<String>,
    #[command(flatten)]
    prune: PruneFlags,
    /// Take something away from every video.
    #[arg(long, value_enum)]
    ablate: Option<AblateFlag>,
    /// How questions with options ask for the answer: letter or option [default: the model's own, else letter].
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Only the first N questions.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Longest reply, in tokens.
    #[arg(long, value_name = "N", default_value_t = 8)]
    max_new_tokens: usize,
    #[command(flatten)]
    weights: WeightFlags,
    #[command(flatten)]
    reading: ReadingFlags,
}

/// `outro eval`.
#[derive(Debug)]
pub(crate) enum Eval {
    List,
    Run(Box<EvalRun>),
    Report { log: PathBuf, format: ReportFormat },
}

/// `outro eval run`.
#[derive(Debug)]
pub(crate) struct EvalRun {
    pub(crate) task: String,
    pub(crate) data: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) model: Option<String>,
    pub(crate) strategies: Vec<String>,
    pub(crate) profile: Option<String>,
    pub(crate) ablation: Ablation,
    pub(crate) limit: Option<usize>,
    pub(crate) max_new_tokens: usize,
    pub(crate) weights: Weights,
    pub(crate) reading: Reading,
}

pub(super) fn eval(command: EvalCommand) -> anyhow::Result<Eval> {
    let f = match command {
        EvalCommand::List => return Ok(Eval::List),
        EvalCommand::Report { log, format } => return Ok(Eval::Report { log, format }),
        EvalCommand::Run(f) => *f,
    };
    for (flag, n) in [
        ("--limit", f.limit.unwrap_or(1)),
        ("--max-new-tokens", f.max_new_tokens),
    ] {
        if n == 0 {
            return Err(Fault::usage(format!("{flag} is 0"))
                .hint("give a number from 1 up")
                .into());
        }
    }
    let mut strategies = if f.strategy.is_empty() {
        vec!["baseline".into(), "outro".into()]
    } else {
        f.strategy
    };
    if let Some(p) = f.prune.prune {
        for name in &mut strategies {
            *name = format!("{name}/prune:layer={},keep={}", p.layer, p.keep);
        }
    }
    if let Some(twice) = (1..strategies.len()).find(|i| strategies[..*i].contains(&strategies[*i])) {
        let problem = format!("--strategy {} is given twice", strategies[twice]);
        return Err(Fault::usage(problem).hint("leave one out").into());
    }
    Ok(Eval::Run(Box::new(EvalRun {
        task: f.task,
        data: f.data,
        out: f.out,
        model: f.model.model,
        strategies,
        ablation: match f.ablate {
            None => Ablation::None,
            Some(AblateFlag::Sound) => Ablation::Sound,
            Some(AblateFlag::Picture) => Ablation::Picture,
        },
        profile: f.profile,
        limit: f.limit,
        max_new_tokens: f.max_new_tokens,
        weights: weights(&f.weights)?,
        reading: reading(&f.reading)?,
    })))
}
