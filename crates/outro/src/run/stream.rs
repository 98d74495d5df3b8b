//! A request as the passes that it needs: it says what is to be run and mixes the logits, the engine runs it.

use std::ops::Range;
use std::sync::Arc;

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
/// own. Tokens of all streams go through one pass over the weights; prompts run one after the other, for a prefill is bound by
/// arithmetic and packing would only cost memory. `progress` receives the decoder layers done, prompt by prompt.
pub fn step<S: Stream + ?Sized>(
    streams: &mut [(&mut S, Event)],
    progress: &mut dyn FnMut(usize),
) -> Vec<Result<Vec<f32>>> {
    let mut out: Vec<Option<Result<Vec<f32>>>> = streams.iter().map(|_| None).collect();
    loop {
        let (mut passes, mut shares) = (Vec::new(), Vec::new());
        for ((stream, event), out) in streams.iter_mut().zip(&mut out) {
            shares.push(0);
            if out.is_some() {
                continue;
            }
            let wanted = stream.next(std::mem::replace(event, Event::Begin));
            let wanted = wanted.and_then(|next| match next {
                Next::Logits(logits) => {
                    *out = Some(Ok(logits));
                    Ok(Vec::new())
                }
                Next::Run(passes) => chosen(stream.sessions_mut(), passes),
            });
            match wanted {
                Ok(wanted) => {
                    *shares.last_mut().unwrap_or(&mut 0) = wanted.len();
                    passes.extend(wanted);
                }
                Err(e) => *out = Some(Err(e)),
            }
        }
        if passes.is_empty() {
            break;
        }
        let mut made = run(passes, progress).into_iter();
        for ((share, (_, event)), out) in shares.iter().zip(streams.iter_mut()).zip(&mut out) {
            if out.is_none() {
                match made.by_ref().take(*share).collect::<Result<_>>() {
                    Ok(logits) => *event = Event::Logits(logits),
                    Err(e) => *out = Some(Err(e)),
                }
            }
        }
    }
    let missing = || Err(Error::input("stream", "asked for nothing and has no logits"));
    out.into_iter().map(|o| o.unwrap_or_else(missing)).collect()
}

/// The sessions that passes name, each of which can be named once.
fn chosen(sessions: Vec<&mut Session>, passes: Vec<(usize, Feed)>) -> Result<Vec<(&mut Session, Feed)>> {
    let mut sessions: Vec<_> = sessions.into_iter().map(Some).collect();
    let mut take = |(place, feed): (usize, Feed)| {
        let session = sessions.get_mut(place).and_then(Option::take);
        let wrong = || {
            Error::input(
                "stream",
                format!("there is no session {place}, or it is named twice"),
            )
        };
        Ok((session.ok_or_else(wrong)?, feed))
    };
    passes.into_iter().map(&mut take).collect()
}

/// Logits `[vocab]` of each pass.
fn run(passes: Vec<(&mut Session, Feed)>, progress: &mut dyn FnMut(usize)) -> Vec<Result<Vec<f32>>> {
    let mut out: Vec<Result<Vec<f32>>> = Vec::with_capacity(passes.len());
    let (mut fed, mut places) = (Vec::new(), Vec::new());
    for (place, (session, feed)) in passes.into_iter().enumerate() {
        out.push(Ok(Vec::new()));
        match feed {
            Feed::Prompt(prompt) => out[place] = session.prefill(&prompt, 1, progress).map(|m| m.data),
            Feed::Token(token) => {
                fed.push((session, token));
                places.push(place);
            }
        }
    }
    for (place, made) in places.into_iter().zip(decode(fed)) {
        out[place] = made;
    }
    out
}
