//! Heads of blocks, eight at once (AVX2).

use std::arch::x86_64::{
    __m256, __m256i, _mm_set1_epi32, _mm256_and_si256, _mm256_andnot_si256, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_mul_ps, _mm256_packus_epi32,
    _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setr_m128i,
    _mm256_setzero_ps, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_xor_ps,
};

use super::group::{BELOW, Head};

/// The words at the beginning of the blocks of eight times 32 elements, `skip` bytes behind it.
///
/// # Safety
/// There are 256 elements in blocks of LEN and `size` bytes at `blocks`, the first `skip + 4` of each readable.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn words<const LEN: usize>(blocks: *const u8, size: usize, skip: usize) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let at = blocks.add(skip);
        if LEN == 128 {
            let (a, b) = (
                at.cast::<i32>().read_unaligned(),
                at.add(size).cast::<i32>().read_unaligned(),
            );
            return _mm256_setr_m128i(_mm_set1_epi32(a), _mm_set1_epi32(b));
        }
        let a = at.cast::<i32>().read_unaligned();
        let b = at.add(32 / LEN * size).cast::<i32>().read_unaligned();
        let c = at.add(64 / LEN * size).cast::<i32>().read_unaligned();
        let d = at.add(96 / LEN * size).cast::<i32>().read_unaligned();
        let e = at.add(128 / LEN * size).cast::<i32>().read_unaligned();
        let f = at.add(160 / LEN * size).cast::<i32>().read_unaligned();
        let g = at.add(192 / LEN * size).cast::<i32>().read_unaligned();
        let h = at.add(224 / LEN * size).cast::<i32>().read_unaligned();
        _mm256_setr_epi32(a, b, c, d, e, f, g, h)
    }
}

/// Eight heads at once: scales, and what is taken away.
///
/// # Safety
/// As [`words`], of all bytes of the heads.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn heads_of<const LEN: usize>(
    head: Head,
    blocks: *const u8,
    size: usize,
) -> (__m256, __m256) {
    // SAFETY: the caller's contract; a head of 2 bytes has codes behind it.
    let w = unsafe { words::<LEN>(blocks, size, 0) };
    let zero = _mm256_setzero_ps();
    let halves = |w: __m256i| {
        let low = _mm256_and_si256(w, _mm256_set1_epi32(0xFFFF));
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(low, low));
        _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
    };
    let minus = |x: __m256| _mm256_xor_ps(x, _mm256_set1_ps(-0.0));
    match head {
        Head::F32 => (_mm256_castsi256_ps(w), zero),
        Head::Bf16 => (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(w)), zero),
        Head::F16 => (halves(w), zero),
        Head::Zero => {
            let scale = _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_set1_epi32(BELOW as i32), w));
            let point = _mm256_cvtepi32_ps(_mm256_and_si256(w, _mm256_set1_epi32(255)));
            (scale, _mm256_mul_ps(scale, point))
        }
        Head::F32Bias => {
            // SAFETY: such a head has 8 bytes.
            let bias = unsafe { words::<LEN>(blocks, size, 4) };
            (_mm256_castsi256_ps(w), minus(_mm256_castsi256_ps(bias)))
        }
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
