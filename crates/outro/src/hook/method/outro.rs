//! The method as a hook: detection, relaxation and rotation on one request.

use std::collections::{BTreeMap, BTreeSet};

use outro_kernels::{Mask, Rotation, attend};

use super::config::{DecodeRule, OutRoConfig};
use super::rotate;
use super::sinks::massive_tokens;
use crate::error::Result;
use crate::hook::seam::{At, Flow, Hook, Qkv};

/// The method on ONE request: it is made for a prefill and dropped with its session.
pub struct OutRo {
    config: OutRoConfig,
    /// Prompt position of each row, once rows were dropped. Everything below is in prompt positions.
    rows: Option<Vec<usize>>,
    /// Sinks of each layer in start..end, ascending (method.md section 1).
    sinks: BTreeMap<usize, Vec<usize>>,
    /// Mean value of the sinks, `[G * D]`, of each layer that has some (section 2).
    vbar: BTreeMap<usize, Vec<f32>>,
    enhanced: BTreeSet<usize>,
    so_far: BTreeSet<usize>,
    relaxed_at: BTreeMap<usize, Vec<usize>>,
    /// Whether attention was given this layer's rotation, so that outputs come rotated.
    fused: bool,
}

impl OutRo {
    /// The method with these settings, before a prefill.
    pub fn new(config: OutRoConfig) -> Self {
        Self {
            config,
            rows: None,
            sinks: BTreeMap::new(),
            vbar: BTreeMap::new(),
            enhanced: BTreeSet::new(),
            so_far: BTreeSet::new(),
            relaxed_at: BTreeMap::new(),
            fused: false,
        }
    }

    /// Only the search for sinks, by these settings: head outputs stay as they are.
    pub fn detector(config: &OutRoConfig) -> Self {
        Self::new(OutRoConfig {
            rotate: false,
            relax: false,
            ..config.clone()
        })
    }

    /// Sinks by layer, also the empty ones of layers that were looked at. Positions are those of
    /// the prompt as it was given, also after pruning.
    pub fn sinks(&self) -> &BTreeMap<usize, Vec<usize>> {
        &self.sinks
    }

    /// Which sinks' rows were recomputed over the whole prompt, by layer.
    pub fn relaxed_at(&self) -> &BTreeMap<usize, Vec<usize>> {
        &self.relaxed_at
    }

    /// The sink value direction `[G * D]` of each layer that has sinks.
    pub fn vbar(&self) -> &BTreeMap<usize, Vec<f32>> {
        &self.vbar
    }

    /// Where a prompt position is now, if it was not dropped.
    pub(super) fn row_of(&self, position: usize) -> Option<usize> {
        match &self.rows {
            None => Some(position),
            Some(rows) => rows.binary_search(&position).ok(),
        }
    }

    /// The prompt position of a row.
    fn position(&self, row: usize) -> usize {
        self.rows.as_ref().map_or(row, |rows| rows[row])
    }

    /// What is to be done to this layer's head outputs; a prefill's values give the direction.
    fn rotation(&mut self, at: At, qkv: Qkv) -> Option<Rotation> {
        let sinks = self.sinks.get(&at.layer).filter(|s| !s.is_empty())?;
        if at.prefill {
            self.so_far.extend(sinks);
            let rows: Vec<usize> = sinks.iter().filter_map(|t| self.row_of(*t)).collect();
            let vbar = rotate::mean_value(qkv.v, &rows, at.shape);
            self.vbar.insert(at.layer, vbar);
        }
        let skip = match (at.prefill, self.config.decode) {
            (true, _) => self.so_far.iter().filter_map(|t| self.row_of(*t)).collect(),
            // The release takes the one new row, whose local index is 0, for prompt token 0.
            (false, DecodeRule::Release) if sinks[0] == 0 => vec![0],
            (false, _) => Vec::new(),
        };
        let c = &self.config;
        c.rotate.then(|| Rotation {
            vbar: self.vbar[&at.layer].clone(),
            gamma: c.gamma,
            temperature: c.temperature,
            rescale: c.rescale,
            skip,
        })
    }

    fn relax(&mut self, at: At, qkv: Qkv, o: &mut [f32]) {
        let c = &self.config;
        let sinks = &self.sinks[&at.layer];
        let new: Vec<usize> = sinks
            .iter()
            .copied()
            .filter(|t| !(c.once && self.enhanced.contains(t)))
            .collect();
        if !c.relax || new.is_empty() || !c.enhances(at.layer, at.layers) {
            return;
        }
        let width = at.shape.heads * at.shape.dim;
        let places: Vec<usize> = new.iter().filter_map(|t| self.row_of(*t)).collect();
        let q: Vec<f32> = places
            .iter()
            .flat_map(|t| &qkv.q[t * width..(t + 1) * width])
            .copied()
            .collect();
        let mut rows = vec![0.0; q.len()];
        attend(&q, qkv.k, qkv.v, at.shape, Mask::Full, &mut rows);
        for (t, row) in places.iter().zip(rows.chunks_exact(width)) {
            o[t * width..(t + 1) * width].copy_from_slice(row);
        }
        self.enhanced.extend(&new);
        self.relaxed_at.insert(at.layer, new);
    }
}

impl Hook for OutRo {
    fn layer_input(&mut self, at: At, x: &[f32], hidden: usize) -> Result<Flow> {
        let rows = x.len() / hidden;
        // Where another hook has dropped rows already, the prompt was longer.
        if at.prefill && at.layer == 0 && self.rows.is_none() {
            self.config.check_prompt(rows)?;
        }
        if at.prefill && rows > 1 && self.config.detects(at.layer, at.layers) {
            let c = &self.config;
            let found = if let Some(given) = &c.sinks {
                let there = |t: &usize| self.row_of(*t).is_some_and(|row| row < rows);
                given.iter().copied().filter(there).collect()
            } else {
                let found = massive_tokens(x, hidden, c.abs_threshold, c.median_multiple);
                found.into_iter().map(|row| self.position(row)).collect()
            };
            self.sinks.insert(at.layer, found);
        }
        Ok(Flow::Continue)
    }

    fn reads_cache(&self, at: At) -> bool {
        at.prefill && self.sinks.get(&at.layer).is_some_and(|s| !s.is_empty())
    }

    fn epilogue(&mut self, at: At, qkv: Qkv) -> Option<Rotation> {
        let rotation = self.rotation(at, qkv);
        self.fused = rotation.is_some();
        rotation
    }

    fn head_outputs(&mut self, at: At, qkv: Qkv, o: &mut [f32]) -> Result<()> {
        let fused = std::mem::take(&mut self.fused);
        let rotation = if fused { None } else { self.rotation(at, qkv) };
        // Rows that are recomputed are sinks', which are never rotated: the order of the two does not matter.
        if at.prefill && self.sinks.get(&at.layer).is_some_and(|s| !s.is_empty()) {
            self.relax(at, qkv, o);
        }
        if let Some(rotation) = rotation {
            rotate::rotate(o, &rotation, at.shape);
        }
        Ok(())
    }

    fn rows_kept(&mut self, at: At, rows: &[usize]) {
        self.rows = Some(rows.iter().map(|row| self.position(*row)).collect());
        // What was found at this layer's input and is gone gives no value direction.
        let mut here = self.sinks.remove(&at.layer);
        if let Some(here) = &mut here {
            here.retain(|t| self.row_of(*t).is_some());
        }
        self.sinks.extend(here.map(|here| (at.layer, here)));
    }
}
