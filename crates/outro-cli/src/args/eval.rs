//! `outro eval` as it is typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use outro_lab::choice::Parser;
use outro_lab::log::Shard;
use outro_lab::run::Ablation;

use super::flags::{ModelFlags, ReadingFlags, WeightFlags};
use super::sinks::PruneFlags;
use super::{Reading, Weights, pruned, reading, spelled_out, weights};
use crate::fault::Fault;

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// The benchmarks and the ways of putting questions that are known.
    List,
    /// Look at a benchmark's files before a run: counts, missing and unreadable videos, questions that are there twice,
    /// prompts that are too long. No weights are loaded.
    Check(Box<CheckFlags>),
    /// Answer a benchmark's questions, into a log that grows by a line per answer. Started again on the same log it goes on.
    Run(Box<EvalFlags>),
    /// Put the logs of all shards of a run together.
    Merge {
        /// The shards' logs.
        #[arg(value_name = "LOG", required = true)]
        logs: Vec<PathBuf>,
        /// The log of the whole run; must not be there yet.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Read the replies of a log anew by another parser, into a new log, and say what changed. The log itself stays.
    Rescore {
        /// The log.
        #[arg(value_name = "LOG")]
        log: PathBuf,
        /// How replies are read.
        #[arg(long, value_name = "NAME", value_parser = parsers())]
        parser: String,
        /// The new log; where it is there already and of the same run, what it lacks is added.
        #[arg(long, value_name = "NEW")]
        out: PathBuf,
    },
    /// Sum logs up. A directory stands for the logs in it.
    Report {
        /// The logs.
        #[arg(value_name = "LOG", required = true)]
        logs: Vec<PathBuf>,
        /// In what form.
        #[arg(long, value_enum, default_value = "markdown")]
        format: ReportFormat,
        /// With --format html: show a picture of every video, found as `eval run --data` finds them.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// Tables.
    Markdown,
    /// Everything but the answers, for programs: a list of runs.
    Json,
    /// A line per strategy, division and part.
    Csv,
    /// One page with figures and all answers.
    Html,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadFlag {
    /// The reply's words.
    Text,
    /// The likeliest of the options' first tokens.
    Logits,
}

#[derive(Debug, Args)]
pub(crate) struct CheckFlags {
    /// The benchmark; `outro eval list` names them.
    #[arg(value_name = "TASK")]
    task: String,
    /// The directory with its questions and videos.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    model: ModelFlags,
    /// How questions are put; `outro eval list` names the ways.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: ReadingFlags,
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
    /// The benchmarks; `outro eval list` names them.
    #[arg(value_name = "TASK", required = true)]
    tasks: Vec<String>,
    /// The directory with questions and videos, or with a directory named after each TASK; or an annotation file.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The log, if it ends in .jsonl, else a directory for TASK.jsonl; an existing log of the same run is continued. A
    /// shard's log is named after it, as in TASK.2-of-4.jsonl.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Answer one part of the videos, as in 2/4 [default: from SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, or
    /// JOB_COMPLETION_INDEX and JOB_COMPLETIONS, else everything].
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    #[command(flatten)]
    model: ModelFlags,
    /// Ask the server of this OpenAI-compatible base URL, such as http://localhost:8000/v1, by the same rules; --model is the
    /// name that is sent, OUTRO_API_KEY the key. Frames go as image_url, sound as input_audio.
    #[arg(long, value_name = "URL", requires = "model", conflicts_with_all = ENGINE_ONLY)]
    endpoint: Option<String>,
    /// With --endpoint: send every video as its file (video_url) instead of frames and sound, so that the server's own rules say
    /// what is looked at, as `outro serve` takes it.
    #[arg(
        long,
        requires = "endpoint",
        conflicts_with_all = ["ablate", "fps", "frames", "start", "end", "max_pixels", "max_tokens_per_video", "no_audio_in_video"]
    )]
    endpoint_videos: bool,
    /// With --endpoint: how often a question is sent before a server that is busy, ill or away is given up; pauses double
    /// from a quarter of a second to half a minute.
    #[arg(long, value_name = "N", requires = "endpoint", default_value_t = 9)]
    attempts: u32,
    /// With --endpoint: give up on an attempt after this many seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "endpoint",
        default_value_t = 300.0,
        allow_negative_numbers = true
    )]
    request_timeout: f64,
    /// Take replies from this file: rows with `id` and `reply` as a JSON list or JSON lines, such as a log.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["endpoint"], conflicts_with_all = ENGINE_ONLY)]
    replies: Option<PathBuf>,
    /// baseline, outro, vcd, mod, avcd, farsight, var, prune and more, with switches as in outro:gamma=2,layers=0+5, and
    /// joined as in vcd+outro; `outro eval list` has all. May be repeated, the first is what the others are compared with; a log
    /// that is there takes new ones [default: baseline and outro].
    #[arg(long, value_name = "NAME")]
    strategy: Vec<String>,
    /// Take something away from every video.
    #[arg(long, value_enum)]
    ablate: Option<AblateFlag>,
    /// Leave out the questions about videos on which `outro tune` chose the model's settings.
    #[arg(long)]
    held_out: bool,
    /// Ask again what failed before.
    #[arg(long)]
    retry_failed: bool,
    #[command(flatten)]
    asking: AskingFlags,
    #[command(flatten)]
    prune: PruneFlags,
}

/// Flags that mean nothing where only replies are known.
const ENGINE_ONLY: [&str; 8] = [
    "prune",
    "dtype",
    "quantize",
    "activations",
    "kv",
    "settings",
    "held_out",
    "no_quantize_cache",
];

/// Names of parsers.
fn parsers() -> PossibleValuesParser {
    PossibleValuesParser::new(Parser::ALL.map(Parser::name))
}

/// How questions are asked, by `eval run` and `tune`.
#[derive(Debug, Args)]
pub(crate) struct AskingFlags {
    /// How questions are put: letter, option, outro, official or lmms-eval [default: the model's own,
    /// else letter].
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// How replies are read [default: as the log that is gone on with, else as the profile says: release-1 with official,
    /// outro-2 with all others].
    #[arg(long, value_name = "NAME", value_parser = parsers())]
    parser: Option<String>,
    /// What an answer is taken from.
    #[arg(long, value_enum, default_value = "text")]
    readout: ReadFlag,
    /// Only the first N questions. A log that is there goes on where N is greater than it was.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only questions about videos that are there; --limit counts among them.
    #[arg(long)]
    present: bool,
    /// Longest reply, in tokens.
    #[arg(long, value_name = "N", default_value_t = 8)]
    max_new_tokens: usize,
    /// Take this file for the model's outro.json.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    #[command(flatten)]
    weights: WeightFlags,
    #[command(flatten)]
    reading: ReadingFlags,
}

/// How questions are asked.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) profile: Option<String>,
    /// `None`: the log's, else the profile's.
    pub(crate) parser: Option<Parser>,
    pub(crate) by_logits: bool,
    pub(crate) limit: Option<usize>,
    pub(crate) present: bool,
    pub(crate) max_new_tokens: usize,
    pub(crate) settings: Option<PathBuf>,
    pub(crate) weights: Weights,
    pub(crate) reading: Reading,
}

pub(crate) fn asking(f: AskingFlags) -> anyhow::Result<Asking> {
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
    Ok(Asking {
        profile: f.profile,
        parser: f.parser.as_deref().map(Parser::named).transpose()?,
        by_logits: f.readout == ReadFlag::Logits,
        limit: f.limit,
        present: f.present,
        max_new_tokens: f.max_new_tokens,
        settings: f.settings,
        weights: weights(&f.weights, outro::Activations::Reduced)?,
        reading: reading(&f.reading)?,
    })
}

/// `outro eval`.
#[derive(Debug)]
pub(crate) enum Eval {
    List,
    Check(Box<EvalCheck>),
    Run(Box<EvalRun>),
    Merge {
        logs: Vec<PathBuf>,
        out: PathBuf,
    },
    Rescore {
        log: PathBuf,
        parser: Parser,
        out: PathBuf,
    },
    Report(EvalReport),
}

/// `outro eval report`.
#[derive(Debug)]
pub(crate) struct EvalReport {
    pub(crate) logs: Vec<PathBuf>,
    pub(crate) format: ReportFormat,
    pub(crate) data: Option<PathBuf>,
}

/// `outro eval check`.
#[derive(Debug)]
pub(crate) struct EvalCheck {
    pub(crate) task: String,
    pub(crate) data: PathBuf,
    pub(crate) model: ModelFlags,
    pub(crate) profile: Option<String>,
    pub(crate) json: bool,
    pub(crate) reading: Reading,
}

/// Who answers.
#[derive(Debug)]
pub(crate) enum Who {
    /// The engine with this model.
    Engine(ModelFlags),
    /// A server.
    Endpoint(Endpoint),
    /// A file; under this model's name.
    Replies(PathBuf, Option<String>),
}

/// An OpenAI-compatible server.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Without a slash at its end.
    pub(crate) url: String,
    pub(crate) model: String,
    /// Whether videos go as files.
    pub(crate) videos: bool,
    pub(crate) attempts: u32,
    pub(crate) timeout: Duration,
}

/// `outro eval run`.
#[derive(Debug)]
pub(crate) struct EvalRun {
    pub(crate) tasks: Vec<String>,
    pub(crate) data: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) shard: Option<Shard>,
    pub(crate) who: Who,
    pub(crate) strategies: Vec<String>,
    pub(crate) ablation: Ablation,
    pub(crate) held_out: bool,
    pub(crate) retry_failed: bool,
    pub(crate) asking: Asking,
}

pub(super) fn eval(command: EvalCommand) -> anyhow::Result<Eval> {
    let f = match command {
        EvalCommand::List => return Ok(Eval::List),
        EvalCommand::Report { logs, format, data } => {
            if data.is_some() && format != ReportFormat::Html {
                return Err(
                    Fault::usage("--data is given, and only --format html shows pictures")
                        .hint("leave one of them out")
                        .into(),
                );
            }
            return Ok(Eval::Report(EvalReport { logs, format, data }));
        }
        EvalCommand::Merge { logs, out } => return Ok(Eval::Merge { logs, out }),
        EvalCommand::Rescore { log, parser, out } => {
            let parser = Parser::named(&parser)?;
            return Ok(Eval::Rescore { log, parser, out });
        }
        EvalCommand::Check(f) => {
            return Ok(Eval::Check(Box::new(EvalCheck {
                task: f.task,
                data: f.data,
                model: f.model,
                profile: f.profile,
                json: f.json,
                reading: reading(&f.reading)?,
            })));
        }
        EvalCommand::Run(f) => *f,
    };
    let who = match (f.endpoint, f.replies) {
        (Some(url), _) => Who::Endpoint(Endpoint {
            url: url_of(&url)?,
            model: f.model.model.unwrap_or_default(),
            videos: f.endpoint_videos,
            attempts: f.attempts.max(1),
            timeout: timeout(f.request_timeout)?,
        }),
        (None, Some(file)) => Who::Replies(file, f.model.model),
        (None, None) => Who::Engine(f.model),
    };
    let engine = matches!(who, Who::Engine(_));
    let mut strategies = match spelled_out(&f.strategy)? {
        typed if !typed.is_empty() => typed,
        _ if engine => vec!["baseline".into(), "outro".into()],
        _ => vec!["baseline".into()],
    };
    for name in &mut strategies {
        *name = pruned(name, f.prune.prune);
    }
    if !engine {
        if let Some(other) = strategies.iter().find(|s| *s != "baseline") {
            let problem = format!(
                "--strategy {other} changes what happens inside a model; --endpoint and --replies know its replies only"
            );
            return Err(Fault::usage(problem)
                .hint("leave --strategy out, or give a checkpoint with --model instead")
                .into());
        }
        if f.asking.readout == ReadFlag::Logits {
            return Err(Fault::usage(
                "--readout logits needs a model's logits; --endpoint and --replies know its replies only",
            )
            .hint("leave it out")
            .into());
        }
    }
    Ok(Eval::Run(Box::new(EvalRun {
        shard: shard(f.shard.as_deref(), f.tasks.len(), &f.out)?,
        tasks: f.tasks,
        data: f.data,
        out: f.out,
        who,
        strategies,
        ablation: match f.ablate {
            None => Ablation::None,
            Some(AblateFlag::Sound) => Ablation::Sound,
            Some(AblateFlag::Picture) => Ablation::Picture,
        },
        held_out: f.held_out,
        retry_failed: f.retry_failed,
        asking: asking(f.asking)?,
    })))
}

/// A base URL. What it says stands in logs, so it may hold no secret.
fn url_of(typed: &str) -> anyhow::Result<String> {
    let rest = typed
        .strip_prefix("http://")
        .or_else(|| typed.strip_prefix("https://"));
    let host = rest.map_or("", |r| r.split('/').next().unwrap_or_default());
    if host.is_empty() || typed.contains(['?', '#', '@', ' ']) {
        return Err(Fault::usage(format!(
            "--endpoint: {} is not the base URL of a server",
            typed
                .rsplit('@')
                .next()
                .unwrap_or_default()
                .split('?')
                .next()
                .unwrap_or_default()
        ))
        .hint("as in http://localhost:8000/v1; a key goes into OUTRO_API_KEY")
        .into());
    }
    let base = typed.trim_end_matches('/');
    Ok(base.strip_suffix("/chat/completions").unwrap_or(base).to_owned())
}

fn timeout(seconds: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| !d.is_zero())
        .ok_or_else(|| {
            Fault::usage(format!("--request-timeout is {seconds}"))
                .hint("give seconds above 0")
                .into()
        })
}

/// The shard that was asked for, or that this process is by its scheduler.
fn shard(typed: Option<&str>, tasks: usize, out: &Path) -> anyhow::Result<Option<Shard>> {
    if tasks > 1 && is_log(out) {
        return Err(Fault::usage("--out is one file, and several tasks are given")
            .hint("give a directory")
            .into());
    }
    if let Some(typed) = typed {
        return Shard::parse(typed).map(Some).map_err(|e| {
            Fault::usage(format!("--shard: {e}"))
                .hint("as in --shard 2/4")
                .into()
        });
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<usize>().ok());
    // Slurm's array need not begin at 0; Kubernetes' index does.
    for (index, first, count) in [
        (
            "SLURM_ARRAY_TASK_ID",
            number("SLURM_ARRAY_TASK_MIN").unwrap_or(0),
            "SLURM_ARRAY_TASK_COUNT",
        ),
        ("JOB_COMPLETION_INDEX", 0, "JOB_COMPLETIONS"),
    ] {
        let Some(at) = number(index) else { continue };
        let Some(of) = number(count) else {
            return Err(Fault::usage(format!("{index} is set and {count} is not"))
                .hint(format!("set {count} to the number of parts, or give --shard"))
                .into());
        };
        let text = format!("{}/{of}", at.wrapping_sub(first).wrapping_add(1));
        return Shard::parse(&text).map(Some).map_err(|e| {
            Fault::usage(format!("{index} = {at}, {count} = {of}: {e}"))
                .hint("number the jobs without gaps, or give --shard")
                .into()
        });
    }
    Ok(None)
}

/// Whether `--out` names a log and not a directory of logs.
pub(crate) fn is_log(out: &Path) -> bool {
    out.extension().is_some_and(|e| e == "jsonl")
}
