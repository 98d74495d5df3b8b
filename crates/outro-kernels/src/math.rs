//! Norms, rotary embedding and activations, row by row.

use rayon::prelude::*;

use crate::simd::{Level, exp_negative, fma, multiversion, sum_lanes};

/// Rows that are worth a task of their own.
const ROWS: usize = 32;

/// `out = x / rms(x) * weight` for every row of `weight.len()`.
///
/// # Panics
/// When `x` is not whole rows or `out` is not as long as `x`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    rows(x, weight.len(), out, |x, out| {
        rms_norm_row(Level::detect(), x, weight, eps, out);
    });
}

multiversion! { fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body }

#[inline(always)]
fn rms_norm_body<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum_of::<FMA>(x, |v| v * v) / x.len() as f32 + eps).sqrt();
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * scale * w;
    }
}

#[inline(always)]
fn sum_of<const FMA: bool>(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 32];
    let chunks = x.chunks_exact(32);
    let rest = chunks.remainder();
    for c in chunks {
        for l in 0..32 {
            lanes[l] += f(c[l]);
        }
    }
    rest.iter().fold(sum_lanes(lanes), |s, v| s + f(*v))
}

/// `out = (x - mean) / std * weight + bias` for every row.
///
/// # Panics
/// When `x` is not whole rows or `out` is not as long as `x`.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    rows(x, weight.len(), out, |x, out| {
        let n = x.len() as f32;
        let mean = sum_of::<false>(x, |v| v) / n;
        let var = sum_of::<false>(x, |v| (v - mean) * (v - mean)) / n;
        let scale = 1.0 / (var + eps).sqrt();
        for (((o, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *o = (x - mean) * scale * w + b;
        }
    });
}

fn rows(x: &[f32], width: usize, out: &mut [f32], f: impl Fn(&[f32], &mut [f32]) + Sync) {
    assert!(
        width > 0 && x.len().is_multiple_of(width) && x.len() == out.len(),
        "rows of a norm"
    );
    out.par_chunks_mut(width * ROWS)
        .zip(x.par_chunks(width * ROWS))
        .for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                f(x, out);
            }
        });
}

/// `x += y`.
///
/// # Panics
/// When the lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "sum of two matrices");
    x.par_chunks_mut(1 << 15)
        .zip(y.par_chunks(1 << 15))
        .for_each(|(x, y)| {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
        });
}

/// `gate = silu(gate) * up`, the gated MLP's middle.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up of an MLP");
    let level = Level::detect();
    gate.par_chunks_mut(1 << 14)
        .zip(up.par_chunks(1 << 14))
        .for_each(|(gate, up)| silu_mul_chunk(level, gate, up));
}

multiversion! { fn silu_mul_chunk(gate: &mut [f32], up: &[f32]) = silu_mul_body }

#[inline(always)]
fn silu_mul_body<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        // sigmoid(x) through e^-|x|, which cannot overflow.
        let e = exp_negative::<FMA>(-g.abs());
        let top = if *g >= 0.0 { 1.0 } else { e };
        *g = *g * top / (1.0 + e) * u;
    }
}

/// GELU with the error function, in place.
pub fn gelu(x: &mut [f32]) {
    let level = Level::detect();
    x.par_chunks_mut(1 << 14).for_each(|x| gelu_chunk(level, x));
}

multiversion! { fn gelu_chunk(x: &mut [f32]) = gelu_body }

#[inline(always)]
fn gelu_body<const FMA: bool>(x: &mut [f32]) {
    for v in x {
        *v = 0.5 * *v * (1.0 + erf::<FMA>(*v * std::f32::consts::FRAC_1_SQRT_2));
    }
}

/// GELU with the hyperbolic tangent instead of the error function (`gelu_pytorch_tanh`), in place.
pub fn gelu_tanh(x: &mut [f32]) {
    let level = Level::detect();
    x.par_chunks_mut(1 << 14).for_each(|x| gelu_tanh_chunk(level, x));
}

multiversion! { fn gelu_tanh_chunk(x: &mut [f32]) = gelu_tanh_body }

#[inline(always)]
fn gelu_tanh_body<const FMA: bool>(x: &mut [f32]) {
    // (1 + tanh(y)) / 2 is the sigmoid of 2 y.
    const TWICE: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
    for v in x {
        let y = TWICE * *v * fma::<FMA>(0.044_715 * *v, *v, 1.0);
        *v *= sigmoid::<FMA>(y);
    }
}

/// `x * sigmoid(1.702 x)` (`quick_gelu`), in place.
pub fn quick_gelu(x: &mut [f32]) {
    let level = Level::detect();
    x.par_chunks_mut(1 << 14).for_each(|x| quick_gelu_chunk(level, x));
}

multiversion! { fn quick_gelu_chunk(x: &mut [f32]) = quick_gelu_body }

#[inline(always)]
fn quick_gelu_body<const FMA: bool>(x: &mut [f32]) {
    for v in x {
        *v *= sigmoid::<FMA>(1.702 * *v);
    }
}

/// `1 / (1 + e^-x)` through `e^-|x|`, which cannot overflow.
#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let e = exp_negative::<FMA>(-x.abs());
    let top = if x >= 0.0 { 1.0 } else { e };
    top / (1.0 + e)
}

/// The error function to 2e-7: near zero its Maclaurin series, elsewhere the rational form 7.1.28 of Abramowitz
/// and Stegun's handbook on `1 - erf`, which has the exponential that we have anyway.
#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / fma::<FMA>(0.327_591_1, a, 1.0);
    let mut p = 1.061_405_4f32;
    for c in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = fma::<FMA>(p, t, c);
    }
    let far = 1.0 - p * t * exp_negative::<FMA>(-(a * a));
    let s = x * x;
    let mut q = -1.0 / 1320.0f32;
    for c in [1.0 / 216.0, -1.0 / 42.0, 0.1, -1.0 / 3.0, 1.0] {
        q = fma::<FMA>(q, s, c);
    }
    let near = a * q * std::f32::consts::FRAC_2_SQRT_PI;
    let y = if a < 0.5 { near } else { far };
    y.copysign(x)
}

/// Rotary embedding in place, NeoX order: in every head of `dim`, element `i` is paired with `i + dim / 2`.
/// `x` is `[rows, heads * dim]`; `cos` and `sin` are `[rows, dim / 2]`.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn rotate_half(x: &mut [f32], heads: usize, dim: usize, cos: &[f32], sin: &[f32]) {
    let half = dim / 2;
    assert!(
        x.len() / (heads * dim) * half == cos.len() && cos.len() == sin.len(),
        "angles of a rotary embedding"
    );
    x.par_chunks_mut(heads * dim)
        .zip(cos.par_chunks(half).zip(sin.par_chunks(half)))
        .for_each(|(row, (cos, sin))| {
            for head in row.chunks_exact_mut(dim) {
                let (a, b) = head.split_at_mut(half);
                for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                    let (x, y) = (*a, *b);
                    *a = x * c - y * s;
                    *b = y * c + x * s;
                }
            }
        });
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Reproducible numbers in -1..1.
    pub(crate) fn random(seed: u64, n: usize) -> Vec<f32> {
        let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                s ^= s << 13;
                s ^= s >> 7;
                s ^= s << 17;
                (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn exponential_is_exact_to_an_ulp_or_two() {
        for i in 0..20_000 {
            let x = -(i as f32) / 220.0;
            for y in [exp_negative::<true>(x), exp_negative::<false>(x)] {
                let want = f64::from(x).exp();
                if x >= -87.0 {
                    assert!(
                        (f64::from(y) - want).abs() <= 2.5e-7 * want,
                        "e^{x}: {y} for {want}"
                    );
                } else {
                    assert_eq!(y, 0.0);
                }
            }
        }
    }

    #[test]
    fn gelu_and_silu_equal_their_definitions() {
        // erf by its series, which converges everywhere.
        let erf = |x: f64| {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        let xs: Vec<f32> = (-400..=400).map(|i| i as f32 / 100.0).collect();
        let ones = vec![1.0; xs.len()];
        for level in Level::all() {
            let (mut g, mut s) = (xs.clone(), xs.clone());
            gelu_chunk(level, &mut g);
            silu_mul_chunk(level, &mut s, &ones);
            let (mut t, mut q) = (xs.clone(), xs.clone());
            gelu_tanh_chunk(level, &mut t);
            quick_gelu_chunk(level, &mut q);
            for ((x, t), q) in xs.iter().zip(t).zip(q) {
                let x = f64::from(*x);
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                let (wt, wq) = (0.5 * x * (1.0 + inner.tanh()), x / (1.0 + (-1.702 * x).exp()));
                assert!((f64::from(t) - wt).abs() < 1e-6, "gelu_tanh({x}) = {t} for {wt}");
                assert!((f64::from(q) - wq).abs() < 1e-6, "quick_gelu({x}) = {q} for {wq}");
            }
            for ((x, g), s) in xs.iter().zip(g).zip(s) {
                let x = f64::from(*x);
                let (wg, ws) = (0.5 * x * (1.0 + erf(x / 2f64.sqrt())), x / (1.0 + (-x).exp()));
                assert!((f64::from(g) - wg).abs() < 1e-6, "gelu({x}) = {g} for {wg}");
                assert!((f64::from(s) - ws).abs() < 1e-6, "silu({x}) = {s} for {ws}");
            }
        }
    }

    #[test]
    fn norms_have_unit_scale() {
        let x = random(9, 3 * 50);
        let (mut r, mut l) = (vec![0.; 150], vec![0.; 150]);
        rms_norm(&x, &[2.0; 50], 0.0, &mut r);
        layer_norm(&x, &[1.0; 50], &[3.0; 50], 0.0, &mut l);
        for (r, l) in r.chunks(50).zip(l.chunks(50)) {
            assert!((r.iter().map(|v| v * v).sum::<f32>() / 50.0 - 4.0).abs() < 1e-4);
            assert!((l.iter().sum::<f32>() / 50.0 - 3.0).abs() < 1e-4);
        }
    }

    #[test]
    fn rotary_turns_pairs() {
        let mut x = vec![1.0, 2.0, 0.0, 0.0, 5.0, 6.0, 1.0, 1.0];
        rotate_half(&mut x, 2, 4, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(x, [0.0, 2.0, 1.0, 0.0, -1.0, 6.0, 5.0, 1.0]);
    }
}
