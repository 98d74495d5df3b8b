//! One request's state: KV caches, hook, next rotary position. Dropping it drops all of it.

use std::sync::Arc;

use outro_kernels::Phase;

use crate::compute::nn::{Deepstack, KvType, LayerCache, Mat, NewRows, Pass, Step};
use outro_media::Cancel;

use crate::error::{Error, Result};
use crate::hook::{self, Hook};
use crate::prompt::positions::Positions;
use crate::run::model::{Model, Prompt};

/// A request on a model. Weights are shared and immutable; everything that changes is here.
pub struct Session {
    model: Model,
    caches: Vec<LayerCache>,
    hook: Option<Box<dyn Hook>>,
    cancel: Option<Cancel>,
    /// Rotary position of the next decoded token, on all three axes.
    next: f32,
    prefilled: bool,
    /// Rows that went through before the prefill, and that its prompt must begin with.
    prefix: Option<Arc<Prompt>>,
    passes: usize,
    /// A prefill that has begun.
    pass: Option<Box<Pass>>,
}

impl Session {
    /// A fresh request. `None` runs the plain model: no call is made anywhere.
    pub fn new(model: &Model, hook: Option<Box<dyn Hook>>) -> Self {
        Self::with_kv(model, hook, KvType::F32)
    }

    /// As [`Session::new`], with keys and values kept as `kv`.
    pub fn with_kv(model: &Model, hook: Option<Box<dyn Hook>>, kv: KvType) -> Self {
        let text = &model.config().text;
        let (layers, dim) = (0..text.layers, text.head_dim);
        Self {
            model: model.clone(),
            caches: layers.map(|_| LayerCache::new(kv, dim)).collect(),
            hook,
            cancel: None,
            next: 0.0,
            prefilled: false,
            prefix: None,
            passes: 0,
            pass: None,
        }
    }

    /// Ends its forward passes with [`Error::Cancelled`], before the next layer, once `cancel` is set.
    pub fn cancelled_by(&mut self, cancel: &Cancel) {
        self.cancel = Some(cancel.clone());
    }

    /// Runs the prompt and returns the logits of its last `rows` rows, `[rows, vocab]`. `progress` receives
    /// the decoder layers done.
    ///
    /// # Errors
    /// A second prefill, an empty prompt, numbers that are not finite, and whatever the hook fails with.
    pub fn prefill(&mut self, prompt: &Prompt, rows: usize, progress: &mut dyn FnMut(usize)) -> Result<Mat> {
        self.begin(prompt)?;
        let mut more = true;
        let mut seen = 0;
        while more {
            more = self.advance(usize::MAX);
            if self.layers_done() > seen {
                seen = self.layers_done();
                progress(seen);
            }
        }
        self.finish(rows)
    }

    /// Begins a prefill that is run in units, so that others can be run between them: [`Session::advance`] until nothing is
    /// left, then [`Session::finish`]. The logits are those of [`Session::prefill`], bit for bit.
    ///
    /// # Errors
    /// A second prefill, an empty prompt.
    pub fn begin(&mut self, prompt: &Prompt) -> Result<()> {
        let rest = self.rest(prompt)?;
        let model = self.model.clone();
        let pass = model.decoder().begin(vec![rest.new_rows(true)], &[self.step()]);
        self.pass = Some(Box::new(pass));
        Ok(())
    }

    /// Decoder layers that a prefill in units has left behind.
    pub fn layers_done(&self) -> usize {
        self.pass.as_ref().map_or(0, |pass| pass.layers())
    }

    /// Runs one unit: a stage of a layer (queries, keys and values; attention; what follows) for at most `rows` rows of the
    /// prompt. Whether more are left; what fails is said by [`Session::finish`].
    pub fn advance(&mut self, rows: usize) -> bool {
        let Some(mut pass) = self.pass.take() else {
            return false;
        };
        let model = self.model.clone();
        let more = model.decoder().advance(&mut pass, &mut [self.step()], rows);
        self.pass = Some(pass);
        more
    }

    /// Ends a prefill whose units are done: the logits `[rows, vocab]` of its last `rows` rows.
    ///
    /// # Errors
    /// As [`Session::prefill`]; units that are left.
    pub fn finish(&mut self, rows: usize) -> Result<Mat> {
        let unfinished = || Error::input("session", "has no prefill whose units are all done");
        let pass = self.pass.take().ok_or_else(unfinished)?;
        if !self.model.decoder().is_done(&pass) {
            return Err(unfinished());
        }
        let x = pass.finish().pop().unwrap_or_else(|| Err(unfinished()))?;
        let first = x.rows().saturating_sub(rows);
        // What the next token is chosen from is computed as in decoding.
        let phase = if rows == 1 { Phase::Decode } else { Phase::Prefill };
        let decoder = self.model.decoder();
        let logits = decoder.logits(x.part(first..x.rows()), phase);
        decoder.finite(logits.data())?;
        Ok(logits)
    }

    /// Rows of a prompt that are still to be run.
    fn rest(&mut self, prompt: &Prompt) -> Result<Prompt> {
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
        Ok(rest)
    }

    /// Feeds one token and returns the logits `[vocab]` for the next.
    ///
    /// # Errors
    /// A token outside the vocabulary, a missing prefill, a full context, and as [`Session::prefill`].
    pub fn decode(&mut self, token: u32) -> Result<Vec<f32>> {
        decode(vec![(self, token)])
            .pop()
            .unwrap_or_else(|| Ok(Vec::new()))
    }

    /// The row of a token that is fed.
    fn token(&mut self, token: u32) -> Result<Prompt> {
        if !self.prefilled || self.pass.is_some() {
            return Err(Error::input("session", "decode before the prefill is finished"));
        }
        let limit = self.model.config().text.max_positions;
        if self.next as usize >= limit {
            return Err(Error::ContextFull { limit });
        }
        let row = Prompt {
            embeds: self.model.embed(&[token])?,
            positions: Positions {
                ids: vec![[self.next; 3]],
                next: self.next + 1.0,
            },
            deepstack: Deepstack::default(),
            spans: Vec::new(),
        };
        self.next += 1.0;
        self.passes += 1;
        Ok(row)
    }

    /// Whether rows of the prompt were run before ([`Prefix`]).
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

    /// Passes through the decoder so far: one for a prompt and one for each token fed.
    pub fn passes(&self) -> usize {
        self.passes
    }

    fn step(&mut self) -> Step<'_> {
        Step {
            caches: &mut self.caches,
            hook: self.hook.as_deref_mut(),
            cancel: self.cancel.as_ref(),
        }
    }
}

impl Prompt {
    fn new_rows(self, prefill: bool) -> NewRows {
        NewRows {
            x: self.embeds,
            positions: self.positions.ids,
            deepstack: self.deepstack,
            prefill,
        }
    }
}

/// Keys and values of the first rows of a prompt, by the plain model, for prompts that begin alike: questions about one video.
/// [`Prefix::session`] gives a session for each, whose prefill runs the rest alone; keys and values of the shared rows are the
/// same as those of a whole prefill.
///
/// That holds for the plain model only. OutRo's sinks attend to the whole prompt, the question included, and its
/// thresholds depend on a median over all rows, so the rows before the question depend on it.
pub struct Prefix {
    model: Model,
    caches: Vec<LayerCache>,
    rows: Arc<Prompt>,
}

impl Prefix {
    /// Runs the first `rows` rows.
    ///
    /// # Errors
    /// A model whose rows depend on all ([`Model::shares_rows`]); no rows, or all of them; and as [`Session::prefill`].
    pub fn run(model: &Model, kv: KvType, prompt: &Prompt, rows: usize) -> Result<Self> {
        Self::run_until(model, kv, prompt, rows, &Cancel::default())
    }

    /// [`Prefix::run`], which ends with [`Error::Cancelled`] once `cancel` is set.
    pub(crate) fn run_until(
        model: &Model,
        kv: KvType,
        prompt: &Prompt,
        rows: usize,
        cancel: &Cancel,
    ) -> Result<Self> {
        if !model.shares_rows() {
            let problem = "is of a model with dynamic rotary scaling, whose prompts share no rows";
            return Err(Error::input("prefix", problem));
        }
        if rows == 0 || rows >= prompt.embeds.rows() {
            return Err(Error::input(
                "prefix",
                "is at least one row, and not the whole prompt",
            ));
        }
        let mut session = Session::with_kv(model, None, kv);
        session.cancelled_by(cancel);
        let rows = prompt.rows(0..rows);
        let (pass, steps) = (rows.clone().new_rows(true), &mut [session.step()]);
        let made = model.decoder().forward(vec![pass], steps);
        made.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self {
            model: model.clone(),
            caches: session.caches.into_iter().map(LayerCache::share).collect(),
            rows: Arc::new(rows),
        })
    }

    /// Whether the prompt begins with these rows, and goes on.
    pub fn begins(&self, prompt: &Prompt) -> bool {
        prompt.extends(&self.rows)
    }

    /// A session that goes on from here.
    pub fn session(&self) -> Session {
        Session {
            model: self.model.clone(),
            caches: self.caches.iter().map(LayerCache::behind).collect(),
            hook: None,
            cancel: None,
            next: 0.0,
            prefilled: false,
            prefix: Some(Arc::clone(&self.rows)),
            passes: 0,
            pass: None,
        }
    }
}

/// A session on its way through a step, and its place among those that were given.
struct Fed<'s> {
    place: usize,
    session: &'s mut Session,
    row: Prompt,
}

/// Feeds each session a token, all in one pass over the weights of a model, the output head's included, and returns the
/// logits `[vocab]` for the next of each, or why it failed. A session's numbers are what they are alone, bit for bit.
pub(crate) fn decode(fed: Vec<(&mut Session, u32)>) -> Vec<Result<Vec<f32>>> {
    let mut out: Vec<Result<Vec<f32>>> = Vec::with_capacity(fed.len());
    let mut groups: Vec<(Model, Vec<Fed>)> = Vec::new();
    for (place, (session, token)) in fed.into_iter().enumerate() {
        out.push(Ok(Vec::new()));
        match session.token(token) {
            Err(e) => out[place] = Err(e),
            Ok(row) => match groups.iter_mut().find(|g| g.0.is(&session.model)) {
                Some(group) => group.1.push(Fed { place, session, row }),
                None => groups.push((session.model.clone(), vec![Fed { place, session, row }])),
            },
        }
    }
    for (model, group) in groups {
        let decoder = model.decoder();
        let (mut places, mut fed, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for Fed { place, session, row } in group {
            places.push(place);
            fed.push(row.new_rows(false));
            steps.push(session.step());
        }
        // On a thread of the pool: from outside, every product of the step would wake a thread and wait to be woken.
        let done = rayon::scope(|_| {
            let (mut rows, mut live) = (Vec::new(), Vec::new());
            for (place, made) in places.iter().zip(decoder.forward(fed, &mut steps)) {
                match made {
                    Ok(row) => {
                        rows.extend_from_slice(row.data());
                        live.push(*place);
                    }
                    Err(e) => out[*place] = Err(e),
                }
            }
            (decoder.logits(&rows, Phase::Decode), live)
        });
        let (logits, live) = done;
        for (row, place) in live.into_iter().enumerate() {
            let row = logits.row(row);
            out[place] = decoder.finite(row).map(|()| row.to_vec());
        }
    }
    out
}
