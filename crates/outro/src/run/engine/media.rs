//! Media that were decoded and encoded once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use outro_media::{Cancel, Note};

use super::Engine;
use super::streamed::{self, Source};
use crate::compute::nn::KvType;
use crate::error::Result;
use crate::prompt::chat::Part;
use crate::prompt::positions::Layout;
use crate::prompt::prepare::DecodedMedia;
use crate::run::model::{MediaEmbeds, Model, Prompt};
use crate::run::session::Prefix;
use crate::run::strategy::{Noise, NoisyMedia};

/// Media ready for any number of questions: tensors, and what the towers made of them. A clone shares them.
#[derive(Clone)]
pub struct MediaSet(Arc<Inner>);

struct Inner {
    media: DecodedMedia,
    embeds: MediaEmbeds,
    noisy: NoisyMedia,
    /// Seconds in which the towers ran.
    seconds: f64,
    /// Where videos come from whose patches are not kept.
    source: Option<Source>,
    shared: Mutex<Shared>,
}

/// Rows with which prompts about the media begin.
#[derive(Default)]
enum Shared {
    /// Nobody said how many there are.
    #[default]
    None,
    /// So many, not run yet.
    Rows(usize),
    /// Run by the plain model.
    Run(Arc<Prefix>),
}

impl MediaSet {
    pub(super) fn new(
        media: DecodedMedia,
        embeds: MediaEmbeds,
        seconds: f64,
        source: Option<Source>,
    ) -> Self {
        Self(Arc::new(Inner {
            media,
            embeds,
            noisy: NoisyMedia::default(),
            seconds,
            source,
            shared: Mutex::default(),
        }))
    }

    /// The files, in prompt order.
    pub fn parts(&self) -> &[Part] {
        &self.0.media.parts
    }

    /// The tensors, and what was taken of each file. Patches of videos, and what belongs to them in
    /// [`Inputs`](crate::inputs::Inputs), are there only where the media were decoded apart ([`super::Engine::encode`]).
    pub fn media(&self) -> &DecodedMedia {
        &self.0.media
    }

    /// What the towers made of them.
    pub fn embeds(&self) -> &MediaEmbeds {
        &self.0.embeds
    }

    /// Seconds in which the towers ran.
    pub fn encode_seconds(&self) -> f64 {
        self.0.seconds
    }

    /// What is to be known about the files.
    pub fn notes(&self) -> &[Note] {
        &self.0.media.notes
    }

    /// Says which prompts will be asked, by their ids: rows with which all of them begin are run once by the plain model, and
    /// shared by strategies without hooks. Their number depends on all the prompts, not on those that are still to be asked, so
    /// a run that was stopped goes on with the same arithmetic. One prompt shares nothing.
    pub fn share<'a>(&self, ids: impl Iterator<Item = &'a [u32]>) {
        let rows = common_start(ids);
        let mut shared = self.0.shared.lock().unwrap_or_else(PoisonError::into_inner);
        *shared = if rows == 0 {
            Shared::None
        } else {
            Shared::Rows(rows)
        };
    }

    /// The shared rows, and the seconds that it took to run them now; `None` where there are none for this prompt.
    pub(super) fn prefix(
        &self,
        model: &Model,
        kv: KvType,
        prompt: &Prompt,
        cancel: &Cancel,
    ) -> Result<Option<(Arc<Prefix>, f64)>> {
        let mut shared = self.0.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = match &*shared {
            Shared::Run(prefix) if prefix.begins(prompt) => return Ok(Some((Arc::clone(prefix), 0.0))),
            Shared::Rows(rows) if *rows < prompt.embeds.rows() && model.shares_rows() => *rows,
            _ => return Ok(None),
        };
        let since = Instant::now();
        let prefix = Arc::new(Prefix::run_until(model, kv, prompt, rows, cancel)?);
        *shared = Shared::Run(Arc::clone(&prefix));
        Ok(Some((prefix, since.elapsed().as_secs_f64())))
    }

    /// The prompt of a layout of these media with noise on them.
    pub(super) fn noisy(
        &self,
        engine: &Engine,
        layout: &Layout,
        noise: &Noise,
        cancel: &Cancel,
    ) -> Result<Prompt> {
        let (inputs, model) = (&self.0.media.inputs, engine.model());
        let embeds = match &self.0.source {
            Some(source) => self.0.noisy.made(noise, || {
                streamed::distorted(engine, source, inputs, noise, cancel)
            })?,
            None => self.0.noisy.encode(model, inputs, noise)?,
        };
        model.prompt_of(layout.clone(), &embeds)
    }
}

/// How many ids all begin with, at least one of each left over; 0 for a single one.
fn common_start<'a>(mut all: impl Iterator<Item = &'a [u32]>) -> usize {
    let Some(first) = all.next() else { return 0 };
    let alike = |other: &[u32]| {
        let same = first.iter().zip(other).take_while(|(a, b)| a == b).count();
        same.min(first.len().min(other.len()).saturating_sub(1))
    };
    all.map(alike).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prompts_share() {
        let of = |all: &[&[u32]]| common_start(all.iter().copied());
        assert_eq!((of(&[]), of(&[&[1, 2]])), (0, 0), "nothing to share with");
        assert_eq!(of(&[&[1, 2, 3, 4], &[1, 2, 5], &[1, 2, 3, 9]]), 2);
        assert_eq!(of(&[&[1, 2], &[1, 2]]), 1, "a row of each is left");
        assert_eq!(of(&[&[1, 2], &[2, 2]]), 0);
    }
}
