//! A request that runs: from its prompt to its last token.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::answer::{Answer, Candidate, Finish, Spent};
use super::ask::{Ask, Update, prompt_tokens};
use super::{Error, Result};
use crate::hook::method::{OutRo, Prune};
use crate::prompt::positions::Layout;
use crate::prompt::tokenizer;
use crate::run::generate::{Sampler, top};
use crate::run::strategy::{Request, Strategy};
use crate::run::stream::{Event, Stream, Turn};

/// Longest answer where nobody says a number.
const MAX_NEW: usize = 256;

/// A request on its way.
pub(super) struct Live {
    pub(super) number: usize,
    ask: Ask,
    pub(super) stream: Box<dyn Stream>,
    pub(super) turn: Turn,
    /// Whether its prompt was run.
    prefilled: bool,
    sampler: Sampler,
    words: tokenizer::TextStream,
    /// Text that may be the beginning of a stop string, and was not given out.
    held: String,
    /// Whether a stop string or the caller has ended the text.
    ended: bool,
    /// Tokens that were given out with their text.
    told: usize,
    max_new: usize,
    answer: Answer,
}

impl Live {
    /// Before its prompt; what its strategy needs of the media is encoded.
    pub(super) fn begin(number: usize, ask: Ask) -> Result<Self> {
        let (engine, media) = (&ask.engine, &ask.media);
        let model = engine.model();
        let layout = Arc::clone(ask.layout()?);
        let prompt_tokens = prompt_tokens(&layout.ids, media);
        let sampling = match &ask.sampling {
            Some(sampling) => sampling.clone(),
            None => engine.sampling()?,
        };
        let sampler = Sampler::new(sampling, &layout.ids);
        let prompt = Arc::new(model.prompt_of(Layout::clone(&layout), media.embeds())?);
        let by = match &ask.strategy {
            Some(strategy) => strategy.clone(),
            None => Strategy::parse(Strategy::usual(model.config()), engine.method())?,
        };
        let mut seconds = Spent::default();
        let mut prefix = None;
        if by.uses_prefix()
            && ask.hook.is_none()
            && let Some((rows, spent)) = media.prefix(model, engine.kv(), &prompt, &ask.cancel)?
        {
            (prefix, seconds.shared) = (Some(rows), spent);
        }
        let (of, with, until) = (engine.clone(), media.clone(), ask.cancel.clone());
        let request = Request {
            model: model.clone(),
            kv: engine.kv(),
            prompt,
            prefix,
            noisy: Arc::new(move |noise| with.noisy(&of, &layout, noise, &until)),
            cancel: ask.cancel.clone(),
        };
        let since = Instant::now();
        let hooks = || {
            let own = ask.hook.iter().map(|make| make());
            by.hooks(&request.prompt.spans).into_iter().chain(own).collect()
        };
        let stream = by.stream_with(&request, &hooks)?;
        seconds.encode = since.elapsed().as_secs_f64();
        let answer = Answer {
            strategy: by.name,
            seconds,
            prompt_tokens,
            notes: media.notes().to_vec(),
            ..Answer::default()
        };
        let max_new = ask.max_new.or(engine.generation().max_new_tokens);
        Ok(Self {
            number,
            stream,
            turn: Turn::new(Event::Begin),
            prefilled: false,
            sampler,
            words: tokenizer::TextStream::default(),
            held: String::new(),
            ended: false,
            told: 0,
            max_new: max_new.unwrap_or(MAX_NEW),
            answer,
            ask,
        })
    }

    /// Takes the logits, where they are there, and chooses the token that is fed next. Whether the answer goes on.
    pub(super) fn go_on(&mut self, on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>) -> Result<bool> {
        if self.ask.cancel.is_set() {
            return Err(Error::Cancelled);
        }
        if !self.turn.is_over() {
            return Ok(true);
        }
        // It begins again with the token, or the answer ends.
        let turn = std::mem::replace(&mut self.turn, Turn::new(Event::Begin));
        let seconds = turn.seconds();
        let logits = turn.into_logits()?;
        if self.prefilled {
            self.answer.seconds.decode += seconds;
        } else {
            self.prefilled = true;
            self.after_prompt(&logits, seconds)?;
        }
        let Some(token) = self.choose(&logits, on)? else {
            return Ok(false);
        };
        self.turn = Turn::new(Event::Token(token));
        Ok(true)
    }

    /// What is to be said of the prompt.
    fn after_prompt(&mut self, logits: &[f32], seconds: f64) -> Result<()> {
        self.answer.seconds.prefill = seconds;
        self.answer.first_token_top5 = candidates(logits, 5, self.ask.engine.tokenizer()?);
        self.answer.first_logits = logits.to_vec();
        self.answer.pruned = self.stream.session().hook::<Prune>().map(Prune::dropped);
        self.answer.cache_bytes = self.stream.cache_bytes();
        Ok(())
    }

    /// The token that is fed next; `None` where the answer is complete.
    fn choose(
        &mut self,
        logits: &[f32],
        on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>,
    ) -> Result<Option<u32>> {
        if self.answer.tokens == self.max_new {
            self.answer.finish = Finish::Length;
            return Ok(None);
        }
        let tokenizer = self.ask.engine.tokenizer()?;
        let allowed = self.allowed(logits)?;
        let token = self.sampler.choose(allowed.as_deref().unwrap_or(logits));
        if self.ends(token)? {
            return Ok(None);
        }
        self.answer.tokens += 1;
        self.answer.ids.push(token);
        if let Some(top) = self.ask.logprobs {
            let likeliest = candidates(logits, top, tokenizer);
            let own = log_probability(logits, token);
            self.answer.logprobs.push((own, likeliest));
        }
        let piece = self.words.push(tokenizer, token)?;
        if self.say(&piece, on) || self.chosen() {
            return Ok(None);
        }
        if self.answer.tokens == self.max_new {
            self.answer.finish = Finish::Length;
            return Ok(None);
        }
        Ok(Some(token))
    }

    /// Whether a token ends the answer.
    fn ends(&self, token: u32) -> Result<bool> {
        let (ends, own) = (&self.ask.ends, self.ask.engine.tokenizer()?.end_tokens());
        let own = !ends.ignore && own.contains(&token);
        Ok(own || ends.tokens.contains(&token))
    }

    /// The logits of tokens that may come, the others at minus infinity; `None` where all may.
    fn allowed(&self, logits: &[f32]) -> Result<Option<Vec<f32>>> {
        if !self.ask.choices.is_empty() {
            let mut out = vec![f32::NEG_INFINITY; logits.len()];
            let said = self.answer.ids.as_slice();
            for next in self
                .ask
                .choices
                .iter()
                .filter_map(|c| c.strip_prefix(said)?.first())
            {
                if let Some((to, from)) = out.get_mut(*next as usize).zip(logits.get(*next as usize)) {
                    *to = *from;
                }
            }
            return Ok(Some(out));
        }
        if self.answer.tokens >= self.ask.ends.min_tokens {
            return Ok(None);
        }
        let mut out = logits.to_vec();
        let own = self.ask.engine.tokenizer()?.end_tokens();
        for token in own.iter().chain(&self.ask.ends.tokens) {
            if let Some(logit) = out.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(Some(out))
    }

    /// Whether the answer is one of the choices, and no longer one begins with it.
    fn chosen(&self) -> bool {
        let said = self.answer.ids.as_slice();
        let mut rest = self.ask.choices.iter().filter_map(|c| c.strip_prefix(said));
        !self.ask.choices.is_empty() && rest.all(<[u32]>::is_empty)
    }

    /// Adds text, but for what may become a stop string; whether the answer ends here.
    fn say(&mut self, piece: &str, on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>) -> bool {
        if self.ended {
            return true;
        }
        self.held += piece;
        let stops = self.ask.stop.iter();
        if let Some(at) = stops.filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            self.give(self.held.len(), on);
            self.ended = true;
            return true;
        }
        let safe = self.held.len() - beginning(&self.held, &self.ask.stop);
        self.give(safe, on)
    }

    /// Gives out the first bytes of what is held; whether the caller wants no more. Who has said so once is not asked again.
    fn give(&mut self, bytes: usize, on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>) -> bool {
        if bytes == 0 || self.ended {
            return self.ended;
        }
        let rest = self.held.split_off(bytes);
        let piece = std::mem::replace(&mut self.held, rest);
        self.answer.text += &piece;
        let from = std::mem::replace(&mut self.told, self.answer.ids.len());
        let update = Update::Text {
            ask: self.number,
            piece: &piece,
            ids: &self.answer.ids[from..],
            logprobs: self.answer.logprobs.get(from..).unwrap_or_default(),
        };
        self.ended = on(update).is_break();
        self.ended
    }

    pub(super) fn finish(mut self, on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>) -> Result<Answer> {
        let words = std::mem::take(&mut self.words);
        let rest = words.finish(self.ask.engine.tokenizer()?)?;
        if !self.say(&rest, on) {
            self.give(self.held.len(), on);
        }
        if let Some(outro) = self.stream.session().hook::<OutRo>() {
            self.answer.sinks = Some(outro.sinks().clone());
            self.answer.relaxed_at = Some(outro.relaxed_at().clone());
        }
        self.answer.passes = self.stream.passes();
        Ok(self.answer)
    }
}

/// Length of the longest end of `text` with which a stop string begins.
fn beginning(text: &str, stop: &[String]) -> usize {
    let ends = text.char_indices().map(|(at, _)| &text[at..]);
    let mut ends = ends.filter(|end| stop.iter().any(|s| s.starts_with(end)));
    ends.next().map_or(0, str::len)
}

fn candidates(logits: &[f32], n: usize, tokenizer: &tokenizer::Tokenizer) -> Vec<Candidate> {
    let likeliest = top(logits, n).into_iter();
    likeliest
        .map(|(token, p)| Candidate {
            token,
            text: tokenizer.token(token),
            probability: f64::from(p),
        })
        .collect()
}

fn log_probability(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let sum: f64 = logits.iter().map(|l| f64::from(l - most).exp()).sum();
    f64::from(logits[token as usize] - most) - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::beginning;

    #[test]
    fn what_may_become_a_stop_string_is_held() {
        let stop = ["\n\n".to_owned(), "END".to_owned()];
        for (text, held) in [
            ("a\n", 1),
            ("a", 0),
            ("the E", 1),
            ("the EN", 2),
            ("é\n", 1),
            ("EDN", 0),
        ] {
            assert_eq!(beginning(text, &stop), held, "{text:?}");
        }
    }
}
