//! The sink lab's report: one HTML page that needs nothing beside it. Figures are SVG, colours follow the reader's theme.

mod intro;
mod png;
mod scores;
mod strip;
mod svg;

use std::fmt::Write as _;

use serde::Serialize;

pub use scores::Scored;
pub(crate) use strip::base64;
pub use strip::{Frame, Token, frames};

use crate::probe::numbers::{COSINES, Numbers, Stat};
use crate::probe::{Kind, Options, Profile};
use svg::{Axis, Scale, Series, escape, heat, histogram, lines, short};

/// One prompt, with the words and places of its tokens.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedPrompt {
    /// What was found.
    pub profile: Profile,
    /// Its tokens, one a row.
    pub tokens: Vec<Token>,
    /// Frames of its videos on which Phi_VLM marks tokens.
    #[serde(skip)]
    pub frames: Vec<Frame>,
}

/// What a report is about.
pub struct Page<'a> {
    /// The model's name.
    pub model: &'a str,
    /// What was asked, or which set.
    pub about: &'a str,
    /// How it was inspected.
    pub options: &'a Options,
    /// Means over all prompts.
    pub numbers: &'a Numbers,
    /// The prompt, where there is one.
    pub one: Option<&'a InspectedPrompt>,
    /// What strategies scored, the one that others are compared with first; may be none.
    pub scores: &'a [Scored],
    /// On what.
    pub scored_on: &'a str,
}

fn range(s: &Stat) -> Option<(f64, f64)> {
    s.mean().map(|m| (m - s.half(), m + s.half()))
}

fn series(numbers: &Numbers, names: &[(&'static str, &'static str)]) -> Vec<Series> {
    let one = |(key, name): &(&str, &'static str)| {
        let stats = numbers.layer(key);
        Series {
            name,
            values: stats.iter().map(Stat::mean).collect(),
            ranges: stats.iter().map(range).collect(),
        }
    };
    names.iter().map(one).collect()
}

/// A figure by itself.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its name as a file's: lower-case letters, digits and hyphens.
    pub name: String,
    title: String,
    svg: String,
    caption: String,
}

/// A page while it is written, and when it is done.
#[derive(Debug, Default)]
pub struct Sheet {
    /// The whole page.
    pub html: String,
    /// Its figures one by one, each with a name of its own.
    pub figures: Vec<Figure>,
}

impl Sheet {
    fn figure(&mut self, title: &str, svg: String, caption: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = write!(
            self.html,
            "<figure><h3>{}</h3>{svg}<figcaption>{}</figcaption></figure>",
            escape(title),
            escape(caption)
        );
        self.keep(title, svg, caption);
    }

    /// Takes a figure that the page shows in its own way.
    fn keep(&mut self, title: &str, svg: String, caption: &str) {
        let words = title
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|w| !w.is_empty());
        let name = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
        self.figures.push(Figure {
            name,
            title: title.into(),
            svg,
            caption: caption.into(),
        });
    }
}

/// The first 240 characters.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(240) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

impl Page<'_> {
    /// The page with its figures.
    pub fn draw(&self) -> Sheet {
        let mut out = Sheet::default();
        let _ = write!(
            out.html,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
            content=\"width=device-width\"><title>Attention sinks of {0}</title><style>{1}</style></head><body>\
            <h1>Attention sinks of {0}</h1><p class=\"soft\">{2}</p>",
            escape(self.model),
            include_str!("style.css"),
            escape(&shortened(self.about))
        );
        intro::section(self, &mut out);
        self.facts(&mut out);
        if let Some(one) = self.one {
            strip::section(&mut out, one);
        }
        self.detection(&mut out);
        self.attention(&mut out);
        self.geometry(&mut out);
        scores::section(
            &mut out,
            self.scores,
            self.scored_on,
            &self.numbers.heads_by_sink_mass(),
        );
        let _ = writeln!(
            out.html,
            "<h2>Numbers</h2><p>All figures are drawn from <a href=\"layers.csv\">layers.csv</a>, <a href=\"heads.csv\">heads.csv</a> and \
            <a href=\"cosines.csv\">cosines.csv</a>; <a href=\"profile.json\">profile.json</a> has everything. Bands are 95 % intervals of means over prompts. \
            <code>strategies.txt</code> has interventions on these sinks and heads, as <code>outro eval run</code> takes strategies.</p></body></html>"
        );
        out
    }

    fn facts(&self, out: &mut Sheet) {
        let n = self.numbers;
        let peak = n
            .head("sink_mass")
            .iter()
            .enumerate()
            .flat_map(|(l, heads)| {
                heads
                    .iter()
                    .enumerate()
                    .map(move |(h, s)| (s.mean().unwrap_or(0.0), l, h))
            })
            .fold((0.0, 0, 0), |a, b| if b.0 > a.0 { b } else { a });
        let mut facts = vec![
            (n.prompts.to_string(), "prompts".to_owned()),
            (n.layers.len().to_string(), "layers".into()),
            (
                format!("{:.0} %", peak.0 * 100.0),
                format!("most attention on sinks: layer {}, head {}", peak.1, peak.2),
            ),
        ];
        if let Some(InspectedPrompt { profile: p, .. }) = self.one {
            let kinds: Vec<String> = Kind::ALL
                .iter()
                .map(|kind| (p.kinds.iter().filter(|k| *k == kind).count(), kind.name()))
                .filter(|(n, _)| *n > 0)
                .map(|(n, name)| format!("{n} {name}"))
                .collect();
            facts.push((p.kinds.len().to_string(), format!("tokens: {}", kinds.join(", "))));
            let what = if p.fallback {
                "no sink by the thresholds; token 0 is watched"
            } else {
                "sinks"
            };
            facts.push((
                if p.fallback { 0 } else { p.watched.len() }.to_string(),
                what.into(),
            ));
            let first = p.layers.iter().find(|l| !l.massive.is_empty());
            if let Some(l) = first {
                facts.push((
                    l.layer.to_string(),
                    "first layer with a massive activation".into(),
                ));
            }
            if p.pruned > 0 {
                facts.push((p.pruned.to_string(), "media tokens pruned on the way".into()));
            }
        }
        out.html.push_str("<div class=\"facts\">");
        for (number, what) in facts {
            let _ = write!(
                out.html,
                "<div><b>{}</b><span>{}</span></div>",
                escape(&number),
                escape(&what)
            );
        }
        let c = &self.options.method;
        let dims = self.one.map_or(&self.options.dims, |o| &o.profile.dims);
        let dims = if dims.is_empty() {
            "found anew for each prompt".to_owned()
        } else {
            dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
        };
        let _ = write!(
            out.html,
            "</div><p class=\"soft\">Phi_LLM: largest |h| at least {} and {} x median. Phi_VLM: dimensions {dims}, {} x RMS. Attention mass: above {}. {}</p>",
            short(f64::from(c.abs_threshold)),
            short(f64::from(c.median_multiple)),
            short(f64::from(self.options.tau)),
            short(f64::from(self.options.epsilon)),
            if self.options.act {
                "OutRo acts."
            } else {
                "The plain model; OutRo works on a copy."
            }
        );
    }

    fn detection(&self, out: &mut Sheet) {
        let n = self.numbers;
        out.html.push_str("<h2>Which tokens are sinks</h2><p>Three detectors on the same prompt. A massive activation (Phi_LLM) marks few tokens at every depth; the visual \
            criterion (Phi_VLM) may mark most of them in deep layers, which is why the paper does not build on it.</p><div class=\"grid\">");
        let counts = series(
            n,
            &[
                ("massive", "massive activation"),
                ("visual", "visual (Phi_VLM)"),
                ("attended", "attention mass"),
            ],
        );
        out.figure(
            "Tokens that each detector marks",
            lines(
                "Number of tokens marked by each detector, by layer",
                "tokens",
                Scale::Count,
                &Axis::LAYERS,
                &counts,
            ),
            "Logarithmic from 1 up. massive, visual and attended in layers.csv.",
        );
        let curves = series(
            n,
            &[
                ("top1", "largest"),
                ("top2", "second"),
                ("top3", "third"),
                ("median", "median"),
            ],
        );
        out.figure(
            "Massive activations",
            lines(
                "Largest three and median absolute activation entering each layer",
                "|h|",
                Scale::Log,
                &Axis::LAYERS,
                &curves,
            ),
            "Largest |h| of the three foremost tokens and the median of all, at the input of each layer.",
        );
        let alike = series(
            n,
            &[
                ("massive_visual_agreement", "massive / visual"),
                ("massive_attended_agreement", "massive / attention"),
                ("visual_attended_agreement", "visual / attention"),
            ],
        );
        out.figure(
            "Agreement of the detectors",
            lines(
                "Jaccard agreement of each pair of detectors, by layer",
                "both / either",
                Scale::Linear,
                &Axis::LAYERS,
                &alike,
            ),
            "Tokens that both mark over tokens that either marks; nothing is drawn where neither marks one.",
        );
        out.html.push_str("</div>");
    }

    fn heat_of(&self, out: &mut Sheet, name: &str, title: &str, caption: &str, range: Option<(f64, f64)>) {
        let values: Vec<Vec<Option<f64>>> = self
            .numbers
            .head(name)
            .iter()
            .map(|l| l.iter().map(Stat::mean).collect())
            .collect();
        if values.iter().flatten().all(Option::is_none) {
            return;
        }
        let largest = values.iter().flatten().flatten().fold(0.0f64, |m, x| m.max(*x));
        let range = range.unwrap_or((0.0, largest.max(1e-6)));
        out.figure(
            title,
            heat(&format!("{title}, by layer and head"), &values, range),
            caption,
        );
    }

    fn attention(&self, out: &mut Sheet) {
        let n = self.numbers;
        out.html.push_str("<h2>Who looks at them</h2><p>Mean attention on the watched tokens. A head's gate is what is left for all other tokens.</p><div class=\"grid\">");
        let masses = ["sink_mass", "mass_text", "mass_image", "mass_video", "mass_audio"];
        // One scale for all of them.
        let most = masses
            .iter()
            .flat_map(|name| n.head(name).into_iter().flatten())
            .filter_map(|s| s.mean())
            .fold(0.05f64, f64::max);
        for (name, who) in [
            ("sink_mass", "all queries"),
            ("mass_text", "text queries"),
            ("mass_image", "image queries"),
            ("mass_video", "video queries"),
            ("mass_audio", "audio queries"),
        ] {
            let title = format!("Attention on sinks, {who}");
            self.heat_of(
                out,
                name,
                &title,
                "Share of a query's attention; each cell a head, one scale for all of these.",
                Some((0.0, most)),
            );
        }
        let gates = series(
            n,
            &[
                ("gate", "mean gate"),
                ("gate_variation", "variation of gates"),
                ("gate_entropy", "entropy of gates"),
                ("closed_heads", "closed heads"),
            ],
        );
        out.figure(
            "Head gates and their imbalance",
            lines(
                "Mean gate, coefficient of variation, entropy and share of closed heads by layer",
                "",
                Scale::Linear,
                &Axis::LAYERS,
                &gates,
            ),
            "Gate = 1 - attention on sinks. Variation: standard deviation over mean. Entropy: 1 is balanced. Closed: gate below 0.05.",
        );
        out.html.push_str("</div>");
    }

    fn geometry(&self, out: &mut Sheet) {
        let n = self.numbers;
        out.html
            .push_str("<h2>What they are made of, and what they add</h2><div class=\"grid\">");
        let norms = |kind: [(&'static str, &'static str); 2]| series(n, &kind);
        for (what, pair) in [
            (
                "keys",
                norms([("k_norm_sinks", "sinks"), ("k_norm_others", "others")]),
            ),
            (
                "values",
                norms([("v_norm_sinks", "sinks"), ("v_norm_others", "others")]),
            ),
        ] {
            out.figure(
                &format!("Length of {what}"),
                lines(
                    &format!("Mean norm of {what} of sinks and of other tokens by layer"),
                    "norm",
                    Scale::Linear,
                    &Axis::LAYERS,
                    &pair,
                ),
                "Mean over tokens and key/value heads, after rotary embedding.",
            );
        }
        self.heat_of(
            out,
            "share",
            "What sinks give to head outputs",
            "|sum of attention x value over the sinks| / |head output|; above 1 where the rest points the other way.",
            None,
        );
        self.heat_of(
            out,
            "cos_o_before",
            "Cosine of head outputs with the sinks' value, before OutRo",
            "Layers without a sink of OutRo are empty.",
            Some((-1.0, 1.0)),
        );
        self.heat_of(
            out,
            "cos_o_after",
            "Cosine of head outputs with the sinks' value, after OutRo",
            "Layers without a sink of OutRo are empty. The same scale.",
            Some((-1.0, 1.0)),
        );
        let counts = |i: usize| (COSINES[i], n.cosines[i].as_slice());
        out.figure(
            "Queries and the sinks' mean key",
            histogram(
                "Histogram of cosines between queries and the sinks' mean key",
                &[counts(0)],
            ),
            "All layers, heads and tokens that are not watched.",
        );
        out.figure(
            "Head outputs and the sinks' mean value",
            histogram(
                "Histogram of cosines between head outputs and the sinks' mean value, before and after OutRo",
                &[counts(1), counts(2)],
            ),
            "Layers in which OutRo has sinks.",
        );
        out.html.push_str("</div>");
        let Some(one) = self.one else { return };
        out.html.push_str("<h3>Dominating dimensions of the sinks' mean key</h3><div class=\"scroll\"><table><tr><th>layer</th><th>key/value head . dimension: mean of sinks (mean of others)</th></tr>");
        for l in &one.profile.layers {
            let cells: Vec<String> = l
                .key_dims
                .iter()
                .map(|d| {
                    format!(
                        "{}.{}: {} ({})",
                        d.head,
                        d.dim,
                        short(f64::from(d.sinks)),
                        short(f64::from(d.others))
                    )
                })
                .collect();
            let _ = write!(
                out.html,
                "<tr><td class=\"n\">{}</td><td>{}</td></tr>",
                l.layer,
                escape(&cells.join(", "))
            );
        }
        out.html.push_str("</table></div>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_markup_read_well() {
        let all = [0.0, 1.0, 0.25, 12.34, 1573.0, 24926.0, 123_456.0, 0.0012, 100.4].map(short);
        assert_eq!(
            all,
            [
                "0", "1", "0.25", "12.3", "1573", "24926", "1.2e5", "1.2e-3", "100"
            ]
        );
        assert_eq!(
            escape("<a href=\"x\">&\u{7}"),
            "&lt;a href=&quot;x&quot;&gt;&amp; "
        );
    }
}
