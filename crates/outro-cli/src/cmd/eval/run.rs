//! `outro eval run`: questions are read and checked first, then the model is loaded, then they are answered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use outro::method::OutRoConfig;
use outro::prepare::{MediaOptions, Preparer};
use outro::settings::Settings;
use outro::strategy::Strategy;
use outro::{Activations, Model};
use outro_lab::choice::Parser;
use outro_lab::log::{self, Header, Log, Row};
use outro_lab::report::report;
use outro_lab::run::{Answerer, Engine, Remote, Replies, Runner, Send, Step, part, run as answer_all};
use outro_lab::task::{Loaded, Profile, Sample, Task};
use outro_lab::tune::hold_out;
use outro_media::NoteKind;
use serde_json::json;

use super::endpoint::Client;
use crate::args::eval::{Asking, EvalRun, Who, is_log};
use crate::args::flags::ModelFlags;
use crate::args::{REDUCED, Switches, Weights};
use crate::cmd::ask::emit;
use crate::fault::Fault;
use crate::hints;
use crate::interrupt;
use crate::shell::media;
use crate::shell::output::make_parent;
use crate::shell::source::{self, Source};
use crate::ui::{Ui, Unit, duration, thousands};

/// Where there is no progress bar, a line this often.
const NOTE: Duration = Duration::from_mins(1);

/// A checkpoint before its weights are loaded.
pub(crate) struct Checkpoint {
    pub(crate) source: Source,
    pub(crate) preparer: Arc<Preparer>,
    /// What `outro` means for it.
    pub(crate) method: OutRoConfig,
    weights: Weights,
}

impl Checkpoint {
    /// `logs` are those that this run may go on with.
    pub(crate) fn open(
        model: &ModelFlags,
        asking: &Asking,
        logs: &[PathBuf],
        ui: &Ui,
    ) -> anyhow::Result<Self> {
        let source = source::choose(model, ui)?;
        let mut preparer = source.preparer()?;
        if let Some(path) = &asking.settings {
            let settings = Settings::read(path)?.ok_or_else(|| {
                Fault::failure(format!("--settings: there is no {}", path.display()))
                    .hint("give a file in the form of outro.json; `outro tune` writes one only where a setting was better than the plain model")
            })?;
            preparer = preparer.with_settings(settings);
        }
        media::tokenizer(&preparer, &source.dir)?;
        let method = source::method(
            preparer.settings(),
            &asking
                .settings
                .clone()
                .unwrap_or_else(|| Settings::place(&source.dir)),
            &Switches::default(),
            preparer.config().text.layers,
        )?;
        Ok(Self {
            source,
            preparer: Arc::new(preparer),
            method,
            weights: going_on(&asking.weights, logs, ui)?,
        })
    }

    pub(crate) fn load(&self, ui: &Ui) -> anyhow::Result<Model> {
        source::introduce(&self.source, None, ui);
        Ok(self.source.model(self.weights.load.clone())?)
    }

    /// Strategies by their names, held against the model.
    pub(crate) fn strategies(&self, names: &[String]) -> anyhow::Result<Vec<Strategy>> {
        let model = &self.preparer.config().text;
        let read = names.iter().map(|n| Strategy::of_model(n, &self.method, model));
        Ok(read.collect::<outro::Result<_>>()?)
    }

    /// With its weights, as an answerer.
    pub(crate) fn engine(&self, model: &Model, asking: &Asking) -> anyhow::Result<Engine> {
        let (dir, preparer) = (&self.source.dir, Arc::clone(&self.preparer));
        Ok(Engine {
            engine: outro::Engine::of(dir, preparer, model.clone(), self.weights.kv)?,
            max_new_tokens: asking.max_new_tokens,
        })
    }

    fn name(&self) -> String {
        if self.source.tiny {
            source::TINY.into()
        } else {
            self.source.name()
        }
    }
}

/// Weights as they were typed; activations that were not are exact where a log was begun with exact ones, which older versions
/// took by default.
fn going_on(typed: &Weights, logs: &[PathBuf], ui: &Ui) -> anyhow::Result<Weights> {
    let mut weights = typed.clone();
    if weights.activations_typed {
        return Ok(weights);
    }
    for log in logs {
        let exact = |header: &Header| !header.weights.contains(REDUCED);
        if log::begun(log)?.as_ref().is_some_and(exact) {
            weights.load.activations = Activations::F32;
            let kept = "goes on with what it was begun with: activations = f32";
            ui.note(&format!("{}: {kept}", log.display()));
            break;
        }
    }
    Ok(weights)
}

/// Whoever answers, before any weight is loaded.
pub(crate) enum Asked<'a> {
    Checkpoint(Box<Checkpoint>),
    Remote {
        /// As it stands in a log.
        answerer: String,
        model: String,
        shows: bool,
        send: Box<Send<'a>>,
    },
}

impl<'a> Asked<'a> {
    fn open(args: &'a EvalRun, ui: &Ui) -> anyhow::Result<Self> {
        match &args.who {
            Who::Engine(model) => {
                let logs: Vec<_> = args.tasks.iter().map(|task| log_of(args, task)).collect();
                let checkpoint = Checkpoint::open(model, &args.asking, &logs, ui)?;
                Ok(Self::Checkpoint(Box::new(checkpoint)))
            }
            Who::Endpoint(endpoint) => {
                let client = Client::new(endpoint, args.asking.max_new_tokens)?;
                Ok(Self::Remote {
                    answerer: if endpoint.videos {
                        format!("endpoint {} (video files)", endpoint.url)
                    } else {
                        format!("endpoint {}", endpoint.url)
                    },
                    model: endpoint.model.clone(),
                    // Files are sent as they are.
                    shows: !endpoint.videos,
                    send: Box::new(move |sample, _, shown| client.send(sample, shown)),
                })
            }
            Who::Replies(file, model) => {
                let replies = Replies::read(file)?;
                Ok(Self::Remote {
                    answerer: format!("replies {}", replies.sha256),
                    model: model.clone().unwrap_or_else(|| "unknown".into()),
                    shows: false,
                    send: Box::new(move |sample, _, _| replies.send(sample)),
                })
            }
        }
    }

    /// The model's own way of putting questions, and of reading media.
    fn ways(&self, asking: &Asking) -> anyhow::Result<(&'static Profile, MediaOptions)> {
        let (own, base) = match self {
            Self::Checkpoint(c) => (
                c.preparer.settings().profile.as_deref(),
                c.preparer.media_options(),
            ),
            Self::Remote { .. } => (None, MediaOptions::default()),
        };
        let profile = Profile::named(asking.profile.as_deref().or(own))?;
        Ok((profile, media::options_over(&asking.reading, base)))
    }
}

/// A benchmark's questions, read.
pub(crate) struct Questions {
    pub(crate) task: &'static Task,
    pub(crate) profile: &'static Profile,
    pub(crate) parser: Parser,
    pub(crate) options: MediaOptions,
    pub(crate) loaded: Loaded,
    /// The program's version; of a run that goes on, the one that began it.
    version: String,
}

impl Questions {
    /// Reads them, with a note about what is left out.
    pub(crate) fn read(
        task: &str,
        data: &Path,
        asked: &Asked,
        asking: &Asking,
        ui: &Ui,
    ) -> anyhow::Result<Self> {
        let task = Task::named(task)?;
        let (profile, options) = asked.ways(asking)?;
        let mut loaded = task.load(&task.dir(data), profile)?;
        if asking.present {
            let before = loaded.samples.len();
            loaded.samples.retain(|s| s.video.exists());
            let there = loaded.samples.len();
            if there == 0 {
                return Err(nothing_there(&loaded.file, before));
            }
            ui.note(&format!(
                "{}: {} of {} questions are about videos that are there",
                task.name,
                thousands(there as u64),
                thousands(before as u64)
            ));
        }
        for (what, n) in &loaded.left_out {
            ui.note(&format!(
                "{} rows of {} are left out: {what} has no one right answer",
                thousands(*n as u64),
                loaded.file.display()
            ));
        }
        Ok(Self {
            task,
            profile,
            parser: asking.parser.unwrap_or(profile.parser),
            options,
            loaded,
            version: env!("CARGO_PKG_VERSION").into(),
        })
    }

    /// Takes from the log that is there, if one is, the settings that it was begun with, where nothing else was typed and
    /// this version has other defaults. What was typed stays, and a log that it does not fit is refused later.
    pub(crate) fn go_on(&mut self, log: &Path, asking: &Asking, ui: &Ui) -> anyhow::Result<()> {
        let Some(begun) = log::begun(log)? else {
            return Ok(());
        };
        let mut kept = Vec::new();
        if begun.version != self.version {
            kept.push(format!("version = {}", begun.version));
            self.version.clone_from(&begun.version);
        }
        if asking.parser.is_none() && begun.parser != self.parser.name() {
            self.parser = Parser::named(&begun.parser).with_context(|| log.display().to_string())?;
            kept.push(format!("parser = {}", begun.parser));
        }
        if self.options.media.exif && !begun.exif() {
            self.options.media.exif = false;
            kept.push("exif = false".into());
        }
        if !kept.is_empty() {
            let kept = kept.join(", ");
            ui.note(&format!(
                "{}: goes on with what it was begun with: {kept}",
                log.display()
            ));
        }
        Ok(())
    }

    /// The identity of a run of these questions.
    pub(crate) fn header(&self, asked: &Asked, asking: &Asking, strategies: &[Strategy]) -> Header {
        let options = &self.options;
        let (answerer, model, weights) = match asked {
            Asked::Checkpoint(c) => (None, c.name(), c.weights.name()),
            Asked::Remote { answerer, model, .. } => {
                (Some(answerer.clone()), model.clone(), "unknown".into())
            }
        };
        let mut media = json!({
            "fps": options.sampling.fps, "frames": options.sampling.frames, "start": options.sampling.start,
            "end": options.sampling.end, "max_pixels": options.max_pixels, "audio_in_video": options.audio_in_video,
            "exif": options.media.exif,
        });
        // Logs from before there was such a limit are of runs without.
        if let Some(most) = options.max_video_tokens {
            media["max_video_tokens"] = most.into();
        }
        Header {
            outro_eval: log::FORM,
            version: self.version.clone(),
            task: self.task.name.into(),
            split: None,
            present: asking.present,
            questions_sha256: self.loaded.sha256.clone(),
            questions: self.loaded.samples.len(),
            shard: None,
            profile: self.profile.name.into(),
            profile_sha256: self.profile.sha256(self.task.name),
            parser: self.parser.name().into(),
            readout: if asking.by_logits { "logits" } else { "text" }.into(),
            answerer,
            model,
            weights,
            strategies: strategies.to_vec(),
            ablation: "none".into(),
            media,
            max_new_tokens: asking.max_new_tokens,
        }
    }
}

/// A task of a run with its log.
struct Job {
    questions: Questions,
    strategies: Vec<Strategy>,
    header: Header,
    log: Log,
    rows: Vec<Row>,
}

impl Job {
    fn open(args: &EvalRun, task: &str, asked: &Asked, ui: &Ui) -> anyhow::Result<Self> {
        let asking = &args.asking;
        let mut questions = Questions::read(task, &args.data, asked, asking, ui)?;
        let out = log_of(args, task);
        make_parent(&out)?;
        questions.go_on(&out, asking, ui)?;
        let strategies = match asked {
            Asked::Checkpoint(c) => c.strategies(&args.strategies)?,
            Asked::Remote { .. } => {
                let base = OutRoConfig::default();
                let read = args.strategies.iter().map(|s| Strategy::parse(s, &base));
                read.collect::<outro::Result<_>>()?
            }
        };
        let samples = &mut questions.loaded.samples;
        let most = asking.limit.unwrap_or(usize::MAX);
        if !args.held_out {
            samples.truncate(most);
        }
        let split = match asked {
            Asked::Checkpoint(c) => held_out(args, task, samples, &strategies, c, ui)?,
            Asked::Remote { .. } => None,
        };
        samples.truncate(most);
        let sees = !matches!(asked, Asked::Remote { shows: false, .. });
        let before = log::begun(&out)?.is_some();
        if sees && !before {
            mostly_there(samples)?;
        }
        let mut header = Header {
            split,
            shard: args.shard.map(|s| s.to_string()),
            ablation: args.ablation.name().into(),
            ..questions.header(asked, asking, &strategies)
        };
        if let Some(shard) = args.shard {
            questions.loaded.samples = part(&questions.loaded.samples, shard);
        }
        let (log, mut rows) = Log::grow(&out, &mut header)?;
        if before {
            let n = thousands(rows.len() as u64);
            ui.note(&format!("{}: {n} answers are there already", out.display()));
        }
        if args.retry_failed {
            rows.retain(|r| r.error.is_none());
        }
        Ok(Self {
            questions,
            strategies,
            header,
            log,
            rows,
        })
    }

    fn is_done(&self) -> bool {
        self.rows.len() >= self.questions.loaded.samples.len() * self.strategies.len()
    }

    fn answer(&mut self, args: &EvalRun, answerer: Answerer, ui: &Ui) -> anyhow::Result<()> {
        let runner = Runner {
            answerer,
            options: self.questions.options.clone(),
            ablation: args.ablation,
            told: hints::told,
            parser: self.questions.parser,
            by_logits: args.asking.by_logits,
        };
        let mut wanted = |_: &[Row]| self.strategies.clone();
        let samples = &self.questions.loaded.samples;
        carry_out(&runner, samples, &mut wanted, &mut self.log, &mut self.rows, ui)
    }

    fn sum_up(&self, args: &EvalRun, ui: &Ui) -> anyhow::Result<()> {
        let failed = self.rows.iter().filter(|r| r.error.is_some()).count();
        if let Some(row) = self.rows.iter().find(|r| r.error.is_some()) {
            let why = row.error.as_deref().unwrap_or_default();
            ui.note(&format!(
                "{failed} answers failed, --retry-failed asks again; the first, {}: {why}",
                row.id
            ));
        }
        if args.tasks.len() > 1 {
            emit(&format!("## {}\n\n", self.header.task))?;
        }
        emit(&report(&self.header, &self.rows).markdown())
    }
}

/// Refuses a run about whose questions nothing can be said: where every answer failed, a table of zeros is no result.
pub(crate) fn all_failed(task: &str, rows: &[Row]) -> anyhow::Result<()> {
    let Some(why) = rows.first().and_then(|r| r.error.as_ref()) else {
        return Ok(());
    };
    if rows.iter().any(|r| r.error.is_none()) {
        return Ok(());
    }
    let problem = format!("{task}: every answer failed; the first, {}: {why}", rows[0].id);
    Err(Fault::failure(problem)
        .hint("`outro eval check` looks at a benchmark's files; --retry-failed asks again")
        .into())
}

fn nothing_there(file: &Path, questions: usize) -> anyhow::Error {
    let problem = format!(
        "{}: none of the videos of its {} questions is there",
        file.display(),
        thousands(questions as u64)
    );
    Fault::failure(problem)
        .hint("put videos where `outro eval check` looks for them; docs/eval.md has each benchmark's folders")
        .into()
}

/// Refuses to begin a run most of whose questions could only fail.
fn mostly_there(samples: &[Sample]) -> anyhow::Result<()> {
    let videos: BTreeSet<&PathBuf> = samples.iter().map(|s| &s.video).collect();
    let missing: BTreeSet<&PathBuf> = videos.into_iter().filter(|v| !v.exists()).collect();
    let failing = samples.iter().filter(|s| missing.contains(&s.video)).count();
    let Some(first) = missing.first().filter(|_| failing * 2 > samples.len()) else {
        return Ok(());
    };
    let problem = format!(
        "the videos of {} of {} questions are not there, the first: {}",
        thousands(failing as u64),
        thousands(samples.len() as u64),
        first.display()
    );
    Err(Fault::failure(problem)
        .hint("--present asks only about videos that are there; `outro eval check` names the others")
        .into())
}

/// Answers questions, with progress.
pub(crate) fn carry_out(
    runner: &Runner,
    samples: &[Sample],
    wanted: &mut dyn FnMut(&[Row]) -> Vec<Strategy>,
    log: &mut Log,
    rows: &mut Vec<Row>,
    ui: &Ui,
) -> anyhow::Result<()> {
    let here = rows.len();
    let mut tally: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut count = |row: &Row| {
        let t = tally.entry(row.strategy.clone()).or_default();
        (t.0, t.1) = (t.0 + usize::from(row.right), t.1 + 1);
        let score = |(name, (right, total)): (&String, &(usize, usize))| {
            format!("{name} {:.1} %", 100.0 * *right as f64 / *total as f64)
        };
        tally.iter().take(3).map(score).collect::<Vec<_>>().join(", ")
    };
    for row in rows.iter() {
        count(row);
    }
    if ui.shows_notes() {
        interrupt::say_that_it_goes_on();
    }
    let bar = ui.bar("answering", samples.len() as u64, Unit::Answers);
    let since = Instant::now();
    let mut noted = since;
    let mut warned = false;
    let done = answer_all(runner, samples, wanted, log, rows, &mut |step: Step| {
        let unfamiliar = step.row.notes.iter().find(|n| n.kind == NoteKind::Unfamiliar);
        if let Some(note) = unfamiliar.filter(|_| !warned) {
            warned = true;
            bar.aside(|| source::warn(&note.text, ui));
        }
        let rate = (step.done - here) as f64 / since.elapsed().as_secs_f64().max(1e-9);
        let left = step.total.saturating_sub(step.done) as f64 / rate.max(1e-9);
        let label = format!("{}; {rate:.1} a second, {} left", count(step.row), duration(left));
        bar.total(step.total as u64);
        bar.set(step.done as u64);
        bar.label(&label);
        if !ui.shows_progress() && noted.elapsed() > NOTE {
            ui.note(&format!("{} of {} answers; {label}", step.done, step.total));
            noted = Instant::now();
        }
    });
    bar.done();
    match done {
        Err(outro_lab::Error::Answerer(why)) => Err(Fault::failure(why)
            .hint("start the same command again: it goes on with the question at which it stopped")
            .into()),
        done => Ok(done?),
    }
}

/// Refuses, or takes away, questions about videos on which the model's settings were chosen.
fn held_out(
    args: &EvalRun,
    task: &str,
    samples: &mut Vec<Sample>,
    strategies: &[Strategy],
    checkpoint: &Checkpoint,
    ui: &Ui,
) -> anyhow::Result<Option<String>> {
    let tuned = &checkpoint.preparer.settings().tuned;
    let before = samples.len();
    let mut rest = samples.clone();
    let Some((gone, split)) = hold_out(task, &mut rest, tuned) else {
        if args.held_out && tuned.is_empty() {
            let problem = "--held-out: the model's settings name no question on which they were tuned";
            return Err(Fault::usage(problem)
                .hint("leave it out, or give the outro.json that `outro tune` wrote with --settings")
                .into());
        }
        return Ok(None);
    };
    if args.held_out {
        ui.note(&format!(
            "{} of {} questions are left out: settings were tuned on them",
            thousands(gone as u64),
            thousands(before as u64)
        ));
        if rest.is_empty() {
            let problem = format!("{task}: the model's settings were tuned on all {before} questions");
            return Err(Fault::failure(problem).hint("give other questions").into());
        }
        *samples = rest;
        return Ok(Some(split));
    }
    // The plain model alone has no settings that could have been tuned.
    if strategies.iter().all(|s| s.name == "baseline") {
        return Ok(None);
    }
    let problem = format!("{task}: the model's settings were tuned on {gone} of these {before} questions");
    Err(Fault::failure(problem)
        .hint("give --held-out to ask the others only; a score on the very questions of tuning means nothing")
        .into())
}

/// The log of a task and shard.
fn log_of(args: &EvalRun, task: &str) -> PathBuf {
    let whole = if is_log(&args.out) {
        args.out.clone()
    } else {
        args.out.join(format!("{task}.jsonl"))
    };
    match args.shard {
        Some(s) => whole.with_extension(format!("{}-of-{}.jsonl", s.index, s.of)),
        None => whole,
    }
}

pub(super) fn run(args: &EvalRun, ui: &Ui) -> anyhow::Result<()> {
    let asked = Asked::open(args, ui)?;
    let jobs: Vec<Job> = args
        .tasks
        .iter()
        .map(|task| Job::open(args, task, &asked, ui))
        .collect::<anyhow::Result<_>>()?;
    let model = match &asked {
        Asked::Checkpoint(c) if !jobs.iter().all(Job::is_done) => Some(c.load(ui)?),
        _ => None,
    };
    let mut failed = Ok(());
    for mut job in jobs {
        let answerer = match (&asked, &model) {
            (Asked::Checkpoint(c), Some(model)) => Some(Answerer::Engine(c.engine(model, &args.asking)?)),
            (Asked::Checkpoint(_), None) => None,
            (Asked::Remote { send, shows, .. }, _) => Some(Answerer::Remote(Remote { shows: *shows, send })),
        };
        if let Some(answerer) = answerer {
            job.answer(args, answerer, ui)?;
        }
        job.sum_up(args, ui)?;
        failed = failed.and_then(|()| all_failed(&job.header.task, &job.rows));
    }
    failed
}
