//! One request: its caches, its hook, its place in time. Dropping it drops all its state.

use crate::error::{Error, Result};
use crate::hook::{self, Hook};
use crate::model::{Model, Prompt};
use crate::nn::{KvType, LayerCache, Mat, Step};

/// A request on a model. Weights are shared and immutable; everything that changes is here.
pub struct Session<'m> {
    model: &'m Model,
    caches: Vec<LayerCache>,
    hook: Option<Box<dyn Hook>>,
    /// Rotary position of the next decoded token, on all three axes.
    next: f32,
    prefilled: bool,
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
        }
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
        self.prefilled = true;
        self.next = prompt.positions.next;
        let positions = prompt.positions.ids.clone();
        let x = self.forward(prompt.embeds.clone(), positions, true, progress)?;
        let first = x.rows().saturating_sub(rows);
        self.model.decoder().logits(&x.data[first * x.cols..])
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
        let x = self.model.embed(&[token])?;
        let positions = vec![[self.next; 3]];
        self.next += 1.0;
        let x = self.forward(x, positions, false, &mut |_| {})?;
        Ok(self.model.decoder().logits(&x.data)?.data)
    }

    /// The hook of type `T`, to read what it found.
    pub fn hook<T: Hook>(&self) -> Option<&T> {
        self.hook.as_deref().and_then(hook::find)
    }

    /// Bytes that keys and values take now.
    pub fn cache_bytes(&self) -> usize {
        self.caches.iter().map(|c| c.k.bytes() + c.v.bytes()).sum()
    }

    fn forward(
        &mut self,
        x: Mat,
        positions: Vec<[f32; 3]>,
        prefill: bool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Mat> {
        let hook = self.hook.as_deref_mut();
        let mut steps = [Step {
            caches: &mut self.caches,
            hook,
            x,
            positions,
            prefill,
        }];
        let mut out = self.model.decoder().forward(&mut steps, progress)?;
        // One step in, one matrix out.
        Ok(out.pop().unwrap_or_default())
    }
}
