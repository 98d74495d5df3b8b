//! Requests that share each pass over the weights.

use std::ops::ControlFlow;

use super::answer::Answer;
use super::ask::{Ask, Update};
use super::live::Live;
use super::{Error, Result};
use crate::run::stream::tick;

/// Rows of a prompt that run between two decode steps of others.
const UNIT_ROWS: usize = 256;

/// Requests that share each pass over the weights: prompts run in units, and between two units each of the others gets a token.
/// A request's answer is what it is alone, bit for bit, and one that fails fails alone. Requests join at any time.
#[derive(Default)]
pub struct Batch {
    live: Vec<Live>,
    over: Vec<(usize, Result<Answer>)>,
    next: usize,
}

impl Batch {
    /// Adds a request and returns its number, which [`Update`]s and answers bear.
    pub fn add(&mut self, ask: Ask) -> usize {
        let number = self.next;
        self.next += 1;
        match Live::begin(number, ask) {
            Ok(live) => self.live.push(live),
            Err(e) => self.over.push((number, Err(e))),
        }
        number
    }

    /// Requests that are not answered yet.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether all requests are answered.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Goes on with all of them: a unit of one prompt, a token of each of the others. Returns the answers that are complete.
    /// `on` gets what happens; where it breaks on a request's text, that answer ends.
    pub fn tick(
        &mut self,
        on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>,
    ) -> Vec<(usize, Result<Answer>)> {
        let mut over = std::mem::take(&mut self.over);
        let numbers: Vec<usize> = self.live.iter().map(|live| live.number).collect();
        let mut pairs = Vec::new();
        for live in &mut self.live {
            pairs.push((live.stream.as_mut(), &mut live.turn));
        }
        tick(&mut pairs, UNIT_ROWS, &mut |place, layers| {
            let ask = numbers[place];
            // A prompt is stopped by its `Cancel`.
            let _ = on(Update::Prefill { ask, layers });
        });
        for mut live in std::mem::take(&mut self.live) {
            let number = live.number;
            match live.go_on(on) {
                Ok(true) => self.live.push(live),
                Ok(false) => over.push((number, live.finish(on))),
                Err(e) => over.push((number, Err(e))),
            }
        }
        over
    }
}

/// Answers several questions together, as a [`Batch`] of them; the answers come in the order of the questions.
pub fn answer_all(asks: &[Ask], on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>) -> Vec<Result<Answer>> {
    let mut batch = Batch::default();
    for ask in asks {
        batch.add(ask.clone());
    }
    let missing = || Err(Error::input("question", "was not answered"));
    let mut out: Vec<_> = asks.iter().map(|_| missing()).collect();
    loop {
        for (number, answer) in batch.tick(on) {
            out[number] = answer;
        }
        if batch.is_empty() {
            return out;
        }
    }
}

impl Ask {
    /// Answers.
    ///
    /// # Errors
    /// An empty question, a prompt that does not fit the model, numbers that are not finite, [`Error::Cancelled`].
    pub fn run(self) -> Result<Answer> {
        self.stream(&mut |_| ControlFlow::Continue(()))
    }

    /// Answers; `on` gets the text as it comes, and can end it there.
    ///
    /// # Errors
    /// As [`Ask::run`].
    pub fn stream(self, on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>) -> Result<Answer> {
        let missing = || Err(Error::input("question", "was not answered"));
        answer_all(&[self], on).pop().unwrap_or_else(missing)
    }
}
