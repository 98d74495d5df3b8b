//! The method as a hook: detection, relaxation and rotation on one request.

use std::collections::{BTreeMap, BTreeSet};

use outro_kernels::Rotation;

use super::config::{DecodeRule, OutRoConfig};
use super::rotate;
use super::sinks::massive_tokens;
use crate::error::Result;
use crate::hook::seam::{At, Flow, Hook, Needs};
use crate::hook::views::{Attention, HeadOutputs, Hidden, NewQkv};

/// The method on ONE request: it is made for a prefill and dropped with its session.
pub struct OutRo {
    config: OutRoConfig,
    /// Sinks of each layer in start..end, ascending, in prompt positions as everything here (method.md section 1).
    sinks: BTreeMap<usize, Vec<usize>>,
    /// Mean value of the sinks, `[G * D]`, of each layer that has some (section 2).
    vbar: BTreeMap<usize, Vec<f32>>,
    enhanced: BTreeSet<usize>,
    so_far: BTreeSet<usize>,
    relaxed_at: BTreeMap<usize, Vec<usize>>,
}

impl OutRo {
    /// The method with these settings, before a prefill.
    pub fn new(config: OutRoConfig) -> Self {
        Self {
            config,
            sinks: BTreeMap::new(),
            vbar: BTreeMap::new(),
            enhanced: BTreeSet::new(),
            so_far: BTreeSet::new(),
            relaxed_at: BTreeMap::new(),
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

    /// Whether this layer has sinks.
    fn has_sinks(&self, at: At) -> bool {
        self.sinks.get(&at.layer).is_some_and(|s| !s.is_empty())
    }

    /// What is to be done to this layer's head outputs; a prefill's values give the direction.
    fn rotation(&mut self, at: At, attention: Attention) -> Option<Rotation> {
        let sinks = self.sinks.get(&at.layer).filter(|s| !s.is_empty())?;
        if at.prefill {
            self.so_far.extend(sinks);
            let keys: Vec<usize> = sinks.iter().filter_map(|t| at.key(*t)).collect();
            self.vbar.insert(at.layer, attention.mean_value(&keys));
        }
        let skip = match (at.prefill, self.config.decode) {
            (true, _) => self.so_far.iter().filter_map(|t| at.row(*t)).collect(),
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

    /// One-time relaxation: rows of sinks that have not had it see the whole prompt.
    fn relax(&mut self, at: At, attention: Attention, o: &mut HeadOutputs) {
        let c = &self.config;
        let sinks = self.sinks[&at.layer].iter().copied();
        let new: Vec<usize> = sinks.filter(|t| !(c.once && self.enhanced.contains(t))).collect();
        if !c.relax || new.is_empty() || !c.enhances(at.layer, at.layers) {
            return;
        }
        let rows: Vec<usize> = new.iter().filter_map(|t| at.row(*t)).collect();
        o.put(&rows, &attention.unmasked(&rows));
        self.enhanced.extend(&new);
        self.relaxed_at.insert(at.layer, new);
    }
}

impl Hook for OutRo {
    fn needs(&self, at: At) -> Needs {
        let here = self.has_sinks(at);
        Needs {
            input: at.prefill,
            qkv: at.prefill && here,
            rotation: here,
            outputs: here,
            cache: at.prefill && here,
        }
    }

    fn layer_input(&mut self, at: At, x: Hidden) -> Result<Flow> {
        let rows = x.rows();
        if at.prefill && at.layer == 0 {
            self.config.check_prompt(rows)?;
        }
        if at.prefill && rows > 1 && self.config.detects(at.layer, at.layers) {
            let c = &self.config;
            let found = if let Some(given) = &c.sinks {
                let there = |t: &usize| at.row(*t).is_some_and(|row| row < rows);
                given.iter().copied().filter(there).collect()
            } else {
                let found = massive_tokens(x, c.abs_threshold, c.median_multiple);
                found.into_iter().map(|row| at.position(row)).collect()
            };
            self.sinks.insert(at.layer, found);
        }
        Ok(Flow::Continue)
    }

    fn qkv(&mut self, at: At, _new: &mut NewQkv) -> Result<()> {
        // What was found at this layer's input and was dropped there gives no value direction.
        if let Some(here) = self.sinks.get_mut(&at.layer) {
            here.retain(|t| at.key(*t).is_some());
        }
        Ok(())
    }

    fn epilogue(&mut self, at: At, attention: Attention) -> Option<Rotation> {
        self.rotation(at, attention)
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        o: &mut HeadOutputs,
        applied: bool,
    ) -> Result<()> {
        let rotation = if applied {
            None
        } else {
            self.rotation(at, attention)
        };
        // Rows that are recomputed are sinks', which are never rotated: the order of the two does not matter.
        if at.prefill && self.has_sinks(at) {
            self.relax(at, attention, o);
        }
        if let Some(rotation) = rotation {
            rotate::rotate(o.host_mut(), &rotation, at.shape);
        }
        Ok(())
    }
}
