//! From a request to questions that can run: media fetched, planned, checked, decoded and encoded. Blocking.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outro::chat::Conversation;
use outro::positions::Span;
use outro::prepare::{MediaOptions, Plan};
use outro::{Ask, Cancel, Engine, MediaSet};
use outro_media::{Limits, NoteKind};

use super::cache::{Cache, Key};
use super::explain::Watch;
use super::{Loaded, Metrics};
use crate::api::reply::Usage;
use crate::api::{ApiError, ChatRequest, Choosing, CompletionRequest, PromptText};
use crate::door::{Door, Medium};

/// Longest answer where neither request nor checkpoint says a number, as the engine has it.
const MAX_NEW: usize = 256;

/// What all requests are prepared with.
pub(crate) struct Preparing {
    pub(crate) door: Arc<Door>,
    pub(crate) cache: Cache,
    pub(crate) metrics: Arc<Metrics>,
    /// The strategy where a request names none.
    pub(crate) strategy: Option<String>,
    /// Most tokens of prompt and answer.
    pub(crate) max_model_len: Option<usize>,
    /// What a file may cost, and that its decoders are confined.
    pub(crate) limits: Limits,
    /// How long a decoder may be silent.
    pub(crate) decode: Duration,
    /// The program that decodes in a process of its own.
    pub(crate) worker: Option<PathBuf>,
}

/// Questions that can run.
pub(crate) struct Asked {
    pub(crate) asks: Vec<Ask>,
    /// By ask; empty where nobody asked why.
    pub(crate) watches: Vec<Watch>,
    /// Strategies by ask.
    pub(crate) names: Vec<String>,
    pub(crate) media: MediaSet,
    pub(crate) usage: Usage,
    pub(crate) warnings: Vec<String>,
}

impl Asked {
    /// What each row of the prompt is.
    pub(crate) fn spans(&self) -> &[Span] {
        self.asks.first().and_then(|a| a.spans().ok()).unwrap_or_default()
    }
}

/// A conversation with what its media will be.
pub(crate) struct Planned {
    pub(crate) conversation: Conversation,
    pub(crate) plan: Plan,
    media: Vec<Medium>,
    options: MediaOptions,
}

impl Preparing {
    /// A cache of so many bytes.
    pub(crate) fn cache(most: u64) -> Cache {
        Cache::new(most)
    }

    /// Fetches and plans: tokens are known, nothing is decoded.
    pub(crate) fn plan(
        &self,
        model: &Loaded,
        request: &ChatRequest,
        cancel: &Cancel,
    ) -> Result<Planned, ApiError> {
        let media = self.door.take(&request.turns.media, cancel)?;
        let parts: Vec<_> = media.iter().map(|m| m.part.clone()).collect();
        let conversation = request.turns.with(&parts);
        let preparer = model.engine.preparer();
        let mut options = preparer.media_options();
        let looking = &request.looking;
        options.audio_in_video = looking.sound.unwrap_or(true);
        if looking.fps.is_some() || looking.frames.is_some() {
            options.sampling.fps = looking.fps.unwrap_or(options.sampling.fps);
            options.sampling.frames = looking.frames;
        }
        options.sampling.start = looking.start.or(options.sampling.start);
        options.sampling.end = looking.end.or(options.sampling.end);
        options.max_pixels = looking.max_pixels.or(options.max_pixels);
        options.max_video_tokens = looking.max_video_tokens.or(options.max_video_tokens);
        options.media.cancel = cancel.clone();
        options.media.deadline = self.decode;
        options.media.limits = self.limits;
        options.media.worker.clone_from(&self.worker);
        let plan = preparer.plan(&conversation, &options).map_err(|e| self.told(e))?;
        self.check(&plan)?;
        Ok(Planned {
            conversation,
            plan,
            media,
            options,
        })
    }

    /// An error without the server's own paths.
    fn told(&self, error: outro::Error) -> ApiError {
        let mut error = ApiError::from(error);
        error.message = self.without_paths(&error.message);
        error
    }

    fn without_paths(&self, text: &str) -> String {
        self.door.without_paths(text)
    }

    /// The limits on tokens, before anything is decoded.
    fn check(&self, plan: &Plan) -> Result<(), ApiError> {
        self.fits(plan.prompt_tokens)?;
        plan.check().map_err(ApiError::from)
    }

    /// That a prompt of so many tokens leaves room for an answer.
    fn fits(&self, tokens: usize) -> Result<(), ApiError> {
        match self.max_model_len {
            Some(most) if tokens >= most => {
                let text = format!(
                    "the prompt has {tokens} tokens; this server's limit for prompt and answer is {most}"
                );
                Err(ApiError::new(413, text))
            }
            _ => Ok(()),
        }
    }

    /// Everything up to the step.
    pub(crate) fn chat(
        &self,
        model: &Loaded,
        request: &ChatRequest,
        cancel: &Cancel,
    ) -> Result<Asked, ApiError> {
        let planned = self.plan(model, request, cancel)?;
        let mut warnings: Vec<String> = Vec::new();
        let (media, key, cached) = self.media(model, &planned)?;
        for note in media.notes() {
            if note.kind == NoteKind::NoSound {
                self.metrics.silent.add(1);
            }
            warnings.push(self.without_paths(&note.text));
        }
        warnings.extend(model.engine.model().unfamiliar(media.embeds()));
        let common = &request.common;
        let mut asked = Asked {
            asks: Vec::new(),
            watches: Vec::new(),
            names: Vec::new(),
            usage: Usage::default(),
            warnings,
            media: media.clone(),
        };
        let base = model.engine.chat(&media, request.turns.with(media.parts()));
        let prompt = base.prompt_tokens().map_err(|e| self.told(e))?;
        self.fits(prompt.total)?;
        if let Some(key) = &key {
            let text = &model.engine.model().config().text;
            let row = model.engine.kv().head_bytes(text.head_dim) * text.kv_heads * 2 * text.layers;
            self.cache.asked(key, &base.ids()?, row as u64);
            self.metrics
                .cache_bytes
                .set(usize::try_from(self.cache.bytes()).unwrap_or(usize::MAX));
        }
        asked.usage.prompt = prompt;
        asked.usage.cached = if cached {
            prompt.image + prompt.video + prompt.audio
        } else {
            0
        };
        let own = common.outro.strategy.as_deref().or(self.strategy.as_deref());
        for i in 0..common.choosing.n {
            self.add(
                &mut asked,
                &model.engine,
                base.clone(),
                own,
                &common.choosing,
                i,
                common.outro.explain,
            )?;
        }
        if common.outro.compare {
            self.add(
                &mut asked,
                &model.engine,
                base,
                Some("baseline"),
                &common.choosing,
                0,
                common.outro.explain,
            )?;
        }
        Ok(asked)
    }

    fn add(
        &self,
        asked: &mut Asked,
        engine: &Engine,
        ask: Ask,
        strategy: Option<&str>,
        choosing: &Choosing,
        i: usize,
        explain: bool,
    ) -> Result<(), ApiError> {
        let usual = outro::strategy::Strategy::usual(engine.model().config());
        let name = strategy.unwrap_or(usual);
        let wrong = |e: outro::Error| ApiError::field("outro.strategy", format!("is wrong: {e}"));
        let mut ask = ask.strategy(name).map_err(wrong)?;
        ask = self.chosen(ask, engine, choosing, i, asked.usage.prompt.total)?;
        if explain {
            let watch = Watch::default();
            let hook = watch.clone();
            ask = ask.hook(move || hook.hook());
            asked.watches.push(watch);
        }
        asked.names.push(name.to_owned());
        asked.asks.push(ask);
        Ok(())
    }

    /// With the request's way of choosing tokens.
    fn chosen(
        &self,
        ask: Ask,
        engine: &Engine,
        choosing: &Choosing,
        i: usize,
        prompt: usize,
    ) -> Result<Ask, ApiError> {
        let file = engine.generation();
        let wanted = choosing.max_tokens.or(file.max_new_tokens).unwrap_or(MAX_NEW);
        let context = engine.model().config().text.max_positions;
        let room = self
            .max_model_len
            .unwrap_or(context)
            .min(context)
            .saturating_sub(prompt);
        let mut ask = ask
            .sampling(choosing.sampling(file, i)?)
            .max_new(wanted.min(room.max(1)))
            .stop(choosing.stop.iter().cloned())
            .ends(choosing.ends.clone());
        if let Some(top) = choosing.logprobs {
            ask = ask.logprobs(top);
        }
        if !choosing.choices.is_empty() {
            ask = ask.choices(choosing.choices.iter().map(String::as_str))?;
        }
        Ok(ask)
    }

    /// Media decoded and encoded, by this request or one before it.
    fn media(&self, model: &Loaded, planned: &Planned) -> Result<(MediaSet, Option<Key>, bool), ApiError> {
        if planned.media.is_empty() {
            return Ok((model.engine.media(&[])?, None, false));
        }
        let mut looking = String::new();
        let o = &planned.options;
        // Writing to a String cannot fail.
        let _ = write!(
            looking,
            "{:?} {:?} {:?} {}",
            o.sampling, o.max_pixels, o.max_video_tokens, o.audio_in_video
        );
        let key = Key {
            model: model.name.clone(),
            media: planned.media.iter().map(|m| (m.kind, m.hash)).collect(),
            looking,
        };
        self.metrics.cache_queries.add(1);
        if let Some(media) = self.cache.get(&key) {
            self.metrics.cache_hits.add(1);
            return Ok((media, Some(key), true));
        }
        let media = {
            let _timer = self.metrics.decode_media.timer();
            let made = model.engine.media_planned(planned.plan.clone(), o, &mut |_| {});
            made.map_err(|e| self.told(e))?
        };
        self.metrics.encode.observe(media.encode_seconds());
        self.cache.put(key.clone(), &media);
        Ok((media, Some(key), false))
    }

    /// Plain prompts.
    pub(crate) fn completion(&self, model: &Loaded, request: &CompletionRequest) -> Result<Asked, ApiError> {
        let common = &request.common;
        let mut asked = Asked {
            asks: Vec::new(),
            watches: Vec::new(),
            names: Vec::new(),
            usage: Usage::default(),
            warnings: Vec::new(),
            media: model.engine.media(&[])?,
        };
        // Without a template there is no conversation for OutRo to look at, unless it is asked for.
        let own = common.outro.strategy.as_deref().unwrap_or("baseline");
        for prompt in &request.prompts {
            let ids = match prompt {
                PromptText::Text(text) => model.engine.tokenizer()?.encode(text)?,
                PromptText::Ids(ids) => ids.clone(),
            };
            self.fits(ids.len())?;
            let base = model.engine.complete(ids)?;
            let tokens = base.prompt_tokens()?;
            asked.usage.prompt.total += tokens.total;
            asked.usage.prompt.text += tokens.text;
            for i in 0..common.choosing.n {
                let wrong = |e: outro::Error| ApiError::field("outro.strategy", format!("is wrong: {e}"));
                let ask = base.clone().strategy(own).map_err(wrong)?;
                let ask = self.chosen(ask, &model.engine, &common.choosing, i, tokens.total)?;
                asked.names.push(own.to_owned());
                asked.asks.push(ask);
            }
        }
        Ok(asked)
    }
}
