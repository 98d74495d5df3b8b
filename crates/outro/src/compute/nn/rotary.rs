//! Angles of rotary positions.

use std::borrow::Cow;

use super::ops::push_angles;
use crate::spec::config::{Rope, Scaling, TextConfig};

/// A decoder's rotary embedding.
pub(crate) struct Rotary {
    rope: Rope,
    dim: usize,
    /// `[D / 2]`, for sequences within the context of the training.
    frequencies: Vec<f32>,
    /// The axis (time, height, width) that each follows.
    axes: Vec<usize>,
    /// What cosines and sines are multiplied with.
    factor: f32,
}

impl Rotary {
    pub(crate) fn new(c: &TextConfig) -> Self {
        let rope = &c.rope;
        let axis = |i: usize| match rope.sections {
            Some(sections) if rope.mrope_interleaved => match i % 3 {
                turn @ 1..=2 if i < 3 * sections[turn] => turn,
                _ => 0,
            },
            Some([t, h, _]) => usize::from(i >= t) + usize::from(i >= t + h),
            None => 0,
        };
        Self {
            rope: rope.clone(),
            dim: c.head_dim,
            frequencies: rope.frequencies(c.head_dim, 0.0),
            axes: (0..c.head_dim / 2).map(axis).collect(),
            factor: rope.attention_factor(),
        }
    }

    /// Appends cosines and sines `[rows, D / 2]` of rows of a pass of this length ([`length`]).
    pub(crate) fn append(&self, positions: &[[f32; 3]], length: f32, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        let frequencies = match self.rope.scaling {
            Scaling::Dynamic { original, .. } if f64::from(length) > original => {
                Cow::Owned(self.rope.frequencies(self.dim, f64::from(length)))
            }
            _ => Cow::Borrowed(&self.frequencies),
        };
        push_angles(positions, (&frequencies, &self.axes), self.factor, cos, sin);
    }
}

/// One more than the last position on any axis.
pub(crate) fn length(positions: &[[f32; 3]]) -> f32 {
    positions.iter().flatten().copied().fold(-1.0, f32::max) + 1.0
}
