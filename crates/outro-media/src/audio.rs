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
    (0..count)
        .map(|i| {
            let (at, p) = ((i * from / to) as i64, i * from % to);
            let filter = &mut filters[p as usize];
            if filter.is_empty() {
                *filter = phase(p);
            }
            let first = at - half + 1;
            let skip = (-first).max(0) as usize;
            let start = first.max(0) as usize;
            let available = samples.len().saturating_sub(start);
            filter[skip.min(taps)..]
                .iter()
                .zip(&samples[start.min(samples.len())..start + available.min(taps)])
                .map(|(w, x)| w * x)
                .sum()
        })
        .collect()
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
}
