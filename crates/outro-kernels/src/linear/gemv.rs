//! Products of a few rows: weights are streamed as they are stored, once for all rows.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::shared::Shared;
use crate::simd::{Level, bf16_dots, dot, multiversion};
use crate::weight::Weight;

/// Rows that one pass over a strip of weights is multiplied with while decoding.
const FEW: usize = 4;

/// Outputs of one task of [`gemv`].
const STRIP: usize = 64;

pub(super) fn gemv(
    level: Level,
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight,
    n: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let shared = Shared::new(out);
    // Decode steps against bf16: memory is the limit, and the plain loop does not reach it.
    let halves = match w {
        Weight::Bf16(w) if level == Level::Avx512 && k.is_multiple_of(64) => Some((w, by_halves(x))),
        _ => None,
    };
    (0..n.div_ceil(STRIP)).into_par_iter().for_each(|task| {
        let n0 = task * STRIP;
        let cols = (n - n0).min(STRIP);
        // The strip is read from memory for the first rows and from cache for the others.
        for first in (0..m).step_by(FEW) {
            let rows = (m - first).min(FEW);
            let mut y = [[0f32; STRIP]; FEW];
            if let Some((w, x)) = &halves {
                let (w, x) = (&w[n0 * k..], &x[first * k..]);
                match rows {
                    1 => bf16_strip::<1>(x, k, w, cols, &mut y),
                    2 => bf16_strip::<2>(x, k, w, cols, &mut y),
                    3 => bf16_strip::<3>(x, k, w, cols, &mut y),
                    _ => bf16_strip::<FEW>(x, k, w, cols, &mut y),
                }
            } else {
                for (x, y) in x[first * k..].chunks_exact(k).zip(&mut y) {
                    strip(level, x, w, n0, &mut y[..cols]);
                }
            }
            for (i, y) in y.iter_mut().take(rows).enumerate() {
                if let Some(bias) = bias {
                    for (y, b) in y.iter_mut().zip(&bias[n0..n0 + cols]) {
                        *y += b;
                    }
                }
                // SAFETY: columns n0.. belong to this task alone.
                unsafe { shared.write((first + i) * n + n0, &y[..cols]) };
            }
        }
    });
}

/// Columns of x that are multiplied at a time, so that four rows of them stay in the first-level cache. The same for any
/// number of rows: it is the order of a row's sum.
const PART: usize = 1024;

/// `y[i][j] = x[i] . w[j]` for R rows of x, as [`by_halves`] orders them.
fn bf16_strip<const R: usize>(x: &[f32], k: usize, w: &[bf16], cols: usize, y: &mut [[f32; STRIP]; FEW]) {
    // Weights are asked for at least two rows and 16 KiB before they are needed.
    let ahead = (8192usize.div_ceil(k)).max(2) * k;
    for k0 in (0..k).step_by(PART) {
        let len = PART.min(k - k0);
        for j in 0..cols {
            let sums = bf16_dots::<R>(&x[k0..], k, &w[j * k + k0..][..len], ahead);
            for (y, sum) in y.iter_mut().zip(sums) {
                y[j] += sum;
            }
        }
    }
}

/// In every 32 numbers the even ones first, then the odd ones: as they lie in the low and high halves of 16 words.
fn by_halves(x: &[f32]) -> Vec<f32> {
    let chunks = x.chunks_exact(32);
    let halves =
        |c: &[f32]| -> [f32; 32] { std::array::from_fn(|i| c[if i < 16 { 2 * i } else { 2 * i - 31 }]) };
    chunks.flat_map(halves).collect()
}

multiversion! {
    /// `y[j] = x . w[n0 + j]`.
    fn strip(x: &[f32], w: Weight, n0: usize, y: &mut [f32]) = strip_body
}

#[inline(always)]
fn strip_body<const FMA: bool>(x: &[f32], w: Weight, n0: usize, y: &mut [f32]) {
    let k = x.len();
    for (j, y) in y.iter_mut().enumerate() {
        let range = (n0 + j) * k..(n0 + j + 1) * k;
        *y = match w {
            Weight::F32(w) => dot::<FMA, _>(x, &w[range], |v| v),
            Weight::Bf16(w) => dot::<FMA, _>(x, &w[range], |v| f32::from_bits(u32::from(v.to_bits()) << 16)),
            Weight::F16(w) => {
                let (mut sum, mut wide) = (0f32, [0f32; 512]);
                for (x, w) in x.chunks(512).zip(w[range].chunks(512)) {
                    w.convert_to_f32_slice(&mut wide[..w.len()]);
                    sum += dot::<FMA, _>(x, &wide[..w.len()], |v| v);
                }
                sum
            }
            // Has its own path; this one keeps the function total.
            Weight::Quant(w) => {
                let (mut sum, mut wide) = (0f32, [0f32; 512]);
                for (c, x) in x.chunks(512).enumerate() {
                    w.dequantise(range.start + c * 512, &mut wide[..x.len()]);
                    sum += dot::<FMA, _>(x, &wide[..x.len()], |v| v);
                }
                sum
            }
        };
    }
}
