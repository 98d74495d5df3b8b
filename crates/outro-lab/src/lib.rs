//! Everything that measures: benchmarks and their scoring, the synthetic world, statistics. Returns data; prints nothing.

pub mod bench;
pub mod check;
pub mod choice;
mod clip;
mod error;
pub mod log;
pub mod page;
pub mod probe;
pub mod report;
pub mod rescore;
pub mod run;
pub mod stats;
pub mod sweeps;
pub mod synth;
pub mod task;
pub mod tune;

pub use error::{Error, Result};
