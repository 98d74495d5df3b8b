//! Pruning by the sinks' queries: what a sink would look at if it saw the whole prompt is what the prompt needs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::config::OutRoConfig;
use super::outro::OutRo;
use crate::error::{Error, Result};
use crate::hook::seam::{At, Flow, Hook, Needs};
use crate::hook::settings::{Value, setting, switches};
use crate::hook::views::{Attention, HeadOutputs, Hidden};
use crate::prompt::positions::Span;

/// Where tokens are ranked and how many stay (the paper prunes to 0.2 at layer 5 of 36, and finds 3 too early).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneConfig {
    /// The layer whose attention ranks the tokens; those that go leave after it.
    pub layer: usize,
    /// Share of the media tokens that stays, above 0 and up to 1.
    pub keep: f32,
}

impl FromStr for PruneConfig {
    type Err = Error;

    /// `layer=5,keep=0.2`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |problem: String| {
            let problem = format!("`{text}`: {problem}; for example layer=5,keep=0.2");
            Error::setting("prune", problem)
        };
        let (mut layer, mut keep) = (None, None);
        for (key, value) in &switches("prune", text)? {
            match setting("prune", key)?.read(value)? {
                Value::Whole(n) => layer = Some(n as usize),
                Value::Number { single, .. } => keep = Some(single),
                _ => {}
            }
        }
        Ok(Self {
            layer: layer.ok_or_else(|| bad("has no layer".into()))?,
            keep: keep.ok_or_else(|| bad("has no keep".into()))?,
        })
    }
}

impl fmt::Display for PruneConfig {
    /// As a strategy's name has it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "prune:layer={},keep={}", self.layer, self.keep)
    }
}

/// Drops media tokens of ONE request after a layer. Text, the sinks themselves and the last row always stay; rotary
/// positions do not change. Where no sink was found up to the layer, the first token's query ranks.
pub struct Prune {
    config: PruneConfig,
    detector: OutRo,
    /// Whether each row of the prompt may go.
    media: Vec<bool>,
    /// Prompt positions of the queries that ranked.
    queries: Vec<usize>,
    /// Prompt positions that stay, between the ranking and the next layer.
    stay: Option<Vec<usize>>,
    dropped: usize,
}

impl Prune {
    /// `sinks` says what a sink is; `media[i]` whether row i of the prompt may go.
    pub fn new(config: PruneConfig, sinks: &OutRoConfig, media: Vec<bool>) -> Self {
        Self {
            config,
            detector: OutRo::detector(sinks),
            media,
            queries: Vec::new(),
            stay: None,
            dropped: 0,
        }
    }

    /// Prompt positions whose queries ranked the tokens; empty before the ranking.
    pub fn queries(&self) -> &[usize] {
        &self.queries
    }

    /// How many tokens were dropped.
    pub fn dropped(&self) -> usize {
        self.dropped
    }
}

/// Attention `[s]` of query row `query` over all keys, past and future, averaged over heads.
fn whole_view(attention: Attention, heads: usize, query: usize) -> Vec<f32> {
    let keys = attention.keys();
    let mut mean = vec![0.0; keys];
    for head in 0..heads {
        let weights = attention.weights(head, query, keys);
        mean.iter_mut()
            .zip(weights)
            .for_each(|(m, w)| *m += w / heads as f32);
    }
    mean
}

impl Hook for Prune {
    fn needs(&self, at: At) -> Needs {
        let ranks = at.prefill && at.layer == self.config.layer;
        Needs {
            input: at.prefill,
            ..Needs::attention(ranks)
        }
    }

    fn layer_input(&mut self, at: At, x: Hidden) -> Result<Flow> {
        if self.dropped > 0 {
            return Ok(Flow::Continue);
        }
        if self.config.layer + 1 >= at.layers {
            return Err(Error::Setting {
                key: "prune".into(),
                problem: format!(
                    "layer={}: the model's layers are 0 to {}, and tokens that leave after the last save nothing",
                    self.config.layer,
                    at.layers.saturating_sub(1)
                ),
            });
        }
        if at.layer == 0 && self.media.len() != x.rows() {
            return Err(Error::input(
                "prune",
                "the kinds of the rows do not fit the prompt",
            ));
        }
        if let Some(stay) = self.stay.take() {
            // In prompt positions; another hook may have dropped some since.
            let rows: Vec<usize> = stay.iter().filter_map(|t| at.row(*t)).collect();
            self.dropped = x.rows() - rows.len();
            return Ok(Flow::Keep(rows));
        }
        self.detector.layer_input(at, x)
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        _o: &mut HeadOutputs,
        _applied: bool,
    ) -> Result<()> {
        let found = self.detector.sinks().values().rev().find(|s| !s.is_empty());
        self.queries = found.cloned().unwrap_or_else(|| vec![0]);
        let queries: Vec<usize> = self.queries.iter().filter_map(|t| at.row(*t)).collect();
        let rows = attention.rows();
        let mut score = vec![0.0f32; rows];
        for query in &queries {
            for (s, a) in score
                .iter_mut()
                .zip(whole_view(attention, at.shape.heads, *query))
            {
                *s += a;
            }
        }
        let may_go = |row: &usize| self.media[at.position(*row)];
        let mut media: Vec<usize> = (0..rows.saturating_sub(1)).filter(may_go).collect();
        let keep = (self.config.keep * media.len() as f32).ceil() as usize;
        media.sort_by(|a, b| score[*b].total_cmp(&score[*a]).then(a.cmp(b)));
        let mut goes = vec![false; rows];
        for row in media.into_iter().skip(keep).filter(|r| !queries.contains(r)) {
            goes[row] = true;
        }
        if goes.contains(&true) {
            let stay = (0..rows).filter(|r| !goes[*r]);
            self.stay = Some(stay.map(|row| at.position(row)).collect());
        }
        Ok(())
    }
}

/// Which rows of a prompt pruning may take away.
pub fn prunable(spans: &[Span]) -> Vec<bool> {
    spans
        .iter()
        .map(|s| matches!(s, Span::Video { .. } | Span::Audio { .. }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_named() {
        let c: PruneConfig = "layer=5, keep=0.2".parse().unwrap();
        assert_eq!(c, PruneConfig { layer: 5, keep: 0.2 });
        for bad in [
            "",
            "layer=5",
            "keep=1",
            "layer=5,keep=0",
            "layer=5,keep=2",
            "layer=x,keep=1",
            "layer=1,top=3",
        ] {
            let message = bad.parse::<PruneConfig>().unwrap_err().to_string();
            assert!(message.contains("prune"), "{message}");
        }
    }
}
