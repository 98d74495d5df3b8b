//! Diffusion noise on media, as visual contrastive decoding takes it.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::prompt::inputs::{Inputs, Pixels};
use crate::run::model::{MediaEmbeds, Model};
use crate::run::random::Random;
use crate::spec::config::{Config, VisionConfig};

/// Diffusion noise on a request's media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Noise {
    /// Step of the schedule of 1000 at which media are taken, 0-based.
    pub steps: usize,
    /// Seed of the noise.
    pub seed: u64,
    /// Whether sound is distorted too (not in the paper).
    pub audio: bool,
}

impl Default for Noise {
    fn default() -> Self {
        Self {
            steps: 500,
            seed: 0,
            audio: false,
        }
    }
}

/// Told apart from the rows of other media.
const VIDEOS: u64 = 1 << 60;

impl Noise {
    /// What of the signal is left: `abar = product over t = 0 ..= steps of 1 - beta_t`, where `beta` goes from 1e-5 to 5e-3
    /// along a sigmoid over -6 to 6.
    pub fn signal(&self) -> f64 {
        let beta = |t: usize| {
            let x = -6.0 + 12.0 * t as f64 / 999.0;
            (5e-3 - 1e-5) / (1.0 + (-x).exp()) + 1e-5
        };
        (0..=self.steps).map(|t| 1.0 - beta(t)).product()
    }

    /// Inputs whose pixels (and log-mel values, where sound is distorted too) are `sqrt(abar) x + sqrt(1 - abar) eps`, eps
    /// standard normal. Frames of a video have noise of their own; an image's second copy, made because patches span
    /// two frames, has the first one's.
    pub fn on(&self, inputs: &Inputs, config: &Config) -> Inputs {
        let mut noisy = inputs.clone();
        let Some(vision) = &config.vision else {
            return noisy;
        };
        let area = vision.patch * vision.patch;
        let distort = |pixels: &mut Option<Pixels>, salt: u64, copies: usize| {
            if let Some(p) = pixels {
                self.distort(&mut p.data, (p.cols, 0), salt, area, copies);
            }
        };
        distort(&mut noisy.pixel_values, 0, vision.temporal);
        distort(&mut noisy.pixel_values_videos, VIDEOS, 1);
        if let Some(sound) = noisy.audio.as_mut().filter(|_| self.audio) {
            self.distort(&mut sound.data, (sound.mel_bins, 0), 1 << 61, 1, 1);
        }
        noisy
    }

    /// [`Noise::on`] for some patches of videos, of which `before` have gone before.
    pub(crate) fn on_video(&self, pixels: &mut Pixels, before: usize, vision: &VisionConfig) {
        let area = vision.patch * vision.patch;
        self.distort(&mut pixels.data, (pixels.cols, before), VIDEOS, area, 1);
    }

    /// Rows of `cols` numbers, behind `before` others, each with a random sequence of its own; `copies` stretches of `area` numbers share theirs.
    fn distort(&self, x: &mut [f32], (cols, before): (usize, usize), salt: u64, area: usize, copies: usize) {
        let signal = self.signal();
        let (keep, add) = (signal.sqrt() as f32, (1.0 - signal).sqrt() as f32);
        x.par_chunks_mut(cols.max(1)).enumerate().for_each(|(row, x)| {
            let mut random = Random::of(self.seed, salt | (before + row) as u64);
            for same in x.chunks_mut(area * copies) {
                let eps: Vec<f32> = (0..area.div_ceil(2)).flat_map(|_| random.normals()).collect();
                for x in same.chunks_mut(area) {
                    x.iter_mut()
                        .zip(&eps)
                        .for_each(|(x, eps)| *x = keep * *x + add * eps);
                }
            }
        });
    }
}

/// Media with noise on them, encoded once for each noise, whatever is asked about them.
#[derive(Default)]
pub struct NoisyMedia(Mutex<Vec<(Noise, Arc<MediaEmbeds>)>>);

impl NoisyMedia {
    /// What the towers make of the media of `inputs`, which must be the same at every call, with noise on them.
    ///
    /// # Errors
    /// As [`Model::encode`].
    pub fn encode(&self, model: &Model, inputs: &Inputs, noise: &Noise) -> Result<Arc<MediaEmbeds>> {
        self.made(noise, || {
            model.encode(&noise.on(inputs, model.config()), &mut |_| {})
        })
    }

    /// What was made for this noise, else what `make` makes.
    pub(crate) fn made(
        &self,
        noise: &Noise,
        make: impl FnOnce() -> Result<MediaEmbeds>,
    ) -> Result<Arc<MediaEmbeds>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, embeds)) = made.iter().find(|(n, _)| n == noise) {
            return Ok(Arc::clone(embeds));
        }
        let embeds = Arc::new(make()?);
        made.push((*noise, Arc::clone(&embeds)));
        Ok(embeds)
    }
}
