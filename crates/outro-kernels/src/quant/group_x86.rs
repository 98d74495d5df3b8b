//! AVX2 and AVX-512 forms of what [`super::group`] does.

use std::arch::x86_64::{
    __m256, __m256i, __m512, _mm_loadu_si128, _mm256_and_si256, _mm256_andnot_si256,
    _mm256_broadcastsi128_si256, _mm256_castsi256_ps, _mm256_cvtepi32_epi16, _mm256_cvtepi32_ps,
    _mm256_cvtph_ps, _mm256_mul_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps,
    _mm256_slli_epi32, _mm256_srli_epi32, _mm256_xor_ps, _mm512_and_si512, _mm512_castps256_ps512,
    _mm512_castsi256_si512, _mm512_fmadd_ps, _mm512_inserti64x4, _mm512_permutexvar_ps, _mm512_reduce_add_ps,
    _mm512_set1_epi8, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setr_epi64, _mm512_setzero_ps,
    _mm512_srlv_epi16,
};

use super::group::{BELOW, Code, E4M3_SCALE, GroupLen, Head};
use super::int8_rows::Int8Rows;
use super::x86::{add_chunk, group_lanes, half, load_32, nibbles, prefetch, store_32};
use super::{Blocks, CHUNK, GROUP, Open, QuantType, chunks};

/// [`Head::read`] with the processor's own widening of f16.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn head_of(head: Head, b: &[u8]) -> (f32, f32) {
    match head {
        Head::F16 => (half(b, 0), 0.0),
        Head::F16Bias => (half(b, 0), -half(b, 2)),
        _ => head.read(b),
    }
}

/// [`super::group::read`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn read(open: &mut Open, code: Code, head: Head, len: GroupLen, blocks: &[u8]) {
    let (len, h) = (len.get(), head.bytes());
    let size = h + len * code.bits() / 8;
    for (i, at) in (0..CHUNK).step_by(len).enumerate() {
        let groups = at / GROUP..(at + len) / GROUP;
        let Some(b) = blocks.get(i * size..(i + 1) * size) else {
            open.q[at..at + len].fill(0);
            open.scale[groups.clone()].fill(0.0);
            open.min[groups].fill(0.0);
            continue;
        };
        for part in 0..len / 32 {
            let q = if code.bits() == 4 {
                nibbles(b, h + 16 * part)
            } else {
                load_32(b, h + 32 * part)
            };
            store_32(&mut open.q, at + 32 * part, q);
        }
        let (scale, min) = head_of(head, b);
        let scale = if code == Code::E4m3 {
            scale * E4M3_SCALE
        } else {
            scale
        };
        open.scale[groups.clone()].fill(scale);
        open.min[groups].fill(min);
    }
}

/// Eight heads at once: scales, and what is taken away.
///
/// # Safety
/// Each pointer is to a block, of which the first 4 bytes can be read, and its whole head.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn heads_of(head: Head, at: [*const u8; 8]) -> (__m256, __m256) {
    // SAFETY: the caller's contract.
    let words = |skip: usize| unsafe {
        let [a, b, c, d, e, f, g, h] = at.map(|p| p.add(skip).cast::<i32>().read_unaligned());
        _mm256_setr_epi32(a, b, c, d, e, f, g, h)
    };
    let halves = |w: __m256i| _mm256_cvtph_ps(_mm256_cvtepi32_epi16(w));
    let minus = |x: __m256| _mm256_xor_ps(x, _mm256_set1_ps(-0.0));
    let (w, zero) = (words(0), _mm256_setzero_ps());
    match head {
        Head::F32 => (_mm256_castsi256_ps(w), zero),
        Head::Bf16 => (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(w)), zero),
        Head::F16 => (halves(w), zero),
        Head::Zero => {
            let scale = _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_set1_epi32(BELOW as i32), w));
            let point = _mm256_cvtepi32_ps(_mm256_and_si256(w, _mm256_set1_epi32(255)));
            (scale, _mm256_mul_ps(scale, point))
        }
        Head::F32Bias => (_mm256_castsi256_ps(w), minus(_mm256_castsi256_ps(words(4)))),
        Head::Bf16Bias => {
            let bias = _mm256_andnot_si256(_mm256_set1_epi32(0xFFFF), w);
            (
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w)),
                minus(_mm256_castsi256_ps(bias)),
            )
        }
        Head::F16Bias => (halves(w), minus(halves(_mm256_srli_epi32::<16>(w)))),
    }
}

/// [`super::x86::int8_512`] for integers of 4 bits in rows of whole chunks, without the way through memory.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn int4_512<const M: usize>(x: &Int8Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    let QuantType::Group { head, len, .. } = w.kind() else {
        return;
    };
    match len {
        GroupLen::L32 => int4_of::<M, 32>(head, x, k, w, n0, y),
        GroupLen::L64 => int4_of::<M, 64>(head, x, k, w, n0, y),
        GroupLen::L128 => int4_of::<M, 128>(head, x, k, w, n0, y),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn int4_of<const M: usize, const LEN: usize>(
    head: Head,
    x: &Int8Rows,
    k: usize,
    w: Blocks,
    n0: usize,
    y: &mut [[f32; 4]],
) {
    x.check(M * k);
    let (h, size) = (head.bytes(), head.bytes() + LEN / 2);
    let (lanes, low) = (group_lanes(), _mm512_set1_epi8(15));
    let offset = _mm512_set1_ps(w.kind().offset() as f32);
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
            let (scale, min, q) = unsafe {
                let (scale, min) = heads_of(
                    head,
                    [0, 1, 2, 3, 4, 5, 6, 7].map(|g| chunk.as_ptr().add(g * 32 / LEN * size)),
                );
                let q = [0, 1, 2, 3].map(|p| {
                    let part = |at: usize| {
                        let at = at / LEN * size + h + at % LEN / 2;
                        _mm256_broadcastsi128_si256(_mm_loadu_si128(chunk.as_ptr().add(at).cast()))
                    };
                    let q = _mm512_castsi256_si512(part(64 * p));
                    let q = _mm512_inserti64x4::<1>(q, part(64 * p + 32));
                    _mm512_and_si512(_mm512_srlv_epi16(q, shifts), low)
                });
                (scale, min, q)
            };
            let scale = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(scale));
            let min = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(min));
            let min = _mm512_fmadd_ps(scale, offset, min);
            add_chunk(&mut acc, q, (scale, min), x, k, c, &lanes);
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}
