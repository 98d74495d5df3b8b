//! `outro tune`: settings tried on a part of a benchmark, and the best of them as the model's outro.json.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use outro::settings::{self, Settings};
use outro_lab::log::{self, Header, Log, Row};
use outro_lab::run::{Ablation, Answerer, Runner};
use outro_lab::task::Sample;
use outro_lab::tune::{Outcome, Search, TUNING, Tried, fields, outcome, tuned};
use serde_json::json;

use super::ask::emit;
use super::eval::run::{Asked, Checkpoint, Questions, all_failed, carry_out};
use crate::args::tune::Tune;
use crate::fault::Fault;
use crate::hints;
use crate::ui::{Ui, thousands};

pub(crate) fn run(args: &Tune, ui: &Ui) -> anyhow::Result<()> {
    let path = args.out.join(format!("{}.tuning.jsonl", args.task));
    let logs = std::slice::from_ref(&path);
    let checkpoint = Checkpoint::open(&args.model, &args.asking, logs, ui)?;
    let strategies = checkpoint.strategies(&args.grid)?;
    let asked = Asked::Checkpoint(Box::new(checkpoint));
    let mut questions = Questions::read(&args.task, &args.data, &asked, &args.asking, ui)?;
    let all = questions.loaded.samples.len();
    let used = args
        .split
        .tuning(&questions.loaded.samples, args.asking.limit.unwrap_or(usize::MAX));
    if used.is_empty() {
        let problem = format!(
            "--share {} of the videos of {} is none",
            args.split.share, args.task
        );
        return Err(Fault::usage(problem)
            .hint("give a greater share: each video is drawn with this probability")
            .into());
    }
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    questions.go_on(&path, &args.asking, ui)?;
    let header = Header {
        split: Some(args.split.name()),
        questions: used.len(),
        ..questions.header(&asked, &args.asking, &strategies)
    };
    let (mut log, mut rows) = open(&path, &header)?;
    if !rows.is_empty() {
        let n = thousands(rows.len() as u64);
        ui.note(&format!("{}: {n} answers are there already", path.display()));
    }
    let Asked::Checkpoint(checkpoint) = &asked else {
        return Ok(());
    };
    let search = Search::new(&strategies, &used);
    if !search.standing(&rows).done {
        let model = checkpoint.load(ui)?;
        let runner = Runner {
            answerer: Answerer::Engine(checkpoint.engine(&model, &args.asking)?),
            options: questions.options.clone(),
            ablation: Ablation::None,
            told: hints::told,
            parser: questions.parser,
            by_logits: args.asking.by_logits,
        };
        let mut wanted = |rows: &[Row]| search.wanted(rows);
        carry_out(&runner, &used, &mut wanted, &mut log, &mut rows, ui)?;
    }
    all_failed(&args.task, &rows)?;
    let found = outcome(&header, &rows, &search.standing(&rows));
    let record = tuned(&args.task, &questions.loaded, &used);
    let written = match &found.best {
        None => Written::default(),
        Some(best) => {
            let mut own = checkpoint.preparer.settings().clone();
            own.format = 1;
            let new = fields(best);
            if new.iter().any(|(key, _)| key == "gate_temperature") {
                // The older name of the same switch.
                own.method.remove("temperature");
            }
            own.method.extend(new);
            if !own.tuned.contains(&record) {
                own.tuned.push(record);
            }
            write(args, checkpoint, &own)?
        }
    };
    if args.json {
        let report = json!({
            "task": args.task, "log": path, "split": args.split.name(), "questions": used.len(), "questions_of_task": all,
            "videos": videos(&used), "tried": found.tried, "best": found.best, "settings": written.settings,
            "installed": written.installed, "kept": written.kept, "p_values": MEANING,
        });
        return emit(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    }
    let of = format!(
        "{} of {} questions of {}, on {} videos ({})",
        thousands(used.len() as u64),
        thousands(all as u64),
        args.task,
        videos(&used),
        args.split.name()
    );
    emit(&text(&of, &found, &written))
}

/// What the p values are worth.
const MEANING: &str = "\
p is the exact McNemar test of one setting against the plain model, as if it were the only one that was tried. The best is
the one that came out best here, so its p and its gain flatter it. `p x settings` allows for the number of settings
(Bonferroni); neither allows for questions about one video hanging together, which the interval does. What the setting is
worth is measured on the other questions: outro eval run --held-out.";

fn videos(samples: &[Sample]) -> usize {
    let names: std::collections::BTreeSet<_> = samples.iter().map(|s| &s.video_id).collect();
    names.len()
}

/// The search's log. One of a run's questions would make the search choose on what is to be reported.
fn open(path: &Path, header: &Header) -> anyhow::Result<(Log, Vec<Row>)> {
    if fs::metadata(path).is_ok_and(|m| m.len() > 0)
        && let Ok((there, _)) = log::read(path)
        && !there.split.is_some_and(|s| s.starts_with(TUNING))
    {
        let problem = format!(
            "{}: is the log of a run, whose questions are not for tuning",
            path.display()
        );
        return Err(Fault::failure(problem).hint("give another --out").into());
    }
    Ok(Log::open(path, header)?)
}

/// Where the settings went.
#[derive(Debug, Default)]
struct Written {
    /// The copy in --out.
    settings: Option<PathBuf>,
    /// Beside the checkpoint.
    installed: Option<PathBuf>,
    /// What was there before, under its new name.
    kept: Option<PathBuf>,
    /// Why it is not beside the checkpoint.
    why_not: Option<String>,
}

/// Writes the settings into --out, and beside the checkpoint where there are none. What is there is never lost: it stays, or
/// with --install it gets another name.
fn write(args: &Tune, checkpoint: &Checkpoint, own: &Settings) -> anyhow::Result<Written> {
    let text = serde_json::to_string_pretty(own)? + "\n";
    let mut written = Written {
        settings: Some(args.out.join(settings::FILE)),
        ..Written::default()
    };
    put(&args.out.join(settings::FILE), &text)?;
    let place = Settings::place(&checkpoint.source.dir);
    if args.asking.settings.is_some() {
        written.why_not = Some("--settings was given, so the model's own are left alone".into());
    } else if checkpoint.source.tiny {
        written.why_not =
            Some("the program's own model keeps its settings; give the file with --settings".into());
    } else if fs::read_to_string(&place).is_ok_and(|there| there == text) {
        written.installed = Some(place);
    } else if !place.exists() || args.install {
        written.kept = put(&place, &text)?;
        written.installed = Some(place);
    } else {
        written.why_not = Some(format!(
            "{} is there and stays; --install keeps it under another name and puts the new one in its place",
            place.display()
        ));
    }
    Ok(written)
}

/// Writes a file that appears at once. Another one that is there gets a number, and its new name is returned.
fn put(path: &Path, text: &str) -> anyhow::Result<Option<PathBuf>> {
    let fail = || format!("{}: cannot be written", path.display());
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(None);
    }
    let numbered = |n: usize| PathBuf::from(format!("{}.{n}", path.display()));
    let part = PathBuf::from(format!("{}.part-{}", path.display(), std::process::id()));
    fs::write(&part, text).with_context(fail)?;
    let mut kept = None;
    if path.exists() {
        let mut number = 1;
        while numbered(number).exists() {
            number += 1;
        }
        fs::rename(path, numbered(number)).with_context(fail)?;
        kept = Some(numbered(number));
    }
    fs::rename(&part, path).with_context(fail)?;
    Ok(kept)
}

fn text(of: &str, found: &Outcome, written: &Written) -> String {
    let mut out = format!("tuned on     {of}\n\n");
    let width = found
        .tried
        .iter()
        .map(|t| t.strategy.len())
        .max()
        .unwrap_or(0)
        .max(7);
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        out,
        "{:width$}  {:>9}  {:>7}  {:>6}  {:>5}  {:>10}  {:>16}  {:>7}  {:>12}",
        "setting",
        "questions",
        "right %",
        "gained",
        "lost",
        "difference",
        "95 % interval",
        "p",
        "p x settings"
    );
    for t in &found.tried {
        let _ = writeln!(out, "{}", line(t, width).trim_end());
    }
    out.push('\n');
    match &found.best {
        None => out.push_str(&nothing_better(found)),
        Some(best) => {
            let _ = writeln!(out, "best         {best}");
        }
    }
    for (what, path) in [
        ("written", &written.settings),
        ("installed", &written.installed),
        ("kept", &written.kept),
    ] {
        if let Some(path) = path {
            let _ = writeln!(out, "{what:<12} {}", path.display());
        }
    }
    if let Some(why) = &written.why_not {
        let _ = writeln!(out, "not installed: {why}");
    }
    let _ = writeln!(out, "\n{MEANING}");
    out
}

/// That the plain model is best, and what to do about it.
fn nothing_better(found: &Outcome) -> String {
    let plain = found.tried.first();
    let perfect = plain.is_some_and(|t| t.questions > 0 && t.right == t.questions);
    let next = if perfect {
        "the plain model has every question right, so no setting can be better: try questions that it does not all answer"
    } else {
        "try another --gamma, --gate-temperature or --layers, or more questions (--share)"
    };
    format!(
        "best         the plain model: no setting has more right answers; nothing is written, and there is no outro.json to give with \
         --settings\nnext         {next}\n"
    )
}

fn line(t: &Tried, width: usize) -> String {
    let right = 100.0 * t.right as f64 / t.questions.max(1) as f64;
    let mut out = format!("{:width$}  {:>9}  {right:>7.1}", t.strategy, t.questions);
    if let Some(v) = &t.paired {
        let interval = format!("{:+.1} to {:+.1}", v.interval.0 * 100.0, v.interval.1 * 100.0);
        let _ = write!(
            out,
            "  {:>6}  {:>5}  {:>+10.1}  {interval:>16}  {:>7.4}  {:>12.4}",
            v.counts.gained,
            v.counts.lost,
            v.difference * 100.0,
            v.p,
            t.p_times_settings.unwrap_or(1.0)
        );
    }
    if let Some(d) = &t.dropped {
        let _ = write!(
            out,
            "  dropped: {} won {} videos and lost {} ({})",
            d.than, d.videos.0, d.videos.1, d.why
        );
    }
    out
}
