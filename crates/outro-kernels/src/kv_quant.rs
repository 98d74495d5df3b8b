//! Keys and values in 8 and 4 bits: rows of one head, in groups of 32 that have scales of their own.
//!
//! Every row is quantised alone when it is written, without fused arithmetic: its bytes depend neither on its neighbours nor
//! on the processor's level.

use half::f16;

use crate::quant::half;
use crate::simd::{Level, multiversion};

/// Numbers that share a scale.
const GROUP: usize = 32;

/// How a quantised cache holds the row of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvQuant {
    /// llama.cpp's blocks of that name: an f16 scale and 32 codes of 8 bits.
    Q8_0,
    /// The row is turned by a Hadamard matrix with signs, which spreads a few large channels over all of them. Then llama.cpp's blocks
    /// of q4_1: an f16 scale, an f16 minimum and 32 codes of 4 bits.
    Q4,
}

impl KvQuant {
    /// Bytes before the codes of a group.
    fn head(self) -> usize {
        match self {
            Self::Q8_0 => 2,
            Self::Q4 => 4,
        }
    }

    /// Bytes of a group of `n` numbers.
    fn group_bytes(self, n: usize) -> usize {
        match self {
            Self::Q8_0 => self.head() + n,
            Self::Q4 => self.head() + n.div_ceil(2),
        }
    }

    /// Bytes of a row of `dim` numbers; the last group may be shorter than 32.
    pub fn row_bytes(self, dim: usize) -> usize {
        let rest = dim % GROUP;
        let tail = if rest == 0 { 0 } else { self.group_bytes(rest) };
        dim / GROUP * self.group_bytes(GROUP) + tail
    }

    /// Whether rows are turned before they are rounded.
    pub(crate) fn turns(self) -> bool {
        self == Self::Q4
    }

    /// Appends rows of `dim` numbers. What is not finite, or beyond an f16 scale, comes out not
    /// finite.
    ///
    /// # Panics
    /// When `rows` are not whole rows.
    pub fn push(self, dim: usize, rows: &[f32], out: &mut Vec<u8>) {
        assert!(dim > 0 && rows.len().is_multiple_of(dim), "rows of {dim} numbers");
        let (level, row_bytes) = (Level::detect(), self.row_bytes(dim));
        let start = out.len();
        out.resize(start + rows.len() / dim * row_bytes, 0);
        let mut turned = vec![0.0; dim];
        for (row, bytes) in rows
            .chunks_exact(dim)
            .zip(out[start..].chunks_exact_mut(row_bytes))
        {
            turned.copy_from_slice(row);
            if self.turns() {
                turn(level, &mut turned);
            }
            close(level, &turned, self, bytes);
        }
    }
}

/// Quantised rows of heads of `dim` numbers each.
#[derive(Clone, Copy, Debug)]
pub struct KvBlocks<'a> {
    kind: KvQuant,
    dim: usize,
    bytes: &'a [u8],
}

impl<'a> KvBlocks<'a> {
    /// `bytes` as [`KvQuant::push`] wrote them.
    ///
    /// # Panics
    /// When they are not whole rows.
    pub fn new(kind: KvQuant, dim: usize, bytes: &'a [u8]) -> Self {
        assert!(
            dim > 0 && bytes.len().is_multiple_of(kind.row_bytes(dim)),
            "bytes of quantised rows of {dim} numbers"
        );
        Self { kind, dim, bytes }
    }

    /// Number of elements.
    pub(crate) fn len(self) -> usize {
        self.bytes.len() / self.kind.row_bytes(self.dim) * self.dim
    }

    pub(crate) fn bytes(self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn kind(self) -> KvQuant {
        self.kind
    }

    /// Opens rows of `dim` elements, the first at element `at` and each `stride` elements after the one before. They stay turned
    /// where their kind turns them.
    pub(crate) fn open(self, level: Level, at: usize, stride: usize, out: &mut [f32]) {
        debug_assert!(
            at.is_multiple_of(self.dim)
                && stride.is_multiple_of(self.dim)
                && out.len().is_multiple_of(self.dim),
            "whole rows of heads"
        );
        let row = self.kind.row_bytes(self.dim);
        let (at, stride) = (at / self.dim * row, stride / self.dim * row);
        match self.kind {
            KvQuant::Q8_0 => open_q8_0(level, &self.bytes[at..], stride, self.dim, out),
            KvQuant::Q4 => open_q4(level, &self.bytes[at..], stride, self.dim, out),
        }
    }

    /// Opens rows that follow each other, as they were before they were turned.
    pub(crate) fn widen(self, at: usize, out: &mut [f32]) {
        let level = Level::detect();
        self.open(level, at, self.dim, out);
        if self.kind.turns() {
            for row in out.chunks_exact_mut(self.dim) {
                turn_back(level, row);
            }
        }
    }
}

/// Signs of the channels before they are mixed, 64 bits of pi: without them a row of equal numbers would become one large one.
const SIGNS: u64 = 0x243F_6A88_85A3_08D3;

multiversion! {
    /// Multiplies a row by an orthogonal matrix: signs, then Hadamard blocks of the largest powers of two that its length is the sum
    /// of. Products of two turned rows are those of the rows.
    pub(crate) fn turn(row: &mut [f32]) = turn_body
}

multiversion! {
    /// What [`turn`] did, undone.
    pub(crate) fn turn_back(row: &mut [f32]) = turn_back_body
}

#[inline(always)]
fn turn_body<const FMA: bool>(row: &mut [f32]) {
    signs(row);
    hadamard(row);
}

#[inline(always)]
fn turn_back_body<const FMA: bool>(row: &mut [f32]) {
    hadamard(row);
    signs(row);
}

#[inline(always)]
fn signs(row: &mut [f32]) {
    for row in row.chunks_mut(64) {
        for (i, x) in row.iter_mut().enumerate() {
            *x = f32::from_bits(x.to_bits() ^ ((SIGNS >> i & 1) as u32) << 31);
        }
    }
}

/// Symmetric, and its own inverse.
#[inline(always)]
fn hadamard(mut row: &mut [f32]) {
    while !row.is_empty() {
        let n = 1 << row.len().ilog2();
        let (block, rest) = row.split_at_mut(n);
        let mut half = 1;
        while half < n {
            for pair in block.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        let scale = 1.0 / (n as f32).sqrt();
        for x in block {
            *x *= scale;
        }
        row = rest;
    }
}

multiversion! { fn close(row: &[f32], kind: KvQuant, out: &mut [u8]) = close_body }

#[inline(always)]
fn close_body<const FMA: bool>(row: &[f32], kind: KvQuant, out: &mut [u8]) {
    for (x, out) in row.chunks(GROUP).zip(out.chunks_mut(kind.group_bytes(GROUP))) {
        let (head, codes) = out.split_at_mut(kind.head());
        let (mut low, mut high, mut sum) = (x[0], x[0], 0.0);
        for x in x {
            (low, high, sum) = (low.min(*x), high.max(*x), sum + x.abs());
        }
        // The smallest and the largest do not see a NaN.
        let finite = if sum.is_finite() { 1.0 } else { f32::NAN };
        match kind {
            KvQuant::Q8_0 => {
                let scale = f16::from_f32(high.max(-low) / 127.0 * finite);
                head.copy_from_slice(&scale.to_le_bytes());
                let inverse = inverse(scale);
                for (code, x) in codes.iter_mut().zip(x) {
                    *code = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
                }
            }
            KvQuant::Q4 => {
                let min = f16::from_f32(low);
                let min32 = min.to_f32();
                let scale = f16::from_f32((high - min32).max(0.0) / 15.0 * finite);
                head[..2].copy_from_slice(&scale.to_le_bytes());
                head[2..].copy_from_slice(&min.to_le_bytes());
                let inverse = inverse(scale);
                let code = |x: &f32| ((x - min32) * inverse).round_ties_even().clamp(0.0, 15.0) as u8;
                let (first, second) = x.split_at(codes.len());
                for (i, out) in codes.iter_mut().enumerate() {
                    *out = code(&first[i]) | second.get(i).map_or(0, code) << 4;
                }
            }
        }
    }
}

/// What numbers are multiplied by to become codes; 0 where all are equal.
#[inline(always)]
fn inverse(scale: f16) -> f32 {
    let scale = scale.to_f32();
    if scale > 0.0 { 1.0 / scale } else { 0.0 }
}

multiversion! { fn open_q8_0(bytes: &[u8], stride: usize, dim: usize, out: &mut [f32]) = open_q8_0_body }

#[inline(always)]
fn open_q8_0_body<const FMA: bool>(bytes: &[u8], stride: usize, dim: usize, out: &mut [f32]) {
    const BYTES: usize = 2 + GROUP;
    for (row, out) in out.chunks_exact_mut(dim).enumerate() {
        let row = &bytes[row * stride..][..KvQuant::Q8_0.row_bytes(dim)];
        let (wholes, rest) = out.as_chunks_mut::<GROUP>();
        let (groups, tail) = row.split_at(wholes.len() * BYTES);
        let groups = groups.as_chunks::<BYTES>().0;
        for (group, out) in groups.iter().zip(wholes) {
            let scale = half(group, 0);
            for i in 0..GROUP {
                out[i] = f32::from(group[2 + i] as i8) * scale;
            }
        }
        if let Some((head, codes)) = tail.split_at_checked(2) {
            let scale = half(head, 0);
            for (out, code) in rest.iter_mut().zip(codes) {
                *out = f32::from(*code as i8) * scale;
            }
        }
    }
}

multiversion! { fn open_q4(bytes: &[u8], stride: usize, dim: usize, out: &mut [f32]) = open_q4_body }

#[inline(always)]
fn open_q4_body<const FMA: bool>(bytes: &[u8], stride: usize, dim: usize, out: &mut [f32]) {
    const BYTES: usize = 4 + GROUP / 2;
    for (row, out) in out.chunks_exact_mut(dim).enumerate() {
        let row = &bytes[row * stride..][..KvQuant::Q4.row_bytes(dim)];
        let (wholes, rest) = out.as_chunks_mut::<GROUP>();
        let (groups, tail) = row.split_at(wholes.len() * BYTES);
        let groups = groups.as_chunks::<BYTES>().0;
        for (group, out) in groups.iter().zip(wholes) {
            let (scale, min) = (half(group, 0), half(group, 2));
            for i in 0..GROUP / 2 {
                let code = group[4 + i];
                out[i] = f32::from(code & 15) * scale + min;
                out[GROUP / 2 + i] = f32::from(code >> 4) * scale + min;
            }
        }
        if let Some((head, codes)) = tail.split_at_checked(4) {
            let (scale, min) = (half(head, 0), half(head, 2));
            let (first, second) = rest.split_at_mut(codes.len());
            for (i, code) in codes.iter().enumerate() {
                first[i] = f32::from(code & 15) * scale + min;
                if let Some(out) = second.get_mut(i) {
                    *out = f32::from(code >> 4) * scale + min;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
