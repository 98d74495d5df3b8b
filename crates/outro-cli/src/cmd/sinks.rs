//! `outro sinks`: what attention sinks are and do on a prompt or a set of prompts, as a page, tables and JSON.

use std::fs;
use std::path::Path;

use anyhow::Context;
use outro::chat::{Conversation, Part};
use outro::inputs::Inputs;
use outro::prepare::Preparer;
use outro::strategy::Strategy;
use outro::{MediaEmbeds, Model};
use outro_lab::page::{InspectedPrompt, Page, Scored, Sheet, Token, frames};
use outro_lab::probe::numbers::Numbers;
use outro_lab::probe::{Options, Profile, probe};
use outro_lab::sweeps::sweeps;
use outro_lab::task::{Profile as Form, Sample, Task};
use outro_lab::{log, report};
use serde_json::json;

use crate::args::Media;
use crate::args::sinks::{Sinks, Subject};
use crate::cmd::ask::emit;
use crate::fault::Fault;
use crate::shell::{encode_inputs, media, source, weights};
use crate::ui::{Ui, Unit};

/// Looks, and writes what was seen.
pub(crate) fn run(args: &Sinks, ui: &Ui) -> anyhow::Result<()> {
    // Before the work: a place that cannot be written should not cost a prefill.
    fs::create_dir_all(&args.out).map_err(|e| {
        Fault::failure(format!("--out {}: {e}", args.out.display()))
            .hint("give a directory that you may write to")
    })?;
    let source = source::choose(&args.model, ui)?;
    let preparer = source.preparer()?;
    let text = &preparer.config().text;
    let method = source::method_of(&preparer, &source, &args.method)?;
    // No dimension can exceed the root of the width times a token's root mean square.
    let widest = (text.hidden as f32).sqrt();
    let usual = Options::default().tau;
    let by = Strategy::of_model(&args.strategy, &method, text)?;
    let options = Options {
        method,
        act: by.method.is_some(),
        tau: args
            .tau
            .unwrap_or(if usual < widest { usual } else { widest / 2.0 }),
        dims: args.dims.clone(),
        epsilon: args.epsilon,
        prune: by.pruning(),
        kv: args.weights.kv,
    };
    let (scores, scored_on) = match &args.scores {
        Some(log) => scored(log)?,
        None => (Vec::new(), String::new()),
    };
    let bench = match &args.subject {
        Subject::Asked {
            media: files,
            question,
        } => Bench::Prepared(Box::new(media::whole(
            &source,
            files,
            args.system.as_deref(),
            question,
            ui,
        )?)),
        Subject::Inputs(path) => {
            let mut inputs = Inputs::load(path)?;
            inputs.use_audio_in_video |=
                super::trace::is_interleaved(&inputs.input_ids, &preparer.config().tokens);
            inputs.validate(preparer.config())?;
            Bench::Prepared(Box::new(inputs))
        }
        Subject::Set {
            task,
            data,
            limit,
            media,
        } => {
            media::tokenizer(&preparer, &source.dir)?;
            let form = Form::named(preparer.settings().profile.as_deref())?;
            let mut samples = Task::named(task)?.load(data, form)?.samples;
            samples.truncate(*limit);
            Bench::Set(samples, media)
        }
    };
    source::introduce(&source, None, ui);
    let model = weights(&source, &args.weights, ui)?;
    if options.tau >= widest {
        ui.note(&format!(
            "Phi_VLM marks nothing: in this model no dimension can exceed {widest:.1} times a token's root mean square, and --tau is {}",
            options.tau
        ));
    }
    let lab = Lab {
        model: &model,
        preparer: &preparer,
        options: &options,
        ui,
    };
    let mut numbers = Numbers::default();
    let one = match &bench {
        Bench::Prepared(inputs) => {
            let media = encode_inputs(&model, inputs, ui)?;
            if let Some(text) = model.unfamiliar(&media) {
                source::warn(&text, ui);
            }
            let inspected = lab.inspect(inputs, &media)?;
            numbers.add(&inspected.profile);
            Some(inspected)
        }
        Bench::Set(samples, files) => {
            lab.set(samples, files, &mut numbers)?;
            None
        }
    };
    let name = if source.tiny {
        source::TINY.to_owned()
    } else {
        let short = source.dir.file_name().unwrap_or(source.dir.as_os_str());
        short.to_string_lossy().into_owned()
    };
    let about = match &args.subject {
        Subject::Asked { media, question } => {
            let files = media.parts.iter().filter_map(|p| match p {
                Part::Video(f) | Part::Image(f) | Part::Audio(f) => f.file_name(),
                Part::Text(_) => None,
            });
            let files: Vec<_> = files.map(|f| f.to_string_lossy()).collect();
            format!("{question} {}", files.join(", "))
        }
        Subject::Inputs(path) => path.display().to_string(),
        Subject::Set { task, .. } => format!(
            "{} questions of {task}: means with 95 % intervals",
            numbers.prompts
        ),
    };
    let page = Page {
        model: &name,
        about: &about,
        options: &options,
        numbers: &numbers,
        one: one.as_ref(),
        scores: &scores,
        scored_on: &scored_on,
    };
    let text = &model.config().text;
    let record = json!({
        "model": name, "about": about, "strategy": by.name, "options": options, "prompts": numbers.prompts, "one": one,
        "scores": scores, "layers": numbers.layers, "heads": numbers.heads, "cosines": numbers.cosines,
        "layer_quantities": outro_lab::probe::numbers::BY_LAYER, "head_quantities": outro_lab::probe::numbers::BY_HEAD,
    });
    let strategies = sweeps(
        &numbers.heads_by_sink_mass(),
        &numbers.sinks_of_all(),
        text.layers,
        text.head_dim,
        one.as_ref().is_none_or(|s| s.profile.has_prunable()),
    );
    let sheet = page.draw();
    if args.png {
        pictures(&sheet, &args.out, ui)?;
    }
    for (file, content) in [
        ("layers.csv", numbers.layers_csv()),
        ("heads.csv", numbers.heads_csv()),
        ("cosines.csv", numbers.cosines_csv()),
        ("profile.json", serde_json::to_string(&record)? + "\n"),
        ("strategies.txt", strategies.join("\n") + "\n"),
        // Last: a report is there when everything is.
        ("report.html", sheet.html),
    ] {
        write(&args.out.join(file), content.as_bytes())?;
    }
    emit(&summary(one.as_ref().map(|s| &s.profile), &numbers, &args.out))
}

/// A log's strategies with their scores, and what was asked.
fn scored(path: &Path) -> anyhow::Result<(Vec<Scored>, String)> {
    let (header, rows) = log::read(path)?;
    let one = |r: report::Result| Scored {
        name: r.strategy,
        accuracy: r.all.accuracy,
        interval: r.all.interval,
        p: r.paired.map(|v| v.p),
    };
    let about = format!("{} by {}", header.task, header.model);
    let results = report::report(&header, &rows).results;
    Ok((results.into_iter().map(one).collect(), about))
}

/// What there is to look at, before the weights.
enum Bench<'a> {
    Prepared(Box<Inputs>),
    Set(Vec<Sample>, &'a Media),
}

struct Lab<'a> {
    model: &'a Model,
    preparer: &'a Preparer,
    options: &'a Options,
    ui: &'a Ui,
}

impl Lab<'_> {
    fn inspect(&self, inputs: &Inputs, media: &MediaEmbeds) -> anyhow::Result<InspectedPrompt> {
        let prompt = self.model.prompt(inputs, media)?;
        let rows = prompt.spans.as_slice();
        let layers = 2 * self.model.config().text.layers;
        let bar = self.ui.bar("probing", layers as u64, Unit::Count);
        let profile = probe(self.model, &prompt, rows, self.options, &mut |n| {
            bar.set(n as u64);
        })?;
        bar.done();
        let seconds = |item: usize| inputs.second_per_grid.get(item).copied().unwrap_or(1.0);
        let tokens = rows.iter().zip(&inputs.input_ids).map(|(span, id)| {
            let word = self.preparer.tokenizer().map(|t| t.token(*id));
            Token::new(span, &word.unwrap_or_else(|| format!("id {id}")), seconds)
        });
        Ok(InspectedPrompt {
            tokens: tokens.collect(),
            frames: frames(&profile, rows, inputs, self.preparer.patches()),
            profile,
        })
    }

    /// Every question; those about one video share its decoding and encoding.
    fn set(&self, samples: &[Sample], files: &Media, numbers: &mut Numbers) -> anyhow::Result<()> {
        let options = media::options(&files.reading, self.preparer);
        let bar = self
            .ui
            .bar("probing questions", samples.len() as u64, Unit::Count);
        let quiet = Lab {
            ui: &Ui::new(true),
            ..*self
        };
        let mut warned = false;
        for group in samples.chunk_by(|a, b| a.video == b.video) {
            let part = Part::Video(group[0].video.clone().into());
            let loaded = self.preparer.load_media(&[part], &options, &mut |_| {})?;
            let mut embeds = None;
            for sample in group {
                let asked = Conversation::new(None, &loaded.parts, &sample.prompt);
                let layout = self.preparer.layout_about(&loaded, &asked)?;
                let embeds = if let Some(embeds) = &embeds {
                    embeds
                } else {
                    let made = embeds.insert(self.model.encode(&loaded.inputs, &mut |_| {})?);
                    if let Some(text) = self.model.unfamiliar(made).filter(|_| !warned) {
                        warned = true;
                        bar.aside(|| source::warn(&text, self.ui));
                    }
                    &*made
                };
                let prompt = self.model.prompt_of(layout, embeds)?;
                let profile = probe(quiet.model, &prompt, &prompt.spans, quiet.options, &mut |_| {})
                    .with_context(|| format!("question {}", sample.id))?;
                numbers.add(&profile);
                bar.set(numbers.prompts as u64);
            }
        }
        bar.done();
        Ok(())
    }
}

/// `figures/NAME.png` of each figure; pictures of an earlier report go.
fn pictures(sheet: &Sheet, out: &Path, ui: &Ui) -> anyhow::Result<()> {
    let dir = out.join("figures");
    fs::create_dir_all(&dir).with_context(|| format!("--out {}", dir.display()))?;
    for old in fs::read_dir(&dir)
        .with_context(|| format!("--out {}", dir.display()))?
        .flatten()
    {
        if old.path().extension().is_some_and(|e| e == "png") {
            fs::remove_file(old.path()).with_context(|| format!("--out {}", old.path().display()))?;
        }
    }
    let bar = ui.bar("drawing", sheet.figures.len() as u64, Unit::Count);
    for (i, figure) in sheet.figures.iter().enumerate() {
        write(&dir.join(&figure.name).with_extension("png"), &figure.png()?)?;
        bar.set(i as u64 + 1);
    }
    bar.done();
    Ok(())
}

/// A neighbour first, so that a file is whole or as it was.
fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, content)
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("--out {}", path.display()))
}

fn summary(one: Option<&Profile>, numbers: &Numbers, out: &Path) -> String {
    let mut lines = Vec::new();
    if let Some(p) = one {
        if p.fallback {
            lines.push(
                "no sink by these thresholds (--abs-threshold, --median-multiple); token 0 is watched".into(),
            );
        }
        // Layers one after the other with the same sinks are one line.
        let found = p.layers.iter().filter(|l| !l.sinks.is_empty());
        let found: Vec<_> = found.collect();
        for run in found.chunk_by(|a, b| a.sinks == b.sinks && a.layer + 1 == b.layer) {
            let sinks = &run[0].sinks;
            let shown: Vec<String> = sinks.iter().take(12).map(usize::to_string).collect();
            let more = if sinks.len() > 12 { ", ..." } else { "" };
            let layers = match run {
                [one] => format!("layer {}", one.layer),
                [first, .., last] => format!("layers {} to {}", first.layer, last.layer),
                [] => continue,
            };
            lines.push(format!(
                "{layers:<16} {} sink{}: {}{more}",
                sinks.len(),
                if sinks.len() == 1 { "" } else { "s" },
                shown.join(", ")
            ));
        }
        if p.pruned > 0 {
            let cache = crate::ui::bytes(p.cache_bytes as u64);
            lines.push(format!("pruned {} tokens; the cache holds {cache}", p.pruned));
        }
    } else {
        lines.push(format!("{} prompts", numbers.prompts));
    }
    lines.push(out.join("report.html").display().to_string());
    lines.join("\n") + "\n"
}
