//! The engine of OutRo: multimodal language models with a seam for interventions, and the intervention itself.
//!
//! ```
//! # std::env::set_current_dir("../..")?;
//! use outro::{Engine, EngineOptions, chat::Part};
//!
//! let engine = Engine::open("models/outro-tiny", EngineOptions::default())?;
//! let media = engine.media(&[Part::Video("fixtures/shapes.mp4".into())])?;
//! let answer = engine.ask(&media, "What do you see and hear?").strategy("outro")?.run()?;
//! println!("{}", answer.text);
//! # assert!(answer.text.starts_with("I see a blue circle, then a white triangle, then a red triangle."));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `docs/library.md` has more. Below the [`Engine`]: a checkpoint becomes a [`config::Config`] and immutable weights ([`Model`]);
//! media and a question become [`inputs::Inputs`]; encoders and embeddings make a [`Prompt`]; a [`Session`] runs it, with
//! [`method::OutRo`] or any other [`hook::Hook`] on its activations; a [`Stream`] mixes the logits of several sessions.
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

pub use compute::nn::{Deepstack, KvType, Mat};
pub use error::{Error, ErrorKind, Hint, PromptTokens, Result, unknown};
pub use hook::method::{self, OutRo, OutRoConfig, Prune, PruneConfig};
pub use outro_kernels::{Activations, HugePages, Level, f32_operations_per_second, read_bytes_per_second};
pub use outro_media::Cancel;
pub use prompt::{chat, inputs, positions, prepare, tokenizer};
pub use run::engine::{Answer, Ask, Batch, Ends, Engine, EngineOptions, MediaSet, Update, answer_all};
pub use run::model::{EncodeProgress, LoadOptions, MediaEmbeds, Model, Prompt};
pub use run::session::{Prefix, Session};
pub use run::stream::{Event, Feed, Next, Stream, Turn, step, tick};
pub use run::{convert, domain, engine, generate, strategy};
pub use spec::{config, family, settings, shapes};
pub use weights::checkpoint::{self, Dtype, Quantize};
