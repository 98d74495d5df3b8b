//! Rows of a tower in the order of the prompt, where pictures go through it in parts.

use crate::compute::nn::Mat;
use crate::spec::anyres::{TileGrid, TokenLayout};

/// Puts a picture's rows, part by part as the tower gives them, into the prompt's order. A part has `side` rows of `side`.
pub(super) fn arrange(rows: Mat, layout: &TokenLayout, side: usize, newline: &[f32]) -> Mat {
    let cols = rows.cols;
    let mut out = Mat {
        cols,
        data: Vec::new(),
    };
    match layout {
        TokenLayout::Grid(_) => return rows,
        TokenLayout::Whole => {
            out.data = rows.data;
            out.data.extend(newline);
        }
        TokenLayout::Frames([_, h, w]) => {
            for frame in rows.data.chunks_exact(side * side * cols) {
                out.data.extend(bilinear(frame, [side; 2], [*h, *w], cols));
            }
            out.data.extend(newline);
        }
        TokenLayout::Tiles(parts) => {
            let (whole, rest) = rows.data.split_at(side * side * cols);
            out.data.extend(whole);
            let picture = picture(rest, parts, side, cols);
            let size = [parts.picture[0].len(), parts.picture[1].len()];
            let tokens = bilinear(&picture, size, parts.tokens, cols);
            for row in tokens.chunks_exact(parts.tokens[1] * cols) {
                out.data.extend(row);
                out.data.extend(newline);
            }
        }
    }
    out
}

/// The parts' rows side by side, without padding.
fn picture(rows: &[f32], parts: &TileGrid, side: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(parts.picture[0].len() * parts.picture[1].len() * cols);
    for y in parts.picture[0].clone() {
        for x in parts.picture[1].clone() {
            let part = y / side * parts.grid[1] + x / side;
            let row = (part * side + y % side) * side + x % side;
            out.extend(&rows[row * cols..(row + 1) * cols]);
        }
    }
    out
}

/// Bilinear interpolation `[h, w, cols]` to `[height, width, cols]` between the centres of the nearest cells, without
/// antialiasing, as PyTorch does it (`align_corners=False`).
fn bilinear(x: &[f32], [h, w]: [usize; 2], [height, width]: [usize; 2], cols: usize) -> Vec<f32> {
    if [h, w] == [height, width] {
        return x.to_vec();
    }
    let taps = |from: usize, to: usize| -> Vec<(usize, usize, f32)> {
        let scale = from as f32 / to as f32;
        let tap = |i: usize| {
            let at = (scale * (i as f32 + 0.5) - 0.5).max(0.0);
            let low = (at as usize).min(from - 1);
            (low, (low + 1).min(from - 1), at - low as f32)
        };
        (0..to).map(tap).collect()
    };
    let (down, across) = (taps(h, height), taps(w, width));
    let mut out = Vec::with_capacity(height * width * cols);
    for (y0, y1, b) in &down {
        for (x0, x1, a) in &across {
            let at = |y: usize, c: usize| &x[(y * w + c) * cols..(y * w + c + 1) * cols];
            let (p, q, r, s) = (at(*y0, *x0), at(*y0, *x1), at(*y1, *x0), at(*y1, *x1));
            out.extend(
                (0..cols)
                    .map(|c| (1.0 - b) * ((1.0 - a) * p[c] + a * q[c]) + b * ((1.0 - a) * r[c] + a * s[c])),
            );
        }
    }
    out
}
