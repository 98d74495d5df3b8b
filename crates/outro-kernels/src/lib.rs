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

mod arithmetic;
mod attention;
mod attention_mass;
mod cached;
mod huge_pages;
mod kv_quant;
#[cfg(test)]
mod laws;
mod linear;
mod math;
mod quant;
mod roofline;
mod rotation;
mod shape;
mod shared;
mod simd;
mod weight;

pub use arithmetic::{Activations, Phase};
pub use attention::{Mask, attend, attend_rotated};
pub use attention_mass::{column_sums, row_lse};
pub use cached::{Cached, Stored};
pub use huge_pages::HugePages;
pub use kv_quant::{KvBlocks, KvQuant};
pub use linear::{linear, linear_with};
pub use math::{add, gelu, gelu_tanh, layer_norm, quick_gelu, rms_norm, rotate_half, silu_mul};
pub use quant::group::{Code, FP4, GroupLen, Head, NF4, e4m3, put_group};
pub use quant::{Blocks, QuantType, quantise};
pub use roofline::{f32_operations_per_second, read_bytes_per_second};
pub use rotation::Rotation;
pub use shape::AttentionShape;
pub use simd::Level;
pub use weight::Weight;
