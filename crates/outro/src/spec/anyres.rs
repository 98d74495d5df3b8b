//! Pictures in parts: how many tokens a picture becomes where each part goes through the tower alone
//! (LLaVA-OneVision, `anyres` in its code). No weights.

use std::ops::Range;

use crate::spec::config::{AnyRes, VisionConfig};

/// How the parts of one picture become rows of tokens. The whole picture, small, comes before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TileGrid {
    /// Tiles down and across.
    pub(crate) grid: [usize; 2],
    /// Rows and columns of patches that hold picture, not padding.
    pub(crate) picture: [Range<usize>; 2],
    /// Rows and columns of tokens that they become; each row is followed by a newline.
    pub(crate) tokens: [usize; 2],
}

/// How a picture's patches become tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenLayout {
    /// Each frame's grid, row by row.
    Grid([usize; 3]),
    /// The whole picture, and one newline.
    Whole,
    /// The whole picture, then rows of its parts.
    Tiles(TileGrid),
    /// Grids of frames, and one newline after the last.
    Frames([usize; 3]),
}

impl TokenLayout {
    /// Of an image of `size` [height, width] (which only pictures in parts need).
    pub(crate) fn image(v: &VisionConfig, [t, h, w]: [usize; 3], size: Option<[usize; 2]>) -> Self {
        match (&v.anyres, size) {
            (Some(_), _) if t == 1 => Self::Whole,
            (Some(tiles), Some(size)) => Self::Tiles(tiles.parts(h, size)),
            _ => Self::Grid([t, h / v.image_merge, w / v.image_merge]),
        }
    }

    /// Of a video.
    pub(crate) fn video(v: &VisionConfig, [t, h, w]: [usize; 3]) -> Self {
        match v.anyres {
            // Half as many rows and columns of patches, rounded up.
            Some(_) => Self::Frames([t, h.div_ceil(2), w.div_ceil(2)]),
            None => Self::Grid([t, h / v.merge, w / v.merge]),
        }
    }

    /// Where each token is: frame, row and column; `None` for a newline. `side` is the patches on a part's side. Rows of
    /// parts are counted on after those of the whole picture.
    pub(crate) fn cells(&self, side: usize) -> Vec<Option<[usize; 3]>> {
        let grid = |[t, h, w]: [usize; 3]| {
            (0..t).flat_map(move |t| (0..h).flat_map(move |y| (0..w).map(move |x| Some([t, y, x]))))
        };
        let mut out: Vec<_> = match self {
            Self::Grid(g) | Self::Frames(g) => grid(*g).collect(),
            Self::Whole | Self::Tiles(_) => grid([1, side, side]).collect(),
        };
        match self {
            Self::Grid(_) => {}
            Self::Whole | Self::Frames(_) => out.push(None),
            Self::Tiles(p) => {
                for y in 0..p.tokens[0] {
                    out.extend((0..p.tokens[1]).map(|x| Some([0, side + y, x])));
                    out.push(None);
                }
            }
        }
        out
    }

    /// How many tokens; at most `usize::MAX`.
    pub(crate) fn count(&self, side: usize) -> usize {
        let area = |a: usize, b: usize| a.saturating_mul(b);
        match self {
            Self::Grid([t, h, w]) => area(area(*t, *h), *w),
            Self::Frames([t, h, w]) => area(area(*t, *h), *w).saturating_add(1),
            Self::Whole => area(side, side).saturating_add(1),
            Self::Tiles(p) => area(side, side).saturating_add(area(p.tokens[0], p.tokens[1] + 1)),
        }
    }
}

impl VisionConfig {
    /// Tokens of a video of so many patches along time, height and width.
    pub fn video_tokens(&self, grid: [usize; 3]) -> usize {
        TokenLayout::video(self, grid).count(self.positions.unwrap_or(1))
    }
}

impl AnyRes {
    /// The parts of a picture of `size` [height, width]; a part has `side` patches on its side.
    pub(crate) fn parts(&self, side: usize, size: [usize; 2]) -> TileGrid {
        let [height, width] = self.best(size);
        let grid = [height / self.side, width / self.side];
        let (rows, cols) = (grid[0] * side, grid[1] * side);
        let [h, w] = size.map(|n| n.max(1) as f64);
        // The reference rounds to seven decimals before it cuts off.
        let whole = |x: f64| ((x * 1e7).round_ties_even() / 1e7) as usize;
        let padding = |all: usize, kept: usize| {
            let padding = all.saturating_sub(kept) / 2;
            padding..all - padding
        };
        let picture = if w / h > cols as f64 / rows as f64 {
            [padding(rows, whole(h * (cols as f64 / w))), 0..cols]
        } else {
            [0..rows, padding(cols, whole(w * (rows as f64 / h)))]
        };
        let (down, across) = (picture[0].len() as f64, picture[1].len() as f64);
        let ratio = (down * across / (self.most * side * side) as f64).sqrt();
        let tokens = if ratio > 1.1 {
            [down, across].map(|n| floor_divide(n, ratio))
        } else {
            [picture[0].len(), picture[1].len()]
        };
        TileGrid {
            grid,
            picture,
            tokens,
        }
    }

    /// The resolution [height, width] that shows most of a picture, of those the one with least to fill up.
    pub(crate) fn best(&self, size: [usize; 2]) -> [usize; 2] {
        let [h, w] = size.map(|n| n.max(1) as f64);
        let (mut best, mut most, mut least) = ([self.side; 2], 0.0, f64::INFINITY);
        for &[height, width] in &self.resolutions {
            let scale = (width as f64 / w).min(height as f64 / h);
            let shown = ((w * scale).trunc() * (h * scale).trunc()).min(w * h);
            let wasted = (width * height) as f64 - shown;
            if shown > most || shown == most && wasted < least {
                (best, most, least) = ([height, width], shown, wasted);
            }
        }
        best
    }

    /// The size of a picture within a resolution, its sides' ratio kept.
    pub(crate) fn within(size: [usize; 2], [height, width]: [usize; 2]) -> [usize; 2] {
        let [h, w] = size.map(|n| n.max(1) as f64);
        let (down, across) = (height as f64 / h, width as f64 / w);
        if across < down {
            [((h * across).ceil() as usize).min(height), width]
        } else {
            [height, ((w * down).ceil() as usize).min(width)]
        }
    }
}

/// Python's `//` of floats: exact, where a quotient may round up to a whole number.
fn floor_divide(a: f64, b: f64) -> usize {
    let quotient = ((a - a % b) / b).round();
    quotient as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the published models' settings, from transformers 4.52.3 (`_get_number_of_features`).
    #[test]
    fn tokens_of_pictures_are_the_processors() {
        let steps = [384, 768, 1152, 1536, 1920, 2304];
        let tiles = AnyRes {
            side: 384,
            resolutions: steps.iter().flat_map(|h| steps.map(|w| [*h, w])).collect(),
            most: 9,
            newline: "",
        };
        for (size, want) in TOKENS {
            let parts = TokenLayout::Tiles(tiles.parts(27, size));
            assert_eq!(parts.count(27), want, "{size:?}");
            assert_eq!(parts.cells(27).len(), want);
        }
    }

    const TOKENS: [([usize; 2], usize); 8] = [
        ([480, 640], 2929),
        ([384, 384], 1485),
        ([1080, 1920], 7269),
        ([100, 1000], 1467),
        ([2304, 2304], 7371),
        ([333, 777], 2457),
        ([1, 5000], 757),
        ([4000, 3000], 7332),
    ];
}
