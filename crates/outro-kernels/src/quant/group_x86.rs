//! AVX2 and AVX-512 forms of what [`super::group`] does.

use std::arch::x86_64::{
    __m512, _mm256_broadcastsi128_si256, _mm256_setr_ps, _mm512_and_si512, _mm512_castps256_ps512,
    _mm512_castsi256_si512, _mm512_fmadd_ps, _mm512_inserti64x4, _mm512_permutexvar_ps, _mm512_reduce_add_ps,
    _mm512_set1_epi8, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setr_epi64, _mm512_setzero_ps,
    _mm512_srlv_epi16,
};

use super::group::{Code, E4M3_SCALE, GroupLen, Head};
use super::int8_rows::Int8Rows;
use super::x86::{add_chunk, group_lanes, half, load_16, load_32, nibbles, prefetch, store_32};
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
            let mut heads = [(0f32, 0f32); 8];
            for (i, b) in chunk.chunks_exact(size).enumerate() {
                let this = head_of(head, b);
                heads[i * LEN / 32..(i + 1) * LEN / 32].fill(this);
            }
            let [a, b, c0, d, e, f, g, i] = heads;
            let scale = _mm256_setr_ps(a.0, b.0, c0.0, d.0, e.0, f.0, g.0, i.0);
            let min = _mm256_setr_ps(a.1, b.1, c0.1, d.1, e.1, f.1, g.1, i.1);
            let scale = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(scale));
            let min = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(min));
            let min = _mm512_fmadd_ps(scale, offset, min);
            let q = [0, 1, 2, 3].map(|p| {
                let part = |at: usize| {
                    let at = at / LEN * size + h + at % LEN / 2;
                    _mm256_broadcastsi128_si256(load_16(chunk, at))
                };
                let q = _mm512_castsi256_si512(part(64 * p));
                let q = _mm512_inserti64x4::<1>(q, part(64 * p + 32));
                _mm512_and_si512(_mm512_srlv_epi16(q, shifts), low)
            });
            add_chunk(&mut acc, q, (scale, min), x, k, c, &lanes);
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}
