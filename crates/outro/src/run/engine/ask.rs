//! A question on its way to its answer, alone or with others that share each pass over the weights.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use outro_media::Cancel;

use super::answer::{Answer, Candidate, Finish, Spent};
use super::media::MediaSet;
use super::{Engine, Error, Result};
use crate::error::PromptTokens;
use crate::hook::Hook;
use crate::hook::method::{OutRo, Prune};
use crate::prompt::chat::Conversation;
use crate::prompt::positions::Layout;
use crate::prompt::{prepare, tokenizer};
use crate::run::generate::{Sampler, top};
use crate::run::model;
use crate::run::strategy::{Request, Strategy};
use crate::run::stream::{Event, Stream, Turn, tick};
use crate::spec::generation::Sampling;

/// Longest answer where nobody says a number.
const MAX_NEW: usize = 256;

/// What happens on the way, for progress displays and streaming.
#[derive(Debug)]
pub enum Update<'a> {
    /// Files are read.
    Media(prepare::MediaProgress),
    /// The encoders run.
    Encode(model::EncodeProgress),
    /// The prompt of the request `ask` (its number among those that run together) runs.
    Prefill {
        /// Which request.
        ask: usize,
        /// Decoder layers done, of all its passes.
        layers: usize,
    },
    /// Text of the request `ask`, whole characters.
    Text {
        /// Which request.
        ask: usize,
        /// What was added.
        piece: &'a str,
    },
}

/// Makes a hook.
type MakeHook = dyn Fn() -> Box<dyn Hook> + Send + Sync;

/// One question by one strategy. Settings that are not given are the checkpoint's.
#[must_use = "a question is answered by `run`"]
#[derive(Clone)]
pub struct Ask {
    engine: Engine,
    media: MediaSet,
    conversation: Conversation,
    strategy: Option<Strategy>,
    hook: Option<Arc<MakeHook>>,
    sampling: Option<Sampling>,
    max_new: Option<usize>,
    stop: Vec<String>,
    logprobs: usize,
    cancel: Cancel,
    /// The prompt, once it was asked for.
    layout: OnceLock<Arc<Layout>>,
}

impl Ask {
    pub(super) fn new(engine: Engine, media: MediaSet, conversation: Conversation) -> Self {
        Self {
            engine,
            media,
            conversation,
            strategy: None,
            hook: None,
            sampling: None,
            max_new: None,
            stop: Vec::new(),
            logprobs: 0,
            cancel: Cancel::default(),
            layout: OnceLock::new(),
        }
    }

    /// By the strategy of this name, as `outro:gamma=2` or `vcd+outro` (`docs/strategies.md`). Without one: [`Strategy::usual`].
    ///
    /// # Errors
    /// As [`Strategy::of_model`].
    pub fn strategy(self, name: &str) -> Result<Self> {
        let model = &self.engine.model().config().text;
        let strategy = Strategy::of_model(name, self.engine.method(), model)?;
        Ok(self.by(strategy))
    }

    /// By a strategy that was read before, or one of the caller's own.
    pub fn by(mut self, strategy: Strategy) -> Self {
        self.strategy = Some(strategy);
        self
    }

    /// With a hook of the caller's own, made anew for each pass, behind those of the strategy.
    pub fn hook<F>(mut self, make: F) -> Self
    where
        F: Fn() -> Box<dyn Hook> + Send + Sync + 'static,
    {
        self.hook = Some(Arc::new(make));
        self
    }

    /// With this system sentence; an empty one is none.
    pub fn system(mut self, text: &str) -> Self {
        self.conversation.system = Some(text.into());
        self.layout = OnceLock::new();
        self
    }

    /// At most so many tokens.
    pub fn max_new(mut self, tokens: usize) -> Self {
        self.max_new = Some(tokens);
        self
    }

    /// Tokens chosen so, whatever `generation_config.json` says.
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = Some(sampling);
        self
    }

    /// Ends before the first of these texts.
    pub fn stop(mut self, strings: impl IntoIterator<Item = String>) -> Self {
        self.stop = strings.into_iter().filter(|s| !s.is_empty()).collect();
        self
    }

    /// With each token's log-probability and this many of the likeliest in its place.
    pub fn logprobs(mut self, top: usize) -> Self {
        self.logprobs = top;
        self
    }

    /// Ends with [`Error::Cancelled`] once `cancel` is set, before the next layer or token.
    pub fn cancelled_by(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

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

    /// The prompt's ids.
    ///
    /// # Errors
    /// As [`prepare::Preparer::ids`], and a prompt that is longer than the model takes.
    pub fn ids(&self) -> Result<Vec<u32>> {
        Ok(self.layout()?.ids.clone())
    }

    /// Laid out once, for all strategies that answer it.
    fn layout(&self) -> Result<&Arc<Layout>> {
        if let Some(layout) = self.layout.get() {
            return Ok(layout);
        }
        let preparer = self.engine.preparer();
        let layout = preparer.layout_about(self.media.media(), &self.conversation)?;
        let limit = preparer.config().text.max_positions;
        prompt_tokens(&layout.ids, &self.media).fit(limit)?;
        Ok(self.layout.get_or_init(|| Arc::new(layout)))
    }
}

fn prompt_tokens(ids: &[u32], media: &MediaSet) -> PromptTokens {
    let embeds = media.embeds();
    let (image, video, audio) = (embeds.image.rows(), embeds.video.rows(), embeds.audio.rows());
    PromptTokens {
        total: ids.len(),
        image,
        video,
        audio,
        text: ids.len().saturating_sub(image + video + audio),
    }
}

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

/// A request on its way.
struct Live {
    number: usize,
    ask: Ask,
    stream: Box<dyn Stream>,
    turn: Turn,
    /// Whether its prompt was run.
    prefilled: bool,
    sampler: Sampler,
    words: tokenizer::TextStream,
    /// Text that may be the beginning of a stop string, and was not given out.
    held: String,
    /// Whether a stop string or the caller has ended the text.
    ended: bool,
    max_new: usize,
    answer: Answer,
}

impl Live {
    /// Before its prompt; what its strategy needs of the media is encoded.
    fn begin(number: usize, ask: Ask) -> Result<Self> {
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
            max_new: max_new.unwrap_or(MAX_NEW),
            answer,
            ask,
        })
    }

    /// Takes the logits, where they are there, and chooses the token that is fed next. Whether the answer goes on.
    fn go_on(&mut self, on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>) -> Result<bool> {
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
        let token = self.sampler.choose(logits);
        if tokenizer.end_tokens().contains(&token) {
            return Ok(None);
        }
        self.answer.tokens += 1;
        self.answer.ids.push(token);
        if self.ask.logprobs > 0 {
            let likeliest = candidates(logits, self.ask.logprobs, tokenizer);
            let own = log_probability(logits, token);
            self.answer.logprobs.push((own, likeliest));
        }
        let piece = self.words.push(tokenizer, token)?;
        if self.say(&piece, on) {
            return Ok(None);
        }
        if self.answer.tokens == self.max_new {
            self.answer.finish = Finish::Length;
            return Ok(None);
        }
        Ok(Some(token))
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
        let update = Update::Text {
            ask: self.number,
            piece: &piece,
        };
        self.ended = on(update).is_break();
        self.ended
    }

    fn finish(mut self, on: &mut dyn FnMut(Update<'_>) -> ControlFlow<()>) -> Result<Answer> {
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
