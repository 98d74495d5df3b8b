//! Other ways of answering, to compare with OutRo: hooks that change one pass ([`FarSight`], [`Var`]), and streams that mix
//! the logits of several ([`Vcd`], [`Mixture`], [`Avcd`]). `docs/strategies.md` has formulas, sources and what differs.

mod avcd;
mod farsight;
mod logits;
mod mixture;
mod rows;
mod switches;
mod var;
mod vcd;

pub use avcd::{Avcd, AvcdConfig};
pub use farsight::{FarSight, FarSightConfig};
pub use logits::{entropy, jensen_shannon, keep_plausible, mix};
pub use mixture::{Mixture, MixtureConfig};
pub use switches::{Settings, Switch};
pub use var::{Var, VarConfig};
pub use vcd::{Noise, NoisyMedia, Vcd, VcdConfig};

use crate::error::Result;
use crate::hook::{Chain, Hook};
use crate::positions::Span;
use crate::session::Session;
use crate::{KvType, Model, Prompt};

/// One request as a strategy sees it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The weights.
    pub model: &'a Model,
    /// How keys and values are kept.
    pub kv: KvType,
    /// The prompt as it is.
    pub prompt: &'a Prompt,
    /// What each of its rows is.
    pub spans: &'a [Span],
    /// A plain session that has run the first rows of the prompt, for passes without hooks.
    pub prefix: Option<&'a Session<'a>>,
    /// The prompt with noise on its media.
    pub noisy: &'a dyn Fn(&Noise) -> Result<Prompt>,
}

/// Makes the hooks that every pass of a strategy carries, anew for each pass.
pub type Hooks<'h> = dyn Fn() -> Vec<Box<dyn Hook>> + 'h;

impl<'a> Request<'a> {
    /// A session with these hooks, in this order. Without any it goes on from [`Request::prefix`].
    ///
    /// # Errors
    /// A prefix with a hook.
    pub fn session(&self, mut hooks: Vec<Box<dyn Hook>>) -> Result<Session<'a>> {
        let hook: Option<Box<dyn Hook>> = match hooks.len() {
            0 => match self.prefix {
                Some(prefix) => return prefix.fork(),
                None => None,
            },
            1 => hooks.pop(),
            _ => Some(Box::new(Chain(hooks))),
        };
        Ok(Session::with_kv(self.model, hook, self.kv))
    }
}

/// What a row is to a strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Visual,
    Audio,
    Language,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Visual, Self::Audio, Self::Language];

    pub(crate) fn of(span: &Span) -> Self {
        match span {
            Span::Text => Self::Language,
            Span::Image { .. } | Span::Video { .. } => Self::Visual,
            Span::Audio { .. } => Self::Audio,
        }
    }
}
