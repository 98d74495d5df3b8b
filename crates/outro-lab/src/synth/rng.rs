//! The world's random numbers. Written out (SplitMix64), because a set of videos must not change with a library's version.

/// One stream of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The stream of one clip of one set.
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        // Both are mixed: streams that start a step apart in one sequence would be copies of each other.
        let (mut seed, mut index) = (Self(seed), Self(!index));
        Self(seed.next().rotate_left(32) ^ index.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In [low, high).
    pub(crate) fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Below `n`; 0 where `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// One of `items`, which are not none.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        items.get(self.below(items.len())).copied()
    }

    /// `k` of `0..n`, ascending.
    pub(crate) fn choose(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        self.shuffle(&mut all);
        all.truncate(k);
        all.sort_unstable();
        all
    }
}

/// Sine of `turns` full turns from additions and multiplications alone, so that every machine gets the same bits.
pub(crate) fn sine(turns: f64) -> f64 {
    let t = turns - turns.round();
    // sin is odd and symmetric about a quarter turn; fold into [-1/4, 1/4].
    let t = if t > 0.25 {
        0.5 - t
    } else if t < -0.25 {
        -0.5 - t
    } else {
        t
    };
    let x = t * std::f64::consts::TAU;
    let x2 = x * x;
    let terms = [
        -1.0 / 6.0,
        1.0 / 120.0,
        -1.0 / 5040.0,
        1.0 / 362_880.0,
        -1.0 / 39_916_800.0,
    ];
    let series = terms.iter().rev().fold(0.0, |acc, c| (acc + c) * x2);
    x + x * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_is_a_sine() {
        for i in -400..400 {
            let t = f64::from(i) / 100.0;
            let error = (sine(t) - (t * std::f64::consts::TAU).sin()).abs();
            assert!(error < 1e-7, "{t}: {error}");
        }
    }

    #[test]
    fn streams_are_fixed_and_differ() {
        let first = |seed, index| Rng::new(seed, index).next();
        assert_eq!(first(1, 2), first(1, 2));
        assert!(first(1, 2) != first(1, 3) && first(1, 2) != first(2, 2));
        let mut rng = Rng::new(7, 0);
        let mean = (0..10_000).map(|_| rng.unit()).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert!((0..1000).all(|_| rng.below(3) < 3));
        assert_eq!(rng.choose(4, 4), [0, 1, 2, 3]);
    }
}
