//! The engine of OutRo: multimodal language models with a seam for interventions, and the intervention itself.

pub mod checkpoint;
pub mod config;
mod encoder;
mod error;
pub mod family;
pub mod hook;
pub mod method;
mod nn;

pub use checkpoint::Dtype;
pub use error::{Error, Result};
pub use method::{OutRo, OutRoConfig};
pub use nn::Mat;
