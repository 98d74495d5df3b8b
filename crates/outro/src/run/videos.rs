//! Videos that go through the tower while their frames are decoded, so that their patches are never held together.

use std::time::{Duration, Instant};

use outro_media::Patches;

use crate::compute::encoder::{PATCHES, TowerRun};
use crate::compute::nn::{Mat, ops};
use crate::error::{Error, Result};
use crate::prompt::inputs::Pixels;
use crate::prompt::prepare::TakePatches;
use crate::run::model::Model;
use crate::run::strategy::Noise;
use crate::spec::anyres::TokenLayout;

/// Encodes videos as their patches come, in the groups in which the tower takes whole ones, so with the same bits.
pub(crate) struct Videos<'a> {
    model: &'a Model,
    /// What is put on their patches.
    noise: Option<&'a Noise>,
    /// Gets the patches that are encoded, of all videos.
    progress: &'a mut dyn FnMut(usize) -> Result<()>,
    /// Tokens of those that are over, then what is added to them behind the first decoder layers.
    all: Vec<Mat>,
    /// Their patches.
    over: usize,
    run: Option<Run<'a>>,
    /// Time in which the tower ran.
    busy: Duration,
}

/// The video that is read.
struct Run<'a> {
    tower: TowerRun<'a>,
    grid: [usize; 3],
    /// Patches that are encoded.
    done: usize,
}

impl<'a> Videos<'a> {
    pub(crate) fn new(
        model: &'a Model,
        noise: Option<&'a Noise>,
        progress: &'a mut dyn FnMut(usize) -> Result<()>,
    ) -> Self {
        let deep = model.config().vision.as_ref().map_or(0, |v| v.deepstack.len());
        Self {
            all: vec![Mat::empty(model.config().text.hidden); 1 + deep],
            model,
            noise,
            progress,
            over: 0,
            run: None,
            busy: Duration::ZERO,
        }
    }

    /// Tokens of all videos, what is added to them behind the first decoder layers, and the seconds in which the tower ran.
    pub(crate) fn finish(self) -> (Vec<Mat>, f64) {
        (self.all, self.busy.as_secs_f64())
    }
}

fn nothing_begun() -> Error {
    Error::input("pixel_values_videos", "came before their grid")
}

impl TakePatches for Videos<'_> {
    fn at_once(&self) -> usize {
        PATCHES
    }

    fn begin(&mut self, grid: [usize; 3]) -> Result<()> {
        let config = self.model.config();
        let (Some(tower), Some(v)) = (self.model.vision(), &config.vision) else {
            let problem = "given, and this model has no vision tower";
            return Err(Error::input("pixel_values_videos", problem));
        };
        let [_, h, w] = grid;
        if [h, w].iter().any(|n| *n == 0 || n % v.merge != 0) {
            let problem = format!(
                "holds {grid:?}; height and width must be multiples of {}",
                v.merge
            );
            return Err(Error::input("video_grid_thw", problem));
        }
        self.run = Some(Run {
            tower: tower.begin([h, w], v.merge)?,
            grid,
            done: 0,
        });
        Ok(())
    }

    fn take(&mut self, patches: Patches) -> Result<()> {
        let Some(v) = &self.model.config().vision else {
            return Err(nothing_begun());
        };
        let run = self.run.as_mut().ok_or_else(nothing_begun)?;
        let since = Instant::now();
        let mut pixels = Pixels::default();
        let [steps, h, w] = patches.grid_thw;
        pixels.push(patches.grid_thw, patches.cols, patches.data);
        pixels.validate("pixel_values_videos", "video_grid_thw", v, v.merge)?;
        if [h, w] != run.grid[1..] {
            let problem = format!("has steps of {h} x {w}, its video has {:?}", run.grid);
            return Err(Error::input("video_grid_thw", problem));
        }
        if let Some(noise) = self.noise {
            noise.on_video(&mut pixels, self.over + run.done, v);
        }
        run.tower.push(&pixels.data);
        run.done += steps * h * w;
        self.busy += since.elapsed();
        (self.progress)(self.over + run.done)
    }

    fn end(&mut self, mask: &[bool]) -> Result<()> {
        let Some(v) = &self.model.config().vision else {
            return Err(nothing_begun());
        };
        let run = self.run.take().ok_or_else(nothing_begun)?;
        let made = run.tower.finish(&TokenLayout::video(v, run.grid))?;
        for (all, made) in self.all.iter_mut().zip(made) {
            all.append(if mask.is_empty() {
                made
            } else {
                ops::masked(&made, mask)
            });
        }
        self.over += run.done;
        Ok(())
    }
}
