//! Weights made up in memory, for measurements of sizes of which no checkpoint is at hand.

use std::str::FromStr;
use std::sync::Arc;

use half::bf16;
use outro_kernels::{Code, GroupLen, Head, QuantType, quantise};

use super::Dtype;
use super::matrix::{Data, Matrix};
use crate::error::{Error, Result};

/// A quantiser whose layout the decoder's linear layers have, where weights are made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imitated {
    /// 4 bits with zero points in groups of 128.
    Awq,
    /// 4 bits in groups of 128.
    Gptq,
    /// Floats of 8 bits, a scale for 128.
    Fp8,
    /// bitsandbytes' table of 4 bits, a scale for 64.
    Nf4,
    /// 4 bits with biases in groups of 64.
    Mlx4,
}

impl Imitated {
    /// All.
    pub const ALL: [Self; 5] = [Self::Awq, Self::Gptq, Self::Fp8, Self::Nf4, Self::Mlx4];

    /// As it is written on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Awq => "awq",
            Self::Gptq => "gptq",
            Self::Fp8 => "fp8",
            Self::Nf4 => "nf4",
            Self::Mlx4 => "mlx4",
        }
    }

    const fn layout(self) -> QuantType {
        let (code, head, len) = match self {
            Self::Awq => (Code::Int4, Head::Zero, GroupLen::L128),
            Self::Gptq => (Code::Int4, Head::F16, GroupLen::L128),
            Self::Fp8 => (Code::E4m3, Head::Bf16, GroupLen::L128),
            Self::Nf4 => (Code::Nf4, Head::F32, GroupLen::L64),
            Self::Mlx4 => (Code::Int4, Head::Bf16Bias, GroupLen::L64),
        };
        QuantType::Group { code, head, len }
    }
}

impl FromStr for Imitated {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|i| i.name() == s)
            .ok_or_else(|| Error::Setting {
                key: "weights".into(),
                problem: format!("is `{s}`; possible: {}", Self::ALL.map(Self::name).join(", ")),
            })
    }
}

/// Elements of the pattern: whole blocks of every layout, and more than the caches of a core hold.
const LEN: usize = 1 << 20;

/// Random numbers, uniform with variance 1, of which every matrix is cut.
pub(super) struct Pattern {
    numbers: Vec<f32>,
    /// The layout of linear layers whose names begin so.
    packed: Option<(Imitated, String)>,
}

impl Pattern {
    pub(super) fn new(seed: u64, packed: Option<(Imitated, String)>) -> Self {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 3f32.sqrt()
        };
        Self {
            numbers: (0..LEN).map(|_| next()).collect(),
            packed,
        }
    }

    /// The pattern so scaled that a product with a row of `cols` keeps the size of activations; an embedding has
    /// variance 1.
    fn scaled(&self, name: &str, cols: usize) -> Vec<f32> {
        let scale = if name.contains("embed_tokens") {
            1.0
        } else {
            0.5 / (cols as f32).sqrt()
        };
        self.numbers.iter().map(|x| x * scale).collect()
    }

    pub(super) fn matrix(&self, name: &str, rows: usize, cols: usize, dtype: Dtype) -> Matrix {
        if let Some((kind, layers)) = &self.packed
            && name.starts_with(layers)
            && name.ends_with("_proj.weight")
            && cols.is_multiple_of(kind.layout().block_len())
        {
            return self.quantised(name, rows, cols, kind.layout());
        }
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
