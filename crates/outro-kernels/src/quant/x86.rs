//! AVX2 and AVX-512 forms of opening blocks and of products with them.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, __m512i, _MM_HINT_T1, _mm_and_si128, _mm_cvtph_ps, _mm_cvtsi32_si128,
    _mm_cvtsi64_si128, _mm_cvtss_f32, _mm_loadl_epi64, _mm_loadu_si128, _mm_prefetch, _mm_set1_epi8,
    _mm_setr_epi16, _mm_srli_epi16, _mm_srli_si128, _mm_unpacklo_epi8, _mm256_and_si256,
    _mm256_castsi128_si256, _mm256_cmpeq_epi8, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps,
    _mm256_cvtepu8_epi32, _mm256_loadu_si256, _mm256_mul_ps, _mm256_or_si256, _mm256_permutevar8x32_ps,
    _mm256_set1_epi8, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_setr_epi64x, _mm256_setr_m128i, _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srl_epi16,
    _mm256_srli_epi16, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_xor_si256, _mm512_abs_epi8,
    _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_broadcast_i64x4, _mm512_castsi256_si512,
    _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps, _mm512_dpbusd_epi32,
    _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_inserti64x4, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_sub_epi8, _mm512_movepi8_mask, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_reduce_add_ps,
    _mm512_set1_epi8, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setr_epi64, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_slli_epi32, _mm512_sllv_epi16, _mm512_srli_epi16,
    _mm512_srlv_epi16, _mm512_ternarylogic_epi64,
};

use super::group::{Code, GroupLen, Halves, Head};
use super::heads::heads_of;
use super::int8_rows::Int8Rows;
use super::{Blocks, CHUNK, GROUP, Open, QuantType, chunks};

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn half(b: &[u8], at: usize) -> f32 {
    let bits = i32::from(u16::from_le_bytes([b[at], b[at + 1]]));
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
}

/// 16 bytes at `at`.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn load_16(b: &[u8], at: usize) -> __m128i {
    let b = &b[at..at + 16];
    // SAFETY: 16 bytes, by the slice.
    unsafe { _mm_loadu_si128(b.as_ptr().cast()) }
}

/// 32 bytes at `at`.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn load_32(b: &[u8], at: usize) -> __m256i {
    let b = &b[at..at + 32];
    // SAFETY: 32 bytes, by the slice.
    unsafe { _mm256_loadu_si256(b.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn store_32(q: &mut [u8], at: usize, x: __m256i) {
    let q = &mut q[at..at + 32];
    // SAFETY: 32 bytes, by the slice.
    unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), x) }
}

/// 16 bytes to 32 elements of 4 bits: low halves first.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn nibbles(b: &[u8], at: usize) -> __m256i {
    let x = load_16(b, at);
    let mask = _mm_set1_epi8(15);
    _mm256_setr_m128i(
        _mm_and_si128(x, mask),
        _mm_and_si128(_mm_srli_epi16::<4>(x), mask),
    )
}

/// 16 in element `i` where bit `i` of the word at `at` is set.
#[target_feature(enable = "avx2")]
#[inline]
fn fifth_bits(b: &[u8], at: usize) -> __m256i {
    let word = i32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    // Byte i of the register gets byte i / 8 of the word, then keeps bit i % 8.
    let spread = _mm256_setr_epi64x(
        0,
        0x0101_0101_0101_0101,
        0x0202_0202_0202_0202,
        0x0303_0303_0303_0303,
    );
    let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let x = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), bits);
    _mm256_and_si256(_mm256_cmpeq_epi8(x, bits), _mm256_set1_epi8(16))
}

/// [`Open::read`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn read(open: &mut Open, kind: QuantType, blocks: &[u8]) {
    let n = blocks.len() / kind.block_bytes();
    if let QuantType::Group { code, head, len } = kind {
        return read_group(open, code, head, len, blocks);
    }
    if kind.is_further() {
        return super::further::read(open, kind, blocks);
    }
    if kind.block_len() == 32 {
        for i in 0..CHUNK / 32 {
            if i >= n {
                store_32(&mut open.q, i * 32, _mm256_set1_epi8(0));
                open.scale[2 * i..2 * i + 2].fill(0.0);
                open.min[2 * i..2 * i + 2].fill(0.0);
                continue;
            }
            let b = &blocks[i * kind.block_bytes()..(i + 1) * kind.block_bytes()];
            let (q, min) = match kind {
                QuantType::Q4_0 => (nibbles(b, 2), 0.0),
                QuantType::Q4_1 => (nibbles(b, 4), -half(b, 2)),
                QuantType::Q5_0 => (_mm256_or_si256(nibbles(b, 6), fifth_bits(b, 2)), 0.0),
                QuantType::Q5_1 => (_mm256_or_si256(nibbles(b, 8), fifth_bits(b, 4)), -half(b, 2)),
                _ => (_mm256_xor_si256(load_32(b, 2), _mm256_set1_epi8(-128)), 0.0),
            };
            store_32(&mut open.q, i * 32, q);
            open.scale[2 * i..2 * i + 2].fill(half(b, 0));
            open.min[2 * i..2 * i + 2].fill(min);
        }
        return;
    }
    if n == 0 {
        return;
    }
    let low = _mm256_set1_epi8(15);
    match kind {
        QuantType::Q4K => {
            scales_and_minima(open, blocks);
            for piece in 0..4 {
                let x = load_32(blocks, 16 + 32 * piece);
                store_32(&mut open.q, 64 * piece, _mm256_and_si256(x, low));
                let x = _mm256_and_si256(_mm256_srli_epi16::<4>(x), low);
                store_32(&mut open.q, 64 * piece + 32, x);
            }
        }
        QuantType::Q5K => {
            scales_and_minima(open, blocks);
            let fifths = load_32(blocks, 16);
            let sixteen = _mm256_set1_epi8(16);
            for piece in 0..4 {
                let x = load_32(blocks, 48 + 32 * piece);
                // Bits 2 piece and 2 piece + 1 of every byte, moved to bit 4.
                let high = _mm256_srl_epi16(
                    _mm256_slli_epi16::<4>(fifths),
                    _mm_cvtsi32_si128(2 * piece as i32),
                );
                let high = if piece < 2 {
                    high
                } else {
                    _mm256_srl_epi16(fifths, _mm_cvtsi32_si128(2 * piece as i32 - 4))
                };
                let high_next = _mm256_srli_epi16::<1>(high);
                let x0 = _mm256_or_si256(_mm256_and_si256(x, low), _mm256_and_si256(high, sixteen));
                let x1 = _mm256_and_si256(_mm256_srli_epi16::<4>(x), low);
                let x1 = _mm256_or_si256(x1, _mm256_and_si256(high_next, sixteen));
                store_32(&mut open.q, 64 * piece, x0);
                store_32(&mut open.q, 64 * piece + 32, x1);
            }
        }
        _ => {
            let d = _mm256_set1_ps(half(blocks, 208));
            for part in 0..2 {
                // SAFETY: 8 bytes of the 210, and 8 of the 16 scales.
                unsafe {
                    let s = _mm_loadl_epi64(blocks[192 + 8 * part..200 + 8 * part].as_ptr().cast());
                    let s = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(s)));
                    _mm256_storeu_ps(open.scale[8 * part..8 * part + 8].as_mut_ptr(), s);
                }
                let (x, y) = (load_32(blocks, 64 * part), load_32(blocks, 64 * part + 32));
                let high = load_32(blocks, 128 + 32 * part);
                let top = _mm256_set1_epi8(0b11_0000);
                let parts = [
                    (_mm256_and_si256(x, low), _mm256_slli_epi16::<4>(high)),
                    (_mm256_and_si256(y, low), _mm256_slli_epi16::<2>(high)),
                    (_mm256_and_si256(_mm256_srli_epi16::<4>(x), low), high),
                    (
                        _mm256_and_si256(_mm256_srli_epi16::<4>(y), low),
                        _mm256_srli_epi16::<2>(high),
                    ),
                ];
                for (i, (x, high)) in parts.into_iter().enumerate() {
                    let q = _mm256_or_si256(x, _mm256_and_si256(high, top));
                    store_32(&mut open.q, 128 * part + 32 * i, q);
                }
            }
        }
    }
}

/// [`Head::read`] with the processor's own widening of f16.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn head_of(head: Head, b: &[u8]) -> (f32, f32) {
    match head {
        Head::F16 => (half(b, 0), 0.0),
        Head::F16Bias => (half(b, 0), -half(b, 2)),
        _ => head.read(b),
    }
}

/// [`super::group::read`], of blocks behind a head.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn read_group(open: &mut Open, code: Code, head: Head, len: GroupLen, blocks: &[u8]) {
    // What a loop has as a constant, it does not ask for each block.
    match (code.bits(), len) {
        (4, GroupLen::L32) => read_blocks::<4, 32>(open, code, head, blocks),
        (4, GroupLen::L64) => read_blocks::<4, 64>(open, code, head, blocks),
        (4, GroupLen::L128) => read_blocks::<4, 128>(open, code, head, blocks),
        (_, GroupLen::L32) => read_blocks::<8, 32>(open, code, head, blocks),
        (_, GroupLen::L64) => read_blocks::<8, 64>(open, code, head, blocks),
        (_, GroupLen::L128) => read_blocks::<8, 128>(open, code, head, blocks),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn read_blocks<const BITS: usize, const LEN: usize>(open: &mut Open, code: Code, head: Head, blocks: &[u8]) {
    let h = head.bytes();
    let size = h + LEN * BITS / 8;
    if blocks.len() != CHUNK / LEN * size {
        let Some(len) = GroupLen::ALL.into_iter().find(|l| l.get() == LEN) else {
            return;
        };
        return super::group::read(open, code, head, len, blocks);
    }
    let q = open.q.as_chunks_mut::<LEN>().0;
    for (q, b) in q.iter_mut().zip(blocks.chunks_exact(size)) {
        for part in 0..LEN / 32 {
            let bits = if BITS == 4 {
                nibbles(b, h + 16 * part)
            } else {
                load_32(b, h + 32 * part)
            };
            store_32(q, 32 * part, bits);
        }
    }
    // SAFETY: a chunk's blocks, by the test above; every one has codes behind its head.
    let (scales, minima) = unsafe { heads_of::<LEN>(head, blocks.as_ptr(), size) };
    let scales = _mm256_mul_ps(scales, _mm256_set1_ps(code.scaled(1.0)));
    // A number for 32 elements serves two groups of 16.
    let twice = [
        _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3),
        _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7),
    ];
    for (all, to) in [(scales, &mut open.scale), (minima, &mut open.min)] {
        for (half, lanes) in to.as_chunks_mut::<8>().0.iter_mut().zip(twice) {
            // SAFETY: 8 floats.
            unsafe { _mm256_storeu_ps(half.as_mut_ptr(), _mm256_permutevar8x32_ps(all, lanes)) };
        }
    }
}

/// The eight scales and the eight minima of a block with 6 bits each, a byte a number.
#[inline(always)]
fn six_bits(b: &[u8]) -> ((u32, u32), (u32, u32)) {
    let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let (x, y, z) = (word(4), word(8), word(12));
    let scales = (x & 0x3F3F_3F3F, (z & 0x0F0F_0F0F) | ((x >> 2) & 0x3030_3030));
    let minima = (
        y & 0x3F3F_3F3F,
        ((z >> 4) & 0x0F0F_0F0F) | ((y >> 2) & 0x3030_3030),
    );
    (scales, minima)
}

/// As [`Open`]'s of the same name, eight numbers at a time.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales_and_minima(open: &mut Open, b: &[u8]) {
    let (scales, minima) = six_bits(b);
    for ((lo, hi), d, out) in [
        (scales, half(b, 0), &mut open.scale),
        (minima, half(b, 2), &mut open.min),
    ] {
        let bytes = _mm_cvtsi64_si128((u64::from(lo) | u64::from(hi) << 32) as i64);
        // Every number serves two groups.
        let twice = _mm_unpacklo_epi8(bytes, bytes);
        let d = _mm256_set1_ps(d);
        let first = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(twice));
        let second = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(twice)));
        // SAFETY: 16 floats.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(d, first));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_mul_ps(d, second));
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn sum_256(x: __m256) -> f32 {
    let mut lanes = [0f32; 8];
    // SAFETY: eight floats.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), x) };
    crate::simd::sum_lanes(lanes)
}

/// Bytes ahead of their use at which blocks are asked for.
const AHEAD: usize = 16384;

/// Asks for the memory that lies [`AHEAD`] of these blocks.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn prefetch(blocks: &[u8]) {
    for line in (0..blocks.len()).step_by(64) {
        // A prefetch may be of any address.
        _mm_prefetch::<_MM_HINT_T1>(blocks.as_ptr().wrapping_add(AHEAD + line).cast());
    }
}

/// [`int8_512`] for whole chunks of Q8_0, whose bytes are multiplied as they lie in memory.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn q8_512<const M: usize>(x: &Int8Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    x.check(M * k);
    // Of the scales of 8 blocks, those of a register's two.
    let lanes = [0, 2, 4, 6].map(|p| {
        let q = p + 1;
        _mm512_setr_epi32(p, p, p, p, p, p, p, p, q, q, q, q, q, q, q, q)
    });
    let every_other = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
        let row = w.row(n0 + j, k).as_chunks::<272>().0;
        for (c, chunk) in row.iter().enumerate() {
            prefetch(chunk);
            let d = |b: usize| i16::from_le_bytes([chunk[34 * b], chunk[34 * b + 1]]);
            let d = _mm_setr_epi16(d(0), d(1), d(2), d(3), d(4), d(5), d(6), d(7));
            let d = _mm512_cvtph_ps(_mm256_castsi128_si256(d));
            let pairs = [0, 1, 2, 3].map(|p| {
                let q = _mm512_castsi256_si512(load_32(chunk, 68 * p + 2));
                _mm512_inserti64x4::<1>(q, load_32(chunk, 68 * p + 36))
            });
            for (i, acc) in acc.iter_mut().enumerate() {
                let at = i * k + c * CHUNK;
                // SAFETY: row i of x has a chunk at c by the check above.
                unsafe {
                    let scale = _mm512_loadu_ps(x.scale.as_ptr().add(at / GROUP));
                    let scale = _mm512_mul_ps(d, _mm512_permutexvar_ps(every_other, scale));
                    for (p, (q, lanes)) in pairs.iter().zip(&lanes).enumerate() {
                        let x8 = _mm512_loadu_si512(x.q.as_ptr().add(at + 64 * p).cast());
                        // One operand of the instruction has no sign: the weight's goes to the activation.
                        let negative = _mm512_movepi8_mask(*q);
                        let x8 = _mm512_mask_sub_epi8(x8, negative, _mm512_setzero_si512(), x8);
                        let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_abs_epi8(*q), x8);
                        let scale = _mm512_permutexvar_ps(*lanes, scale);
                        acc[p % 2] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, acc[p % 2]);
                    }
                }
            }
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}

/// [`int8_512`] for Q4_K without the way through memory, whose stores and loads of other widths wait for each other.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn q4k_512<const M: usize>(x: &Int8Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    x.check(M * k);
    let (lanes, low) = (group_lanes(), _mm256_set1_epi8(15));
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
        for (c, chunk) in w.row(n0 + j, k).as_chunks::<144>().0.iter().enumerate() {
            prefetch(chunk);
            let (scales, minima) = six_bits(chunk);
            let of_groups = |(first, last): (u32, u32), d: f32| {
                let bytes = _mm_cvtsi64_si128((u64::from(first) | u64::from(last) << 32) as i64);
                let twice = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, bytes));
                _mm512_mul_ps(_mm512_set1_ps(d), _mm512_cvtepi32_ps(twice))
            };
            let (scale, min) = (
                of_groups(scales, half(chunk, 0)),
                of_groups(minima, half(chunk, 2)),
            );
            let q = [0, 1, 2, 3].map(|p| {
                let bits = load_32(chunk, 16 + 32 * p);
                let q = _mm512_castsi256_si512(_mm256_and_si256(bits, low));
                _mm512_inserti64x4::<1>(q, _mm256_and_si256(_mm256_srli_epi16::<4>(bits), low))
            });
            add_chunk(&mut acc, (q, None), (scale, min), x, k, c, &lanes);
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}

/// As [`q4k_512`] for Q6_K.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn q6k_512<const M: usize>(x: &Int8Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    x.check(M * k);
    let lanes = group_lanes();
    let offset = _mm512_set1_ps(w.kind().offset() as f32);
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
        for (c, chunk) in w.row(n0 + j, k).as_chunks::<210>().0.iter().enumerate() {
            prefetch(chunk);
            let scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16(chunk, 192)));
            let scale = _mm512_mul_ps(_mm512_set1_ps(half(chunk, 208)), scale);
            let [q0, q1] = sixes(chunk, 0);
            let [q2, q3] = sixes(chunk, 1);
            let low = _mm512_mul_ps(scale, offset);
            add_chunk(&mut acc, ([q0, q1, q2, q3], None), (scale, low), x, k, c, &lanes);
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}

/// Half of a chunk of Q6_K: four low bits of 128 elements in 64 bytes, four times two high bits in 32.
#[target_feature(enable = "avx512f,avx512bw,avx2")]
#[inline]
fn sixes(chunk: &[u8; 210], part: usize) -> [__m512i; 2] {
    let (four, six) = (_mm512_set1_epi8(15), _mm512_set1_epi8(63));
    let bits = _mm512_inserti64x4::<1>(
        _mm512_castsi256_si512(load_32(chunk, 64 * part)),
        load_32(chunk, 64 * part + 32),
    );
    let high = _mm512_broadcast_i64x4(load_32(chunk, 128 + 32 * part));
    let by = |first: i64, second: i64| {
        let (a, b) = (first * 0x0001_0001_0001_0001, second * 0x0001_0001_0001_0001);
        _mm512_setr_epi64(a, a, a, a, b, b, b, b)
    };
    // What a shift moves in from a neighbour lies outside the six bits that are kept. 0xCA: where the mask is set the
    // first, elsewhere the second.
    let join = |bits, high| _mm512_and_si512(_mm512_ternarylogic_epi64::<0xCA>(four, bits, high), six);
    [
        join(bits, _mm512_sllv_epi16(high, by(4, 2))),
        join(_mm512_srli_epi16::<4>(bits), _mm512_srlv_epi16(high, by(0, 2))),
    ]
}

/// Codes of a table as both halves of their numbers; where there is no table, themselves.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn halves_of(
    table: Option<[__m512i; 2]>,
    q: [__m512i; 4],
) -> ([__m512i; 4], Option<[__m512i; 4]>) {
    let Some([high, low]) = table else {
        return (q, None);
    };
    let (mut highs, mut lows) = (q, q);
    for (a, b) in highs.iter_mut().zip(&mut lows) {
        *a = _mm512_shuffle_epi8(high, *a);
        *b = _mm512_shuffle_epi8(low, *b);
    }
    (highs, Some(lows))
}

/// A table's halves in every lane of 16 bytes, the offset of its numbers and what a scale is multiplied with.
#[target_feature(enable = "avx512f,avx512bw,avx2")]
#[inline]
pub(super) fn table_of(kind: QuantType) -> (Option<[__m512i; 2]>, f32, f32) {
    match kind.halves() {
        Some(t) => {
            let table = [t.high, t.low].map(|half| _mm512_broadcast_i32x4(load_16(&half, 0)));
            (Some(table), Halves::OFFSET as f32, 1.0 / Halves::ONE)
        }
        None => (None, kind.offset() as f32, 1.0),
    }
}

/// Adds the products of chunk `c` of every row of `x` with the 256 numbers `q`, or with `128 q + low`; scale and what is taken away
/// are by group of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn add_chunk<const M: usize>(
    acc: &mut [[__m512; 2]; M],
    (q, low): ([__m512i; 4], Option<[__m512i; 4]>),
    (of_scale, of_min): (__m512, __m512),
    x: &Int8Rows,
    k: usize,
    c: usize,
    lanes: &[__m512i; 4],
) {
    for (i, acc) in acc.iter_mut().enumerate() {
        let at = i * k + c * CHUNK;
        // SAFETY: callers have checked that there are M rows of whole chunks.
        unsafe {
            let scale = _mm512_mul_ps(of_scale, _mm512_loadu_ps(x.scale.as_ptr().add(at / GROUP)));
            let sums = _mm512_loadu_ps(x.sum.as_ptr().add(at / GROUP));
            for (p, (q, lanes)) in q.iter().zip(lanes).enumerate() {
                let x8 = _mm512_loadu_si512(x.q.as_ptr().add(at + 64 * p).cast());
                let mut dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), *q, x8);
                if let Some(low) = &low {
                    dots = _mm512_dpbusd_epi32(_mm512_slli_epi32::<7>(dots), low[p], x8);
                }
                let scale = _mm512_permutexvar_ps(*lanes, scale);
                acc[p % 2] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, acc[p % 2]);
            }
            acc[0] = _mm512_fnmadd_ps(of_min, sums, acc[0]);
        }
    }
}

/// A register holds the sums of four elements each; four of them make a group: the groups of each of four registers.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn group_lanes() -> [__m512i; 4] {
    [0, 4, 8, 12].map(|p| {
        let (a, b, c, d) = (p, p + 1, p + 2, p + 3);
        _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d)
    })
}

/// Products with quantised activations, `y[j][i] = x[i] . w[n0 + j]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn int8_512<const M: usize>(x: &Int8Rows, k: usize, w: Blocks, n0: usize, y: &mut [[f32; 4]]) {
    let wide = k.next_multiple_of(CHUNK);
    x.check(M * wide);
    let (table, offset, unit) = table_of(w.kind());
    let (offset, unit) = (_mm512_set1_ps(offset), _mm512_set1_ps(unit));
    let lanes = group_lanes();
    let mut open = Open::new();
    for (j, y) in y.iter_mut().enumerate() {
        let mut acc: [[__m512; 2]; M] = [[_mm512_setzero_ps(); 2]; M];
        for (c, blocks) in chunks(w, w.row(n0 + j, k)).enumerate() {
            prefetch(blocks);
            read(&mut open, w.kind(), blocks);
            // SAFETY: `open` holds a chunk.
            let (scale, min, q) = unsafe {
                (
                    _mm512_loadu_ps(open.scale.as_ptr()),
                    _mm512_loadu_ps(open.min.as_ptr()),
                    [0, 64, 128, 192].map(|at| _mm512_loadu_si512(open.q.as_ptr().add(at).cast())),
                )
            };
            let scale = _mm512_mul_ps(scale, unit);
            let min = _mm512_fmadd_ps(scale, offset, min);
            add_chunk(&mut acc, halves_of(table, q), (scale, min), x, wide, c, &lanes);
        }
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = _mm512_reduce_add_ps(acc[0]) + _mm512_reduce_add_ps(acc[1]);
        }
    }
}
