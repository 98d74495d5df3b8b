//! Normalised patches in the order that the vision towers take.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::picture::frames::Frames;

/// How frames are cut and normalised (preprocessor_config.json).
#[derive(Clone, Debug, PartialEq)]
pub struct PatchConfig {
    /// Pixels on a patch's side.
    pub patch: usize,
    /// Frames in a patch.
    pub temporal: usize,
    /// Patches on the side of a merged token.
    pub merge: usize,
    /// Mean of each channel, on the scale 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}

impl Default for PatchConfig {
    fn default() -> Self {
        Self {
            patch: 14,
            temporal: 2,
            merge: 2,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

/// Patches `[t * h * w, 3 * temporal * patch * patch]`: rows by frame pair, then block of merge x merge patches, then
/// patch in the block; columns by channel, frame, row, column.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// Patches in time, height and width.
    pub grid_thw: [usize; 3],
    /// Elements of a patch.
    pub cols: usize,
    /// Row-major elements.
    pub data: Vec<f32>,
}

/// Cuts frames into patches. The last frame is repeated until the count is a multiple of `temporal`.
///
/// # Errors
/// A size that is not a multiple of patch x merge, or no frames.
pub fn patches(f: &Frames, c: &PatchConfig) -> Result<Patches> {
    let mut cutter = PatchCutter::new(c, f.count);
    cutter.push(f)?;
    cutter.finish()
}

/// Elements that are allocated before frames have come: 4 GiB.
const MOST_AHEAD: usize = 1 << 30;

/// Cuts frames into patches as they come, so that a long video's frames are never held together.
#[derive(Clone, Debug)]
pub struct PatchCutter {
    config: PatchConfig,
    /// Each channel's normalised values.
    table: Vec<[f32; 256]>,
    expected: usize,
    /// Frames that wait for the rest of their patches: fewer than `temporal`.
    waiting: Frames,
    /// Temporal steps that are cut and were not given away.
    steps: usize,
    /// Temporal steps that were given away.
    given: usize,
    /// Longer than `steps` fill where more are expected.
    data: Vec<f32>,
}

impl PatchCutter {
    /// A cutter for about so many frames: memory for them is taken once.
    pub fn new(config: &PatchConfig, expected: usize) -> Self {
        let normal = |ch: usize, v: usize| (v as f32 * (1.0 / 255.0) - config.mean[ch]) / config.std[ch];
        Self {
            config: config.clone(),
            table: (0..3).map(|ch| std::array::from_fn(|v| normal(ch, v))).collect(),
            expected,
            waiting: Frames::default(),
            steps: 0,
            given: 0,
            data: Vec::new(),
        }
    }

    /// Takes further frames.
    ///
    /// # Errors
    /// A size that is not a multiple of patch x merge, or not that of the frames before.
    pub fn push(&mut self, f: &Frames) -> Result<()> {
        let unit = self.config.patch * self.config.merge;
        let size = [f.height, f.width];
        let before = [self.waiting.height, self.waiting.width];
        if f.count == 0 || size.iter().any(|n| *n == 0 || !n.is_multiple_of(unit)) {
            return Err(Error::range(
                "frames",
                format!(
                    "{} of {} x {}; sides must be multiples of {unit}",
                    f.count, f.width, f.height
                ),
            ));
        }
        if before == [0; 2] {
            (self.waiting.height, self.waiting.width) = (f.height, f.width);
            let steps = self.expected.div_ceil(self.config.temporal);
            self.data = vec![0.0; steps.saturating_mul(self.step()).min(MOST_AHEAD)];
        } else if before != size {
            let problem = format!(
                "of {} x {} after frames of {} x {}",
                f.width, f.height, before[1], before[0]
            );
            return Err(Error::range("frames", problem));
        }
        let mut rest = f.data.as_slice();
        let frame = f.height * f.width * 3;
        let whole = frame * self.config.temporal;
        if self.waiting.count > 0 {
            let missing = whole - self.waiting.data.len();
            let (first, after) = rest.split_at(missing.min(rest.len()));
            self.waiting.data.extend_from_slice(first);
            rest = after;
            if first.len() == missing {
                let filled = std::mem::take(&mut self.waiting.data);
                self.cut(&filled);
            }
        }
        let (filled, after) = rest.split_at(rest.len() / whole * whole);
        self.cut(filled);
        self.waiting.data.extend_from_slice(after);
        self.waiting.count = self.waiting.data.len() / frame;
        Ok(())
    }

    /// Gives the first `steps` temporal steps away, once as many are cut.
    pub fn drain(&mut self, steps: usize) -> Option<Patches> {
        if steps == 0 || self.steps < steps {
            return None;
        }
        let filled = steps * self.step();
        let rest = if self.data.len() > filled {
            self.data.split_off(filled)
        } else {
            Vec::with_capacity(filled)
        };
        self.steps -= steps;
        self.given += steps;
        let [h, w] = [self.waiting.height, self.waiting.width].map(|n| n / self.config.patch);
        Some(Patches {
            grid_thw: [steps, h, w],
            cols: self.cols(),
            data: std::mem::replace(&mut self.data, rest),
        })
    }

    /// The patches of all frames that were not given away, of none where all were. The last frame is repeated until the count is
    /// a multiple of `temporal`.
    ///
    /// # Errors
    /// No frames.
    pub fn finish(mut self) -> Result<Patches> {
        let [h, w] = [self.waiting.height, self.waiting.width];
        let frame = h * w * 3;
        if let Some(start) = self
            .waiting
            .data
            .len()
            .checked_sub(frame)
            .filter(|_| self.waiting.count > 0)
        {
            let mut filled = std::mem::take(&mut self.waiting.data);
            for _ in self.waiting.count..self.config.temporal {
                filled.extend_from_within(start..start + frame);
            }
            self.cut(&filled);
        }
        if self.steps + self.given == 0 {
            return Err(Error::range("frames", "there are none"));
        }
        self.data.truncate(self.steps * self.step());
        Ok(Patches {
            grid_thw: [self.steps, h / self.config.patch, w / self.config.patch],
            cols: self.cols(),
            data: self.data,
        })
    }

    /// Elements of a patch.
    fn cols(&self) -> usize {
        3 * self.config.temporal * self.config.patch * self.config.patch
    }

    /// Elements of a temporal step.
    fn step(&self) -> usize {
        self.waiting.height * self.waiting.width * 3 * self.config.temporal
    }

    /// Cuts whole temporal steps.
    fn cut(&mut self, frames: &[u8]) {
        let (height, width, cols, step) = (self.waiting.height, self.waiting.width, self.cols(), self.step());
        let done = self.steps * step;
        if self.data.len() < done + frames.len() {
            self.data.resize(done + frames.len(), 0.0);
        }
        self.steps += frames.len() / step;
        let (c, table) = (&self.config, &self.table);
        // The threads share bands of blocks: a single step, as it comes from a decoder, is enough for all of them.
        let band = c.merge * c.patch * width * 3 * c.temporal;
        let bands = height / (c.merge * c.patch);
        self.data[done..done + frames.len()]
            .par_chunks_exact_mut(band)
            .enumerate()
            .for_each(|(index, rows)| {
                let (from, block_row) = (&frames[index / bands * step..], index % bands);
                for (place, patch) in rows.chunks_exact_mut(cols).enumerate() {
                    let (block, inner) = (place / (c.merge * c.merge), place % (c.merge * c.merge));
                    let top = (block_row * c.merge + inner / c.merge) * c.patch;
                    let left = (block * c.merge + inner % c.merge) * c.patch;
                    for (plane, out) in patch.chunks_exact_mut(c.patch * c.patch).enumerate() {
                        let (frame, ch) = (plane % c.temporal, plane / c.temporal);
                        let table = &table[ch];
                        for (row, out) in out.chunks_exact_mut(c.patch).enumerate() {
                            let start = ((frame * height + top + row) * width + left) * 3;
                            let pixels = from[start..start + 3 * c.patch].as_chunks::<3>().0;
                            for (x, pixel) in out.iter_mut().zip(pixels) {
                                *x = table[usize::from(pixel[ch])];
                            }
                        }
                    }
                }
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_alike_however_they_come() {
        let (height, width, count) = (12, 8, 7);
        let data: Vec<u8> = (0..count * height * width * 3)
            .map(|i| (i * 7 % 251) as u8)
            .collect();
        let part = |from: usize, to: usize| Frames {
            count: to - from,
            height,
            width,
            data: data[from * height * width * 3..to * height * width * 3].to_vec(),
        };
        for temporal in [1, 2, 3] {
            let config = PatchConfig {
                patch: 2,
                temporal,
                merge: 2,
                ..PatchConfig::default()
            };
            let whole = patches(&part(0, count), &config).unwrap();
            assert_eq!(whole.grid_thw, [count.div_ceil(temporal), 6, 4]);
            assert_eq!(
                whole.data.len(),
                whole.grid_thw.iter().product::<usize>() * whole.cols
            );
            // By the definition: row by step, block, place in it; column by channel, frame, row, column.
            for (i, x) in whole.data.iter().enumerate() {
                let (row, col) = (i / whole.cols, i % whole.cols);
                let (step, block, place) = (row / 24, row % 24 / 4, row % 4);
                let y = (block / 2 * 2 + place / 2) * 2 + col / 2 % 2;
                let left = (block % 2 * 2 + place % 2) * 2 + col % 2;
                let (ch, frame) = (col / 4 / temporal, step * temporal + col / 4 % temporal);
                let pixel = data[((frame.min(count - 1) * height + y) * width + left) * 3 + ch];
                let normal = (f32::from(pixel) * (1.0 / 255.0) - config.mean[ch]) / config.std[ch];
                assert_eq!(*x, normal);
            }
            // More and fewer than expected.
            for (expected, cuts) in [(7, &[1, 2, 3, 4, 5, 6][..]), (0, &[1, 5]), (50, &[2, 3])] {
                let mut cutter = PatchCutter::new(&config, expected);
                let mut from = 0;
                for to in cuts.iter().chain([&count]) {
                    cutter.push(&part(from, *to)).unwrap();
                    from = *to;
                }
                assert_eq!(cutter.finish().unwrap(), whole);
            }
            // Given away in groups.
            for (group, expected) in [(1, 0), (2, 2 * temporal), (2, 50), (9, 7)] {
                let mut cutter = PatchCutter::new(&config, expected);
                let (mut steps, mut data) = (0, Vec::new());
                for from in 0..count {
                    cutter.push(&part(from, from + 1)).unwrap();
                    while let Some(given) = cutter.drain(group) {
                        assert_eq!(given.grid_thw[0], group);
                        steps += group;
                        data.extend(given.data);
                    }
                }
                let rest = cutter.finish().unwrap();
                data.extend(rest.data);
                assert_eq!(
                    (steps + rest.grid_thw[0], data),
                    (whole.grid_thw[0], whole.data.clone())
                );
            }
            assert!(PatchCutter::new(&config, 1).finish().is_err());
            let mut cutter = PatchCutter::new(&config, 2);
            cutter.push(&part(0, 1)).unwrap();
            let wide = Frames {
                height: width,
                width: height,
                ..part(0, 1)
            };
            assert!(cutter.push(&wide).is_err(), "frames of two sizes");
        }
    }
}
