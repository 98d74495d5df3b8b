//! The blocks that towers and decoder are made of. Nothing here names a family or a method.

mod decoder;
mod linear;
mod mat;

pub(crate) use decoder::{Decoder, LayerCache, Step};
pub(crate) use linear::{GatedMlp, Linear, Weights};
pub use mat::Mat;
