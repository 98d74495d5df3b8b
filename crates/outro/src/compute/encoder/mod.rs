//! The towers that turn patches and mel frames into rows for the decoder.

mod arrange;
mod audio;
mod block;
mod conv2d;
mod qformer;
mod vision;

pub(crate) use audio::AudioTower;
pub(crate) use vision::{PATCHES, TowerRun, VisionTower};

/// Epsilon of the audio tower's layer norms (the default of the layer that the reference uses).
const AUDIO_NORM_EPS: f32 = 1e-5;
