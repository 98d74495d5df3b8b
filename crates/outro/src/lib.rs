//! The engine of OutRo: multimodal language models with a seam for interventions, and the intervention itself.
//!
//! A checkpoint becomes a [`config::Config`] and immutable weights ([`Model`]); media and a question become
//! [`inputs::Inputs`]; towers and embeddings make a [`Prompt`]; a [`Session`] runs it, with [`method::OutRo`] or any
//! other [`hook::Hook`] on its activations.
//!
//! Folders, each of which uses only those above it: `weights` (files and matrices), `spec` (what a model is), `prompt` (from files
//! to the model's inputs), `hook` (what may look in and change), `compute` (rows to rows), `run` (requests).

mod compute;
mod error;
pub mod hook;
pub mod prompt;
mod run;
mod spec;
mod weights;

pub use compute::encoder::audio_tokens;
pub use compute::nn::{Deepstack, KvType, Mat};
pub use error::{Error, Result, unknown};
pub use hook::method::{self, OutRo, OutRoConfig, Prune, PruneConfig};
pub use outro_kernels::{Activations, HugePages, Level, f32_operations_per_second, read_bytes_per_second};
pub use prompt::{chat, inputs, positions, prepare, tokenizer};
pub use run::model::{LoadOptions, MediaEmbeds, Model, Progress, Prompt};
pub use run::session::{Session, Stream};
pub use run::{domain, generate, strategy};
pub use spec::{config, family, settings, shapes};
pub use weights::checkpoint::{self, Dtype, Quantize};
