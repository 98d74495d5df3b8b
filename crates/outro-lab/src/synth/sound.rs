//! The sound track of a scene.

use outro_media::SAMPLE_RATE;

use super::rng::{Rng, sine};
use super::world::{Noise, SLOTS, Scene, Sound};

/// Amplitude of an ordinary sound; a loud one has four times as much (12 dB).
const LEVEL: f64 = 0.14;
/// Amplitude of the room's noise: above what AAC adds, so that a coded track and an uncoded one look the same.
const ROOM: f64 = 0.002;
/// Seconds of fading in and out.
const FADE: f64 = 0.01;

/// Mono samples at 16,000 a second; none where the scene has no track.
pub(super) fn samples(scene: &Scene, rng: &mut Rng) -> Vec<f32> {
    if scene.track == super::world::Track::None {
        return Vec::new();
    }
    let rate = f64::from(SAMPLE_RATE);
    let mut out: Vec<f64> = (0..SLOTS * SAMPLE_RATE as usize)
        .map(|i| rng.range(-ROOM, ROOM) + scene.hum * sine(100.0 * i as f64 / rate))
        .collect();
    for noise in &scene.noises {
        let first = (noise.at * rate) as usize;
        let count = (noise.seconds * rate) as usize;
        let amplitude = if noise.loud { LEVEL * 4.0 } else { LEVEL };
        for (i, place) in out.iter_mut().skip(first).take(count).enumerate() {
            let t = i as f64 / rate;
            let fade = (t / FADE).min((noise.seconds - t) / FADE).clamp(0.0, 1.0);
            *place += amplitude * fade * wave(noise, t, rng);
        }
    }
    out.into_iter().map(|x| x.clamp(-1.0, 1.0) as f32).collect()
}

fn wave(noise: &Noise, t: f64, rng: &mut Rng) -> f64 {
    match noise.sound {
        Sound::Beep => sine((500.0 + 400.0 * noise.pitch) * t),
        Sound::Chirp => {
            // The integral of a frequency that rises from `low` by 1.8 kHz over the sound.
            let low = 900.0 + 300.0 * noise.pitch;
            sine(low * t + 900.0 / noise.seconds * t * t)
        }
        Sound::Knock => {
            let since = t - (t / 0.12).floor() * 0.12;
            let decay = (1.0 - since / 0.06).max(0.0);
            1.6 * decay * decay * sine((110.0 + 50.0 * noise.pitch) * since)
        }
        Sound::Hiss => rng.range(-1.0, 1.0),
    }
}
