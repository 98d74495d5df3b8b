//! Three convolutions of stride 2 over mel bins and time, and a projection (Qwen3-Omni): a chunk of mel frames becomes an
//! eighth as many rows.

use std::ops::Range;

use outro_kernels::gelu;

use crate::compute::nn::{Linear, Mat, Weights};
use crate::error::Result;
use crate::weights::checkpoint::Matrix;

pub(super) struct Conv2dStem {
    convolutions: [Linear; 3],
    out: Linear,
}

/// One channel-last plane `[height * width, channels]`.
struct Plane {
    height: usize,
    width: usize,
    data: Mat,
}

/// Taps of a kernel along one side.
const TAPS: usize = 3;

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
        let (count, bins) = (range.len(), mel.len() / frames);
        let mut plane = Plane {
            height: bins,
            width: length,
            data: Mat::zeros(bins * length, 1),
        };
        for (to, from) in plane
            .data
            .data
            .chunks_exact_mut(length)
            .zip(mel.chunks_exact(frames))
        {
            to[..count].copy_from_slice(&from[range.clone()]);
        }
        for convolution in &self.convolutions {
            let (height, width) = (plane.height.div_ceil(2), plane.width.div_ceil(2));
            let mut data = convolution.forward(&plane.unfolded(height, width));
            gelu(&mut data.data);
            plane = Plane { height, width, data };
        }
        // A row a step of time, channel by channel.
        let mut rows = Vec::with_capacity(count.div_ceil(8) * self.out.weight.cols());
        for t in 0..count.div_ceil(8) {
            for c in 0..plane.data.cols {
                rows.extend((0..plane.height).map(|f| plane.data.row(f * plane.width + t)[c]));
            }
        }
        self.out.forward(&rows)
    }
}

impl Plane {
    /// What each output of a convolution of stride 2 sees, zeros beyond the edges; columns are (channel, tap down, tap
    /// across) as in its kernel.
    fn unfolded(&self, height: usize, width: usize) -> Vec<f32> {
        let columns = self.data.cols * TAPS * TAPS;
        let mut out = vec![0f32; height * width * columns];
        for (place, row) in out.chunks_exact_mut(columns).enumerate() {
            for tap in 0..TAPS * TAPS {
                let y = (2 * (place / width) + tap / TAPS).wrapping_sub(1);
                let x = (2 * (place % width) + tap % TAPS).wrapping_sub(1);
                if y < self.height && x < self.width {
                    let from = self.data.row(y * self.width + x);
                    for (to, from) in row[tap..].iter_mut().step_by(TAPS * TAPS).zip(from) {
                        *to = *from;
                    }
                }
            }
        }
        out
    }
}
