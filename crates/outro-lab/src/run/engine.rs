//! The engine as an answerer: media prepared for the model, encoders run once a video, first rows shared by the plain model.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use outro::chat::{Conversation, Part};
use outro::generate::{Sampler, generate, top};
use outro::method::OutRo;
use outro::positions::spans;
use outro::prepare::{Media, MediaOptions, Preparer};
use outro::strategy::{NoisyMedia, Request};
use outro::tokenizer::Tokenizer;
use outro::{KvType, MediaEmbeds, Model, Prompt, Session, Stream};
use outro_media::{Note, NoteKind, Picks};

use super::Ablation;
use crate::clip::{Clip, rate};
use crate::error::Result;
use crate::log::{Readout, Row};
use crate::strategy::Strategy;
use crate::task::{Gold, Sample, hex};

/// A model, ready to answer.
pub struct Engine<'a> {
    /// The weights.
    pub model: &'a Model,
    /// What goes before them.
    pub preparer: &'a Preparer,
    /// Words.
    pub tokenizer: &'a Tokenizer,
    /// Most tokens of a reply.
    pub max_new_tokens: usize,
    /// How keys and values are kept.
    pub kv: KvType,
}

/// A video decoded for the model, with what the log says about it.
pub(super) struct Seen {
    media: Media,
    frames: usize,
    fps: f64,
    pixels: [usize; 2],
    audio_seconds: f64,
    /// Whether something was taken away from it, and it is nobody's any more.
    ablated: bool,
}

/// A model in front of one video. What questions about it share is made when it is first needed.
pub(super) struct Sitting<'a> {
    engine: &'a Engine<'a>,
    seen: Seen,
    /// Ids of every question's prompt.
    ids: Vec<outro::Result<Vec<u32>>>,
    embeds: Option<MediaEmbeds>,
    /// Where the media are unlike those that the model was trained on.
    unfamiliar: Option<String>,
    shared: Option<Shared<'a>>,
    noisy: NoisyMedia,
}

/// Keys and values of the rows with which all prompts about a video begin, by the plain model.
struct Shared<'a> {
    session: Session<'a>,
    seconds: f64,
}

impl<'a> Engine<'a> {
    /// Decodes what a sample is about.
    pub(super) fn see(&self, sample: &Sample, options: &MediaOptions, ablation: Ablation) -> Result<Seen> {
        let mut seen = if sample.video.is_dir() {
            self.see_frames(sample, options)?
        } else {
            let part = Part::Video(sample.video.clone());
            let media = self.preparer.load_media(&[part], options, &mut |_| {})?;
            let mut seen = Seen {
                media,
                frames: 0,
                fps: 0.0,
                pixels: [0; 2],
                audio_seconds: 0.0,
                ablated: false,
            };
            if let Some(taken) = seen.media.taken.first() {
                (seen.frames, seen.pixels, seen.audio_seconds) =
                    (taken.indices.len(), taken.size, taken.seconds);
                let video = taken.info.video.as_ref();
                seen.fps = video.map_or(0.0, |v| rate(&taken.indices, v));
            }
            seen
        };
        seen.ablated = ablation != Ablation::None;
        if ablation == Ablation::Picture {
            self.preparer.blacken(&mut seen.media);
        }
        Ok(seen)
    }

    fn see_frames(&self, sample: &Sample, options: &MediaOptions) -> Result<Seen> {
        let clip = Clip::open(&sample.video, &options.media)?;
        let video = &clip.video;
        let indices = options.sampling.indices(video)?;
        // The preparation resizes them once more, to what the model takes.
        let picks = Picks {
            indices: indices.clone(),
            size: None,
        };
        let frames = clip.take(&mut |_| Ok(picks.clone()))?.frames;
        let media = self.preparer.media_of(video, |_| frames, &[], options)?;
        Ok(Seen {
            frames: indices.len(),
            fps: rate(&indices, video),
            pixels: [video.height, video.width],
            audio_seconds: 0.0,
            ablated: false,
            media,
        })
    }

    /// Sits down in front of a decoded video, to answer `questions` about it.
    pub(super) fn sit(&'a self, seen: Seen, questions: &[&Sample]) -> Sitting<'a> {
        let ids = |s: &&Sample| {
            let asked = Conversation::new(None, &seen.media.parts, &s.prompt);
            self.preparer.ids(&asked, &seen.media.items)
        };
        Sitting {
            engine: self,
            ids: questions.iter().map(ids).collect(),
            seen,
            embeds: None,
            unfamiliar: None,
            shared: None,
            noisy: NoisyMedia::default(),
        }
    }
}

impl Sitting<'_> {
    /// Answers the question in this place of those that the sitting began with.
    pub(super) fn answer(&mut self, place: usize, gold: &Gold, by: &Strategy, row: &mut Row) -> Result<()> {
        let engine = self.engine;
        let seen = &mut self.seen;
        (row.frames, row.fps, row.pixels, row.audio_seconds) =
            (seen.frames, seen.fps, seen.pixels, seen.audio_seconds);
        row.notes.clone_from(&seen.media.notes);
        match &self.ids[place] {
            Ok(ids) => seen.media.inputs.input_ids.clone_from(ids),
            Err(e) => return Err(outro::Error::input("question", e.to_string()).into()),
        }
        let inputs = &seen.media.inputs;
        let bytes: Vec<u8> = inputs.input_ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        row.prompt_sha256 = hex(&bytes);
        row.prompt_tokens = inputs.input_ids.len();
        let since = Instant::now();
        let embeds = match &mut self.embeds {
            Some(embeds) => embeds,
            slot @ None => {
                let made = slot.insert(engine.model.encode(inputs, &mut |_| {})?);
                row.encode_seconds = since.elapsed().as_secs_f64();
                self.unfamiliar = engine.model.unfamiliar(made).filter(|_| !seen.ablated);
                made
            }
        };
        if let Some(text) = &self.unfamiliar {
            let note = Note::new(NoteKind::Unfamiliar, Path::new(&row.video), text.clone());
            row.notes.push(note);
        }
        (row.video_tokens, row.audio_tokens) = (embeds.video.rows(), embeds.audio.rows());
        let prompt = engine.model.prompt(inputs, embeds)?;
        let spans = spans(engine.preparer.config(), inputs)?;
        self.begin(&prompt, by)?;
        let (inputs, noisy) = (&self.seen.media.inputs, &self.noisy);
        let request = Request {
            model: engine.model,
            kv: engine.kv,
            prompt: &prompt,
            spans: &spans,
            prefix: self.shared.as_ref().map(|s| &s.session),
            noisy: &|noise| noisy.prompt(engine.model, inputs, noise),
        };
        let since = Instant::now();
        let mut stream = by.stream(&request)?;
        row.encode_seconds += since.elapsed().as_secs_f64();
        let since = Instant::now();
        let logits = stream.prefill(&prompt, &mut |_| {})?;
        row.prefill_seconds = since.elapsed().as_secs_f64();
        if let Some(shared) = self.shared.as_ref().filter(|_| stream.session().has_prefix()) {
            row.prefill_seconds += shared.seconds;
        }
        engine.reply(stream.as_mut(), &logits, gold, row)
    }

    /// Runs the rows that all prompts about this video begin with, where a strategy can go on from them. Which rows these
    /// are depends on all the questions, not on those that are still to be answered: a run that was stopped goes on with the
    /// same arithmetic.
    fn begin(&mut self, prompt: &Prompt, by: &Strategy) -> outro::Result<()> {
        let rows = common_start(&self.ids);
        if self.shared.is_none() && by.uses_prefix() && rows > 0 && self.engine.model.shares_rows() {
            let since = Instant::now();
            let mut session = Session::with_kv(self.engine.model, None, self.engine.kv);
            session.prefill_prefix(prompt, rows, &mut |_| {})?;
            let seconds = since.elapsed().as_secs_f64();
            self.shared = Some(Shared { session, seconds });
        }
        Ok(())
    }
}

/// How many ids all prompts begin with, at least one of each left over; 0 for a single one.
fn common_start(all: &[outro::Result<Vec<u32>>]) -> usize {
    let mut all = all.iter().flatten();
    let Some(first) = all.next() else { return 0 };
    let alike = |other: &Vec<u32>| {
        let same = first.iter().zip(other).take_while(|(a, b)| a == b).count();
        same.min(first.len().min(other.len()).saturating_sub(1))
    };
    all.map(alike).min().unwrap_or(0)
}

impl Engine<'_> {
    /// From a prompt's logits to the reply, and what is to be known about it.
    fn reply(&self, stream: &mut dyn Stream, logits: &[f32], gold: &Gold, row: &mut Row) -> Result<()> {
        row.cache_bytes = stream.cache_bytes();
        row.readout = readout(self.tokenizer, logits, gold)?;
        let best = top(logits, 2);
        row.confidence = best.first().map_or(0.0, |b| b.1);
        row.margin = row.confidence - best.get(1).map_or(0.0, |b| b.1);
        let since = Instant::now();
        let mut words = self.tokenizer.stream();
        let mut failed = None;
        let (mut sampler, end) = (Sampler::greedy(), self.tokenizer.end_tokens());
        generate(
            stream,
            logits,
            &mut sampler,
            end,
            self.max_new_tokens,
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
            return Err(e.into());
        }
        row.reply.push_str(&words.finish()?);
        row.decode_seconds = since.elapsed().as_secs_f64();
        row.passes = stream.passes();
        if let Some(outro) = stream.session().hook::<OutRo>() {
            let all: BTreeSet<usize> = outro.sinks().values().flatten().copied().collect();
            row.sinks = all.into_iter().collect();
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prompts_share() {
        let of = |all: &[&[u32]]| common_start(&all.iter().map(|ids| Ok(ids.to_vec())).collect::<Vec<_>>());
        assert_eq!((of(&[]), of(&[&[1, 2]])), (0, 0), "nothing to share with");
        assert_eq!(of(&[&[1, 2, 3, 4], &[1, 2, 5], &[1, 2, 3, 9]]), 2);
        assert_eq!(of(&[&[1, 2], &[1, 2]]), 1, "a row of each is left");
        assert_eq!(of(&[&[1, 2], &[2, 2]]), 0);
    }
}
