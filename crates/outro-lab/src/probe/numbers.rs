//! Profiles of one or many prompts as numbers by layer and by head: what figures and tables are made of.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::{Cosines, Layer, Profile};

/// A mean over prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stat {
    n: usize,
    sum: f64,
    squares: f64,
}

impl Stat {
    fn add(&mut self, x: f32) {
        if x.is_finite() {
            let x = f64::from(x);
            self.n += 1;
            self.sum += x;
            self.squares += x * x;
        }
    }

    /// The mean; `None` where no prompt has the quantity.
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / self.n as f64)
    }

    /// Half of the mean's 95 % interval (normal, 1.96 standard errors); 0 of fewer than two prompts.
    pub fn half(&self) -> f64 {
        if self.n < 2 {
            return 0.0;
        }
        let n = self.n as f64;
        let variance = (self.squares - self.sum * self.sum / n).max(0.0) / (n - 1.0);
        1.96 * (variance / n).sqrt()
    }
}

/// Quantities of a layer, in the order of the table's columns.
pub const BY_LAYER: [&str; 21] = [
    "tokens",
    "top1",
    "top2",
    "top3",
    "median",
    "massive",
    "visual",
    "attended",
    "sinks",
    "massive_visual_agreement",
    "massive_attended_agreement",
    "visual_attended_agreement",
    "gate",
    "gate_variation",
    "gate_entropy",
    "closed_heads",
    "k_norm_sinks",
    "k_norm_others",
    "v_norm_sinks",
    "v_norm_others",
    "share",
];

/// Quantities of a head.
pub const BY_HEAD: [&str; 10] = [
    "sink_mass",
    "mass_text",
    "mass_image",
    "mass_video",
    "mass_audio",
    "gate",
    "share",
    "cos_q_sink_key",
    "cos_o_before",
    "cos_o_after",
];

/// Cosines counted over all layers and heads.
pub const COSINES: [&str; 3] = [
    "q with sink k",
    "o with sink v, before OutRo",
    "o with sink v, after OutRo",
];

/// Means over prompts, and over nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    /// How many prompts.
    pub prompts: usize,
    /// `[layer][quantity of BY_LAYER]`.
    pub layers: Vec<[Stat; BY_LAYER.len()]>,
    /// `[layer][head][quantity of BY_HEAD]`.
    pub heads: Vec<Vec<[Stat; BY_HEAD.len()]>>,
    /// Counts in [`Cosines::BINS`] parts, by the names of [`COSINES`].
    pub cosines: [Vec<u64>; COSINES.len()],
    /// In how many prompts each position was watched.
    watched: BTreeMap<usize, usize>,
}

fn mean(x: &[f32]) -> f32 {
    x.iter().sum::<f32>() / x.len() as f32
}

fn of_layer(l: &Layer) -> [f32; BY_LAYER.len()] {
    let count = |list: &[usize]| list.len() as f32;
    [
        l.tokens as f32,
        l.top[0],
        l.top[1],
        l.top[2],
        l.median,
        count(&l.massive),
        count(&l.visual),
        count(&l.attended),
        count(&l.sinks),
        Profile::agreement(&l.massive, &l.visual),
        Profile::agreement(&l.massive, &l.attended),
        Profile::agreement(&l.visual, &l.attended),
        mean(&l.gate),
        l.balance.variation,
        l.balance.entropy,
        l.balance.closed,
        l.norms.k_sinks,
        l.norms.k_others,
        l.norms.v_sinks,
        l.norms.v_others,
        mean(&l.share),
    ]
}

/// Not a number where the prompt has no such tokens, or OutRo no sink.
fn of_head(l: &Layer, h: usize, kinds: [bool; 4]) -> [f32; BY_HEAD.len()] {
    let mass = |kind: usize| if kinds[kind] { l.mass[h][kind] } else { f32::NAN };
    let angle = |c: &Cosines| c.mean.get(h).copied().unwrap_or(f32::NAN);
    [
        1.0 - l.gate[h],
        mass(0),
        mass(1),
        mass(2),
        mass(3),
        l.gate[h],
        l.share[h],
        angle(&l.q_sink_key),
        angle(&l.o_before),
        angle(&l.o_after),
    ]
}

impl Numbers {
    /// Takes in one more prompt of the same model.
    pub fn add(&mut self, p: &Profile) {
        self.prompts += 1;
        for position in &p.watched {
            *self.watched.entry(*position).or_default() += 1;
        }
        let kinds = super::Kind::ALL.map(|kind| p.kinds.contains(&kind));
        self.layers.resize(p.layers.len(), Default::default());
        self.heads.resize(p.layers.len(), Vec::new());
        for (i, l) in p.layers.iter().enumerate() {
            for (stat, x) in self.layers[i].iter_mut().zip(of_layer(l)) {
                stat.add(x);
            }
            self.heads[i].resize(l.gate.len(), Default::default());
            for (h, stats) in self.heads[i].iter_mut().enumerate() {
                for (stat, x) in stats.iter_mut().zip(of_head(l, h, kinds)) {
                    stat.add(x);
                }
            }
            for (sum, c) in self
                .cosines
                .iter_mut()
                .zip([&l.q_sink_key, &l.o_before, &l.o_after])
            {
                sum.resize(Cosines::BINS, 0);
                for (sum, n) in sum.iter_mut().zip(&c.histogram) {
                    *sum += u64::from(*n);
                }
            }
        }
    }

    /// One quantity of [`BY_LAYER`] through the layers; empty for another name.
    pub fn layer(&self, name: &str) -> Vec<Stat> {
        let i = BY_LAYER.iter().position(|n| *n == name);
        i.map_or_else(Vec::new, |i| self.layers.iter().map(|l| l[i]).collect())
    }

    /// One quantity of [`BY_HEAD`], `[layer][head]`; empty for another name.
    pub fn head(&self, name: &str) -> Vec<Vec<Stat>> {
        let i = BY_HEAD.iter().position(|n| *n == name);
        i.map_or_else(Vec::new, |i| {
            self.heads
                .iter()
                .map(|l| l.iter().map(|h| h[i]).collect())
                .collect()
        })
    }

    /// Positions that were sinks (or watched instead) in every prompt, ascending.
    pub fn sinks_of_all(&self) -> Vec<usize> {
        let all = self.watched.iter().filter(|(_, n)| **n == self.prompts);
        all.map(|(position, _)| *position).collect()
    }

    /// Heads by their mean sink mass, largest first: `(layer, head)`.
    pub fn heads_by_sink_mass(&self) -> Vec<(usize, usize)> {
        let all = self.head("sink_mass");
        let mut order: Vec<(usize, usize)> = (0..all.len())
            .flat_map(|l| (0..all[l].len()).map(move |h| (l, h)))
            .collect();
        let score = |(l, h): &(usize, usize)| all[*l][*h].mean().unwrap_or(0.0);
        order.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
        order
    }

    /// `layers.csv`: a row a layer, a column a quantity and, of several prompts, half of its interval.
    pub fn layers_csv(&self) -> String {
        let mut out = self.heading("layer", &BY_LAYER);
        for (i, l) in self.layers.iter().enumerate() {
            self.line(&mut out, &i.to_string(), l);
        }
        out
    }

    /// `heads.csv`: a row a head.
    pub fn heads_csv(&self) -> String {
        let mut out = self.heading("layer,head", &BY_HEAD);
        for (i, l) in self.heads.iter().enumerate() {
            for (h, stats) in l.iter().enumerate() {
                self.line(&mut out, &format!("{i},{h}"), stats);
            }
        }
        out
    }

    /// `cosines.csv`: the lower edge of each part, and the counts.
    pub fn cosines_csv(&self) -> String {
        let mut out = String::from("from,q_sink_key,o_before,o_after\n");
        for bin in 0..Cosines::BINS {
            let from = bin as f64 * 2.0 / Cosines::BINS as f64 - 1.0;
            let n = |i: usize| self.cosines[i].get(bin).copied().unwrap_or(0);
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{from:.2},{},{},{}", n(0), n(1), n(2));
        }
        out
    }

    fn heading(&self, first: &str, names: &[&str]) -> String {
        let mut out = first.to_owned();
        for name in names {
            let _ = write!(out, ",{name}");
            if self.prompts > 1 {
                let _ = write!(out, ",{name}_half");
            }
        }
        out.push('\n');
        out
    }

    fn line(&self, out: &mut String, first: &str, stats: &[Stat]) {
        out.push_str(first);
        for s in stats {
            out.push(',');
            if let Some(mean) = s.mean() {
                let _ = write!(out, "{mean}");
            }
            if self.prompts > 1 {
                let _ = write!(out, ",{}", s.half());
            }
        }
        out.push('\n');
    }
}

impl Serialize for Stat {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        [self.mean(), self.mean().map(|_| self.half())].serialize(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_intervals() {
        let mut s = Stat::default();
        assert_eq!((s.mean(), s.half()), (None, 0.0));
        for x in [1.0, 2.0, 3.0, f32::NAN] {
            s.add(x);
        }
        assert_eq!(s.mean(), Some(2.0));
        assert!((s.half() - 1.96 / 3f64.sqrt()).abs() < 1e-12);
    }
}
