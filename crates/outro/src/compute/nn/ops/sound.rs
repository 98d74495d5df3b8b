//! Rows of sound: mel frames as convolutions take them, in chunks, and on planes of bins and time.

use std::ops::Range;

use super::Mat;

/// Taps of a kernel along one side.
pub(crate) const TAPS: usize = 3;

/// What each output of a convolution over time sees of the frames `range` of `mel [bins, frames]`, in chunks of which none sees
/// another: `[range, bins * taps]`, zeros beyond a chunk's ends.
pub(crate) fn unfolded_mel(mel: &[f32], frames: usize, range: Range<usize>, chunk: usize) -> Vec<f32> {
    let bins = mel.len() / frames;
    let mut unfolded = vec![0f32; range.len() * bins * TAPS];
    let mut rows = unfolded.chunks_exact_mut(bins * TAPS);
    for start in range.clone().step_by(chunk) {
        let n = (range.end - start).min(chunk);
        for (t, row) in (0..n).zip(&mut rows) {
            for (bin, taps) in row.chunks_exact_mut(TAPS).enumerate() {
                for (tap, x) in taps.iter_mut().enumerate() {
                    let at = (t + tap).wrapping_sub(1);
                    if at < n {
                        *x = mel[bin * frames + start + at];
                    }
                }
            }
        }
    }
    unfolded
}

/// The same of rows, one a frame, for a convolution of stride 2.
pub(crate) fn unfolded_rows(x: &Mat, chunk: usize) -> Vec<f32> {
    let (frames, width) = (x.rows(), x.cols());
    let starts = || (0..frames).step_by(chunk);
    let length = |start: usize| (frames - start).min(chunk);
    let rows: usize = starts().map(|start| length(start).div_ceil(2)).sum();
    let mut unfolded = vec![0f32; rows * width * TAPS];
    let mut rows = unfolded.chunks_exact_mut(width * TAPS);
    for start in starts() {
        let n = length(start);
        for (t, row) in (0..n.div_ceil(2)).zip(&mut rows) {
            for tap in 0..TAPS {
                let at = (2 * t + tap).wrapping_sub(1);
                if at < n {
                    let from = x.row(start + at);
                    for (x, w) in row[tap..].iter_mut().step_by(TAPS).zip(from) {
                        *x = *w;
                    }
                }
            }
        }
    }
    unfolded
}

/// Means of two rows each, of which there are so many; zeros where there is no pair.
pub(crate) fn means_of_pairs(x: &Mat, pairs: usize) -> Mat {
    let width = x.cols();
    let mut pooled = Mat::zeros(pairs, width);
    let both = x.data().chunks_exact(2 * width);
    for (out, pair) in pooled.data_mut().chunks_exact_mut(width).zip(both) {
        let (a, b) = pair.split_at(width);
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = (a + b) / 2.0;
        }
    }
    pooled
}

/// Windows of `window` rows out of every chunk of `rows` rows, `count` of them, each `stride` rows after the one before. They may
/// overlap, so each is a copy.
pub(crate) fn windows(
    x: &[f32],
    width: usize,
    rows: usize,
    (count, window, stride): (usize, usize, usize),
) -> Vec<f32> {
    let mut windows = Vec::new();
    for chunk in x.chunks_exact(rows * width) {
        for i in 0..count {
            let start = i * stride * width;
            windows.extend_from_slice(&chunk[start..start + window * width]);
        }
    }
    windows
}

/// One channel-last plane `[height * width, channels]`.
pub(crate) struct Plane {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) rows: Mat,
}

impl Plane {
    /// The frames `range` of `mel [bins, frames]`, one channel, followed by zeros up to `length`.
    pub(crate) fn of_mel(mel: &[f32], frames: usize, range: Range<usize>, length: usize) -> Self {
        let (count, bins) = (range.len(), mel.len() / frames);
        let mut rows = Mat::zeros(bins * length, 1);
        let lines = rows.data_mut().chunks_exact_mut(length);
        for (to, from) in lines.zip(mel.chunks_exact(frames)) {
            to[..count].copy_from_slice(&from[range.clone()]);
        }
        Self {
            height: bins,
            width: length,
            rows,
        }
    }

    /// A row a step of time, channel by channel.
    pub(crate) fn by_time(&self, steps: usize) -> Vec<f32> {
        let mut rows = Vec::with_capacity(steps * self.rows.cols() * self.height);
        for t in 0..steps {
            for c in 0..self.rows.cols() {
                rows.extend((0..self.height).map(|f| self.rows.row(f * self.width + t)[c]));
            }
        }
        rows
    }

    /// What each output of a convolution of stride 2 sees, zeros beyond the edges; columns are (channel, tap down, tap
    /// across) as in its kernel.
    pub(crate) fn unfolded(&self, height: usize, width: usize) -> Vec<f32> {
        let columns = self.rows.cols() * TAPS * TAPS;
        let mut out = vec![0f32; height * width * columns];
        for (place, row) in out.chunks_exact_mut(columns).enumerate() {
            for tap in 0..TAPS * TAPS {
                let y = (2 * (place / width) + tap / TAPS).wrapping_sub(1);
                let x = (2 * (place % width) + tap % TAPS).wrapping_sub(1);
                if y < self.height && x < self.width {
                    let from = self.rows.row(y * self.width + x);
                    for (to, from) in row[tap..].iter_mut().step_by(TAPS * TAPS).zip(from) {
                        *to = *from;
                    }
                }
            }
        }
        out
    }
}

/// Sine and cosine positions `[length, width]`, timescales 1 to 10,000, in f32 as the reference computes them.
pub(crate) fn sinusoids(length: usize, width: usize) -> Vec<f32> {
    let half = width / 2;
    let step = (10000f64.ln() / (half - 1) as f64) as f32;
    let inverse: Vec<f32> = (0..half).map(|i| (-step * i as f32).exp()).collect();
    (0..length)
        .flat_map(|t| {
            let angle = |f: &f32| t as f32 * f;
            let sin: Vec<f32> = inverse.iter().map(angle).map(f32::sin).collect();
            sin.into_iter()
                .chain(inverse.iter().map(angle).map(f32::cos))
                .collect::<Vec<_>>()
        })
        .collect()
}
