//! From logits to tokens: sampling.

mod sampler;

pub use sampler::{Sampler, argmax};

pub use crate::spec::generation::{FILE, GenerationConfig, Sampling};

/// The `n` most likely ids with their probabilities, most likely first.
pub fn top(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let n = n.min(ids.len());
    if n < ids.len() {
        ids.select_nth_unstable_by(n, order);
        ids.truncate(n);
    }
    ids.sort_unstable_by(order);
    ids.into_iter()
        .map(|id| (id, (f64::from(logits[id as usize] - max).exp() / sum) as f32))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_is_sorted_and_sums_to_one() {
        let t = top(&[1.0, 5.0, 5.0, -2.0], 3);
        assert_eq!(t.iter().map(|x| x.0).collect::<Vec<_>>(), [1, 2, 0]);
        assert!((top(&[1.0, 5.0, 5.0, -2.0], 9).iter().map(|x| x.1).sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(argmax(&[1.0, 5.0, 5.0]), 1);
    }
}
