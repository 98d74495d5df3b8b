//! Keys and values as a cache holds them.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kv_quant::{KvBlocks, turn, turn_back};
use crate::simd::Level;

/// Numbers of one type.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision; widened a block at a time.
    F16(&'a [f16]),
    /// Codes of 8 or 4 bits; opened a block at a time.
    Quantised(KvBlocks<'a>),
}

impl<'a> Stored<'a> {
    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::Quantised(x) => x.len(),
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
            Self::Quantised(x) => x.bytes(),
        }
    }

    /// As many elements as `out` has, from `at`.
    fn widen(self, at: usize, out: &mut [f32]) {
        match self {
            Self::F32(x) => out.copy_from_slice(&x[at..at + out.len()]),
            Self::F16(x) => x[at..at + out.len()].convert_to_f32_slice(out),
            Self::Quantised(x) => x.widen(at, out),
        }
    }

    /// Whether rows are turned by a Hadamard matrix.
    fn is_turned(self) -> bool {
        matches!(self, Self::Quantised(x) if x.kind().turns())
    }

    /// The head's row of `n` elements from `at`, widened into `wide` where it must be; turned where it is.
    fn row(self, level: Level, at: usize, n: usize, wide: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::F32(x) => &x[at..at + n],
            Self::F16(x) => {
                x[at..at + n].convert_to_f32_slice(&mut wide[..n]);
                &wide[..n]
            }
            Self::Quantised(x) => {
                x.open(level, at, n, &mut wide[..n]);
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
    ///
    /// # Panics
    /// When one of them is turned by a Hadamard matrix and the other is not.
    pub fn two(first: Stored<'a>, rest: Stored<'a>) -> Self {
        assert!(
            first.is_empty() || rest.is_empty() || first.is_turned() == rest.is_turned(),
            "turned rows behind others"
        );
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

    /// As many elements as `out` has in f32, from element `at`; both are whole rows of heads.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn widen(self, at: usize, out: &mut [f32]) {
        let ends = self.first.len().saturating_sub(at).min(out.len());
        let (first, rest) = out.split_at_mut(ends);
        if !first.is_empty() {
            self.first.widen(at, first);
        }
        if !rest.is_empty() {
            self.rest.widen(at.saturating_sub(self.first.len()), rest);
        }
    }

    /// All of them where they lie in f32 and in one piece.
    pub fn as_f32(self) -> Option<&'a [f32]> {
        match (self.first, self.rest) {
            (Stored::F32(x), rest) if rest.is_empty() => Some(x),
            (first, Stored::F32(x)) if first.is_empty() => Some(x),
            _ => None,
        }
    }

    /// Whether rows are turned by a Hadamard matrix.
    pub(crate) fn is_turned(self) -> bool {
        (self.first.is_turned() && !self.first.is_empty()) || (self.rest.is_turned() && !self.rest.is_empty())
    }

    /// Turns rows of `dim` numbers as those of the cache are turned.
    pub(crate) fn turn(self, level: Level, dim: usize, rows: &mut [f32]) {
        if self.is_turned() {
            for row in rows.chunks_exact_mut(dim) {
                turn(level, row);
            }
        }
    }

    /// Turns rows of `dim` numbers back that are turned as those of the cache.
    pub(crate) fn turn_back(self, level: Level, dim: usize, rows: &mut [f32]) {
        if self.is_turned() {
            for row in rows.chunks_exact_mut(dim) {
                turn_back(level, row);
            }
        }
    }

    /// Both pieces, and the element with which each begins.
    pub(crate) fn pieces(self) -> [(usize, Stored<'a>); 2] {
        [(0, self.first), (self.first.len(), self.rest)]
    }

    /// The head's row of `n` elements from `at`, widened into `wide` where it must be; turned where it is.
    pub(crate) fn row(self, level: Level, at: usize, n: usize, wide: &'a mut [f32]) -> &'a [f32] {
        match at.checked_sub(self.first.len()) {
            None => self.first.row(level, at, n, wide),
            Some(at) => self.rest.row(level, at, n, wide),
        }
    }
}
