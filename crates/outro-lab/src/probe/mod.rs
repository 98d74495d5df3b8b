//! What attention sinks are and do on ONE prompt: which tokens, who looks at them, what their keys and values look
//! like, and what they add to head outputs (paper, questions Q1 and Q2). Hooks see a plain prefill; nothing of size
//! S x S is stored.
//!
//! Attention is that of the causal prefill, before any relaxation. Sinks' own rows are left out of every mean over
//! queries: the first token sees nothing but itself.

mod geometry;
pub mod numbers;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use outro::hook::{Chain, Hidden, Hook};
use outro::method::{OutRoConfig, Prune, PruneConfig, massive_tokens, visual_sinks};
use outro::positions::Span;
use outro::{KvType, Model, Prompt, Session};
use serde::Serialize;

pub use geometry::{Cosines, KeyDimension, Norms};

use crate::error::{Error, Result};

/// What a token is, as far as attention is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Words and delimiters.
    Text,
    /// A piece of an image.
    Image,
    /// A piece of two frames of a video.
    Video,
    /// 40 ms of sound.
    Audio,
}

impl Kind {
    /// All of them; tables by kind have this order.
    pub const ALL: [Self; 4] = [Self::Text, Self::Image, Self::Video, Self::Audio];

    /// Its name.
    pub fn name(self) -> &'static str {
        ["text", "image", "video", "audio"][self as usize]
    }
}

impl From<&Span> for Kind {
    fn from(span: &Span) -> Self {
        match span {
            Span::Text => Self::Text,
            Span::Image { .. } => Self::Image,
            Span::Video { .. } => Self::Video,
            Span::Audio { .. } => Self::Audio,
        }
    }
}

pub use outro::method::prunable;

/// How to look.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// What a sink is (Phi_LLM), and what OutRo would do.
    pub method: OutRoConfig,
    /// Whether OutRo acts. Otherwise it works on a copy, and what is seen is the plain model.
    pub act: bool,
    /// Phi_VLM: a token's sink dimensions reach this multiple of its root mean square (paper: 20).
    pub tau: f32,
    /// Phi_VLM: the sink dimensions; none means the two that stand out at the sinks of this prompt.
    pub dims: Vec<usize>,
    /// Attention-mass detector: mean attention by the queries that see a key (Gu et al.: 0.3).
    pub epsilon: f32,
    /// Tokens to drop on the way.
    pub prune: Option<PruneConfig>,
    /// How keys and values are kept.
    #[serde(skip)]
    pub kv: KvType,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: OutRoConfig::default(),
            act: false,
            tau: 20.0,
            dims: Vec::new(),
            epsilon: 0.3,
            prune: None,
            kv: KvType::F32,
        }
    }
}

/// How a layer's heads open: the gate of a head is the mean share of attention that does not go to sinks ("Attention
/// Sink Forges Native MoE", arXiv 2602.01203).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Balance {
    /// Standard deviation of the gates over their mean.
    pub variation: f32,
    /// Entropy of the gates as a distribution over heads, over that of equal gates: 1 is balanced.
    pub entropy: f32,
    /// Share of heads whose gate is below 0.05.
    pub closed: f32,
}

impl Balance {
    /// Of the gates of one layer.
    pub fn of(gates: &[f32]) -> Self {
        let n = gates.len() as f32;
        let sum: f32 = gates.iter().sum();
        if sum <= 0.0 || gates.len() < 2 {
            return Self {
                closed: gates.iter().filter(|g| **g < 0.05).count() as f32 / n.max(1.0),
                ..Self::default()
            };
        }
        let mean = sum / n;
        let variance = gates.iter().map(|g| (g - mean).powi(2)).sum::<f32>() / n;
        let shares = gates.iter().map(|g| g / sum).filter(|p| *p > 0.0);
        Self {
            variation: variance.sqrt() / mean,
            entropy: -shares.map(|p| p * p.ln()).sum::<f32>() / n.ln(),
            closed: gates.iter().filter(|g| **g < 0.05).count() as f32 / n,
        }
    }
}

/// How much one watched token is looked at in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WatchedToken {
    /// Where it is in the prompt.
    pub position: usize,
    /// Mean attention by all later queries, averaged over heads.
    pub mass: f32,
    /// Mean attention by later video queries.
    pub video: f32,
    /// Mean attention by later audio queries.
    pub audio: f32,
    /// `(video - audio) / (video + audio)`: 1 is a sink of the video, -1 of the sound; 0 where neither looks.
    pub modality: f32,
}

/// One decoder layer. Positions are those of the prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Layer {
    /// Its number.
    pub layer: usize,
    /// Tokens that entered.
    pub tokens: usize,
    /// The three largest |activations| of tokens that enter (largest of each token, three tokens).
    pub top: [f32; 3],
    /// The median |activation|.
    pub median: f32,
    /// Phi_LLM: tokens with a massive activation.
    pub massive: Vec<usize>,
    /// Phi_VLM: tokens whose sink dimensions stand out.
    pub visual: Vec<usize>,
    /// Tokens to which the queries that see them give more than epsilon, averaged over heads.
    pub attended: Vec<usize>,
    /// Tokens that OutRo takes for sinks here.
    pub sinks: Vec<usize>,
    /// Mean attention on the watched tokens by the queries of each kind, `[H][kind]`; 0 without such queries.
    pub mass: Vec<[f32; 4]>,
    /// `1 - attention on the watched tokens`, mean over queries, `[H]`.
    pub gate: Vec<f32>,
    /// Imbalance of the gates.
    pub balance: Balance,
    /// The watched tokens one by one.
    pub seen: Vec<WatchedToken>,
    /// Lengths of keys and values.
    pub norms: Norms,
    /// The dominating dimensions of the watched tokens' mean key.
    pub key_dims: Vec<KeyDimension>,
    /// Cosine of queries with the watched tokens' mean key.
    pub q_sink_key: Cosines,
    /// Cosine of head outputs with the sinks' mean value before OutRo; empty where OutRo finds no sink.
    pub o_before: Cosines,
    /// ... and after it.
    pub o_after: Cosines,
    /// Mean over queries of `|what the watched tokens give| / |head output|`, `[H]`.
    pub share: Vec<f32>,
}

/// A prompt, looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// What each token of the prompt is.
    pub kinds: Vec<Kind>,
    /// The tokens whose attention, keys and values are followed through all layers: every sink of OutRo, of any layer.
    pub watched: Vec<usize>,
    /// Whether nothing was a sink, and the first token is watched instead.
    pub fallback: bool,
    /// The sink dimensions of Phi_VLM.
    pub dims: Vec<usize>,
    /// Every decoder layer.
    pub layers: Vec<Layer>,
    /// OutRo's sinks by layer, for the layers in which it looks.
    pub sinks: BTreeMap<usize, Vec<usize>>,
    /// Where OutRo relaxes which.
    pub relaxed_at: BTreeMap<usize, Vec<usize>>,
    /// OutRo's mean sink value `[G * D]` by layer.
    #[serde(skip)]
    pub vbar: BTreeMap<usize, Vec<f32>>,
    /// Tokens that pruning dropped.
    pub pruned: usize,
    /// Positions of the queries that ranked them.
    pub pruned_by: Vec<usize>,
    /// Bytes of the cache after the prefill.
    pub cache_bytes: usize,
    /// Seconds of both passes.
    pub seconds: f64,
}

impl Profile {
    /// How alike two detectors are in a layer: tokens that both mark over tokens that either marks; not a number where
    /// neither marks one.
    pub fn agreement(a: &[usize], b: &[usize]) -> f32 {
        let (a, b): (BTreeSet<_>, BTreeSet<_>) = (a.iter().collect(), b.iter().collect());
        let either = a.union(&b).count();
        if either == 0 {
            f32::NAN
        } else {
            a.intersection(&b).count() as f32 / either as f32
        }
    }

    /// Whether there are tokens that pruning may take away.
    pub fn has_prunable(&self) -> bool {
        self.kinds.iter().any(|k| matches!(k, Kind::Video | Kind::Audio))
    }

    /// Heads by their sink score (share of attention on the watched tokens), largest first: `(layer, head, score)`.
    pub fn heads_by_score(&self) -> Vec<(usize, usize, f32)> {
        let heads = self.layers.iter().flat_map(|l| {
            l.gate
                .iter()
                .enumerate()
                .map(|(h, gate)| (l.layer, h, 1.0 - gate))
        });
        let mut all: Vec<_> = heads.collect();
        all.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        all
    }
}

/// Looks at a prompt. Two prefills: the first finds the sinks and the sink dimensions, the second follows them.
/// `spans[i]` is what row i is; `progress` gets the layers done, of twice the model's.
///
/// # Errors
/// Spans that do not fit the prompt, dimensions outside the model, and whatever a prefill fails with.
pub fn probe(
    model: &Model,
    prompt: &Prompt,
    spans: &[Span],
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<Profile> {
    let config = &model.config().text;
    if spans.len() != prompt.embeds.rows() {
        return Err(Error::setting(
            "prompt",
            "the kinds of its rows do not fit its rows",
        ));
    }
    if let Some(d) = options.dims.iter().find(|d| **d >= config.hidden) {
        let problem = format!("{d}: the model's dimensions are 0 to {}", config.hidden - 1);
        return Err(Error::setting("sink dimensions", problem));
    }
    let since = Instant::now();
    let pruned = |hook: Box<dyn Hook>| -> Box<dyn Hook> {
        match options.prune {
            None => hook,
            Some(p) => Box::new(Chain(vec![
                Box::new(Prune::new(p, &options.method, prunable(spans))),
                hook,
            ])),
        }
    };
    let survey = pruned(Box::new(watch::Survey::new(&options.method)));
    let mut session = Session::with_kv(model, Some(survey), options.kv);
    session.prefill(prompt, 1, progress)?;
    let (mut watched, stands_out) = session
        .hook::<watch::Survey>()
        .map(|s| (s.sinks(), s.stands_out()))
        .unwrap_or_default();
    drop(session);
    let fallback = watched.is_empty();
    if fallback {
        watched.push(0);
    }
    let dims = if options.dims.is_empty() {
        stands_out
    } else {
        options.dims.clone()
    };
    let kinds: Vec<Kind> = spans.iter().map(Kind::from).collect();
    let hook = watch::Watch::new(options.clone(), kinds.clone(), watched.clone(), dims.clone());
    let mut session = Session::with_kv(model, Some(pruned(Box::new(hook))), options.kv);
    session.prefill(prompt, 1, &mut |done| progress(config.layers + done))?;
    let (pruned, pruned_by) = session
        .hook::<Prune>()
        .map_or((0, Vec::new()), |p| (p.dropped(), p.queries().to_vec()));
    let watch = session
        .hook::<watch::Watch>()
        .ok_or_else(|| Error::setting("probe", "the hook is gone"))?;
    Ok(Profile {
        kinds,
        watched,
        fallback,
        dims,
        layers: watch.layers.clone(),
        sinks: watch.outro().sinks().clone(),
        relaxed_at: watch.outro().relaxed_at().clone(),
        vbar: watch.outro().vbar().clone(),
        pruned,
        pruned_by,
        cache_bytes: session.cache_bytes(),
        seconds: since.elapsed().as_secs_f64(),
    })
}

/// The detectors on the input of a layer: rows, not positions.
pub(crate) struct Detected {
    pub(crate) top: [f32; 3],
    pub(crate) median: f32,
    pub(crate) massive: Vec<usize>,
    pub(crate) visual: Vec<usize>,
}

pub(crate) fn detect(x: Hidden, c: &OutRoConfig, tau: f32, dims: &[usize]) -> Detected {
    let mut largest = x.row_abs_max();
    largest.sort_by(|a, b| b.total_cmp(a));
    largest.resize(largest.len().max(3), 0.0);
    Detected {
        top: [largest[0], largest[1], largest[2]],
        median: x.abs_median(),
        massive: massive_tokens(x, c.abs_threshold, c.median_multiple),
        visual: visual_sinks(x, dims, tau),
    }
}

#[cfg(test)]
mod tests;
