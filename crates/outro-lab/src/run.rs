//! The run loop: every sample by every strategy, on the same decoded inputs.

use std::collections::BTreeSet;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use outro::chat::{Conversation, Part};
use outro::generate::{Sampler, generate, top};
use outro::method::OutRo;
use outro::prepare::{Media, MediaOptions, Preparer};
use outro::tokenizer::Tokenizer;
use outro::{KvType, MediaEmbeds, Model, Session};

use crate::choice::{is_right, parse};
use crate::error::Result;
use crate::log::{Log, Row};
use crate::strategy::Strategy;
use crate::task::Sample;

/// What is taken away from the inputs before the model sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ablation {
    /// Nothing.
    #[default]
    None,
    /// The sound of videos: no audio tokens.
    Sound,
    /// The pictures: every frame is black.
    Picture,
}

impl Ablation {
    /// As it stands in a log.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sound => "sound",
            Self::Picture => "picture",
        }
    }
}

/// A model, ready to answer.
pub struct Engine<'a> {
    /// The weights.
    pub model: &'a Model,
    /// What goes before them.
    pub preparer: &'a Preparer,
    /// Words.
    pub tokenizer: &'a Tokenizer,
    /// How media are read.
    pub options: MediaOptions,
    /// What is taken away.
    pub ablation: Ablation,
    /// Most tokens of a reply.
    pub max_new_tokens: usize,
    /// How keys and values are kept.
    pub kv: KvType,
}

/// What has happened, for a display.
pub struct Step<'a> {
    /// The new row.
    pub row: &'a Row,
    /// Rows of the run that are done.
    pub done: usize,
    /// Rows of the whole run.
    pub total: usize,
}

/// Answers what `rows` lacks, appending to `log`; `rows` is complete afterwards. Questions about one video share its
/// decoded media and the encoders' outputs; the next video is decoded while the model works. A sample that fails is a row
/// with its reason.
///
/// # Errors
/// A log that cannot be written.
pub fn run(
    engine: &Engine,
    samples: &[Sample],
    strategies: &[Strategy],
    log: &mut Log,
    rows: &mut Vec<Row>,
    progress: &mut dyn FnMut(Step),
) -> Result<()> {
    let done: BTreeSet<(String, String)> = rows.iter().map(|r| (r.id.clone(), r.strategy.clone())).collect();
    let missing = |s: &Sample, by: &Strategy| !done.contains(&(s.id.clone(), by.name.clone()));
    let open: Vec<&Sample> = samples
        .iter()
        .filter(|s| strategies.iter().any(|b| missing(s, b)))
        .collect();
    let total = samples.len() * strategies.len();
    // Runs of questions about one video.
    let groups: Vec<&[&Sample]> = open.chunk_by(|a, b| a.video == b.video).collect();
    let options = MediaOptions {
        audio_in_video: engine.options.audio_in_video && engine.ablation != Ablation::Sound,
        ..engine.options.clone()
    };
    thread::scope(|scope| {
        let (send, receive) = sync_channel(1);
        let (groups, options) = (&groups, &options);
        scope.spawn(move || {
            for group in groups {
                let part = Part::Video(group[0].video.clone());
                let media = engine.preparer.load_media(&[part], options, &mut |_| {});
                if send.send(media).is_err() {
                    return;
                }
            }
        });
        for group in groups {
            let Ok(media) = receive.recv() else { break };
            let media = media.map(|mut m| {
                if engine.ablation == Ablation::Picture {
                    engine.preparer.blacken(&mut m);
                }
                m
            });
            let mut embeds = None;
            for sample in *group {
                for strategy in strategies.iter().filter(|by| missing(sample, by)) {
                    let mut row = Row {
                        id: sample.id.clone(),
                        video: sample.video_id.clone(),
                        category: sample.category.clone(),
                        needs: sample.needs.clone(),
                        strategy: strategy.name.clone(),
                        question: sample.prompt.clone(),
                        gold: Some(sample.gold),
                        ..Row::default()
                    };
                    let outcome = match &media {
                        Ok(media) => answer(engine, media, &mut embeds, sample, strategy, &mut row),
                        Err(e) => Err(outro::Error::input("media", e.to_string())),
                    };
                    if let Err(e) = outcome {
                        row.error = Some(e.to_string());
                    }
                    log.append(&row)?;
                    rows.push(row);
                    let (done, row) = (rows.len(), &rows[rows.len() - 1]);
                    progress(Step { row, done, total });
                }
            }
        }
        Ok(())
    })
}

fn answer(
    engine: &Engine,
    media: &Media,
    embeds: &mut Option<MediaEmbeds>,
    sample: &Sample,
    strategy: &Strategy,
    row: &mut Row,
) -> outro::Result<()> {
    let conversation = Conversation::new(None, &media.parts, &sample.prompt);
    let prepared = engine.preparer.assemble(media, &conversation)?;
    let inputs = prepared.inputs;
    let embeds = match embeds {
        Some(embeds) => embeds,
        slot @ None => slot.insert(engine.model.encode(&inputs, &mut |_| {})?),
    };
    let prompt = engine.model.prompt(&inputs, embeds)?;
    row.prompt_tokens = inputs.input_ids.len();
    (row.video_tokens, row.audio_tokens) = (embeds.video.rows(), embeds.audio.rows());
    let mut session = Session::with_kv(engine.model, strategy.hook(&prepared.spans), engine.kv);
    let since = Instant::now();
    let logits = session.prefill(&prompt, 1, &mut |_| {})?.data;
    row.prefill_seconds = since.elapsed().as_secs_f64();
    row.cache_bytes = session.cache_bytes();
    let best = top(&logits, 2);
    row.confidence = best.first().map_or(0.0, |b| b.1);
    row.margin = row.confidence - best.get(1).map_or(0.0, |b| b.1);
    let since = Instant::now();
    let mut words = engine.tokenizer.stream();
    let mut failed = None;
    let mut sampler = Sampler::new(0.0, 1.0, 0)?;
    generate(
        &mut session,
        &logits,
        &mut sampler,
        engine.tokenizer.end_tokens(),
        engine.max_new_tokens,
        &mut |token| match words.push(token) {
            Ok(piece) => {
                row.reply.push_str(&piece);
                true
            }
            Err(e) => {
                failed = Some(e);
                false
            }
        },
    )?;
    if let Some(e) = failed {
        return Err(e);
    }
    row.reply.push_str(&words.finish()?);
    row.decode_seconds = since.elapsed().as_secs_f64();
    if let Some(outro) = session.hook::<OutRo>() {
        let all: BTreeSet<usize> = outro.sinks().values().flatten().copied().collect();
        row.sinks = all.into_iter().collect();
    }
    match parse(&row.reply, sample.gold, &sample.options) {
        Ok(parsed) => {
            row.right = is_right(&parsed, sample.gold);
            row.parsed = Some(parsed);
        }
        Err(why) => row.invalid = Some(why),
    }
    Ok(())
}
