//! The gated rotation of head outputs towards a direction: attention's epilogue, applied while a row is in cache.

use crate::shape::AttentionShape;
use crate::simd::{Level, dot, multiversion};

/// What is done to every head output `o [D]` of key/value head g, with `v = vbar[g]`:
/// `o + tanh(max(cos(o, v), 0) / temperature) * gamma * |o . v| / (|v|^2 + 1e-8) * v`, brought back to `|o|` by `rescale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Directions `[G * D]`.
    pub vbar: Vec<f32>,
    /// Strength.
    pub gamma: f32,
    /// Steepness of the gate.
    pub temperature: f32,
    /// Whether lengths are kept.
    pub rescale: bool,
    /// Query rows that stay as they are, ascending.
    pub skip: Vec<usize>,
}

/// A rotation with its directions' squared lengths.
pub(crate) struct Directions<'a> {
    rotation: &'a Rotation,
    dim: usize,
    squares: Vec<f32>,
}

impl<'a> Directions<'a> {
    pub(crate) fn new(rotation: &'a Rotation, shape: AttentionShape) -> Self {
        let AttentionShape { kv_heads, dim, .. } = shape;
        assert_eq!(rotation.vbar.len(), kv_heads * dim, "directions of a rotation");
        let squares = rotation.vbar.chunks_exact(dim);
        Self {
            rotation,
            dim,
            squares: squares.map(|v| v.iter().map(|x| x * x).sum()).collect(),
        }
    }

    /// One head output of query row `row`.
    pub(crate) fn rotate(&self, level: Level, row: usize, kv_head: usize, o: &mut [f32]) {
        if self.rotation.skip.binary_search(&row).is_err() {
            let v = &self.rotation.vbar[kv_head * self.dim..][..self.dim];
            rotate_head(level, o, v, self.squares[kv_head], self.rotation);
        }
    }
}

multiversion! { fn rotate_head(o: &mut [f32], v: &[f32], square: f32, r: &Rotation) = rotate_head_body }

#[inline(always)]
fn rotate_head_body<const FMA: bool>(o: &mut [f32], v: &[f32], square: f32, r: &Rotation) {
    let length = dot::<FMA, _>(o, o, |x| x).sqrt();
    let along = dot::<FMA, _>(o, v, |x| x);
    let cos = along / (length.max(1e-12) * square.sqrt().max(1e-12));
    let gate = (cos.max(0.0) / r.temperature).tanh();
    let step = gate * r.gamma * along.abs() / (square + 1e-8);
    for (o, v) in o.iter_mut().zip(v) {
        *o += step * v;
    }
    if r.rescale {
        let scale = length / (dot::<FMA, _>(o, o, |x| x).sqrt() + 1e-8);
        for o in o {
            *o *= scale;
        }
    }
}
