//! Pruning by the sinks' queries: what a sink would look at if it saw the whole prompt is what the prompt needs.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::config::OutRoConfig;
use super::outro::OutRo;
use crate::error::{Error, Result};
use crate::hook::seam::{At, Flow, Hook, Qkv};
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
        let bad = |problem: String| Error::Setting {
            key: "prune".into(),
            problem: format!("`{text}`: {problem}; for example layer=5,keep=0.2"),
        };
        let (mut layer, mut keep) = (None, None);
        for part in text.split(',') {
            match part.split_once('=').map(|(k, v)| (k.trim(), v.trim())) {
                Some(("layer", v)) => {
                    layer = Some(
                        v.parse()
                            .map_err(|_| bad(format!("layer `{v}` is no layer number")))?,
                    );
                }
                Some(("keep", v)) => {
                    let share: f32 = v.parse().map_err(|_| bad(format!("keep `{v}` is no number")))?;
                    if !(share > 0.0 && share <= 1.0) {
                        return Err(bad(format!("keep is {v}, must be above 0 and up to 1")));
                    }
                    keep = Some(share);
                }
                _ => return Err(bad(format!("`{part}` is neither layer=N nor keep=SHARE"))),
            }
        }
        Ok(Self {
            layer: layer.ok_or_else(|| bad("has no layer".into()))?,
            keep: keep.ok_or_else(|| bad("has no keep".into()))?,
        })
    }
}

/// Drops media tokens of ONE request after a layer. Text, the sinks themselves and the last row always stay; rotary
/// positions do not change. Where no sink was found up to the layer, the first token's query ranks.
pub struct Prune {
    config: PruneConfig,
    detector: OutRo,
    /// Whether each row may go.
    media: Vec<bool>,
    /// Prompt positions of the queries that ranked.
    queries: Vec<usize>,
    /// Rows that stay, between the ranking and the next layer.
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
fn whole_view(qkv: Qkv, at: At, query: usize) -> Vec<f32> {
    let (heads, keys) = (at.shape.heads, qkv.keys(at));
    let mut mean = vec![0.0; keys];
    for head in 0..heads {
        let weights = qkv.weights(at, head, query, keys);
        mean.iter_mut()
            .zip(weights)
            .for_each(|(m, w)| *m += w / heads as f32);
    }
    mean
}

impl Hook for Prune {
    fn layer_input(&mut self, at: At, x: &[f32], hidden: usize) -> Result<Flow> {
        if !at.prefill || self.dropped > 0 {
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
        if self.media.len() != x.len() / hidden {
            return Err(Error::input(
                "prune",
                "the kinds of the rows do not fit the prompt",
            ));
        }
        if let Some(stay) = self.stay.take() {
            self.dropped = self.media.len() - stay.len();
            return Ok(Flow::Keep(stay));
        }
        self.detector.layer_input(at, x, hidden)
    }

    fn reads_cache(&self, at: At) -> bool {
        at.prefill && at.layer == self.config.layer
    }

    fn head_outputs(&mut self, at: At, qkv: Qkv, _o: &mut [f32]) -> Result<()> {
        if !self.reads_cache(at) {
            return Ok(());
        }
        let found = self.detector.sinks().values().rev().find(|s| !s.is_empty());
        self.queries = found.cloned().unwrap_or_else(|| vec![0]);
        let queries: Vec<usize> = self
            .queries
            .iter()
            .filter_map(|t| self.detector.row_of(*t))
            .collect();
        let mut score = vec![0.0f32; self.media.len()];
        for query in &queries {
            for (s, a) in score.iter_mut().zip(whole_view(qkv, at, *query)) {
                *s += a;
            }
        }
        let last = self.media.len().saturating_sub(1);
        let mut media: Vec<usize> = (0..last).filter(|r| self.media[*r]).collect();
        let keep = (self.config.keep * media.len() as f32).ceil() as usize;
        media.sort_by(|a, b| score[*b].total_cmp(&score[*a]).then(a.cmp(b)));
        let mut goes = vec![false; self.media.len()];
        for row in media.into_iter().skip(keep).filter(|r| !queries.contains(r)) {
            goes[row] = true;
        }
        if goes.contains(&true) {
            self.stay = Some((0..goes.len()).filter(|r| !goes[*r]).collect());
        }
        Ok(())
    }

    fn rows_kept(&mut self, at: At, rows: &[usize]) {
        self.media = rows.iter().map(|r| self.media[*r]).collect();
        self.detector.rows_kept(at, rows);
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
