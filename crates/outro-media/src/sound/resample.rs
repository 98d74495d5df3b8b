//! Mono at 16 kHz: channels averaged first, then a windowed-sinc resampler about as sharp as soxr's high quality.

/// Samples a second of everything that the models hear.
pub const SAMPLE_RATE: u32 = 16_000;

/// Averages interleaved channels.
pub(crate) fn mono(interleaved: &[f32], channels: usize) -> Vec<f32> {
    if channels <= 1 {
        return interleaved.to_vec();
    }
    interleaved
        .chunks_exact(channels)
        .map(|frame| frame.iter().sum::<f32>() / channels as f32)
        .collect()
}

/// Zero crossings on either side of the filter's centre.
const CROSSINGS: usize = 90;
/// Where the filter has fallen to half, as a share of the lower Nyquist frequency.
const CUTOFF: f64 = 0.9565;
/// Shape of the Kaiser window: stopband below -120 dB.
const BETA: f64 = 12.3;

/// Resamples mono audio; the result has `ceil(samples * to / from)` samples.
pub fn resample(samples: &[f32], from: u32, to: u32) -> Vec<f32> {
    if from == to || samples.is_empty() || from == 0 || to == 0 {
        return samples.to_vec();
    }
    let divisor = gcd(from, to);
    let (from, to) = (u64::from(from / divisor), u64::from(to / divisor));
    // In units of input samples: when the rate falls, the filter widens with it.
    let stretch = (from as f64 / to as f64).max(1.0);
    let half = (CROSSINGS as f64 * stretch).ceil() as i64;
    let taps = 2 * half as usize;
    let scale = CUTOFF / stretch;
    let window_scale = 1.0 / bessel(BETA);
    let phase = |p: u64| -> Vec<f32> {
        let offset = p as f64 / to as f64;
        let weights: Vec<f64> = (0..taps)
            .map(|k| {
                let x = (k as i64 - half + 1) as f64 - offset;
                let edge = x / half as f64;
                let window = if edge.abs() >= 1.0 {
                    0.0
                } else {
                    bessel(BETA * (1.0 - edge * edge).sqrt()) * window_scale
                };
                let a = std::f64::consts::PI * x * scale;
                let sinc = if a.abs() < 1e-12 { 1.0 } else { a.sin() / a };
                sinc * scale * window
            })
            .collect();
        weights.into_iter().map(|w| w as f32).collect()
    };
    // Filters are made once for each fraction of an input sample that occurs, and there are `to` of them.
    let mut filters: Vec<Vec<f32>> = Vec::new();
    filters.resize_with(to as usize, Vec::new);
    let count = (samples.len() as u64 * to).div_ceil(from);
    let mut out = Vec::with_capacity(count as usize);
    let mut next = 0;
    while next < count {
        let group: [(i64, usize); TOGETHER] = std::array::from_fn(|j| {
            let i = next + j as u64;
            ((i * from / to) as i64 - half + 1, (i * from % to) as usize)
        });
        for (_, p) in group {
            if filters[p].is_empty() {
                filters[p] = phase(p as u64);
            }
        }
        let inside = |(first, _): &(i64, usize)| {
            usize::try_from(*first).is_ok_and(|first| first + taps <= samples.len())
        };
        if group.iter().all(inside) {
            let pair = |(first, p): (i64, usize)| {
                let start = first.max(0) as usize;
                (&filters[p][..taps], &samples[start..start + taps])
            };
            out.extend(dots(group.map(pair)));
        } else {
            // What lies outside is silence.
            out.extend(group.map(|(first, p)| -> f32 {
                let (skip, start) = ((-first).max(0) as usize, first.max(0) as usize);
                let heard = samples.get(start..).unwrap_or_default();
                let weights = filters[p][skip.min(taps)..].iter();
                weights.zip(heard).map(|(w, x)| w * x).sum()
            }));
        }
        next += TOGETHER as u64;
    }
    out.truncate(count as usize);
    out
}

/// Samples that are computed at once: each is a sum in one order, so that only another's can be added meanwhile.
const TOGETHER: usize = 4;

/// Sums of products, each as `Iterator::sum` adds it up.
fn dots([a, b, c, d]: [(&[f32], &[f32]); TOGETHER]) -> [f32; TOGETHER] {
    let mut sums = [-0.0; TOGETHER];
    let pairs = a.0.iter().zip(a.1).zip(b.0.iter().zip(b.1));
    let more = c.0.iter().zip(c.1).zip(d.0.iter().zip(d.1));
    for ((a, b), (c, d)) in pairs.zip(more) {
        for (sum, (w, x)) in sums.iter_mut().zip([a, b, c, d]) {
            *sum += w * x;
        }
    }
    sums
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Modified Bessel function of the first kind, order zero.
fn bessel(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (1.0, 1.0, 1.0);
    while term > 1e-12 * sum {
        term *= (x / (2.0 * k)).powi(2);
        sum += term;
        k += 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_keeps_its_pitch_and_level() {
        for from in [8_000u32, 22_050, 44_100, 48_000] {
            let tone = |rate: u32, n: usize| {
                (0..n).map(move |i| {
                    (2.0 * std::f64::consts::PI * 1000.0 * i as f64 / f64::from(rate)).sin() as f32
                })
            };
            let input: Vec<f32> = tone(from, from as usize).collect();
            let out = resample(&input, from, SAMPLE_RATE);
            assert_eq!(out.len(), 16_000);
            let worst = out
                .iter()
                .zip(tone(SAMPLE_RATE, 16_000))
                .skip(1000)
                .take(14_000)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < 1e-4, "{from}: {worst}");
        }
        // Above the new Nyquist frequency nothing is left.
        let high: Vec<f32> = (0..48_000)
            .map(|i| (2.0 * std::f64::consts::PI * 9000.0 * f64::from(i) / 48_000.0).sin() as f32)
            .collect();
        assert!(
            resample(&high, 48_000, 16_000)[500..15_000]
                .iter()
                .all(|x| x.abs() < 1e-4)
        );
        assert_eq!(resample(&[], 44_100, 16_000), [0f32; 0]);
    }

    #[test]
    fn sums_are_those_of_one_after_another() {
        let row = |seed: usize| -> Vec<f32> {
            (0..498)
                .map(|i| ((i * seed) as f32).sin() / (1 + i) as f32)
                .collect()
        };
        let rows: Vec<(Vec<f32>, Vec<f32>)> = (1..5).map(|i| (row(i), row(7 * i))).collect();
        let got = dots(std::array::from_fn(|i| (&rows[i].0[..], &rows[i].1[..])));
        for (got, (w, x)) in got.iter().zip(&rows) {
            let plain: f32 = w.iter().zip(x).map(|(w, x)| w * x).sum();
            assert_eq!(got.to_bits(), plain.to_bits());
        }
    }
}
