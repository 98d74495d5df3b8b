//! OutRo (arXiv 2603.14337): rotate head outputs towards the value of the attention sinks.

mod config;
mod outro;
mod prune;
mod rotate;
mod sinks;

pub use super::reduce::median_abs;
pub use config::{DecodeRule, OutRoConfig};
pub use outro::OutRo;
pub use prune::{Prune, PruneConfig, prunable};
pub use sinks::{massive_tokens, root_mean_square, visual_sinks};
