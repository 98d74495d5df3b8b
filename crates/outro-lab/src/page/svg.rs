//! Figures as SVG text. Colours are CSS variables of the page, but for the scale of heat maps, which reads in both themes.

use std::fmt::Write as _;

/// A line from left to right; `None` leaves a gap.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) values: Vec<Option<f64>>,
    /// Each value's interval, where it has one.
    pub(super) ranges: Vec<Option<(f64, f64)>>,
}

/// What lies from left to right.
pub(super) struct Axis<'a> {
    pub(super) name: &'a str,
    /// Of each place; none means its number.
    pub(super) labels: &'a [String],
}

impl Axis<'_> {
    pub(super) const LAYERS: Self = Self {
        name: "layer",
        labels: &[],
    };

    fn label(&self, i: usize) -> String {
        self.labels.get(i).map_or_else(|| i.to_string(), |l| escape(l))
    }
}

/// How values become heights.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// As they are, from 0 (or the least, where below) up.
    Linear,
    /// By their logarithm; zero and below are not drawn.
    Log,
    /// By log(1 + x): counts that may be 0.
    Count,
}

/// Counts with a tick.
const COUNTS: [f64; 22] = [
    0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 200.0, 300.0, 500.0, 1e3, 2e3, 3e3, 5e3, 1e4,
    2e4, 3e4, 5e4, 1e5,
];

const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 38.0;

/// `&`, `<`, `>` and `"` made harmless, control characters shown as spaces.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A number with three digits that count.
pub(super) fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if a >= 1e5 => format!("{x:.1e}"),
        a if a >= 99.5 || (a >= 1.0 && a.fract() == 0.0) => format!("{x:.0}"),
        a if a >= 9.995 => format!("{x:.1}"),
        a if a >= 0.01 => format!("{x:.2}"),
        _ => format!("{x:.1e}"),
    }
}

fn open(width: f64, height: f64, label: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(label)
    )
}

impl Scale {
    fn of(self, x: f64) -> Option<f64> {
        match self {
            Self::Linear => Some(x),
            Self::Log => (x > 0.0).then(|| x.log10()),
            Self::Count => Some((1.0 + x.max(0.0)).log10()),
        }
    }

    /// Values with a tick, given the ends of the axis as heights.
    fn ticks(self, low: f64, high: f64) -> Vec<f64> {
        match self {
            Self::Linear => {
                let step = 10f64.powf(((high - low) / 4.0).max(1e-12).log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0]
                    .map(|m| m * step)
                    .into_iter()
                    .find(|s| (high - low) / s <= 5.0);
                let step = step.unwrap_or(1.0);
                let first = (low / step).ceil() as i64;
                let last = (high / step + 1e-9).floor() as i64;
                (first..=last).map(|i| i as f64 * step).collect()
            }
            Self::Log => {
                let all: Vec<i32> = (low.ceil() as i32..=(high + 1e-9).floor() as i32).collect();
                let every = all.len().div_ceil(6).max(1);
                all.into_iter().step_by(every).map(|e| 10f64.powi(e)).collect()
            }
            Self::Count => COUNTS.into_iter().filter(|x| (1.0 + x).log10() <= high).collect(),
        }
    }
}

/// Lines, with bands for intervals, points with tooltips, and a legend beneath.
pub(super) fn lines(label: &str, y: &str, scale: Scale, axis: &Axis, series: &[Series]) -> String {
    let (width, height) = (520.0, 240.0);
    let n = series.iter().map(|s| s.values.len()).max().unwrap_or(0).max(2);
    let at = |x: &Option<f64>| x.and_then(|x| scale.of(x)).filter(|x| x.is_finite());
    let ends = series.iter().flat_map(|s| s.ranges.iter().flatten());
    let ends = ends.filter_map(|r| at(&Some(r.1)));
    let all: Vec<f64> = series
        .iter()
        .flat_map(|s| s.values.iter().filter_map(at))
        .chain(ends)
        .collect();
    let names: Vec<&str> = series.iter().map(|s| s.name).collect();
    let mut out = open(width, height + LINE * places(&names, width).1 as f64, label);
    if all.is_empty() {
        let _ = write!(
            out,
            "<text x=\"{LEFT}\" y=\"40\" class=\"t\">nothing to show on this prompt</text></svg>"
        );
        return out;
    }
    let (mut low, mut high) = all
        .iter()
        .fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
    match scale {
        Scale::Linear => {
            low = low.min(0.0);
            high = if high <= low { low + 1.0 } else { high };
            // Up to a round number, so that the highest value lies under a labelled line.
            let ticks = scale.ticks(low, high);
            if let [.., a, b] = ticks[..]
                && b < high
            {
                high = b + (b - a);
            }
        }
        Scale::Log => {
            low = low.floor();
            high = high.ceil().max(low + 1.0);
        }
        Scale::Count => {
            low = 0.0;
            // Up to the next tick, so that the highest value lies under a labelled line.
            let least = high.max(0.3);
            let ticks = COUNTS.iter().filter_map(|c| scale.of(*c));
            high = ticks.into_iter().find(|t| *t >= least).unwrap_or(least) + 1e-9;
        }
    }
    let x = |i: usize| LEFT + (width - LEFT - RIGHT) * i as f64 / (n - 1) as f64;
    let place = |v: f64| height - BOTTOM - (height - TOP - BOTTOM) * (v - low) / (high - low);
    for tick in scale.ticks(low, high) {
        let Some(v) = scale.of(tick) else { continue };
        let h = place(v);
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{h:.1}\" y2=\"{h:.1}\" class=\"g\"/><text x=\"{}\" y=\"{:.1}\" class=\"t e\">{}</text>",
            width - RIGHT,
            LEFT - 6.0,
            h + 4.0,
            short(tick)
        );
    }
    across(&mut out, axis, n, height - BOTTOM, &x);
    let middle = f64::midpoint(height - BOTTOM, TOP);
    let _ = write!(
        out,
        "<text x=\"12\" y=\"{middle}\" class=\"t m\" transform=\"rotate(-90 12 {middle})\">{}</text>",
        escape(y)
    );
    for (i, s) in series.iter().enumerate() {
        if s.ranges.iter().any(|r| r.is_some_and(|(low, high)| low < high)) {
            let edge = |side: fn((f64, f64)) -> f64| -> Vec<(usize, f64)> {
                let there = s.ranges.iter().enumerate();
                there
                    .filter_map(|(i, r)| Some((i, scale.of(side((*r)?))?)))
                    .collect()
            };
            let (upper, mut lower) = (edge(|r| r.1), edge(|r| r.0));
            lower.reverse();
            out.push_str("<polygon points=\"");
            for (j, v) in upper.iter().chain(&lower) {
                let _ = write!(out, "{:.1},{:.1} ", x(*j), place(v.clamp(low, high)));
            }
            let _ = write!(out, "\" class=\"band c{i}\"/>");
        }
        let mut path = String::new();
        let mut pen = 'M';
        for (j, v) in s.values.iter().enumerate() {
            match at(v) {
                Some(v) => {
                    let _ = write!(path, "{pen}{:.1} {:.1}", x(j), place(v));
                    pen = 'L';
                }
                None => pen = 'M',
            }
        }
        let _ = write!(out, "<path d=\"{path}\" class=\"l c{i}\"/>");
        for (j, v) in s.values.iter().enumerate() {
            if let (Some(height), Some(value)) = (at(v), v) {
                let _ = write!(
                    out,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.4\" class=\"p c{i}\"><title>{}, {} {}: {}</title></circle>",
                    x(j),
                    place(height),
                    s.name,
                    axis.name,
                    axis.label(j),
                    short(*value)
                );
            }
        }
    }
    legend(&mut out, &names, width, height);
    out + "</svg>"
}

/// Where entries of a legend go: `(x, line)` of each, and how many lines there are. Letters are taken for 6.6 wide.
pub(super) fn places(names: &[&str], width: f64) -> (Vec<(f64, usize)>, usize) {
    let (mut x, mut line) = (LEFT, 0);
    let mut all = Vec::new();
    for name in names {
        let wide = 52.0 + 6.6 * name.chars().count() as f64;
        if x > LEFT && x + wide > width {
            (x, line) = (LEFT, line + 1);
        }
        all.push((x, line));
        x += wide;
    }
    (all, line + 1)
}

/// Height of one line of a legend.
pub(super) const LINE: f64 = 19.0;

/// A legend in the order of the line colours, below `y`.
fn legend(out: &mut String, names: &[&str], width: f64, y: f64) {
    for (i, ((x, line), name)) in places(names, width).0.into_iter().zip(names).enumerate() {
        let y = y + LINE * (line as f64 + 0.5);
        let _ = write!(
            out,
            "<path d=\"M{x:.1} {y:.1}h28\" class=\"l c{i}\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"t\">{}</text>",
            x + 34.0,
            y + 4.0,
            escape(name)
        );
    }
}

fn across(out: &mut String, axis: &Axis, n: usize, y: f64, x: &dyn Fn(usize) -> f64) {
    for i in (0..n).step_by(n.div_ceil(12).max(1)) {
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"t m\">{}</text>",
            x(i),
            y + 15.0,
            axis.label(i)
        );
    }
    let middle = f64::midpoint(x(0), x(n - 1));
    let _ = write!(
        out,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" class=\"t m\">{}</text>",
        y + 31.0,
        escape(axis.name)
    );
}

/// A colour of the viridis scale at 0 to 1, between its anchors.
fn viridis(x: f64) -> String {
    const ANCHORS: [[f64; 3]; 9] = [
        [68.0, 1.0, 84.0],
        [72.0, 40.0, 120.0],
        [62.0, 74.0, 137.0],
        [49.0, 104.0, 142.0],
        [38.0, 130.0, 142.0],
        [31.0, 158.0, 137.0],
        [53.0, 183.0, 121.0],
        [110.0, 206.0, 88.0],
        [253.0, 231.0, 37.0],
    ];
    let at = x.clamp(0.0, 1.0) * (ANCHORS.len() - 1) as f64;
    let (i, part) = (at.floor().min(7.0) as usize, at - at.floor().min(7.0));
    let mix = |c: usize| (ANCHORS[i][c] * (1.0 - part) + ANCHORS[i + 1][c] * part).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}

/// Layers across, heads down; `values[layer][head]`. `range` are the values of the scale's ends.
pub(super) fn heat(label: &str, values: &[Vec<Option<f64>>], range: (f64, f64)) -> String {
    let layers = values.len().max(1);
    let heads = values.iter().map(Vec::len).max().unwrap_or(1).max(1);
    let width = 520.0;
    let cell = (width - LEFT - RIGHT) / layers as f64;
    let high = (200.0 / heads as f64).clamp(7.0, 26.0).min(cell.max(7.0) * 1.4);
    let height = TOP + high * heads as f64 + 40.0;
    let mut out = open(width, height + 22.0, label);
    let scaled = |v: f64| (v - range.0) / (range.1 - range.0).max(1e-12);
    for (l, column) in values.iter().enumerate() {
        for (h, v) in column.iter().enumerate() {
            let (x, y) = (LEFT + cell * l as f64, TOP + high * h as f64);
            let place = format!(
                "x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"",
                (cell - 0.6).max(0.5),
                (high - 0.6).max(0.5)
            );
            let _ = match v {
                Some(v) => write!(
                    out,
                    "<rect {place} fill=\"{}\"><title>layer {l}, head {h}: {}</title></rect>",
                    viridis(scaled(*v)),
                    short(*v)
                ),
                None => write!(
                    out,
                    "<rect {place} class=\"none\"><title>layer {l}, head {h}: none</title></rect>"
                ),
            };
        }
    }
    for h in (0..heads).step_by(heads.div_ceil(8).max(1)) {
        let y = TOP + high * (h as f64 + 0.5) + 4.0;
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{y:.1}\" class=\"t e\">{h}</text>",
            LEFT - 6.0
        );
    }
    let middle = TOP + high * heads as f64 / 2.0;
    let _ = write!(
        out,
        "<text x=\"14\" y=\"{middle}\" class=\"t m\" transform=\"rotate(-90 14 {middle})\">head</text>"
    );
    across(&mut out, &Axis::LAYERS, layers, TOP + high * heads as f64, &|i| {
        LEFT + cell * (i as f64 + 0.5)
    });
    let (from, y) = (LEFT + 60.0, height + 4.0);
    for i in 0..40 {
        let _ = write!(
            out,
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"7.2\" height=\"9\" fill=\"{}\"/>",
            from + 7.0 * f64::from(i),
            viridis(f64::from(i) / 39.0)
        );
    }
    let _ = write!(
        out,
        "<text x=\"{}\" y=\"{:.1}\" class=\"t e\">{}</text><text x=\"{}\" y=\"{:.1}\" class=\"t\">{}</text></svg>",
        from - 6.0,
        y + 9.0,
        short(range.0),
        from + 288.0,
        y + 9.0,
        short(range.1)
    );
    out
}

/// Shares of -1 to 1 as steps, one outline a series.
pub(super) fn histogram(label: &str, series: &[(&'static str, &[u64])]) -> String {
    let (width, height) = (520.0, 220.0);
    let names: Vec<&str> = series.iter().map(|s| s.0).collect();
    let mut out = open(width, height + LINE * places(&names, width).1 as f64, label);
    let share = |counts: &[u64]| -> Vec<f64> {
        let total: u64 = counts.iter().sum();
        counts.iter().map(|c| *c as f64 / total.max(1) as f64).collect()
    };
    let all: Vec<Vec<f64>> = series.iter().map(|s| share(s.1)).collect();
    let high = all.iter().flatten().fold(0.0f64, |m, x| m.max(*x));
    if high == 0.0 {
        let _ = write!(
            out,
            "<text x=\"{LEFT}\" y=\"40\" class=\"t\">nothing to show on this prompt</text></svg>"
        );
        return out;
    }
    let place = |v: f64| height - BOTTOM - (height - TOP - BOTTOM) * v / high;
    let x = |v: f64| LEFT + (width - LEFT - RIGHT) * (v + 1.0) / 2.0;
    for tick in Scale::Linear.ticks(0.0, high) {
        let h = place(tick);
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{h:.1}\" y2=\"{h:.1}\" class=\"g\"/><text x=\"{}\" y=\"{:.1}\" class=\"t e\">{} %</text>",
            width - RIGHT,
            LEFT - 4.0,
            h + 4.0,
            short(tick * 100.0)
        );
    }
    for tick in [-1.0, -0.5, 0.0, 0.5, 1.0] {
        let y = height - BOTTOM;
        let _ = write!(
            out,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{y}\" y2=\"{1}\" class=\"g\"/><text x=\"{0:.1}\" y=\"{2}\" class=\"t m\">{tick}</text>",
            x(tick),
            y + 4.0,
            y + 16.0
        );
    }
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"{}\" class=\"t m\">cosine</text>",
        x(0.0),
        height - 6.0
    );
    for (i, bins) in all.iter().enumerate() {
        let step = 2.0 / bins.len().max(1) as f64;
        let mut path = format!("M{:.1} {:.1}", x(-1.0), place(0.0));
        for (b, v) in bins.iter().enumerate() {
            let from = b as f64 * step - 1.0;
            let _ = write!(
                path,
                "L{:.1} {:.1}L{:.1} {:.1}",
                x(from),
                place(*v),
                x(from + step),
                place(*v)
            );
        }
        let _ = write!(path, "L{:.1} {:.1}", x(1.0), place(0.0));
        let _ = write!(
            out,
            "<path d=\"{path}\" class=\"area c{i}\"/><path d=\"{path}\" class=\"l c{i}\"/>"
        );
        for (b, v) in bins.iter().enumerate().filter(|(_, v)| **v > 0.0) {
            let from = b as f64 * step - 1.0;
            let _ = write!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" class=\"hit\"><title>{}, {from:.2} to {:.2}: {} %</title></rect>",
                x(from),
                place(*v),
                x(from + step) - x(from),
                place(0.0) - place(*v),
                series[i].0,
                from + step,
                short(v * 100.0)
            );
        }
    }
    legend(&mut out, &names, width, height);
    out + "</svg>"
}
