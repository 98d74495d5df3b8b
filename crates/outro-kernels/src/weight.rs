//! Weight matrices as they are stored.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::quant::Blocks;

/// A weight matrix `[n, k]`, row-major: `n` outputs, `k` inputs.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Brain float.
    Bf16(&'a [bf16]),
    /// Half precision.
    F16(&'a [f16]),
    /// Quantised blocks; rows are whole blocks.
    Quant(Blocks<'a>),
}

impl Weight<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(w) => w.len(),
            Self::Bf16(w) => w.len(),
            Self::F16(w) => w.len(),
            Self::Quant(w) => w.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::F32(w) => size_of_val(*w),
            Self::Bf16(w) => size_of_val(*w),
            Self::F16(w) => size_of_val(*w),
            Self::Quant(w) => w.size(),
        }
    }

    /// Widens `out.len()` elements from `start`.
    pub fn widen(&self, start: usize, out: &mut [f32]) {
        match self {
            Self::F32(w) => out.copy_from_slice(&w[start..start + out.len()]),
            Self::Bf16(w) => {
                for (o, x) in out.iter_mut().zip(&w[start..]) {
                    *o = f32::from_bits(u32::from(x.to_bits()) << 16);
                }
            }
            Self::F16(w) => w[start..start + out.len()].convert_to_f32_slice(out),
            Self::Quant(w) => w.dequantise(start, out),
        }
    }
}
