//! `outro ask`: media and questions in, answers out.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Context;
use outro::chat::Conversation;
use outro::strategy::Strategy;
use outro::{Answer, Ask, Cancel, Engine, Update, answer_all};
use outro_media::{Note, NoteKind};

use crate::args::Ask as AskArgs;
use crate::shell::answer::{Record, Shared, side_by_side};
use crate::shell::{media, sampling, source, weights};
use crate::ui::{Ui, Unit};

/// Answers every question.
pub(crate) fn ask(args: &AskArgs, ui: &Ui) -> anyhow::Result<()> {
    let source = source::choose(&args.model, ui)?;
    let preparer = source.preparer()?;
    media::tokenizer(&preparer, &source.dir)?;
    let conversations: Vec<Conversation> = args
        .questions
        .iter()
        .map(|q| media::conversation(&args.media, args.system.as_deref(), q))
        .collect();
    let chosen = sampling::settle(&args.sampled, &preparer, ui)?;
    // Every prompt is counted before anything is decoded or loaded.
    let options = media::options(&args.media.reading, &preparer);
    let plan = media::plan(&preparer, &conversations, &options)?;

    let strategies = source::strategies(&args.strategies, &preparer, &source, ui)?;

    let mut shared = Shared::default();
    let since = Instant::now();
    let model = weights(&source, &args.weights, ui)?;
    shared.load = since.elapsed().as_secs_f64();

    let engine = Engine::of(&source.dir, preparer, model, args.weights.kv)?;
    let file = plan
        .items
        .first()
        .map(|i| i.info.path.clone())
        .unwrap_or_default();
    let since = Instant::now();
    let media = media::read(&engine, plan, &options, ui)?;
    // The towers run while files are decoded.
    shared.encode = media.encode_seconds();
    shared.media = (since.elapsed().as_secs_f64() - shared.encode).max(0.0);
    let unfamiliar = engine.model().unfamiliar(media.embeds());
    source::introduce(&source, unfamiliar.as_deref(), ui);
    let mut notes = media.notes().to_vec();
    notes.extend(unfamiliar.map(|text| Note::new(NoteKind::Unfamiliar, &file, text)));

    let asks: Vec<Ask> = conversations
        .into_iter()
        .map(|c| engine.chat(&media, c))
        .collect();
    let ids = asks.iter().map(Ask::ids).collect::<outro::Result<Vec<_>>>()?;
    media.share(ids.iter().map(Vec::as_slice));
    for (question, ask) in args.questions.iter().zip(asks) {
        let ask = ask
            .sampling(chosen.sampling.clone())
            .max_new(chosen.max_new_tokens);
        let answers = answers(args, question, &ask, &strategies, ui)?;
        if args.json {
            let record = Record {
                question,
                model: source.name(),
                builtin_model: source.tiny,
                weights: args.weights.name(),
                prompt_tokens: answers[0].prompt_tokens,
                sampling: &chosen,
                answers,
                notes: &notes,
                shared_seconds: shared,
            };
            emit(&format!("{}\n", serde_json::to_string(&record)?))?;
        }
        // Later questions reuse all of it.
        shared = Shared::default();
    }
    Ok(())
}

/// One question by each strategy.
fn answers(
    args: &AskArgs,
    question: &str,
    ask: &Ask,
    strategies: &[Strategy],
    ui: &Ui,
) -> anyhow::Result<Vec<Answer>> {
    let several = args.questions.len() > 1;
    if several && !args.json {
        emit(&format!("> {question}\n"))?;
    }
    // Two answers cannot stream into two columns, and are made in the same steps; one does, or several one after the other.
    let together = strategies.len() == 2 || args.json;
    let mut answers = Vec::new();
    if together {
        answers = run(ask, strategies, &mut |_| Ok(()), ui)?;
    }
    for by in strategies.iter().filter(|_| !together) {
        if strategies.len() > 1 {
            emit(&format!("[{}]\n", by.name))?;
        }
        answers.extend(run(ask, std::slice::from_ref(by), &mut emit, ui)?);
        emit("\n")?;
    }
    for answer in &answers {
        spent(answer, ui);
    }
    if let ([left, right], false) = (answers.as_slice(), args.json) {
        emit(&side_by_side(left, right, column_width()))?;
    }
    if several && !args.json {
        emit("\n")?;
    }
    Ok(answers)
}

/// Answers by strategies together; `sink` gets the text as it comes.
pub(super) fn run(
    ask: &Ask,
    strategies: &[Strategy],
    sink: &mut dyn FnMut(&str) -> anyhow::Result<()>,
    ui: &Ui,
) -> anyhow::Result<Vec<Answer>> {
    let names: Vec<&str> = strategies.iter().map(|by| by.name.as_str()).collect();
    let bar = ui.bar("prefill", 0, Unit::Count);
    let mut failed = None;
    // Whatever stops one answer stops all of them, prompts that still run included.
    let cancel = Cancel::default();
    let with = |by: &Strategy| ask.clone().by(by.clone()).cancelled_by(&cancel);
    let asks: Vec<Ask> = strategies.iter().map(with).collect();
    let made = answer_all(&asks, &mut |update| {
        match update {
            Update::Prefill { ask, layers } => {
                bar.label(&format!("prefill ({})", names[ask]));
                bar.set(layers as u64);
            }
            // Behind a failure nothing is written, and the failure stays the first one.
            Update::Text { piece, .. } if failed.is_none() => {
                bar.hide();
                failed = sink(piece).err();
            }
            Update::Text { .. } | Update::Media(_) | Update::Encode(_) => {}
        }
        if failed.is_some() {
            cancel.set();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    bar.done();
    match failed {
        Some(e) => Err(e),
        None => Ok(made.into_iter().collect::<outro::Result<_>>()?),
    }
}

/// What an answer took.
pub(crate) fn spent(answer: &Answer, ui: &Ui) {
    let rate = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
    let (t, spent) = (answer.prompt_tokens, answer.seconds);
    ui.line(&format!(
        "prefill {} tokens ({} text, {} image, {} video, {} audio) in {:.2} s, {:.1} tokens/s",
        t.total,
        t.text,
        t.image,
        t.video,
        t.audio,
        spent.prefill,
        rate(t.total, spent.prefill),
    ));
    ui.line(&format!(
        "decode {} tokens in {:.2} s, {:.1} tokens/s",
        answer.tokens,
        spent.decode,
        rate(answer.tokens, spent.decode)
    ));
}

/// Writes to stdout at once; a closed pipe is reported as such and ends the program quietly.
pub(crate) fn emit(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("stdout")
}

/// Half of an 80- or 160-column line.
fn column_width() -> usize {
    let wanted = std::env::var("COLUMNS")
        .ok()
        .and_then(|c| c.parse::<usize>().ok())
        .filter(|_| io::stdout().is_terminal());
    wanted.map_or(48, |c| (c.clamp(40, 200) - 3) / 2)
}
