//! Strategies and their scores: the sweeps.

use std::fmt::Write as _;

use serde::Serialize;

use super::Sheet;
use super::svg::{Axis, Scale, Series, escape, lines, short};

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
pub(super) fn section(out: &mut Sheet, scores: &[Scored], about: &str, heads: &[(usize, usize)]) {
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
    sweeps(out, scores, first, heads);
}

/// Strategies that differ in one number, as curves. `heads` are ordered by sink score, largest first.
fn sweeps(out: &mut Sheet, scores: &[Scored], first: &Scored, heads: &[(usize, usize)]) {
    out.html.push_str("<div class=\"grid\">");
    let number = |name: &str, start: &str| name.strip_prefix(start)?.parse::<f64>().ok();
    for (title, axis, start) in [
        ("Accuracy by strength of the rotation", "gamma", "outro:gamma="),
        ("Accuracy by enhancement layer", "layer", "outro:layers="),
        (
            "Accuracy by zeroed dimensions of sink keys",
            "top dimensions",
            "zero-k:top=",
        ),
    ] {
        let points = scores.iter().filter_map(|s| Some((number(&s.name, start)?, s)));
        curve(out, title, axis, first, &[("strategy", points.collect())]);
    }
    let off = |s: &Scored, order: &mut dyn Iterator<Item = &(usize, usize)>| {
        let names: Vec<&str> = s.name.strip_prefix("heads:off=")?.split('+').collect();
        let same = order
            .take(names.len())
            .zip(&names)
            .filter(|((l, h), n)| **n == format!("{l}.{h}"));
        (same.count() == names.len()).then_some(names.len() as f64)
    };
    let most = scores
        .iter()
        .filter_map(|s| Some((off(s, &mut heads.iter())?, s)));
    let least = scores
        .iter()
        .filter_map(|s| Some((off(s, &mut heads.iter().rev())?, s)));
    let series = [
        ("highest sink score first", most.collect()),
        ("lowest first", least.collect()),
    ];
    curve(out, "Accuracy by heads switched off", "heads", first, &series);
    out.html.push_str("</div>");
}

/// A curve where a sweep has two points or more, beside the first strategy's accuracy.
fn curve(
    out: &mut Sheet,
    title: &str,
    axis: &str,
    first: &Scored,
    series: &[(&'static str, Vec<(f64, &Scored)>)],
) {
    let mut places: Vec<f64> = series.iter().flat_map(|s| s.1.iter().map(|p| p.0)).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    if places.len() < 2 {
        return;
    }
    let mut all: Vec<Series> = Vec::new();
    for (name, points) in series {
        let at = |x: &f64| points.iter().find(|p| p.0 == *x).map(|p| p.1);
        all.push(Series {
            name,
            values: places.iter().map(|x| at(x).map(|s| s.accuracy)).collect(),
            ranges: places.iter().map(|x| at(x).map(|s| s.interval)).collect(),
        });
    }
    all.push(Series {
        name: "the first strategy",
        values: vec![Some(first.accuracy); places.len()],
        ranges: Vec::new(),
    });
    let labels: Vec<String> = places.iter().map(|x| short(*x)).collect();
    let axis = Axis {
        name: axis,
        labels: &labels,
    };
    let picture = lines(title, "accuracy", Scale::Linear, &axis, &all);
    out.figure(
        title,
        picture,
        "Bands are 95 % intervals of each accuracy by itself.",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_are_recognised_by_their_names() {
        let scored = |name: &str| Scored {
            name: name.into(),
            accuracy: 0.5,
            interval: (0.4, 0.6),
            p: None,
        };
        let names = [
            "baseline",
            "outro:gamma=2",
            "outro:gamma=0.5",
            "zero-k:top=1",
            "heads:off=1.0",
            "heads:off=0.1",
            "heads:off=1.0+0.0",
            "heads:off=9.9",
        ];
        let mut sheet = Sheet::default();
        section(&mut sheet, &names.map(scored), "a set", &[(1, 0), (0, 0), (0, 1)]);
        let drawn: Vec<&str> = sheet.figures.iter().map(|f| f.name.as_str()).collect();
        let want = [
            "accuracy-by-strategy",
            "accuracy-by-strength-of-the-rotation",
            "accuracy-by-heads-switched-off",
        ];
        assert_eq!(drawn, want);
        let gamma = &sheet.figures[1].svg;
        assert!(gamma.contains("strategy, gamma 0.50: 0.50") && gamma.contains("strategy, gamma 2: 0.50"));
        let heads = &sheet.figures[2].svg;
        assert!(
            heads.contains("highest sink score first, heads 2: 0.50")
                && !heads.contains("lowest first, heads 2")
        );
        let mut none = Sheet::default();
        section(&mut none, &[], "a set", &[]);
        assert!(none.html.is_empty());
    }
}
