//! A matrix of activations.

/// Row-major f32 matrix: one row a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mat {
    /// Row length.
    pub cols: usize,
    /// `rows * cols` elements.
    pub data: Vec<f32>,
}

impl Mat {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            cols,
            data: vec![0.0; rows * cols],
        }
    }

    /// Takes another shape; what the elements are is left open. Memory that is large enough is kept, for fresh pages are
    /// cleared before they are used.
    pub fn reshape(&mut self, rows: usize, cols: usize) {
        self.cols = cols;
        self.data.resize(rows * cols, 0.0);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.cols).unwrap_or(0)
    }

    /// One row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// One row, to change.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// Whether all elements are finite.
    pub fn is_finite(&self) -> bool {
        // A sum is one pass without branches; it is not finite if any element is not, or if the sum overflows.
        self.data.iter().sum::<f32>().is_finite() || self.data.iter().all(|x| x.is_finite())
    }
}
