//! `outro eval`: a benchmark's questions answered into a log, and what a log adds up to.

use std::collections::BTreeMap;
use std::time::Instant;

use outro::Model;
use outro::prepare::Preparer;
use outro_lab::choice::PARSER;
use outro_lab::log::{self, Header, Log};
use outro_lab::report::report;
use outro_lab::run::{Engine, Step, run as answer_all};
use outro_lab::strategy::Strategy;
use outro_lab::task::{Profile, TASKS, Task};
use serde_json::json;

use super::ask::emit;
use super::{media, source};
use crate::args::Switches;
use crate::args::eval::{Eval, EvalRun, ReportFormat};
use crate::ui::{Ui, Unit, thousands};

/// Runs, lists or reports.
pub(crate) fn run(args: &Eval, ui: &Ui) -> anyhow::Result<()> {
    match args {
        Eval::List => {
            for task in &TASKS {
                emit(&format!("{:<12} {}\n", task.name, task.about))?;
            }
            Ok(())
        }
        Eval::Report { log, format } => {
            let (header, rows) = log::read(log)?;
            let report = report(&header, &rows);
            emit(&match format {
                ReportFormat::Markdown => report.markdown(),
                ReportFormat::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
            })
        }
        Eval::Run(args) => answers(args, ui),
    }
}

fn answers(args: &EvalRun, ui: &Ui) -> anyhow::Result<()> {
    let task = Task::named(&args.task)?;
    let source = source::open(args.model.as_deref(), ui)?;
    let preparer = Preparer::open(&source.dir)?;
    let profile = Profile::named(args.profile.as_deref().or(preparer.settings().profile.as_deref()))?;
    let mut loaded = task.load(&args.data, profile)?;
    loaded.samples.truncate(args.limit.unwrap_or(usize::MAX));
    if loaded.skipped > 0 {
        ui.note(&format!(
            "{} rows of {} are not questions with one right answer and are left out",
            loaded.skipped,
            loaded.file.display()
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
        outro_eval: 1,
        version: env!("CARGO_PKG_VERSION").into(),
        task: task.name.into(),
        questions_sha256: loaded.sha256.clone(),
        profile: profile.name.into(),
        parser: PARSER.into(),
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
    let (mut log, mut rows) = Log::open(&args.out, &header)?;
    let here = rows.len();
    if here > 0 {
        ui.note(&format!(
            "{}: {} answers are there already",
            args.out.display(),
            thousands(here as u64)
        ));
    }
    let model = Model::load(&source.dir, args.weights.load.clone())?;
    let engine = Engine {
        model: &model,
        preparer: &preparer,
        tokenizer,
        options,
        ablation: args.ablation,
        max_new_tokens: args.max_new_tokens,
        kv: args.weights.kv,
    };
    let bar = ui.bar(
        "answering",
        (loaded.samples.len() * strategies.len()) as u64,
        Unit::Count,
    );
    let since = Instant::now();
    let mut tally: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    answer_all(
        &engine,
        &loaded.samples,
        &strategies,
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
    emit(&report(&header, &rows).markdown())
}
