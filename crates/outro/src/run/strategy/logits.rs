//! Arithmetic on the logits of one or several passes.

/// Probabilities in double precision.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let mut p: Vec<f64> = logits.iter().map(|l| f64::from(l - max).exp()).collect();
    let sum: f64 = p.iter().sum();
    for p in &mut p {
        *p /= sum;
    }
    p
}

/// Entropy of the next token in nats.
pub fn entropy(logits: &[f32]) -> f32 {
    let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    softmax(logits).into_iter().map(term).sum::<f64>() as f32
}

/// Jensen-Shannon divergence of two next-token distributions in nats; probabilities are kept in 5e-8 to 1 - 5e-8, as in
/// the release of `MoD`.
pub fn jensen_shannon(a: &[f32], b: &[f32]) -> f64 {
    const LEAST: f64 = 5e-8;
    let clip = |p: f64| p.clamp(LEAST, 1.0 - LEAST);
    let terms = softmax(a).into_iter().zip(softmax(b)).map(|(p, q)| {
        let (p, q) = (clip(p), clip(q));
        let m = f64::midpoint(p, q);
        0.5 * (p * (p / m).ln() + q * (q / m).ln())
    });
    terms.sum()
}

/// The sum of logits, each times its factor. All must be equally long.
pub fn mix(terms: &[(f32, &[f32])]) -> Vec<f32> {
    let Some(((factor, first), others)) = terms.split_first() else {
        return Vec::new();
    };
    let mut sum: Vec<f32> = first.iter().map(|l| factor * l).collect();
    for (factor, logits) in others {
        for (s, l) in sum.iter_mut().zip(*logits) {
            *s += factor * l;
        }
    }
    sum
}

/// The adaptive plausibility constraint: tokens that `plain` gives less than `beta` times its best token's probability
/// are impossible in `mixed`. 0 forbids none.
pub fn keep_plausible(mixed: &mut [f32], plain: &[f32], beta: f32) {
    let least = plain.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b)) + beta.ln();
    for (m, l) in mixed.iter_mut().zip(plain) {
        if *l < least {
            *m = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_worked_out_by_hand() {
        assert!((entropy(&[2.0; 4]) - 4f32.ln()).abs() < 1e-6);
        assert!(entropy(&[0.0, -200.0]) < 1e-6);
        // p = 3/4: -(3/4 ln 3/4 + 1/4 ln 1/4)
        assert!((entropy(&[3f32.ln(), 0.0]) - 0.562_335_1).abs() < 1e-6);
        // p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2
        let (a, b) = ([3f32.ln(), 0.0], [0.0, 3f32.ln()]);
        assert!((jensen_shannon(&a, &b) - 0.130_812_035).abs() < 1e-7);
        assert!(jensen_shannon(&a, &a).abs() < 1e-12);
        let disjoint = jensen_shannon(&[90.0, 0.0], &[0.0, 90.0]);
        assert!((disjoint - 2f64.ln()).abs() < 1e-5, "at most ln 2: {disjoint}");
        assert_eq!(mix(&[(2.0, &[1.0, 2.0]), (-1.0, &[3.0, 1.0])]), [-1.0, 3.0]);
    }

    #[test]
    fn implausible_tokens_are_out_whatever_the_mixture_says() {
        let plain = [0.0, -2.0, -2.5];
        let mut mixed = [-9.0, 1.0, 50.0];
        keep_plausible(&mut mixed, &plain, 0.1);
        assert_eq!(mixed, [-9.0, 1.0, f32::NEG_INFINITY], "ln 0.1 is -2.303");
        let mut all = [1.0, 2.0, 3.0];
        keep_plausible(&mut all, &plain, 0.0);
        assert_eq!(all, [1.0, 2.0, 3.0]);
        keep_plausible(&mut all, &plain, 1.0);
        assert_eq!(all, [1.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
    }
}
