//! Three convolutions of stride 2 over mel bins and time, and a projection (Qwen3-Omni): a chunk of mel frames becomes an
//! eighth as many rows.

use std::ops::Range;

use outro_kernels::gelu;

use crate::compute::nn::ops::sound::{Plane, TAPS};
use crate::compute::nn::{Linear, Mat, Weights};
use crate::error::Result;
use crate::weights::checkpoint::Matrix;

pub(super) struct Conv2dStem {
    convolutions: [Linear; 3],
    out: Linear,
}

impl Conv2dStem {
    /// Kernels `[channels, channels or 1, 3, 3]` over (mel, time).
    pub(super) fn load(w: Weights, prefix: &str, channels: usize, bins: usize, width: usize) -> Result<Self> {
        let convolution = |i: usize| {
            let from = if i == 1 { 1 } else { channels };
            w.linear_shaped(&format!("{prefix}conv2d{i}"), &[channels, from, TAPS, TAPS], true)
        };
        Ok(Self {
            convolutions: [convolution(1)?, convolution(2)?, convolution(3)?],
            out: w.linear(
                &format!("{prefix}conv_out"),
                width,
                channels * bins.div_ceil(2).div_ceil(2).div_ceil(2),
                false,
            )?,
        })
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.convolutions.iter().chain([&self.out]).map(|l| &l.weight)
    }

    /// Multiplications that so many frames take.
    pub(super) fn products(&self, frames: usize, bins: usize) -> f64 {
        let (mut places, mut all) = (frames as f64 * bins as f64, 0.0);
        for l in &self.convolutions {
            places /= 4.0;
            all += places * (l.weight.rows() * l.weight.cols()) as f64;
        }
        all + frames as f64 / 8.0 * (self.out.weight.rows() * self.out.weight.cols()) as f64
    }

    /// The frames `range` of `mel [bins, frames]`, followed by zeros up to `length`, to `[range.len() / 8, width]`, rounded
    /// up.
    pub(super) fn forward(&self, mel: &[f32], frames: usize, range: Range<usize>, length: usize) -> Mat {
        let count = range.len();
        let mut plane = Plane::of_mel(mel, frames, range, length);
        for convolution in &self.convolutions {
            let (height, width) = (plane.height.div_ceil(2), plane.width.div_ceil(2));
            let mut rows = convolution.forward(&plane.unfolded(height, width));
            gelu(rows.data_mut());
            plane = Plane { height, width, rows };
        }
        self.out.forward(&plane.by_time(count.div_ceil(8)))
    }
}
