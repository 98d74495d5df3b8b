//! Products of a few rows of activations with quantised weights, streamed once from memory.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::group::Code;
use super::group::Halves;
use super::int8_rows::{Int8Rows, pad};
use super::{Blocks, CHUNK, GROUP, GROUPS, Open, chunks};
#[cfg(target_arch = "x86_64")]
use super::{QuantType, exact, group_x86, products_256, x86};
use crate::arithmetic::Activations;
use crate::shared::Shared;
use crate::simd::{Level, sum_lanes};

/// Outputs of one task.
const STRIP: usize = 32;

/// Rows that one pass over a strip of weights is multiplied with.
const FEW: usize = 4;

/// `out[m, n] = x[m, k] w[n, k]^T + bias[n]`; a row's result does not depend on the others.
pub(crate) fn gemv(
    level: Level,
    activations: Activations,
    x: &[f32],
    m: usize,
    k: usize,
    w: Blocks,
    n: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let group = |x: &[f32]| match activations {
        Activations::Reduced if w.kind.is_integer() || w.kind.halves().is_some() => {
            Rows::Int8(Int8Rows::new(x, k))
        }
        #[cfg(target_arch = "x86_64")]
        Activations::F32
            if level == Level::Avx512 && has_table(w.kind) && k.is_multiple_of(group_x86::SPREAD) =>
        {
            Rows::Spread(group_x86::spread(x))
        }
        Activations::F32 | Activations::Reduced => Rows::F32(pad(x, k)),
    };
    let groups: Vec<Rows> = x.chunks(FEW * k).map(group).collect();
    let shared = Shared::new(out);
    (0..n.div_ceil(STRIP)).into_par_iter().for_each(|task| {
        let n0 = task * STRIP;
        let cols = (n - n0).min(STRIP);
        // The strip is read from memory for the first rows and from cache for the others.
        for (first, x) in (0..m).step_by(FEW).zip(&groups) {
            let rows = (m - first).min(FEW);
            let mut y = [[0f32; FEW]; STRIP];
            match rows {
                1 => strip::<1>(level, x, k, w, n0, &mut y[..cols]),
                2 => strip::<2>(level, x, k, w, n0, &mut y[..cols]),
                3 => strip::<3>(level, x, k, w, n0, &mut y[..cols]),
                _ => strip::<FEW>(level, x, k, w, n0, &mut y[..cols]),
            }
            for i in 0..rows {
                let mut row = [0f32; STRIP];
                for (j, (row, y)) in row.iter_mut().zip(&y[..cols]).enumerate() {
                    *row = y[i] + bias.map_or(0.0, |b| b[n0 + j]);
                }
                // SAFETY: columns n0.. belong to this task alone, and `out` is m x n.
                unsafe { shared.write((first + i) * n + n0, &row[..cols]) };
            }
        }
    });
}

/// Rows of activations, each padded with zeros to whole chunks.
enum Rows {
    F32(Vec<f32>),
    /// As tables of 4-bit codes are looked up in; not padded.
    #[cfg(target_arch = "x86_64")]
    Spread(Vec<f32>),
    Int8(Int8Rows),
}

#[cfg(target_arch = "x86_64")]
fn has_table(kind: QuantType) -> bool {
    matches!(
        kind,
        QuantType::Group {
            code: Code::Nf4 | Code::Fp4,
            ..
        }
    )
}

#[cfg(target_arch = "x86_64")]
fn has_floats(kind: QuantType) -> bool {
    matches!(kind, QuantType::Group { code: Code::E4m3, .. })
}

#[cfg(target_arch = "x86_64")]
fn is_group(kind: QuantType) -> bool {
    matches!(kind, QuantType::Group { .. })
}

/// `y[j][i] = x[i] . w[n0 + j]`.
fn strip<const M: usize>(level: Level, x: &Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    #[cfg(target_arch = "x86_64")]
    if level > Level::Portable {
        let vnni = level.has_vnni();
        // SAFETY: a level above Portable is only ever made from what the processor reports, and both have AVX2, FMA
        // and F16C; VNNI was asked for.
        return unsafe {
            match x {
                Rows::Spread(x) => group_x86::table_512::<M>(x, k, w, n0, y),
                Rows::F32(x) if level == Level::Avx512 && has_floats(w.kind()) => {
                    group_x86::e4m3_512::<M>(x, k, w, n0, y);
                }
                Rows::F32(x) if level == Level::Avx512 => exact::exact_512::<M>(x, k, w, n0, y),
                Rows::F32(x) if has_floats(w.kind()) => products_256::e4m3_256::<M>(x, k, w, n0, y),
                Rows::F32(x) => exact::exact_256::<M>(x, k, w, n0, y),
                Rows::Int8(x) if vnni && w.kind() == QuantType::Q8_0 && k.is_multiple_of(CHUNK) => {
                    x86::q8_512::<M>(x, k, w, n0, y);
                }
                Rows::Int8(x) if vnni && w.kind() == QuantType::Q6K => x86::q6k_512::<M>(x, k, w, n0, y),
                Rows::Int8(x) if vnni && w.kind() == QuantType::Q4K => x86::q4k_512::<M>(x, k, w, n0, y),
                Rows::Int8(x) if vnni && k.is_multiple_of(CHUNK) && is_group(w.kind()) => {
                    group_x86::integers_512::<M>(x, k, w, n0, y);
                }
                Rows::Int8(x) if vnni => x86::int8_512::<M>(x, k, w, n0, y),
                Rows::Int8(x) => products_256::int8_256::<M>(x, k, w, n0, y),
            }
        };
    }
    let _ = level;
    match x {
        Rows::F32(x) => strip_f32::<M>(x, k, w, n0, y),
        // Made for another level alone.
        #[cfg(target_arch = "x86_64")]
        Rows::Spread(_) => {}
        Rows::Int8(x) => strip_int8::<M>(x, k, w, n0, y),
    }
}

/// Exact products: weights are widened to f32 in cache, activations are as they are.
fn strip_f32<const M: usize>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    const LANES: usize = 16;
    let wide = k.next_multiple_of(CHUNK);
    let (mut open, mut weights) = (Open::new(), [0f32; CHUNK]);
    for (j, y) in y.iter_mut().enumerate() {
        let mut lanes = [[0f32; LANES]; M];
        for (c, blocks) in chunks(w, w.row(n0 + j, k)).enumerate() {
            open.read(w.kind, blocks);
            open.widen(w.kind, &mut weights);
            for (i, lanes) in lanes.iter_mut().enumerate() {
                let x = &x[i * wide + c * CHUNK..][..CHUNK];
                for (x, w) in x.chunks_exact(LANES).zip(weights.chunks_exact(LANES)) {
                    for l in 0..LANES {
                        lanes[l] += x[l] * w[l];
                    }
                }
            }
        }
        for (y, lanes) in y.iter_mut().zip(lanes) {
            *y = sum_lanes(lanes);
        }
    }
}

fn strip_int8<const M: usize>(x: &Int8Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    let wide = k.next_multiple_of(CHUNK);
    let halves = w.kind.halves();
    let (offset, unit) = match halves {
        Some(_) => (Halves::OFFSET as f32, 1.0 / Halves::ONE),
        None => (w.kind.offset() as f32, 1.0),
    };
    let code = |q: u8| match &halves {
        Some(t) => i32::from(t.high[usize::from(q & 15)]) << 7 | i32::from(t.low[usize::from(q & 15)]),
        None => i32::from(q),
    };
    let mut open = Open::new();
    for (j, y) in y.iter_mut().enumerate() {
        *y = [0.0; 4];
        for (c, blocks) in chunks(w, w.row(n0 + j, k)).enumerate() {
            open.read(w.kind, blocks);
            for (i, y) in y.iter_mut().take(M).enumerate() {
                for g in 0..GROUPS {
                    let at = (i * wide + c * CHUNK) / GROUP + g;
                    let (q, x8) = (&open.q[g * GROUP..], &x.q[at * GROUP..(at + 1) * GROUP]);
                    let products = x8.iter().zip(q).map(|(x, q)| i32::from(*x) * code(*q));
                    let scale = open.scale[g] * unit;
                    *y += products.sum::<i32>() as f32 * scale * x.scale[at]
                        - (scale * offset + open.min[g]) * x.sum[at];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Phase;
    use crate::linear::linear_at;
    use crate::math::tests::random;
    use crate::quant::QuantType;
    use crate::quant::tests::random_blocks;
    use crate::{Weight, quantise};
    use proptest::prelude::*;

    /// The product on the dequantised weights in f64, and the sum of its terms' sizes.
    fn naive(x: &[f32], m: usize, k: usize, w: &[f32], n: usize) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let terms = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p]));
                let (sum, size) = terms.fold((0.0, 0.0), |(s, t), v| (s + v, t + v.abs()));
                out.push((sum, size));
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn every_level_equals_the_sum_over_dequantised_weights(
            kind in prop::sample::select([&QuantType::ALL[..], &QuantType::GROUPS[..]].concat()),
            m in 1usize..30, n in 1usize..70, blocks in 1usize..20, seed in 1u64..1000,
        ) {
            let blocks = (blocks * 32).div_ceil(kind.block_len());
            let k = blocks * kind.block_len();
            let bytes = random_blocks(kind, seed, n * blocks);
            let w = Blocks::new(kind, &bytes).unwrap();
            let mut wide = vec![0f32; n * k];
            w.dequantise(0, &mut wide);
            let (x, bias) = (random(seed, m * k), random(seed + 1, n));
            let want = naive(&x, m, k, &wide, n);
            let run = |level, phase, activations| {
                let mut got = vec![f32::NAN; m * n];
                linear_at(level, activations, phase, &x, m, k, Weight::Quant(w), n, Some(&bias), &mut got);
                got
            };
            let phases = [Phase::Prefill, Phase::Decode];
            for (level, phase) in Level::all().flat_map(|level| phases.map(|phase| (level, phase))) {
                for (at, (got, (sum, size))) in run(level, phase, Activations::F32).iter().zip(&want).enumerate() {
                    let want = sum + f64::from(bias[at % n]);
                    prop_assert!((f64::from(*got) - want).abs() < 1e-5 * (1.0 + size), "{:?} f32: {} for {}", level, got, want);
                }
                // An activation moves by at most half a step of 1/127 of its block's largest.
                for (at, (got, (sum, size))) in run(level, phase, Activations::Reduced).iter().zip(&want).enumerate() {
                    let want = sum + f64::from(bias[at % n]);
                    let tolerance = 1e-4 + (size + wide.iter().fold(0f32, |a, b| a.max(b.abs())) as f64 * k as f64) / 254.0;
                    prop_assert!((f64::from(*got) - want).abs() < tolerance, "{:?} int8: {} for {}", level, got, want);
                }
            }
            // The integer sums are exact, so only the order of the floats differs between levels and phases.
            let portable = run(Level::Portable, Phase::Decode, Activations::Reduced);
            // Prompts are multiplied so with whole numbers alone.
            let reduced = |(level, phase): &(Level, Phase)| {
                *phase == Phase::Decode || level.has_vnni() && kind.is_integer()
            };
            for (level, phase) in Level::all().flat_map(|level| phases.map(|phase| (level, phase))).filter(reduced) {
                for ((a, b), (_, size)) in run(level, phase, Activations::Reduced).iter().zip(&portable).zip(&want) {
                    // Minima and offsets are taken away from larger sums than the terms' own.
                    prop_assert!((a - b).abs() < 1e-4 * (1.0 + *size as f32), "{:?}: {} for {}", level, a, b);
                }
            }
        }
    }

    #[test]
    fn rounded_activations_are_close_on_quantised_random_weights() {
        let (m, k, n) = (2, 1024, 50);
        let (x, w) = (random(1, m * k), random(2, n * k));
        for kind in [QuantType::Q8_0, QuantType::Q6K, QuantType::Q4K] {
            let mut bytes = vec![0; kind.bytes_of(n * k).unwrap()];
            quantise(kind, &w, &mut bytes);
            let weight = Weight::Quant(Blocks::new(kind, &bytes).unwrap());
            let run = |activations| {
                let mut y = vec![0f32; m * n];
                linear_at(
                    Level::detect(),
                    activations,
                    Phase::Decode,
                    &x,
                    m,
                    k,
                    weight,
                    n,
                    None,
                    &mut y,
                );
                y
            };
            let (exact, int8) = (run(Activations::F32), run(Activations::Reduced));
            let (mut dot, mut a, mut b) = (0f64, 0f64, 0f64);
            for (x, y) in exact.iter().zip(&int8) {
                dot += f64::from(x * y);
                a += f64::from(x * x);
                b += f64::from(y * y);
            }
            assert!(
                dot / (a * b).sqrt() > 0.9999,
                "{kind:?}: {}",
                dot / (a * b).sqrt()
            );
        }
    }

    #[test]
    fn numbers_that_are_none_stay_visible() {
        let bytes = random_blocks(QuantType::Q8_0, 3, 8);
        let w = Weight::Quant(Blocks::new(QuantType::Q8_0, &bytes).unwrap());
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1f32; 256];
            x[70] = bad;
            for level in Level::all() {
                for activations in [Activations::F32, Activations::Reduced] {
                    let mut y = [0f32];
                    linear_at(level, activations, Phase::Decode, &x, 1, 256, w, 1, None, &mut y);
                    assert!(!y[0].is_finite(), "{level:?} {activations:?}");
                }
            }
        }
    }
}
