//! Linear layers and the gated MLP, over weights of any type.

use outro_kernels::{Activations, Phase, linear_with, silu_mul};

use super::Mat;
use crate::error::Result;
use crate::weights::checkpoint::{Checkpoint, Dtype, Matrix, Quantised};

/// What to read weights from, and how matrices are kept.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) dtype: Dtype,
    /// What becomes of matrices that are to be quantised.
    pub(crate) quantised: Option<&'a Quantised>,
    pub(crate) activations: Activations,
}

impl Weights<'_> {
    /// `prefix.weight [out, inp]` and, if asked for, `prefix.bias [out]`.
    pub(crate) fn linear(&self, prefix: &str, out: usize, inp: usize, bias: bool) -> Result<Linear> {
        self.linear_shaped(prefix, &[out, inp], bias)
    }

    /// A convolution's kernel, flattened behind its output channels.
    pub(crate) fn linear_shaped(&self, prefix: &str, shape: &[usize], bias: bool) -> Result<Linear> {
        let weight = self.matrix(&format!("{prefix}.weight"), shape)?;
        let bias = bias
            .then(|| self.checkpoint.vector(&format!("{prefix}.bias"), shape[0]))
            .transpose()?;
        Ok(Linear {
            weight,
            bias,
            activations: self.activations,
        })
    }

    /// The gated MLPs of `n` experts under `prefix.experts.`, three matrices each.
    pub(crate) fn experts(
        &self,
        prefix: &str,
        n: usize,
        hidden: usize,
        wide: usize,
    ) -> Result<Vec<GatedMlp>> {
        let one = |i| GatedMlp::load(*self, &format!("{prefix}.experts.{i}"), hidden, wide, false);
        (0..n).map(one).collect()
    }

    /// A matrix, quantised where it is to be.
    pub(crate) fn matrix(&self, name: &str, shape: &[usize]) -> Result<Matrix> {
        match self.quantised {
            Some(q) => q.matrix(self.checkpoint, name, shape, self.dtype),
            None => self.checkpoint.matrix(name, shape, self.dtype),
        }
    }

    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.checkpoint.vector(name, len)
    }

    pub(crate) fn table(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.checkpoint.table(name, shape)
    }
}

/// `y = x W^T + b`.
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) activations: Activations,
}

impl Linear {
    /// `x [rows, in]` to `[rows, out]`, in the arithmetic of a prefill.
    pub(crate) fn forward(&self, x: &[f32]) -> Mat {
        let mut out = Mat::default();
        self.forward_into(x, &mut out);
        out
    }

    /// [`Linear::forward`] into a matrix whose memory is used again.
    pub(crate) fn forward_into(&self, x: &[f32], out: &mut Mat) {
        self.step_into(x, 0, out);
    }

    /// [`Linear::forward_into`] of rows that share a step: the first `decode` of them in the arithmetic of decoding.
    pub(crate) fn step_into(&self, x: &[f32], decode: usize, out: &mut Mat) {
        out.reshape(x.len() / self.weight.cols(), self.weight.rows());
        self.step(x, decode, out.data_mut());
    }

    /// [`Linear::step_into`] some rows of a matrix.
    pub(crate) fn step(&self, x: &[f32], decode: usize, y: &mut [f32]) {
        let (k, n) = (self.weight.cols(), self.weight.rows());
        let (x, y) = (x.split_at(decode * k), y.split_at_mut(decode * n));
        for (phase, x, y) in [(Phase::Decode, x.0, y.0), (Phase::Prefill, x.1, y.1)] {
            let (x, rows) = (self.weight.gathered(x), x.len() / k);
            let (weight, bias) = (self.weight.weight(), self.bias.as_deref());
            linear_with(self.activations, phase, &x, rows, k, weight, n, bias, y);
        }
    }
}

/// `down(silu(gate(x)) * up(x))`.
pub(crate) struct GatedMlp {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// Row-chunk size of an MLP; bounds the `[rows, intermediate]` buffer, the peak memory of a prefill.
const MLP_ROWS: usize = 1024;

impl GatedMlp {
    pub(crate) fn load(
        w: Weights,
        prefix: &str,
        hidden: usize,
        intermediate: usize,
        bias: bool,
    ) -> Result<Self> {
        Ok(Self {
            gate: w.linear(&format!("{prefix}.gate_proj"), intermediate, hidden, bias)?,
            up: w.linear(&format!("{prefix}.up_proj"), intermediate, hidden, bias)?,
            down: w.linear(&format!("{prefix}.down_proj"), hidden, intermediate, bias)?,
        })
    }

    /// Adds the MLP's output for `norm(x)` to `x`, some rows at a time; the first `decode` rows are of decoding requests.
    pub(crate) fn add_to(&self, x: &mut [f32], decode: usize, norm: &[f32], eps: f32, scratch: &mut Scratch) {
        let Scratch { h, gate, up, .. } = scratch;
        let cols = norm.len();
        for (chunk, rows) in x.chunks_mut(MLP_ROWS * cols).enumerate() {
            h.reshape(rows.len() / cols, cols);
            outro_kernels::rms_norm(rows, norm, eps, h.data_mut());
            let decode = decode.saturating_sub(chunk * MLP_ROWS).min(h.rows());
            self.replace(h, decode, gate, up);
            outro_kernels::add(rows, h.data());
        }
    }

    /// The MLP's output in the place of its input.
    pub(crate) fn replace(&self, h: &mut Mat, decode: usize, gate: &mut Mat, up: &mut Mat) {
        self.gate.step_into(h.data(), decode, gate);
        self.up.step_into(h.data(), decode, up);
        silu_mul(gate.data_mut(), up.data());
        self.down.step_into(gate.data(), decode, h);
    }
}

/// Activations within a layer, in memory that the next layer uses again.
#[derive(Default)]
pub(crate) struct Scratch {
    /// What a norm gives, and what is added to the residual stream.
    pub(crate) h: Mat,
    pub(crate) q: Mat,
    pub(crate) k: Mat,
    pub(crate) v: Mat,
    /// Head outputs.
    pub(crate) o: Mat,
    pub(crate) gate: Mat,
    pub(crate) up: Mat,
    /// Rows of one expert, and the sum over experts.
    pub(crate) part: Mat,
    pub(crate) sum: Mat,
}
