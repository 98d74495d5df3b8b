//! Lengths and angles of keys, values, queries and head outputs.

use outro::hook::{Attention, AttentionShape};
use rayon::prelude::*;
use serde::Serialize;

/// Mean lengths over tokens and key/value heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Norms {
    /// Keys of watched tokens.
    pub k_sinks: f32,
    /// Keys of the others.
    pub k_others: f32,
    /// Values of watched tokens.
    pub v_sinks: f32,
    /// Values of the others.
    pub v_others: f32,
}

/// One dimension of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KeyDimension {
    /// Key/value head.
    pub head: usize,
    /// Dimension in the head.
    pub dim: usize,
    /// Mean over the watched tokens.
    pub sinks: f32,
    /// Mean over the other tokens.
    pub others: f32,
}

/// Cosines, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cosines {
    /// Mean by head, `[H]`; empty where there are none.
    pub mean: Vec<f32>,
    /// How many lie in each of [`Cosines::BINS`] equal parts of -1 to 1.
    pub histogram: Vec<u32>,
}

impl Cosines {
    /// Parts of a histogram.
    pub const BINS: usize = 40;

    /// Of `[n, H]` values.
    fn of(values: &[Vec<f32>], heads: usize) -> Self {
        let mut all = Self {
            mean: vec![0.0; heads],
            histogram: vec![0; Self::BINS],
        };
        for row in values {
            for (mean, c) in all.mean.iter_mut().zip(row) {
                *mean += c / values.len() as f32;
            }
            for c in row {
                let bin = ((c + 1.0) / 2.0 * Self::BINS as f32) as usize;
                all.histogram[bin.min(Self::BINS - 1)] += 1;
            }
        }
        all
    }
}

/// What [`measure`] finds in a layer.
#[derive(Default)]
pub(super) struct Geometry {
    pub(super) norms: Norms,
    pub(super) key_dims: Vec<KeyDimension>,
    pub(super) q_sink_key: Cosines,
    pub(super) o_before: Cosines,
    pub(super) o_after: Cosines,
    pub(super) share: Vec<f32>,
}

/// One layer's attention, as it is and as OutRo leaves it.
pub(super) struct Outputs<'a> {
    pub(super) attention: Attention<'a>,
    pub(super) shape: AttentionShape,
    /// Rows of watched tokens, ascending.
    pub(super) watched: &'a [usize],
    /// `[n, H]`.
    pub(super) lse: &'a [f32],
    /// `[n, H * D]`.
    pub(super) before: &'a [f32],
    /// `[n, H * D]`.
    pub(super) after: &'a [f32],
    /// `[G * D]`, where OutRo has sinks.
    pub(super) vbar: Option<&'a [f32]>,
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f32]) -> f32 {
    dot(a, a).sqrt()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b) / (norm(a).max(1e-12) * norm(b).max(1e-12))
}

/// Mean over `rows` of `x [s, width]`; zeros of none.
fn mean_row(x: &[f32], width: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
    let (mut sum, mut n) = (vec![0f64; width], 0);
    for row in rows {
        let x = &x[row * width..(row + 1) * width];
        sum.iter_mut().zip(x).for_each(|(s, x)| *s += f64::from(*x));
        n += 1;
    }
    sum.iter().map(|s| (s / f64::from(n.max(1))) as f32).collect()
}

pub(super) fn measure(l: &Outputs) -> Geometry {
    let AttentionShape { heads, kv_heads, dim } = l.shape;
    let (wide, narrow) = (heads * dim, kv_heads * dim);
    let n = l.before.len() / wide;
    let (queries, keys, values) = (l.attention.q(), l.attention.k(), l.attention.v());
    let is_watched = |row: &usize| l.watched.binary_search(row).is_ok();
    let others: Vec<usize> = (0..n).filter(|r| !is_watched(r)).collect();
    let lengths = |x: &[f32], rows: &[usize]| {
        let all = rows
            .iter()
            .flat_map(|r| x[r * narrow..(r + 1) * narrow].chunks_exact(dim));
        all.map(|head| f64::from(norm(head))).sum::<f64>() as f32 / (rows.len() * kv_heads).max(1) as f32
    };
    let sink_key = mean_row(keys, narrow, l.watched.iter().copied());
    let other_key = mean_row(keys, narrow, others.iter().copied());
    let mut key_dims: Vec<KeyDimension> = (0..narrow)
        .map(|i| KeyDimension {
            head: i / dim,
            dim: i % dim,
            sinks: sink_key[i],
            others: other_key[i],
        })
        .collect();
    key_dims.sort_by(|a, b| b.sinks.abs().total_cmp(&a.sinks.abs()));
    key_dims.truncate(4);

    let group = heads / kv_heads;
    let head_of = |x: &[f32], h: usize| x[h * dim..(h + 1) * dim].to_vec();
    let sink_keys: Vec<Vec<f32>> = (0..kv_heads).map(|g| head_of(&sink_key, g)).collect();
    let rows: Vec<[Vec<f32>; 4]> = others
        .par_iter()
        .map(|row| {
            let mut out: [Vec<f32>; 4] = Default::default();
            for h in 0..heads {
                let g = h / group;
                let at = (row * heads + h) * dim;
                let (q, o, after) = (
                    &queries[at..at + dim],
                    &l.before[at..at + dim],
                    &l.after[at..at + dim],
                );
                out[0].push(cosine(q, &sink_keys[g]));
                if let Some(vbar) = l.vbar {
                    let vbar = &vbar[g * dim..(g + 1) * dim];
                    out[1].push(cosine(o, vbar));
                    out[2].push(cosine(after, vbar));
                }
                let mut part = vec![0.0; dim];
                for s in l.watched.iter().take_while(|s| *s <= row) {
                    let at = (s * kv_heads + g) * dim;
                    let score = dot(q, &keys[at..at + dim]) / (dim as f32).sqrt();
                    let weight = (score - l.lse[row * heads + h]).exp();
                    let v = &values[at..at + dim];
                    part.iter_mut().zip(v).for_each(|(p, v)| *p += weight * v);
                }
                out[3].push(norm(&part) / norm(o).max(1e-12));
            }
            out
        })
        .collect();
    let column = |i: usize| rows.iter().map(|r| r[i].clone()).collect::<Vec<_>>();
    let angles = |i: usize| {
        if rows.first().is_some_and(|r| !r[i].is_empty()) {
            Cosines::of(&column(i), heads)
        } else {
            Cosines::default()
        }
    };
    Geometry {
        norms: Norms {
            k_sinks: lengths(keys, l.watched),
            k_others: lengths(keys, &others),
            v_sinks: lengths(values, l.watched),
            v_others: lengths(values, &others),
        },
        key_dims,
        q_sink_key: angles(0),
        o_before: angles(1),
        o_after: angles(2),
        share: (0..heads)
            .map(|h| rows.iter().map(|r| r[3][h]).sum::<f32>() / rows.len().max(1) as f32)
            .collect(),
    }
}
