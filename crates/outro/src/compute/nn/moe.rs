//! A layer's MLP, or a mixture of experts in its place.

use super::{GatedMlp, Linear, Scratch, Weights};
use crate::error::Result;
use crate::spec::config::TextConfig;
use crate::weights::checkpoint::Matrix;

/// What follows attention in a layer.
pub(crate) enum Mlp {
    Dense(GatedMlp),
    Sparse(Moe),
}

impl Mlp {
    pub(crate) fn load(w: Weights, prefix: &str, c: &TextConfig, layer: usize) -> Result<Self> {
        let Some(moe) = c.moe.as_ref().filter(|m| m.at(layer)) else {
            return Ok(Self::Dense(GatedMlp::load(
                w,
                prefix,
                c.hidden,
                c.intermediate,
                false,
            )?));
        };
        let experts = w.experts(prefix, moe.experts, c.hidden, moe.intermediate)?;
        Ok(Self::Sparse(Moe {
            router: w.linear(&format!("{prefix}.gate"), moe.experts, c.hidden, false)?,
            experts,
            top_k: moe.top_k,
            normalised: moe.normalised,
        }))
    }

    /// Adds the output for `norm(x)` to `x`; the first `decode` rows are of decoding requests.
    pub(crate) fn add_to(&self, x: &mut [f32], decode: usize, norm: &[f32], eps: f32, scratch: &mut Scratch) {
        match self {
            Self::Dense(mlp) => mlp.add_to(x, decode, norm, eps, scratch),
            Self::Sparse(moe) => moe.add_to(x, decode, norm, eps, scratch),
        }
    }

    /// The matrices of all experts, or as many as one row is multiplied with.
    pub(crate) fn matrices(&self, all: bool) -> Vec<&Matrix> {
        let (router, experts) = match self {
            Self::Dense(mlp) => (None, std::slice::from_ref(mlp)),
            Self::Sparse(moe) if all => (Some(&moe.router), moe.experts.as_slice()),
            Self::Sparse(moe) => (Some(&moe.router), &moe.experts[..moe.top_k]),
        };
        let linears = experts.iter().flat_map(|e| [&e.gate, &e.up, &e.down]);
        router.into_iter().chain(linears).map(|l| &l.weight).collect()
    }
}

/// A router and its experts.
pub(crate) struct Moe {
    router: Linear,
    experts: Vec<GatedMlp>,
    top_k: usize,
    normalised: bool,
}

impl Moe {
    /// Rows are put together expert by expert, so each expert that somebody chose is read once, and no other is.
    fn add_to(&self, x: &mut [f32], decode: usize, norm: &[f32], eps: f32, scratch: &mut Scratch) {
        let Scratch {
            h,
            gate,
            up,
            part,
            sum,
            ..
        } = scratch;
        let cols = norm.len();
        h.reshape(x.len() / cols, cols);
        outro_kernels::rms_norm(x, norm, eps, &mut h.data);
        self.router.step_into(&h.data, decode, gate);
        let mut rows_of = vec![Vec::new(); self.experts.len()];
        for row in 0..gate.rows() {
            for (expert, share) in choose(gate.row_mut(row), self.top_k, self.normalised) {
                rows_of[expert].push((row, share));
            }
        }
        // Not into the residual stream at once: against a massive activation small shares would be rounded one by one.
        sum.reshape(h.rows(), cols);
        sum.data.fill(0.0);
        for (expert, rows) in self.experts.iter().zip(&rows_of) {
            if rows.is_empty() {
                continue;
            }
            part.reshape(rows.len(), cols);
            for (to, (row, _)) in part.data.chunks_exact_mut(cols).zip(rows) {
                to.copy_from_slice(h.row(*row));
            }
            // Rows are in ascending order, so those of decoding requests come first here too.
            let decode = rows.partition_point(|(row, _)| *row < decode);
            expert.replace(part, decode, gate, up);
            for (from, (row, share)) in part.data.chunks_exact(cols).zip(rows) {
                for (to, from) in sum.row_mut(*row).iter_mut().zip(from) {
                    *to += share * from;
                }
            }
        }
        outro_kernels::add(x, &sum.data);
    }
}

/// The most likely experts with their shares, by the softmax over all; the first of equals. Leaves the softmax in `logits`.
fn choose(logits: &mut [f32], top_k: usize, normalised: bool) -> Vec<(usize, f32)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for x in logits.iter_mut() {
        *x = (*x - max).exp();
        total += *x;
    }
    for x in logits.iter_mut() {
        *x /= total;
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    order.truncate(top_k);
    let kept: f32 = order.iter().map(|e| logits[*e]).sum();
    let scale = if normalised { kept } else { 1.0 };
    order.into_iter().map(|e| (e, logits[e] / scale)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_a_softmax_and_ties_go_to_the_first() {
        let mut logits = [0.0, 2f32.ln(), 5f32.ln(), 2f32.ln()];
        let shares = choose(&mut logits.clone(), 2, false);
        assert_eq!(shares.iter().map(|s| s.0).collect::<Vec<_>>(), [2, 1]);
        assert!((shares[0].1 - 0.5).abs() < 1e-6 && (shares[1].1 - 0.2).abs() < 1e-6);
        let shares = choose(&mut logits, 2, true);
        assert!((shares[0].1 - 5.0 / 7.0).abs() < 1e-6 && (shares[1].1 - 2.0 / 7.0).abs() < 1e-6);
    }
}
