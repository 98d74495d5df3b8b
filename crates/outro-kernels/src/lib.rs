//! CPU kernels of OutRo on plain `f32` slices: dense linear layers with f32, bf16, f16 or quantised
//! weights, exact softmax attention that never stores a score matrix, norms, rotary embedding and activations.
//!
//! Shapes are in the letters of the whole project: S tokens, H query heads, G key/value heads, D head_dim.
//! All matrices are row-major. Results do not depend on the number of threads: work is split by shape alone.
//! Every kernel has a portable path and, chosen at run time, AVX2 and AVX-512 paths (see [`Level`]).

#![expect(
    unsafe_code,
    reason = "SIMD paths checked at run time, and tasks that write disjoint parts of one output"
)]
#![expect(
    clippy::inline_always,
    reason = "bodies must inline into the function compiled for each instruction set"
)]

mod attention;
mod columns;
mod gemm;
#[cfg(test)]
mod laws;
mod limits;
mod many;
mod math;
mod pack;
mod pages;
mod quant;
mod rotation;
mod simd;

pub use attention::{AttentionShape, Cached, Mask, attend, attend_rotated};
pub use columns::{column_sums, row_lse};
pub use gemm::{Activations, Phase, Weight, linear, linear_with};
pub use limits::{f32_operations_per_second, read_bytes_per_second};
pub use math::{add, gelu, gelu_tanh, layer_norm, quick_gelu, rms_norm, rotate_half, silu_mul};
pub use pages::HugePages;
pub use quant::{Blocks, QuantType, quantise};
pub use rotation::Rotation;
pub use simd::Level;
