//! One request as a strategy sees it.

use super::noise::Noise;
use crate::compute::nn::KvType;
use crate::error::Result;
use crate::hook::{Chain, Hook};
use crate::prompt::positions::Span;
use crate::run::model::{Model, Prompt};
use crate::run::session::Session;

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
