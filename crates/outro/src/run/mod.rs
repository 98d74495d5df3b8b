//! Requests on a model: weights with a configuration, sessions, strategies, the loop that makes tokens.

pub mod convert;
pub mod domain;
pub mod engine;
pub mod generate;
pub(crate) mod model;
#[cfg(test)]
mod packed;
mod random;
pub(crate) mod session;
pub mod strategy;
pub(crate) mod stream;
pub(crate) mod videos;
