//! What a hook is shown: activations of one request in one layer, with the reductions that hooks ask for. On the processor
//! `host` is the memory itself; a hook that asks for reductions alone needs no matrix moved where activations lie elsewhere.

use std::sync::OnceLock;

use outro_kernels::{AttentionShape, Cached, Mask, attend, column_sums, row_lse};
use rayon::prelude::*;

use super::reduce::{dot, median_abs};

/// Hidden states `[new, hidden]` that enter a layer, before its norm.
#[derive(Clone, Copy, Debug)]
pub struct Hidden<'a> {
    x: &'a [f32],
    hidden: usize,
}

impl<'a> Hidden<'a> {
    /// `x` is `[new, hidden]`.
    pub fn new(x: &'a [f32], hidden: usize) -> Self {
        Self { x, hidden }
    }

    /// New rows.
    pub fn rows(self) -> usize {
        self.x.len().checked_div(self.hidden).unwrap_or(0)
    }

    /// Length of a row.
    pub fn hidden(self) -> usize {
        self.hidden
    }

    /// One row.
    pub fn row(self, row: usize) -> &'a [f32] {
        &self.x[row * self.hidden..(row + 1) * self.hidden]
    }

    /// The largest `|x|` of each row, `[new]`.
    pub fn row_abs_max(self) -> Vec<f32> {
        let rows = self.x.par_chunks(self.hidden.max(1));
        rows.map(|row| row.iter().fold(0.0, |m: f32, v| m.max(v.abs())))
            .collect()
    }

    /// The median of `|x|` over all elements (the lower middle one of an even count); exact.
    pub fn abs_median(self) -> f32 {
        median_abs(self.x)
    }

    /// All of them.
    pub fn host(self) -> &'a [f32] {
        self.x
    }
}

/// Queries `[new, H * D]`, keys and values `[new, G * D]` of the new tokens, after rotary embedding and before they join the
/// cache.
#[derive(Debug)]
pub struct NewQkv<'a> {
    /// Queries `[new, H * D]`.
    pub q: &'a mut [f32],
    /// Keys `[new, G * D]`.
    pub k: &'a mut [f32],
    /// Values `[new, G * D]`.
    pub v: &'a mut [f32],
}

/// One layer's attention of one request, after rotary embedding. Keys and values are empty where the hook does not need them
/// ([`super::Needs::cache`]).
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    shape: AttentionShape,
    q: &'a [f32],
    k: Cached<'a>,
    v: Cached<'a>,
    wide: Option<&'a Wide>,
}

/// A layer's keys and values in f32, where a hook asked for matrices that do not lie so.
#[derive(Debug, Default)]
pub(crate) struct Wide {
    k: OnceLock<Vec<f32>>,
    v: OnceLock<Vec<f32>>,
}

impl<'a> Attention<'a> {
    /// `q` are queries of the new tokens `[new, H * D]`, `k` and `v` all keys and values so far `[all, G * D]`.
    pub fn new(shape: AttentionShape, q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Self {
        Self {
            shape,
            q,
            k: k.into(),
            v: v.into(),
            wide: None,
        }
    }

    /// The same over a cache of any type; `wide` is for who asks for matrices.
    pub(crate) fn over(
        shape: AttentionShape,
        q: &'a [f32],
        k: Cached<'a>,
        v: Cached<'a>,
        wide: &'a Wide,
    ) -> Self {
        Self {
            shape,
            q,
            k,
            v,
            wide: Some(wide),
        }
    }

    /// How many query rows there are.
    pub fn rows(self) -> usize {
        self.q.len() / (self.shape.heads * self.shape.dim)
    }

    /// How many keys there are.
    pub fn keys(self) -> usize {
        self.k.len() / (self.shape.kv_heads * self.shape.dim)
    }

    /// Attention `[keys]` of one head's query row to the first `keys` keys, whatever the mask says of them.
    pub fn weights(self, head: usize, row: usize, keys: usize) -> Vec<f32> {
        let AttentionShape { heads, kv_heads, dim } = self.shape;
        let (start, scale) = (head / (heads / kv_heads) * dim, 1.0 / (dim as f32).sqrt());
        let q = &self.q[(row * heads + head) * dim..][..dim];
        let mut key = vec![0.0; dim];
        let score = |t: usize| {
            self.k.widen(t * kv_heads * dim + start, &mut key);
            dot(q, &key) * scale
        };
        let mut weights: Vec<f32> = (0..keys.min(self.keys())).map(score).collect();
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

    /// Mean value `[G * D]` of some keys.
    pub fn mean_value(self, keys: &[usize]) -> Vec<f32> {
        let width = self.shape.kv_heads * self.shape.dim;
        let (mut mean, mut value) = (vec![0.0; width], vec![0.0; width]);
        for t in keys {
            self.v.widen(t * width, &mut value);
            for (m, x) in mean.iter_mut().zip(&value) {
                *m += x;
            }
        }
        for m in &mut mean {
            *m /= keys.len() as f32;
        }
        mean
    }

    /// Head outputs `[rows, H * D]` of some query rows when they see every key: attention without the causal mask.
    pub fn unmasked(self, rows: &[usize]) -> Vec<f32> {
        let width = self.shape.heads * self.shape.dim;
        let q: Vec<f32> = rows
            .iter()
            .flat_map(|t| &self.q[t * width..(t + 1) * width])
            .copied()
            .collect();
        let mut out = vec![0.0; q.len()];
        attend(&q, self.k, self.v, self.shape, Mask::Full, &mut out);
        out
    }

    /// Logarithm of each query row's softmax sum under the causal mask, `[new, H]` ([`outro_kernels::row_lse`]).
    pub fn row_lse(self) -> Vec<f32> {
        row_lse(self.q, self.k, self.shape, self.keys() - self.rows())
    }

    /// What the query rows of each group give to each key under the causal mask, `[groups, H, keys]`; `lse` is
    /// [`Attention::row_lse`]'s, `group[i]` the group of row i ([`outro_kernels::column_sums`]).
    pub fn column_sums(self, lse: &[f32], group: &[usize], groups: usize) -> Vec<f32> {
        let past = self.keys() - self.rows();
        column_sums(self.q, self.k, self.shape, past, lse, group, groups)
    }

    /// Queries of the new tokens, `[new, H * D]`.
    pub fn q(self) -> &'a [f32] {
        self.q
    }

    /// All keys so far, `[all, G * D]`. A cache that is not in f32 is widened for it, once a call of the hook; the reductions above
    /// do without.
    pub fn k(self) -> &'a [f32] {
        matrix(self.k, self.wide.map(|w| &w.k))
    }

    /// All values so far, `[all, G * D]`; as [`Attention::k`].
    pub fn v(self) -> &'a [f32] {
        matrix(self.v, self.wide.map(|w| &w.v))
    }
}

/// Rows in f32, in `wide` where they do not lie so. Rows of [`Attention::new`], which come without `wide`, do.
fn matrix<'a>(rows: Cached<'a>, wide: Option<&'a OnceLock<Vec<f32>>>) -> &'a [f32] {
    let open = || {
        let mut out = vec![0.0; rows.len()];
        rows.widen(0, &mut out);
        out
    };
    match (rows.as_f32(), wide) {
        (Some(x), _) => x,
        (None, Some(wide)) => wide.get_or_init(open),
        (None, None) => &[],
    }
}

/// Head outputs `[new, H * D]`, before the output projection. Head h occupies columns `h * D .. (h + 1) * D`.
#[derive(Debug)]
pub struct HeadOutputs<'a> {
    shape: AttentionShape,
    o: &'a mut [f32],
}

impl<'a> HeadOutputs<'a> {
    /// `o` is `[new, H * D]`.
    pub fn new(shape: AttentionShape, o: &'a mut [f32]) -> Self {
        Self { shape, o }
    }

    /// New rows.
    pub fn rows(&self) -> usize {
        self.o.len() / (self.shape.heads * self.shape.dim)
    }

    /// Puts `values [rows, H * D]` in the place of some rows.
    pub fn put(&mut self, rows: &[usize], values: &[f32]) {
        let width = self.shape.heads * self.shape.dim;
        for (t, row) in rows.iter().zip(values.chunks_exact(width)) {
            self.o[t * width..(t + 1) * width].copy_from_slice(row);
        }
    }

    /// Multiplies each head output by what `factor` says of its row and head.
    pub fn scale(&mut self, factor: impl Fn(usize, usize) -> f32 + Sync) {
        let AttentionShape { heads, dim, .. } = self.shape;
        let rows = self.o.par_chunks_mut(heads * dim).enumerate();
        rows.for_each(|(row, o)| {
            for (head, o) in o.chunks_exact_mut(dim).enumerate() {
                match factor(row, head) {
                    1.0 => {}
                    0.0 => o.fill(0.0),
                    by => o.iter_mut().for_each(|o| *o *= by),
                }
            }
        });
    }

    /// All of them.
    pub fn host(&self) -> &[f32] {
        self.o
    }

    /// All of them, to change.
    pub fn host_mut(&mut self) -> &mut [f32] {
        self.o
    }
}
