//! Which tokens are sinks: the massive-activation criterion (method.md section 1).

use rayon::prelude::*;

/// Rows of `x [S, hidden]` whose largest |element| is at least `max(abs_threshold, median_multiple * median |x|)`,
/// the median over all elements (the lower middle one of an even count). Exact, without sorting or copying `x`.
///
/// Source: Sun et al., "Massive Activations in Large Language Models", 2024, as the paper's Phi_LLM.
pub fn massive_tokens(x: &[f32], hidden: usize, abs_threshold: f32, median_multiple: f32) -> Vec<usize> {
    let largest: Vec<f32> = x
        .par_chunks(hidden)
        .map(|row| row.iter().fold(0.0, |m: f32, v| m.max(v.abs())))
        .collect();
    // Nearly every layer's input has no token above the absolute threshold, and then no median is needed.
    if largest.iter().all(|m| *m < abs_threshold) {
        return Vec::new();
    }
    let threshold =
        (f64::from(median_multiple) * f64::from(median_abs(x))).max(f64::from(abs_threshold)) as f32;
    (0..largest.len()).filter(|t| largest[*t] >= threshold).collect()
}

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

    #[test]
    fn both_thresholds_count_and_equality_is_enough() {
        let mut x = vec![0.1f32; 40];
        x[13] = -100.0;
        assert_eq!(massive_tokens(&x, 10, 100.0, 1000.0), [1]);
        assert_eq!(massive_tokens(&x, 10, 100.1, 1000.0), [0usize; 0]);
        assert_eq!(massive_tokens(&x, 10, 100.0, 1001.0), [0usize; 0]);
    }
}
