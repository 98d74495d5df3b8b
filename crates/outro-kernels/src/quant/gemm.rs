//! Many rows of activations, rounded to 8 bits, with panels of quantised weights (AVX-512 VNNI).

use rayon::prelude::*;

use super::{Blocks, CHUNK, GROUP, GROUPS, Open, open_read};
use crate::simd::{Level, MR, NR};

/// Four elements in a word.
const WORDS: usize = CHUNK / 4;
/// Activations that share a scale.
pub(super) const SHARED: usize = 32;
/// Such groups of a chunk.
const SCALES: usize = CHUNK / SHARED;

/// Activations `scale * q`, in tiles of MR rows.
#[derive(Default)]
pub(crate) struct Int8Tiles {
    /// Chunks of a row.
    chunks: usize,
    /// `[tile][chunk][WORDS][MR]`, four `q` a word.
    q: Vec<i32>,
    /// `[tile][chunk][SCALES][MR]`.
    scale: Vec<f32>,
    /// `scale` times the sum of `q` over each [`GROUP`]: `[tile][chunk][GROUPS][MR]`.
    sum: Vec<f32>,
}

impl Int8Tiles {
    /// Takes `x [m, k]`. Memory is used again; what is left of other rows in it is never read, or has the scale 0.
    pub(crate) fn fill(mut self, x: &[f32], m: usize, k: usize) -> Self {
        let (tiles, chunks) = (m.div_ceil(MR), k.div_ceil(CHUNK));
        let this = &mut self;
        this.chunks = chunks;
        this.q.resize(tiles * chunks * WORDS * MR, 0);
        this.scale.resize(tiles * chunks * SCALES * MR, 0.0);
        this.sum.resize(tiles * chunks * GROUPS * MR, 0.0);
        let q = this.q.par_chunks_mut(chunks * WORDS * MR);
        let scale = this.scale.par_chunks_mut(chunks * SCALES * MR);
        let sum = this.sum.par_chunks_mut(chunks * GROUPS * MR);
        let tiles = q.zip(scale).zip(sum).zip(x.par_chunks(MR * k));
        tiles.for_each(|(((q, scale), sum), x)| {
            // Behind the last element of a row.
            scale[k.div_ceil(SHARED) * MR..].fill(0.0);
            sum[k.div_ceil(SHARED) * SHARED / GROUP * MR..].fill(0.0);
            for (i, row) in x.chunks_exact(k).enumerate() {
                for (g, x) in row.chunks(SHARED).enumerate() {
                    let mut words = [0i8; SHARED];
                    scale[g * MR + i] = round(x, &mut words);
                    for (w, four) in words.as_chunks::<4>().0.iter().enumerate() {
                        let bytes = four.map(|b| b as u8);
                        q[(g * SHARED / 4 + w) * MR + i] = i32::from_le_bytes(bytes);
                    }
                    for (h, half) in words.as_chunks::<GROUP>().0.iter().enumerate() {
                        let total: i32 = half.iter().map(|q| i32::from(*q)).sum();
                        sum[(g * SHARED / GROUP + h) * MR + i] = scale[g * MR + i] * total as f32;
                    }
                }
            }
        });
        self
    }

    /// How long it is, in words.
    pub(crate) fn len(&self) -> usize {
        self.q.len() + self.scale.len() + self.sum.len()
    }
}

/// Added to a number below 2^22 it leaves that number, rounded to the nearest, half to even, in the last bits.
const ROUND: f32 = 12_582_912.0;

/// Rounds up to 32 activations to 8 bits and returns their scale. One that is no number makes the scale none, so that it
/// shows in the product.
pub(super) fn round(x: &[f32], q: &mut [i8; SHARED]) -> f32 {
    let largest = x.iter().fold(0f32, |a, b| a.max(b.abs()));
    if !x.iter().all(|x| x.is_finite()) {
        return f32::NAN;
    }
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (q, x) in q.iter_mut().zip(x) {
        // Without a call: the products are at most 127, or infinite where all numbers are next to 0.
        *q = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8;
    }
    largest / 127.0
}

/// A chunk of NR rows of a quantised matrix.
pub(crate) struct Int8Panel {
    open: Open,
    /// Whether every [`GROUP`] has a scale of its own, and not every two.
    fine: bool,
    /// Which chunk.
    chunk: usize,
    /// `[WORDS][NR]`, four `q` a word.
    q: Vec<u32>,
    /// `[GROUPS][NR]`.
    scale: Vec<f32>,
    /// `scale * offset + min`, `[GROUPS][NR]`.
    low: Vec<f32>,
}

impl Int8Panel {
    pub(crate) fn new() -> Self {
        Self {
            open: Open::new(),
            fine: false,
            chunk: 0,
            q: vec![0; WORDS * NR],
            scale: vec![0.0; GROUPS * NR],
            low: vec![0.0; GROUPS * NR],
        }
    }

    /// Takes chunk `chunk` of the rows `n0..n0 + cols` of `k` elements; missing ones are zero.
    pub(crate) fn pack(
        &mut self,
        level: Level,
        w: Blocks,
        (n0, cols): (usize, usize),
        k: usize,
        chunk: usize,
    ) {
        self.fine = w.kind.is_fine();
        self.chunk = chunk;
        let bytes = CHUNK / w.kind.block_len() * w.kind.block_bytes();
        let offset = w.kind.offset() as f32;
        if cols < NR {
            self.q.fill(0);
            self.scale.fill(0.0);
            self.low.fill(0.0);
        }
        for j in 0..cols {
            let row = &w.row(n0 + j, k)[chunk * bytes..];
            open_read(level, w.kind, &row[..row.len().min(bytes)], &mut self.open);
            let words = self.open.q.as_chunks::<4>().0;
            for (to, four) in self.q[j..].iter_mut().step_by(NR).zip(words) {
                *to = u32::from_le_bytes(*four);
            }
            for g in 0..GROUPS {
                let (scale, min) = (self.open.scale[g], self.open.min[g]);
                self.scale[g * NR + j] = scale;
                self.low[g * NR + j] = scale.mul_add(offset, min);
            }
        }
    }

    /// `c[rows, NR] (+)= tile . panel^T`. The caller has checked that the processor has AVX-512 with VNNI.
    pub(crate) fn multiply(&self, a: &Int8Tiles, tile: usize, rows: usize, c: &mut [f32], add: bool) {
        let at = tile * a.chunks + self.chunk;
        let q = &a.q[at * WORDS * MR..][..WORDS * MR];
        let scale = &a.scale[at * SCALES * MR..][..SCALES * MR];
        let sum = &a.sum[at * GROUPS * MR..][..GROUPS * MR];
        assert!(rows <= MR && c.len() >= MR * NR, "products of a tile");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: VNNI by the contract; all slices hold a tile, by the lines above and the panel's construction.
        unsafe {
            super::tile::multiply(
                self.fine,
                q,
                scale,
                sum,
                rows,
                &self.q,
                &self.scale,
                &self.low,
                c,
                add,
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (q, scale, sum, add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_the_memory_before_is_gone() {
        let (m, k) = (MR + 1, 32);
        let before = Int8Tiles::default().fill(&vec![f32::NAN; m * 512], m, 512);
        assert!(before.scale[0].is_nan());
        let x: Vec<f32> = (0..m * k).map(|i| i as f32 - 200.0).collect();
        let (again, fresh) = (before.fill(&x, m, k), Int8Tiles::default().fill(&x, m, k));
        // Rows of the first tile are all there.
        let whole = |v: &[f32], groups: usize| v[..groups * MR].to_vec();
        assert_eq!(whole(&again.scale, SCALES), whole(&fresh.scale, SCALES));
        assert_eq!(whole(&again.sum, GROUPS), whole(&fresh.sum, GROUPS));
        assert_eq!(again.q[..SHARED / 4 * MR], fresh.q[..SHARED / 4 * MR]);
    }

    #[test]
    fn rounding_is_to_the_nearest_and_half_to_even() {
        let mut x = [0.0; SHARED];
        x[..8].copy_from_slice(&[127.0, 0.5, 1.5, -0.5, -1.5, -2.5, 126.49, -127.0]);
        let mut q = [0; SHARED];
        assert_eq!(round(&x, &mut q), 1.0);
        assert_eq!(q[..8], [127, 0, 2, 0, -2, -2, 126, -127]);
        x[9] = f32::INFINITY;
        assert!(round(&x, &mut q).is_nan());
    }
}
