//! Products of a few rows of activations with quantised weights, streamed once from memory.

use rayon::prelude::*;

use super::{Blocks, CHUNK, GROUP, Open};
use crate::gemm::{Activations, Shared};
use crate::simd::{Level, fma, multiversion, sum_lanes};

/// Outputs of one task.
const STRIP: usize = 32;
/// Groups of a chunk.
const GROUPS: usize = CHUNK / GROUP;

/// `out[m, n] = x[m, k] w[n, k]^T + bias[n]` for `m <= 4`.
pub(crate) fn few_rows(
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
    let x = match activations {
        Activations::F32 => Rows::F32(pad(x, k)),
        Activations::Int8 => Rows::Int8(Int8Rows::new(x, k)),
    };
    let shared = Shared::new(out);
    (0..n.div_ceil(STRIP)).into_par_iter().for_each(|task| {
        let n0 = task * STRIP;
        let cols = (n - n0).min(STRIP);
        let mut y = [[0f32; 4]; STRIP];
        match (m, &x) {
            (1, x) => strip::<1>(level, x, k, w, n0, &mut y[..cols]),
            (2, x) => strip::<2>(level, x, k, w, n0, &mut y[..cols]),
            (3, x) => strip::<3>(level, x, k, w, n0, &mut y[..cols]),
            (_, x) => strip::<4>(level, x, k, w, n0, &mut y[..cols]),
        }
        for i in 0..m {
            let mut row = [0f32; STRIP];
            for (j, (row, y)) in row.iter_mut().zip(&y[..cols]).enumerate() {
                *row = y[i] + bias.map_or(0.0, |b| b[n0 + j]);
            }
            // SAFETY: columns n0.. belong to this task alone, and `out` is m x n.
            unsafe { shared.write(i * n + n0, &row[..cols]) };
        }
    });
}

/// Rows of activations, each padded with zeros to whole chunks.
enum Rows {
    F32(Vec<f32>),
    Int8(Int8Rows),
}

fn pad(x: &[f32], k: usize) -> Vec<f32> {
    let wide = k.next_multiple_of(CHUNK);
    let mut out = Vec::with_capacity(x.len() / k.max(1) * wide);
    for row in x.chunks_exact(k.max(1)) {
        out.extend_from_slice(row);
        out.resize(out.len() + wide - k, 0.0);
    }
    out
}

/// Activations as `scale * q` with one scale for 32 elements, stored once for each group of 16.
struct Int8Rows {
    q: Vec<i8>,
    scale: Vec<f32>,
    /// `scale` times the sum of the group's `q`.
    sum: Vec<f32>,
}

impl Int8Rows {
    fn new(x: &[f32], k: usize) -> Self {
        let wide = pad(x, k);
        let mut this = Self {
            q: vec![0; wide.len()],
            scale: vec![0.0; wide.len() / GROUP],
            sum: vec![0.0; wide.len() / GROUP],
        };
        let groups = this.scale.chunks_exact_mut(2).zip(this.sum.chunks_exact_mut(2));
        for ((x, q), (scale, sum)) in wide.chunks_exact(32).zip(this.q.chunks_exact_mut(32)).zip(groups) {
            let largest = x.iter().fold(0f32, |a, b| a.max(b.abs()));
            // Numbers that are none must stay visible in the product.
            let finite = x.iter().all(|x| x.is_finite());
            let d = if finite { largest / 127.0 } else { f32::NAN };
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (q, x) in q.iter_mut().zip(x) {
                *q = (x * inverse).round_ties_even() as i8;
            }
            for (half, (scale, sum)) in scale.iter_mut().zip(sum).enumerate() {
                *scale = d;
                let q = &q[half * GROUP..(half + 1) * GROUP];
                *sum = d * q.iter().map(|q| i32::from(*q)).sum::<i32>() as f32;
            }
        }
        this
    }
}

/// `y[j][i] = x[i] . w[n0 + j]`.
fn strip<const M: usize>(level: Level, x: &Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    match x {
        Rows::F32(x) => strip_f32::<M>(level, x, k, w, n0, y),
        Rows::Int8(x) => {
            #[cfg(target_arch = "x86_64")]
            match level {
                Level::Avx512 if is_x86_feature_detected!("avx512vnni") => {
                    // SAFETY: a level above Portable is only ever made from what the processor reports, and VNNI was asked for.
                    return unsafe { x86::strip_512::<M>(x, k, w, n0, y) };
                }
                // SAFETY: as above; both levels have AVX2.
                Level::Avx512 | Level::Avx2 => return unsafe { x86::strip_256::<M>(x, k, w, n0, y) },
                Level::Portable => {}
            }
            let _ = level;
            strip_portable::<M>(x, k, w, n0, y);
        }
    }
}

fn strip_f32<const M: usize>(level: Level, x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    match M {
        1 => strip_f32_1(level, x, k, w, n0, y),
        2 => strip_f32_2(level, x, k, w, n0, y),
        3 => strip_f32_3(level, x, k, w, n0, y),
        _ => strip_f32_4(level, x, k, w, n0, y),
    }
}

multiversion! { fn strip_f32_1(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) = body_1 }
multiversion! { fn strip_f32_2(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) = body_2 }
multiversion! { fn strip_f32_3(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) = body_3 }
multiversion! { fn strip_f32_4(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) = body_4 }

#[inline(always)]
fn body_1<const FMA: bool>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    strip_f32_body::<FMA, 1>(x, k, w, n0, y);
}
#[inline(always)]
fn body_2<const FMA: bool>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    strip_f32_body::<FMA, 2>(x, k, w, n0, y);
}
#[inline(always)]
fn body_3<const FMA: bool>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    strip_f32_body::<FMA, 3>(x, k, w, n0, y);
}
#[inline(always)]
fn body_4<const FMA: bool>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    strip_f32_body::<FMA, 4>(x, k, w, n0, y);
}

/// Exact products: weights are widened to f32 in cache, activations are as they are.
#[inline(always)]
fn strip_f32_body<const FMA: bool, const M: usize>(
    x: &[f32],
    k: usize,
    w: Blocks,
    n0: usize,
    y: &mut [[f32; 4]],
) {
    const LANES: usize = 64;
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
                        lanes[l] = fma::<FMA>(x[l], w[l], lanes[l]);
                    }
                }
            }
        }
        for (y, lanes) in y.iter_mut().zip(lanes) {
            *y = sum_lanes(lanes);
        }
    }
}

/// A row's blocks, a chunk at a time.
#[inline(always)]
fn chunks<'a>(w: Blocks, row: &'a [u8]) -> std::slice::Chunks<'a, u8> {
    row.chunks(CHUNK / w.kind.block_len() * w.kind.block_bytes())
}

fn strip_portable<const M: usize>(x: &Int8Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    let wide = k.next_multiple_of(CHUNK);
    let offset = w.kind.offset() as f32;
    let mut open = Open::new();
    for (j, y) in y.iter_mut().enumerate() {
        *y = [0.0; 4];
        for (c, blocks) in chunks(w, w.row(n0 + j, k)).enumerate() {
            open.read(w.kind, blocks);
            for (i, y) in y.iter_mut().take(M).enumerate() {
                for g in 0..GROUPS {
                    let at = (i * wide + c * CHUNK) / GROUP + g;
                    let (q, x8) = (&open.q[g * GROUP..], &x.q[at * GROUP..(at + 1) * GROUP]);
                    let products = x8.iter().zip(q).map(|(x, q)| i32::from(*x) * i32::from(*q));
                    *y += products.sum::<i32>() as f32 * open.scale[g] * x.scale[at]
                        - (open.scale[g] * offset + open.min[g]) * x.sum[at];
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_abs_epi8, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
        _mm256_permutevar8x32_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_ps, _mm256_setr_epi32,
        _mm256_setzero_ps, _mm256_sign_epi8, _mm256_storeu_ps, _mm256_xor_si256, _mm512_cvtepi32_ps,
        _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setr_epi32,
        _mm512_setzero_ps, _mm512_setzero_si512,
    };

    use super::{CHUNK, GROUP, GROUPS, Int8Rows, Open, chunks};
    use crate::quant::{Blocks, QuantType};

    /// # Safety
    /// AVX-512 F, BW, DQ, VL and VNNI; `x` holds M rows of `k`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) unsafe fn strip_512<const M: usize>(
        x: &Int8Rows,
        k: usize,
        w: Blocks,
        n0: usize,
        y: &mut [[f32; 4]],
    ) {
        let wide = k.next_multiple_of(CHUNK);
        assert!(x.q.len() == M * wide && x.scale.len() == M * wide / GROUP && x.sum.len() == x.scale.len());
        let offset = _mm512_set1_ps(w.kind().offset() as f32);
        // A register holds the sums of four elements each; four of them make a group.
        let lanes = |p: i32| {
            let (a, b, c, d) = (4 * p, 4 * p + 1, 4 * p + 2, 4 * p + 3);
            _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d)
        };
        let lanes = [lanes(0), lanes(1), lanes(2), lanes(3)];
        let mut open = Open::new();
        for (j, y) in y.iter_mut().enumerate() {
            let mut acc: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
            for (c, blocks) in chunks(w, w.row(n0 + j, k)).enumerate() {
                open.read(w.kind(), blocks);
                // SAFETY: `open` holds a chunk; row i of x has a chunk at c by the assertion above.
                unsafe {
                    let scale = _mm512_loadu_ps(open.scale.as_ptr());
                    let min = _mm512_fmadd_ps(scale, offset, _mm512_loadu_ps(open.min.as_ptr()));
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let at = i * wide + c * CHUNK;
                        let scale = _mm512_mul_ps(scale, _mm512_loadu_ps(x.scale.as_ptr().add(at / GROUP)));
                        let sums = _mm512_loadu_ps(x.sum.as_ptr().add(at / GROUP));
                        for (p, lanes) in lanes.iter().enumerate() {
                            let q = _mm512_loadu_si512(open.q.as_ptr().add(64 * p).cast());
                            let x8 = _mm512_loadu_si512(x.q.as_ptr().add(at + 64 * p).cast());
                            let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), q, x8);
                            let scale = _mm512_permutexvar_ps(*lanes, scale);
                            acc[p % 2] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, acc[p % 2]);
                        }
                        acc[0] = _mm512_fnmadd_ps(min, sums, acc[0]);
                    }
                }
            }
            for (y, acc) in y.iter_mut().zip(acc) {
                *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
            }
        }
    }

    /// # Safety
    /// AVX2 and FMA; `x` holds M rows of `k`.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn strip_256<const M: usize>(
        x: &Int8Rows,
        k: usize,
        w: Blocks,
        n0: usize,
        y: &mut [[f32; 4]],
    ) {
        let wide = k.next_multiple_of(CHUNK);
        assert!(x.q.len() == M * wide && x.scale.len() == M * wide / GROUP && x.sum.len() == x.scale.len());
        // Two products of 255 and 127 would not fit 16 bits: there the sign goes to the activation instead.
        let signed = w.kind() == QuantType::Q8_0;
        let offset = _mm256_set1_ps(if signed { 0.0 } else { w.kind().offset() as f32 });
        let (ones, flip) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
        let lanes = [
            _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1),
            _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3),
            _mm256_setr_epi32(4, 4, 4, 4, 5, 5, 5, 5),
            _mm256_setr_epi32(6, 6, 6, 6, 7, 7, 7, 7),
        ];
        let mut open = Open::new();
        for (j, y) in y.iter_mut().enumerate() {
            let mut acc: [__m256; M] = [_mm256_setzero_ps(); M];
            for (c, blocks) in chunks(w, w.row(n0 + j, k)).enumerate() {
                open.read(w.kind(), blocks);
                for half in 0..2 {
                    // SAFETY: `open` holds a chunk; row i of x has a chunk at c by the assertion above.
                    unsafe {
                        let scale = _mm256_loadu_ps(open.scale.as_ptr().add(half * GROUPS / 2));
                        let min = _mm256_loadu_ps(open.min.as_ptr().add(half * GROUPS / 2));
                        let min = _mm256_fmadd_ps(scale, offset, min);
                        for (i, acc) in acc.iter_mut().enumerate() {
                            let at = i * wide + c * CHUNK + half * CHUNK / 2;
                            let scale =
                                _mm256_mul_ps(scale, _mm256_loadu_ps(x.scale.as_ptr().add(at / GROUP)));
                            let sums = _mm256_loadu_ps(x.sum.as_ptr().add(at / GROUP));
                            for (p, lanes) in lanes.iter().enumerate() {
                                let q = open.q.as_ptr().add(half * CHUNK / 2 + 32 * p);
                                let mut q = _mm256_loadu_si256(q.cast());
                                let mut x8 = _mm256_loadu_si256(x.q.as_ptr().add(at + 32 * p).cast());
                                if signed {
                                    q = _mm256_xor_si256(q, flip);
                                    (q, x8) = (_mm256_abs_epi8(q), _mm256_sign_epi8(x8, q));
                                }
                                let dots = _mm256_madd_epi16(_mm256_maddubs_epi16(q, x8), ones);
                                let scale = _mm256_permutevar8x32_ps(scale, *lanes);
                                *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, *acc);
                            }
                            *acc = _mm256_fnmadd_ps(min, sums, *acc);
                        }
                    }
                }
            }
            for (y, acc) in y.iter_mut().zip(acc) {
                let mut lanes = [0f32; 8];
                // SAFETY: eight floats.
                unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), acc) };
                *y = crate::simd::sum_lanes(lanes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::linear_at;
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
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn every_level_equals_the_sum_over_dequantised_weights(
            kind in prop::sample::select(QuantType::ALL.to_vec()),
            m in 1usize..8, n in 1usize..70, blocks in 1usize..20, seed in 1u64..1000,
        ) {
            let blocks = if kind.block_len() == 256 { blocks.div_ceil(6) } else { blocks };
            let k = blocks * kind.block_len();
            let bytes = random_blocks(kind, seed, n * blocks);
            let w = Blocks::new(kind, &bytes).unwrap();
            let mut wide = vec![0f32; n * k];
            w.dequantise(0, &mut wide);
            let (x, bias) = (random(seed, m * k), random(seed + 1, n));
            let want = naive(&x, m, k, &wide, n);
            let run = |level, activations| {
                let mut got = vec![f32::NAN; m * n];
                linear_at(level, activations, &x, m, k, Weight::Quant(w), n, Some(&bias), &mut got);
                got
            };
            for level in Level::all() {
                for (at, (got, (sum, size))) in run(level, Activations::F32).iter().zip(&want).enumerate() {
                    let want = sum + f64::from(bias[at % n]);
                    prop_assert!((f64::from(*got) - want).abs() < 1e-5 * (1.0 + size), "{:?} f32: {} for {}", level, got, want);
                }
                // An activation moves by at most half a step of 1/127 of its block's largest.
                for (at, (got, (sum, size))) in run(level, Activations::Int8).iter().zip(&want).enumerate() {
                    let want = sum + f64::from(bias[at % n]);
                    let tolerance = 1e-4 + (size + wide.iter().fold(0f32, |a, b| a.max(b.abs())) as f64 * k as f64) / 254.0;
                    prop_assert!((f64::from(*got) - want).abs() < tolerance, "{:?} int8: {} for {}", level, got, want);
                }
            }
            // The integer sums are exact, so only the order of the floats differs between levels.
            let portable = run(Level::Portable, Activations::Int8);
            for level in Level::all() {
                for ((a, b), (_, size)) in run(level, Activations::Int8).iter().zip(&portable).zip(&want) {
                    // Minima and offsets are taken away from larger sums than the terms' own.
                    prop_assert!((a - b).abs() < 1e-4 * (1.0 + *size as f32), "{:?}: {} for {}", level, a, b);
                }
            }
        }
    }

    #[test]
    fn int8_activations_are_close_on_quantised_random_weights() {
        let (m, k, n) = (2, 1024, 50);
        let (x, w) = (random(1, m * k), random(2, n * k));
        for kind in [QuantType::Q8_0, QuantType::Q6K, QuantType::Q4K] {
            let mut bytes = vec![0; kind.bytes_of(n * k).unwrap()];
            quantise(kind, &w, &mut bytes);
            let weight = Weight::Quant(Blocks::new(kind, &bytes).unwrap());
            let run = |activations| {
                let mut y = vec![0f32; m * n];
                linear_at(Level::detect(), activations, &x, m, k, weight, n, None, &mut y);
                y
            };
            let (exact, int8) = (run(Activations::F32), run(Activations::Int8));
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
                for activations in [Activations::F32, Activations::Int8] {
                    let mut y = [0f32];
                    linear_at(level, activations, &x, 1, 256, w, 1, None, &mut y);
                    assert!(!y[0].is_finite(), "{level:?} {activations:?}");
                }
            }
        }
    }
}
