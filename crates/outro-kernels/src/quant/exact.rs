//! Opening into f32, and products of exact activations with it, in AVX2 and AVX-512.

use std::arch::x86_64::{
    __m128i, __m256, __m512, _mm_and_si128, _mm_cvtepi8_epi16, _mm_loadl_epi64, _mm_loadu_si128,
    _mm_set1_epi16, _mm_slli_epi16, _mm256_and_si256, _mm256_blendv_ps, _mm256_castsi256_ps,
    _mm256_cvtepi8_epi16, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps,
    _mm256_fmsub_ps, _mm256_loadu_ps, _mm256_permutevar8x32_ps, _mm256_set1_epi16, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_slli_epi16, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_fmsub_ps,
    _mm512_loadu_ps, _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_sub_ps,
};

use super::group::Values;
use super::x86::{read, sum_256};
use super::{Blocks, CHUNK, GROUP, GROUPS, Open, QuantType, chunks};

/// [`Values`] as a constant, so that loops do not ask.
const OFFSET: u8 = 0;
const TABLE: u8 = 1;
const E4M3: u8 = 2;

/// The table of a layout that has one, in the shape of two registers; else its offset sixteen times.
fn table(kind: QuantType) -> [f32; 16] {
    match kind.values() {
        Values::Offset(offset) => [offset as f32; 16],
        Values::Table(table) => *table,
        Values::E4m3 => [0.0; 16],
    }
}

/// 16 codes as numbers.
#[target_feature(enable = "avx512f,avx2,f16c")]
#[inline]
fn values_512<const V: u8>(q: __m128i, table: __m512) -> __m512 {
    match V {
        TABLE => _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(q), table),
        E4M3 => {
            let q = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(q));
            _mm512_cvtph_ps(_mm256_and_si256(q, _mm256_set1_epi16(0xBFFFu16 as i16)))
        }
        _ => _mm512_sub_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q)), table),
    }
}

/// 8 codes as numbers.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn values_256<const V: u8>(q: __m128i, table: [__m256; 2]) -> __m256 {
    match V {
        TABLE => {
            let q = _mm256_cvtepu8_epi32(q);
            let (low, high) = (
                _mm256_permutevar8x32_ps(table[0], q),
                _mm256_permutevar8x32_ps(table[1], q),
            );
            // The fourth bit, as the sign that the blend looks at.
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(q)))
        }
        E4M3 => {
            let q = _mm_slli_epi16::<7>(_mm_cvtepi8_epi16(q));
            _mm256_cvtph_ps(_mm_and_si128(q, _mm_set1_epi16(0xBFFFu16 as i16)))
        }
        _ => _mm256_sub_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(q)), table[0]),
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn table_256(kind: QuantType) -> [__m256; 2] {
    let table = table(kind);
    // SAFETY: 16 floats.
    unsafe {
        [
            _mm256_loadu_ps(table.as_ptr()),
            _mm256_loadu_ps(table.as_ptr().add(8)),
        ]
    }
}

/// [`Open::read`] and [`Open::widen`]. The product is exact where there is a minimum of llama.cpp's, so fusing changes
/// nothing there.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn open_wide(kind: QuantType, blocks: &[u8], open: &mut Open, wide: &mut [f32; CHUNK]) {
    read(open, kind, blocks);
    match kind.values() {
        Values::Offset(_) => widen::<OFFSET>(kind, open, wide),
        Values::Table(_) => widen::<TABLE>(kind, open, wide),
        Values::E4m3 => widen::<E4M3>(kind, open, wide),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen<const V: u8>(kind: QuantType, open: &Open, wide: &mut [f32; CHUNK]) {
    let table = table_256(kind);
    for g in 0..GROUPS {
        let (scale, min) = (_mm256_set1_ps(open.scale[g]), _mm256_set1_ps(open.min[g]));
        for half in 0..2 {
            let at = g * GROUP + half * 8;
            // SAFETY: 8 of the chunk's elements.
            unsafe {
                let q = values_256::<V>(_mm_loadl_epi64(open.q.as_ptr().add(at).cast()), table);
                _mm256_storeu_ps(wide.as_mut_ptr().add(at), _mm256_fmsub_ps(scale, q, min));
            }
        }
    }
}

/// Exact products, `y[j][i] = x[i] . w[n0 + j]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn exact_512<const M: usize>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    match w.kind().values() {
        Values::Offset(_) => products_512::<M, OFFSET>(x, k, w, n0, y),
        Values::Table(_) => products_512::<M, TABLE>(x, k, w, n0, y),
        Values::E4m3 => products_512::<M, E4M3>(x, k, w, n0, y),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn products_512<const M: usize, const V: u8>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    let wide = k.next_multiple_of(CHUNK);
    assert!(x.len() == M * wide, "rows of activations");
    let table = table(w.kind());
    // SAFETY: 16 floats.
    let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let mut open = Open::new();
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
        for (c, blocks) in chunks(w, w.row(n0 + j, k)).enumerate() {
            read(&mut open, w.kind(), blocks);
            for g in 0..GROUPS {
                // SAFETY: 16 of the chunk's elements; row i of x has a chunk at c by the assertion above.
                unsafe {
                    let q = _mm_loadu_si128(open.q.as_ptr().add(g * GROUP).cast());
                    let q = values_512::<V>(q, table);
                    let w = _mm512_fmsub_ps(_mm512_set1_ps(open.scale[g]), q, _mm512_set1_ps(open.min[g]));
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let x = _mm512_loadu_ps(x.as_ptr().add(i * wide + c * CHUNK + g * GROUP));
                        acc[g % 2] = _mm512_fmadd_ps(x, w, acc[g % 2]);
                    }
                }
            }
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}

/// Exact products, `y[j][i] = x[i] . w[n0 + j]`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exact_256<const M: usize>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    match w.kind().values() {
        Values::Offset(_) => products_256::<M, OFFSET>(x, k, w, n0, y),
        Values::Table(_) => products_256::<M, TABLE>(x, k, w, n0, y),
        Values::E4m3 => products_256::<M, E4M3>(x, k, w, n0, y),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn products_256<const M: usize, const V: u8>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    let wide = k.next_multiple_of(CHUNK);
    assert!(x.len() == M * wide, "rows of activations");
    let table = table_256(w.kind());
    let mut open = Open::new();
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [[__m256; 2]; M] = [[_mm256_setzero_ps(); 2]; M];
        for (c, blocks) in chunks(w, w.row(n0 + j, k)).enumerate() {
            read(&mut open, w.kind(), blocks);
            for g in 0..GROUPS {
                let (scale, min) = (_mm256_set1_ps(open.scale[g]), _mm256_set1_ps(open.min[g]));
                for half in 0..2 {
                    // SAFETY: 8 of the chunk's elements; row i of x has a chunk at c by the assertion above.
                    unsafe {
                        let at = g * GROUP + half * 8;
                        let q = values_256::<V>(_mm_loadl_epi64(open.q.as_ptr().add(at).cast()), table);
                        let w = _mm256_fmsub_ps(scale, q, min);
                        for (i, acc) in acc.iter_mut().enumerate() {
                            let x = _mm256_loadu_ps(x.as_ptr().add(i * wide + c * CHUNK + at));
                            acc[half] = _mm256_fmadd_ps(x, w, acc[half]);
                        }
                    }
                }
            }
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = sum_256(acc[0]) + sum_256(acc[1]);
        }
    }
}
