//! Where the rows that are left of a prompt came from.

use std::sync::Arc;

/// Prompt positions of one layer's keys, whatever hooks have dropped on the way there. Key `i` of a prompt that lost no row is
/// position `i`; decoded tokens follow the prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowMap {
    /// Rows of the prompt as it was given.
    prompt: usize,
    /// Positions of the rows that are left, ascending; `None` where all are.
    kept: Option<Arc<[usize]>>,
}

impl RowMap {
    /// All rows of a prompt.
    pub fn whole(prompt: usize) -> Self {
        Self { prompt, kept: None }
    }

    /// Prompt position of key `key`.
    pub fn position(&self, key: usize) -> usize {
        match &self.kept {
            None => key,
            Some(kept) => match kept.get(key) {
                Some(position) => *position,
                None => self.prompt + key - kept.len(),
            },
        }
    }

    /// The key at this prompt position, unless it was dropped. A position behind the last key gives a key behind the last.
    pub fn key(&self, position: usize) -> Option<usize> {
        match &self.kept {
            None => Some(position),
            Some(kept) if position < self.prompt => kept.binary_search(&position).ok(),
            Some(kept) => Some(position - self.prompt + kept.len()),
        }
    }

    /// Rows of the prompt that are left.
    pub fn left(&self) -> usize {
        self.kept.as_ref().map_or(self.prompt, |kept| kept.len())
    }

    /// What is left when of these only the rows `rows` are, ascending.
    #[must_use]
    pub(crate) fn keep(&self, rows: impl Iterator<Item = usize>) -> Self {
        Self {
            prompt: self.prompt,
            kept: Some(rows.map(|row| self.position(row)).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_keys_are_inverse_however_often_rows_go() {
        let whole = RowMap::whole(10);
        assert_eq!(
            (whole.position(3), whole.key(12), whole.left()),
            (3, Some(12), 10)
        );
        let once = whole.keep([0, 1, 4, 5, 9].into_iter());
        let twice = once.keep([0, 2, 4].into_iter());
        for (map, kept) in [(&once, vec![0, 1, 4, 5, 9]), (&twice, vec![0, 4, 9])] {
            assert_eq!(map.left(), kept.len());
            for position in 0..10 {
                assert_eq!(map.key(position), kept.iter().position(|k| *k == position));
            }
            for key in 0..kept.len() + 3 {
                assert_eq!(map.key(map.position(key)), Some(key));
            }
            assert_eq!(map.position(kept.len()), 10, "the first decoded token");
        }
    }
}
