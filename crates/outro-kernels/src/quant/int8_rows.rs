//! Rows of activations rounded to 8 bits.

use super::gemm::{SHARED, round};
use super::{CHUNK, GROUP};

pub(super) fn pad(x: &[f32], k: usize) -> Vec<f32> {
    let wide = k.next_multiple_of(CHUNK);
    let mut out = Vec::with_capacity(x.len() / k.max(1) * wide);
    for row in x.chunks_exact(k.max(1)) {
        out.extend_from_slice(row);
        out.resize(out.len() + wide - k, 0.0);
    }
    out
}

/// Activations as `scale * q` with one scale for 32 elements, stored once for each group of 16.
pub(super) struct Int8Rows {
    pub(super) q: Vec<i8>,
    pub(super) scale: Vec<f32>,
    /// `scale` times the sum of the group's `q`.
    pub(super) sum: Vec<f32>,
}

impl Int8Rows {
    /// Whether there are `n` elements, padding included; SIMD code relies on it.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn check(&self, n: usize) {
        let groups = n / GROUP;
        assert!(
            self.q.len() == n && self.scale.len() == groups && self.sum.len() == groups,
            "rows of quantised activations"
        );
    }

    pub(super) fn new(x: &[f32], k: usize) -> Self {
        let wide = pad(x, k);
        let mut this = Self {
            q: vec![0; wide.len()],
            scale: vec![0.0; wide.len() / GROUP],
            sum: vec![0.0; wide.len() / GROUP],
        };
        let groups = this.scale.chunks_exact_mut(2).zip(this.sum.chunks_exact_mut(2));
        let blocks = wide.as_chunks::<SHARED>().0.iter();
        for ((x, q), (scale, sum)) in blocks.zip(this.q.as_chunks_mut::<SHARED>().0).zip(groups) {
            let d = round(x, q);
            for (half, (scale, sum)) in scale.iter_mut().zip(sum).enumerate() {
                *scale = d;
                let q = &q[half * GROUP..(half + 1) * GROUP];
                *sum = d * q.iter().map(|q| i32::from(*q)).sum::<i32>() as f32;
            }
        }
        this
    }
}
