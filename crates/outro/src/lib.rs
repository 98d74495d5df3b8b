//! The engine of OutRo: multimodal language models with a seam for interventions, and the intervention itself.
//!
//! A checkpoint becomes a [`config::Config`] and immutable weights ([`Model`]); media and a question become
//! [`inputs::Inputs`]; towers and embeddings make a [`Prompt`]; a [`Session`] runs it, with [`method::OutRo`] or any
//! other [`hook::Hook`] on its activations.

pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod domain;
mod encoder;
mod error;
pub mod family;
pub mod generate;
pub mod hook;
pub mod inputs;
pub mod method;
mod model;
mod nn;
#[cfg(test)]
mod packed;
mod plan;
pub mod positions;
pub mod prepare;
mod preprocessor;
pub mod prompt;
mod random;
mod session;
pub mod settings;
pub mod shapes;
pub mod strategy;
mod tiles;
pub mod tokenizer;

pub use checkpoint::{Dtype, Quantize};
pub use encoder::audio_tokens;
pub use error::{Error, Result};
pub use method::{OutRo, OutRoConfig, Prune, PruneConfig};
pub use model::{LoadOptions, MediaEmbeds, Model, Progress, Prompt};
pub use nn::{Deepstack, KvType, Mat};
pub use outro_kernels::{Activations, HugePages, Level, f32_operations_per_second, read_bytes_per_second};
pub use session::{Session, Stream};
