//! Dense linear layers. Weights stay in the checkpoint's layout and type (they may be memory-mapped); panels
//! are widened to f32 as they are used, so bf16 is a storage format and all arithmetic is f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::many::many_rows;
use crate::quant::{self, Blocks};
use crate::simd::{Level, bf16_dots, fma, multiversion, sum_lanes};

/// A weight matrix `[n, k]`, row-major: `n` outputs, `k` inputs.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Brain float.
    Bf16(&'a [bf16]),
    /// Half precision.
    F16(&'a [f16]),
    /// Quantised blocks; rows are whole blocks.
    Quant(Blocks<'a>),
}

/// What weights are multiplied with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// f32: exact products with the stored weights, up to the order of sums.
    #[default]
    F32,
    /// Rounded to what the processor multiplies fastest. With quantised weights: 8 bits with one scale for 32 elements, an
    /// error of up to 1/254 of the largest of the 32 (in prefill only with AVX-512 VNNI). With bf16 weights: bf16, in prefill
    /// with AVX512-BF16. All else stays f32.
    Reduced,
}

impl Weight<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(w) => w.len(),
            Self::Bf16(w) => w.len(),
            Self::F16(w) => w.len(),
            Self::Quant(w) => w.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::F32(w) => size_of_val(*w),
            Self::Bf16(w) => size_of_val(*w),
            Self::F16(w) => size_of_val(*w),
            Self::Quant(w) => w.size(),
        }
    }

    /// Widens `out.len()` elements from `start`.
    pub fn widen(&self, start: usize, out: &mut [f32]) {
        match self {
            Self::F32(w) => out.copy_from_slice(&w[start..start + out.len()]),
            Self::Bf16(w) => {
                for (o, x) in out.iter_mut().zip(&w[start..]) {
                    *o = f32::from_bits(u32::from(x.to_bits()) << 16);
                }
            }
            Self::F16(w) => w[start..start + out.len()].convert_to_f32_slice(out),
            Self::Quant(w) => w.dequantise(start, out),
        }
    }
}

/// What rows belong to, which chooses the arithmetic. A row's result depends on it and on the row, never on how many other
/// rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Many rows of one prompt, and those of encoders: weights are packed panel by panel (gemm).
    Prefill,
    /// One row each of one or several requests: weights are streamed as they are stored (gemv).
    Decode,
}

/// Rows that one pass over a strip of weights is multiplied with while decoding.
const FEW: usize = 4;

/// `out[m, n] = x[m, k] w[n, k]^T + bias[n]`, exact up to the order of f32 sums.
///
/// # Panics
/// When a slice's length is not what `m`, `n` and `k` say.
pub fn linear(x: &[f32], m: usize, k: usize, w: Weight, n: usize, bias: Option<&[f32]>, out: &mut [f32]) {
    linear_with(Activations::F32, Phase::Prefill, x, m, k, w, n, bias, out);
}

/// [`linear`] in the arithmetic of a phase, with quantised activations where that is asked for and there is a path for it.
///
/// # Panics
/// As [`linear`], and when the rows of a quantised weight are not whole blocks.
pub fn linear_with(
    activations: Activations,
    phase: Phase,
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight,
    n: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    linear_at(Level::detect(), activations, phase, x, m, k, w, n, bias, out);
}

pub(crate) fn linear_at(
    level: Level,
    activations: Activations,
    phase: Phase,
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight,
    n: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    assert_eq!(x.len(), m * k, "x of a linear layer");
    assert_eq!(w.len(), n * k, "weight of a linear layer");
    assert_eq!(out.len(), m * n, "output of a linear layer");
    assert!(bias.is_none_or(|b| b.len() == n), "bias of a linear layer");
    if m == 0 || n == 0 {
        return;
    }
    if let Weight::Quant(w) = w {
        assert!(
            k > 0 && k.is_multiple_of(w.kind().block_len()),
            "rows of a quantised weight"
        );
    }
    match (phase, w) {
        (Phase::Prefill, _) => many_rows(level, activations, x, m, k, w, n, bias, out),
        (Phase::Decode, Weight::Quant(w)) => quant::few_rows(level, activations, x, m, k, w, n, bias, out),
        (Phase::Decode, _) => few_rows(level, x, m, k, w, n, bias, out),
    }
}

/// A shared output of which every task writes other elements.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);
// SAFETY: tasks write disjoint elements, and the borrow of the output outlives them all.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// # Safety
    /// `start + row.len()` lies inside the output, and no other task writes there.
    pub(crate) unsafe fn write(self, start: usize, row: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), self.0.add(start), row.len()) }
    }
}

/// Outputs of one task of [`few_rows`].
const STRIP: usize = 64;

fn few_rows(
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

#[inline(always)]
pub(crate) fn dot<const FMA: bool, T: Copy>(x: &[f32], w: &[T], widen: impl Fn(T) -> f32) -> f32 {
    const LANES: usize = 64;
    let mut lanes = [0f32; LANES];
    let (xs, ws) = (x.chunks_exact(LANES), w.chunks_exact(LANES));
    let (xr, wr) = (xs.remainder(), ws.remainder());
    for (x, w) in xs.zip(ws) {
        for l in 0..LANES {
            lanes[l] = fma::<FMA>(x[l], widen(w[l]), lanes[l]);
        }
    }
    let mut sum = sum_lanes(lanes);
    for (x, w) in xr.iter().zip(wr) {
        sum = fma::<FMA>(*x, widen(*w), sum);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::tests::random;

    fn naive(x: &[f32], m: usize, k: usize, w: &[f32], n: usize, bias: &[f32]) -> Vec<f64> {
        let mut y = Vec::with_capacity(m * n);
        for i in 0..m {
            for j in 0..n {
                let s: f64 = (0..k)
                    .map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p]))
                    .sum();
                y.push(s + f64::from(bias[j]));
            }
        }
        y
    }

    #[test]
    fn every_level_and_type_equals_the_sum() {
        for (m, k, n) in [
            (1, 1, 1),
            (1, 300, 70),
            (3, 64, 65),
            (2, 8256, 3),
            (4, 4160, 5),
            (5, 7, 31),
            (13, 257, 33),
            (25, 600, 96),
            (400, 40, 40),
        ] {
            let (x, w, bias) = (random(1, m * k), random(2, n * k), random(3, n));
            let b: Vec<bf16> = w.iter().map(|v| bf16::from_f32(*v)).collect();
            let h: Vec<f16> = w.iter().map(|v| f16::from_f32(*v)).collect();
            let wide: [Vec<f32>; 3] = [
                w.clone(),
                b.iter().map(|v| v.to_f32()).collect(),
                h.iter().map(|v| v.to_f32()).collect(),
            ];
            for level in Level::all() {
                for (weight, wide) in [Weight::F32(&w), Weight::Bf16(&b), Weight::F16(&h)]
                    .into_iter()
                    .zip(&wide)
                {
                    let want = naive(&x, m, k, wide, n, &bias);
                    for phase in [Phase::Prefill, Phase::Decode] {
                        let mut got = vec![f32::NAN; m * n];
                        let kind = Activations::F32;
                        linear_at(level, kind, phase, &x, m, k, weight, n, Some(&bias), &mut got);
                        for (g, w) in got.iter().zip(&want) {
                            assert!(
                                (f64::from(*g) - w).abs() < 2e-5 * (k as f64).sqrt(),
                                "{level:?} {phase:?} {m}x{k}x{n}: {g} for {w}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn reduced_activations_of_bf16_weights_are_rounded_and_nothing_else() {
        for (m, k, n) in [(3, 64, 40), (5, 7, 31), (30, 1030, 33), (800, 40, 40)] {
            let (x, bias) = (random(1, m * k), random(3, n));
            let w: Vec<bf16> = random(2, n * k).into_iter().map(bf16::from_f32).collect();
            let wide: Vec<f32> = w.iter().map(|v| v.to_f32()).collect();
            let rounded: Vec<f32> = x.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
            let phases = [Phase::Prefill, Phase::Decode];
            for (level, phase) in Level::all().flat_map(|level| phases.map(|phase| (level, phase))) {
                let reduced = phase == Phase::Prefill && level.has_bf16();
                let want = naive(if reduced { &rounded } else { &x }, m, k, &wide, n, &bias);
                let mut got = vec![f32::NAN; m * n];
                let (kind, weight) = (Activations::Reduced, Weight::Bf16(&w));
                linear_at(level, kind, phase, &x, m, k, weight, n, Some(&bias), &mut got);
                for (g, w) in got.iter().zip(&want) {
                    let tolerance = 2e-5 * (k as f64).sqrt();
                    assert!(
                        (f64::from(*g) - w).abs() < tolerance,
                        "{level:?} {m}x{k}x{n}: {g} for {w}"
                    );
                }
            }
        }
    }
}
