//! Dense linear layers. Weights stay in the checkpoint's layout and type (they may be memory-mapped); panels
//! are widened to f32 as they are used, so bf16 is a storage format and all arithmetic is f32.

mod gemm;
mod gemv;
mod pack;

use crate::arithmetic::{Activations, Phase};
use crate::quant;
use crate::simd::Level;
use crate::weight::Weight;

/// `out[m, n] = x[m, k] w[n, k]^T + bias[n]`, exact up to the order of f32 sums.
///
/// # Panics
/// When a slice's length is not what `m`, `n` and `k` say.
pub fn linear(x: &[f32], m: usize, k: usize, w: Weight, n: usize, bias: Option<&[f32]>, out: &mut [f32]) {
    linear_with(Activations::F32, Phase::Prefill, x, m, k, w, n, bias, out);
}

/// [`linear`] in the arithmetic of a phase, with quantised activations where that is asked for and there is a path for it.
///
/// # Panics
/// As [`linear`], and when the rows of a quantised weight are not whole blocks.
pub fn linear_with(
    activations: Activations,
    phase: Phase,
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight,
    n: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    linear_at(Level::detect(), activations, phase, x, m, k, w, n, bias, out);
}

pub(crate) fn linear_at(
    level: Level,
    activations: Activations,
    phase: Phase,
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight,
    n: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    assert_eq!(x.len(), m * k, "x of a linear layer");
    assert_eq!(w.len(), n * k, "weight of a linear layer");
    assert_eq!(out.len(), m * n, "output of a linear layer");
    assert!(bias.is_none_or(|b| b.len() == n), "bias of a linear layer");
    if m == 0 || n == 0 {
        return;
    }
    if let Weight::Quant(w) = w {
        assert!(
            k > 0 && k.is_multiple_of(w.kind().block_len()),
            "rows of a quantised weight"
        );
    }
    match (phase, w) {
        (Phase::Prefill, _) => gemm::gemm(level, activations, x, m, k, w, n, bias, out),
        (Phase::Decode, Weight::Quant(w)) => quant::gemv(level, activations, x, m, k, w, n, bias, out),
        (Phase::Decode, _) => gemv::gemv(level, x, m, k, w, n, bias, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::tests::random;
    use half::{bf16, f16};

    fn naive(x: &[f32], m: usize, k: usize, w: &[f32], n: usize, bias: &[f32]) -> Vec<f64> {
        let mut y = Vec::with_capacity(m * n);
        for i in 0..m {
            for j in 0..n {
                let s: f64 = (0..k)
                    .map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p]))
                    .sum();
                y.push(s + f64::from(bias[j]));
            }
        }
        y
    }

    #[test]
    fn every_level_and_type_equals_the_sum() {
        for (m, k, n) in [
            (1, 1, 1),
            (1, 300, 70),
            (3, 64, 65),
            (2, 8256, 3),
            (4, 4160, 5),
            (5, 7, 31),
            (13, 257, 33),
            (25, 600, 96),
            (400, 40, 40),
        ] {
            let (x, w, bias) = (random(1, m * k), random(2, n * k), random(3, n));
            let b: Vec<bf16> = w.iter().map(|v| bf16::from_f32(*v)).collect();
            let h: Vec<f16> = w.iter().map(|v| f16::from_f32(*v)).collect();
            let wide: [Vec<f32>; 3] = [
                w.clone(),
                b.iter().map(|v| v.to_f32()).collect(),
                h.iter().map(|v| v.to_f32()).collect(),
            ];
            for level in Level::all() {
                for (weight, wide) in [Weight::F32(&w), Weight::Bf16(&b), Weight::F16(&h)]
                    .into_iter()
                    .zip(&wide)
                {
                    let want = naive(&x, m, k, wide, n, &bias);
                    for phase in [Phase::Prefill, Phase::Decode] {
                        let mut got = vec![f32::NAN; m * n];
                        let kind = Activations::F32;
                        linear_at(level, kind, phase, &x, m, k, weight, n, Some(&bias), &mut got);
                        for (g, w) in got.iter().zip(&want) {
                            assert!(
                                (f64::from(*g) - w).abs() < 2e-5 * (k as f64).sqrt(),
                                "{level:?} {phase:?} {m}x{k}x{n}: {g} for {w}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn reduced_activations_of_bf16_weights_are_rounded_and_nothing_else() {
        for (m, k, n) in [(3, 64, 40), (5, 7, 31), (30, 1030, 33), (800, 40, 40)] {
            let (x, bias) = (random(1, m * k), random(3, n));
            let w: Vec<bf16> = random(2, n * k).into_iter().map(bf16::from_f32).collect();
            let wide: Vec<f32> = w.iter().map(|v| v.to_f32()).collect();
            let rounded: Vec<f32> = x.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
            let phases = [Phase::Prefill, Phase::Decode];
            for (level, phase) in Level::all().flat_map(|level| phases.map(|phase| (level, phase))) {
                let reduced = phase == Phase::Prefill && level.bf16_is_faster();
                let want = naive(if reduced { &rounded } else { &x }, m, k, &wide, n, &bias);
                let mut got = vec![f32::NAN; m * n];
                let (kind, weight) = (Activations::Reduced, Weight::Bf16(&w));
                linear_at(level, kind, phase, &x, m, k, weight, n, Some(&bias), &mut got);
                for (g, w) in got.iter().zip(&want) {
                    let tolerance = 2e-5 * (k as f64).sqrt();
                    assert!(
                        (f64::from(*g) - w).abs() < tolerance,
                        "{level:?} {m}x{k}x{n}: {g} for {w}"
                    );
                }
            }
        }
    }
}
