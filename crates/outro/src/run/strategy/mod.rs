//! Other ways of answering, to compare with OutRo: hooks that change one pass ([`FarSight`], [`Var`]), and streams that mix
//! the logits of several ([`Vcd`], [`Mixture`], [`Avcd`]). `docs/strategies.md` has formulas, sources and what differs.

mod avcd;
mod logits;
mod mixture;
mod named;
mod noise;
mod request;
mod vcd;

pub use avcd::{Avcd, AvcdConfig};
pub use logits::{entropy, jensen_shannon, keep_plausible, mix};
pub use mixture::{Mixture, MixtureConfig};
pub use named::{Contrast, Custom, Extra, KINDS, Strategy, StrategyKind, canonical_name, outro_switches};
pub use noise::{Noise, NoisyMedia};
pub use request::{Hooks, Noisy, Request, Single};
pub use vcd::{Vcd, VcdConfig};

pub use crate::hook::farsight::{FarSight, FarSightConfig};
pub use crate::hook::settings::{Form, SETTINGS, Setting, Settings, Value, setting, settings_of, switches};
pub use crate::hook::var::{Var, VarConfig};
