//! `outro eval`: a benchmark's questions answered into a log, and what a log adds up to.

mod endpoint;
pub(crate) mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use outro::strategy::KINDS;
use outro_lab::check::check;
use outro_lab::choice::Parser;
use outro_lab::log::{self, Header, Row};
use outro_lab::report::{Pictures, page, report, thumbnails};
use outro_lab::rescore::{markdown, rescore};
use outro_lab::task::{PROFILES, Profile, TASKS, Task};
use outro_lab::tune::TUNING;

use super::ask::emit;
use crate::args::eval::{Eval, EvalCheck, EvalReport, ReportFormat, is_log};
use crate::fault::Fault;
use crate::shell::media;
use crate::shell::output::make_parent;
use crate::shell::source;
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
                "profiles       {}\nparsers        {}\nstrategies, joined by +\n",
                profiles.join(", "),
                Parser::ALL.map(Parser::name).join(", ")
            ))?;
            for kind in &KINDS {
                let switches = kind.switches();
                let colon = if switches.is_empty() { "" } else { ":" };
                let name = format!("{}{colon}{switches}", kind.name);
                emit(&format!("  {name}\n    {}\n", kind.about))?;
            }
            Ok(())
        }
        Eval::Check(args) => look(args, ui),
        Eval::Merge { logs, out } => {
            let (header, rows) = log::merge(logs)?;
            make_parent(out)?;
            log::write(out, &header, &rows)?;
            emit(&report(&header, &rows).markdown())
        }
        Eval::Rescore { log, parser, out } => read_anew(log, *parser, out, ui),
        Eval::Report(args) => sum_up(args, ui),
        Eval::Run(args) => run::run(args, ui),
    }
}

/// Reads a log's replies by another parser, into another log.
fn read_anew(path: &Path, parser: Parser, out: &Path, ui: &Ui) -> anyhow::Result<()> {
    if out.exists() && out.canonicalize().ok() == path.canonicalize().ok() {
        return Err(
            Fault::usage(format!("--out: {} is the log itself", out.display()))
                .hint("give another file")
                .into(),
        );
    }
    let (before, rows) = log::read(path)?;
    let (header, read, changes) = rescore(&before, &rows, parser)?;
    make_parent(out)?;
    let written = log::complete(out, &header, &read)?;
    ui.note(&format!(
        "{}: {} answers written",
        out.display(),
        thousands(written as u64)
    ));
    let changed: usize = changes.iter().map(|c| c.changed).sum();
    emit(&format!(
        "{}: {} of {} answers changed from {} to {}.\n\n{}",
        header.task,
        thousands(changed as u64),
        thousands(rows.len() as u64),
        before.parser,
        header.parser,
        markdown(&changes)
    ))
}

fn sum_up(args: &EvalReport, ui: &Ui) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for path in &args.logs {
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
            let (header, rows) = log::read(&file)?;
            if header.split.as_ref().is_some_and(|s| s.starts_with(TUNING)) {
                let problem = format!("{}: settings were chosen on these very questions", file.display());
                return Err(Fault::failure(problem)
                    .hint("give logs of `outro eval run --held-out`; `outro tune`, given again, shows its own result")
                    .into());
            }
            runs.push((header, rows));
        }
    }
    let reports: Vec<_> = runs.iter().map(|(h, r)| report(h, r)).collect();
    match args.format {
        ReportFormat::Html => emit(&page(&runs, &pictures(args, &runs, ui)?)),
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

/// A small picture of every video that the logs are about, by task and video.
fn pictures(args: &EvalReport, runs: &[(Header, Vec<Row>)], ui: &Ui) -> anyhow::Result<Pictures> {
    let mut all = Pictures::new();
    let Some(data) = &args.data else { return Ok(all) };
    for (header, rows) in runs {
        let task = Task::named(&header.task)?;
        let loaded = task.load(&task.dir(data), Profile::named(Some(&header.profile))?)?;
        if loaded.sha256 != header.questions_sha256 {
            let problem = format!(
                "{}: holds other questions than a log of {}",
                loaded.file.display(),
                task.name
            );
            return Err(Fault::failure(problem).hint("give the --data of the run").into());
        }
        let mut samples = loaded.samples;
        let videos: BTreeSet<&String> = rows.iter().map(|r| &r.video).collect();
        samples.retain(|s| videos.contains(&s.video_id));
        let bar = ui.bar("reading videos", videos.len() as u64, Unit::Count);
        let found = thumbnails(&samples, &media::decoding(), &|| bar.more());
        all.extend(
            found
                .into_iter()
                .map(|(video, picture)| ((task.name.to_owned(), video), picture)),
        );
    }
    Ok(all)
}

fn look(args: &EvalCheck, ui: &Ui) -> anyhow::Result<()> {
    let source = source::choose(&args.model, ui)?;
    let preparer = source.preparer()?;
    let profile = Profile::named(args.profile.as_deref().or(preparer.settings().profile.as_deref()))?;
    let loaded = Task::named(&args.task)?.load(&args.data, profile)?;
    source::introduce(&source, None, ui);
    let bar = ui.bar("reading videos", 0, Unit::Count);
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
        let present = if found.missing.is_empty() {
            ""
        } else {
            "; `eval run --present` asks only about videos that are there"
        };
        ui.note(&format!(
            "a run would have failing or repeated questions, --json names all of them{present}"
        ));
    }
    Ok(())
}
