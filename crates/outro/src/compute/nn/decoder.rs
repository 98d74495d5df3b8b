//! The decoder: packed rows of one or several requests, each with its own caches and hook.

use std::ops::Range;

use outro_kernels::{
    Activations, AttentionShape, Mask, Phase, attend_rotated, linear_with, rms_norm, rotate_half,
};

use outro_media::Cancel;

use super::rotary::{Rotary, length};
use super::{Deepstack, LayerCache, Linear, Mat, Mlp, Scratch, Weights};
use crate::error::{Error, Result};
use crate::hook::{At, Flow, Hook, Qkv};
use crate::spec::config::TextConfig;
use crate::weights::checkpoint::Matrix;

/// Immutable weights of a text decoder.
pub(crate) struct Decoder {
    config: TextConfig,
    pub(crate) embed: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Option<Linear>,
    activations: Activations,
    rotary: Rotary,
}

struct Layer {
    input_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// Norms of each head's query and key, `[D]`.
    qk_norm: Option<[Vec<f32>; 2]>,
    mlp_norm: Vec<f32>,
    mlp: Mlp,
}

impl Layer {
    /// All matrices, or those that one row is multiplied with.
    fn matrices(&self, all: bool) -> impl Iterator<Item = &Matrix> {
        let attention = [&self.q, &self.k, &self.v, &self.o];
        let mlp = self.mlp.matrices(all);
        attention.into_iter().map(|lin| &lin.weight).chain(mlp)
    }
}

/// One request's share of a forward pass.
pub(crate) struct Step<'a> {
    pub(crate) caches: &'a mut [LayerCache],
    pub(crate) hook: Option<&'a mut (dyn Hook + 'static)>,
    /// New rows `[new, hidden]`; consumed.
    pub(crate) x: Mat,
    /// Rotary position of each new row on three axes.
    pub(crate) positions: Vec<[f32; 3]>,
    /// What visual rows get after the first layers.
    pub(crate) deepstack: Deepstack,
    pub(crate) prefill: bool,
    /// Asked before each layer.
    pub(crate) cancel: Option<&'a Cancel>,
}

/// Where a request's rows are among all, and why it stopped, if it did.
struct Place {
    rows: Range<usize>,
    failed: Option<Error>,
}

impl Place {
    /// Keeps the first error.
    fn note(&mut self, result: Result<()>) {
        if let Err(e) = result {
            self.failed.get_or_insert(e);
        }
    }
}

impl Decoder {
    pub(crate) fn load(w: Weights, prefix: &str, lm_head: &str, config: &TextConfig) -> Result<Self> {
        let c = config;
        let (q_out, kv_out) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let layers = (0..c.layers)
            .map(|i| {
                let p = format!("{prefix}layers.{i}.");
                let a = format!("{p}self_attn.");
                let rotated = |name: &str, out| -> Result<Linear> {
                    let mut linear = w.linear(&format!("{a}{name}"), out, c.hidden, c.qkv_bias)?;
                    if c.rope_pairs_interleaved {
                        linear.weight = linear.weight.deinterleaved(c.head_dim);
                    }
                    Ok(linear)
                };
                let norms = || -> Result<_> {
                    let norm = |name: &str| w.vector(&format!("{a}{name}.weight"), c.head_dim);
                    Ok([norm("q_norm")?, norm("k_norm")?])
                };
                Ok(Layer {
                    input_norm: w.vector(&format!("{p}input_layernorm.weight"), c.hidden)?,
                    q: rotated("q_proj", q_out)?,
                    k: rotated("k_proj", kv_out)?,
                    v: w.linear(&format!("{a}v_proj"), kv_out, c.hidden, c.qkv_bias)?,
                    o: w.linear(&format!("{a}o_proj"), c.hidden, q_out, false)?,
                    qk_norm: c.qk_norm.then(norms).transpose()?,
                    mlp_norm: w.vector(&format!("{p}post_attention_layernorm.weight"), c.hidden)?,
                    mlp: Mlp::load(w, &format!("{p}mlp"), c, i)?,
                })
            })
            .collect::<Result<_>>()?;
        let embed = w.checkpoint.matrix(
            &format!("{prefix}embed_tokens.weight"),
            &[c.vocab, c.hidden],
            w.dtype,
        )?;
        let head = |name: &str| -> Result<Linear> {
            Ok(Linear {
                weight: w.matrix(name, &[c.vocab, c.hidden])?,
                bias: None,
                activations: w.activations,
            })
        };
        let head = if c.tied {
            // The rows that are looked up stay as they are; the head's products may be with a smaller copy.
            let head = head(&format!("{prefix}embed_tokens.weight"))?;
            (w.quantised.is_some() && head.weight.stored() != embed.stored()).then_some(head)
        } else {
            Some(head(lm_head)?)
        };
        let norm = w.vector(&format!("{prefix}norm.weight"), c.hidden)?;
        Ok(Self {
            config: c.clone(),
            embed,
            layers,
            norm,
            head,
            activations: w.activations,
            rotary: Rotary::new(c),
        })
    }

    pub(crate) fn shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            dim: self.config.head_dim,
        }
    }

    /// All matrices.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|l| l.matrices(true));
        std::iter::once(&self.embed)
            .chain(layers)
            .chain(self.head.as_ref().map(|h| &h.weight))
    }

    /// The matrices that a row is multiplied with: not an embedding that is only looked up, nor experts that are not
    /// chosen (which ones are does not matter here: all are of one size).
    pub(crate) fn product_matrices(&self) -> impl Iterator<Item = &Matrix> {
        let head = self.head.as_ref().map_or(&self.embed, |h| &h.weight);
        let layers = self.layers.iter().flat_map(|l| l.matrices(false));
        layers.chain([head])
    }

    /// Rows of several requests through every layer. Linear layers run once over all rows; attention and hooks
    /// run per request, so a hook can only ever see its own request's rows. Requests that decode come first: their rows
    /// go through the arithmetic of decoding, so that no request's numbers depend on what shares its step. Returns each
    /// request's rows after the last layer, before the final norm, or why it failed: alone. `progress` is called after each
    /// layer.
    pub(crate) fn forward(&self, steps: &mut [Step], progress: &mut dyn FnMut(usize)) -> Vec<Result<Mat>> {
        let c = &self.config;
        let mut x = Mat {
            cols: c.hidden,
            data: Vec::new(),
        };
        let mut places = Vec::with_capacity(steps.len());
        for s in steps.iter_mut() {
            let start = x.rows();
            if x.data.is_empty() {
                // Nothing is packed yet: take the first request's rows over without a copy.
                x = std::mem::take(&mut s.x);
            } else {
                x.data.append(&mut s.x.data);
            }
            places.push(Place {
                rows: start..x.rows(),
                failed: None,
            });
        }
        // Of the rows that came in, whichever a hook removes.
        let lengths: Vec<f32> = steps.iter().map(|s| length(&s.positions)).collect();
        let (mut cos, mut sin) = self.angles(steps, &lengths);
        let mut scratch = Scratch::default();
        for (index, layer) in self.layers.iter().enumerate() {
            let at = |prefill| At {
                layer: index,
                layers: self.layers.len(),
                prefill,
                shape: self.shape(),
            };
            if self.enter(&mut x, steps, &mut places, &at) {
                (cos, sin) = self.angles(steps, &lengths);
            }
            if x.data.is_empty() {
                break;
            }
            let decode = steps.iter().zip(&places).take_while(|(s, _)| !s.prefill);
            let decode = decode.map(|(_, place)| place.rows.len()).sum();
            self.attention(
                layer,
                &mut x,
                decode,
                steps,
                &mut places,
                &at,
                &cos,
                &sin,
                &mut scratch,
            );
            layer
                .mlp
                .add_to(&mut x, decode, &layer.mlp_norm, c.norm_eps, &mut scratch);
            for (step, place) in steps.iter().zip(&mut places) {
                let rows = &mut x.data[place.rows.start * c.hidden..place.rows.end * c.hidden];
                step.deepstack.add_to(index, rows);
                if !rows.iter().all(|x| x.is_finite()) {
                    place.note(Err(self.not_finite(index)));
                }
            }
            progress(index + 1);
        }
        let alone = places.len() == 1;
        let result = |place: Place| match place.failed {
            Some(e) => Err(e),
            None if alone => Ok(std::mem::take(&mut x)),
            None => Ok(Mat {
                cols: c.hidden,
                data: x.data[place.rows.start * c.hidden..place.rows.end * c.hidden].to_vec(),
            }),
        };
        places.into_iter().map(result).collect()
    }

    /// Shows each request's rows to its hook, and removes those that the hook drops or whose request failed; whether there
    /// were any.
    fn enter(&self, x: &mut Mat, steps: &mut [Step], places: &mut [Place], at: &dyn Fn(bool) -> At) -> bool {
        let hidden = self.config.hidden;
        let (mut dropped, mut start) = (false, 0);
        for (step, place) in steps.iter_mut().zip(places) {
            let rows = start..start + place.rows.len();
            if step.cancel.is_some_and(Cancel::is_set) {
                place.note(Err(Error::Cancelled));
            }
            let seen = &x.data[rows.start * hidden..rows.end * hidden];
            let mut flow = Flow::Continue;
            if let (Some(hook), None) = (step.hook.as_deref_mut(), &place.failed) {
                match hook.layer_input(at(step.prefill), seen, hidden) {
                    Ok(wanted) => flow = wanted,
                    Err(e) => place.note(Err(e)),
                }
            }
            if let Flow::Keep(kept) = &flow {
                place.note(may_keep(kept, rows.len()));
            }
            place.rows = match flow {
                _ if place.failed.is_some() => {
                    dropped |= !rows.is_empty();
                    x.data.drain(rows.start * hidden..rows.end * hidden);
                    step.positions.clear();
                    start..start
                }
                Flow::Keep(kept) => {
                    keep_rows(x, rows, &kept);
                    step.positions = kept.iter().map(|r| step.positions[*r]).collect();
                    step.deepstack = step.deepstack.kept(&kept);
                    if let Some(hook) = step.hook.as_deref_mut() {
                        hook.rows_kept(at(step.prefill), &kept);
                    }
                    dropped = true;
                    start..start + kept.len()
                }
                Flow::Continue => rows,
            };
            start = place.rows.end;
        }
        dropped
    }

    fn attention(
        &self,
        layer: &Layer,
        x: &mut Mat,
        decode: usize,
        steps: &mut [Step],
        places: &mut [Place],
        at: &dyn Fn(bool) -> At,
        cos: &[f32],
        sin: &[f32],
        scratch: &mut Scratch,
    ) {
        let shape = self.shape();
        let Scratch { h, q, k, v, o, .. } = scratch;
        h.reshape(x.rows(), x.cols);
        rms_norm(&x.data, &layer.input_norm, self.config.norm_eps, &mut h.data);
        layer.q.step_into(&h.data, decode, q);
        layer.k.step_into(&h.data, decode, k);
        layer.v.step_into(&h.data, decode, v);
        if let Some(norms) = &layer.qk_norm {
            for (x, norm) in [&mut *q, &mut *k].into_iter().zip(norms) {
                h.reshape(x.rows(), x.cols);
                rms_norm(&x.data, norm, self.config.norm_eps, &mut h.data);
                std::mem::swap(h, x);
            }
        }
        rotate_half(&mut q.data, shape.heads, shape.dim, cos, sin);
        rotate_half(&mut k.data, shape.kv_heads, shape.dim, cos, sin);
        o.reshape(q.rows(), q.cols);
        for (step, place) in steps.iter_mut().zip(places) {
            if place.failed.is_some() {
                continue;
            }
            let at = at(step.prefill);
            let q_rows = place.rows.start * q.cols..place.rows.end * q.cols;
            let kv_rows = place.rows.start * k.cols..place.rows.end * k.cols;
            if let Some(hook) = step.hook.as_deref_mut() {
                place.note(hook.qkv(
                    at,
                    &mut q.data[q_rows.clone()],
                    &mut k.data[kv_rows.clone()],
                    &mut v.data[kv_rows.clone()],
                ));
            }
            let cache = &mut step.caches[at.layer];
            let offset = cache.k.len() / k.cols;
            cache.k.push(&k.data[kv_rows.clone()]);
            cache.v.push(&v.data[kv_rows]);
            let o = &mut o.data[q_rows.clone()];
            let q = &q.data[q_rows];
            let (mut wide_k, mut wide_v) = (Vec::new(), Vec::new());
            let mut hooked = step.hook.as_deref_mut().map(|hook| {
                let reads = hook.reads_cache(at);
                let k = cache.k.wide(reads, &mut wide_k);
                let v = cache.v.wide(reads, &mut wide_v);
                (hook, Qkv { q, k, v })
            });
            let rotation = hooked.as_mut().and_then(|(hook, qkv)| hook.epilogue(at, *qkv));
            let (k, v, mask) = (cache.k.view(), cache.v.view(), Mask::Causal { offset });
            attend_rotated(q, k, v, shape, mask, rotation.as_ref(), o);
            if let Some((hook, qkv)) = hooked {
                place.note(hook.head_outputs(at, qkv, o));
            }
        }
        layer.o.step_into(&o.data, decode, h);
        outro_kernels::add(&mut x.data, &h.data);
    }

    /// Cosines and sines `[rows, D / 2]` of all steps' positions, each in a pass of its length.
    fn angles(&self, steps: &[Step], lengths: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for (step, length) in steps.iter().zip(lengths) {
            self.rotary.append(&step.positions, *length, &mut cos, &mut sin);
        }
        (cos, sin)
    }

    /// Logits `[rows, vocab]` of some rows of the last layer's output: of one row each of requests that go on to decode,
    /// or of many of one prompt. Whether they are finite is for [`Decoder::finite`] to say.
    pub(crate) fn logits(&self, x: &[f32], phase: Phase) -> Mat {
        let c = &self.config;
        let mut h = vec![0.0; x.len()];
        rms_norm(x, &self.norm, c.norm_eps, &mut h);
        let head = self.head.as_ref().map_or(&self.embed, |h| &h.weight);
        let mut out = Mat::zeros(x.len() / c.hidden, c.vocab);
        let rows = out.rows();
        let (activations, weight) = (self.activations, head.weight());
        linear_with(
            activations,
            phase,
            &h,
            rows,
            c.hidden,
            weight,
            c.vocab,
            None,
            &mut out.data,
        );
        out
    }

    /// Refuses logits that are no numbers.
    pub(crate) fn finite(&self, logits: &[f32]) -> Result<()> {
        if logits.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        let head = self.head.as_ref().map_or(&self.embed, |h| &h.weight);
        Err(Error::NotFinite {
            place: format!("logits (tensor `{}`)", head.name()),
        })
    }

    /// Names the damaged tensor if one is; otherwise the layer in which numbers overflowed.
    fn not_finite(&self, layer: usize) -> Error {
        let bad = self.layers[layer].matrices(true).find(|m| !m.is_finite());
        Error::NotFinite {
            place: bad.map_or_else(
                || format!("output of decoder layer {layer}"),
                |m| format!("tensor `{}`", m.name()),
            ),
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

/// Removes the rows of `span` that are not in `kept` (ascending, relative to the span).
fn keep_rows(x: &mut Mat, span: Range<usize>, kept: &[usize]) {
    let cols = x.cols;
    for (to, from) in kept.iter().enumerate() {
        let (to, from) = ((span.start + to) * cols, (span.start + from) * cols);
        x.data.copy_within(from..from + cols, to);
    }
    x.data.drain((span.start + kept.len()) * cols..span.end * cols);
}
