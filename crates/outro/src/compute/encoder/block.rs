//! What the towers' layers share.

use outro_kernels::{gelu, gelu_tanh, layer_norm, quick_gelu, rms_norm, silu_mul};

use crate::compute::nn::{Linear, Mat, Scratch, Weights};
use crate::error::Result;
use crate::spec::config::{Activation, Norm as Kind};

/// A norm with its weights.
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    /// Absent from RMS norms.
    bias: Option<Vec<f32>>,
    pub(super) eps: f32,
}

impl Norm {
    pub(super) fn load(w: Weights, prefix: &str, width: usize, kind: Kind, eps: f32) -> Result<Self> {
        let bias = (kind == Kind::Layer).then(|| w.vector(&format!("{prefix}.bias"), width));
        Ok(Self {
            weight: w.vector(&format!("{prefix}.weight"), width)?,
            bias: bias.transpose()?,
            eps,
        })
    }

    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        self.forward_into(x, &mut out);
        out
    }

    pub(super) fn forward_into(&self, x: &[f32], out: &mut [f32]) {
        match &self.bias {
            None => rms_norm(x, &self.weight, self.eps, out),
            Some(bias) => layer_norm(x, &self.weight, bias, self.eps, out),
        }
    }
}

/// `down(activation(up(x)))`.
pub(super) struct Mlp {
    pub(super) up: Linear,
    pub(super) down: Linear,
    activation: Activation,
}

/// Row-chunk size of an MLP; bounds the `[rows, intermediate]` buffer, the peak memory of an encoder.
const ROWS: usize = 1024;

impl Mlp {
    pub(super) fn new(up: Linear, down: Linear, activation: Activation) -> Self {
        Self { up, down, activation }
    }

    /// `x [rows, in]` to `[rows, out]`.
    pub(super) fn forward(&self, x: &[f32]) -> Mat {
        let (mut wide, mut part) = (Mat::default(), Mat::default());
        let mut out = Mat::empty(self.down.weight.rows());
        for rows in x.chunks(ROWS * self.up.weight.cols()) {
            self.into(rows, &mut wide, &mut part);
            out.push(part.data());
        }
        out
    }

    /// Adds the MLP's output for `norm(x)` to `x`, some rows at a time.
    pub(super) fn add_to(&self, x: &mut Mat, norm: &Norm, scratch: &mut Scratch) {
        let Scratch { h, o, gate, .. } = scratch;
        let cols = x.cols();
        for rows in x.data_mut().chunks_mut(ROWS * cols) {
            h.reshape(rows.len() / cols, cols);
            norm.forward_into(rows, h.data_mut());
            self.into(h.data(), gate, o);
            outro_kernels::add(rows, o.data());
        }
    }

    fn into(&self, x: &[f32], wide: &mut Mat, out: &mut Mat) {
        self.up.forward_into(x, wide);
        activate(self.activation, wide.data_mut());
        self.down.forward_into(wide.data(), out);
    }
}

fn activate(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => {
            let ones = vec![1.0; x.len()];
            silu_mul(x, &ones);
        }
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::QuickGelu => quick_gelu(x),
    }
}
