//! AVX2 products with quantised weights, of activations of 8 bits and of exact ones with floats of 8 bits.

use std::arch::x86_64::{
    __m256, _mm_loadu_si128, _mm256_abs_epi8, _mm256_add_epi32, _mm256_and_si256,
    _mm256_broadcastsi128_si256, _mm256_castsi256_si128, _mm256_cvtepi8_epi16, _mm256_cvtepi32_ps,
    _mm256_cvtph_ps, _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_permutevar8x32_ps,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps,
    _mm256_shuffle_epi8, _mm256_sign_epi8, _mm256_slli_epi16, _mm256_xor_si256,
};

use super::group::{E4M3_SCALE, Halves};
use super::int8_rows::Int8Rows;
use super::x86::{head_of, load_16, read, sum_256};
use super::{Blocks, CHUNK, GROUP, GROUPS, Open, QuantType, chunks};

/// Codes of at most 7 bits.
const SMALL: u8 = 0;
/// Codes of 8 bits.
const BYTES: u8 = 1;
/// Indices into a table.
const TABLE: u8 = 2;

/// Products with quantised activations, `y[j][i] = x[i] . w[n0 + j]`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn int8_256<const M: usize>(x: &Int8Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    match w.kind() {
        kind if kind.has_bytes() => products_256::<M, BYTES>(x, k, w, n0, y),
        kind if kind.is_integer() => products_256::<M, SMALL>(x, k, w, n0, y),
        _ => products_256::<M, TABLE>(x, k, w, n0, y),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn products_256<const M: usize, const CODE: u8>(
    x: &Int8Rows,
    k: usize,
    w: Blocks,
    n0: usize,
    y: &mut [[f32; 4]],
) {
    let wide = k.next_multiple_of(CHUNK);
    x.check(M * wide);
    // Two products of 255 and 127 would not fit 16 bits: there the sign goes to the activation instead.
    let flipped = if CODE == BYTES { 128 } else { 0 };
    let (mut table, mut offset, mut unit) = ([_mm256_set1_epi8(0); 2], w.kind().offset() - flipped, 1.0);
    if CODE == TABLE
        && let Some(t) = w.kind().halves()
    {
        table = [t.high, t.low].map(|half| _mm256_broadcastsi128_si256(load_16(&half, 0)));
        (offset, unit) = (Halves::OFFSET, 1.0 / Halves::ONE);
    }
    let (offset, unit) = (_mm256_set1_ps(offset as f32), _mm256_set1_ps(unit));
    let high = _mm256_set1_epi16(128);
    let (ones, flip) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
    let lanes = [0, 2, 4, 6].map(|p| _mm256_setr_epi32(p, p, p, p, p + 1, p + 1, p + 1, p + 1));
    let mut open = Open::new();
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [__m256; M] = [_mm256_setzero_ps(); M];
        for (c, blocks) in chunks(w, w.row(n0 + j, k)).enumerate() {
            read(&mut open, w.kind(), blocks);
            for half in 0..2 {
                // SAFETY: `open` holds a chunk; row i of x has a chunk at c by the check above.
                unsafe {
                    let scale = _mm256_loadu_ps(open.scale.as_ptr().add(half * GROUPS / 2));
                    let scale = if CODE == TABLE {
                        _mm256_mul_ps(scale, unit)
                    } else {
                        scale
                    };
                    let min = _mm256_loadu_ps(open.min.as_ptr().add(half * GROUPS / 2));
                    let min = _mm256_fmadd_ps(scale, offset, min);
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let at = i * wide + c * CHUNK + half * CHUNK / 2;
                        let scale = _mm256_mul_ps(scale, _mm256_loadu_ps(x.scale.as_ptr().add(at / GROUP)));
                        let sums = _mm256_loadu_ps(x.sum.as_ptr().add(at / GROUP));
                        for (p, lanes) in lanes.iter().enumerate() {
                            let q = open.q.as_ptr().add(half * CHUNK / 2 + 32 * p);
                            let mut q = _mm256_loadu_si256(q.cast());
                            let mut x8 = _mm256_loadu_si256(x.q.as_ptr().add(at + 32 * p).cast());
                            if CODE == BYTES {
                                q = _mm256_xor_si256(q, flip);
                                (q, x8) = (_mm256_abs_epi8(q), _mm256_sign_epi8(x8, q));
                            }
                            let dots = if CODE == TABLE {
                                let [a, b] =
                                    table.map(|half| _mm256_maddubs_epi16(_mm256_shuffle_epi8(half, q), x8));
                                _mm256_add_epi32(_mm256_madd_epi16(a, high), _mm256_madd_epi16(b, ones))
                            } else {
                                _mm256_madd_epi16(_mm256_maddubs_epi16(q, x8), ones)
                            };
                            let scale = _mm256_permutevar8x32_ps(scale, *lanes);
                            *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, *acc);
                        }
                        *acc = _mm256_fnmadd_ps(min, sums, *acc);
                    }
                }
            }
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = sum_256(acc);
        }
    }
}

/// Exact products with floats of 8 bits, block by block as they lie in memory.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn e4m3_256<const M: usize>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    let QuantType::Group { head, len, .. } = w.kind() else {
        return;
    };
    let (wide, len, h) = (k.next_multiple_of(CHUNK), len.get(), head.bytes());
    assert!(
        x.len() == M * wide && k.is_multiple_of(len),
        "rows of activations"
    );
    let mask = _mm256_set1_epi16(0xBFFFu16 as i16);
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [[__m256; 2]; M] = [[_mm256_setzero_ps(); 2]; M];
        for (b, block) in w.row(n0 + j, k).chunks_exact(h + len).enumerate() {
            let mut sums: [[__m256; 2]; M] = [[_mm256_setzero_ps(); 2]; M];
            for at in (0..len).step_by(16) {
                // SAFETY: a block has `len` codes behind its head; row r of x has `len` numbers at b * len.
                unsafe {
                    let q = _mm_loadu_si128(block.as_ptr().add(h + at).cast());
                    let q = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(q));
                    let q = _mm256_and_si256(q, mask);
                    let q = [_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q)];
                    for (half, q) in q.into_iter().enumerate() {
                        let q = _mm256_cvtph_ps(q);
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm256_loadu_ps(x.as_ptr().add(r * wide + b * len + at + 8 * half));
                            sums[half] = _mm256_fmadd_ps(x, q, sums[half]);
                        }
                    }
                }
            }
            let scale = _mm256_set1_ps(head_of(head, block).0 * E4M3_SCALE);
            for (acc, sums) in acc.iter_mut().zip(sums) {
                acc[0] = _mm256_fmadd_ps(scale, sums[0], acc[0]);
                acc[1] = _mm256_fmadd_ps(scale, sums[1], acc[1]);
            }
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = sum_256(acc[0]) + sum_256(acc[1]);
        }
    }
}
