//! `outro ask`: media and questions in, answers out.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use outro::Session;
use outro::chat::Conversation;
use outro::generate::{Sampler, Stop, generate};
use outro::inputs::Inputs;
use outro::method::{OutRo, Prune};
use outro::prepare::{Media, Preparer};
use outro::strategy::{NoisyMedia, Request};
use outro::tokenizer::Tokenizer;
use outro::{KvType, MediaEmbeds, Model, Prompt};
use outro_lab::strategy::{Extra, Strategy};
use outro_media::{Note, NoteKind};

use super::answer::{Answer, PromptTokens, Record, Shared, Spent, side_by_side, top5};
use super::sampling::{self, Chosen};
use super::{encode, media, source};
use crate::args::Ask;
use crate::ui::{Ui, Unit};

/// Answers every question.
pub(crate) fn run(args: &Ask, ui: &Ui) -> anyhow::Result<()> {
    let source = source::choose(args.model.as_deref(), ui)?;
    let preparer = Preparer::open(&source.dir)?;
    let tokenizer = media::tokenizer(&preparer, &source.dir)?;
    let conversations: Vec<Conversation> = args
        .questions
        .iter()
        .map(|q| media::conversation(&args.media, args.system.as_deref(), q))
        .collect();
    let chosen = sampling::settle(&args.sampled, &source.dir, ui)?;
    // Every prompt is counted before anything is decoded or loaded.
    let options = media::options(&args.media.reading, &preparer);
    let plan = media::plan(&preparer, &conversations, &options)?;

    let method = source::method(preparer.settings(), &source.dir, &args.strategies.outro)?;
    let read = |name: &String| -> anyhow::Result<Strategy> {
        let mut by = Strategy::parse(name, &method)?;
        if let Some(p) = args.prune {
            by.extras.push(Extra::Prune(p));
            by.sinks = Some(method.clone());
        }
        Ok(by)
    };
    let strategies = args
        .strategies
        .names
        .iter()
        .map(read)
        .collect::<anyhow::Result<Vec<_>>>()?;

    let mut shared = Shared::default();
    let since = Instant::now();
    let loaded = media::load(&preparer, &plan, &options, ui)?;
    shared.media = since.elapsed().as_secs_f64();

    let since = Instant::now();
    let bar = ui.bar("loading weights", 0, Unit::Count);
    let model = Model::load(&source.dir, args.weights.load.clone())?;
    bar.done();
    for note in model.notes() {
        ui.note(note);
    }
    shared.load = since.elapsed().as_secs_f64();

    let mut notes = loaded.notes.clone();
    let mut embeds: Option<MediaEmbeds> = None;
    let mut prefix: Option<Session> = None;
    let noisy = NoisyMedia::default();
    let mut loaded = Some(loaded);
    let last = conversations.len().saturating_sub(1);
    for (i, (question, conversation)) in args.questions.iter().zip(&conversations).enumerate() {
        let prepared = match (loaded.take_if(|_| i == last), &loaded) {
            (Some(media), _) => preparer.assemble_last(media, conversation)?,
            (None, Some(media)) => preparer.assemble(media, conversation)?,
            (None, None) => break,
        };
        let inputs = prepared.inputs;
        let embeds = match &mut embeds {
            Some(embeds) => embeds,
            slot @ None => {
                let since = Instant::now();
                let made = encode(&model, &inputs, ui)?;
                shared.encode = since.elapsed().as_secs_f64();
                let unfamiliar = model.unfamiliar(&made);
                source::introduce(&source, unfamiliar.as_deref(), ui);
                let file = plan
                    .items
                    .first()
                    .map_or(Path::new(""), |i| i.info.path.as_path());
                notes.extend(unfamiliar.map(|text| Note::new(NoteKind::Unfamiliar, file, text)));
                slot.insert(made)
            }
        };
        let prompt = model.prompt(&inputs, embeds)?;
        // Media that are still there have another question to come.
        if let (None, Some(media)) = (&prefix, &loaded)
            && strategies.iter().any(Strategy::uses_prefix)
        {
            prefix = shared_rows(&model, args.weights.kv, &preparer, media, &conversations, &prompt)?;
        }
        let request = Request {
            model: &model,
            kv: args.weights.kv,
            prompt: &prompt,
            spans: &prepared.spans,
            prefix: prefix.as_ref(),
            noisy: &|noise| noisy.prompt(&model, &inputs, noise),
        };
        let run = Run {
            args,
            strategies: &strategies,
            asker: Asker {
                request,
                tokenizer,
                ids: &inputs.input_ids,
                chosen: &chosen,
                ui,
            },
            tokens: count(&inputs, embeds),
        };
        let answers = run.answers(question)?;
        if args.json {
            let record = Record {
                question,
                model: source.dir.display().to_string(),
                builtin_model: source.tiny,
                prompt_tokens: run.tokens,
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

/// Keys and values of the rows with which all prompts begin, for the plain model; `None` where they begin with other words.
fn shared_rows<'m>(
    model: &'m Model,
    kv: KvType,
    preparer: &Preparer,
    loaded: &Media,
    conversations: &[Conversation],
    prompt: &Prompt,
) -> anyhow::Result<Option<Session<'m>>> {
    let mut ids = Vec::new();
    for conversation in conversations {
        ids.push(preparer.ids(conversation, &loaded.items)?);
    }
    let rows = common_start(&ids);
    if rows == 0 || !model.shares_rows() {
        return Ok(None);
    }
    let mut session = Session::with_kv(model, None, kv);
    session.prefill_prefix(prompt, rows, &mut |_| {})?;
    Ok(Some(session))
}

/// How many ids all begin with, at least one of each left over.
fn common_start(all: &[Vec<u32>]) -> usize {
    let Some((first, others)) = all.split_first() else {
        return 0;
    };
    let alike = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    let shortest = all.iter().map(Vec::len).min().unwrap_or(0);
    let rows = others.iter().map(alike).min().unwrap_or(0);
    rows.min(shortest.saturating_sub(1))
}

fn count(inputs: &Inputs, embeds: &MediaEmbeds) -> PromptTokens {
    let total = inputs.input_ids.len();
    let (image, video, audio) = (embeds.image.rows(), embeds.video.rows(), embeds.audio.rows());
    PromptTokens {
        total,
        image,
        video,
        audio,
        text: total.saturating_sub(image + video + audio),
    }
}

/// One question on its way to its answers.
struct Run<'a> {
    args: &'a Ask,
    strategies: &'a [Strategy],
    asker: Asker<'a>,
    tokens: PromptTokens,
}

impl Run<'_> {
    fn answers(&self, question: &str) -> anyhow::Result<Vec<Answer>> {
        let several = self.args.questions.len() > 1;
        if several && !self.args.json {
            emit(&format!("> {question}\n"))?;
        }
        // Two answers cannot stream into two columns; one does, or several one after the other.
        let stream = self.strategies.len() != 2 && !self.args.json;
        let mut answers = Vec::new();
        for by in self.strategies {
            if stream && self.strategies.len() > 1 {
                emit(&format!("[{}]\n", by.name))?;
            }
            answers.push(self.answer(by, stream)?);
        }
        if let ([left, right], false) = (answers.as_slice(), self.args.json) {
            emit(&side_by_side(left, right, column_width()))?;
        }
        if several && !self.args.json {
            emit("\n")?;
        }
        Ok(answers)
    }

    fn answer(&self, by: &Strategy, stream: bool) -> anyhow::Result<Answer> {
        let answer = self
            .asker
            .answer(by, &mut |piece| if stream { emit(piece) } else { Ok(()) })?;
        if stream {
            emit("\n")?;
        }
        let ui = self.asker.ui;
        let rate = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
        let (t, spent) = (self.tokens, answer.seconds);
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
        Ok(answer)
    }
}

/// A prompt to be answered.
pub(crate) struct Asker<'a> {
    pub(crate) request: Request<'a>,
    pub(crate) tokenizer: &'a Tokenizer,
    /// The prompt's ids, which a repetition penalty counts.
    pub(crate) ids: &'a [u32],
    pub(crate) chosen: &'a Chosen,
    pub(crate) ui: &'a Ui,
}

impl Asker<'_> {
    /// The answer by a strategy; `sink` gets its text piece by piece.
    pub(crate) fn answer(
        &self,
        by: &Strategy,
        sink: &mut dyn FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Answer> {
        let (name, request) = (&by.name, &self.request);
        let since = Instant::now();
        let mut stream = by.stream(request)?;
        let label = format!("prefill ({name})");
        let bar = self
            .ui
            .bar(&label, request.model.config().text.layers as u64, Unit::Count);
        let logits = stream.prefill(request.prompt, &mut |layers| bar.set(layers as u64))?;
        bar.done();
        let pruned = stream.session().hook::<Prune>().map(Prune::dropped);
        let cache_bytes = stream.cache_bytes();
        let prefill = since.elapsed().as_secs_f64();

        let since = Instant::now();
        // Every strategy begins with the same seed, so that what differs is theirs.
        let mut sampler = Sampler::new(self.chosen.sampling.clone(), self.ids);
        let mut decoder = self.tokenizer.stream();
        let (mut text, mut tokens, mut failed) = (String::new(), 0, None);
        let stop = generate(
            stream.as_mut(),
            &logits,
            &mut sampler,
            self.tokenizer.end_tokens(),
            self.chosen.max_new_tokens,
            &mut |token| {
                tokens += 1;
                match decoder.push(token) {
                    Ok(piece) => {
                        text.push_str(&piece);
                        failed = sink(&piece).err();
                    }
                    Err(e) => failed = Some(e.into()),
                }
                failed.is_none()
            },
        )?;
        if let Some(e) = failed {
            return Err(e);
        }
        let rest = decoder.finish()?;
        text.push_str(&rest);
        sink(&rest)?;
        let decode = since.elapsed().as_secs_f64();
        let outro = stream.session().hook::<OutRo>();
        Ok(Answer {
            strategy: name.clone(),
            text,
            tokens,
            finish: if stop == Stop::Length { "length" } else { "stop" },
            first_token_top5: top5(&logits, |id| self.tokenizer.token(id)),
            seconds: Spent { prefill, decode },
            sinks: outro.map(|o| o.sinks().clone()),
            relaxed_at: outro.map(|o| o.relaxed_at().clone()),
            pruned,
            cache_bytes,
            passes: stream.passes(),
        })
    }
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
