//! The log-mel spectrogram of Whisper's feature extractor with 128 bins.

use realfft::RealFftPlanner;

use super::resample::SAMPLE_RATE;

/// Mel bins.
pub const MEL_BINS: usize = 128;
/// Longest audio, in seconds; the feature extractor of Qwen2.5-Omni cuts what is longer.
pub const MAX_SECONDS: usize = 300;

/// Samples from one mel frame to the next.
pub const HOP: usize = 160;

const RATE: usize = SAMPLE_RATE as usize;
const WINDOW: usize = 400;
const FREQUENCIES: usize = WINDOW / 2 + 1;

/// A log-mel spectrogram `[128, frames]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mel {
    /// Frames of 10 ms that begin inside the audio.
    pub frames: usize,
    /// Row-major: one row a mel bin.
    pub data: Vec<f32>,
}

/// Log-mel of mono 16 kHz samples: as if they were padded with silence to 300 seconds, cut to the frames that begin
/// inside the audio. Samples after 300 seconds are ignored.
pub fn log_mel(samples: &[f32]) -> Mel {
    let limit = MAX_SECONDS * RATE;
    let samples = &samples[..samples.len().min(limit)];
    spectrogram(samples, limit, samples.len().div_ceil(HOP))
}

/// Log-mel of one of several sounds of which the longest has so many samples: filled up to it with silence, mirrored at
/// that end, cut to whole frames of 10 ms there and to those that begin inside this sound (Qwen3-Omni).
pub fn log_mel_together(samples: &[f32], longest: usize) -> Mel {
    let longest = longest.max(samples.len());
    spectrogram(samples, longest, samples.len().div_ceil(HOP).min(longest / HOP))
}

/// Log-mel in chunks of `frames` frames, each by itself and filled up with silence (Whisper's own 30 seconds are 3000).
pub fn log_mel_in_chunks(samples: &[f32], frames: usize) -> Mel {
    let chunks: Vec<Mel> = samples
        .chunks(frames.max(1) * HOP)
        .map(|chunk| spectrogram(chunk, frames * HOP, frames))
        .collect();
    let data = (0..MEL_BINS)
        .flat_map(|bin| {
            chunks
                .iter()
                .flat_map(move |c| &c.data[bin * frames..(bin + 1) * frames])
        })
        .copied()
        .collect();
    Mel {
        frames: chunks.len() * frames,
        data,
    }
}

/// As if `samples` were padded with silence to `limit` and mirrored there, cut to `frames` frames.
fn spectrogram(samples: &[f32], limit: usize, frames: usize) -> Mel {
    // The loudest frame sets the floor; windows centred a little after the end still reach into the audio.
    let computed = (frames + WINDOW / 2 / HOP + 1).min(limit / HOP);
    let sample = |i: isize| -> f64 {
        let mirrored = if i < 0 { -i } else { i } as usize;
        let mirrored = if mirrored >= limit {
            2 * (limit - 1) - mirrored
        } else {
            mirrored
        };
        samples.get(mirrored).copied().map_or(0.0, f64::from)
    };
    let window: Vec<f64> = (0..WINDOW)
        .map(|i| 0.5 - 0.5 * (2.0 * std::f64::consts::PI * i as f64 / WINDOW as f64).cos())
        .collect();
    let filters = filters();
    let fft = RealFftPlanner::<f64>::new().plan_fft_forward(WINDOW);
    let (mut input, mut spectrum) = (fft.make_input_vec(), fft.make_output_vec());
    let mut log = vec![0f32; MEL_BINS * computed];
    let mut loudest = f32::NEG_INFINITY;
    for t in 0..computed {
        let start = (t * HOP) as isize - (WINDOW / 2) as isize;
        for (i, (x, w)) in input.iter_mut().zip(&window).enumerate() {
            *x = sample(start + i as isize) * w;
        }
        if fft.process(&mut input, &mut spectrum).is_err() {
            // Only a buffer of the wrong length fails, and both were made by the plan.
            continue;
        }
        for (bin, (first, weights)) in filters.iter().enumerate() {
            let energy: f64 = weights
                .iter()
                .zip(&spectrum[*first..])
                .map(|(w, s)| w * s.norm_sqr())
                .sum();
            let value = energy.max(1e-10).log10() as f32;
            loudest = loudest.max(value);
            log[bin * computed + t] = value;
        }
    }
    let data = log
        .chunks_exact(computed.max(1))
        .flat_map(|row| &row[..frames])
        .map(|v| (v.max(loudest - 8.0) + 4.0) / 4.0)
        .collect();
    Mel { frames, data }
}

/// Slaney's triangular filters: for each bin the first frequency and the weights from there on.
fn filters() -> Vec<(usize, Vec<f64>)> {
    let step = 6.4f64.ln() / 27.0;
    let to_mel = |f: f64| {
        if f < 1000.0 {
            f * 3.0 / 200.0
        } else {
            15.0 + (f / 1000.0).ln() / step
        }
    };
    let to_hertz = |m: f64| {
        if m < 15.0 {
            m * 200.0 / 3.0
        } else {
            1000.0 * (step * (m - 15.0)).exp()
        }
    };
    let top = to_mel(RATE as f64 / 2.0);
    let edges: Vec<f64> = (0..MEL_BINS + 2)
        .map(|i| to_hertz(top * i as f64 / (MEL_BINS + 1) as f64))
        .collect();
    let frequency = |k: usize| k as f64 * RATE as f64 / WINDOW as f64;
    edges
        .windows(3)
        .map(|e| {
            let weight = |k: usize| {
                let f = frequency(k);
                ((f - e[0]) / (e[1] - e[0]))
                    .min((e[2] - f) / (e[2] - e[1]))
                    .max(0.0)
                    * 2.0
                    / (e[2] - e[0])
            };
            let first = (0..FREQUENCIES).find(|k| weight(*k) > 0.0).unwrap_or(0);
            let count = (first..FREQUENCIES).take_while(|k| weight(*k) > 0.0).count();
            (first, (first..first + count).map(weight).collect())
        })
        .collect()
}
