//! One request: its caches, its hook, its place in time. Dropping it drops all its state.

use std::sync::Arc;

use outro_kernels::Phase;

use crate::compute::nn::{Deepstack, KvType, LayerCache, Mat, Step};
use crate::error::{Error, Result};
use crate::hook::{self, Hook};
use crate::prompt::positions::Positions;
use crate::run::model::{Model, Prompt};

/// The next token's logits of one request, by one pass of the model or several.
pub trait Stream {
    /// Runs the prompt and returns the logits `[vocab]` after it. `progress` receives the decoder layers done, pass by pass.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    fn prefill(&mut self, prompt: &Prompt, progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>>;

    /// Feeds one token and returns the logits `[vocab]` for the next.
    ///
    /// # Errors
    /// As [`Session::decode`].
    fn decode(&mut self, token: u32) -> Result<Vec<f32>>;

    /// Bytes that keys and values of all passes take now.
    fn cache_bytes(&self) -> usize;

    /// Passes through the decoder so far: one for a prompt and one for each token fed, of each session.
    fn passes(&self) -> usize;

    /// The session that runs the prompt as it is, whose hooks can be read.
    fn session(&self) -> &Session<'_>;
}

impl Stream for Session<'_> {
    fn prefill(&mut self, prompt: &Prompt, progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        Ok(self.prefill(prompt, 1, progress)?.data)
    }

    fn decode(&mut self, token: u32) -> Result<Vec<f32>> {
        self.decode(token)
    }

    fn cache_bytes(&self) -> usize {
        self.cache_bytes()
    }

    fn passes(&self) -> usize {
        self.passes
    }

    fn session(&self) -> &Session<'_> {
        self
    }
}

/// A request on a model. Weights are shared and immutable; everything that changes is here.
pub struct Session<'m> {
    model: &'m Model,
    caches: Vec<LayerCache>,
    hook: Option<Box<dyn Hook>>,
    /// Rotary position of the next decoded token, on all three axes.
    next: f32,
    prefilled: bool,
    /// Rows that went through before the prefill, and that its prompt must begin with.
    prefix: Option<Arc<Prompt>>,
    passes: usize,
}

impl<'m> Session<'m> {
    /// A fresh request. `None` runs the plain model: no call is made anywhere.
    pub fn new(model: &'m Model, hook: Option<Box<dyn Hook>>) -> Self {
        Self::with_kv(model, hook, KvType::F32)
    }

    /// As [`Session::new`], with keys and values kept as `kv`.
    pub fn with_kv(model: &'m Model, hook: Option<Box<dyn Hook>>, kv: KvType) -> Self {
        let caches = vec![LayerCache::new(kv); model.config().text.layers];
        Self {
            model,
            caches,
            hook,
            next: 0.0,
            prefilled: false,
            prefix: None,
            passes: 0,
        }
    }

    /// Runs the first `rows` rows of a prompt, for prompts that begin alike: questions about one video. [`Session::fork`]
    /// then gives a session for each, whose prefill runs the rest alone; keys and values of the shared rows are the same
    /// as those of a whole prefill.
    ///
    /// That holds for the plain model only. OutRo's sinks attend to the whole prompt, the question included, and its
    /// thresholds depend on a median over all rows, so the rows before the question depend on it.
    ///
    /// # Errors
    /// A session with a hook, or one that has run something; a model whose rows depend on all ([`Model::shares_rows`]); no
    /// rows, or all of them; and as [`Session::prefill`].
    pub fn prefill_prefix(
        &mut self,
        prompt: &Prompt,
        rows: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let problem = if self.hook.is_some() {
            "has a hook, which must see the prompt whole"
        } else if !self.model.shares_rows() {
            "is of a model with dynamic rotary scaling, whose prompts share no rows"
        } else if self.prefilled || self.prefix.is_some() {
            "has run something before"
        } else if rows == 0 || rows >= prompt.embeds.rows() {
            "a prefix is at least one row, and not the whole prompt"
        } else {
            let prefix = prompt.rows(0..rows);
            self.prefix = Some(Arc::new(prefix.clone()));
            self.forward(prefix, true, progress)?;
            return Ok(());
        };
        Err(Error::input("session", problem))
    }

    /// Another session that goes on from here.
    ///
    /// # Errors
    /// A session with a hook, whose state is its own.
    pub fn fork(&self) -> Result<Self> {
        if self.hook.is_some() {
            return Err(Error::input("session", "has a hook, which cannot be copied"));
        }
        Ok(Self {
            model: self.model,
            caches: self.caches.clone(),
            hook: None,
            next: self.next,
            prefilled: self.prefilled,
            prefix: self.prefix.clone(),
            passes: self.passes,
        })
    }

    /// Runs the prompt and returns the logits of its last `rows` rows, `[rows, vocab]`. `progress` receives
    /// the decoder layers done.
    ///
    /// # Errors
    /// A second prefill, an empty prompt, numbers that are not finite, and whatever the hook fails with.
    pub fn prefill(&mut self, prompt: &Prompt, rows: usize, progress: &mut dyn FnMut(usize)) -> Result<Mat> {
        if self.prefilled {
            return Err(Error::input(
                "session",
                "was prefilled before; one request is one session",
            ));
        }
        if prompt.embeds.rows() == 0 {
            return Err(Error::input(
                "input_ids",
                "is empty; a prompt needs at least one token",
            ));
        }
        let rest = match &self.prefix {
            None => prompt.clone(),
            Some(prefix) if prompt.extends(prefix) => prompt.rows(prefix.embeds.rows()..prompt.embeds.rows()),
            Some(_) => {
                return Err(Error::input(
                    "prompt",
                    "does not begin with the rows that were run before it",
                ));
            }
        };
        self.prefilled = true;
        self.passes = 1;
        self.next = prompt.positions.next;
        let x = self.forward(rest, true, progress)?;
        let first = x.rows().saturating_sub(rows);
        // What the next token is chosen from is computed as in decoding.
        let phase = if rows == 1 { Phase::Decode } else { Phase::Prefill };
        self.model.decoder().logits(&x.data[first * x.cols..], phase)
    }

    /// Feeds one token and returns the logits `[vocab]` for the next.
    ///
    /// # Errors
    /// A token outside the vocabulary, a missing prefill, a full context, and as [`Session::prefill`].
    pub fn decode(&mut self, token: u32) -> Result<Vec<f32>> {
        if !self.prefilled {
            return Err(Error::input("session", "decode before prefill"));
        }
        let limit = self.model.config().text.max_positions;
        if self.next as usize >= limit {
            return Err(Error::TokenBudget {
                tokens: self.next as usize + 1,
                limit,
                breakdown: "the answer has filled the context".into(),
            });
        }
        let step = Prompt {
            embeds: self.model.embed(&[token])?,
            positions: Positions {
                ids: vec![[self.next; 3]],
                next: self.next + 1.0,
            },
            deepstack: Deepstack::default(),
        };
        self.next += 1.0;
        self.passes += 1;
        // On a thread of the pool: from outside, every product of the step would wake a thread and wait to be woken.
        rayon::scope(|_| {
            let x = self.forward(step, false, &mut |_| {})?;
            Ok(self.model.decoder().logits(&x.data, Phase::Decode)?.data)
        })
    }

    /// Whether rows of the prompt were run before this session was forked.
    pub fn has_prefix(&self) -> bool {
        self.prefix.is_some()
    }

    /// The hook of type `T`, to read what it found.
    pub fn hook<T: Hook>(&self) -> Option<&T> {
        self.hook.as_deref().and_then(hook::find)
    }

    /// Bytes that keys and values take now.
    pub fn cache_bytes(&self) -> usize {
        self.caches.iter().map(|c| c.k.bytes() + c.v.bytes()).sum()
    }

    fn forward(&mut self, prompt: Prompt, prefill: bool, progress: &mut dyn FnMut(usize)) -> Result<Mat> {
        let hook = self.hook.as_deref_mut();
        let mut steps = [Step {
            caches: &mut self.caches,
            hook,
            x: prompt.embeds,
            positions: prompt.positions.ids,
            deepstack: prompt.deepstack,
            prefill,
        }];
        let mut out = self.model.decoder().forward(&mut steps, progress)?;
        // One step in, one matrix out.
        Ok(out.pop().unwrap_or_default())
    }
}
