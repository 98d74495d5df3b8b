//! Statistics of right and wrong answers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::synth::Rng;

/// 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % interval of a proportion.
pub fn wilson(right: usize, total: usize) -> (f64, f64) {
    if total == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (total as f64, right as f64 / total as f64);
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (
        ((centre - spread) / scale).max(0.0),
        ((centre + spread) / scale).min(1.0),
    )
}

/// Standard error of the accuracy when questions about one video are not independent: `(cluster, right)` of every answer.
pub fn clustered_error<'a>(answers: impl Iterator<Item = (&'a str, bool)>) -> f64 {
    let mut clusters: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (cluster, right) in answers {
        let c = clusters.entry(cluster).or_default();
        c.0 += f64::from(u8::from(right));
        c.1 += 1.0;
    }
    let (right, total) = clusters.values().fold((0.0, 0.0), |(r, t), c| (r + c.0, t + c.1));
    let n = clusters.len() as f64;
    if n < 2.0 {
        return 0.0;
    }
    let mean = right / total;
    let squares: f64 = clusters.values().map(|(r, t)| (r - mean * t).powi(2)).sum();
    (squares * n / (n - 1.0)).sqrt() / total
}

/// 95 % interval of a mean when values of one cluster are not independent: percentiles of 2,000 samples of whole clusters,
/// drawn alike at every call.
pub fn bootstrap<'a>(values: impl Iterator<Item = (&'a str, f64)>) -> (f64, f64) {
    const SAMPLES: usize = 2000;
    let mut clusters: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (cluster, value) in values {
        let c = clusters.entry(cluster).or_default();
        c.0 += value;
        c.1 += 1.0;
    }
    let clusters: Vec<(f64, f64)> = clusters.into_values().collect();
    if clusters.is_empty() {
        return (0.0, 0.0);
    }
    let mut rng = Rng::new(0, 0);
    let mut mean = || {
        let (mut sum, mut count) = (0.0, 0.0);
        for _ in 0..clusters.len() {
            let c = clusters[rng.below(clusters.len())];
            sum += c.0;
            count += c.1;
        }
        sum / count
    };
    let mut means: Vec<f64> = (0..SAMPLES).map(|_| mean()).collect();
    means.sort_by(f64::total_cmp);
    (means[SAMPLES / 40], means[SAMPLES - 1 - SAMPLES / 40])
}

/// Answers of two strategies to the same questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Paired {
    /// Both right.
    pub both: usize,
    /// Only the second right.
    pub gained: usize,
    /// Only the first right.
    pub lost: usize,
    /// Both wrong.
    pub neither: usize,
}

impl Paired {
    /// Counts pairs of (first right, second right).
    pub fn count(pairs: impl Iterator<Item = (bool, bool)>) -> Self {
        let mut p = Self::default();
        for pair in pairs {
            *match pair {
                (true, true) => &mut p.both,
                (false, true) => &mut p.gained,
                (true, false) => &mut p.lost,
                (false, false) => &mut p.neither,
            } += 1;
        }
        p
    }

    /// Two-sided p of the exact McNemar test: whether gains and losses could be the tosses of a fair coin.
    pub fn mcnemar(&self) -> f64 {
        let n = self.gained + self.lost;
        let few = self.gained.min(self.lost);
        // Terms of the binomial distribution by their logarithms, so that any n is exact.
        let mut log = -(n as f64) * std::f64::consts::LN_2;
        let mut sum = log.exp();
        for k in 0..few {
            log += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
            sum += log.exp();
        }
        (2.0 * sum).min(1.0)
    }
}

/// Logarithm of the evidence that of two rivals the first one wins more than it loses, after these `wins` and `losses`: the
/// likelihood of all chances of winning above one half, mixed uniformly, against that of one half. Where the first is no
/// better, the evidence ever exceeds x with probability 1 / x at most, however often it is looked at (Ville's inequality).
pub fn evidence(wins: usize, losses: usize) -> f64 {
    // The mixture's integral is a binomial sum: of C(n + 1, k) for k <= wins, over C(n + 1, wins) (losses + 1).
    let (mut term, mut sum) = (1.0_f64, 1.0_f64);
    for k in (1..=wins).rev() {
        term *= k as f64 / (wins + losses + 2 - k) as f64;
        sum += term;
    }
    (sum / (losses + 1) as f64).ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn p(gained: usize, lost: usize) -> f64 {
        Paired {
            gained,
            lost,
            ..Paired::default()
        }
        .mcnemar()
    }

    #[test]
    fn known_values() {
        assert!((p(8, 0) - 0.007_812_5).abs() < 1e-12);
        assert!((p(10, 2) - 0.038_574_218_75).abs() < 1e-12);
        assert!((p(0, 0) - 1.0).abs() < 1e-12 && (p(5, 5) - 1.0).abs() < 1e-12);
        let (low, high) = wilson(8, 10);
        assert!(
            (low - 0.490_162).abs() < 1e-5 && (high - 0.943_318).abs() < 1e-5,
            "{low} {high}"
        );
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        // One question a video: the usual standard error with n - 1.
        let names: Vec<String> = (0..10).map(|i| i.to_string()).collect();
        let error = clustered_error(names.iter().enumerate().map(|(i, n)| (n.as_str(), i < 8)));
        assert!((error - (0.8f64 * 0.2 / 9.0).sqrt()).abs() < 1e-12);
    }

    /// SciPy 1.17.1 (binomtest, proportion_ci, bootstrap with 200,000 samples) and statsmodels (OLS with clustered errors,
    /// times the root of 12/11).
    #[test]
    fn values_of_scipy() {
        for (gained, lost, want) in [
            (8, 1, 0.039_062_5),
            (23, 11, 0.057_612_672_913_819_55),
            (140, 97, 0.006_248_602_260_672_697),
            (1, 0, 1.0),
        ] {
            assert!(
                (p(gained, lost) - want).abs() < 1e-12,
                "{gained} {lost}: {}",
                p(gained, lost)
            );
        }
        for (right, total, low, high) in [
            (918, 1136, 0.784_175_578_648_926_8, 0.829_944_915_550_535),
            (1734, 2290, 0.739_222_621_640_750_4, 0.774_326_383_880_159_2),
            (0, 10, 0.0, 0.277_532_799_862_889_26),
            (9, 9, 0.700_854_951_580_456_1, 1.0),
        ] {
            let (a, b) = wilson(right, total);
            assert!(
                (a - low).abs() < 1e-9 && (b - high).abs() < 1e-9,
                "{right} of {total}: {a} {b}"
            );
        }
        let names: Vec<String> = (0..12).map(|v| v.to_string()).collect();
        let answers = || {
            let of = |v: usize| (0..=v % 4).map(move |q| (v, (v * 7 + q * 3) % 5 < 3));
            (0..12).flat_map(of).map(|(v, right)| (names[v].as_str(), right))
        };
        let error = clustered_error(answers());
        assert!((error - 0.049_236_596_391_733_084).abs() < 1e-9, "{error}");
        let (low, high) = bootstrap(answers().map(|(c, r)| (c, f64::from(u8::from(r)))));
        assert!(
            (low - 0.5714).abs() < 0.02 && (high - 0.76).abs() < 0.02,
            "{low} {high}"
        );
    }

    /// SciPy: `(n + 1) log 2 + betaln(w + 1, l + 1) + log(betainc(l + 1, w + 1, 0.5))`.
    #[test]
    fn evidence_of_scipy() {
        for (wins, losses, want) in [
            (0, 0, 0.0),
            (10, 0, 5.226_235_312_862_919),
            (5, 5, -0.995_852_554_710_340_8),
            (20, 7, 2.372_865_522_626_467),
            (3, 12, -2.346_100_730_430_207_7),
            (300, 240, 1.100_863_767_851_294),
        ] {
            let got = evidence(wins, losses);
            assert!((got - want).abs() < 1e-9, "{wins} {losses}: {got}");
        }
        assert!(evidence(4000, 0) > 100.0);
    }

    /// Ville's inequality: of fair rivals at most one in twenty ever shows evidence of 20, though it is looked at each time.
    #[test]
    fn looking_often_does_not_inflate_evidence() {
        let ever = |seed| {
            let (mut rng, mut wins) = (crate::synth::Rng::new(seed, 1), 0);
            (0..300).any(|n| {
                wins += rng.below(2);
                evidence(wins, n + 1 - wins) >= 20_f64.ln()
            })
        };
        let often = (0..1000).filter(|s| ever(*s)).count();
        assert!(often > 0 && often <= 60, "{often} of 1000");
    }

    proptest! {
        #[test]
        fn laws(a in 0usize..3000, b in 0usize..3000, right in 0usize..500, wrong in 0usize..500) {
            let x = p(a, b);
            prop_assert!(x > 0.0 || a + b > 500);
            prop_assert!(x <= 1.0 && (x - p(b, a)).abs() < 1e-12);
            let (low, high) = wilson(right, right + wrong);
            let share = right as f64 / (right + wrong).max(1) as f64;
            prop_assert!(right + wrong == 0 || low <= share + 1e-12 && share <= high + 1e-12);
        }
    }
}
