//! From a request to its answers: models, media, and the step that runs all requests of a model together.

mod cache;
mod explain;
mod metrics;
mod models;
mod prepare;
mod worker;

pub(crate) use explain::explained;
pub(crate) use metrics::Metrics;
pub(crate) use models::{InUse, Loaded, Models};
pub use models::{Load, ModelSpec};
pub(crate) use prepare::{Asked, Preparing};
pub(crate) use worker::{Event, Work};
