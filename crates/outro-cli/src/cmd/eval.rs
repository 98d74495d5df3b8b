//! `outro eval`: a benchmark's questions answered into a log, and what a log adds up to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use outro::Model;
use outro::prepare::Preparer;
use outro_lab::check::check;
use outro_lab::log::{self, Header, Log};
use outro_lab::report::{page, report};
use outro_lab::run::{Answerer, Engine, Runner, Step, part, run as answer_all};
use outro_lab::strategy::{KINDS, Strategy};
use outro_lab::task::{PROFILES, Profile, TASKS, Task};
use serde_json::json;

use super::ask::emit;
use super::media;
use super::source::{self, Source};
use crate::args::Switches;
use crate::args::eval::{Eval, EvalCheck, EvalRun, ReportFormat, is_log};
use crate::fault::Fault;
use crate::ui::{Ui, Unit, thousands};

/// Lists, checks, runs, merges or reports.
pub(crate) fn run(args: &Eval, ui: &Ui) -> anyhow::Result<()> {
    match args {
        Eval::List => {
            for task in &TASKS {
                emit(&format!("{:<14} {}\n", task.name, task.about))?;
            }
            let profiles: Vec<_> = PROFILES.iter().map(|p| p.name).collect();
            emit(&format!(
                "profiles       {}\nstrategies, joined by +\n",
                profiles.join(", ")
            ))?;
            for kind in &KINDS {
                let switches = if kind.switches.is_empty() { "" } else { ":" };
                let name = format!("{}{switches}{}", kind.name, kind.switches);
                emit(&format!("  {name}\n    {}\n", kind.about))?;
            }
            Ok(())
        }
        Eval::Check(args) => look(args, ui),
        Eval::Merge { logs, out } => {
            let (header, rows) = log::merge(logs)?;
            log::write(out, &header, &rows)?;
            emit(&report(&header, &rows).markdown())
        }
        Eval::Report { logs, format } => sum_up(logs, *format),
        Eval::Run(args) => {
            let source = source::open(args.model.as_deref(), ui)?;
            let model = Model::load(&source.dir, args.weights.load.clone())?;
            args.tasks
                .iter()
                .try_for_each(|task| answers(args, task, &source, &model, ui))
        }
    }
}

fn sum_up(paths: &[PathBuf], format: ReportFormat) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for path in paths {
        let mut files = vec![path.clone()];
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
            files = entries
                .flatten()
                .map(|e| e.path())
                .filter(|p| is_log(p))
                .collect();
            files.sort();
            if files.is_empty() {
                let problem = format!("{}: holds no log (.jsonl)", path.display());
                return Err(Fault::failure(problem)
                    .hint("give logs of `outro eval run`")
                    .into());
            }
        }
        for file in files {
            runs.push(log::read(&file)?);
        }
    }
    let reports: Vec<_> = runs.iter().map(|(h, r)| report(h, r)).collect();
    match format {
        ReportFormat::Html => emit(&page(&runs)),
        ReportFormat::Json => emit(&format!("{}\n", serde_json::to_string_pretty(&reports)?)),
        ReportFormat::Csv => {
            for (i, report) in reports.iter().enumerate() {
                let text = report.csv()?;
                // One line of headings for all runs.
                emit(if i == 0 {
                    &text
                } else {
                    text.split_once('\n').map_or("", |t| t.1)
                })?;
            }
            Ok(())
        }
        ReportFormat::Markdown => {
            for report in &reports {
                if reports.len() > 1 {
                    emit(&format!("## {}\n\n", report.run.task))?;
                }
                emit(&report.markdown())?;
            }
            Ok(())
        }
    }
}

fn look(args: &EvalCheck, ui: &Ui) -> anyhow::Result<()> {
    let source = source::open(args.model.as_deref(), ui)?;
    let preparer = Preparer::open(&source.dir)?;
    let profile = Profile::named(args.profile.as_deref().or(preparer.settings().profile.as_deref()))?;
    let loaded = Task::named(&args.task)?.load(&args.data, profile)?;
    let bar = ui.bar("looking at videos", 0, Unit::Count);
    let found = check(
        &loaded,
        &preparer,
        &media::options(&args.reading, &preparer),
        &|| bar.more(),
    );
    bar.done();
    if args.json {
        emit(&format!("{}\n", serde_json::to_string_pretty(&found)?))?;
    } else {
        let mut text = format!("questions    {}\n", thousands(found.questions as u64));
        for (what, n) in &found.left_out {
            let _ = writeln!(text, "left out     {} ({what})", thousands(*n as u64));
        }
        let counts = |of: &BTreeMap<String, usize>| {
            of.iter()
                .map(|(k, n)| format!("{k} {n}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        for (category, answers) in &found.answers {
            let total: usize = answers.values().sum();
            let _ = writeln!(text, "             {category}: {total} ({})", counts(answers));
        }
        for (group, parts) in &found.groups {
            let _ = writeln!(text, "{group:<12} {}", counts(parts));
        }
        let _ = writeln!(
            text,
            "videos       {}, of them {} missing, {} unusable",
            found.videos,
            found.missing.len(),
            found.unusable.len()
        );
        for path in found.missing.iter().take(5) {
            let _ = writeln!(text, "missing      {}", path.display());
        }
        for (path, why) in found.unusable.iter().take(20) {
            let _ = writeln!(text, "unusable     {}: {why}", path.display());
        }
        for (a, b) in found.twice.iter().take(5) {
            let _ = writeln!(text, "twice        {a} and {b}");
        }
        if found.twice.len() > 5 {
            let _ = writeln!(text, "twice        {} in all", found.twice.len());
        }
        let [low, high] = found.tokens;
        let _ = writeln!(
            text,
            "tokens       {low} to {high} a prompt, the model takes {}; {} prompts are too long",
            found.token_limit, found.too_long
        );
        emit(&text)?;
    }
    if !found.is_good() {
        ui.note("a run would have failing or repeated questions; --json names all of them");
    }
    Ok(())
}

/// Where a task's questions are: `DIR/TASK` if that is there, else DIR.
fn data_of(args: &EvalRun, task: &str) -> PathBuf {
    let own = args.data.join(task);
    if own.is_dir() { own } else { args.data.clone() }
}

/// The log of a task and shard.
fn log_of(args: &EvalRun, task: &str) -> anyhow::Result<PathBuf> {
    let whole = if is_log(&args.out) {
        args.out.clone()
    } else {
        std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
        args.out.join(format!("{task}.jsonl"))
    };
    Ok(match args.shard {
        Some(s) => whole.with_extension(format!("{}-of-{}.jsonl", s.index, s.of)),
        None => whole,
    })
}

fn answers(args: &EvalRun, task: &str, source: &Source, model: &Model, ui: &Ui) -> anyhow::Result<()> {
    let task = Task::named(task)?;
    let preparer = Preparer::open(&source.dir)?;
    let profile = Profile::named(args.profile.as_deref().or(preparer.settings().profile.as_deref()))?;
    let mut loaded = task.load(&data_of(args, task.name), profile)?;
    loaded.samples.truncate(args.limit.unwrap_or(usize::MAX));
    for (what, n) in &loaded.left_out {
        let file = loaded.file.display();
        ui.note(&format!(
            "{} rows of {file} are left out: {what} has no one right answer",
            thousands(*n as u64)
        ));
    }
    let tokenizer = media::tokenizer(&preparer, &source.dir)?;
    let base = source::method(preparer.settings(), &source.dir, &Switches::default())?;
    let strategies: Vec<Strategy> = args
        .strategies
        .iter()
        .map(|s| Strategy::parse(s, &base))
        .collect::<outro_lab::Result<_>>()?;
    let options = media::options(&args.reading, &preparer);
    let header = Header {
        outro_eval: log::FORM,
        version: env!("CARGO_PKG_VERSION").into(),
        task: task.name.into(),
        split: None,
        questions_sha256: loaded.sha256.clone(),
        questions: loaded.samples.len(),
        shard: args.shard.map(|s| s.to_string()),
        profile: profile.name.into(),
        profile_sha256: profile.sha256(task.name),
        parser: profile.parser.name().into(),
        readout: if args.by_logits { "logits" } else { "text" }.into(),
        model: if source.tiny {
            source::TINY.into()
        } else {
            source.dir.display().to_string()
        },
        weights: args.weights.name(),
        strategies: strategies.clone(),
        ablation: args.ablation.name().into(),
        media: json!({
            "fps": options.sampling.fps, "frames": options.sampling.frames, "start": options.sampling.start,
            "end": options.sampling.end, "max_pixels": options.max_pixels, "audio_in_video": options.audio_in_video,
        }),
        max_new_tokens: args.max_new_tokens,
    };
    if let Some(shard) = args.shard {
        loaded.samples = part(&loaded.samples, shard);
    }
    let out = log_of(args, task.name)?;
    let (mut log, mut rows) = Log::open(&out, &header)?;
    let here = rows.len();
    if here > 0 {
        ui.note(&format!(
            "{}: {} answers are there already",
            out.display(),
            thousands(here as u64)
        ));
    }
    let runner = Runner {
        answerer: Answerer::Engine(Engine {
            model,
            preparer: &preparer,
            tokenizer,
            max_new_tokens: args.max_new_tokens,
            kv: args.weights.kv,
        }),
        options,
        ablation: args.ablation,
        parser: profile.parser,
        by_logits: args.by_logits,
    };
    let bar = ui.bar(
        "answering",
        (loaded.samples.len() * strategies.len()) as u64,
        Unit::Count,
    );
    let since = Instant::now();
    let mut tally: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    answer_all(
        &runner,
        &loaded.samples,
        &mut |_| strategies.clone(),
        &mut log,
        &mut rows,
        &mut |step: Step| {
            let t = tally.entry(step.row.strategy.clone()).or_default();
            t.0 += usize::from(step.row.right);
            t.1 += 1;
            let rate = (step.done - here) as f64 / since.elapsed().as_secs_f64().max(1e-9);
            let left = (step.total - step.done) as f64 / rate.max(1e-9);
            let scores: Vec<String> = tally
                .iter()
                .take(3)
                .map(|(name, (right, total))| {
                    format!("{name} {:.1} %", 100.0 * *right as f64 / (*total).max(1) as f64)
                })
                .collect();
            bar.set(step.done as u64);
            bar.label(&format!("{} ({left:.0} s left)", scores.join(", ")));
        },
    )?;
    bar.done();
    let failed = rows.iter().filter(|r| r.error.is_some()).count();
    if let Some(row) = rows.iter().find(|r| r.error.is_some()) {
        let why = row.error.as_deref().unwrap_or_default();
        ui.note(&format!("{failed} answers failed; the first, {}: {why}", row.id));
    }
    if args.tasks.len() > 1 {
        emit(&format!("## {}\n\n", task.name))?;
    }
    emit(&report(&header, &rows).markdown())
}
