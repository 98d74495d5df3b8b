//! Instruction sets, chosen once at run time, and the two inner loops that everything else is made of.

use std::sync::OnceLock;

/// An instruction set that the kernels have a path for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No assumption beyond the compiler's target.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Level {
    /// The best one of this processor. `OUTRO_SIMD=portable|avx2|avx512` lowers it, for comparisons.
    pub fn detect() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            let wish = match std::env::var("OUTRO_SIMD").as_deref() {
                Ok("portable") => Self::Portable,
                Ok("avx2") => Self::Avx2,
                _ => Self::Avx512,
            };
            wish.min(Self::best())
        })
    }

    /// What the processor has.
    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = ["f", "bw", "dq", "vl"].iter().all(|f| match *f {
            "f" => is_x86_feature_detected!("avx512f"),
            "bw" => is_x86_feature_detected!("avx512bw"),
            "dq" => is_x86_feature_detected!("avx512dq"),
            _ => is_x86_feature_detected!("avx512vl"),
        });
        match (avx2, avx512) {
            (true, true) => Self::Avx512,
            (true, false) => Self::Avx2,
            _ => Self::Portable,
        }
    }

    /// What the processor has.
    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Self {
        Self::Portable
    }

    /// Whether pairs of bf16 are multiplied in one instruction.
    pub(crate) fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether a prefill with bf16 weights is faster in pairs of bf16 than in f32. On Intel's cores the instruction has half the
    /// throughput of a fused multiply-add, and packing pairs costs more (Emerald Rapids: 1.5 times slower); on AMD's it is
    /// 1.85 times faster (Zen 4).
    pub(crate) fn bf16_is_faster(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.has_bf16() && amd();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether four products of bytes are summed in one instruction of 512 bits.
    pub(crate) fn has_vnni(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512 && is_x86_feature_detected!("avx512vnni");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// The levels that can run here, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::Portable, Self::Avx2, Self::Avx512]
            .into_iter()
            .filter(|l| *l <= Self::best())
    }
}

/// Whether the processor is one of AMD's.
#[cfg(target_arch = "x86_64")]
fn amd() -> bool {
    static AMD: OnceLock<bool> = OnceLock::new();
    *AMD.get_or_init(|| {
        let id = std::arch::x86_64::__cpuid(0);
        [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    })
}

/// Compiles one body for each level and calls the one asked for. The body sees `FMA`, a constant that says
/// whether a fused multiply-add is one instruction there (in the portable path it would be a library call).
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        $vis fn $name(level: $crate::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $body::<true>($($arg),*)
                }
                match level {
                    // SAFETY: a level above Portable is only ever made from what the processor reports.
                    $crate::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::simd::Level::Portable => {}
                }
            }
            // Elsewhere there is one body.
            #[cfg(not(target_arch = "x86_64"))]
            let _ = level;
            $body::<false>($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Sums the lanes in a fixed order.
#[inline(always)]
pub(crate) fn sum_lanes<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut n = N;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}

/// e^x for x <= 0 to about 1 ulp of f32; below -87 it is 0. Branch-free, so that loops over it vectorise.
#[inline(always)]
pub(crate) fn exp_negative<const FMA: bool>(x: f32) -> f32 {
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let keep = if x >= -87.0 { 1.0f32 } else { 0.0 };
    let x = if x >= -87.0 { x } else { -87.0 };
    // Round to the nearest integer by the usual trick of adding and taking away 1.5 * 2^23.
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = fma::<FMA>(n, -LN2_LO, fma::<FMA>(n, -LN2_HI, x));
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = fma::<FMA>(p, r, c);
    }
    let e = fma::<FMA>(p * r, r, r) + 1.0;
    let scale = f32::from_bits(((n as i32 + 127) as u32) << 23);
    e * scale * keep
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::store;

/// Rows of a register tile.
pub(crate) const MR: usize = 12;
/// Columns of a register tile and of a packed panel.
pub(crate) const NR: usize = 32;

/// `c[m, n] (+)= a[m, k] b[k, n]` for one packed panel: `b` is `[k, NR]`, rows past the real matrix are zero.
/// `a` has row stride `lda`, `c` has row stride `NR`.
pub(crate) fn gemm_panel(
    level: Level,
    a: &[f32],
    lda: usize,
    m: usize,
    k: usize,
    b: &[f32],
    c: &mut [f32],
    add: bool,
) {
    assert!(
        m == 0 || a.len() >= (m - 1) * lda + k,
        "a: {} elements for {m} rows of {k}",
        a.len()
    );
    assert!(b.len() >= k * NR && c.len() >= m * NR, "b or c too short");
    let mut row = 0;
    while row < m {
        let rows = (m - row).min(MR);
        let (a, c) = (&a[row * lda..], &mut c[row * NR..(row + rows) * NR]);
        tile::<false>(level, a, lda, rows, k, b, c, add);
        row += rows;
    }
}

/// [`gemm_panel`] for up to MR rows that lie as `[k, MR]`.
pub(crate) fn f32_tile(level: Level, a: &[f32], rows: usize, k: usize, b: &[f32], c: &mut [f32], add: bool) {
    assert!(
        rows <= MR && a.len() >= k * MR && b.len() >= k * NR && c.len() >= rows * NR,
        "a tile of {rows} rows"
    );
    tile::<true>(level, a, MR, rows, k, b, c, add);
}

/// `c (+)= a b` for up to MR rows; `a` is `[k, MR]` where it is `PACKED`, else `[rows, k]` with row stride `lda`. Lengths
/// were asserted by the callers.
fn tile<const PACKED: bool>(
    level: Level,
    a: &[f32],
    lda: usize,
    rows: usize,
    k: usize,
    b: &[f32],
    c: &mut [f32],
    add: bool,
) {
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: the level was detected; the lengths were asserted.
        Level::Avx512 => unsafe { x86::tile_512::<PACKED>(a, lda, rows, k, b, c, add) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::tile_256::<PACKED>(a, lda, rows, k, b, c, add) },
        Level::Portable => tile_portable::<PACKED>(a, lda, rows, k, b, c, add),
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = level;
        tile_portable::<PACKED>(a, lda, rows, k, b, c, add);
    }
}

/// `c[rows, NR] (+)= a b` for rows of bf16 pairs `a [pairs, MR]` and `b [pairs, NR]`. Only where [`Level::has_bf16`].
pub(crate) fn bf16_tile(a: &[u32], rows: usize, pairs: usize, b: &[u32], c: &mut [f32], add: bool) {
    assert!(
        rows <= MR && a.len() >= pairs * MR && b.len() >= pairs * NR && c.len() >= rows * NR,
        "a tile of {rows} rows"
    );
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor was asked; the lengths were asserted.
    unsafe {
        x86::tile_bf16(a, rows, pairs, b, c, add);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (a, b, add);
}

/// `x[i] . w` for R rows of x, `stride` apart, with even and odd numbers apart (see `by_halves`) and a multiple of 64 of
/// them. The weights `ahead` of these are asked for. Only for [`Level::Avx512`].
pub(crate) fn bf16_dots<const R: usize>(
    x: &[f32],
    stride: usize,
    w: &[half::bf16],
    ahead: usize,
) -> [f32; R] {
    assert!(
        w.len().is_multiple_of(64) && x.len() >= (R - 1) * stride + w.len(),
        "rows for a row of bf16"
    );
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the level was detected; the lengths were asserted.
    return unsafe { x86::bf16_dots(x.as_ptr(), stride, w.as_ptr().cast(), w.len(), ahead) };
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = ahead;
        [f32::NAN; R]
    }
}

fn tile_portable<const PACKED: bool>(
    a: &[f32],
    lda: usize,
    rows: usize,
    k: usize,
    b: &[f32],
    c: &mut [f32],
    add: bool,
) {
    for i in 0..rows {
        let mut acc = [0f32; NR];
        let (start, step) = if PACKED { (i, MR) } else { (i * lda, 1) };
        for (x, b) in a[start..].iter().step_by(step).take(k).zip(b.chunks_exact(NR)) {
            for (s, b) in acc.iter_mut().zip(b) {
                *s += x * b;
            }
        }
        for (c, s) in c[i * NR..(i + 1) * NR].iter_mut().zip(acc) {
            *c = if add { *c + s } else { s };
        }
    }
}

/// A sum of products in 64 lanes.
#[inline(always)]
pub(crate) fn dot<const FMA: bool, T: Copy>(x: &[f32], w: &[T], widen: impl Fn(T) -> f32) -> f32 {
    const LANES: usize = 64;
    let mut lanes = [0f32; LANES];
    let (xs, ws) = (x.chunks_exact(LANES), w.chunks_exact(LANES));
    let (xr, wr) = (xs.remainder(), ws.remainder());
    for (x, w) in xs.zip(ws) {
        for l in 0..LANES {
            lanes[l] = fma::<FMA>(x[l], widen(w[l]), lanes[l]);
        }
    }
    let mut sum = sum_lanes(lanes);
    for (x, w) in xr.iter().zip(wr) {
        sum = fma::<FMA>(*x, widen(*w), sum);
    }
    sum
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{MR, NR};
    use std::arch::x86_64::{
        __m256, __m512, __m512bh, _MM_HINT_T1, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_ps, _mm512_and_si512,
        _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_reduce_add_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
        _mm512_storeu_ps,
    };
    use std::mem::transmute;

    /// Where element `p` of row `i` lies.
    #[inline(always)]
    const fn at<const PACKED: bool>(i: usize, p: usize, lda: usize) -> usize {
        if PACKED { p * MR + i } else { i * lda + p }
    }

    /// Calls the tile with its row count as a constant, so that the accumulators stay in registers.
    macro_rules! by_rows {
        ($rows:expr, $call:ident $(::<$packed:ident>)? ($($arg:expr),*)) => {
            match $rows {
                1 => $call::<1 $(, $packed)?>($($arg),*), 2 => $call::<2 $(, $packed)?>($($arg),*),
                3 => $call::<3 $(, $packed)?>($($arg),*), 4 => $call::<4 $(, $packed)?>($($arg),*),
                5 => $call::<5 $(, $packed)?>($($arg),*), 6 => $call::<6 $(, $packed)?>($($arg),*),
                7 => $call::<7 $(, $packed)?>($($arg),*), 8 => $call::<8 $(, $packed)?>($($arg),*),
                9 => $call::<9 $(, $packed)?>($($arg),*), 10 => $call::<10 $(, $packed)?>($($arg),*),
                11 => $call::<11 $(, $packed)?>($($arg),*), _ => $call::<MR $(, $packed)?>($($arg),*),
            }
        };
    }

    /// # Safety
    /// AVX-512 F; `a` holds `rows` rows of `k` with stride `lda`, `b` `k x NR`, `c` `rows x NR`; `rows <= MR`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile_512<const PACKED: bool>(
        a: &[f32],
        lda: usize,
        rows: usize,
        k: usize,
        b: &[f32],
        c: &mut [f32],
        add: bool,
    ) {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        // SAFETY: the caller's contract.
        unsafe { by_rows!(rows, rows_512::<PACKED>(a, lda, k, b, c, add)) }
    }

    /// # Safety
    /// As [`tile_512`], `R` rows.
    #[target_feature(enable = "avx512f")]
    unsafe fn rows_512<const R: usize, const PACKED: bool>(
        a: *const f32,
        lda: usize,
        k: usize,
        b: *const f32,
        c: *mut f32,
        add: bool,
    ) {
        let mut acc: [[__m512; 2]; R] = [[_mm512_setzero_ps(); 2]; R];
        for p in 0..k {
            // SAFETY: p < k, so both halves of row p of b and element p of each row of a are inside.
            unsafe {
                let b0 = _mm512_loadu_ps(b.add(p * NR));
                let b1 = _mm512_loadu_ps(b.add(p * NR + 16));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(at::<PACKED>(i, p, lda)));
                    acc[0] = _mm512_fmadd_ps(x, b0, acc[0]);
                    acc[1] = _mm512_fmadd_ps(x, b1, acc[1]);
                }
            }
        }
        // SAFETY: the caller's contract.
        unsafe { store(&acc, c, add) };
    }

    /// # Safety
    /// AVX-512 F and BF16; `a` holds `[pairs, MR]`, `b` `[pairs, NR]`, `c` `rows x NR`; `rows <= MR`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn tile_bf16(
        a: &[u32],
        rows: usize,
        pairs: usize,
        b: &[u32],
        c: &mut [f32],
        add: bool,
    ) {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        // SAFETY: the caller's contract.
        unsafe { by_rows!(rows, rows_bf16(a, pairs, b, c, add)) }
    }

    /// # Safety
    /// As [`tile_bf16`], `R` rows.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn rows_bf16<const R: usize>(a: *const u32, pairs: usize, b: *const u32, c: *mut f32, add: bool) {
        let mut acc: [[__m512; 2]; R] = [[_mm512_setzero_ps(); 2]; R];
        // SAFETY: p < pairs, so both halves of row p of b and R <= MR elements of row p of a are inside; a __m512bh is 16
        // pairs of 16 bits, as are the words that are loaded.
        unsafe {
            for p in 0..pairs {
                let b0: __m512bh = transmute(_mm512_loadu_si512(b.add(p * NR).cast()));
                let b1: __m512bh = transmute(_mm512_loadu_si512(b.add(p * NR + 16).cast()));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x: __m512bh = transmute(_mm512_set1_epi32((*a.add(p * MR + i)).cast_signed()));
                    acc[0] = _mm512_dpbf16_ps(acc[0], b0, x);
                    acc[1] = _mm512_dpbf16_ps(acc[1], b1, x);
                }
            }
            store(&acc, c, add);
        }
    }

    /// R sums of products of `n` numbers; of 16 words of `w`, the low halves belong to the first 16 of 32 in `x`.
    ///
    /// # Safety
    /// AVX-512 F; `w` and each of R rows of `x`, `stride` apart, hold `n`, a multiple of 64.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn bf16_dots<const R: usize>(
        x: *const f32,
        stride: usize,
        w: *const u16,
        n: usize,
        ahead: usize,
    ) -> [f32; R] {
        let mut acc = [[_mm512_setzero_ps(); 4]; R];
        let high = _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed());
        for i in (0..n).step_by(64) {
            for line in 0..2 {
                let at = i + 32 * line;
                // SAFETY: at + 32 <= n; a prefetch may be of any address.
                unsafe {
                    // Into the second level: asked for in the first, lines crowd out those that are in use (measured).
                    _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(at + ahead).cast());
                    let words = _mm512_loadu_si512(w.add(at).cast());
                    let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
                    let odd = _mm512_castsi512_ps(_mm512_and_si512(words, high));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let x = x.add(r * stride + at);
                        acc[2 * line] = _mm512_fmadd_ps(even, _mm512_loadu_ps(x), acc[2 * line]);
                        acc[2 * line + 1] =
                            _mm512_fmadd_ps(odd, _mm512_loadu_ps(x.add(16)), acc[2 * line + 1]);
                    }
                }
            }
        }
        acc.map(|a| {
            _mm512_reduce_add_ps(_mm512_add_ps(
                _mm512_add_ps(a[0], a[1]),
                _mm512_add_ps(a[2], a[3]),
            ))
        })
    }

    /// Writes or adds a tile.
    ///
    /// # Safety
    /// AVX-512 F; `c` holds `R x NR`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(crate) unsafe fn store<const R: usize>(acc: &[[__m512; 2]; R], c: *mut f32, add: bool) {
        for (i, acc) in acc.iter().enumerate() {
            for (half, &s) in acc.iter().enumerate() {
                // SAFETY: row i < R of c, half a row of NR = 32.
                unsafe {
                    let c = c.add(i * NR + half * 16);
                    let s = if add {
                        _mm512_add_ps(_mm512_loadu_ps(c), s)
                    } else {
                        s
                    };
                    _mm512_storeu_ps(c, s);
                }
            }
        }
    }

    /// # Safety
    /// As [`tile_512`] for AVX2 with FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile_256<const PACKED: bool>(
        a: &[f32],
        lda: usize,
        rows: usize,
        k: usize,
        b: &[f32],
        c: &mut [f32],
        add: bool,
    ) {
        // Sixteen registers hold 6 rows of two vectors: walk the tile in quarters.
        for row in (0..rows).step_by(6) {
            for quarter in 0..2 {
                let n = (rows - row).min(6);
                // SAFETY: the caller's contract, offset by rows and columns that are inside.
                unsafe {
                    let (a, b, c) = (
                        a.as_ptr().add(at::<PACKED>(row, 0, lda)),
                        b.as_ptr().add(quarter * 16),
                        c.as_mut_ptr().add(row * NR + quarter * 16),
                    );
                    by_rows!(n, rows_256::<PACKED>(a, lda, k, b, c, add));
                }
            }
        }
    }

    /// # Safety
    /// As [`tile_256`], `R` rows, 16 columns.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn rows_256<const R: usize, const PACKED: bool>(
        a: *const f32,
        lda: usize,
        k: usize,
        b: *const f32,
        c: *mut f32,
        add: bool,
    ) {
        let mut acc: [[__m256; 2]; R] = [[_mm256_setzero_ps(); 2]; R];
        for p in 0..k {
            // SAFETY: p < k; 16 columns from here are inside the row of NR.
            unsafe {
                let b0 = _mm256_loadu_ps(b.add(p * NR));
                let b1 = _mm256_loadu_ps(b.add(p * NR + 8));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(at::<PACKED>(i, p, lda)));
                    acc[0] = _mm256_fmadd_ps(x, b0, acc[0]);
                    acc[1] = _mm256_fmadd_ps(x, b1, acc[1]);
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for (half, &s) in acc.iter().enumerate() {
                // SAFETY: row i < R of c, 8 columns.
                unsafe {
                    let c = c.add(i * NR + half * 8);
                    let s = if add {
                        _mm256_add_ps(_mm256_loadu_ps(c), s)
                    } else {
                        s
                    };
                    _mm256_storeu_ps(c, s);
                }
            }
        }
    }
}
