//! Files of a checkpoint: safetensors, GGUF and JSON, and the matrices in them.

pub mod checkpoint;
pub(crate) mod json;
