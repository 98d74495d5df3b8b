//! Rows of a tower in the order of the prompt, where pictures go through it in parts.

use crate::compute::nn::Mat;
use crate::compute::nn::ops::picture::{bilinear, side_by_side};
use crate::spec::anyres::TokenLayout;

/// Puts a picture's rows, part by part as the tower gives them, into the prompt's order. A part has `side` rows of `side`.
pub(super) fn arrange(rows: Mat, layout: &TokenLayout, side: usize, newline: &[f32]) -> Mat {
    let cols = rows.cols();
    let mut out = Mat::empty(cols);
    match layout {
        TokenLayout::Grid(_) => return rows,
        TokenLayout::Whole => {
            out = rows;
            out.push(newline);
        }
        TokenLayout::Frames([_, h, w]) => {
            for frame in rows.data().chunks_exact(side * side * cols) {
                out.push(&bilinear(frame, [side; 2], [*h, *w], cols));
            }
            out.push(newline);
        }
        TokenLayout::Tiles(parts) => {
            let (whole, rest) = rows.data().split_at(side * side * cols);
            out.push(whole);
            let picture = side_by_side(rest, parts, side, cols);
            let size = [parts.picture[0].len(), parts.picture[1].len()];
            let tokens = bilinear(&picture, size, parts.tokens, cols);
            for row in tokens.chunks_exact(parts.tokens[1] * cols) {
                out.push(row);
                out.push(newline);
            }
        }
    }
    out
}
