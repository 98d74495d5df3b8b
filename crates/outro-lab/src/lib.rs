//! Everything that measures: benchmarks and their scoring, the synthetic world, statistics. Returns data; prints nothing.

mod error;
pub mod synth;

pub use error::{Error, Result};
