//! Attention of the few queries of a window, beside the kernel for long sequences.

use super::Mat;

/// How queries lie in groups, and keys: a group's queries attend to its keys.
#[derive(Clone, Copy)]
pub(crate) struct Groups {
    /// Queries of a group.
    pub(crate) queries: usize,
    /// Keys of a group.
    pub(crate) keys: usize,
    pub(crate) heads: usize,
}

/// Softmax attention within groups, head outputs side by side.
pub(crate) fn in_groups(q: &Mat, k: &Mat, v: &Mat, groups: Groups) -> Mat {
    let width = q.cols();
    let dim = width / groups.heads;
    let scale = (dim as f32).sqrt().recip();
    let mut out = Mat::zeros(q.rows(), width);
    for row in 0..q.rows() {
        let first = row / groups.queries * groups.keys;
        for head in (0..width).step_by(dim) {
            let part = head..head + dim;
            let q = &q.row(row)[part.clone()];
            let scores: Vec<f32> = (first..first + groups.keys)
                .map(|j| {
                    q.iter()
                        .zip(&k.row(j)[part.clone()])
                        .map(|(a, b)| a * b)
                        .sum::<f32>()
                        * scale
                })
                .collect();
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum: f32 = weights.iter().sum();
            for (j, weight) in weights.iter().enumerate() {
                for (o, x) in out.row_mut(row)[part.clone()]
                    .iter_mut()
                    .zip(&v.row(first + j)[part.clone()])
                {
                    *o += weight / sum * x;
                }
            }
        }
    }
    out
}
