//! From f32 to blocks: scales that make the squared error small.

use super::QuantType;
use crate::simd::{Level, multiversion, sum_lanes};
use half::f16;

/// Quantises whole blocks of `x` into `out`. Q8_0, Q6_K and Q4_K can be made, and blocks behind a head; the other layouts
/// are only read. A block
/// that holds a number that is none becomes NaN as a whole, so that damage stays visible.
///
/// # Panics
/// For another layout, or when `out` is not what [`QuantType::bytes_of`] says for `x`.
pub fn quantise(kind: QuantType, x: &[f32], out: &mut [u8]) {
    assert_eq!(
        kind.bytes_of(x.len()),
        Some(out.len()),
        "blocks of {}",
        kind.name()
    );
    if let QuantType::Group { .. } = kind {
        let blocks = x.chunks_exact(kind.block_len());
        for (x, out) in blocks.zip(out.chunks_exact_mut(kind.block_bytes())) {
            super::group::quantise(kind, x, out);
        }
        return;
    }
    quantise_at(Level::detect(), kind, x, out);
}

// No sum below depends on the level: lanes are added in a fixed order and nothing is fused.
multiversion! { fn quantise_at(kind: QuantType, x: &[f32], out: &mut [u8]) = quantise_body }

#[inline(always)]
fn quantise_body<const FMA: bool>(kind: QuantType, x: &[f32], out: &mut [u8]) {
    let blocks = x
        .chunks_exact(kind.block_len())
        .zip(out.chunks_exact_mut(kind.block_bytes()));
    for (x, out) in blocks {
        match kind {
            QuantType::Q8_0 => q8_0(x, out),
            QuantType::Q6K => q6_k(x, out),
            QuantType::Q4K => q4_k(x, out),
            _ => unreachable_layout(kind),
        }
        if !x.iter().all(|x| x.is_finite()) {
            let at = if kind == QuantType::Q6K { 208 } else { 0 };
            out[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
        }
    }
}

#[expect(
    clippy::panic,
    reason = "documented: the caller chooses among those that can be made"
)]
fn unreachable_layout(kind: QuantType) {
    panic!("{} is only read", kind.name());
}

/// A half-precision number's bytes; what is too large becomes the largest.
fn half_bytes(x: f32) -> ([u8; 2], f32) {
    let h = f16::from_f32(x.clamp(-65504.0, 65504.0));
    (h.to_le_bytes(), h.to_f32())
}

#[inline(always)]
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

#[inline(always)]
fn q8_0(x: &[f32], out: &mut [u8]) {
    let largest = x.iter().fold(0f32, |a, b| a.max(b.abs()));
    let (bytes, d) = half_bytes(largest / 127.0);
    out[..2].copy_from_slice(&bytes);
    let inv = inverse(d);
    for (q, x) in out[2..].iter_mut().zip(x) {
        *q = (x * inv).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
    }
}

/// Squared error of `x` against `scale * round(x / scale)` inside -32..=31, each weighted by `x^2`, and the scale that
/// fits those integers best.
#[inline(always)]
fn fit_signed(x: &[f32], scale: f32) -> (f32, f32) {
    let inv = inverse(scale);
    let (mut wxq, mut wqq) = ([0f32; 8], [0f32; 8]);
    for x in x.as_chunks::<8>().0 {
        for l in 0..8 {
            let q = (x[l] * inv).round_ties_even().clamp(-32.0, 31.0);
            let w = x[l] * x[l];
            wxq[l] += w * x[l] * q;
            wqq[l] += w * q * q;
        }
    }
    let (wxq, wqq) = (sum_lanes(wxq), sum_lanes(wqq));
    let best = wxq * inverse(wqq);
    // What the error keeps of sum w x^2, up to a constant, at the best scale.
    (-wxq * best, best)
}

#[inline(always)]
fn q6_k(x: &[f32], out: &mut [u8]) {
    let mut scales = [0f32; 16];
    for (s, x) in scales.iter_mut().zip(x.chunks_exact(16)) {
        // The largest value lies near the end of the range that has one more step: -32.
        let largest = x.iter().fold(0f32, |a, b| if b.abs() > a.abs() { *b } else { a });
        let mut best = (f32::INFINITY, 0.0);
        for step in -4i8..=4 {
            let fit = fit_signed(x, largest / (-32.0 + 0.25 * f32::from(step)));
            if fit.0 < best.0 {
                best = fit;
            }
        }
        *s = best.1;
    }
    let largest = scales
        .iter()
        .fold(0f32, |a, b| if b.abs() > a.abs() { *b } else { a });
    let (bytes, d) = half_bytes(largest / -128.0);
    out[208..].copy_from_slice(&bytes);
    let inv = inverse(d);
    let mut q = [0u8; 256];
    for (g, x) in x.chunks_exact(16).enumerate() {
        let s = (scales[g] * inv).round_ties_even().clamp(-128.0, 127.0);
        out[192 + g] = s as i8 as u8;
        let inv = inverse(d * s);
        for (q, x) in q[g * 16..].iter_mut().zip(x) {
            *q = ((x * inv).round_ties_even().clamp(-32.0, 31.0) + 32.0) as u8;
        }
    }
    for part in 0..2 {
        let q = &q[part * 128..(part + 1) * 128];
        for l in 0..32 {
            out[part * 64 + l] = (q[l] & 15) | ((q[l + 64] & 15) << 4);
            out[part * 64 + 32 + l] = (q[l + 32] & 15) | ((q[l + 96] & 15) << 4);
            out[128 + part * 32 + l] =
                (q[l] >> 4) | ((q[l + 32] >> 4) << 2) | ((q[l + 64] >> 4) << 4) | ((q[l + 96] >> 4) << 6);
        }
    }
}

/// The scale and minimum (both at least 0) that fit `x` with `scale * q - min`, `q` in 0..=15.
#[inline(always)]
fn fit_affine(x: &[f32]) -> (f32, f32) {
    let low = x.iter().fold(0f32, |a, b| a.min(*b));
    let high = x.iter().fold(low, |a, b| a.max(*b));
    if high <= low {
        // All equal and not above zero: the minimum alone says it.
        return (0.0, -low);
    }
    // Large weights matter more; the mean keeps small ones from counting nothing.
    let mean = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    let mut best = (f32::INFINITY, (high - low) / 15.0, -low);
    for step in 0i8..10 {
        let inv = (14.0 + 0.2 * f32::from(step)) / (high - low);
        let mut sums = [[0f32; 8]; 5];
        for x in x.as_chunks::<8>().0 {
            for l in 0..8 {
                let x = x[l];
                let q = ((x - low) * inv).round_ties_even().clamp(0.0, 15.0);
                let w = mean + x.abs();
                sums[0][l] += w;
                sums[1][l] += w * q;
                sums[2][l] += w * q * q;
                sums[3][l] += w * x;
                sums[4][l] += w * x * q;
            }
        }
        let [w0, wq, wqq, wx, wxq] = [
            sum_lanes(sums[0]),
            sum_lanes(sums[1]),
            sum_lanes(sums[2]),
            sum_lanes(sums[3]),
            sum_lanes(sums[4]),
        ];
        // Least squares for x = a q + b; without b where it would be above zero, or where all q are the same.
        let det = w0 * wqq - wq * wq;
        let (mut a, mut b) = (0.0, 0.0);
        let several = det > 1e-5 * w0 * wqq;
        if several {
            a = (w0 * wxq - wx * wq) / det;
            b = (wqq * wx - wq * wxq) / det;
        }
        if !several || b > 0.0 {
            (a, b) = (wxq * inverse(wqq), 0.0);
        }
        if a <= 0.0 {
            continue;
        }
        let (inv, mut errors) = (1.0 / a, [0f32; 8]);
        for x in x.as_chunks::<8>().0 {
            for l in 0..8 {
                let q = ((x[l] - b) * inv).round_ties_even().clamp(0.0, 15.0);
                let e = a * q + b - x[l];
                errors[l] += (mean + x[l].abs()) * e * e;
            }
        }
        let error = sum_lanes(errors);
        if error < best.0 {
            best = (error, a, -b);
        }
    }
    (best.1, best.2)
}

#[inline(always)]
fn q4_k(x: &[f32], out: &mut [u8]) {
    let mut fits = [(0f32, 0f32); 8];
    for (f, x) in fits.iter_mut().zip(x.chunks_exact(32)) {
        *f = fit_affine(x);
    }
    let most = |f: fn(&(f32, f32)) -> f32| fits.iter().map(f).fold(0f32, f32::max);
    let (d_bytes, d) = half_bytes(most(|f| f.0) / 63.0);
    let (m_bytes, dmin) = half_bytes(most(|f| f.1) / 63.0);
    out[..2].copy_from_slice(&d_bytes);
    out[2..4].copy_from_slice(&m_bytes);
    let (inv_d, inv_m) = (inverse(d), inverse(dmin));
    out[4..16].fill(0);
    let mut q = [0u8; 256];
    for (j, x) in x.chunks_exact(32).enumerate() {
        let s = (fits[j].0 * inv_d).round_ties_even().clamp(0.0, 63.0) as u8;
        let m = (fits[j].1 * inv_m).round_ties_even().clamp(0.0, 63.0) as u8;
        if j < 4 {
            out[4 + j] |= s;
            out[8 + j] |= m;
        } else {
            out[8 + j] |= (s & 15) | ((m & 15) << 4);
            out[j] |= (s >> 4) << 6;
            out[4 + j] |= (m >> 4) << 6;
        }
        let (inv, min) = (inverse(d * f32::from(s)), dmin * f32::from(m));
        for (q, x) in q[j * 32..].iter_mut().zip(x) {
            *q = ((x + min) * inv).round_ties_even().clamp(0.0, 15.0) as u8;
        }
    }
    for piece in 0..4 {
        for l in 0..32 {
            out[16 + piece * 32 + l] = q[piece * 64 + l] | (q[piece * 64 + 32 + l] << 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::tests::random;
    use crate::quant::Blocks;

    fn round_trip(kind: QuantType, x: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0xAA; kind.bytes_of(x.len()).unwrap()];
        quantise(kind, x, &mut bytes);
        let mut y = vec![0f32; x.len()];
        Blocks::new(kind, &bytes).unwrap().dequantise(0, &mut y);
        y
    }

    /// Root mean square of the difference over that of `x`.
    fn error(kind: QuantType, x: &[f32]) -> f64 {
        let square = |v: f32| f64::from(v) * f64::from(v);
        let y = round_trip(kind, x);
        let difference: f64 = x.iter().zip(&y).map(|(x, y)| square(x - y)).sum();
        (difference / x.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
    }

    /// About normal numbers: a sum of uniform ones.
    fn normal(seed: u64, n: usize) -> Vec<f32> {
        let parts: Vec<_> = (0..8).map(|i| random(seed * 8 + i, n)).collect();
        (0..n)
            .map(|i| parts.iter().map(|p| p[i]).sum::<f32>() * 0.02)
            .collect()
    }

    #[test]
    fn errors_are_as_small_as_the_bits_allow() {
        let x = normal(5, 64 * 256);
        for (kind, most) in [
            (QuantType::Q8_0, 0.007),
            (QuantType::Q6K, 0.023),
            (QuantType::Q4K, 0.085),
        ] {
            let e = error(kind, &x);
            assert!(e < most && e > most / 4.0, "{kind:?}: {e}");
            let far: Vec<f32> = x.iter().map(|x| x * 0.3 + 0.05).collect();
            assert!(
                error(kind, &far) < most,
                "{kind:?} with a mean: {}",
                error(kind, &far)
            );
        }
    }

    #[test]
    fn every_value_is_within_a_step() {
        let x = normal(9, 4 * 256);
        for (kind, group, steps) in [
            (QuantType::Q8_0, 32, 254.0),
            (QuantType::Q6K, 16, 52.0),
            (QuantType::Q4K, 32, 10.0),
        ] {
            for (x, y) in x.chunks(group).zip(round_trip(kind, &x).chunks(group)) {
                let low = x.iter().fold(0f32, |a, b| a.min(*b));
                let high = x.iter().fold(0f32, |a, b| a.max(*b));
                for (x, y) in x.iter().zip(y) {
                    assert!(
                        (x - y).abs() <= (high - low) / steps * 1.01,
                        "{kind:?}: {y} for {x} in {low}..{high}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_level_makes_the_same_blocks() {
        let x = normal(3, 8 * 256);
        for kind in [QuantType::Q8_0, QuantType::Q6K, QuantType::Q4K] {
            let run = |level| {
                let mut bytes = vec![0; kind.bytes_of(x.len()).unwrap()];
                quantise_at(level, kind, &x, &mut bytes);
                bytes
            };
            for level in Level::all() {
                assert_eq!(run(level), run(Level::Portable), "{kind:?} {level:?}");
            }
        }
    }

    #[test]
    fn special_blocks() {
        for kind in [QuantType::Q8_0, QuantType::Q6K, QuantType::Q4K] {
            assert_eq!(round_trip(kind, &[0.0; 256]), [0.0; 256]);
            for x in [0.7f32, -0.7] {
                for y in round_trip(kind, &[x; 256]) {
                    assert!((y - x).abs() < 0.01, "{kind:?}: {y} for {x}");
                }
            }
            let mut spike = [0.001f32; 256];
            spike[40] = 50.0;
            assert!((round_trip(kind, &spike)[40] - 50.0).abs() < 0.6, "{kind:?}");
            for bad in [f32::NAN, f32::INFINITY] {
                spike[40] = bad;
                assert!(round_trip(kind, &spike)[40].is_nan(), "{kind:?}");
            }
        }
    }
}
