//! Arithmetic on pictures: which frames, how large, and the patches that they are cut into.

pub(crate) mod frames;
pub(crate) mod patch;
pub(crate) mod resize;
