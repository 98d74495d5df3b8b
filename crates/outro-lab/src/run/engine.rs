//! The engine as an answerer: media prepared for the model, encoders run once a video, first rows shared by the plain model.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use outro::chat::{Conversation, Part};
use outro::generate::{Sampling, top};
use outro::prepare::{DecodedMedia, MediaOptions};
use outro::strategy::Strategy;
use outro::tokenizer::Tokenizer;
use outro::{Answer, Cancel, MediaSet, answer_all};
use outro_media::{Note, NoteKind, Picks};

use super::Ablation;
use crate::clip::{Clip, rate};
use crate::error::{Error, Result};
use crate::log::{Readout, Row};
use crate::task::{Gold, Sample, hex};

/// A model, ready to answer.
pub struct Engine {
    /// The checkpoint.
    pub engine: outro::Engine,
    /// Most tokens of a reply.
    pub max_new_tokens: usize,
}

/// A video decoded for the model, with what the log says about it.
pub(super) struct Decoded {
    media: DecodedMedia,
    frames: usize,
    fps: f64,
    pixels: [usize; 2],
    audio_seconds: f64,
    /// Whether something was taken away from it, and it is nobody's any more.
    ablated: bool,
}

/// A model with one video decoded. What questions about it share is made when it is first needed.
pub(super) struct Prepared<'a> {
    engine: &'a Engine,
    /// How an error is worded in a row.
    pub(super) told: fn(&Error) -> String,
    decoded: Decoded,
    /// Each question, and the ids of its prompt or why there are none.
    asked: Vec<(Conversation, std::result::Result<Vec<u32>, String>)>,
    encoded: Option<MediaSet>,
    /// Why the media could not be encoded.
    failed: Option<String>,
    /// Where the media are unlike those that the model was trained on.
    unfamiliar: Option<String>,
    /// Seconds that the shared rows took.
    shared: f64,
}

impl Engine {
    /// Decodes what a sample is about.
    pub(super) fn decode(
        &self,
        sample: &Sample,
        options: &MediaOptions,
        ablation: Ablation,
    ) -> Result<Decoded> {
        let preparer = self.engine.preparer();
        let mut decoded = if sample.video.is_dir() {
            self.decode_frames(sample, options)?
        } else {
            let part = Part::Video(sample.video.clone().into());
            let media = preparer.load_media(&[part], options, &mut |_| {})?;
            let mut decoded = Decoded {
                media,
                frames: 0,
                fps: 0.0,
                pixels: [0; 2],
                audio_seconds: 0.0,
                ablated: false,
            };
            if let Some(taken) = decoded.media.taken.first() {
                (decoded.frames, decoded.pixels, decoded.audio_seconds) =
                    (taken.view.indices.len(), taken.view.size, taken.seconds);
                let video = taken.info.video.as_ref();
                decoded.fps = video.map_or(0.0, |v| rate(&taken.view.indices, v));
            }
            decoded
        };
        decoded.ablated = ablation != Ablation::None;
        if ablation == Ablation::Picture {
            preparer.blacken(&mut decoded.media);
        }
        Ok(decoded)
    }

    fn decode_frames(&self, sample: &Sample, options: &MediaOptions) -> Result<Decoded> {
        let clip = Clip::open(&sample.video, &options.media)?;
        let video = &clip.video;
        let preparer = self.engine.preparer();
        let indices = preparer.plan_video(video, options)?.indices;
        // The preparation resizes them once more, to what the model takes.
        let picks = Picks {
            indices: indices.clone(),
            size: None,
        };
        let frames = clip.take(&mut |_| Ok(picks.clone()))?.frames;
        let media = preparer.media_of(video, |_| frames, &[], options)?;
        Ok(Decoded {
            frames: indices.len(),
            fps: rate(&indices, video),
            pixels: [video.height, video.width],
            audio_seconds: 0.0,
            ablated: false,
            media,
        })
    }

    /// A decoded video with all the questions about it.
    pub(super) fn prepare(
        &self,
        decoded: Decoded,
        questions: &[&Sample],
        told: fn(&Error) -> String,
    ) -> Prepared<'_> {
        let asked = |s: &&Sample| {
            let asked = Conversation::new(None, &decoded.media.parts, &s.prompt);
            let ids = self.engine.preparer().ids(&asked, &decoded.media.items);
            (asked, ids.map_err(|e| told(&e.into())))
        };
        Prepared {
            engine: self,
            told,
            asked: questions.iter().map(asked).collect(),
            decoded,
            encoded: None,
            failed: None,
            unfamiliar: None,
            shared: 0.0,
        }
    }
}

impl Prepared<'_> {
    /// Answers the question in this place of those that it was made with, by some strategies in the same passes over the
    /// weights; a row each.
    pub(super) fn answer(
        &mut self,
        place: usize,
        gold: &Gold,
        strategies: &[&Strategy],
        rows: &mut [Row],
    ) -> Vec<Result<()>> {
        let decoded = &self.decoded;
        for row in &mut *rows {
            (row.frames, row.fps, row.pixels, row.audio_seconds) =
                (decoded.frames, decoded.fps, decoded.pixels, decoded.audio_seconds);
        }
        if let Some(first) = rows.first_mut() {
            self.encode(first);
        }
        let engine = &self.engine.engine;
        let (media, conversation) = match (&self.encoded, &self.asked[place]) {
            (Some(media), (conversation, Ok(ids))) => {
                for row in &mut *rows {
                    self.describe(media, ids, row);
                }
                (media, conversation)
            }
            (_, (_, asked)) => {
                // The question cannot be put, or the media cannot be encoded.
                let why = match asked {
                    Err(e) => e.clone(),
                    Ok(_) => self.failed.clone().unwrap_or_default(),
                };
                let failed = |_| Err(outro::Error::input("question", why.clone()).into());
                return rows.iter().map(failed).collect();
            }
        };
        let ask = |by: &&Strategy| {
            let ask = engine.chat(media, conversation.clone()).by((*by).clone());
            ask.sampling(Sampling::default())
                .max_new(self.engine.max_new_tokens)
        };
        let asks: Vec<_> = strategies.iter().map(ask).collect();
        let answers = answer_all(&asks, &mut |_| ControlFlow::Continue(()));
        let mut shared = self.shared;
        let made = strategies
            .iter()
            .zip(rows)
            .zip(answers)
            .map(|((by, row), answer)| {
                let answer = answer?;
                shared += answer.seconds.shared;
                row.encode_seconds += answer.seconds.encode;
                row.prefill_seconds = answer.seconds.prefill;
                if by.uses_prefix() {
                    row.prefill_seconds += shared;
                }
                row.readout = readout(engine.tokenizer()?, &answer.first_logits, gold)?;
                fill(row, answer);
                Ok(())
            });
        let made = made.collect();
        self.shared = shared;
        made
    }

    /// Encodes the media, where that has not been tried; the seconds are the row's.
    fn encode(&mut self, row: &mut Row) {
        if self.encoded.is_some() || self.failed.is_some() {
            return;
        }
        let (since, engine) = (Instant::now(), &self.engine.engine);
        let media = std::mem::take(&mut self.decoded.media);
        let media = match engine.encode(media, &Cancel::default(), &mut |_| {}) {
            Ok(media) => media,
            Err(e) => {
                self.failed = Some((self.told)(&e.into()));
                return;
            }
        };
        row.encode_seconds = since.elapsed().as_secs_f64();
        self.unfamiliar = engine.model().unfamiliar(media.embeds());
        self.unfamiliar.take_if(|_| self.decoded.ablated);
        // Of all questions, whichever are still to be answered.
        let ids = self.asked.iter().filter_map(|(_, ids)| ids.as_ref().ok());
        media.share(ids.map(Vec::as_slice));
        self.encoded = Some(media);
    }

    /// What a row says of its prompt and media.
    fn describe(&self, media: &MediaSet, ids: &[u32], row: &mut Row) {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        row.prompt_sha256 = hex(&bytes);
        row.prompt_tokens = ids.len();
        row.notes = media.notes().to_vec();
        if let Some(text) = &self.unfamiliar {
            let note = Note::new(NoteKind::Unfamiliar, Path::new(&row.video), text.clone());
            row.notes.push(note);
        }
        (row.video_tokens, row.audio_tokens) = (media.embeds().video.rows(), media.embeds().audio.rows());
    }
}

/// What the log keeps of an answer.
fn fill(row: &mut Row, answer: Answer) {
    let best = top(&answer.first_logits, 2);
    row.confidence = best.first().map_or(0.0, |b| b.1);
    row.margin = row.confidence - best.get(1).map_or(0.0, |b| b.1);
    row.cache_bytes = answer.cache_bytes;
    row.decode_seconds = answer.seconds.decode;
    row.passes = answer.passes;
    row.reply = answer.text;
    let sinks: BTreeSet<usize> = answer
        .sinks
        .into_iter()
        .flat_map(|s| s.into_values().flatten())
        .collect();
    row.sinks = sinks.into_iter().collect();
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
    let own = |i: usize| -> Option<f64> {
        let shared = |id: &u32| {
            first
                .iter()
                .enumerate()
                .any(|(j, ids)| j != i && ids.contains(id))
        };
        let ids = first[i].iter().filter(|id| !shared(id));
        let weights: Vec<f64> = ids
            .filter_map(|id| Some(f64::from(logits.get(*id as usize)? - max).exp()))
            .collect();
        (!weights.is_empty()).then(|| weights.iter().sum())
    };
    // A strategy can make an option impossible, which is a weight of 0, but not all of them.
    let Some(weights) = (0..answers.len()).map(own).collect::<Option<Vec<f64>>>() else {
        return Ok(None);
    };
    let sum: f64 = weights.iter().sum();
    if sum <= 0.0 {
        return Ok(None);
    }
    let mut shares: Vec<(f64, &String)> = weights.iter().map(|w| w / sum).zip(&answers).collect();
    shares.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(Some(Readout {
        answer: shares[0].1.clone(),
        margin: (shares[0].0 - shares[1].0) as f32,
        entropy: -shares
            .iter()
            .filter(|(p, _)| *p > 0.0)
            .map(|(p, _)| p * p.ln())
            .sum::<f64>() as f32,
    }))
}
