//! Which published models this machine has the memory for.

use outro::config::{Config, TextConfig};
use serde_json::{Value, json};

use super::Line;
use crate::cmd::inspect::need;
use crate::ui::bytes;

/// Prompt tokens of a minute of video with sound, about.
const TOKENS: u64 = 4000;
/// Bytes of a weight as checkpoints have it, and what `--quantize q4_k` leaves of a decoder's matrix.
const BF16: u64 = 2;
const Q4_K: f64 = 4.5 / 8.0;

/// A row of weights and what a matrix of them takes: the decoder's matrices, and everything else.
struct Weights {
    matrices: u64,
    rest: u64,
}

fn weights(config: &Config) -> Weights {
    let n = |x: usize| x as u64;
    let t: &TextConfig = &config.text;
    let heads = n(t.head_dim) * (2 * n(t.heads) + 2 * n(t.kv_heads));
    let mlp = |width: usize| 3 * n(t.hidden) * n(width);
    let layer = |l: usize| {
        let inside = match &t.moe {
            Some(moe) if moe.at(l) => n(moe.experts) * mlp(moe.intermediate),
            _ => mlp(t.intermediate),
        };
        n(t.hidden) * heads + inside
    };
    let embedding = n(t.vocab) * n(t.hidden) * if t.tied { 1 } else { 2 };
    // Four projections and an MLP of three matrices at most.
    let tower = |depth: usize, hidden: usize, inside: usize| {
        n(depth) * (4 * n(hidden) * n(hidden) + 3 * n(hidden) * n(inside))
    };
    let seen = config
        .vision
        .as_ref()
        .map_or(0, |v| tower(v.depth, v.hidden, v.intermediate));
    let heard = config
        .audio
        .as_ref()
        .map_or(0, |a| tower(a.layers, a.hidden, a.intermediate));
    Weights {
        matrices: (0..t.layers).map(layer).sum(),
        rest: embedding + seen + heard,
    }
}

/// Bytes that a question about a minute of video takes, as checkpoints are and with `--quantize q4_k`.
fn memory(config: &Config) -> [u64; 2] {
    let (w, need) = (weights(config), need(config));
    let run = TOKENS * (need.cache_per_token + need.work_per_token);
    let small = (w.matrices as f64 * Q4_K) as u64;
    [w.matrices * BF16, small].map(|matrices| matrices + w.rest * BF16 + run)
}

/// What fits in `available` bytes, of models that see.
pub(super) fn models(available: Option<u64>) -> anyhow::Result<Line> {
    let Some(available) = available else {
        return Ok(Line::new(
            "models",
            "which of them fit is unknown on this system",
            Value::Null,
        ));
    };
    let mut all = Vec::new();
    for name in outro::shapes::names()? {
        let config = outro::shapes::config(&name)?;
        if config.vision.is_some() {
            all.push((memory(&config), name, config.audio.is_some()));
        }
    }
    all.sort();
    let fits = |i: usize| -> Vec<String> {
        let there = all.iter().filter(|(need, ..)| need[i] <= available);
        there
            .map(|(need, name, _)| format!("{name} ({})", bytes(need[i])))
            .collect()
    };
    let (whole, small) = (fits(0), fits(1));
    let more: Vec<&String> = small.iter().skip(whole.len()).collect();
    let list = |names: &[String]| names.iter().rev().take(4).cloned().collect::<Vec<_>>().join(", ");
    let text = match (whole.is_empty(), more.is_empty()) {
        (true, true) => format!(
            "none that sees fits; the smallest, {}, needs about {}",
            all.first().map_or("", |m| m.1.as_str()),
            bytes(all.first().map_or(0, |m| m.0[1]))
        ),
        (false, true) => format!(
            "{} of {} that see fit, the largest: {}",
            whole.len(),
            all.len(),
            list(&whole)
        ),
        (none, false) => {
            let first = if none {
                "none that sees fits as it is".to_owned()
            } else {
                format!(
                    "{} of {} that see fit, the largest: {}",
                    whole.len(),
                    all.len(),
                    list(&whole)
                )
            };
            let largest = small.last().map_or("", String::as_str);
            format!(
                "{first}; with --quantize q4_k {}, the largest: {largest}",
                small.len()
            )
        }
    };
    let value: Vec<Value> = all
        .iter()
        .map(|(need, name, hears)| {
            json!({"name": name, "hears": hears, "bytes": need[0], "bytes_q4_k": need[1],
                "fits": need[0] <= available, "fits_q4_k": need[1] <= available})
        })
        .collect();
    Ok(Line::new("models", text, Value::Array(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the sizes of published files: 7.1 GiB of Qwen2.5-VL-3B, 1.7 GiB of LLaVA-OneVision 0.5B.
    #[test]
    fn weights_are_about_those_of_published_files() {
        let gib = |name: &str| {
            let w = weights(&outro::shapes::config(name).unwrap());
            (w.matrices + w.rest) as f64 * BF16 as f64 / f64::from(1 << 30)
        };
        for (name, published) in [
            ("qwen2.5-vl-3b", 7.0),
            ("qwen2.5-vl-7b", 15.4),
            ("qwen3-vl-2b", 4.0),
        ] {
            let ours = gib(name);
            assert!((ours / published - 1.0).abs() < 0.12, "{name}: {ours}");
        }
    }

    #[test]
    fn more_fits_in_more() {
        let text = |gib: u64| models(Some(gib << 30)).unwrap().text;
        assert!(
            text(0).contains("none that sees fits; the smallest"),
            "{}",
            text(0)
        );
        assert!(text(16).contains("q4_k"), "{}", text(16));
        let all = text(1 << 10);
        assert!(
            !all.contains("q4_k") && all.contains("qwen3-omni-30b-a3b"),
            "{all}"
        );
    }
}
