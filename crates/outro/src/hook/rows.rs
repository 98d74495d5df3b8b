//! What the last row of a prompt looks at, and heads silenced by it.

use rayon::prelude::*;

use super::modality::Modality;
use crate::error::Result;
use crate::hook::seam::{At, Hook, Needs};
use crate::hook::views::{Attention, HeadOutputs};

/// Attention of the prompt's last row, summed over layers: observes ONE prefill and changes nothing.
pub(crate) struct LastRow {
    /// Layers at the end that do not count.
    without: usize,
    prompt: usize,
    /// `[H, S]`.
    sums: Vec<f32>,
    layers: usize,
}

impl LastRow {
    /// For a prompt of `prompt` rows, over all layers but the last `without`.
    pub(crate) fn new(prompt: usize, without: usize) -> Self {
        Self {
            without,
            prompt,
            sums: Vec::new(),
            layers: 0,
        }
    }

    /// Sum over layers of each head's attention, `[S]` a head.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &[f32]> {
        self.sums.chunks_exact(self.prompt.max(1))
    }

    /// Layers that were summed.
    pub(crate) fn layers(&self) -> usize {
        self.layers
    }

    /// Sum over layers of the heads' mean attention, `[S]`.
    pub(crate) fn mean(&self) -> Vec<f32> {
        let mut mean = vec![0.0; self.prompt];
        let heads = self.heads().count().max(1) as f32;
        for head in self.heads() {
            mean.iter_mut().zip(head).for_each(|(m, a)| *m += a / heads);
        }
        mean
    }
}

impl Hook for LastRow {
    fn needs(&self, at: At) -> Needs {
        Needs::attention(at.prefill && at.layer + self.without < at.layers)
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        _o: &mut HeadOutputs,
        _applied: bool,
    ) -> Result<()> {
        let (heads, prompt) = (at.shape.heads, self.prompt);
        self.sums.resize(heads * prompt, 0.0);
        let (last, keys) = (attention.rows().saturating_sub(1), attention.keys());
        let sums = self.sums.par_chunks_exact_mut(prompt).enumerate();
        sums.for_each(|(head, sums)| {
            for (key, weight) in attention.weights(head, last, keys).into_iter().enumerate() {
                sums[at.rows.position(key)] += weight;
            }
        });
        self.layers += 1;
        Ok(())
    }
}

/// Silences heads at the rows of some kinds to which the last row pays more attention than a threshold: their head outputs
/// are zero, which is what zeroing their rows of the attention map is. The last layer stays.
pub(crate) struct Silence {
    kinds: Vec<Modality>,
    silenced: Vec<Modality>,
    threshold: f32,
}

impl Silence {
    /// `kinds` of the prompt's rows; those in `silenced` are. Decoded tokens are language.
    pub(crate) fn new(kinds: Vec<Modality>, silenced: Vec<Modality>, threshold: f32) -> Self {
        Self {
            kinds,
            silenced,
            threshold,
        }
    }
}

impl Hook for Silence {
    fn needs(&self, at: At) -> Needs {
        let decodes = self.silenced.contains(&Modality::Language);
        Needs::attention(at.layer + 1 < at.layers && (at.prefill || decodes))
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        o: &mut HeadOutputs,
        _applied: bool,
    ) -> Result<()> {
        let (rows, keys) = (attention.rows(), attention.keys());
        let heads = (0..at.shape.heads).into_par_iter();
        let weights: Vec<Vec<f32>> = heads
            .map(|head| attention.weights(head, rows.saturating_sub(1), keys))
            .collect();
        let (kinds, silenced, threshold) = (&self.kinds, &self.silenced, self.threshold);
        let kind = |row| {
            if at.prefill {
                kinds[at.position(row)]
            } else {
                Modality::Language
            }
        };
        o.scale(|row, head| {
            let acts = silenced.contains(&kind(row)) && weights[head][keys - rows + row] > threshold;
            if acts { 0.0 } else { 1.0 }
        });
        Ok(())
    }
}
