//! Which tokens are sinks: the massive-activation criterion (method.md section 1), and the visual one that the paper compares.

use crate::hook::views::Hidden;

/// Rows of `x [S, hidden]` whose largest |element| is at least `max(abs_threshold, median_multiple * median |x|)`,
/// the median over all elements (the lower middle one of an even count). Exact, without sorting or copying `x`.
///
/// Source: Sun et al., "Massive Activations in Large Language Models", 2024, as the paper's Phi_LLM.
pub fn massive_tokens(x: Hidden, abs_threshold: f32, median_multiple: f32) -> Vec<usize> {
    let largest = x.row_abs_max();
    // Nearly every layer's input has no token above the absolute threshold, and then no median is needed.
    if largest.iter().all(|m| *m < abs_threshold) {
        return Vec::new();
    }
    let threshold =
        (f64::from(median_multiple) * f64::from(x.abs_median())).max(f64::from(abs_threshold)) as f32;
    (0..largest.len()).filter(|t| largest[*t] >= threshold).collect()
}

/// Rows whose sink dimensions reach `tau` times their root mean square.
///
/// Source: Kang et al., "See What You Are Told: Visual Attention Sink in Large Multimodal Models", 2025, as the paper's Phi_VLM.
pub fn visual_sinks(x: Hidden, dims: &[usize], tau: f32) -> Vec<usize> {
    let reaches = |row: &usize| {
        let (row, rms) = (x.row(*row), root_mean_square(x.row(*row)));
        dims.iter().any(|d| row[*d].abs() >= tau * rms)
    };
    (0..x.rows()).filter(reaches).collect()
}

/// Root mean square of a row, as RMSNorm takes it.
pub fn root_mean_square(row: &[f32]) -> f32 {
    (row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32 + 1e-6).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_thresholds_count_and_equality_is_enough() {
        let mut x = vec![0.1f32; 40];
        x[13] = -100.0;
        let x = Hidden::new(&x, 10);
        assert_eq!(massive_tokens(x, 100.0, 1000.0), [1]);
        assert_eq!(massive_tokens(x, 100.1, 1000.0), [0usize; 0]);
        assert_eq!(massive_tokens(x, 100.0, 1001.0), [0usize; 0]);
    }

    #[test]
    fn a_visual_sink_stands_out_in_its_dimensions() {
        let mut x = vec![1.0f32; 3 * 400];
        x[400 + 7] = -40.0;
        let x = Hidden::new(&x, 400);
        assert_eq!(visual_sinks(x, &[3, 7], 15.0), [1]);
        assert_eq!(visual_sinks(x, &[3], 15.0), [0usize; 0]);
        assert_eq!(visual_sinks(x, &[7], 25.0), [0usize; 0]);
    }
}
