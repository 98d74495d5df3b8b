//! From what was typed ([`cli`], [`flags`]) to what is meant. All validation of the command line is here; a command that gets
//! its configuration can start to work.

pub(crate) mod bench;
pub(crate) mod cli;
pub(crate) mod eval;
pub(crate) mod flags;
pub(crate) mod sampling;
pub(crate) mod sinks;
pub(crate) mod synth;
pub(crate) mod tune;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, CommandFactory, FromArgMatches};
use outro::chat::Part;
use outro::method::{OutRoConfig, PruneConfig};
use outro::strategy::Strategy;
use outro::{Activations, KvType, LoadOptions};
use outro_media::Decoder;

use crate::cache;
use crate::fault::Fault;
use crate::ui::Ui;
use cli::{AskFlags, CaptureFlag, ChatFlags, Cli, Cmd};
use flags::{
    ActivationsFlag, DecoderFlag, MediaFlags, MethodFlags, ReadingFlags, TraceStrategy, WeightFlags,
};

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
    Trace(Box<Trace>),
    Prepare(Box<Prepare>),
    Inspect(Box<Inspect>),
    Synth(Box<synth::Synth>),
    Eval(eval::Eval),
    Tune(Box<tune::Tune>),
    Bench(Box<bench::Bench>),
    Sinks(Box<sinks::Sinks>),
    Demo(Demo),
    /// Whether it prints JSON.
    Doctor(bool),
}

/// `outro demo`.
#[derive(Debug)]
pub(crate) struct Demo {
    /// Which clip.
    pub(crate) seed: u64,
    /// Where the clip is kept.
    pub(crate) out: Option<PathBuf>,
    /// The model; `None` is the program's own.
    pub(crate) model: Option<String>,
}

/// What goes before the question, and how it is read.
#[derive(Clone, Debug)]
pub(crate) struct Media {
    /// In the order in which they were typed.
    pub(crate) parts: Vec<Part>,
    /// How they are read.
    pub(crate) reading: Reading,
}

/// How media files are read; what was not typed is the model's own way.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) fps: Option<f64>,
    pub(crate) frames: Option<usize>,
    pub(crate) start: Option<f64>,
    pub(crate) end: Option<f64>,
    pub(crate) max_pixels: Option<usize>,
    pub(crate) audio_in_video: bool,
    pub(crate) options: outro_media::Options,
}

/// Which ways of answering were asked for.
#[derive(Clone, Debug)]
pub(crate) struct Strategies {
    /// Names that can be read, each once.
    pub(crate) names: Vec<String>,
    /// What `outro` means in them.
    pub(crate) outro: Switches,
}

/// Switches of the method as they were typed, checked; they go on top of what the model's outro.json says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches(Vec<(String, String)>);

impl Switches {
    /// Checks them against the defaults: whether a switch can be meant does not depend on the model.
    fn new(pairs: Vec<(String, String)>) -> anyhow::Result<Self> {
        let switches = Self(pairs);
        switches.on(OutRoConfig::default())?;
        Ok(switches)
    }

    /// `base` with these switches.
    pub(crate) fn on(&self, mut base: OutRoConfig) -> outro::Result<OutRoConfig> {
        for (key, value) in &self.0 {
            base.set(key, value)?;
        }
        Ok(base)
    }

    /// What was typed.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// How weights, and keys and values, are held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weights {
    pub(crate) load: LoadOptions,
    pub(crate) kv: KvType,
}

impl Weights {
    /// As a log names them: `auto`, or `bf16, q4_k, reduced activations, f16 cache`.
    pub(crate) fn name(&self) -> String {
        let mut parts = vec![format!("{:?}", self.load.dtype).to_lowercase()];
        parts.extend(self.load.quantize.map(|q| q.name().to_owned()));
        parts.extend((self.load.activations == Activations::Reduced).then(|| "reduced activations".into()));
        parts.extend((self.kv == KvType::F16).then(|| "f16 cache".into()));
        parts.join(", ")
    }
}

/// `outro ask`.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) model: Option<String>,
    pub(crate) media: Media,
    pub(crate) questions: Vec<String>,
    pub(crate) strategies: Strategies,
    pub(crate) sampled: sampling::Sampled,
    pub(crate) system: Option<String>,
    pub(crate) weights: Weights,
    pub(crate) prune: Option<PruneConfig>,
    pub(crate) json: bool,
}

/// `outro chat`.
#[derive(Debug)]
pub(crate) struct Chat {
    pub(crate) model: Option<String>,
    pub(crate) media: Media,
    pub(crate) strategies: Strategies,
    pub(crate) sampled: sampling::Sampled,
    pub(crate) system: Option<String>,
    pub(crate) weights: Weights,
}

/// `outro trace`.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) model: String,
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
    pub(crate) model: Option<String>,
    pub(crate) media: Media,
    pub(crate) question: String,
    pub(crate) out: PathBuf,
    pub(crate) system: Option<String>,
}

/// `outro inspect`.
#[derive(Debug)]
pub(crate) struct Inspect {
    pub(crate) target: String,
    pub(crate) model: Option<String>,
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
    let matches = Cli::command().try_get_matches_from(args).map_err(Ok)?;
    let cli = Cli::from_arg_matches(&matches).map_err(Ok)?;
    let typed = matches.subcommand().map_or(&matches, |(_, m)| m);
    build(cli, typed).map_err(Err)
}

fn build(cli: Cli, typed: &ArgMatches) -> anyhow::Result<Invocation> {
    let action = match cli.command {
        Cmd::Ask(f) => Action::Ask(Box::new(ask(*f, typed)?)),
        Cmd::Chat(f) => Action::Chat(Box::new(chat(*f, typed)?)),
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
        Cmd::Prepare(f) => Action::Prepare(Box::new(Prepare {
            model: f.model.model,
            media: media(f.media, typed)?,
            question: question(f.question)?,
            out: f.out,
            system: f.system,
        })),
        Cmd::Inspect(f) => Action::Inspect(Box::new(Inspect {
            target: f.target,
            model: f.model.model,
            reading: reading(&f.reading)?,
            json: f.json,
        })),
        Cmd::Bench(f) => Action::Bench(Box::new(bench::bench(*f)?)),
        Cmd::Eval(command) => Action::Eval(eval::eval(command)?),
        Cmd::Tune(f) => Action::Tune(Box::new(tune::tune(*f)?)),
        Cmd::Sinks(f) => Action::Sinks(Box::new(sinks::sinks(*f, typed)?)),
        Cmd::Synth(f) => Action::Synth(Box::new(synth::synth(f)?)),
        Cmd::Demo { seed, out, model } => Action::Demo(Demo {
            seed,
            out,
            model: model.model,
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
    let questions = match (&f.questions, f.question) {
        (Some(path), _) => questions(path)?,
        (None, one) => vec![question(one.unwrap_or_default())?],
    };
    let strategies = strategies(&f.strategy, Switches::new(switches(&f.method)?)?)?;
    Ok(Ask {
        model: f.model.model,
        media: media(f.media, typed)?,
        questions,
        strategies,
        sampled: sampling::sampled(&f.sampling)?,
        system: f.system,
        weights: weights(&f.weights)?,
        prune: f.prune.prune,
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
    Ok(Chat {
        model: f.model.model,
        media: media(f.media, typed)?,
        strategies: strategies(&names, Switches::new(switches(&f.method)?)?)?,
        sampled: sampling::sampled(&f.sampling)?,
        system: f.system,
        weights: weights(&f.weights)?,
    })
}

fn weights(f: &WeightFlags) -> anyhow::Result<Weights> {
    let load = LoadOptions {
        dtype: f.dtype.into(),
        quantize: f.quantize.as_deref().map(str::parse).transpose()?,
        cache: if f.no_quantize_cache { None } else { cache::dir() },
        activations: match f.activations {
            ActivationsFlag::F32 => Activations::F32,
            ActivationsFlag::Reduced => Activations::Reduced,
        },
    };
    Ok(Weights {
        load,
        kv: f.kv.parse()?,
    })
}

fn strategies(typed: &[String], outro: Switches) -> anyhow::Result<Strategies> {
    let of = |name: &String| match name.as_str() {
        "both" => vec!["baseline".to_owned(), "outro".to_owned()],
        _ => vec![name.clone()],
    };
    let names: Vec<String> = typed.iter().flat_map(of).collect();
    let base = outro.on(OutRoConfig::default())?;
    let mut used = outro.pairs().is_empty() || names.is_empty();
    for (i, name) in names.iter().enumerate() {
        let by = Strategy::parse(name, &base).map_err(|e| match e {
            outro::Error::Setting { key, problem } => {
                anyhow::Error::from(Fault::usage(format!("--{key}: {problem}")))
            }
            e => e.into(),
        })?;
        used |= by.method.is_some();
        if names[..i].contains(name) {
            return Err(Fault::usage(format!("--strategy {name} is given twice"))
                .hint("leave one out")
                .into());
        }
    }
    if !used {
        return Err(unused_switches("a switch of OutRo", &names.join(", ")));
    }
    Ok(Strategies { names, outro })
}

fn unused_switches(what: &str, strategy: &str) -> anyhow::Error {
    Fault::usage(format!(
        "{what} was given with --strategy {strategy}, which has no use for it"
    ))
    .hint("use --strategy outro, or leave the switch out")
    .into()
}

fn question(text: String) -> anyhow::Result<String> {
    if text.trim().is_empty() {
        return Err(Fault::usage("the question is empty")
            .hint("write it in quotes after the flags")
            .into());
    }
    Ok(text)
}

/// One question per line; blank lines separate nothing and are skipped.
fn questions(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Fault::failure(format!("--questions {}: {e}", path.display()))
            .hint("give a UTF-8 text file with one question per line")
    })?;
    let list: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect();
    if list.is_empty() {
        return Err(
            Fault::failure(format!("--questions {}: holds no question", path.display()))
                .hint("write one question per line")
                .into(),
        );
    }
    Ok(list)
}

/// Media in the order in which they were typed, which clap keeps as indices.
fn media(f: MediaFlags, typed: &ArgMatches) -> anyhow::Result<Media> {
    let mut parts: Vec<(usize, Part)> = Vec::new();
    let mut add = |name: &str, paths: Vec<PathBuf>, part: fn(PathBuf) -> Part| {
        let indices = typed.indices_of(name).into_iter().flatten();
        parts.extend(indices.zip(paths).map(|(i, p)| (i, part(p))));
    };
    add("video", f.video, Part::Video);
    add("image", f.image, Part::Image);
    add("audio", f.audio, Part::Audio);
    parts.sort_by_key(|(i, _)| *i);
    let parts: Vec<Part> = parts.into_iter().map(|(_, p)| p).collect();
    for part in &parts {
        let (flag, path) = match part {
            Part::Video(p) => ("--video", p),
            Part::Image(p) => ("--image", p),
            Part::Audio(p) => ("--audio", p),
            Part::Text(_) => continue,
        };
        // Before anything heavy: a mistyped name should not cost a model load.
        match std::fs::metadata(path) {
            Err(e) => {
                return Err(Fault::failure(format!("{flag} {}: {e}", path.display()))
                    .hint("check the file's name")
                    .into());
            }
            Ok(m) if m.is_dir() => {
                return Err(
                    Fault::failure(format!("{flag} {}: is a directory", path.display()))
                        .hint("give a file")
                        .into(),
                );
            }
            Ok(_) => {}
        }
    }
    Ok(Media {
        parts,
        reading: reading(&f.reading)?,
    })
}

fn reading(f: &ReadingFlags) -> anyhow::Result<Reading> {
    let seconds = |flag: &str, x: Option<f64>| match x {
        Some(x) if !(x.is_finite() && x >= 0.0) => {
            Err(Fault::usage(format!("{flag} is {x}")).hint("give seconds from 0 up"))
        }
        x => Ok(x),
    };
    let (start, end) = (seconds("--start", f.start)?, seconds("--end", f.end)?);
    if let (Some(s), Some(e)) = (start, end)
        && e <= s
    {
        return Err(Fault::usage(format!("--end {e} is not after --start {s}"))
            .hint("give an end after the start")
            .into());
    }
    if let Some(fps) = f.fps
        && !(fps.is_finite() && fps > 0.0)
    {
        return Err(Fault::usage(format!("--fps is {fps}"))
            .hint("give a rate above 0")
            .into());
    }
    if let Some(n) = f.frames
        && n < 2
    {
        return Err(Fault::usage(format!("--frames is {n}"))
            .hint("a video needs at least 2 frames; use --image for one picture")
            .into());
    }
    if f.max_pixels.is_some_and(|n| n < 28 * 28) {
        return Err(Fault::usage("--max-pixels is below 784")
            .hint("one token covers 28 x 28 = 784 pixels; 602112 is usual")
            .into());
    }
    if !(f.deadline.is_finite() && f.deadline > 0.0 && f.deadline <= 1e6) {
        return Err(Fault::usage(format!("--deadline is {}", f.deadline))
            .hint("give seconds above 0 and up to 1000000")
            .into());
    }
    let decoder = match f.decoder {
        DecoderFlag::Auto => Decoder::Auto,
        DecoderFlag::Builtin => Decoder::Builtin,
        DecoderFlag::Ffmpeg => Decoder::Ffmpeg,
    };
    Ok(Reading {
        fps: f.fps,
        frames: f.frames,
        start,
        end,
        max_pixels: f.max_pixels,
        audio_in_video: !f.no_audio_in_video,
        options: outro_media::Options {
            decoder,
            deadline: Duration::from_secs_f64(f.deadline),
            // Our own binary is the decoder's child process; without a path to it the library decodes in-process.
            worker: std::env::current_exe().ok(),
            exif: !f.no_exif,
            ..outro_media::Options::default()
        },
    })
}

/// `KEY=VALUE`, split.
fn pairs(set: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    set.iter()
        .map(|s| match s.split_once('=') {
            Some((k, v)) if !k.trim().is_empty() => Ok((k.trim().to_owned(), v.trim().to_owned())),
            _ => Err(Fault::usage(format!("--set {s}: not KEY=VALUE"))
                .hint("for example --set gamma=2.5")
                .into()),
        })
        .collect()
}

/// Every switch that was typed, as the engine's keys; `--set` comes last and wins.
fn switches(f: &MethodFlags) -> anyhow::Result<Vec<(String, String)>> {
    let values = [
        ("gamma", &f.gamma),
        ("temperature", &f.gate_temperature),
        ("abs_threshold", &f.abs_threshold),
        ("median_multiple", &f.median_multiple),
        ("start_layer", &f.start_layer),
        ("end_layer", &f.end_layer),
        ("interval", &f.interval),
        ("layers", &f.layers),
        ("decode", &f.decode),
        ("sinks", &f.sinks),
    ];
    let booleans = [
        (f.once, "once", "true"),
        (f.always, "once", "false"),
        (f.no_rotate, "rotate", "false"),
        (f.no_relax, "relax", "false"),
        (f.no_rescale, "rescale", "false"),
    ];
    let mut out: Vec<(String, String)> = values
        .iter()
        .filter_map(|(k, v)| v.as_ref().map(|v| ((*k).to_owned(), v.clone())))
        .collect();
    out.extend(
        booleans
            .iter()
            .filter(|(on, ..)| *on)
            .map(|(_, k, v)| ((*k).to_owned(), (*v).to_owned())),
    );
    out.extend(pairs(&f.set)?);
    Ok(out)
}

#[cfg(test)]
mod tests;
