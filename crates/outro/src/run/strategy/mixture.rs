//! Mixture of decoding, `MoD` (Chen et al., Findings of ACL 2025): the model's own attention says what of the picture matters;
//! whether leaving the rest out changes the answer says whether it was right.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::logits::{jensen_shannon, keep_plausible, mix};
use super::request::{Hooks, Request};
use crate::error::Result;
use crate::hook::modality::Modality;
use crate::hook::rows::LastRow;
use crate::hook::settings::{Settings, Value};
use crate::run::model::Prompt;
use crate::run::session::Session;
use crate::run::stream::{Event, Feed, Next, Stream};

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

    fn set(&mut self, key: &str, value: Value) -> bool {
        match (key, value) {
            ("keep", Value::Number { double, .. }) => self.keep = double,
            ("threshold", Value::Number { double, .. }) => self.threshold = double,
            ("complement", Value::Number { single, .. }) => self.complement = single,
            ("contrast", Value::Number { single, .. }) => self.contrast = single,
            ("beta", Value::Number { single, .. }) => self.beta = single,
            ("audio", Value::Flag(on)) => self.audio = on,
            _ => return false,
        }
        true
    }
}

/// A pass over the prompt, and one in which the embeddings of the least attended visual tokens are zero. A prompt without
/// such tokens is the plain model's.
pub struct Mixture {
    config: MixtureConfig,
    prompt: Arc<Prompt>,
    plain: Session,
    focused: Session,
    /// Rows that can be left out.
    visual: Vec<usize>,
    /// Logits of the first pass over the prompt, while the second is run.
    first: Option<Vec<f32>>,
    divergence: Option<f64>,
}

impl Mixture {
    /// Before the prefill.
    pub fn new(config: MixtureConfig, request: &Request, hooks: &Hooks) -> Self {
        let ranked = |kind: Modality| kind == Modality::Visual || kind == Modality::Audio && config.audio;
        let spans = request.prompt.spans.iter().enumerate();
        let mut first = hooks();
        first.push(Box::new(LastRow::new(request.prompt.embeds.rows(), 0)));
        let whole = request.whole();
        Self {
            config,
            prompt: Arc::clone(&request.prompt),
            plain: whole.session(first),
            focused: whole.session(hooks()),
            visual: spans
                .filter(|(_, s)| ranked(Modality::of(s)))
                .map(|(row, _)| row)
                .collect(),
            first: None,
            divergence: None,
        }
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

impl Stream for Mixture {
    fn next(&mut self, event: Event) -> Result<Next> {
        Ok(match event {
            Event::Begin => Next::each(0..1, &Feed::Prompt(Arc::clone(&self.prompt))),
            Event::Token(token) => {
                let passes = if self.divergence.is_some() { 2 } else { 1 };
                Next::each(0..passes, &Feed::Token(token))
            }
            Event::Logits(mut made) => {
                let last = made.pop().unwrap_or_default();
                match (made.pop(), self.first.take()) {
                    (Some(plain), _) => Next::Logits(self.mixed(&plain, &last)),
                    (None, Some(plain)) => {
                        self.divergence = Some(jensen_shannon(&plain, &last));
                        Next::Logits(self.mixed(&plain, &last))
                    }
                    // One pass was run: the first one over the prompt, or all that there are.
                    (None, None) if self.visual.is_empty() => Next::Logits(last),
                    (None, None) => {
                        self.first = Some(last);
                        let mut without = Prompt::clone(&self.prompt);
                        for row in self.unattended() {
                            without.embeds.row_mut(row).fill(0.0);
                        }
                        Next::Run(vec![(1, Feed::Prompt(Arc::new(without)))])
                    }
                }
            }
        })
    }

    fn session(&self) -> &Session {
        &self.plain
    }

    fn sessions(&self) -> Vec<&Session> {
        vec![&self.plain, &self.focused]
    }

    fn sessions_mut(&mut self) -> Vec<&mut Session> {
        vec![&mut self.plain, &mut self.focused]
    }
}
