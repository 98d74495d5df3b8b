//! Rows of pictures: positions and tokens on grids, and the order of windows.

use super::Mat;
use crate::spec::anyres::TileGrid;

/// Rows of `frames` frames in another order: place i of a frame gets its unit `order[i]`, of `unit` rows.
pub(crate) fn to_order(x: &Mat, frames: usize, order: &[usize], unit: usize) -> Mat {
    let (patches, width) = (order.len() * unit, unit * x.cols());
    let mut out = Mat::zeros(frames * patches, x.cols());
    for f in 0..frames {
        let rows = f * patches..(f + 1) * patches;
        let from = x.part(rows.clone());
        for (to, token) in out.part_mut(rows).chunks_exact_mut(width).zip(order) {
            to.copy_from_slice(&from[token * width..(token + 1) * width]);
        }
    }
    out
}

/// [`to_order`] undone, of units of one row.
pub(crate) fn from_order(x: &Mat, frames: usize, order: &[usize]) -> Mat {
    let mut out = Mat::zeros(x.rows(), x.cols());
    for f in 0..frames {
        for (i, token) in order.iter().enumerate() {
            let at = f * order.len();
            out.row_mut(at + token).copy_from_slice(x.row(at + i));
        }
    }
    out
}

/// A square table of positions `[side * side, width]` interpolated to a grid, corners on corners, in the order of patches:
/// those of a token follow each other.
pub(crate) fn resampled(table: &[f32], side: usize, [h, w]: [usize; 2], merge: usize) -> Vec<f32> {
    let width = table.len() / (side * side);
    let tap = |i: usize, n: usize| {
        let at = (i * (side - 1)) as f32 / (n - 1).max(1) as f32;
        (at as usize, (at as usize + 1).min(side - 1), at - at.floor())
    };
    let mut out = Vec::with_capacity(h * w * width);
    for place in 0..h * w {
        let (token, patch) = (place / (merge * merge), place % (merge * merge));
        let (y0, y1, b) = tap(token / (w / merge) * merge + patch / merge, h);
        let (x0, x1, a) = tap(token % (w / merge) * merge + patch % merge, w);
        let row = |y: usize, x: usize| &table[(y * side + x) * width..][..width];
        let (p, q, r, s) = (row(y0, x0), row(y0, x1), row(y1, x0), row(y1, x1));
        let weights = [(1.0 - b) * (1.0 - a), (1.0 - b) * a, b * (1.0 - a), b * a];
        out.extend(
            (0..width).map(|c| p[c] * weights[0] + q[c] * weights[1] + r[c] * weights[2] + s[c] * weights[3]),
        );
    }
    out
}

/// Means of `unit` rows each.
pub(crate) fn means(x: &[f32], width: usize, unit: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / unit);
    for rows in x.chunks_exact(unit * width) {
        for i in 0..width {
            let sum: f32 = rows.iter().skip(i).step_by(width).sum();
            out.push(sum / unit as f32);
        }
    }
    out
}

/// The parts' rows side by side, without padding.
pub(crate) fn side_by_side(rows: &[f32], parts: &TileGrid, side: usize, cols: usize) -> Vec<f32> {
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
pub(crate) fn bilinear(x: &[f32], [h, w]: [usize; 2], [height, width]: [usize; 2], cols: usize) -> Vec<f32> {
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
