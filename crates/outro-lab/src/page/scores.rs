//! Strategies and their scores: the sweeps.

use std::fmt::Write as _;

use serde::Serialize;

use super::Sheet;
use super::svg::{escape, short};

/// A strategy's accuracy on a benchmark.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// Its name.
    pub name: String,
    /// Share of right answers, 0 to 1.
    pub accuracy: f64,
    /// Its 95 % interval.
    pub interval: (f64, f64),
    /// Exact McNemar p against the first; `None` of the first.
    pub p: Option<f64>,
}

/// Names on the left, accuracies with intervals as points on a common scale, p values on the right.
pub(super) fn section(out: &mut Sheet, scores: &[Scored], about: &str) {
    let Some(first) = scores.first() else { return };
    let (line, width, left, right) = (22.0, 1100.0, 420.0, 90.0);
    let height = line * scores.len() as f64 + 34.0;
    let low = scores.iter().map(|s| s.interval.0).fold(1.0, f64::min);
    let low = (low * 10.0).floor() / 10.0;
    let x = |v: f64| left + (width - left - right) * (v - low) / (1.0 - low).max(1e-9);
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        out.html,
        "<h2>Interventions, scored</h2><p class=\"soft\">{}.</p>",
        escape(about)
    );
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"Accuracy of each strategy with its interval\">"
    );
    let bottom = height - 30.0;
    let mut tick = (low * 10.0).round() as i32;
    while tick <= 10 {
        let at = x(f64::from(tick) / 10.0);
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{bottom}\" class=\"g\"/><text x=\"{at:.1}\" y=\"{:.1}\" class=\"t m\">{} %</text>",
            bottom + 16.0,
            tick * 10
        );
        tick += 1;
    }
    let _ = write!(
        svg,
        "<path d=\"M{0:.1} 0V{bottom}\" class=\"l c1\"/>",
        x(first.accuracy)
    );
    for (i, s) in scores.iter().enumerate() {
        let y = line * (i as f64 + 0.5);
        let name: String = s.name.chars().take(58).collect();
        let p = s.p.map_or(String::new(), |p| format!("p = {}", short(p)));
        let _ = write!(
            svg,
            "<g><title>{}: {:.1} %, {:.1} to {:.1} {p}</title><text x=\"{}\" y=\"{:.1}\" class=\"t e\">{}</text>\
            <path d=\"M{:.1} {y}H{:.1}\" class=\"l c0\"/><circle cx=\"{:.1}\" cy=\"{y}\" r=\"4\" class=\"p c0\"/>\
            <text x=\"{}\" y=\"{:.1}\" class=\"t\">{p}</text></g>",
            escape(&s.name),
            s.accuracy * 100.0,
            s.interval.0 * 100.0,
            s.interval.1 * 100.0,
            left - 10.0,
            y + 4.0,
            escape(&name),
            x(s.interval.0),
            x(s.interval.1),
            x(s.accuracy),
            width - right + 8.0,
            y + 4.0
        );
    }
    svg.push_str("</svg>");
    out.figure(
        "Accuracy by strategy",
        svg,
        "Points are accuracies with 95 % intervals; the dashed line is the first strategy's; p is the exact McNemar test against it.",
    );
}
