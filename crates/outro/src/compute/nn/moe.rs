//! A layer's MLP, or a mixture of experts in its place.

use super::{GatedMlp, Linear, Scratch, Weights, ops};
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
        outro_kernels::rms_norm(x, norm, eps, h.data_mut());
        self.router.step_into(h.data(), decode, gate);
        let mut rows_of = vec![Vec::new(); self.experts.len()];
        for row in 0..gate.rows() {
            for (expert, share) in ops::most_likely(gate.row_mut(row), self.top_k, self.normalised) {
                rows_of[expert].push((row, share));
            }
        }
        // Not into the residual stream at once: against a massive activation small shares would be rounded one by one.
        sum.reshape(h.rows(), cols);
        ops::clear(sum);
        for (expert, rows) in self.experts.iter().zip(&rows_of) {
            if rows.is_empty() {
                continue;
            }
            ops::gather(h, rows.iter().map(|(row, _)| *row), part);
            // Rows are in ascending order, so those of decoding requests come first here too.
            let decode = rows.partition_point(|(row, _)| *row < decode);
            expert.replace(part, decode, gate, up);
            ops::add_shares(part, rows, sum);
        }
        outro_kernels::add(x, sum.data());
    }
}
