//! Audio-visual contrastive decoding, `AVCD` (Jung et al., NeurIPS 2025): where the model is unsure, what it says with the
//! modalities silenced that it looks at least.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::logits::{entropy, keep_plausible, mix};
use super::request::{Hooks, Request};
use crate::error::Result;
use crate::hook::Hook;
use crate::hook::modality::Modality;
use crate::hook::rows::{LastRow, Silence};
use crate::hook::settings::{Settings, Value};
use crate::run::session::Session;
use crate::run::stream::{Event, Feed, Next, Stream};

/// Settings, with the published defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AvcdConfig {
    /// How much the silenced passes count.
    pub alpha: f32,
    /// Plausibility: the share of the best token's probability that a token needs.
    pub beta: f32,
    /// Tokens with an entropy (nats) below this are the plain model's.
    pub entropy: f32,
}

impl Default for AvcdConfig {
    fn default() -> Self {
        Self {
            alpha: 0.5,
            beta: 0.2,
            entropy: 0.6,
        }
    }
}

impl Settings for AvcdConfig {
    const NAME: &'static str = "avcd";

    fn set(&mut self, key: &str, value: Value) -> bool {
        match (key, value) {
            ("alpha", Value::Number { single, .. }) => self.alpha = single,
            ("beta", Value::Number { single, .. }) => self.beta = single,
            ("entropy", Value::Number { single, .. }) => self.entropy = single,
            _ => return false,
        }
        true
    }
}

/// A pass with some modalities silenced.
struct Pass {
    /// How much its logits count.
    factor: f32,
    session: Session,
    logits: Vec<f32>,
}

/// With the modalities m1 and m2 that are not dominant: `(2 + 2 alpha) l - 2 alpha l_{m1 m2} + l_{m1} + l_{m2}`; with one, m:
/// `(1 + alpha) l - alpha l_m`; a prompt of text alone is the plain model's. The silenced passes begin when the first unsure
/// token comes, and catch up with the answer at each.
pub struct Avcd {
    config: AvcdConfig,
    request: Request,
    kinds: Vec<Modality>,
    plain: Session,
    /// Logits of the plain pass, while the silenced ones are run.
    unsure: Option<Vec<f32>>,
    /// Hooks of the silenced passes until they begin.
    hooks: Vec<Vec<Box<dyn Hook>>>,
    passes: Vec<Pass>,
    /// Tokens of the answer that the silenced passes have not seen.
    behind: VecDeque<u32>,
}

impl Avcd {
    /// Before the prefill.
    pub fn new(config: AvcdConfig, request: &Request, hooks: &Hooks) -> Self {
        let mut first = hooks();
        first.push(Box::new(LastRow::new(request.prompt.embeds.rows(), 1)));
        let request = request.whole();
        Self {
            config,
            kinds: request.prompt.spans.iter().map(Modality::of).collect(),
            plain: request.session(first),
            request,
            unsure: None,
            hooks: (0..3).map(|_| hooks()).collect(),
            passes: Vec::new(),
            behind: VecDeque::new(),
        }
    }

    /// Whether there is more than text to weigh.
    fn contrasts(&self) -> bool {
        self.kinds.iter().any(|k| *k != Modality::Language)
    }

    /// The modalities of the prompt that are not dominant, and the attention above which a row is silenced.
    fn others(&self) -> (Vec<Modality>, f32) {
        let Some(seen) = self.plain.hook::<LastRow>() else {
            return (Vec::new(), f32::INFINITY);
        };
        let mean = seen.mean();
        let present = Modality::ALL.into_iter().filter(|k| self.kinds.contains(k));
        let mut by_dominance: Vec<(f32, Modality)> = present
            .map(|kind| {
                let of = self.kinds.iter().zip(&mean).filter(|(k, _)| **k == kind);
                let (n, sum) = of.fold((0.0, 0.0), |(n, sum), (_, a)| (n + 1.0, sum + a));
                (sum / n, kind)
            })
            .collect();
        by_dominance.sort_by(|a, b| b.0.total_cmp(&a.0));
        let others = by_dominance.into_iter().skip(1).map(|(_, kind)| kind);
        let layers = seen.layers().max(1) as f32;
        let medians: Vec<f32> = seen.heads().map(|head| median(head) / layers).collect();
        let threshold = medians.iter().sum::<f32>() / medians.len().max(1) as f32;
        (others.collect(), threshold)
    }

    /// Which modalities are silenced in each pass, and how much its logits count.
    fn plan(&self, others: &[Modality]) -> Vec<(f32, Vec<Modality>)> {
        let alpha = self.config.alpha;
        match *others {
            [m] => vec![(-alpha, vec![m])],
            [m1, m2] => vec![(-2.0 * alpha, vec![m1, m2]), (1.0, vec![m1]), (1.0, vec![m2])],
            _ => Vec::new(),
        }
    }

    /// The silenced passes, before the prompt.
    fn begin(&mut self) {
        let (others, threshold) = self.others();
        let plan = self.plan(&others).into_iter();
        for ((factor, silenced), mut hooks) in plan.zip(std::mem::take(&mut self.hooks)) {
            hooks.push(Box::new(Silence::new(self.kinds.clone(), silenced, threshold)));
            self.passes.push(Pass {
                factor,
                session: self.request.session(hooks),
                logits: Vec::new(),
            });
        }
    }

    /// The same in every silenced pass.
    fn silenced(&self, feed: &Feed) -> Next {
        Next::each(1..1 + self.passes.len(), feed)
    }

    fn mixed(&self, plain: &[f32]) -> Vec<f32> {
        let rest: f32 = if self.passes.len() == 1 { 1.0 } else { 2.0 };
        let mut terms = vec![(rest + rest * self.config.alpha, plain)];
        terms.extend(self.passes.iter().map(|p| (p.factor, p.logits.as_slice())));
        let mut mixed = mix(&terms);
        keep_plausible(&mut mixed, plain, self.config.beta);
        mixed
    }
}

/// The lower median.
fn median(x: &[f32]) -> f32 {
    let mut sorted = x.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted.get(x.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

impl Stream for Avcd {
    fn next(&mut self, event: Event) -> Result<Next> {
        let mut made = match event {
            Event::Begin => {
                let prompt = Arc::clone(&self.request.prompt);
                return Ok(Next::each(0..1, &Feed::Prompt(prompt)));
            }
            Event::Token(token) => {
                self.behind.push_back(token);
                return Ok(Next::each(0..1, &Feed::Token(token)));
            }
            Event::Logits(made) => made,
        };
        if self.unsure.is_none() {
            let plain = made.pop().unwrap_or_default();
            if !self.contrasts() || entropy(&plain) < self.config.entropy {
                return Ok(Next::Logits(plain));
            }
            self.unsure = Some(plain);
            if self.passes.is_empty() {
                self.begin();
                if !self.passes.is_empty() {
                    return Ok(self.silenced(&Feed::Prompt(Arc::clone(&self.request.prompt))));
                }
            }
        } else {
            for (pass, logits) in self.passes.iter_mut().zip(made) {
                pass.logits = logits;
            }
        }
        if let Some(token) = self.behind.pop_front().filter(|_| !self.passes.is_empty()) {
            return Ok(self.silenced(&Feed::Token(token)));
        }
        let plain = self.unsure.take().unwrap_or_default();
        Ok(Next::Logits(self.mixed(&plain)))
    }

    fn session(&self) -> &Session {
        &self.plain
    }

    fn sessions(&self) -> Vec<&Session> {
        let silenced = self.passes.iter().map(|p| &p.session);
        std::iter::once(&self.plain).chain(silenced).collect()
    }

    fn sessions_mut(&mut self) -> Vec<&mut Session> {
        let silenced = self.passes.iter_mut().map(|p| &mut p.session);
        std::iter::once(&mut self.plain).chain(silenced).collect()
    }
}
