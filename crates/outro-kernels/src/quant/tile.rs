//! The register tile of 8-bit products.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512,
};

use super::{CHUNK, GROUPS};
use crate::simd::{MR, NR, store};

/// Rows that are multiplied at once: integers and floats of two vectors each fill 24 registers.
const HALF: usize = 6;

/// `c[rows, NR] (+)= a . b^T` of one chunk. `a`: `q [CHUNK / 4, MR]` words of four signed bytes, `scale [8, MR]`,
/// `sum [16, MR]`; `b`: `q [CHUNK / 4, NR]` words of four unsigned bytes, `scale` and `low` `[16, NR]`. `fine`: scales of
/// `b` differ every 16 elements, else every 32.
///
/// # Safety
/// AVX-512 F and VNNI; slices as long as said.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn multiply(
    fine: bool,
    q: &[i32],
    scale: &[f32],
    sum: &[f32],
    rows: usize,
    b_q: &[u32],
    b_scale: &[f32],
    b_low: &[f32],
    c: &mut [f32],
    add: bool,
) {
    for row in (0..rows).step_by(HALF) {
        // SAFETY: the caller's contract, moved by rows that are inside the tile.
        unsafe {
            let (q, scale, sum) = (
                q.as_ptr().add(row),
                scale.as_ptr().add(row),
                sum.as_ptr().add(row),
            );
            let (b_q, b_scale, b_low) = (b_q.as_ptr(), b_scale.as_ptr(), b_low.as_ptr());
            let c = c.as_mut_ptr().add(row * NR);
            if fine {
                half::<4>(q, scale, sum, b_q, b_scale, b_low, c, add);
            } else {
                half::<8>(q, scale, sum, b_q, b_scale, b_low, c, add);
            }
        }
    }
}

/// Six rows; a scale of `b` is for `WORDS` words.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn half<const WORDS: usize>(
    q: *const i32,
    scale: *const f32,
    sum: *const f32,
    b_q: *const u32,
    b_scale: *const f32,
    b_low: *const f32,
    c: *mut f32,
    add: bool,
) {
    let mut acc: [[__m512; 2]; HALF] = [[_mm512_setzero_ps(); 2]; HALF];
    // SAFETY: every index below stays inside the shapes of the contract.
    unsafe {
        for g in 0..CHUNK / 4 / WORDS {
            let mut dots: [[__m512i; 2]; HALF] = [[_mm512_setzero_si512(); 2]; HALF];
            for w in g * WORDS..(g + 1) * WORDS {
                let b0 = _mm512_loadu_si512(b_q.add(w * NR).cast());
                let b1 = _mm512_loadu_si512(b_q.add(w * NR + 16).cast());
                for (i, dots) in dots.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(*q.add(w * MR + i));
                    dots[0] = _mm512_dpbusd_epi32(dots[0], b0, x);
                    dots[1] = _mm512_dpbusd_epi32(dots[1], b1, x);
                }
            }
            // Element 4 w belongs to group w / 4 of 16 and to group w / 8 of 32.
            let (sixteen, thirty_two) = (g * WORDS / 4, g * WORDS / 8);
            let (s0, s1) = (
                _mm512_loadu_ps(b_scale.add(sixteen * NR)),
                _mm512_loadu_ps(b_scale.add(sixteen * NR + 16)),
            );
            for (i, (acc, dots)) in acc.iter_mut().zip(dots).enumerate() {
                let x = _mm512_set1_ps(*scale.add(thirty_two * MR + i));
                acc[0] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dots[0]), x), s0, acc[0]);
                acc[1] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dots[1]), x), s1, acc[1]);
            }
        }
        let step = WORDS / 4;
        for g in (0..GROUPS).step_by(step) {
            let (l0, l1) = (
                _mm512_loadu_ps(b_low.add(g * NR)),
                _mm512_loadu_ps(b_low.add(g * NR + 16)),
            );
            for (i, acc) in acc.iter_mut().enumerate() {
                let sums = (0..step).fold(0.0, |s, h| s + *sum.add((g + h) * MR + i));
                let x = _mm512_set1_ps(sums);
                acc[0] = _mm512_fnmadd_ps(l0, x, acc[0]);
                acc[1] = _mm512_fnmadd_ps(l1, x, acc[1]);
            }
        }
        store(&acc, c, add);
    }
}
