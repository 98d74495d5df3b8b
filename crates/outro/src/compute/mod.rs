//! Rows to rows: the encoders of media and the decoder, over `outro-kernels`.

pub(crate) mod encoder;
pub(crate) mod nn;
