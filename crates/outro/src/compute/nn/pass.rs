//! A forward pass: rows of one or several requests on their way through the layers, in units that can be run apart.
//!
//! A unit is a stage of a layer for a range of rows: first queries, keys and values, then attention, then what follows it. A
//! hook sees a layer when all its rows are there. Cutting a pass into units changes no bit, so other requests can be run
//! between two units of a long prefill.

use std::ops::Range;

use outro_kernels::{Mask, Phase, Rotation, attend_rotated, rms_norm, rotate_half};
use outro_media::Cancel;

use super::decoder::{Decoder, Layer};
use super::rotary::length;
use super::{Deepstack, LayerCache, Mat, Scratch, ops};
use crate::error::{Error, Result};
use crate::hook::{At, Attention, Flow, HeadOutputs, Hidden, Hook, NewQkv, RowMap, Wide};

/// What belongs to one request of a pass.
pub(crate) struct Step<'a> {
    pub(crate) caches: &'a mut [LayerCache],
    pub(crate) hook: Option<&'a mut (dyn Hook + 'static)>,
    /// Asked before each layer.
    pub(crate) cancel: Option<&'a Cancel>,
}

/// Rows with which a request joins a pass.
#[derive(Debug, Default)]
pub(crate) struct NewRows {
    /// `[new, hidden]`.
    pub(crate) x: Mat,
    /// Rotary position of each on three axes.
    pub(crate) positions: Vec<[f32; 3]>,
    /// What visual rows get after the first layers.
    pub(crate) deepstack: Deepstack,
    pub(crate) prefill: bool,
}

/// A request's rows among those of a pass.
struct Share {
    rows: Range<usize>,
    positions: Vec<[f32; 3]>,
    /// Of the rows that came in, whichever a hook removes.
    length: f32,
    deepstack: Deepstack,
    prefill: bool,
    /// In a prefill, where the rows that are left came from.
    map: RowMap,
    /// What this layer's attention does to head outputs.
    rotation: Option<Rotation>,
    /// Why it stopped, if it did.
    failed: Option<Error>,
}

impl Share {
    /// Keeps the first error.
    fn note(&mut self, result: Result<()>) {
        if let Err(e) = result {
            self.failed.get_or_insert(e);
        }
    }
}

/// Which unit comes next in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A layer begins with it.
    Project,
    Attend,
    Output,
}

/// Rows on their way. Those of requests that decode come first: they go through the arithmetic of decoding, so that no request's
/// numbers depend on what shares its pass.
pub(crate) struct Pass {
    x: Mat,
    shares: Vec<Share>,
    layer: usize,
    stage: Stage,
    /// Rows that the stage has done.
    done: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    scratch: Scratch,
}

impl Pass {
    /// Layers that all rows have left.
    pub(crate) fn layers(&self) -> usize {
        self.layer
    }

    /// Rows that decode.
    fn decoding(&self) -> usize {
        let shares = self.shares.iter().take_while(|s| !s.prefill);
        shares.map(|s| s.rows.len()).sum()
    }

    /// Each request's rows after the last layer, before the final norm, or why it failed: alone.
    pub(crate) fn finish(mut self) -> Vec<Result<Mat>> {
        let alone = self.shares.len() == 1;
        let shares = std::mem::take(&mut self.shares).into_iter();
        shares
            .map(|share| match share.failed {
                Some(e) => Err(e),
                None if alone => Ok(std::mem::take(&mut self.x)),
                None => Ok(self.x.copy_of(share.rows)),
            })
            .collect()
    }
}

impl Decoder {
    /// Begins a pass; `steps` are those of the rows, in their order.
    pub(crate) fn begin(&self, rows: Vec<NewRows>, steps: &[Step]) -> Pass {
        let mut x = Mat::empty(self.config.hidden);
        let mut shares = Vec::with_capacity(rows.len());
        for (new, step) in rows.into_iter().zip(steps) {
            let start = x.rows();
            x.append(new.x);
            let past = step.caches.first().map_or(0, |c| self.keys(c));
            shares.push(Share {
                rows: start..x.rows(),
                length: length(&new.positions),
                map: RowMap::whole(past + x.rows() - start),
                positions: new.positions,
                deepstack: new.deepstack,
                prefill: new.prefill,
                rotation: None,
                failed: None,
            });
        }
        let mut pass = Pass {
            x,
            shares,
            layer: 0,
            stage: Stage::Project,
            done: 0,
            cos: Vec::new(),
            sin: Vec::new(),
            scratch: Scratch::default(),
        };
        self.angles(&mut pass);
        pass
    }

    /// Runs one unit of at most `most` rows. Whether more are left.
    pub(crate) fn advance(&self, pass: &mut Pass, steps: &mut [Step], most: usize) -> bool {
        let Some(layer) = self.layers.get(pass.layer) else {
            return false;
        };
        if pass.stage == Stage::Project && pass.done == 0 {
            self.enter(pass, steps);
            if pass.x.is_empty() {
                return false;
            }
        }
        let rows = pass.x.rows();
        let end = pass.done.saturating_add(most.max(1)).min(rows);
        let unit = pass.done..end;
        let last = end == rows;
        match pass.stage {
            Stage::Project => self.project(layer, pass, unit),
            Stage::Attend => self.attend(pass, steps, unit),
            Stage::Output => self.output(layer, pass, unit),
        }
        pass.done = if last { 0 } else { end };
        if last {
            pass.stage = match pass.stage {
                Stage::Project => {
                    self.store(pass, steps);
                    Stage::Attend
                }
                Stage::Attend => {
                    self.show_outputs(pass, steps);
                    Stage::Output
                }
                Stage::Output => {
                    self.leave(pass);
                    pass.layer += 1;
                    Stage::Project
                }
            };
        }
        pass.layer < self.layers.len()
    }

    /// A whole pass.
    pub(crate) fn forward(&self, rows: Vec<NewRows>, steps: &mut [Step]) -> Vec<Result<Mat>> {
        let mut pass = self.begin(rows, steps);
        while self.advance(&mut pass, steps, usize::MAX) {}
        pass.finish()
    }

    /// Whether all units were run.
    pub(crate) fn is_done(&self, pass: &Pass) -> bool {
        pass.layer == self.layers.len() || pass.x.is_empty()
    }

    /// Keys in a cache.
    fn keys(&self, cache: &LayerCache) -> usize {
        cache.k.len() / (self.config.kv_heads * self.config.head_dim)
    }

    fn at<'a>(&self, layer: usize, prefill: bool, rows: &'a RowMap, past: usize) -> At<'a> {
        At {
            layer,
            layers: self.layers.len(),
            prefill,
            shape: self.shape(),
            rows,
            past,
        }
    }

    /// Cosines and sines `[rows, D / 2]` of all positions, each in a pass of its length.
    fn angles(&self, pass: &mut Pass) {
        pass.cos.clear();
        pass.sin.clear();
        for share in &pass.shares {
            self.rotary
                .append(&share.positions, share.length, &mut pass.cos, &mut pass.sin);
        }
    }

    /// Shows each request's rows to its hook, and removes those that the hook drops or whose request failed.
    fn enter(&self, pass: &mut Pass, steps: &mut [Step]) {
        let (x, layer, hidden) = (&mut pass.x, pass.layer, self.config.hidden);
        let (mut dropped, mut start) = (false, 0);
        for (step, share) in steps.iter_mut().zip(&mut pass.shares) {
            let rows = start..start + share.rows.len();
            if step.cancel.is_some_and(Cancel::is_set) {
                share.note(Err(Error::Cancelled));
            }
            let past = self.keys(&step.caches[layer]);
            let map = if share.prefill {
                share.map.clone()
            } else {
                step.caches[layer].rows.clone()
            };
            let at = self.at(layer, share.prefill, &map, past);
            let mut flow = Flow::Continue;
            if let (Some(hook), None) = (step.hook.as_deref_mut(), &share.failed)
                && hook.needs(at).input
            {
                let seen = Hidden::new(x.part(rows.clone()), hidden);
                match hook.layer_input(at, seen) {
                    Ok(wanted) => flow = wanted,
                    Err(e) => share.note(Err(e)),
                }
            }
            if let Flow::Keep(kept) = &flow {
                share.note(may_keep(kept, rows.len()));
            }
            share.rows = match flow {
                _ if share.failed.is_some() => {
                    dropped |= !rows.is_empty();
                    x.remove(rows);
                    share.positions.clear();
                    start..start
                }
                Flow::Keep(kept) => {
                    x.keep(rows, &kept);
                    share.positions = kept.iter().map(|r| share.positions[*r]).collect();
                    share.deepstack = share.deepstack.kept(&kept);
                    share.map = map.keep((0..past).chain(kept.iter().map(|r| past + r)));
                    dropped = true;
                    start..start + kept.len()
                }
                Flow::Continue => rows,
            };
            start = share.rows.end;
        }
        if dropped {
            self.angles(pass);
        }
        let (rows, c) = (pass.x.rows(), &self.config);
        let Scratch { q, k, v, o, .. } = &mut pass.scratch;
        q.reshape(rows, c.heads * c.head_dim);
        k.reshape(rows, c.kv_heads * c.head_dim);
        v.reshape(rows, c.kv_heads * c.head_dim);
        o.reshape(rows, c.heads * c.head_dim);
    }

    /// Queries, keys and values of some rows, after rotary embedding.
    fn project(&self, layer: &Layer, pass: &mut Pass, unit: Range<usize>) {
        let (c, shape) = (&self.config, self.shape());
        let decode = pass.decoding().saturating_sub(unit.start).min(unit.len());
        let Scratch { h, q, k, v, .. } = &mut pass.scratch;
        let x = &pass.x.data()[unit.start * c.hidden..unit.end * c.hidden];
        h.reshape(unit.len(), c.hidden);
        rms_norm(x, &layer.input_norm, c.norm_eps, h.data_mut());
        let q = &mut q.data_mut()[unit.start * shape.heads * shape.dim..unit.end * shape.heads * shape.dim];
        let narrow = unit.start * shape.kv_heads * shape.dim..unit.end * shape.kv_heads * shape.dim;
        let k = &mut k.data_mut()[narrow.clone()];
        layer.q.step(h.data(), decode, q);
        layer.k.step(h.data(), decode, k);
        layer.v.step(h.data(), decode, &mut v.data_mut()[narrow]);
        if let Some(norms) = &layer.qk_norm {
            for (x, norm) in [&mut *q, &mut *k].into_iter().zip(norms) {
                h.reshape(1, x.len());
                rms_norm(x, norm, c.norm_eps, h.data_mut());
                x.copy_from_slice(h.data());
            }
        }
        let half = shape.dim / 2;
        let angles = unit.start * half..unit.end * half;
        let (cos, sin) = (&pass.cos[angles.clone()], &pass.sin[angles]);
        rotate_half(q, shape.heads, shape.dim, cos, sin);
        rotate_half(k, shape.kv_heads, shape.dim, cos, sin);
    }

    /// Shows new keys and values to the hooks, stores them, and asks what is to be done to head outputs.
    fn store(&self, pass: &mut Pass, steps: &mut [Step]) {
        let layer = pass.layer;
        let Scratch { q, k, v, .. } = &mut pass.scratch;
        for (step, share) in steps.iter_mut().zip(&mut pass.shares) {
            if share.failed.is_some() {
                continue;
            }
            let q_rows = share.rows.start * q.cols()..share.rows.end * q.cols();
            let kv_rows = share.rows.start * k.cols()..share.rows.end * k.cols();
            let cache = &mut step.caches[layer];
            let past = self.keys(cache);
            if share.prefill {
                cache.rows = share.map.clone();
            }
            let map = cache.rows.clone();
            let at = self.at(layer, share.prefill, &map, past);
            if let Some(hook) = step.hook.as_deref_mut()
                && hook.needs(at).qkv
            {
                let mut new = NewQkv {
                    q: &mut q.data_mut()[q_rows.clone()],
                    k: &mut k.data_mut()[kv_rows.clone()],
                    v: &mut v.data_mut()[kv_rows.clone()],
                };
                share.note(hook.qkv(at, &mut new));
            }
            cache.k.push(&k.data()[kv_rows.clone()]);
            cache.v.push(&v.data()[kv_rows]);
            share.rotation = None;
            if let Some(hook) = step.hook.as_deref_mut() {
                let needs = hook.needs(at);
                if needs.rotation {
                    let wide = Wide::default();
                    let attention = self.attention(&q.data()[q_rows], cache, needs.cache, &wide);
                    share.rotation = hook.epilogue(at, attention);
                }
            }
        }
    }

    /// A layer's attention as hooks see it.
    fn attention<'a>(
        &self,
        q: &'a [f32],
        cache: &'a LayerCache,
        reads: bool,
        wide: &'a Wide,
    ) -> Attention<'a> {
        if reads {
            Attention::over(self.shape(), q, cache.k.view(), cache.v.view(), wide)
        } else {
            Attention::new(self.shape(), q, &[], &[])
        }
    }

    /// Head outputs of some rows.
    fn attend(&self, pass: &mut Pass, steps: &[Step], unit: Range<usize>) {
        let Scratch { q, o, .. } = &mut pass.scratch;
        for (step, share) in steps.iter().zip(&pass.shares) {
            let rows = unit.start.max(share.rows.start)..unit.end.min(share.rows.end);
            if share.failed.is_some() || rows.is_empty() {
                continue;
            }
            let cache = &step.caches[pass.layer];
            let before = rows.start - share.rows.start;
            let offset = self.keys(cache) - share.rows.len() + before;
            let rotation = share.rotation.as_ref().map(|r| Rotation {
                skip: r.skip.iter().filter_map(|row| row.checked_sub(before)).collect(),
                ..r.clone()
            });
            let elements = rows.start * q.cols()..rows.end * q.cols();
            attend_rotated(
                &q.data()[elements.clone()],
                cache.k.view(),
                cache.v.view(),
                self.shape(),
                Mask::Causal { offset },
                if share.prefill {
                    Phase::Prefill
                } else {
                    Phase::Decode
                },
                rotation.as_ref(),
                &mut o.data_mut()[elements],
            );
        }
    }

    /// Shows head outputs to the hooks.
    fn show_outputs(&self, pass: &mut Pass, steps: &mut [Step]) {
        let layer = pass.layer;
        let Scratch { q, o, .. } = &mut pass.scratch;
        for (step, share) in steps.iter_mut().zip(&mut pass.shares) {
            let cache = &step.caches[layer];
            let past = self.keys(cache).saturating_sub(share.rows.len());
            let at = self.at(layer, share.prefill, &cache.rows, past);
            let (Some(hook), None) = (step.hook.as_deref_mut(), &share.failed) else {
                continue;
            };
            let needs = hook.needs(at);
            if !needs.outputs {
                continue;
            }
            let elements = share.rows.start * q.cols()..share.rows.end * q.cols();
            let wide = Wide::default();
            let q = &q.data()[elements.clone()];
            let attention = self.attention(q, cache, needs.cache, &wide);
            let mut outputs = HeadOutputs::new(self.shape(), &mut o.data_mut()[elements]);
            let shown = hook.head_outputs(at, attention, &mut outputs, share.rotation.is_some());
            share.note(shown);
        }
    }

    /// Output projection and MLP of some rows.
    fn output(&self, layer: &Layer, pass: &mut Pass, unit: Range<usize>) {
        let c = &self.config;
        let decode = pass.decoding().saturating_sub(unit.start).min(unit.len());
        let x = &mut pass.x.data_mut()[unit.start * c.hidden..unit.end * c.hidden];
        let Scratch { h, o, .. } = &mut pass.scratch;
        layer
            .o
            .step_into(&o.data()[unit.start * o.cols()..unit.end * o.cols()], decode, h);
        outro_kernels::add(x, h.data());
        layer
            .mlp
            .add_to(x, decode, &layer.mlp_norm, c.norm_eps, &mut pass.scratch);
    }

    /// Adds what visual rows get after this layer, and looks whether all numbers are finite.
    fn leave(&self, pass: &mut Pass) {
        let hidden = self.config.hidden;
        for share in &mut pass.shares {
            let rows = &mut pass.x.data_mut()[share.rows.start * hidden..share.rows.end * hidden];
            share.deepstack.add_to(pass.layer, rows);
            if !ops::is_finite(rows) {
                share.note(Err(self.not_finite(pass.layer)));
            }
        }
    }
}

/// Whether rows that a hook wants to keep are rows.
fn may_keep(kept: &[usize], rows: usize) -> Result<()> {
    let ascending = kept.array_windows().all(|[a, b]| a < b);
    if ascending && kept.last().is_some_and(|r| *r < rows) {
        return Ok(());
    }
    Err(Error::input(
        "hook",
        "rows to keep must be ascending, inside the prompt, and not none",
    ))
}
