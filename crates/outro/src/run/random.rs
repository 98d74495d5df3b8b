//! Random numbers that a seed fixes.

use std::f64::consts::TAU;

/// A SplitMix64 sequence.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A sequence of its own for the part `index` of what the seed fixes.
    pub(crate) fn of(seed: u64, index: u64) -> Self {
        let start = Self(seed).next();
        Self(Self(start ^ index).next())
    }

    /// Uniform in 0..1.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Two independent standard normal numbers (Box and Muller).
    pub(crate) fn normals(&mut self) -> [f32; 2] {
        let mut unit = || (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        let (length, angle) = ((-2.0 * (1.0 - unit()).ln()).sqrt(), TAU * unit());
        [(length * angle.cos()) as f32, (length * angle.sin()) as f32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_the_moments_of_normals() {
        let all: Vec<f64> = (0..500)
            .flat_map(|part| {
                let mut random = Random::of(7, part);
                (0..50).flat_map(move |_| random.normals()).collect::<Vec<_>>()
            })
            .map(f64::from)
            .collect();
        let moment = |k: i32| all.iter().map(|x| x.powi(k)).sum::<f64>() / all.len() as f64;
        for (k, want) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
            assert!((moment(k) - want).abs() < 0.15, "moment {k} is {}", moment(k));
        }
        assert_ne!(Random::of(7, 0).normals(), Random::of(8, 0).normals());
    }
}
