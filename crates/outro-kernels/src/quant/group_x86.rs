//! AVX-512 products with blocks behind heads, as they lie in memory.

use std::arch::x86_64::{
    __m512, _mm_loadu_si128, _mm_setr_ps, _mm_setzero_si128, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_cvtepi8_epi16, _mm256_loadu_si256, _mm256_set1_epi16, _mm256_setr_m128i, _mm256_slli_epi16,
    _mm512_and_si512, _mm512_castps128_ps512, _mm512_castps256_ps512, _mm512_castsi256_si512,
    _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_inserti64x4, _mm512_loadu_ps, _mm512_mul_ps,
    _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_epi8, _mm512_set1_ps, _mm512_setr_epi32,
    _mm512_setr_epi64, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_srli_epi32, _mm512_srlv_epi16,
};

use super::group::{E4M3_SCALE, GroupLen, Head};
use super::heads::heads_of;
use super::int8_rows::Int8Rows;
use super::x86::{add_chunk, group_lanes, halves_of, head_of, load_16, prefetch, table_of};
use super::{Blocks, CHUNK, QuantType, chunks};

/// [`super::x86::int8_512`] for integers behind heads in rows of whole chunks, without the way through memory.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn integers_512<const M: usize>(x: &Int8Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    let QuantType::Group { code, head, len } = w.kind() else {
        return;
    };
    match (code.bits(), len) {
        (4, GroupLen::L32) => integers_of::<M, 4, 32>(head, x, k, w, n0, y),
        (4, GroupLen::L64) => integers_of::<M, 4, 64>(head, x, k, w, n0, y),
        (4, GroupLen::L128) => integers_of::<M, 4, 128>(head, x, k, w, n0, y),
        (_, GroupLen::L32) => integers_of::<M, 8, 32>(head, x, k, w, n0, y),
        (_, GroupLen::L64) => integers_of::<M, 8, 64>(head, x, k, w, n0, y),
        (_, GroupLen::L128) => integers_of::<M, 8, 128>(head, x, k, w, n0, y),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn integers_of<const M: usize, const BITS: usize, const LEN: usize>(
    head: Head,
    x: &Int8Rows,
    k: usize,
    w: Blocks,
    n0: usize,
    y: &mut [[f32; 4]],
) {
    x.check(M * k);
    let (h, size) = (head.bytes(), head.bytes() + LEN * BITS / 8);
    let (lanes, low) = (group_lanes(), _mm512_set1_epi8(15));
    let (table, offset, unit) = table_of(w.kind());
    let (offset, unit) = (_mm512_set1_ps(offset), _mm512_set1_ps(unit));
    // Low halves of 16 bytes, then high halves.
    let four = 0x0004_0004_0004_0004;
    let shifts = _mm512_setr_epi64(0, 0, four, four, 0, 0, four, four);
    // A number for 32 elements serves two groups of 16.
    let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
        for (c, chunk) in chunks(w, w.row(n0 + j, k)).enumerate() {
            prefetch(chunk);
            assert!(chunk.len() == CHUNK / LEN * size, "whole chunks");
            // SAFETY: a chunk's blocks have a head of at least 2 bytes and codes of at least 16 each.
            let (scale, min) = unsafe { heads_of::<LEN>(head, chunk.as_ptr(), size) };
            let mut q = [_mm512_setzero_si512(); 4];
            for (p, q) in q.iter_mut().enumerate() {
                let (a, b) = (64 * p, 64 * p + 32);
                // SAFETY: as above.
                unsafe {
                    let a = chunk.as_ptr().add(a / LEN * size + h + a % LEN * BITS / 8);
                    let b = chunk.as_ptr().add(b / LEN * size + h + b % LEN * BITS / 8);
                    if BITS == 8 {
                        let a = _mm512_castsi256_si512(_mm256_loadu_si256(a.cast()));
                        *q = _mm512_inserti64x4::<1>(a, _mm256_loadu_si256(b.cast()));
                        continue;
                    }
                    let a = _mm256_broadcastsi128_si256(_mm_loadu_si128(a.cast()));
                    let b = _mm256_broadcastsi128_si256(_mm_loadu_si128(b.cast()));
                    let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
                    *q = _mm512_and_si512(_mm512_srlv_epi16(both, shifts), low);
                }
            }
            let scale = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(scale));
            let min = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(min));
            let scale = _mm512_mul_ps(scale, unit);
            let min = _mm512_fmadd_ps(scale, offset, min);
            add_chunk(&mut acc, halves_of(table, q), (scale, min), x, k, c, &lanes);
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}

/// Exact products with floats of 8 bits, block by block as they lie in memory.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn e4m3_512<const M: usize>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
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
        let mut acc: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
        for (b, block) in w.row(n0 + j, k).chunks_exact(h + len).enumerate() {
            prefetch(block);
            let mut sums: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
            for i in 0..len / 32 {
                for half in 0..2 {
                    let at = 32 * i + 16 * half;
                    // SAFETY: a block has `len` codes behind its head; row r of x has `len` numbers at b * len.
                    unsafe {
                        let q = _mm_loadu_si128(block.as_ptr().add(h + at).cast());
                        let q = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(q));
                        let q = _mm512_cvtph_ps(_mm256_and_si256(q, mask));
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm512_loadu_ps(x.as_ptr().add(r * wide + b * len + at));
                            sums[half] = _mm512_fmadd_ps(x, q, sums[half]);
                        }
                    }
                }
            }
            let scale = _mm512_set1_ps(head_of(head, block).0 * E4M3_SCALE);
            for (acc, sums) in acc.iter_mut().zip(sums) {
                acc[0] = _mm512_fmadd_ps(scale, sums[0], acc[0]);
                acc[1] = _mm512_fmadd_ps(scale, sums[1], acc[1]);
            }
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}

/// Elements that one register of indices into a table has.
pub(super) const SPREAD: usize = 128;

/// Rows of activations in the order in which [`table_512`] meets codes: of every [`SPREAD`] elements first those in the
/// lowest bits of 16 words, then those in the next.
pub(super) fn spread(x: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; x.len()];
    for (out, x) in out
        .as_chunks_mut::<SPREAD>()
        .0
        .iter_mut()
        .zip(x.as_chunks::<SPREAD>().0)
    {
        for (i, out) in out.iter_mut().enumerate() {
            let (nibble, word) = (i / 16, i % 16);
            *out = x[word / 4 * 32 + word % 4 * 4 + nibble / 2 + nibble % 2 * 16];
        }
    }
    out
}

/// Exact products with codes that are indices into a table, in rows of whole [`SPREAD`]; `x` is in the order of [`spread`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn table_512<const M: usize>(x: &[f32], k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    let QuantType::Group { code, head, len } = w.kind() else {
        return;
    };
    let Some(table) = code.table() else { return };
    match len {
        GroupLen::L32 => table_products::<M, 32>(table, head, x, k, w, n0, y),
        GroupLen::L64 => table_products::<M, 64>(table, head, x, k, w, n0, y),
        GroupLen::L128 => table_products::<M, 128>(table, head, x, k, w, n0, y),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn table_products<const M: usize, const LEN: usize>(
    table: &[f32; 16],
    head: Head,
    x: &[f32],
    k: usize,
    w: Blocks,
    n0: usize,
    y: &mut [[f32; 4]],
) {
    let (h, size) = (head.bytes(), head.bytes() + LEN / 2);
    assert!(
        x.len() == M * k && k.is_multiple_of(SPREAD),
        "rows of activations"
    );
    let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    // SAFETY: 16 floats.
    let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
        let blocks = w.row(n0 + j, k).chunks_exact(SPREAD / LEN * size);
        for (c, blocks) in blocks.enumerate() {
            prefetch(blocks);
            let (mut scale, mut q) = ([0f32; 4], [_mm_setzero_si128(); 4]);
            for p in 0..4 {
                let at = p * 32 / LEN * size;
                scale[p] = head_of(head, &blocks[at..]).0;
                q[p] = load_16(blocks, at + h + p * 32 % LEN / 2);
            }
            let [a, b, d, e] = scale;
            let scale = _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(_mm_setr_ps(a, b, d, e)));
            let [a, b, d, e] = q;
            let q = _mm512_castsi256_si512(_mm256_setr_m128i(a, b));
            let q = _mm512_inserti64x4::<1>(q, _mm256_setr_m128i(d, e));
            // Of an index only the lowest four bits count.
            let shifted = [
                q,
                _mm512_srli_epi32::<4>(q),
                _mm512_srli_epi32::<8>(q),
                _mm512_srli_epi32::<12>(q),
                _mm512_srli_epi32::<16>(q),
                _mm512_srli_epi32::<20>(q),
                _mm512_srli_epi32::<24>(q),
                _mm512_srli_epi32::<28>(q),
            ];
            let mut sums: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
            for (i, q) in shifted.into_iter().enumerate() {
                let q = _mm512_permutexvar_ps(q, table);
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: row r of x has SPREAD numbers at c * SPREAD.
                    let x = unsafe { _mm512_loadu_ps(x.as_ptr().add(r * k + c * SPREAD + 16 * i)) };
                    sums[i % 2] = _mm512_fmadd_ps(x, q, sums[i % 2]);
                }
            }
            for (acc, sums) in acc.iter_mut().zip(sums) {
                acc[0] = _mm512_fmadd_ps(scale, sums[0], acc[0]);
                acc[1] = _mm512_fmadd_ps(scale, sums[1], acc[1]);
            }
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}
