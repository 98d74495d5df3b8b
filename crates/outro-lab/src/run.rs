//! The run loop: every sample by every strategy, on the same decoded inputs.

mod engine;
mod remote;

use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use outro::prepare::MediaOptions;

use crate::choice::Parser;
use crate::error::{Error, Result};
use crate::log::{Log, Row, Shard};
use crate::task::Sample;
pub use engine::Engine;
use outro::strategy::Strategy;
pub use remote::{Remote, RemoteMedia, Replies, Reply, Send};

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

/// Who answers.
pub enum Answerer<'a> {
    /// The engine, with all strategies.
    Engine(Engine),
    /// A remote model; only its replies are available.
    Remote(Remote<'a>),
}

/// Why somebody else gave no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This question cannot be answered; the run goes on.
    Question(String),
    /// Nothing can be answered now; the run stops, and goes on when it is started again.
    Stop(String),
}

/// A way of running questions.
pub struct Runner<'a> {
    /// Who answers.
    pub answerer: Answerer<'a>,
    /// How media are read.
    pub options: MediaOptions,
    /// What is taken away.
    pub ablation: Ablation,
    /// How an error is worded in a row.
    pub told: fn(&Error) -> String,
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
pub(crate) fn groups<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<Vec<&'a Sample>> {
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

/// Videos that are decoded while the model works; each waits, decoded, until it is its turn.
const AHEAD: usize = 2;

/// Strategies that answer a question in the same passes over the weights; more would hold more keys and values.
const TOGETHER: usize = 4;

/// Answers what `rows` lacks, appending to `log`. Questions about one video share its decoded media, the encoders' outputs and,
/// by the plain model, the rows before the words; the next videos are decoded meanwhile. A sample that fails is a row with
/// its reason. `wanted` says, before each video and from the rows so far, by which strategies its questions are answered;
/// none ends the run.
///
/// # Errors
/// A log that cannot be written; an answerer that says [`Refusal::Stop`].
pub fn run(
    runner: &Runner,
    samples: &[Sample],
    wanted: &mut dyn FnMut(&[Row]) -> Vec<Strategy>,
    log: &mut Log,
    rows: &mut Vec<Row>,
    progress: &mut dyn FnMut(Step),
) -> Result<()> {
    let done: BTreeSet<(String, String)> = rows.iter().map(|r| (r.id.clone(), r.strategy.clone())).collect();
    let missing = |s: &Sample, by: &Strategy| !done.contains(&(s.id.clone(), by.name.clone()));
    let strategies = wanted(rows);
    let total = samples.len() * strategies.len();
    let mut groups = groups(samples.iter());
    groups.retain(|g| g.iter().any(|s| strategies.iter().any(|by| missing(s, by))));
    let options = MediaOptions {
        audio_in_video: runner.options.audio_in_video && runner.ablation != Ablation::Sound,
        ..runner.options.clone()
    };
    thread::scope(|scope| {
        let mut ahead: Vec<Receiver<Result<Decoded>>> = Vec::new();
        for first in 0..AHEAD.min(groups.len()) {
            // No room in between: a thread decodes its next video when this one has been taken.
            let (send, receive) = sync_channel(0);
            let (mine, options) = (groups.iter().skip(first).step_by(AHEAD), &options);
            scope.spawn(move || decode_ahead(runner, mine.map(|g| g[0]), options, &send));
            ahead.push(receive);
        }
        for (i, group) in groups.iter().enumerate() {
            let since = Instant::now();
            // A thread that is gone has panicked; the scope says so.
            let Ok(decoded) = ahead[i % AHEAD].recv() else {
                break;
            };
            let mut waited = since.elapsed().as_secs_f64();
            let strategies = wanted(rows);
            if strategies.is_empty() {
                break;
            }
            let mut prepared = match (decoded, &runner.answerer) {
                (Ok(Decoded::Media(decoded)), Answerer::Engine(e)) => {
                    Prepared::Engine(Box::new(e.prepare(*decoded, group, runner.told)))
                }
                (Ok(Decoded::RemoteMedia(shown)), Answerer::Remote(r)) => Prepared::Remote(r, shown),
                (Err(e), _) => Prepared::Failed((runner.told)(&e)),
                // An answerer sees what it has decoded itself.
                (Ok(_), _) => break,
            };
            for (place, sample) in group.iter().enumerate() {
                let lacking: Vec<&Strategy> = strategies.iter().filter(|by| missing(sample, by)).collect();
                for some in lacking.chunks(prepared.together()) {
                    let blank = |by: &&Strategy| Row {
                        id: sample.id.clone(),
                        video: sample.video_id.clone(),
                        category: sample.category.clone(),
                        groups: sample.groups.clone(),
                        needs: sample.needs.clone(),
                        strategy: by.name.clone(),
                        question: sample.prompt.clone(),
                        options: sample.options.clone(),
                        gold: Some(sample.gold.clone()),
                        media_seconds: std::mem::take(&mut waited),
                        ..Row::default()
                    };
                    let mut new: Vec<Row> = some.iter().map(blank).collect();
                    let answered = prepared.answer(place, sample, some, &mut new);
                    for (mut row, answered) in new.into_iter().zip(answered) {
                        match answered {
                            Ok(()) => runner.score(&mut row),
                            Err(Refusal::Question(why)) => row.error = Some(why),
                            Err(Refusal::Stop(why)) => return Err(Error::Answerer(why)),
                        }
                        log.append(&row)?;
                        rows.push(row);
                        let (done, row) = (rows.len(), &rows[rows.len() - 1]);
                        progress(Step { row, done, total });
                    }
                }
            }
        }
        Ok(())
    })
}

/// A video as its answerer takes it.
enum Decoded {
    Media(Box<engine::Decoded>),
    RemoteMedia(RemoteMedia),
}

/// An answerer with one video's media decoded.
enum Prepared<'a> {
    Engine(Box<engine::Prepared<'a>>),
    Remote(&'a Remote<'a>, RemoteMedia),
    /// The video cannot be decoded.
    Failed(String),
}

impl Prepared<'_> {
    /// How many strategies answer a question together; each holds keys and values of its own.
    fn together(&self) -> usize {
        match self {
            Self::Engine(_) => TOGETHER,
            Self::Remote(..) | Self::Failed(_) => 1,
        }
    }

    /// Answers a question by some strategies, a row each.
    fn answer(
        &mut self,
        place: usize,
        sample: &Sample,
        strategies: &[&Strategy],
        rows: &mut [Row],
    ) -> Vec<std::result::Result<(), Refusal>> {
        match self {
            Self::Engine(prepared) => {
                let told = prepared.told;
                let answered = prepared.answer(place, &sample.gold, strategies, rows);
                let answered = answered.into_iter();
                answered
                    .map(|a| a.map_err(|e| Refusal::Question(told(&e))))
                    .collect()
            }
            Self::Remote(remote, shown) => {
                let pairs = strategies.iter().zip(rows);
                pairs
                    .map(|(by, row)| remote.answer(sample, by, shown, row))
                    .collect()
            }
            Self::Failed(why) => rows.iter().map(|_| Err(Refusal::Question(why.clone()))).collect(),
        }
    }
}

/// Decodes one video after the other, until nobody takes them any more.
fn decode_ahead<'a>(
    runner: &Runner,
    samples: impl Iterator<Item = &'a Sample>,
    options: &MediaOptions,
    send: &SyncSender<Result<Decoded>>,
) {
    for sample in samples {
        let mut options = options.clone();
        if let Some((start, end)) = sample.clip {
            (options.sampling.start, options.sampling.end) = (Some(start), Some(end));
        }
        let decoded = match &runner.answerer {
            Answerer::Engine(e) => e
                .decode(sample, &options, runner.ablation)
                .map(|d| Decoded::Media(Box::new(d))),
            Answerer::Remote(r) if r.shows => {
                RemoteMedia::of(sample, &options, runner.ablation).map(Decoded::RemoteMedia)
            }
            Answerer::Remote(_) => Ok(Decoded::RemoteMedia(RemoteMedia::default())),
        };
        if send.send(decoded).is_err() {
            return;
        }
    }
}

impl Runner<'_> {
    /// Reads a reply.
    fn score(&self, row: &mut Row) {
        match row.readout.as_ref().filter(|_| self.by_logits) {
            Some(readout) => row.settle(Ok(readout.answer.clone())),
            None => row.read(self.parser),
        }
    }
}
