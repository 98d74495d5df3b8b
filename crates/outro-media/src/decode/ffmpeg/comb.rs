//! Picking frames by number with a filter that does not grow with them.

/// Largest number that is multiplied out: products stay exact in the filter's f64.
const EXACT: u64 = 1 << 50;

/// A set of frame numbers around evenly spaced ones: `n` is in it where `first <= n <= last` and
/// `((n - first) * teeth + before) mod span <= width`. It holds every number that it was made for, and hardly another when
/// these are evenly spaced and rounded somehow; the others are dropped as they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Comb {
    first: u64,
    last: u64,
    teeth: u64,
    span: u64,
    before: u64,
    width: u64,
}

impl Comb {
    /// The comb of ascending numbers, of which there is at least one.
    pub(super) fn new(indices: &[usize]) -> Self {
        let (first, last) = match indices {
            [first, .., last] => (*first as u64, *last as u64),
            [only] => (*only as u64, *only as u64),
            [] => (0, 0),
        };
        let all = Self {
            first,
            last,
            teeth: 0,
            span: 1,
            before: 0,
            width: 1,
        };
        let (teeth, span) = (indices.len().saturating_sub(1) as u64, last - first);
        if teeth == 0 || span.checked_mul(teeth).is_none_or(|n| n > EXACT) {
            return all;
        }
        // How far each is before and behind its place on the line from the first to the last, times `teeth`.
        let (mut before, mut behind) = (0, 0);
        for (k, index) in indices.iter().enumerate() {
            let (at, place) = ((*index as u64 - first) * teeth, k as u64 * span);
            before = before.max(place.saturating_sub(at));
            behind = behind.max(at.saturating_sub(place));
        }
        Self {
            teeth,
            span,
            before,
            width: before + behind,
            ..all
        }
    }

    /// Whether it holds a number.
    fn holds(&self, n: u64) -> bool {
        (self.first..=self.last).contains(&n)
            && ((n - self.first) * self.teeth + self.before) % self.span <= self.width
    }

    /// Its numbers, ascending.
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        (self.first..=self.last)
            .filter(|n| self.holds(*n))
            .map(|n| n as usize)
    }

    /// As an expression of ffmpeg's `select` filter.
    pub(super) fn expression(&self) -> String {
        let Self {
            first,
            last,
            teeth,
            span,
            before,
            width,
        } = self;
        format!("between(n,{first},{last})*lte(mod((n-{first})*{teeth}+{before},{span}),{width})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_it_was_made_for_and_little_else() {
        let even = |count: usize, last: usize, f: fn(f64) -> f64| -> Vec<usize> {
            (0..count)
                .map(|i| f(i as f64 * last as f64 / (count - 1) as f64) as usize)
                .collect()
        };
        let cases = [
            even(768, 107_999, f64::round_ties_even),
            even(768, 107_999, f64::floor),
            even(120, 599, f64::ceil),
            even(2, 9, f64::round),
            vec![7],
            vec![0, 1, 2, 3],
            vec![5, 6, 900],
            vec![0, 20, 39],
        ];
        for indices in cases {
            let held: Vec<usize> = Comb::new(&indices).numbers().collect();
            assert!(indices.iter().all(|i| held.contains(i)), "{indices:?}");
            let irregular = indices == [5, 6, 900];
            assert!(
                irregular || held.len() <= indices.len() * 2,
                "{} for {}",
                held.len(),
                indices.len()
            );
            assert!(Comb::new(&indices).expression().len() < 120);
        }
        let far = Comb::new(&[0, 1 << 40, 1 << 52]);
        assert!(
            far.holds(1 << 40),
            "too far apart for exact products: everything is held"
        );
    }
}
