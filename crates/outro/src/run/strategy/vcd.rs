//! Visual contrastive decoding (Leng et al., CVPR 2024): what the model says without seeing well counts against what it
//! says.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::logits::{keep_plausible, mix};
use super::noise::Noise;
use super::request::{Hooks, Request};
use crate::error::Result;
use crate::hook::modality::Modality;
use crate::hook::settings::{Settings, Value};
use crate::run::model::Prompt;
use crate::run::session::Session;
use crate::run::stream::{Event, Feed, Next, Stream};

/// Settings, with the published defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VcdConfig {
    /// How much the distorted pass counts.
    pub alpha: f32,
    /// Plausibility: the share of the best token's probability that a token needs.
    pub beta: f32,
    /// The distortion.
    pub noise: Noise,
}

impl Default for VcdConfig {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            beta: 0.1,
            noise: Noise::default(),
        }
    }
}

impl Settings for VcdConfig {
    const NAME: &'static str = "vcd";

    fn set(&mut self, key: &str, value: Value) -> bool {
        match (key, value) {
            ("alpha", Value::Number { single, .. }) => self.alpha = single,
            ("beta", Value::Number { single, .. }) => self.beta = single,
            ("steps", Value::Whole(n)) => self.noise.steps = n as usize,
            ("seed", Value::Whole(n)) => self.noise.seed = n,
            ("audio", Value::Flag(on)) => self.noise.audio = on,
            _ => return false,
        }
        true
    }
}

/// `(1 + alpha) l - alpha l_noisy`, with `l` of the media as they are; a prompt without media to distort is the plain
/// model's.
pub struct Vcd {
    config: VcdConfig,
    prompt: Arc<Prompt>,
    plain: Session,
    noisy: Option<(Session, Arc<Prompt>)>,
}

impl Vcd {
    /// Before the prefill; the distorted media are encoded here.
    ///
    /// # Errors
    /// As encoding media.
    pub fn new(config: VcdConfig, request: &Request, hooks: &Hooks) -> Result<Self> {
        let distorted =
            |kind: Modality| kind == Modality::Visual || kind == Modality::Audio && config.noise.audio;
        let spans = &request.prompt.spans;
        let noisy = if spans.iter().any(|s| distorted(Modality::of(s))) {
            let prompt = (request.noisy)(&config.noise)?;
            Some((request.whole().session(hooks()), Arc::new(prompt)))
        } else {
            None
        };
        Ok(Self {
            config,
            prompt: Arc::clone(&request.prompt),
            plain: request.session(hooks()),
            noisy,
        })
    }

    fn mixed(&self, plain: &[f32], noisy: &[f32]) -> Vec<f32> {
        let alpha = self.config.alpha;
        let mut mixed = mix(&[(1.0 + alpha, plain), (-alpha, noisy)]);
        keep_plausible(&mut mixed, plain, self.config.beta);
        mixed
    }
}

impl Stream for Vcd {
    fn next(&mut self, event: Event) -> Result<Next> {
        let noisy = self.noisy.as_ref();
        Ok(match event {
            Event::Begin => {
                let distorted = noisy.map(|(_, prompt)| prompt);
                let prompts = [Some(&self.prompt), distorted].into_iter().flatten().cloned();
                Next::Run(prompts.map(Feed::Prompt).enumerate().collect())
            }
            Event::Token(token) => Next::each(0..1 + noisy.iter().len(), &Feed::Token(token)),
            Event::Logits(made) => Next::Logits(match made.as_slice() {
                [plain, noisy] => self.mixed(plain, noisy),
                _ => made.into_iter().next().unwrap_or_default(),
            }),
        })
    }

    fn session(&self) -> &Session {
        &self.plain
    }

    fn sessions(&self) -> Vec<&Session> {
        let noisy = self.noisy.iter().map(|(session, _)| session);
        std::iter::once(&self.plain).chain(noisy).collect()
    }

    fn sessions_mut(&mut self) -> Vec<&mut Session> {
        let noisy = self.noisy.iter_mut().map(|(session, _)| session);
        std::iter::once(&mut self.plain).chain(noisy).collect()
    }
}
