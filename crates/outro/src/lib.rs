//! The engine of OutRo: multimodal language models with a seam for interventions, and the intervention itself.
//!
//! A checkpoint becomes a [`config::Config`] and immutable weights; media and a question become prepared inputs.

pub mod config;
mod error;
pub mod family;

pub use error::{Error, Result};
