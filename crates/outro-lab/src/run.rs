//! The run loop: every sample by every strategy, on the same decoded inputs.

use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use outro::chat::{Conversation, Part};
use outro::generate::{Sampler, generate, top};
use outro::method::OutRo;
use outro::prepare::{Media, MediaOptions, Preparer};
use outro::tokenizer::Tokenizer;
use outro::{KvType, MediaEmbeds, Model, Session};

use crate::choice::{Parser, is_right};
use crate::error::Result;
use crate::log::{Log, Readout, Row, Shard};
use crate::strategy::Strategy;
use crate::task::{Gold, Sample, hex};

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
    /// How replies are read.
    pub parser: Parser,
    /// Whether an answer is the likeliest option's letter, and not what the reply says.
    pub by_logits: bool,
}

/// The part of the questions that is a shard's. Questions about one video stay together.
pub fn part(samples: &[Sample], shard: Shard) -> Vec<Sample> {
    let groups = groups(samples.iter());
    let mine = groups.into_iter().skip(shard.index - 1).step_by(shard.of);
    mine.flatten().cloned().collect()
}

/// Questions by what they are about, in the order in which each first appears.
fn groups<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<Vec<&'a Sample>> {
    let (mut places, mut groups) = (HashMap::new(), Vec::<Vec<&Sample>>::new());
    for sample in samples {
        let clip = sample.clip.map(|(a, b)| (a.to_bits(), b.to_bits()));
        let place = *places.entry((&sample.video, clip)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(sample),
            None => groups.push(vec![sample]),
        }
    }
    groups
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
    let total = samples.len() * strategies.len();
    let groups = groups(
        samples
            .iter()
            .filter(|s| strategies.iter().any(|b| missing(s, b))),
    );
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
                let mut options = options.clone();
                if let Some((start, end)) = group[0].clip {
                    (options.sampling.start, options.sampling.end) = (Some(start), Some(end));
                }
                let media = engine.preparer.load_media(&[part], &options, &mut |_| {});
                if send.send(media).is_err() {
                    return;
                }
            }
        });
        for group in groups {
            let since = Instant::now();
            let Ok(media) = receive.recv() else { break };
            let mut waited = since.elapsed().as_secs_f64();
            let media = media.map(|mut m| {
                if engine.ablation == Ablation::Picture {
                    engine.preparer.blacken(&mut m);
                }
                m
            });
            let mut embeds = None;
            for sample in group {
                for strategy in strategies.iter().filter(|by| missing(sample, by)) {
                    let mut row = Row {
                        id: sample.id.clone(),
                        video: sample.video_id.clone(),
                        category: sample.category.clone(),
                        groups: sample.groups.clone(),
                        needs: sample.needs.clone(),
                        strategy: strategy.name.clone(),
                        question: sample.prompt.clone(),
                        gold: Some(sample.gold.clone()),
                        media_seconds: std::mem::take(&mut waited),
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
    let bytes: Vec<u8> = inputs.input_ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    row.prompt_sha256 = hex(&bytes);
    if let Some(taken) = media.taken.first() {
        (row.frames, row.pixels, row.audio_seconds) = (taken.indices.len(), taken.size, taken.seconds);
        if let (Some(video), [first, .., last]) = (&taken.info.video, &taken.indices[..]) {
            row.fps = (taken.indices.len() - 1) as f64 * video.fps / (last - first).max(1) as f64;
        }
    }
    let since = Instant::now();
    let embeds = match embeds {
        Some(embeds) => embeds,
        slot @ None => {
            let made = slot.insert(engine.model.encode(&inputs, &mut |_| {})?);
            row.encode_seconds = since.elapsed().as_secs_f64();
            made
        }
    };
    let prompt = engine.model.prompt(&inputs, embeds)?;
    row.prompt_tokens = inputs.input_ids.len();
    (row.video_tokens, row.audio_tokens) = (embeds.video.rows(), embeds.audio.rows());
    let mut session = Session::with_kv(engine.model, strategy.hook(&prepared.spans), engine.kv);
    let since = Instant::now();
    let logits = session.prefill(&prompt, 1, &mut |_| {})?.data;
    row.prefill_seconds = since.elapsed().as_secs_f64();
    row.cache_bytes = session.cache_bytes();
    row.readout = readout(engine.tokenizer, &logits, &sample.gold)?;
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
    let said = match row.readout.as_ref().filter(|_| engine.by_logits) {
        Some(readout) => Ok(readout.answer.clone()),
        None => engine.parser.read(&row.reply, &sample.gold, &sample.options),
    };
    match said {
        Ok(parsed) => {
            row.right = is_right(&parsed, &sample.gold);
            row.parsed = Some(parsed);
        }
        Err(why) => row.invalid = Some(why),
    }
    Ok(())
}

/// The first tokens with which each possible answer can begin, against each other; `None` where they cannot be told apart.
fn readout(tokenizer: &Tokenizer, logits: &[f32], gold: &Gold) -> outro::Result<Option<Readout>> {
    let answers: Vec<String> = match gold {
        Gold::YesNo(_) => vec!["Yes".into(), "No".into()],
        Gold::Letter { options, .. } => ('A'..='Z').take(*options).map(String::from).collect(),
        Gold::Word(_) => return Ok(None),
    };
    let mut first = Vec::new();
    for answer in &answers {
        let mut forms = vec![answer.clone(), format!(" {answer}")];
        if answer.len() > 1 {
            let lower = answer.to_lowercase();
            forms.extend([format!(" {lower}"), lower]);
        }
        let mut ids = BTreeSet::new();
        for form in forms {
            ids.extend(tokenizer.encode(&form)?.first().copied());
        }
        first.push(ids);
    }
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let own = |i: usize| -> f64 {
        let shared = |id: &u32| {
            first
                .iter()
                .enumerate()
                .any(|(j, ids)| j != i && ids.contains(id))
        };
        let ids = first[i].iter().filter(|id| !shared(id));
        ids.filter_map(|id| Some(f64::from(logits.get(*id as usize)? - max).exp()))
            .sum()
    };
    let weights: Vec<f64> = (0..answers.len()).map(own).collect();
    let sum: f64 = weights.iter().sum();
    if weights.iter().any(|w| *w <= 0.0) {
        return Ok(None);
    }
    let mut shares: Vec<(f64, &String)> = weights.iter().map(|w| w / sum).zip(&answers).collect();
    shares.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(Some(Readout {
        answer: shares[0].1.clone(),
        margin: (shares[0].0 - shares[1].0) as f32,
        entropy: -shares.iter().map(|(p, _)| p * p.ln()).sum::<f64>() as f32,
    }))
}
