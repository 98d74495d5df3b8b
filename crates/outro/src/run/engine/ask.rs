//! A question on its way to its answer, alone or with others that share each pass over the weights.

use std::sync::{Arc, OnceLock};

use outro_media::Cancel;

use super::answer::Candidate;
use super::media::MediaSet;
use super::{Engine, Error, Result};
use crate::error::PromptTokens;
use crate::hook::Hook;
use crate::prompt::chat::Conversation;
use crate::prompt::positions::{Layout, Span};
use crate::prompt::{lay_out, prepare};
use crate::run::model;
use crate::run::strategy::Strategy;
use crate::spec::generation::Sampling;

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
        /// The tokens of it: all since the last piece.
        ids: &'a [u32],
        /// Their log-probabilities, where [`Ask::logprobs`] asked for them.
        logprobs: &'a [(f64, Vec<Candidate>)],
    },
}

/// What ends an answer beside its length and stop strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Tokens that end it, beside those of the model.
    pub tokens: Vec<u32>,
    /// The model's own end tokens do not end it.
    pub ignore: bool,
    /// No token of either kind is chosen before there are so many others.
    pub min_tokens: usize,
}

/// Makes a hook.
type MakeHook = dyn Fn() -> Box<dyn Hook> + Send + Sync;

/// One question by one strategy. Settings that are not given are the checkpoint's.
#[must_use = "a question is answered by `run`"]
#[derive(Clone)]
pub struct Ask {
    pub(super) engine: Engine,
    pub(super) media: MediaSet,
    conversation: Conversation,
    pub(super) strategy: Option<Strategy>,
    pub(super) hook: Option<Arc<MakeHook>>,
    pub(super) sampling: Option<Sampling>,
    pub(super) max_new: Option<usize>,
    pub(super) stop: Vec<String>,
    pub(super) ends: Ends,
    pub(super) choices: Vec<Vec<u32>>,
    pub(super) logprobs: Option<usize>,
    pub(super) cancel: Cancel,
    /// A prompt that no template makes.
    raw: Option<Vec<u32>>,
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
            ends: Ends::default(),
            choices: Vec::new(),
            logprobs: None,
            cancel: Cancel::default(),
            raw: None,
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

    /// Whose question it is.
    pub fn engine(&self) -> &Engine {
        &self.engine
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

    /// Ends so.
    pub fn ends(mut self, ends: Ends) -> Self {
        self.ends = ends;
        self
    }

    /// The answer is one of these texts, whichever the model finds likeliest token by token.
    ///
    /// # Errors
    /// No texts, or an empty one.
    pub fn choices<'a>(mut self, texts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let tokenizer = self.engine.tokenizer()?;
        let ids = texts.into_iter().map(|text| tokenizer.encode(text));
        let choices = ids.collect::<Result<Vec<_>>>()?;
        if choices.is_empty() || choices.iter().any(Vec::is_empty) {
            return Err(Error::input("choices", "must be texts, and none may be empty"));
        }
        self.choices = choices;
        Ok(self)
    }

    /// With each token's log-probability and this many of the likeliest in its place.
    pub fn logprobs(mut self, top: usize) -> Self {
        self.logprobs = Some(top);
        self
    }

    /// About a prompt of these ids and without media, whatever the conversation says.
    pub(super) fn raw(mut self, ids: Vec<u32>) -> Self {
        self.raw = Some(ids);
        self
    }

    /// What each row of the prompt is, `[S]`.
    ///
    /// # Errors
    /// As [`Ask::ids`].
    pub fn spans(&self) -> Result<&[Span]> {
        Ok(&self.layout()?.spans)
    }

    /// Tokens of the prompt by kind.
    ///
    /// # Errors
    /// As [`Ask::ids`].
    pub fn prompt_tokens(&self) -> Result<PromptTokens> {
        Ok(prompt_tokens(&self.layout()?.ids, &self.media))
    }

    /// Ends with [`Error::Cancelled`] once `cancel` is set, before the next layer or token.
    pub fn cancelled_by(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// The prompt's ids.
    ///
    /// # Errors
    /// As [`prepare::Preparer::ids`], and a prompt that is longer than the model takes.
    pub fn ids(&self) -> Result<Vec<u32>> {
        Ok(self.layout()?.ids.clone())
    }

    /// Laid out once, for all strategies that answer it.
    pub(super) fn layout(&self) -> Result<&Arc<Layout>> {
        if let Some(layout) = self.layout.get() {
            return Ok(layout);
        }
        let preparer = self.engine.preparer();
        let layout = match &self.raw {
            Some(ids) if ids.is_empty() => return Err(Error::input("prompt", "is empty")),
            Some(ids) => lay_out(preparer.config(), ids, &[])?,
            None => preparer.layout_about(self.media.media(), &self.conversation)?,
        };
        let limit = preparer.config().text.max_positions;
        prompt_tokens(&layout.ids, &self.media).fit(limit)?;
        Ok(self.layout.get_or_init(|| Arc::new(layout)))
    }
}

pub(super) fn prompt_tokens(ids: &[u32], media: &MediaSet) -> PromptTokens {
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
