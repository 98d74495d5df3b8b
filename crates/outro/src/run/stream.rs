//! A request as the passes that it needs: it says what is to be run and mixes the logits, the engine runs it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::run::model::Prompt;
use crate::run::session::{Session, decode};

/// What a [`Stream`] is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Begin with the prompt.
    Begin,
    /// This token comes next.
    Token(u32),
    /// What it asked for, in its order: logits `[vocab]` of each pass.
    Logits(Vec<Vec<f32>>),
}

/// What is run in one of a stream's sessions.
#[derive(Clone, Debug)]
pub enum Feed {
    /// A prompt.
    Prompt(Arc<Prompt>),
    /// A token behind what has been run.
    Token(u32),
}

/// What a [`Stream`] wants.
#[derive(Clone, Debug)]
pub enum Next {
    /// Passes, by the number of their session in [`Stream::sessions_mut`], each once.
    Run(Vec<(usize, Feed)>),
    /// Nothing: these are the logits `[vocab]` of the next token.
    Logits(Vec<f32>),
}

impl Next {
    /// The same in each of some sessions.
    pub fn each(sessions: Range<usize>, feed: &Feed) -> Self {
        Self::Run(sessions.map(|i| (i, feed.clone())).collect())
    }
}

/// One request: the passes that it needs for each token, and how their logits are mixed. It runs nothing itself, so any
/// number of streams can share a pass over the weights ([`step`]).
pub trait Stream: Send {
    /// Goes on from what it is told: to passes, or to the next token's logits.
    ///
    /// # Errors
    /// Whatever ends this request.
    fn next(&mut self, event: Event) -> Result<Next>;

    /// The session that runs the prompt as it is, whose hooks can be read.
    fn session(&self) -> &Session;

    /// All its sessions.
    fn sessions(&self) -> Vec<&Session>;

    /// All its sessions.
    fn sessions_mut(&mut self) -> Vec<&mut Session>;

    /// Bytes that keys and values of all passes take now.
    fn cache_bytes(&self) -> usize {
        self.sessions().iter().map(|s| s.cache_bytes()).sum()
    }

    /// Passes through the decoder so far, of all sessions: one for a prompt and one for each token fed.
    fn passes(&self) -> usize {
        self.sessions().iter().map(|s| s.passes()).sum()
    }

    /// Runs the prompt and returns the logits `[vocab]` after it. `progress` receives the decoder layers done, pass by pass.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    fn prefill(&mut self, progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        alone(self, Event::Begin, progress)
    }

    /// Feeds one token and returns the logits `[vocab]` for the next.
    ///
    /// # Errors
    /// As [`Session::decode`].
    fn decode(&mut self, token: u32) -> Result<Vec<f32>> {
        alone(self, Event::Token(token), &mut |_| {})
    }
}

/// [`step`] of one stream.
fn alone<S: Stream + ?Sized>(
    stream: &mut S,
    event: Event,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f32>> {
    let made = step(&mut [(stream, event)], progress).pop();
    made.unwrap_or_else(|| Ok(Vec::new()))
}

/// Tells each stream its event and runs what all of them need until each has the next token's logits, or an error of its
/// own: [`tick`] after [`tick`]. `progress` receives the decoder layers done, prompt by prompt.
pub fn step<S: Stream + ?Sized>(
    streams: &mut [(&mut S, Event)],
    progress: &mut dyn FnMut(usize),
) -> Vec<Result<Vec<f32>>> {
    let tell = |(_, event): &mut (&mut S, Event)| Turn::new(std::mem::replace(event, Event::Begin));
    let mut turns: Vec<Turn> = streams.iter_mut().map(tell).collect();
    while turns.iter().any(|turn| !turn.is_over()) {
        let pairs = streams.iter_mut().map(|(stream, _)| &mut **stream);
        let mut pairs: Vec<_> = pairs.zip(&mut turns).collect();
        tick(&mut pairs, usize::MAX, &mut |_, layers| progress(layers));
    }
    turns.into_iter().map(Turn::into_logits).collect()
}

/// How far a stream is between what it was told and the next token's logits.
pub struct Turn {
    state: State,
    /// Seconds of its own units, and its share of the decode steps.
    seconds: f64,
}

enum State {
    /// It is to be told this.
    Told(Event),
    /// It waits for these passes; those that are done have logits.
    Runs(Vec<Run>),
    /// Its logits, or why it failed.
    Over(Result<Vec<f32>>),
}

/// A pass that a stream asked for.
struct Run {
    session: usize,
    feed: Feed,
    /// A prompt's first unit was run.
    begun: bool,
    logits: Option<Vec<f32>>,
}

impl Turn {
    /// A stream that is to be told this.
    pub fn new(event: Event) -> Self {
        Self {
            state: State::Told(event),
            seconds: 0.0,
        }
    }

    /// Whether it has its logits, or has failed.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_))
    }

    /// Whether it waits for a prompt.
    fn prefills(&self) -> bool {
        match &self.state {
            State::Runs(runs) => runs
                .iter()
                .any(|r| r.logits.is_none() && matches!(r.feed, Feed::Prompt(_))),
            State::Told(_) | State::Over(_) => false,
        }
    }

    /// Seconds of its own units, and its share of the decode steps.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The logits `[vocab]` of the next token.
    ///
    /// # Errors
    /// Why the stream failed; that it is not over.
    pub fn into_logits(self) -> Result<Vec<f32>> {
        match self.state {
            State::Over(made) => made,
            State::Told(_) | State::Runs(_) => Err(Error::input("stream", "has no logits yet")),
        }
    }

    /// Tells the stream its event, and what its passes gave, until it waits for passes or is over.
    fn ask<S: Stream + ?Sized>(&mut self, stream: &mut S) {
        loop {
            let event = match std::mem::replace(&mut self.state, State::Over(Ok(Vec::new()))) {
                State::Told(event) => event,
                State::Runs(runs) if runs.iter().all(|r| r.logits.is_some()) => {
                    Event::Logits(runs.into_iter().filter_map(|r| r.logits).collect())
                }
                other => {
                    self.state = other;
                    return;
                }
            };
            self.state = match stream.next(event) {
                Err(e) => State::Over(Err(e)),
                Ok(Next::Logits(logits)) => State::Over(Ok(logits)),
                Ok(Next::Run(passes)) => match named_once(&passes, stream.sessions().len()) {
                    Err(e) => State::Over(Err(e)),
                    Ok(()) => State::Runs(passes.into_iter().map(Run::new).collect()),
                },
            };
        }
    }
}

impl Run {
    fn new((session, feed): (usize, Feed)) -> Self {
        Self {
            session,
            feed,
            begun: false,
            logits: None,
        }
    }
}

/// Whether passes name sessions that there are, each once, and are not none.
fn named_once(passes: &[(usize, Feed)], sessions: usize) -> Result<()> {
    let mut free = vec![true; sessions];
    let mut takes = |(session, _): &(usize, Feed)| free.get_mut(*session).is_some_and(std::mem::take);
    if passes.is_empty() || !passes.iter().all(&mut takes) {
        return Err(Error::input(
            "stream",
            "asked for no pass, for one in a session that is not there, or for two in one session",
        ));
    }
    Ok(())
}

/// Goes on with all streams: one decode step for those that wait for tokens, all in one pass over the weights, and one unit
/// of the first prompt that is waited for. Where others decode, a unit is of `rows` rows at most, so that no token waits for
/// a whole prefill; alone, a prompt runs layer by layer. What shares a tick changes no bit of a stream's logits. `progress`
/// receives the place of a stream and the decoder layers that its prompt has done.
pub fn tick<S: Stream + ?Sized>(
    streams: &mut [(&mut S, &mut Turn)],
    rows: usize,
    progress: &mut dyn FnMut(usize, usize),
) {
    for (stream, turn) in streams.iter_mut() {
        turn.ask(*stream);
    }
    decode_all(streams);
    let others = streams.iter().filter(|(_, turn)| !turn.prefills()).count();
    let first = streams
        .iter_mut()
        .enumerate()
        .find(|(_, (_, turn))| turn.prefills());
    if let Some((place, (stream, turn))) = first {
        let rows = if others > 0 { rows } else { usize::MAX };
        prefill_unit(*stream, turn, rows, &mut |layers| progress(place, layers));
    }
    for (stream, turn) in streams.iter_mut() {
        turn.ask(*stream);
    }
}

/// One decode step of all that wait for tokens.
fn decode_all<S: Stream + ?Sized>(streams: &mut [(&mut S, &mut Turn)]) {
    let since = Instant::now();
    let (mut fed, mut places) = (Vec::new(), Vec::new());
    for (place, (stream, turn)) in streams.iter_mut().enumerate() {
        let State::Runs(runs) = &turn.state else { continue };
        let mut sessions: Vec<_> = stream.sessions_mut().into_iter().map(Some).collect();
        for (run, wanted) in runs.iter().enumerate() {
            if let (None, Feed::Token(token)) = (&wanted.logits, &wanted.feed)
                && let Some(session) = sessions.get_mut(wanted.session).and_then(Option::take)
            {
                fed.push((session, *token));
                places.push((place, run));
            }
        }
    }
    if fed.is_empty() {
        return;
    }
    let made = decode(fed);
    let share = since.elapsed().as_secs_f64() / made.len() as f64;
    for ((place, run), made) in places.into_iter().zip(made) {
        let turn = &mut *streams[place].1;
        turn.seconds += share;
        match (made, &mut turn.state) {
            (Ok(logits), State::Runs(runs)) => runs[run].logits = Some(logits),
            (Err(e), State::Runs(_)) => turn.state = State::Over(Err(e)),
            // Another of its passes has failed.
            (_, State::Told(_) | State::Over(_)) => {}
        }
    }
}

/// One unit of the first prompt that a stream waits for.
fn prefill_unit<S: Stream + ?Sized>(
    stream: &mut S,
    turn: &mut Turn,
    rows: usize,
    progress: &mut dyn FnMut(usize),
) {
    let since = Instant::now();
    let State::Runs(runs) = &mut turn.state else {
        return;
    };
    let mut waits = runs.iter_mut().filter(|r| r.logits.is_none());
    let Some(run) = waits.find(|r| matches!(r.feed, Feed::Prompt(_))) else {
        return;
    };
    let mut sessions = stream.sessions_mut();
    if let (Some(session), Feed::Prompt(prompt)) = (sessions.get_mut(run.session), &run.feed) {
        let done = if run.begun { Ok(()) } else { session.begin(prompt) };
        run.begun = true;
        let made = done.and_then(|()| {
            let before = session.layers_done();
            let more = session.advance(rows);
            if session.layers_done() > before {
                progress(session.layers_done());
            }
            if more {
                Ok(None)
            } else {
                session.finish(1).map(Some)
            }
        });
        match made {
            Ok(None) => {}
            Ok(Some(logits)) => run.logits = Some(logits.into_data()),
            Err(e) => turn.state = State::Over(Err(e)),
        }
    }
    turn.seconds += since.elapsed().as_secs_f64();
}
