//! One request as a strategy sees it.

use std::sync::Arc;

use super::noise::Noise;
use crate::compute::nn::KvType;
use crate::error::Result;
use crate::hook::{Chain, Hook};
use crate::run::model::{Model, Prompt};
use crate::run::session::{Prefix, Session};
use crate::run::stream::{Event, Feed, Next, Stream};

/// Makes the prompt with noise on its media.
pub type Noisy = dyn Fn(&Noise) -> Result<Prompt> + Send + Sync;

/// One request as a strategy sees it.
#[derive(Clone)]
pub struct Request {
    /// The weights.
    pub model: Model,
    /// How keys and values are kept.
    pub kv: KvType,
    /// The prompt as it is.
    pub prompt: Arc<Prompt>,
    /// The first rows of the prompt, run by the plain model, for passes without hooks.
    pub prefix: Option<Arc<Prefix>>,
    /// The prompt with noise on its media.
    pub noisy: Arc<Noisy>,
    /// Ends every pass when it is set.
    pub cancel: outro_media::Cancel,
}

/// Makes the hooks that every pass of a strategy carries, anew for each pass.
pub type Hooks<'h> = dyn Fn() -> Vec<Box<dyn Hook>> + 'h;

impl Request {
    /// A session with these hooks, in this order. Without any it goes on from [`Request::prefix`].
    pub fn session(&self, mut hooks: Vec<Box<dyn Hook>>) -> Session {
        let mut session = match (hooks.pop(), &self.prefix) {
            (None, Some(prefix)) => prefix.session(),
            (None, None) => Session::with_kv(&self.model, None, self.kv),
            (Some(only), _) if hooks.is_empty() => Session::with_kv(&self.model, Some(only), self.kv),
            (Some(last), _) => {
                hooks.push(last);
                Session::with_kv(&self.model, Some(Box::new(Chain(hooks))), self.kv)
            }
        };
        session.cancelled_by(&self.cancel);
        session
    }

    /// The same without a prefix, for passes that see all rows.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self {
            prefix: None,
            ..self.clone()
        }
    }
}

/// One pass over the prompt and one for each token: the plain model, OutRo, and all that acts by hooks alone.
pub struct Single {
    session: Session,
    prompt: Arc<Prompt>,
}

impl Single {
    /// Before the prefill.
    pub fn new(request: &Request, hooks: &Hooks) -> Self {
        Self {
            session: request.session(hooks()),
            prompt: Arc::clone(&request.prompt),
        }
    }
}

impl Stream for Single {
    fn next(&mut self, event: Event) -> Result<Next> {
        Ok(match event {
            Event::Begin => Next::each(0..1, &Feed::Prompt(Arc::clone(&self.prompt))),
            Event::Token(token) => Next::each(0..1, &Feed::Token(token)),
            Event::Logits(mut made) => Next::Logits(made.pop().unwrap_or_default()),
        })
    }

    fn session(&self) -> &Session {
        &self.session
    }

    fn sessions(&self) -> Vec<&Session> {
        vec![&self.session]
    }

    fn sessions_mut(&mut self) -> Vec<&mut Session> {
        vec![&mut self.session]
    }
}
