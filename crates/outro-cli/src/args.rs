//! From what was typed ([`cli`], [`flags`]) to what is meant. All validation of the command line is here; a command that gets
//! its configuration can start to work.

pub(crate) mod bench;
pub(crate) mod cli;
pub(crate) mod eval;
pub(crate) mod flags;
mod media;
pub(crate) mod sampling;
pub(crate) mod serve;
pub(crate) mod sinks;
mod strategies;
pub(crate) mod synth;
pub(crate) mod tune;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use outro::{Activations, KvType, LoadOptions};
use outro_media::Decoder;

use crate::cache;
use crate::fault::Fault;
use crate::ui::Ui;
use cli::{AskFlags, CaptureFlag, ChatFlags, Cli, Cmd};
use flags::{ActivationsFlag, ModelFlags, TraceStrategy, WeightFlags};
pub(crate) use media::{Media, Reading};
use media::{asked, question, questions, reading};
pub(crate) use strategies::{Strategies, Switches, pruned, spelled_out};
use strategies::{pairs, strategies, switches, unused_switches};

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Worker threads, 0 for one per core.
    pub(crate) threads: usize,
    /// The terminal.
    pub(crate) ui: Ui,
    /// What to do.
    pub(crate) action: Action,
}

/// A command with its configuration.
#[derive(Debug)]
pub(crate) enum Action {
    Ask(Box<Ask>),
    Chat(Box<Chat>),
    Serve(Box<serve::Serve>),
    Trace(Box<Trace>),
    Prepare(Box<Prepare>),
    Inspect(Box<Inspect>),
    Synth(Box<synth::Synth>),
    Eval(eval::Eval),
    Tune(Box<tune::Tune>),
    Bench(Box<bench::Bench>),
    Sinks(Box<sinks::Sinks>),
    Convert(Convert),
    Demo(Demo),
    /// Whether it prints JSON.
    Doctor(bool),
}

impl Action {
    /// Whether media may be decoded by whatever is found here.
    pub(crate) fn decodes(&self) -> bool {
        let auto = |r: &Reading| r.options.decoder == Decoder::Auto;
        match self {
            Self::Ask(a) => !a.media.parts.is_empty() && auto(&a.media.reading),
            Self::Chat(c) => auto(&c.media.reading),
            Self::Prepare(p) => !p.media.parts.is_empty() && auto(&p.media.reading),
            Self::Inspect(i) => Path::new(&i.target).is_file() && auto(&i.reading),
            Self::Sinks(s) => s.subject.media().is_some_and(|m| auto(&m.reading)),
            Self::Eval(eval::Eval::Run(r)) => auto(&r.asking.reading),
            Self::Eval(eval::Eval::Check(c)) => auto(&c.reading),
            Self::Eval(eval::Eval::Report(r)) => r.data.is_some(),
            Self::Tune(t) => auto(&t.asking.reading),
            Self::Demo(_) | Self::Serve(_) => true,
            Self::Eval(_)
            | Self::Trace(_)
            | Self::Synth(_)
            | Self::Bench(_)
            | Self::Convert(_)
            | Self::Doctor(_) => false,
        }
    }
}

/// `outro demo`.
#[derive(Debug)]
pub(crate) struct Demo {
    /// Which clip.
    pub(crate) seed: u64,
    /// Where the clip is kept.
    pub(crate) out: Option<PathBuf>,
    /// The model; `None` is the program's own.
    pub(crate) model: ModelFlags,
}

/// `outro convert`.
#[derive(Debug)]
pub(crate) struct Convert {
    pub(crate) model: ModelFlags,
    pub(crate) out: PathBuf,
    pub(crate) dtype: outro::Dtype,
}

/// How weights, and keys and values, are held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weights {
    pub(crate) load: LoadOptions,
    /// Whether the activations were typed; where not, a log that goes on keeps its own.
    pub(crate) activations_typed: bool,
    pub(crate) kv: KvType,
}

/// What a log says of activations that were not exact.
pub(crate) const REDUCED: &str = "reduced activations";

impl Weights {
    /// As a log names them: `auto`, or `bf16, q4_k, reduced activations, f16 cache`.
    pub(crate) fn name(&self) -> String {
        let mut parts = vec![format!("{:?}", self.load.dtype).to_lowercase()];
        parts.extend(self.load.quantize.map(|q| q.name().to_owned()));
        parts.extend(self.load.imitated.map(|i| i.name().to_owned()));
        parts.extend((self.load.activations == Activations::Reduced).then(|| REDUCED.into()));
        parts.extend((self.kv != KvType::F32).then(|| format!("{} cache", self.kv.name())));
        parts.join(", ")
    }
}

/// `outro ask`.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) model: ModelFlags,
    pub(crate) media: Media,
    pub(crate) questions: Vec<String>,
    pub(crate) strategies: Strategies,
    pub(crate) sampled: sampling::Sampled,
    pub(crate) system: Option<String>,
    pub(crate) weights: Weights,
    pub(crate) json: bool,
}

/// `outro chat`.
#[derive(Debug)]
pub(crate) struct Chat {
    pub(crate) model: ModelFlags,
    pub(crate) media: Media,
    /// The first turn.
    pub(crate) first: Option<String>,
    pub(crate) strategies: Strategies,
    pub(crate) sampled: sampling::Sampled,
    pub(crate) system: Option<String>,
    pub(crate) weights: Weights,
}

/// `outro trace`.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) model: ModelFlags,
    pub(crate) inputs: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) outro: Option<Switches>,
    pub(crate) steps: usize,
    pub(crate) last: usize,
    pub(crate) capture: Vec<CaptureFlag>,
}

/// `outro prepare`.
#[derive(Debug)]
pub(crate) struct Prepare {
    pub(crate) model: ModelFlags,
    pub(crate) media: Media,
    pub(crate) question: String,
    pub(crate) out: PathBuf,
    pub(crate) system: Option<String>,
}

/// `outro inspect`.
#[derive(Debug)]
pub(crate) struct Inspect {
    pub(crate) target: String,
    pub(crate) model: ModelFlags,
    pub(crate) reading: Reading,
    pub(crate) json: bool,
}

/// Reads the command line.
///
/// # Errors
/// `Err(Ok(clap))` for what clap itself prints (help, version, its own usage errors), `Err(Err(error))` for values that
/// is contradictory.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
) -> Result<Invocation, Result<clap::Error, anyhow::Error>> {
    let matches = Cli::command()
        .try_get_matches_from(args)
        .map_err(|e| Ok(without_dashes(e)))?;
    let cli = Cli::from_arg_matches(&matches).map_err(Ok)?;
    let typed = matches.subcommand().map_or(&matches, |(_, m)| m);
    build(cli, typed).map_err(Err)
}

/// Of an unknown flag, without the advice to give it as a value after `--`, which nobody means who typed one.
fn without_dashes(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument {
        error.insert(ContextKind::Suggested, ContextValue::None);
    }
    error
}

fn build(cli: Cli, typed: &ArgMatches) -> anyhow::Result<Invocation> {
    let action = match cli.command {
        Cmd::Ask(f) => Action::Ask(Box::new(ask(*f, typed)?)),
        Cmd::Chat(f) => Action::Chat(Box::new(chat(*f, typed)?)),
        Cmd::Serve(f) => Action::Serve(Box::new(serve::serve(*f)?)),
        Cmd::Trace(f) => {
            let switches = Switches::new(pairs(&f.set)?)?;
            let outro = match f.strategy {
                TraceStrategy::Outro => Some(switches),
                TraceStrategy::Baseline if switches.pairs().is_empty() => None,
                TraceStrategy::Baseline => return Err(unused_switches("--set", "baseline")),
            };
            if f.last == 0 {
                return Err(Fault::usage("--last is 0")
                    .hint("give a number of prompt rows from 1 up")
                    .into());
            }
            let (model, inputs, out) = (f.model, f.inputs, f.out);
            Action::Trace(Box::new(Trace {
                model,
                inputs,
                out,
                outro,
                steps: f.steps,
                last: f.last,
                capture: f.capture,
            }))
        }
        Cmd::Prepare(f) => {
            let (media, one) = asked(f.media, &f.question, typed)?;
            Action::Prepare(Box::new(Prepare {
                model: f.model,
                media,
                question: question(one)?,
                out: f.out,
                system: f.system,
            }))
        }
        Cmd::Inspect(f) => Action::Inspect(Box::new(Inspect {
            target: f.target,
            model: f.model,
            reading: reading(&f.reading)?,
            json: f.json,
        })),
        Cmd::Bench(f) => Action::Bench(Box::new(bench::bench(*f)?)),
        Cmd::Eval(command) => Action::Eval(eval::eval(command)?),
        Cmd::Tune(f) => Action::Tune(Box::new(tune::tune(*f)?)),
        Cmd::Sinks(f) => Action::Sinks(Box::new(sinks::sinks(*f, typed)?)),
        Cmd::Synth(f) => Action::Synth(Box::new(synth::synth(f)?)),
        Cmd::Demo { seed, out, model } => Action::Demo(Demo { seed, out, model }),
        Cmd::Convert(f) => Action::Convert(Convert {
            model: f.model,
            out: f.out,
            dtype: f.dtype.into(),
        }),
        Cmd::Doctor { json } => Action::Doctor(json),
    };
    if cli.threads > 1024 {
        return Err(Fault::usage(format!("--threads is {}", cli.threads))
            .hint("give 0 (one per core) to 1024")
            .into());
    }
    Ok(Invocation {
        threads: cli.threads,
        ui: Ui::new(cli.quiet),
        action,
    })
}

fn ask(f: AskFlags, typed: &ArgMatches) -> anyhow::Result<Ask> {
    let (media, one) = asked(f.media, &f.question, typed)?;
    let questions = match (&f.questions, one) {
        (Some(path), None) => questions(path)?,
        (Some(_), Some(one)) => {
            return Err(
                Fault::usage(format!("--questions is given, and the question `{one}` too"))
                    .hint("leave one of them out; a question of several words stands in quotes")
                    .into(),
            );
        }
        (None, one) => vec![question(one)?],
    };
    let mut strategies = strategies(&f.strategy, Switches::new(switches(&f.method)?)?)?;
    strategies.prune = f.prune.prune;
    Ok(Ask {
        model: f.model,
        media,
        questions,
        strategies,
        sampled: sampling::sampled(&f.sampling)?,
        system: f.system,
        weights: weights(&f.weights, Activations::Reduced)?,
        json: f.json,
    })
}

fn chat(f: ChatFlags, typed: &ArgMatches) -> anyhow::Result<Chat> {
    let names: Vec<String> = f.strategy.into_iter().collect();
    if names.iter().any(|n| n == "both") {
        return Err(
            Fault::usage("--strategy both: a conversation goes on from one answer")
                .hint("give one strategy, or use `outro ask --strategy both`")
                .into(),
        );
    }
    let (media, first) = asked(f.media, &f.question, typed)?;
    Ok(Chat {
        model: f.model,
        media,
        first,
        strategies: strategies(&names, Switches::new(switches(&f.method)?)?)?,
        sampled: sampling::sampled(&f.sampling)?,
        system: f.system,
        weights: weights(&f.weights, Activations::Reduced)?,
    })
}

fn weights(f: &WeightFlags, activations: Activations) -> anyhow::Result<Weights> {
    let load = LoadOptions {
        dtype: f.dtype.into(),
        quantize: f.quantize.as_deref().map(str::parse).transpose()?,
        cache: if f.no_quantize_cache { None } else { cache::dir() },
        activations: match f.activations {
            Some(ActivationsFlag::F32) => Activations::F32,
            Some(ActivationsFlag::Auto) => Activations::Reduced,
            None => activations,
        },
        imitated: None,
    };
    Ok(Weights {
        load,
        activations_typed: f.activations.is_some(),
        kv: f.kv.parse()?,
    })
}

#[cfg(test)]
mod tests;
