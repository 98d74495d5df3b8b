//! Why an answer came: where its tokens looked, by frame and second of sound, what the sinks are and where they lie.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use outro::hook::{At, Attention, HeadOutputs, Hook, Needs};
use outro::positions::Span;
use outro::prepare::MediaPlan;
use outro::{Answer, MediaSet};
use serde_json::{Value, json};

/// Sums up the attention of the answer's rows: that of the last row of the prompt, which chooses the first token, and those of
/// the tokens that were fed. Means over heads and layers.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    /// By prompt position.
    sums: Vec<f64>,
    /// What was added, in heads times layers times rows.
    count: usize,
}

impl Watch {
    /// The hook of one answer.
    pub(crate) fn hook(&self) -> Box<dyn Hook> {
        Box::new(self.clone())
    }

    /// Shares of attention by prompt position; what is missing of 1 went to the answer's own tokens.
    fn shares(&self) -> Vec<f64> {
        let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = watched.count.max(1) as f64;
        watched.sums.iter().map(|s| s / count).collect()
    }
}

impl Hook for Watch {
    fn needs(&self, _: At) -> Needs {
        Needs::attention(true)
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        _: &mut HeadOutputs,
        _: bool,
    ) -> outro::Result<()> {
        let (Some(row), keys) = (attention.rows().checked_sub(1), attention.keys()) else {
            return Ok(());
        };
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for head in 0..at.shape.heads {
            for (key, weight) in attention.weights(head, row, keys).into_iter().enumerate() {
                let position = at.rows.position(key);
                if at.prefill && watched.sums.len() <= position {
                    watched.sums.resize(position + 1, 0.0);
                }
                if let Some(sum) = watched.sums.get_mut(position) {
                    *sum += f64::from(weight);
                }
            }
            watched.count += 1;
        }
        Ok(())
    }
}

/// Where the media of a prompt are in time.
struct Times<'a> {
    videos: Vec<&'a MediaPlan>,
    sounds: Vec<&'a MediaPlan>,
}

impl<'a> Times<'a> {
    fn of(media: &'a MediaSet) -> Self {
        let taken = &media.media().taken;
        let of = |wanted: fn(&MediaPlan) -> bool| taken.iter().filter(|i| wanted(i)).collect();
        Self {
            videos: of(|i| i.info.video.is_some() && i.visual_tokens > 0),
            sounds: of(|i| i.audio_tokens > 0),
        }
    }

    /// Seconds at which a grid step of a video begins.
    fn step(&self, item: usize, t: usize) -> Option<f64> {
        self.videos.get(item)?.view.seconds.get(t).copied()
    }

    fn sound(&self, item: usize, index: usize) -> Option<f64> {
        let plan = self.sounds.get(item)?;
        Some(plan.seconds * index as f64 / plan.audio_tokens.max(1) as f64)
    }

    /// Kind and place of a row, for people.
    fn place(&self, span: &Span) -> Value {
        match *span {
            Span::Text => json!({"kind": "text"}),
            Span::Image { item, y, x } => json!({"kind": "image", "item": item, "y": y, "x": x}),
            Span::Video { item, t, y, x } => {
                json!({"kind": "video", "item": item, "step": t, "second": self.step(item, t), "y": y, "x": x})
            }
            Span::Audio { item, index } => {
                json!({"kind": "audio", "item": item, "index": index, "second": self.sound(item, index)})
            }
        }
    }
}

/// What is told of an answer.
pub(crate) fn explained(answer: &Answer, watch: &Watch, spans: &[Span], media: &MediaSet) -> Value {
    let (times, shares) = (Times::of(media), watch.shares());
    let mut kinds: BTreeMap<&str, f64> = BTreeMap::new();
    let mut frames: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    let mut seconds: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for (span, share) in spans.iter().zip(&shares) {
        let kind = match *span {
            Span::Text => "text",
            Span::Image { .. } => "image",
            Span::Video { item, t, .. } => {
                *frames.entry((item, t)).or_default() += share;
                "video"
            }
            Span::Audio { item, index } => {
                let second = times.sound(item, index).unwrap_or(0.0) as usize;
                *seconds.entry((item, second)).or_default() += share;
                "audio"
            }
        };
        *kinds.entry(kind).or_default() += share;
    }
    let frames = frames.into_iter().map(|((item, step), share)| {
        json!({"item": item, "step": step, "second": times.step(item, step), "share": share})
    });
    let seconds = seconds
        .into_iter()
        .map(|((item, second), share)| json!({"item": item, "second": second, "share": share}));
    let mut layers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (layer, rows) in answer.sinks.iter().flatten() {
        for row in rows {
            layers.entry(*row).or_default().push(*layer);
        }
    }
    let sinks = layers.into_iter().map(|(row, layers)| {
        let mut sink = spans.get(row).map_or_else(|| json!({}), |s| times.place(s));
        sink["position"] = json!(row);
        sink["layers"] = json!(layers);
        sink["attention"] = json!(shares.get(row));
        sink
    });
    json!({
        "attention": {
            "kinds": kinds,
            "frames": frames.collect::<Vec<_>>(),
            "sound": seconds.collect::<Vec<_>>(),
        },
        "sinks": sinks.collect::<Vec<_>>(),
        "relaxed_at": answer.relaxed_at,
        "first_token": {
            "entropy": entropy(&answer.first_logits),
            "top": answer.first_token_top5,
        },
    })
}

/// Entropy of the softmax, in nats.
fn entropy(logits: &[f32]) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let (mut sum, mut weighted) = (0.0, 0.0);
    for logit in logits {
        let x = f64::from(logit - most);
        sum += x.exp();
        weighted += x.exp() * x;
    }
    if sum > 0.0 {
        f64::ln(sum) - weighted / sum
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn entropy_of_equals_is_the_logarithm_of_their_number() {
        assert!((super::entropy(&[1.0; 8]) - 8f64.ln()).abs() < 1e-9);
        assert!(super::entropy(&[0.0, -200.0]) < 1e-9);
    }
}
