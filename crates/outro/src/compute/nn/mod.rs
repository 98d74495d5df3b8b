//! The blocks that towers and decoder are made of. Nothing here names a family or a method.

mod cache;
mod decoder;
mod deepstack;
mod linear;
mod mat;
mod moe;
pub(crate) mod ops;
mod pass;
mod rotary;

pub use cache::KvType;
pub(crate) use cache::LayerCache;
pub(crate) use decoder::Decoder;
pub use deepstack::Deepstack;
pub(crate) use linear::{GatedMlp, Linear, Scratch, Weights};
pub use mat::Mat;
pub(crate) use moe::Mlp;
pub(crate) use pass::{NewRows, Pass, Step};
