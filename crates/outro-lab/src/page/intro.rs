//! What a reader needs before the first figure: what a sink is, what was found here, and which figures show it.

use std::fmt::Write as _;

use super::svg::{escape, short};
use super::{Page, Sheet};
use crate::probe::numbers::Stat;

/// What the paper takes for a massive activation: its size, and how many times the median it is.
const MASSIVE: (f64, f64) = (100.0, 1000.0);
/// Mean attention, over heads, from which on a token plainly is looked at more than others.
const MUCH: f64 = 0.3;

/// The largest mean of a quantity over layers, with its layer.
fn most(stats: &[Stat]) -> Option<(usize, f64)> {
    let means = stats.iter().enumerate().filter_map(|(l, s)| Some((l, s.mean()?)));
    means.max_by(|a, b| a.1.total_cmp(&b.1))
}

pub(super) fn section(page: &Page<'_>, out: &mut Sheet) {
    let kind = kind(page);
    // Writing to a String cannot fail.
    let _ = write!(
        out.html,
        "<p>An attention sink is a token that gets far more attention than its content explains, often the first of the prompt; its value is \
        then a bias that many tokens share. {}{} \
        \"Which tokens are sinks\" shows how they stand out, \"Who looks at them\" the attention that they get, and \"What they are made of, and \
        what they add\" what that does to head outputs.</p>",
        escape(&found(page)),
        escape(&kind)
    );
}

/// What was found, in words.
fn found(page: &Page<'_>) -> String {
    let n = page.numbers;
    let mut out = match page.one {
        Some(one) if one.profile.fallback => {
            "On this prompt no token is a sink by the thresholds, and token 0 is followed instead".to_owned()
        }
        Some(one) => {
            let tokens: Vec<String> = one
                .profile
                .watched
                .iter()
                .take(4)
                .map(|t| {
                    let word = one.tokens.get(*t).map_or("", |w| w.text.as_str());
                    format!("{t} ({word})")
                })
                .collect();
            let more = if one.profile.watched.len() > 4 {
                ", ..."
            } else {
                ""
            };
            let layers: Vec<usize> = one
                .profile
                .sinks
                .iter()
                .filter(|(_, s)| !s.is_empty())
                .map(|(l, _)| *l)
                .collect();
            let (first, last) = (layers.first().unwrap_or(&0), layers.last().unwrap_or(&0));
            format!(
                "On this prompt {} of {} tokens are sinks, in layers {first} to {last}: {}{more}",
                one.profile.watched.len(),
                one.profile.kinds.len(),
                tokens.join(", ")
            )
        }
        None => format!("Here are means over {} prompts", n.prompts),
    };
    if let Some((layer, share)) = attention(page) {
        let _ = write!(
            out,
            "; they get {:.0} % of all attention in layer {layer}, where it is most",
            100.0 * share
        );
    }
    let lengths =
        n.layer("v_norm_sinks")
            .iter()
            .zip(n.layer("v_norm_others"))
            .fold((0.0, 0.0), |sum, (a, b)| {
                a.mean()
                    .zip(b.mean())
                    .map_or(sum, |(a, b)| (sum.0 + a, sum.1 + b))
            });
    if lengths.0 > 0.0 && lengths.1 > 0.0 {
        let _ = write!(
            out,
            ", and their values are {} times as long as others'",
            short(lengths.0 / lengths.1)
        );
    }
    out + ". "
}

/// The layer in which most attention, over all heads, is on sinks.
fn attention(page: &Page<'_>) -> Option<(usize, f64)> {
    let layers = page.numbers.head("sink_mass");
    let mean = |heads: &Vec<Stat>| {
        let all: Vec<f64> = heads.iter().filter_map(Stat::mean).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    };
    layers
        .iter()
        .map(mean)
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Whether they are what the paper calls sinks, and if not, why.
fn kind(page: &Page<'_>) -> String {
    let n = page.numbers;
    let Some((layer, top)) = most(&n.layer("top1")) else {
        return String::new();
    };
    let median = n.layer("median").get(layer).and_then(Stat::mean).unwrap_or(0.0);
    let multiple = top / median.max(1e-9);
    let share = attention(page).map_or(0.0, |a| a.1);
    let massive = top >= MASSIVE.0 && multiple >= MASSIVE.1;
    let mut less = Vec::new();
    if !massive {
        less.push(format!(
            "the largest activation is {} and {} x the median (there at least {} and {} x)",
            short(top),
            short(multiple),
            MASSIVE.0,
            MASSIVE.1
        ));
    }
    if share < MUCH {
        less.push(format!(
            "no layer gives them more than {:.0} % of its attention",
            100.0 * share
        ));
    }
    if less.is_empty() {
        return "They are of the paper's kind: a massive activation, and much attention.".into();
    }
    format!("They are not of the paper's kind: {}.", less.join(", and "))
}
