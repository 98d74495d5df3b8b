//! Visual attention redistribution, VAR (Kang et al., ICLR 2025): heads that look at the picture give a part of what their
//! sinks get to the rest of the picture.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::modality::Modality;
use super::settings::{Settings, Value};
use crate::error::Result;
use crate::hook::method::{OutRoConfig, massive_tokens, visual_sinks};
use crate::hook::seam::{At, Flow, Hook, Needs};
use crate::hook::views::{Attention, HeadOutputs, Hidden};
use crate::prompt::positions::Span;

/// Settings, with the published defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VarConfig {
    /// What sinks keep of the attention that they get.
    pub p: f32,
    /// A head acts where sinks get at most this share of its attention to the picture,
    pub rho: f32,
    /// ... and the picture at least this share of its attention.
    pub sum: f32,
    /// First layer; the last layer never acts.
    pub start: usize,
    /// Sink dimensions of `Phi_VLM`, published for LLaMA-2-7B (1415, 2533) and Qwen2-7B (458, 2570). Without, sinks are those
    /// of the massive-activation criterion.
    pub dims: Vec<usize>,
    /// With `dims`: a sink's largest `|x_d| / RMS(x)` over them is at least this.
    pub tau: f32,
}

impl Default for VarConfig {
    fn default() -> Self {
        Self {
            p: 0.6,
            rho: 0.5,
            sum: 0.2,
            start: 2,
            dims: Vec::new(),
            tau: 20.0,
        }
    }
}

impl Settings for VarConfig {
    const NAME: &'static str = "var";

    fn set(&mut self, key: &str, value: Value) -> bool {
        match (key, value) {
            ("p", Value::Number { single, .. }) => self.p = single,
            ("rho", Value::Number { single, .. }) => self.rho = single,
            ("sum", Value::Number { single, .. }) => self.sum = single,
            ("start", Value::Whole(n)) => self.start = n as usize,
            ("dims", Value::List(dims)) => self.dims = dims,
            ("dims", Value::Default) => self.dims = Vec::new(),
            ("tau", Value::Number { single, .. }) => self.tau = single,
            _ => return false,
        }
        true
    }
}

/// The redistribution on ONE request. Queries are the prompt's rows after the last visual one, and decoded tokens.
pub struct Var {
    config: VarConfig,
    sinks: OutRoConfig,
    kinds: Vec<Modality>,
    /// Prompt positions of the sinks of the layer at hand.
    found: Vec<usize>,
    /// Keys of each layer that gain or lose: `(key, whether it is a sink, whether it is visual)`.
    keys: BTreeMap<usize, Vec<(usize, bool, bool)>>,
    moved: usize,
}

impl Var {
    /// Before a prefill whose rows are `spans`; `sinks` has the thresholds of massive activations, or names the sinks.
    pub fn new(config: VarConfig, sinks: &OutRoConfig, spans: &[Span]) -> Self {
        Self {
            config,
            sinks: sinks.clone(),
            kinds: spans.iter().map(Modality::of).collect(),
            found: Vec::new(),
            keys: BTreeMap::new(),
            moved: 0,
        }
    }

    /// How many rows of heads have been changed.
    pub fn moved(&self) -> usize {
        self.moved
    }

    fn acts(&self, at: At) -> bool {
        (self.config.start..at.layers.saturating_sub(1)).contains(&at.layer)
            && (at.prefill || self.keys.contains_key(&at.layer))
    }

    fn find(&self, at: At, x: Hidden) -> Result<Vec<usize>> {
        let dims = &self.config.dims;
        if let Some(given) = &self.sinks.sinks {
            return Ok(given.iter().filter_map(|t| at.row(*t)).collect());
        }
        if dims.is_empty() {
            let s = &self.sinks;
            return Ok(massive_tokens(x, s.abs_threshold, s.median_multiple));
        }
        if let Some(d) = dims.iter().find(|d| **d >= x.hidden()) {
            return Err(crate::error::Error::Setting {
                key: "var:dims".into(),
                problem: format!(
                    "has {d}, the model's hidden dimensions are 0 to {}",
                    x.hidden() - 1
                ),
            });
        }
        Ok(visual_sinks(x, dims, self.config.tau))
    }
}

impl Hook for Var {
    fn needs(&self, at: At) -> Needs {
        let acts = self.acts(at);
        Needs {
            input: at.prefill && acts,
            ..Needs::attention(acts)
        }
    }

    fn layer_input(&mut self, at: At, x: Hidden) -> Result<Flow> {
        let found = self.find(at, x)?;
        self.found = found.into_iter().map(|row| at.position(row)).collect();
        Ok(Flow::Continue)
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        o: &mut HeadOutputs,
        _applied: bool,
    ) -> Result<()> {
        let (rows, all) = (attention.rows(), attention.keys());
        let visual = |key: usize| self.kinds[at.rows.position(key)] == Modality::Visual;
        let first = if at.prefill {
            let Some(last) = (0..rows).rfind(|row| visual(*row)) else {
                return Ok(());
            };
            let sink = |key: usize| self.found.contains(&at.rows.position(key));
            let of = |key| (key, sink(key), visual(key));
            let keys = (0..rows).map(of).filter(|(_, sink, visual)| *sink || *visual);
            self.keys.insert(at.layer, keys.collect());
            last + 1
        } else {
            0
        };
        let (c, keys) = (&self.config, &self.keys[&at.layer]);
        let (width, dim) = (at.shape.heads * at.shape.dim, at.shape.dim);
        let group = at.shape.heads / at.shape.kv_heads;
        let heads = o.host_mut()[first * width..].par_chunks_mut(dim).enumerate();
        let moved = heads.map(|(i, o)| {
            let (row, head) = (first + i / at.shape.heads, i % at.shape.heads);
            let weights = attention.weights(head, row, all - rows + row + 1);
            // A sink after the row is not seen.
            let seen = || keys.iter().filter(|k| k.0 < weights.len());
            let sum = |of: &dyn Fn(bool, bool) -> bool| -> f32 {
                seen().filter(|k| of(k.1, k.2)).map(|k| weights[k.0]).sum()
            };
            let (image, image_sinks) = (sum(&|_, visual| visual), sum(&|sink, visual| sink && visual));
            let freed = (1.0 - c.p) * sum(&|sink, _| sink);
            let rest = image - image_sinks;
            if image < c.sum || image_sinks > c.rho * image || rest <= 0.0 || freed == 0.0 {
                return 0;
            }
            for (key, sink, _) in seen() {
                let change = if *sink { c.p - 1.0 } else { freed / rest } * weights[*key];
                let v = &attention.v()[(key * at.shape.kv_heads + head / group) * dim..][..dim];
                o.iter_mut().zip(v).for_each(|(o, v)| *o += change * v);
            }
            1
        });
        let moved: usize = moved.sum();
        self.moved += moved;
        Ok(())
    }
}
