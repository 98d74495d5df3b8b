//! Normalised patches in the order that the vision towers take.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::frames::Frames;

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
    let unit = c.patch * c.merge;
    if f.count == 0
        || f.height == 0
        || f.width == 0
        || !f.height.is_multiple_of(unit)
        || !f.width.is_multiple_of(unit)
    {
        return Err(Error::range(
            "frames",
            format!(
                "{} of {} x {}; sides must be multiples of {unit}",
                f.count, f.width, f.height
            ),
        ));
    }
    let (t, h, w) = (
        f.count.div_ceil(c.temporal),
        f.height / c.patch,
        f.width / c.patch,
    );
    let cols = 3 * c.temporal * c.patch * c.patch;
    let table: Vec<[f32; 256]> = (0..3)
        .map(|ch| std::array::from_fn(|v| (v as f32 * (1.0 / 255.0) - c.mean[ch]) / c.std[ch]))
        .collect();
    let mut data = vec![0.0; t * h * w * cols];
    // Each pair of frames is a part of its own, so the threads share them.
    data.par_chunks_exact_mut(h * w * cols)
        .enumerate()
        .for_each(|(pair, rows)| {
            for (place, patch) in rows.chunks_exact_mut(cols).enumerate() {
                let (block, inner) = (place / (c.merge * c.merge), place % (c.merge * c.merge));
                let (block_row, block_col) = (block / (w / c.merge), block % (w / c.merge));
                let top = (block_row * c.merge + inner / c.merge) * c.patch;
                let left = (block_col * c.merge + inner % c.merge) * c.patch;
                for (line, out) in patch.chunks_exact_mut(c.patch).enumerate() {
                    let (row, plane) = (line % c.patch, line / c.patch);
                    let (frame, ch) = (plane % c.temporal, plane / c.temporal);
                    let frame = (pair * c.temporal + frame).min(f.count - 1);
                    let start = ((frame * f.height + top + row) * f.width + left) * 3;
                    let pixels = f.data[start..start + 3 * c.patch].as_chunks::<3>().0;
                    for (x, pixel) in out.iter_mut().zip(pixels) {
                        *x = table[ch][usize::from(pixel[ch])];
                    }
                }
            }
        });
    Ok(Patches {
        grid_thw: [t, h, w],
        cols,
        data,
    })
}
