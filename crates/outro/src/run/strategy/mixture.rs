//! Mixture of decoding, `MoD` (Chen et al., Findings of ACL 2025): the model's own attention says what of the picture matters;
//! whether leaving the rest out changes the answer says whether it was right.

use serde::{Deserialize, Serialize};

use super::logits::{jensen_shannon, keep_plausible, mix};
use super::request::{Hooks, Request};
use crate::error::{Error, Result};
use crate::hook::modality::Modality;
use crate::hook::rows::LastRow;
use crate::hook::settings_grammar::{Settings, Switch};
use crate::run::model::Prompt;
use crate::run::session::{Session, Stream};

/// Settings, with the published defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixtureConfig {
    /// Share of the visual tokens that the second pass sees, those with most attention.
    pub keep: f64,
    /// Below this divergence (nats) of the first token the passes complement, else they contrast each other.
    pub threshold: f64,
    /// How much the second pass counts where it complements.
    pub complement: f32,
    /// How much it counts against where it contrasts.
    pub contrast: f32,
    /// Plausibility: the share of the best token's probability that a token needs.
    pub beta: f32,
    /// Whether tokens of sound are ranked and left out too (not in the paper).
    pub audio: bool,
}

impl Default for MixtureConfig {
    fn default() -> Self {
        Self {
            keep: 0.2,
            threshold: 0.05,
            complement: 4.0,
            contrast: 1.0,
            beta: 0.5,
            audio: false,
        }
    }
}

impl Settings for MixtureConfig {
    const NAME: &'static str = "mod";

    fn set(&mut self, switch: Switch) -> Result<()> {
        match switch.key {
            "keep" => self.keep = switch.number(0.0..=1.0)?,
            "threshold" => self.threshold = switch.number(0.0..=1.0)?,
            "complement" => self.complement = switch.at_least(0.0)?,
            "contrast" => self.contrast = switch.at_least(0.0)?,
            "beta" => self.beta = switch.number(0.0..=1.0)?,
            "audio" => self.audio = switch.flag()?,
            _ => {
                let known = ["keep", "threshold", "complement", "contrast", "beta", "audio"];
                return Err(switch.unknown(&known));
            }
        }
        Ok(())
    }
}

/// A pass over the prompt, and one in which the embeddings of the least attended visual tokens are zero. A prompt without
/// such tokens is the plain model's.
pub struct Mixture<'a> {
    config: MixtureConfig,
    plain: Session<'a>,
    focused: Session<'a>,
    /// Rows that can be left out.
    visual: Vec<usize>,
    divergence: Option<f64>,
}

impl<'a> Mixture<'a> {
    /// Before the prefill.
    ///
    /// # Errors
    /// As [`Request::session`].
    pub fn new(config: MixtureConfig, request: &Request<'a>, hooks: &Hooks) -> Result<Self> {
        let ranked = |kind: Modality| kind == Modality::Visual || kind == Modality::Audio && config.audio;
        let spans = request.spans.iter().enumerate();
        let mut first = hooks();
        first.push(Box::new(LastRow::new(request.spans.len(), 0)));
        let whole = Request {
            prefix: None,
            ..*request
        };
        Ok(Self {
            config,
            plain: whole.session(first)?,
            focused: whole.session(hooks())?,
            visual: spans
                .filter(|(_, s)| ranked(Modality::of(s)))
                .map(|(row, _)| row)
                .collect(),
            divergence: None,
        })
    }

    /// Divergence of the two passes at the first token, which decides how they are mixed; `None` before the prefill, and
    /// where nothing was left out.
    pub fn divergence(&self) -> Option<f64> {
        self.divergence
    }

    /// The visual rows that get least attention: all but a share of `keep`, rounded as in the release.
    fn unattended(&self) -> Vec<usize> {
        let Some(seen) = self.plain.hook::<LastRow>() else {
            return Vec::new();
        };
        let (mean, mut rows) = (seen.mean(), self.visual.clone());
        let n = (rows.len() as f64 * (1.0 - self.config.keep)) as usize;
        rows.sort_by(|a, b| mean[*a].total_cmp(&mean[*b]).then(a.cmp(b)));
        rows.truncate(n);
        rows
    }

    fn mixed(&self, plain: &[f32], focused: &[f32]) -> Vec<f32> {
        let c = &self.config;
        let alike = self.divergence.is_some_and(|d| d < c.threshold);
        let mut mixed = if alike {
            mix(&[(1.0, plain), (c.complement, focused)])
        } else {
            mix(&[(1.0 + c.contrast, plain), (-c.contrast, focused)])
        };
        keep_plausible(&mut mixed, plain, c.beta);
        mixed
    }
}

impl Stream for Mixture<'_> {
    fn prefill(&mut self, prompt: &Prompt, progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        if self.visual.last().is_some_and(|row| *row >= prompt.embeds.rows()) {
            return Err(Error::input("prompt", "is not the one of the request"));
        }
        let plain = Stream::prefill(&mut self.plain, prompt, progress)?;
        if self.visual.is_empty() {
            return Ok(plain);
        }
        let mut without = prompt.clone();
        for row in self.unattended() {
            without.embeds.row_mut(row).fill(0.0);
        }
        let focused = Stream::prefill(&mut self.focused, &without, progress)?;
        self.divergence = Some(jensen_shannon(&plain, &focused));
        Ok(self.mixed(&plain, &focused))
    }

    fn decode(&mut self, token: u32) -> Result<Vec<f32>> {
        let plain = self.plain.decode(token)?;
        if self.divergence.is_none() {
            return Ok(plain);
        }
        let focused = self.focused.decode(token)?;
        Ok(self.mixed(&plain, &focused))
    }

    fn cache_bytes(&self) -> usize {
        self.plain.cache_bytes() + self.focused.cache_bytes()
    }

    fn passes(&self) -> usize {
        self.plain.passes() + self.focused.passes()
    }

    fn session(&self) -> &Session<'_> {
        &self.plain
    }
}
