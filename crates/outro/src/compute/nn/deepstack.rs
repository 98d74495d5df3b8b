//! Features of earlier vision blocks, added to the visual rows after the first decoder layers.

use std::sync::Arc;

use super::{Mat, ops};

/// What some rows of a prompt get after each of the first layers; empty for most models and for text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deepstack {
    /// Rows that get something, ascending, and which row of `layers` it is.
    pub rows: Vec<(usize, usize)>,
    /// For each of the first decoder layers, `[visual tokens, hidden]`.
    pub layers: Arc<Vec<Mat>>,
}

impl Deepstack {
    /// Adds layer `layer`'s share to a request's rows.
    pub(crate) fn add_to(&self, layer: usize, x: &mut [f32]) {
        let Some(features) = self.layers.get(layer) else {
            return;
        };
        ops::add_to_rows(features, &self.rows, x);
    }

    /// What is left when only these rows are, `kept` ascending.
    #[must_use]
    pub fn kept(&self, kept: &[usize]) -> Self {
        let place = |(row, from): &(usize, usize)| Some((kept.binary_search(row).ok()?, *from));
        Self {
            rows: self.rows.iter().filter_map(place).collect(),
            layers: Arc::clone(&self.layers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_follow_their_rows() {
        let features = Mat::new(1, vec![10.0, 20.0, 30.0]);
        let all = Deepstack {
            rows: vec![(1, 0), (2, 1), (4, 2)],
            layers: Arc::new(vec![features]),
        };
        let added = |d: &Deepstack, layer, n| {
            let mut x = vec![0.0; n];
            d.add_to(layer, &mut x);
            x
        };
        assert_eq!(added(&all, 0, 5), [0.0, 10.0, 20.0, 0.0, 30.0]);
        assert_eq!(added(&all, 1, 5), [0.0; 5], "only after the first layer");
        assert_eq!(added(&all.kept(&[0, 2, 3, 4]), 0, 4), [0.0, 20.0, 0.0, 30.0]);
        assert_eq!(added(&all.kept(&[3]), 0, 1), [0.0]);
    }
}
