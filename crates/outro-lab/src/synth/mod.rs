//! A seeded audio-visual world, rendered to short videos with questions about them.
//!
//! Coloured shapes appear, move, change, collide and leave; every shape has a sound that it makes when it appears, and
//! tracks are right, shifted in time, another clip's, empty or missing. One seed gives the same scenes, frames, samples
//! and questions everywhere.

mod files;
mod picture;
mod questions;
pub(crate) mod rng;
mod sound;
mod stream;
mod world;

use outro_media::{Frames, VideoInfo};
use serde::Serialize;

pub use files::{Report, Set, write};
pub use questions::{Needs, Question, Task};
pub use stream::write_tensors;
pub use world::{Colour, Deed, FPS, Level, Noise, Object, SIDE, SLOTS, Scene, Shape, Sound, Track};

pub(crate) use rng::Rng;

/// A clip with its questions.
#[derive(Clone, Debug, Serialize)]
pub struct Clip {
    /// Its number in its set.
    pub index: u64,
    /// What happens.
    pub scene: Scene,
    /// What is asked.
    pub questions: Vec<Question>,
    #[serde(skip)]
    sound_seed: u64,
}

impl Clip {
    /// Clip `index` of the set `seed`.
    pub fn draw(seed: u64, index: u64, level: Level) -> Self {
        let mut rng = Rng::new(seed, index);
        let scene = Scene::draw(&mut rng, level);
        let questions = questions::questions(&scene, &mut rng, level);
        Self {
            index,
            scene,
            questions,
            sound_seed: rng.next(),
        }
    }

    /// What a probe would say of its file.
    pub fn info() -> VideoInfo {
        VideoInfo {
            codec: "none".into(),
            width: SIDE,
            height: SIDE,
            fps: FPS as f64,
            frames: SLOTS * FPS,
            duration: SLOTS as f64,
        }
    }

    /// Frames by number, of `SLOTS * FPS`, each `SIDE` x `SIDE`.
    pub fn frames(&self, numbers: impl Iterator<Item = usize>) -> Frames {
        picture::frames(&self.scene, numbers.map(|n| n as f64 / FPS as f64))
    }

    /// The sound, mono at 16,000 samples a second; empty where the clip has no track.
    pub fn samples(&self) -> Vec<f32> {
        sound::samples(&self.scene, &mut Rng::new(self.sound_seed, self.index))
    }
}
