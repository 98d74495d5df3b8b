//! Rows of activations and of weights turned into the order in which tiles are multiplied: all rows' first elements (or
//! pairs of bf16) side by side, then all their second ones.

use half::bf16;

use crate::simd::{Level, MR, NR};
use crate::weight::Weight;

/// Two numbers rounded to bf16, the first in the low half.
fn pair(a: f32, b: Option<&f32>) -> u32 {
    let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    bits(a) | bits(b.copied().unwrap_or(0.0)) << 16
}

/// `depth` columns from `k0` of up to MR rows of `k` elements, as `[depth, MR]`. Places of missing rows are left alone.
pub(crate) fn rows_f32(level: Level, x: &[f32], k: usize, (k0, depth): (usize, usize), tile: &mut [f32]) {
    assert!(k0 + depth <= k && tile.len() >= depth * MR && x.len() <= k * MR);
    let done = blocks(level, x.len(), k, depth, 16);
    #[cfg(target_arch = "x86_64")]
    for at in (0..done).step_by(16) {
        // SAFETY: the level was detected; MR rows have 16 columns from here, and the tile 16 rows.
        unsafe { x86::rows_f32(x.as_ptr().add(k0 + at), k, tile.as_mut_ptr().add(at * MR).cast()) }
    }
    for (i, row) in x.chunks_exact(k).enumerate() {
        let to = tile[done * MR..].iter_mut().skip(i).step_by(MR);
        to.zip(&row[k0 + done..k0 + depth]).for_each(|(t, x)| *t = *x);
    }
}

/// As [`rows_f32`], rounded to pairs of bf16, `[depth / 2, MR]`.
pub(crate) fn rows_bf16(level: Level, x: &[f32], k: usize, (k0, depth): (usize, usize), tile: &mut [u32]) {
    assert!(k0 + depth <= k && tile.len() >= depth.div_ceil(2) * MR && x.len() <= k * MR);
    let done = if level.has_bf16() {
        blocks(level, x.len(), k, depth, 32)
    } else {
        0
    };
    #[cfg(target_arch = "x86_64")]
    for at in (0..done).step_by(32) {
        // SAFETY: the instructions are there; MR rows have 32 columns from here, and the tile 16 rows of pairs.
        unsafe { x86::rows_bf16(x.as_ptr().add(k0 + at), k, tile.as_mut_ptr().add(at / 2 * MR)) }
    }
    for (i, row) in x.chunks_exact(k).enumerate() {
        let to = tile[done / 2 * MR..].iter_mut().skip(i).step_by(MR);
        to.zip(row[k0 + done..k0 + depth].chunks(2))
            .for_each(|(t, x)| *t = pair(x[0], x.get(1)));
    }
}

/// How many of `depth` columns go in blocks of `block`: none where a tile is not full or there are no such instructions.
fn blocks(level: Level, len: usize, k: usize, depth: usize, block: usize) -> usize {
    if level == Level::Avx512 && len == MR * k {
        depth / block * block
    } else {
        0
    }
}

/// Rows `n0..`, columns `k0..` of `w` as `[depth, NR]`; missing rows are zero. `wide` is for `NR x depth` elements.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "one level elsewhere")
)]
pub(crate) fn panel_f32(
    level: Level,
    w: Weight,
    (n0, cols): (usize, usize),
    k: usize,
    (k0, depth): (usize, usize),
    wide: &mut [f32],
    b: &mut [f32],
) {
    assert!(cols <= NR && b.len() >= depth * NR && (n0 + cols - 1) * k + k0 + depth <= w.len());
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 && cols == NR && depth.is_multiple_of(32) {
        let start = n0 * k + k0;
        match w {
            // SAFETY: the level was detected; the lengths were asserted.
            Weight::Bf16(w) => unsafe {
                x86::panel::<true, true>(w.as_ptr().add(start).cast(), 2 * k, depth, b.as_mut_ptr().cast());
            },
            // SAFETY: as above.
            Weight::F32(w) => unsafe {
                x86::panel::<false, true>(w.as_ptr().add(start).cast(), 4 * k, depth, b.as_mut_ptr().cast());
            },
            Weight::F16(_) | Weight::Quant(_) => {
                for (j, row) in wide[..NR * depth].chunks_exact_mut(depth).enumerate() {
                    w.widen(start + j * k, row);
                }
                // SAFETY: the level was detected; `wide` holds NR rows of `depth`.
                unsafe {
                    x86::panel::<false, true>(wide.as_ptr().cast(), 4 * depth, depth, b.as_mut_ptr().cast());
                }
            }
        }
        return;
    }
    if cols < NR {
        b[..depth * NR].fill(0.0);
    }
    for j in 0..cols {
        w.widen((n0 + j) * k + k0, &mut wide[..depth]);
        for (b, x) in b[j..].iter_mut().step_by(NR).zip(&wide[..depth]) {
            *b = *x;
        }
    }
}

/// As [`panel_f32`], pairs of bf16 `[depth / 2, NR]`.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "one level elsewhere")
)]
pub(crate) fn panel_bf16(
    level: Level,
    w: &[bf16],
    (n0, cols): (usize, usize),
    k: usize,
    (k0, depth): (usize, usize),
    b: &mut [u32],
) {
    assert!(cols <= NR && b.len() >= depth.div_ceil(2) * NR && (n0 + cols - 1) * k + k0 + depth <= w.len());
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 && cols == NR && depth.is_multiple_of(32) {
        let w = w[n0 * k + k0..].as_ptr().cast();
        // SAFETY: the level was detected; the lengths were asserted.
        unsafe { x86::panel::<true, false>(w, 2 * k, depth, b.as_mut_ptr()) }
        return;
    }
    if cols < NR {
        b.fill(0);
    }
    for j in 0..cols {
        let row = &w[(n0 + j) * k + k0..][..depth];
        for (b, x) in b[j..].iter_mut().step_by(NR).zip(row.chunks(2)) {
            let high = x.get(1).map_or(0, |x| u32::from(x.to_bits()));
            *b = u32::from(x[0].to_bits()) | high << 16;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{MR, NR};
    use std::arch::x86_64::{
        __m512i, _mm512_and_si512, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_mask_storeu_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4,
        _mm512_slli_epi32, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };
    use std::mem::transmute;

    /// A square of words: word `j` of row `i` becomes word `i` of row `j`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn turn(rows: &[__m512i; 16]) -> [__m512i; 16] {
        let mut rows = *rows;
        for two in rows.chunks_exact_mut(2) {
            (two[0], two[1]) = (
                _mm512_unpacklo_epi32(two[0], two[1]),
                _mm512_unpackhi_epi32(two[0], two[1]),
            );
        }
        for four in rows.chunks_exact_mut(4) {
            (four[0], four[1], four[2], four[3]) = (
                _mm512_unpacklo_epi64(four[0], four[2]),
                _mm512_unpackhi_epi64(four[0], four[2]),
                _mm512_unpacklo_epi64(four[1], four[3]),
                _mm512_unpackhi_epi64(four[1], four[3]),
            );
        }
        // Quarter q of vector 4 i + c now holds word 4 q + c of rows 4 i .. 4 i + 4: quarters are turned in the same way.
        let mut out = rows;
        for c in 0..4 {
            let low01 = _mm512_shuffle_i32x4::<0x44>(rows[c], rows[4 + c]);
            let low23 = _mm512_shuffle_i32x4::<0x44>(rows[8 + c], rows[12 + c]);
            let high01 = _mm512_shuffle_i32x4::<0xEE>(rows[c], rows[4 + c]);
            let high23 = _mm512_shuffle_i32x4::<0xEE>(rows[8 + c], rows[12 + c]);
            out[c] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
            out[4 + c] = _mm512_shuffle_i32x4::<0xDD>(low01, low23);
            out[8 + c] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
            out[12 + c] = _mm512_shuffle_i32x4::<0xDD>(high01, high23);
        }
        out
    }

    /// NR rows of `depth` elements, `stride` bytes apart, as words `[.., NR]`: words as they are, or, where rows hold
    /// `PAIRS` of bf16 and they are to be `WIDE`, as f32.
    ///
    /// # Safety
    /// AVX-512 F; the rows can be read, `b` has room, and `depth` is a multiple of 32.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn panel<const PAIRS: bool, const WIDE: bool>(
        w: *const u8,
        stride: usize,
        depth: usize,
        b: *mut u32,
    ) {
        let high = _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed());
        let words = if PAIRS { depth / 2 } else { depth };
        for half in 0..NR / 16 {
            for k0 in (0..words).step_by(16) {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (i, row) in rows.iter_mut().enumerate() {
                    // SAFETY: 16 words from k0 are inside row 16 half + i.
                    *row = unsafe { _mm512_loadu_si512(w.add((16 * half + i) * stride + 4 * k0).cast()) };
                }
                for (p, words) in turn(&rows).into_iter().enumerate() {
                    // SAFETY: b has a row of NR words for each element or pair.
                    unsafe {
                        if PAIRS && WIDE {
                            let b = b.add(2 * (k0 + p) * NR + 16 * half);
                            _mm512_storeu_si512(b.cast(), _mm512_slli_epi32::<16>(words));
                            _mm512_storeu_si512(b.add(NR).cast(), _mm512_and_si512(words, high));
                        } else {
                            _mm512_storeu_si512(b.add((k0 + p) * NR + 16 * half).cast(), words);
                        }
                    }
                }
            }
        }
    }

    /// 32 elements of MR rows, `k` elements apart, rounded to pairs of bf16 `[16, MR]`.
    ///
    /// # Safety
    /// AVX-512 F and BF16; the rows can be read and `tile` has room.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn rows_bf16(x: *const f32, k: usize, tile: *mut u32) {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (i, row) in rows.iter_mut().take(MR).enumerate() {
            // SAFETY: 32 elements of row i; 32 numbers of 16 bits are 16 words.
            *row = unsafe {
                let (low, high) = (_mm512_loadu_ps(x.add(i * k)), _mm512_loadu_ps(x.add(i * k + 16)));
                transmute::<std::arch::x86_64::__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
            };
        }
        // SAFETY: the caller's contract.
        unsafe { write(&rows, tile) };
    }

    /// # Safety
    /// As [`rows_bf16`] without BF16; 16 elements of each row as `[16, MR]`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn rows_f32(x: *const f32, k: usize, tile: *mut u32) {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (i, row) in rows.iter_mut().take(MR).enumerate() {
            // SAFETY: 16 elements of row i.
            *row = unsafe { _mm512_loadu_si512(x.add(i * k).cast()) };
        }
        // SAFETY: the caller's contract.
        unsafe { write(&rows, tile) };
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn write(rows: &[__m512i; 16], tile: *mut u32) {
        for (p, words) in turn(rows).into_iter().enumerate() {
            // SAFETY: MR words of row p.
            unsafe { _mm512_mask_storeu_epi32(tile.add(p * MR).cast(), (1 << MR) - 1, words) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level turns rows as the plain loops do, whole blocks or not.
    #[test]
    fn levels_agree() {
        let x: Vec<f32> = (0..4000).map(|i| (i as f32 * 0.37).sin()).collect();
        let narrow: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
        let halves: Vec<half::f16> = x.iter().map(|x| half::f16::from_f32(*x)).collect();
        for level in Level::all() {
            for (rows, k) in [(MR, 64), (MR, 50), (5, 64), (MR, 7)] {
                let pack = |level| {
                    let part = (k / 6, k - k / 6);
                    let (mut a, mut b) = (vec![0f32; k * MR], vec![0u32; k * MR]);
                    rows_f32(level, &x[..rows * k], k, part, &mut a);
                    rows_bf16(level, &x[..rows * k], k, part, &mut b);
                    (a, b)
                };
                assert_eq!(pack(Level::Portable), pack(level), "{level:?} {rows} {k}");
            }
            for (n0, cols, k, k0, depth) in [
                (1, NR, 96, 32, 64),
                (0, NR, 100, 3, 96),
                (2, 5, 96, 0, 96),
                (0, NR, 41, 0, 41),
            ] {
                for w in [Weight::F32(&x), Weight::Bf16(&narrow), Weight::F16(&halves)] {
                    let pack = |level| {
                        let (mut b, mut wide) = (vec![9f32; depth * NR], vec![0f32; NR * depth]);
                        panel_f32(level, w, (n0, cols), k, (k0, depth), &mut wide, &mut b);
                        b
                    };
                    assert_eq!(pack(Level::Portable), pack(level), "{level:?} {cols} {k} {depth}");
                }
                let pack = |level| {
                    let mut b = vec![9u32; depth.div_ceil(2) * NR];
                    panel_bf16(level, &narrow, (n0, cols), k, (k0, depth), &mut b);
                    b
                };
                assert_eq!(pack(Level::Portable), pack(level), "{level:?} {cols} {k} {depth}");
            }
        }
    }
}
