//! What a model is: `config.json` by family, the model's own settings, arithmetic of sizes. No weights, no pixels.

pub(crate) mod anyres;
pub mod config;
pub mod family;
pub(crate) mod generation;
mod load;
pub mod settings;
pub mod shapes;
