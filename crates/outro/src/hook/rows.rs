//! What the last row of a prompt looks at, and which rows are left when others were dropped.

use rayon::prelude::*;

use super::modality::Modality;
use crate::error::Result;
use crate::hook::seam::{At, Hook, Qkv};

/// Attention of the prompt's last row, summed over layers: observes ONE prefill and changes nothing.
pub(crate) struct LastRow {
    /// Layers at the end that do not count.
    without: usize,
    prompt: usize,
    /// Prompt position of each row, once rows were dropped.
    rows: Option<Vec<usize>>,
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
            rows: None,
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
    fn reads_cache(&self, at: At) -> bool {
        at.prefill && at.layer + self.without < at.layers
    }

    fn head_outputs(&mut self, at: At, qkv: Qkv, _o: &mut [f32]) -> Result<()> {
        if !self.reads_cache(at) {
            return Ok(());
        }
        let (heads, prompt) = (at.shape.heads, self.prompt);
        self.sums.resize(heads * prompt, 0.0);
        let (last, keys) = (qkv.rows(at).saturating_sub(1), qkv.keys(at));
        let rows = &self.rows;
        let place = |key: usize| rows.as_ref().map_or(key, |rows| rows[key]);
        self.sums
            .par_chunks_exact_mut(prompt)
            .enumerate()
            .for_each(|(head, sums)| {
                for (key, weight) in qkv.weights(at, head, last, keys).into_iter().enumerate() {
                    sums[place(key)] += weight;
                }
            });
        self.layers += 1;
        Ok(())
    }

    fn rows_kept(&mut self, _at: At, rows: &[usize]) {
        let place = |row: &usize| self.rows.as_ref().map_or(*row, |old| old[*row]);
        self.rows = Some(rows.iter().map(place).collect());
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
    fn reads_cache(&self, at: At) -> bool {
        at.layer + 1 < at.layers && (at.prefill || self.silenced.contains(&Modality::Language))
    }

    fn head_outputs(&mut self, at: At, qkv: Qkv, o: &mut [f32]) -> Result<()> {
        if !self.reads_cache(at) {
            return Ok(());
        }
        let (rows, keys) = (qkv.rows(at), qkv.keys(at));
        let (width, dim) = (at.shape.heads * at.shape.dim, at.shape.dim);
        let weights: Vec<Vec<f32>> = (0..at.shape.heads)
            .into_par_iter()
            .map(|head| qkv.weights(at, head, rows.saturating_sub(1), keys))
            .collect();
        for (row, o) in o.chunks_exact_mut(width).enumerate() {
            let kind = if at.prefill {
                self.kinds[row]
            } else {
                Modality::Language
            };
            if !self.silenced.contains(&kind) {
                continue;
            }
            for (o, weights) in o.chunks_exact_mut(dim).zip(&weights) {
                if weights[keys - rows + row] > self.threshold {
                    o.fill(0.0);
                }
            }
        }
        Ok(())
    }

    fn rows_kept(&mut self, _at: At, rows: &[usize]) {
        self.kinds = rows.iter().map(|row| self.kinds[*row]).collect();
    }
}
