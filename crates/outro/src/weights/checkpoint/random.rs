//! Weights made up in memory, for measurements of sizes of which no checkpoint is at hand.

use std::sync::Arc;

use half::bf16;
use outro_kernels::{QuantType, quantise};

use super::Dtype;
use super::matrix::{Data, Matrix};

/// Elements of the pattern: whole blocks of every layout, and more than the caches of a core hold.
const LEN: usize = 1 << 20;

/// Random numbers, uniform with variance 1, of which every matrix is cut.
pub(super) struct Pattern(Vec<f32>);

impl Pattern {
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 3f32.sqrt()
        };
        Self((0..LEN).map(|_| next()).collect())
    }

    /// The pattern so scaled that a product with a row of `cols` keeps the size of activations; an embedding has
    /// variance 1.
    fn scaled(&self, name: &str, cols: usize) -> Vec<f32> {
        let scale = if name.contains("embed_tokens") {
            1.0
        } else {
            0.5 / (cols as f32).sqrt()
        };
        self.0.iter().map(|x| x * scale).collect()
    }

    pub(super) fn matrix(&self, name: &str, rows: usize, cols: usize, dtype: Dtype) -> Matrix {
        let (pattern, n) = (self.scaled(name, cols), rows * cols);
        let data = match dtype {
            Dtype::F32 => Data::F32(tiled(&pattern, n)),
            Dtype::Auto | Dtype::Bf16 => {
                let narrow: Vec<bf16> = pattern.iter().map(|x| bf16::from_f32(*x)).collect();
                Data::Bf16(tiled(&narrow, n))
            }
            Dtype::F16 => {
                let narrow: Vec<half::f16> = pattern.iter().map(|x| half::f16::from_f32(*x)).collect();
                Data::F16(tiled(&narrow, n))
            }
        };
        named(name, rows, cols, data)
    }

    /// A matrix of blocks; its rows must be whole ones.
    pub(super) fn quantised(&self, name: &str, rows: usize, cols: usize, kind: QuantType) -> Matrix {
        let pattern = self.scaled(name, cols);
        // LEN and rows x cols are multiples of every block length.
        let bytes = |n: usize| kind.bytes_of(n).unwrap_or_default();
        let mut blocks = vec![0; bytes(LEN)];
        quantise(kind, &pattern, &mut blocks);
        let data = Data::Quant(kind, tiled(&blocks, bytes(rows * cols)));
        named(name, rows, cols, data)
    }
}

fn named(name: &str, rows: usize, cols: usize, data: Data) -> Matrix {
    Matrix {
        name: name.into(),
        rows,
        cols,
        data,
        order: None,
    }
}

/// The first `n` elements of `pattern`, repeated; in one allocation, for it may be most of the memory.
fn tiled<T: Copy>(pattern: &[T], n: usize) -> Arc<[T]> {
    let mut at = 0;
    let next = |_| {
        let x = pattern[at];
        at = if at + 1 == pattern.len() { 0 } else { at + 1 };
        x
    };
    (0..n).map(next).collect()
}
