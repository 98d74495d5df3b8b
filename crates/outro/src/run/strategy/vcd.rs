//! Visual contrastive decoding (Leng et al., CVPR 2024): what the model says without seeing well counts against what it
//! says.

use serde::{Deserialize, Serialize};

use super::logits::{keep_plausible, mix};
use super::noise::Noise;
use super::request::{Hooks, Request};
use crate::error::Result;
use crate::hook::modality::Modality;
use crate::hook::settings_grammar::{Settings, Switch};
use crate::run::model::Prompt;
use crate::run::session::{Session, Stream};

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

    fn set(&mut self, switch: Switch) -> Result<()> {
        match switch.key {
            "alpha" => self.alpha = switch.at_least(0.0)?,
            "beta" => self.beta = switch.number(0.0..=1.0)?,
            "steps" => self.noise.steps = switch.number(0..=999)?,
            "seed" => self.noise.seed = switch.number(0..=u64::MAX)?,
            "audio" => self.noise.audio = switch.flag()?,
            _ => return Err(switch.unknown(&["alpha", "beta", "steps", "seed", "audio"])),
        }
        Ok(())
    }
}

/// `(1 + alpha) l - alpha l_noisy`, with `l` of the media as they are; a prompt without media to distort is the plain
/// model's.
pub struct Vcd<'a> {
    config: VcdConfig,
    plain: Session<'a>,
    noisy: Option<(Session<'a>, Prompt)>,
}

impl<'a> Vcd<'a> {
    /// Before the prefill; the distorted media are encoded here.
    ///
    /// # Errors
    /// As encoding media.
    pub fn new(config: VcdConfig, request: &Request<'a>, hooks: &Hooks) -> Result<Self> {
        let distorted =
            |kind: Modality| kind == Modality::Visual || kind == Modality::Audio && config.noise.audio;
        let noisy = if request.spans.iter().any(|s| distorted(Modality::of(s))) {
            let plain = Request {
                prefix: None,
                ..*request
            };
            Some((plain.session(hooks())?, (request.noisy)(&config.noise)?))
        } else {
            None
        };
        Ok(Self {
            config,
            plain: request.session(hooks())?,
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

impl Stream for Vcd<'_> {
    fn prefill(&mut self, prompt: &Prompt, progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        let plain = Stream::prefill(&mut self.plain, prompt, progress)?;
        let Some((session, distorted)) = &mut self.noisy else {
            return Ok(plain);
        };
        let noisy = Stream::prefill(session, distorted, progress)?;
        Ok(self.mixed(&plain, &noisy))
    }

    fn decode(&mut self, token: u32) -> Result<Vec<f32>> {
        let plain = self.plain.decode(token)?;
        let Some((session, _)) = &mut self.noisy else {
            return Ok(plain);
        };
        let noisy = session.decode(token)?;
        Ok(self.mixed(&plain, &noisy))
    }

    fn cache_bytes(&self) -> usize {
        self.plain.cache_bytes() + self.noisy.as_ref().map_or(0, |(s, _)| s.cache_bytes())
    }

    fn passes(&self) -> usize {
        self.plain.passes() + self.noisy.as_ref().map_or(0, |(s, _)| s.passes())
    }

    fn session(&self) -> &Session<'_> {
        &self.plain
    }
}
