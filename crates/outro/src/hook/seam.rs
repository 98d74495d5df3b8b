//! The seam: what an intervention or an observer sees of ONE request, and may change.

use std::any::Any;

pub use outro_kernels::{AttentionShape, Mask, Rotation, attend, column_sums, row_lse};

use crate::error::Result;

/// Where in a forward pass a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Decoder layer, 0-based.
    pub layer: usize,
    /// Number of decoder layers L.
    pub layers: usize,
    /// True while the prompt is processed.
    pub prefill: bool,
    /// H, G and D of this layer.
    pub shape: AttentionShape,
}

/// What the decoder does after a hook saw a layer's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with every row.
    Continue,
    /// Keep only these rows (indices into the rows just seen, ascending) from this layer on.
    Keep(Vec<usize>),
}

/// One layer's attention of one request, after rotary embedding.
#[derive(Clone, Copy, Debug)]
pub struct Qkv<'a> {
    /// Queries of the new tokens, `[new, H * D]`.
    pub q: &'a [f32],
    /// All keys so far, `[all, G * D]`.
    pub k: &'a [f32],
    /// All values so far, `[all, G * D]`.
    pub v: &'a [f32],
}

impl Qkv<'_> {
    /// How many query rows there are.
    pub fn rows(&self, at: At) -> usize {
        self.q.len() / (at.shape.heads * at.shape.dim)
    }

    /// How many keys there are.
    pub fn keys(&self, at: At) -> usize {
        self.k.len() / (at.shape.kv_heads * at.shape.dim)
    }

    /// Attention `[keys]` of one head's query row to the first `keys` keys, whatever the mask says of them.
    pub fn weights(&self, at: At, head: usize, row: usize, keys: usize) -> Vec<f32> {
        let AttentionShape { heads, kv_heads, dim } = at.shape;
        let (start, scale) = (head / (heads / kv_heads) * dim, 1.0 / (dim as f32).sqrt());
        let q = &self.q[(row * heads + head) * dim..][..dim];
        let k = self.k.chunks_exact(kv_heads * dim).take(keys);
        let mut weights: Vec<f32> = k.map(|k| dot(q, &k[start..start + dim]) * scale).collect();
        let max = weights.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        for x in &mut weights {
            *x = (*x - max).exp();
        }
        let sum: f32 = weights.iter().sum();
        for x in &mut weights {
            *x /= sum;
        }
        weights
    }
}

/// A sum in eight lanes, which the compiler turns into vectors.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, a1) = a.as_chunks::<8>();
    let (b8, b1) = b.as_chunks::<8>();
    let mut lanes = [0f32; 8];
    for (a, b) in a8.iter().zip(b8) {
        for l in 0..8 {
            lanes[l] += a[l] * b[l];
        }
    }
    lanes.iter().sum::<f32>() + a1.iter().zip(b1).map(|(a, b)| a * b).sum::<f32>()
}

/// Sees and changes one request's activations. Every method does nothing unless overridden.
///
/// All matrices are row-major, one row a token; head h occupies columns `h * D .. (h + 1) * D`.
pub trait Hook: Any + Send {
    /// Hidden states `[new, hidden]` that enter the layer, before its norm.
    ///
    /// # Errors
    /// Whatever the hook wants to stop the request with.
    fn layer_input(&mut self, _at: At, _x: &[f32], _hidden: usize) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Queries `[new, H * D]`, keys and values `[new, G * D]` of the new tokens, after rotary embedding and
    /// before they join the cache.
    ///
    /// # Errors
    /// As [`Hook::layer_input`].
    fn qkv(&mut self, _at: At, _q: &mut [f32], _k: &mut [f32], _v: &mut [f32]) -> Result<()> {
        Ok(())
    }

    /// Optional fast path: a rotation fused into attention. If the decoder applies it, [`Hook::head_outputs`] gets rotated rows
    /// and must not rotate again; where this is not called, `head_outputs` does the rotation. Keys and values are those of
    /// `head_outputs`.
    fn epilogue(&mut self, _at: At, _qkv: Qkv) -> Option<Rotation> {
        None
    }

    /// Whether [`Hook::epilogue`] or [`Hook::head_outputs`] reads keys and values here. Where no hook does, a cache of half precision need not
    /// be widened, and both may be empty.
    fn reads_cache(&self, _at: At) -> bool {
        true
    }

    /// Head outputs `[new, H * D]`, before the output projection.
    ///
    /// # Errors
    /// As [`Hook::layer_input`].
    fn head_outputs(&mut self, _at: At, _qkv: Qkv, _o: &mut [f32]) -> Result<()> {
        Ok(())
    }

    /// Rows were dropped at this layer (by this or another hook): row `i` from here on is what row `rows[i]` was.
    fn rows_kept(&mut self, _at: At, _rows: &[usize]) {}
}

/// Several hooks on one request, called in order.
#[derive(Default)]
pub struct Chain(pub Vec<Box<dyn Hook>>);

impl Hook for Chain {
    fn layer_input(&mut self, at: At, x: &[f32], hidden: usize) -> Result<Flow> {
        let mut kept: Option<Vec<usize>> = None;
        for hook in &mut self.0 {
            // Every hook sees all rows that entered; a later Keep narrows an earlier one.
            if let Flow::Keep(rows) = hook.layer_input(at, x, hidden)? {
                kept = Some(match kept {
                    None => rows,
                    Some(k) => k.into_iter().filter(|r| rows.contains(r)).collect(),
                });
            }
        }
        Ok(kept.map_or(Flow::Continue, Flow::Keep))
    }

    fn qkv(&mut self, at: At, q: &mut [f32], k: &mut [f32], v: &mut [f32]) -> Result<()> {
        self.0.iter_mut().try_for_each(|hook| hook.qkv(at, q, k, v))
    }

    fn epilogue(&mut self, at: At, qkv: Qkv) -> Option<Rotation> {
        // A hook further back would change outputs that those before it are to see first.
        self.0.first_mut()?.epilogue(at, qkv)
    }

    fn reads_cache(&self, at: At) -> bool {
        self.0.iter().any(|hook| hook.reads_cache(at))
    }

    fn head_outputs(&mut self, at: At, qkv: Qkv, o: &mut [f32]) -> Result<()> {
        self.0
            .iter_mut()
            .try_for_each(|hook| hook.head_outputs(at, qkv, o))
    }

    fn rows_kept(&mut self, at: At, rows: &[usize]) {
        for hook in &mut self.0 {
            hook.rows_kept(at, rows);
        }
    }
}

/// Finds the first hook of type `T`, inside chains too.
pub fn find<T: Hook>(hook: &dyn Hook) -> Option<&T> {
    let any: &dyn Any = hook;
    if let Some(found) = any.downcast_ref() {
        return Some(found);
    }
    any.downcast_ref::<Chain>()?
        .0
        .iter()
        .find_map(|h| find(h.as_ref()))
}

/// Keeps what passes by during the prefill, for comparison with other implementations. Put it last in a [`Chain`]
/// to see head outputs as the output projection does.
#[derive(Default)]
pub struct Recorder {
    /// Keep the hidden states that enter each layer.
    pub wants_hidden: bool,
    /// Keep the head outputs of each layer.
    pub wants_head_outputs: bool,
    /// `[S, hidden]` by layer.
    pub hidden: Vec<(usize, Vec<f32>)>,
    /// `[S, H * D]` by layer.
    pub head_outputs: Vec<(usize, Vec<f32>)>,
}

impl Hook for Recorder {
    fn layer_input(&mut self, at: At, x: &[f32], _hidden: usize) -> Result<Flow> {
        if at.prefill && self.wants_hidden {
            self.hidden.push((at.layer, x.to_vec()));
        }
        Ok(Flow::Continue)
    }

    fn reads_cache(&self, _at: At) -> bool {
        false
    }

    fn head_outputs(&mut self, at: At, _qkv: Qkv, o: &mut [f32]) -> Result<()> {
        if at.prefill && self.wants_head_outputs {
            self.head_outputs.push((at.layer, o.to_vec()));
        }
        Ok(())
    }
}
