//! Sums and medians of activations.

use rayon::prelude::*;

/// The lower median of |x|. The bits of non-negative floats are ordered as the floats are, so two histograms,
/// of the high and then of the low half of the bits, find it in two passes. 0 of nothing.
pub fn median_abs(x: &[f32]) -> f32 {
    let key = |v: &f32| v.to_bits() & 0x7FFF_FFFF;
    let histogram = |bucket: &(dyn Fn(u32) -> Option<usize> + Sync)| {
        x.par_chunks(1 << 20)
            .fold(
                || vec![0usize; 1 << 16],
                |mut counts, chunk| {
                    for b in chunk.iter().filter_map(|v| bucket(key(v))) {
                        counts[b] += 1;
                    }
                    counts
                },
            )
            .reduce(
                || vec![0; 1 << 16],
                |mut a, b| {
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                    a
                },
            )
    };
    let find = |counts: &[usize], mut rank: usize| {
        for (bucket, n) in counts.iter().enumerate() {
            if rank < *n {
                return (bucket as u32, rank);
            }
            rank -= n;
        }
        (0, 0)
    };
    let (high, rank) = find(
        &histogram(&|k| Some((k >> 16) as usize)),
        x.len().saturating_sub(1) / 2,
    );
    let (low, _) = find(
        &histogram(&|k| (k >> 16 == high).then_some((k & 0xFFFF) as usize)),
        rank,
    );
    f32::from_bits(high << 16 | low)
}

/// A sum in eight lanes, which the compiler turns into vectors.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, a1) = a.as_chunks::<8>();
    let (b8, b1) = b.as_chunks::<8>();
    let mut lanes = [0f32; 8];
    for (a, b) in a8.iter().zip(b8) {
        for l in 0..8 {
            lanes[l] += a[l] * b[l];
        }
    }
    lanes.iter().sum::<f32>() + a1.iter().zip(b1).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_median_is_that_of_a_sort(x in prop::collection::vec(-1e6f32..1e6, 1..400)) {
            let mut sorted: Vec<f32> = x.iter().map(|v| v.abs()).collect();
            sorted.sort_by(f32::total_cmp);
            prop_assert_eq!(median_abs(&x), sorted[(x.len() - 1) / 2]);
        }
    }
}
