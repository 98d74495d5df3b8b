//! From a conversation with files to the model's inputs: token ids, patches, mel frames, rotary positions. No weights.

pub mod chat;
mod expand;
pub mod inputs;
pub(crate) mod plan;
pub mod positions;
pub mod prepare;
mod preprocessor;
pub mod tokenizer;

pub use expand::{Chunk, expand, lay_out};
