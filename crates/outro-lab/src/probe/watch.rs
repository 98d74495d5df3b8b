//! The two hooks: one finds what to follow, the other follows it.

use std::collections::BTreeSet;

use outro::Result;
use outro::hook::{At, Attention, Flow, HeadOutputs, Hidden, Hook, Needs, NewQkv};
use outro::method::{OutRo, OutRoConfig, root_mean_square};

use super::geometry::{Outputs, measure};
use super::{Balance, Kind, Layer, Options, WatchedToken, detect};

/// Sinks, and the dimensions in which they stand out.
pub(super) struct Survey {
    detector: OutRo,
    /// By dimension, the largest |x| / RMS(x) at a sink in the middle half of the layers.
    standing: Vec<f32>,
}

impl Survey {
    pub(super) fn new(method: &OutRoConfig) -> Self {
        Self {
            detector: OutRo::detector(method),
            standing: Vec::new(),
        }
    }

    /// Every sink of every layer, ascending.
    pub(super) fn sinks(&self) -> Vec<usize> {
        let all: BTreeSet<usize> = self.detector.sinks().values().flatten().copied().collect();
        all.into_iter().collect()
    }

    /// The two dimensions that stand out most.
    pub(super) fn stands_out(&self) -> Vec<usize> {
        let mut dims: Vec<usize> = (0..self.standing.len()).collect();
        dims.sort_by(|a, b| self.standing[*b].total_cmp(&self.standing[*a]));
        dims.truncate(2);
        dims.sort_unstable();
        dims
    }
}

impl Hook for Survey {
    fn needs(&self, at: At) -> Needs {
        Needs {
            input: at.prefill,
            qkv: at.prefill,
            ..Needs::default()
        }
    }

    fn layer_input(&mut self, at: At, x: Hidden) -> Result<Flow> {
        self.standing.resize(x.hidden(), 0.0);
        let flow = self.detector.layer_input(at, x)?;
        if at.layer >= at.layers / 4 && at.layer < (3 * at.layers).div_ceil(4) {
            let found = self.detector.sinks().get(&at.layer).filter(|s| !s.is_empty());
            let sinks = found.cloned().unwrap_or_else(|| vec![0]);
            for x in sinks.iter().filter_map(|p| at.row(*p)).map(|row| x.row(row)) {
                let rms = root_mean_square(x);
                for (s, v) in self.standing.iter_mut().zip(x) {
                    *s = s.max(v.abs() / rms);
                }
            }
        }
        Ok(flow)
    }

    fn qkv(&mut self, at: At, new: &mut NewQkv) -> Result<()> {
        self.detector.qkv(at, new)
    }
}

/// Follows the watched tokens through a prefill.
pub(super) struct Watch {
    options: Options,
    kinds: Vec<Kind>,
    watched: Vec<usize>,
    dims: Vec<usize>,
    outro: OutRo,
    pub(super) layers: Vec<Layer>,
}

/// Groups of query rows: the kinds, and the watched tokens themselves.
const GROUPS: usize = Kind::ALL.len() + 1;

impl Watch {
    pub(super) fn new(options: Options, kinds: Vec<Kind>, watched: Vec<usize>, dims: Vec<usize>) -> Self {
        Self {
            outro: OutRo::new(options.method.clone()),
            options,
            kinds,
            watched,
            dims,
            layers: Vec::new(),
        }
    }

    pub(super) fn outro(&self) -> &OutRo {
        &self.outro
    }

    /// The attention's part of a layer, from column sums alone.
    fn attention(&self, layer: &mut Layer, at: At, attention: Attention, lse: &[f32], watched: &[usize]) {
        let (heads, n) = (at.shape.heads, attention.rows());
        let group: Vec<usize> = (0..n)
            .map(|row| match watched.binary_search(&row) {
                Ok(_) => GROUPS - 1,
                Err(_) => self.kinds[at.position(row)] as usize,
            })
            .collect();
        let sums = attention.column_sums(lse, &group, GROUPS);
        let sum = |g: usize, h: usize, key: usize| sums[(g * heads + h) * n + key];
        let mut counts = [0usize; GROUPS];
        for g in &group {
            counts[*g] += 1;
        }
        let queries: usize = counts[..GROUPS - 1].iter().sum();
        for h in 0..heads {
            let on_sinks: [f32; 4] =
                std::array::from_fn(|g| watched.iter().map(|key| sum(g, h, *key)).sum::<f32>());
            layer
                .mass
                .push(std::array::from_fn(|g| on_sinks[g] / counts[g].max(1) as f32));
            layer
                .gate
                .push(1.0 - on_sinks.iter().sum::<f32>() / queries.max(1) as f32);
        }
        layer.balance = Balance::of(&layer.gate);
        // Mean attention that a key gets from the queries that can see it, averaged over heads.
        let mass = |key: usize| {
            let all: f32 = (0..GROUPS)
                .flat_map(|g| (0..heads).map(move |h| (g, h)))
                .map(|(g, h)| sum(g, h, key))
                .sum();
            all / ((n - key) * heads) as f32
        };
        layer.attended = (0..n)
            .filter(|key| mass(*key) > self.options.epsilon)
            .map(|key| at.position(key))
            .collect();
        layer.seen = watched
            .iter()
            .map(|key| {
                let by = |kind: Kind| {
                    let g = kind as usize;
                    let later = group[*key..].iter().filter(|x| **x == g).count();
                    let all: f32 = (0..heads).map(|h| sum(g, h, *key)).sum();
                    all / (later * heads).max(1) as f32
                };
                let (video, audio) = (by(Kind::Video), by(Kind::Audio));
                let both = video + audio;
                WatchedToken {
                    position: at.position(*key),
                    mass: mass(*key),
                    video,
                    audio,
                    modality: if both > 0.0 { (video - audio) / both } else { 0.0 },
                }
            })
            .collect();
    }
}

impl Hook for Watch {
    fn needs(&self, at: At) -> Needs {
        match (at.prefill, self.options.act) {
            (true, _) => Needs {
                // What OutRo does is done here, between two looks at the outputs.
                rotation: false,
                ..Needs::ALL
            },
            (false, true) => Needs {
                rotation: false,
                ..self.outro.needs(at)
            },
            (false, false) => Needs::default(),
        }
    }

    fn layer_input(&mut self, at: At, x: Hidden) -> Result<Flow> {
        if at.prefill {
            let found = detect(x, &self.options.method, self.options.tau, &self.dims);
            let place = |rows: Vec<usize>| rows.into_iter().map(|row| at.position(row)).collect();
            self.layers.push(Layer {
                layer: at.layer,
                top: found.top,
                median: found.median,
                massive: place(found.massive),
                visual: place(found.visual),
                ..Layer::default()
            });
        }
        self.outro.layer_input(at, x)
    }

    fn qkv(&mut self, at: At, new: &mut NewQkv) -> Result<()> {
        self.outro.qkv(at, new)
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        o: &mut HeadOutputs,
        applied: bool,
    ) -> Result<()> {
        if !at.prefill {
            return self.outro.head_outputs(at, attention, o, applied);
        }
        let before = o.host().to_vec();
        let mut copy = before.clone();
        let after: &[f32] = if self.options.act {
            self.outro.head_outputs(at, attention, o, applied)?;
            o.host()
        } else {
            let mut aside = HeadOutputs::new(at.shape, &mut copy);
            self.outro.head_outputs(at, attention, &mut aside, false)?;
            &copy
        };
        let watched: Vec<usize> = self.watched.iter().filter_map(|p| at.row(*p)).collect();
        let lse = attention.row_lse();
        let mut layer = self.layers.pop().unwrap_or_default();
        layer.tokens = attention.rows();
        layer.sinks = self.outro.sinks().get(&at.layer).cloned().unwrap_or_default();
        self.attention(&mut layer, at, attention, &lse, &watched);
        let g = measure(&Outputs {
            attention,
            shape: at.shape,
            watched: &watched,
            lse: &lse,
            before: &before,
            after,
            vbar: self
                .outro
                .vbar()
                .get(&at.layer)
                .filter(|_| !layer.sinks.is_empty())
                .map(Vec::as_slice),
        });
        layer.norms = g.norms;
        layer.key_dims = g.key_dims;
        (layer.q_sink_key, layer.o_before, layer.o_after) = (g.q_sink_key, g.o_before, g.o_after);
        layer.share = g.share;
        self.layers.push(layer);
        Ok(())
    }
}
