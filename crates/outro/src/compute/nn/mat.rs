//! A matrix of activations.

use std::ops::Range;

/// Row-major f32 matrix: one row a token. How it is stored is its own business; loops over its elements are in `nn::ops`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mat {
    cols: usize,
    data: Vec<f32>,
}

impl Mat {
    /// Rows of `cols` elements one after the other; a last row that is not whole is left out.
    pub fn new(cols: usize, mut data: Vec<f32>) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        data.truncate(rows * cols);
        Self { cols, data }
    }

    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            cols,
            data: vec![0.0; rows * cols],
        }
    }

    /// No rows yet.
    pub(crate) fn empty(cols: usize) -> Self {
        Self::zeros(0, cols)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.cols).unwrap_or(0)
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// One row.
    pub fn row(&self, i: usize) -> &[f32] {
        self.part(i..i + 1)
    }

    /// One row, to change.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        self.part_mut(i..i + 1)
    }

    /// All elements, row by row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All elements, without a copy.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Some rows.
    pub(crate) fn part(&self, rows: Range<usize>) -> &[f32] {
        &self.data[rows.start * self.cols..rows.end * self.cols]
    }

    /// Some rows, to change.
    pub(crate) fn part_mut(&mut self, rows: Range<usize>) -> &mut [f32] {
        &mut self.data[rows.start * self.cols..rows.end * self.cols]
    }

    /// Some rows as a matrix of their own.
    pub(crate) fn copy_of(&self, rows: Range<usize>) -> Self {
        Self {
            cols: self.cols,
            data: self.part(rows).to_vec(),
        }
    }

    /// Takes another shape; what the elements are is left open. Memory that is large enough is kept, for fresh pages are
    /// cleared before they are used.
    pub(crate) fn reshape(&mut self, rows: usize, cols: usize) {
        self.cols = cols;
        self.data.resize(rows * cols, 0.0);
    }

    /// Puts rows of the same length behind its own.
    pub(crate) fn push(&mut self, rows: &[f32]) {
        self.data.extend_from_slice(rows);
    }

    /// [`Mat::push`] of all rows of another, whose memory is taken over where there is nothing yet.
    pub(crate) fn append(&mut self, other: Self) {
        if self.data.is_empty() {
            *self = other;
        } else {
            self.data.extend_from_slice(&other.data);
        }
    }

    /// Takes rows away.
    pub(crate) fn remove(&mut self, rows: Range<usize>) {
        self.data.drain(rows.start * self.cols..rows.end * self.cols);
    }

    /// Removes the rows of `span` that are not in `kept` (ascending, relative to the span).
    pub(crate) fn keep(&mut self, span: Range<usize>, kept: &[usize]) {
        let cols = self.cols;
        for (to, from) in kept.iter().enumerate() {
            let (to, from) = ((span.start + to) * cols, (span.start + from) * cols);
            self.data.copy_within(from..from + cols, to);
        }
        self.remove(span.start + kept.len()..span.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_and_removed() {
        let mut all = Mat::new(2, (0..11).map(|x| x as f32).collect());
        assert_eq!((all.rows(), all.cols(), all.row(4)), (5, 2, &[8.0, 9.0][..]));
        all.keep(1..4, &[0, 2]);
        assert_eq!(all.data(), [0.0, 1.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0]);
        all.remove(0..2);
        assert_eq!(all.copy_of(1..2), Mat::new(2, vec![8.0, 9.0]));
        let mut none = Mat::empty(2);
        assert!(none.is_empty() && Mat::default().rows() == 0);
        none.append(all);
        none.push(&[1.0, 2.0]);
        assert_eq!(none.data(), [6.0, 7.0, 8.0, 9.0, 1.0, 2.0]);
    }
}
