//! Keys and values as a cache holds them.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Numbers of either type.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision; widened a block at a time.
    F16(&'a [f16]),
}

impl<'a> Stored<'a> {
    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32(x) => size_of_val(x),
            Self::F16(x) => size_of_val(x),
        }
    }

    fn widen(self, out: &mut [f32]) {
        match self {
            Self::F32(x) => out.copy_from_slice(x),
            Self::F16(x) => x.convert_to_f32_slice(out),
        }
    }

    /// `n` elements from `at`, widened into `wide` where they must be.
    fn row(self, at: usize, n: usize, wide: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::F32(x) => &x[at..at + n],
            Self::F16(x) => {
                x[at..at + n].convert_to_f32_slice(&mut wide[..n]);
                &wide[..n]
            }
        }
    }
}

/// Keys or values `[s, G * D]` in one piece or in two, the first of which several requests may share. Where they are cut changes
/// no result.
#[derive(Clone, Copy, Debug)]
pub struct Cached<'a> {
    first: Stored<'a>,
    rest: Stored<'a>,
}

impl<'a> From<Stored<'a>> for Cached<'a> {
    fn from(first: Stored<'a>) -> Self {
        Self::two(first, Stored::F32(&[]))
    }
}

impl<'a> From<&'a [f32]> for Cached<'a> {
    fn from(x: &'a [f32]) -> Self {
        Stored::F32(x).into()
    }
}

impl<'a> From<&'a Vec<f32>> for Cached<'a> {
    fn from(x: &'a Vec<f32>) -> Self {
        Stored::F32(x).into()
    }
}

impl<'a> From<&'a [f16]> for Cached<'a> {
    fn from(x: &'a [f16]) -> Self {
        Stored::F16(x).into()
    }
}

impl<'a> Cached<'a> {
    /// `first`, and `rest` behind it; both are whole rows.
    pub fn two(first: Stored<'a>, rest: Stored<'a>) -> Self {
        Self { first, rest }
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        self.first.len() + self.rest.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Memory that they take.
    pub fn bytes(self) -> usize {
        self.first.bytes() + self.rest.bytes()
    }

    /// All of them in f32.
    ///
    /// # Panics
    /// When `out` is not as long.
    pub fn widen(self, out: &mut [f32]) {
        let (first, rest) = out.split_at_mut(self.first.len());
        self.first.widen(first);
        self.rest.widen(rest);
    }

    /// Both pieces, and the element with which each begins.
    pub(crate) fn pieces(self) -> [(usize, Stored<'a>); 2] {
        [(0, self.first), (self.first.len(), self.rest)]
    }

    /// `n` elements of one row from `at`, widened into `wide` where they must be.
    pub(crate) fn row(self, at: usize, n: usize, wide: &'a mut [f32]) -> &'a [f32] {
        match at.checked_sub(self.first.len()) {
            None => self.first.row(at, n, wide),
            Some(at) => self.rest.row(at, n, wide),
        }
    }
}
