//! The seam: what an intervention or an observer sees of ONE request, and may change.

use std::any::Any;

pub use outro_kernels::{AttentionShape, Mask, Rotation, attend, column_sums, row_lse};

use super::row_map::RowMap;
use super::views::{Attention, HeadOutputs, Hidden, NewQkv};
use crate::error::Result;

/// Where in a forward pass a hook is called.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Decoder layer, 0-based.
    pub layer: usize,
    /// Number of decoder layers L.
    pub layers: usize,
    /// True while the prompt is processed.
    pub prefill: bool,
    /// H, G and D of this layer.
    pub shape: AttentionShape,
    /// Prompt positions of this layer's keys; the new rows are the last of them.
    pub rows: &'a RowMap,
    /// Keys before the first new row.
    pub past: usize,
}

impl At<'_> {
    /// Prompt position of a new row.
    pub fn position(self, row: usize) -> usize {
        self.rows.position(self.past + row)
    }

    /// The key at a prompt position, unless it was dropped.
    pub fn key(self, position: usize) -> Option<usize> {
        self.rows.key(position)
    }

    /// The new row at a prompt position, if it is one.
    pub fn row(self, position: usize) -> Option<usize> {
        self.key(position)?.checked_sub(self.past)
    }
}

/// What the decoder does after a hook saw a layer's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with every row.
    Continue,
    /// Keep only these rows (indices into the rows just seen, ascending) from this layer on.
    Keep(Vec<usize>),
}

/// What a hook looks at in a layer. What nobody needs is not fetched, and the call that would show it is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Hidden states that enter ([`Hook::layer_input`]).
    pub input: bool,
    /// New queries, keys and values ([`Hook::qkv`]).
    pub qkv: bool,
    /// To say how head outputs are rotated ([`Hook::epilogue`]).
    pub rotation: bool,
    /// Head outputs ([`Hook::head_outputs`]).
    pub outputs: bool,
    /// With the last two: all keys and values so far. Reductions read them as they are held; a cache that is not in f32 is widened
    /// for who asks for the matrices.
    pub cache: bool,
}

impl Needs {
    /// Everything.
    pub const ALL: Self = Self {
        input: true,
        qkv: true,
        rotation: true,
        outputs: true,
        cache: true,
    };

    /// Head outputs with all keys and values, where the hook `acts`; else nothing.
    pub fn attention(acts: bool) -> Self {
        Self {
            outputs: acts,
            cache: acts,
            ..Self::default()
        }
    }

    /// What either needs.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            input: self.input || other.input,
            qkv: self.qkv || other.qkv,
            rotation: self.rotation || other.rotation,
            outputs: self.outputs || other.outputs,
            cache: self.cache || other.cache,
        }
    }
}

/// Sees and changes one request's activations. Every method does nothing unless overridden; they are called in the order in
/// which they stand here, once a layer, for all new rows together.
pub trait Hook: Any + Send {
    /// What it looks at in this layer; asked before each call, so that it may depend on what the calls before found.
    fn needs(&self, _at: At) -> Needs {
        Needs::ALL
    }

    /// Hidden states `[new, hidden]` that enter the layer, before its norm.
    ///
    /// # Errors
    /// Whatever the hook wants to stop the request with.
    fn layer_input(&mut self, _at: At, _x: Hidden) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Queries, keys and values of the new tokens, after rotary embedding and before they join the cache.
    ///
    /// # Errors
    /// As [`Hook::layer_input`].
    fn qkv(&mut self, _at: At, _new: &mut NewQkv) -> Result<()> {
        Ok(())
    }

    /// Optional fast path: a rotation that attention applies to each head output while it is in cache.
    fn epilogue(&mut self, _at: At, _attention: Attention) -> Option<Rotation> {
        None
    }

    /// Head outputs `[new, H * D]`, before the output projection. `applied`: whether attention applied what
    /// [`Hook::epilogue`] gave; where it was not asked, the hook rotates here.
    ///
    /// # Errors
    /// As [`Hook::layer_input`].
    fn head_outputs(
        &mut self,
        _at: At,
        _attention: Attention,
        _o: &mut HeadOutputs,
        _applied: bool,
    ) -> Result<()> {
        Ok(())
    }
}

/// Several hooks on one request, called in order.
#[derive(Default)]
pub struct Chain(pub Vec<Box<dyn Hook>>);

impl Hook for Chain {
    fn needs(&self, at: At) -> Needs {
        let all = self.0.iter().map(|hook| hook.needs(at));
        let mut all = all.fold(Needs::default(), Needs::or);
        // A rotation of a hook further back would change outputs that those before it are to see first.
        all.rotation = self.0.first().is_some_and(|hook| hook.needs(at).rotation);
        all
    }

    fn layer_input(&mut self, at: At, x: Hidden) -> Result<Flow> {
        let mut kept: Option<Vec<usize>> = None;
        for hook in self.0.iter_mut().filter(|hook| hook.needs(at).input) {
            // Every hook sees all rows that entered; a later Keep narrows an earlier one.
            if let Flow::Keep(rows) = hook.layer_input(at, x)? {
                kept = Some(match kept {
                    None => rows,
                    Some(k) => k.into_iter().filter(|r| rows.contains(r)).collect(),
                });
            }
        }
        Ok(kept.map_or(Flow::Continue, Flow::Keep))
    }

    fn qkv(&mut self, at: At, new: &mut NewQkv) -> Result<()> {
        let mut hooks = self.0.iter_mut().filter(|hook| hook.needs(at).qkv);
        hooks.try_for_each(|hook| hook.qkv(at, new))
    }

    fn epilogue(&mut self, at: At, attention: Attention) -> Option<Rotation> {
        self.0.first_mut()?.epilogue(at, attention)
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        o: &mut HeadOutputs,
        applied: bool,
    ) -> Result<()> {
        let mut hooks = self.0.iter_mut().enumerate();
        hooks.try_for_each(|(i, hook)| {
            if hook.needs(at).outputs {
                hook.head_outputs(at, attention, o, applied && i == 0)?;
            }
            Ok(())
        })
    }
}

/// Finds the first hook of type `T`, inside chains too.
pub fn find<T: Hook>(hook: &dyn Hook) -> Option<&T> {
    let any: &dyn Any = hook;
    if let Some(found) = any.downcast_ref() {
        return Some(found);
    }
    any.downcast_ref::<Chain>()?
        .0
        .iter()
        .find_map(|h| find(h.as_ref()))
}

/// Keeps what passes by during the prefill, for comparison with other implementations. Put it last in a [`Chain`]
/// to see head outputs as the output projection does.
#[derive(Default)]
pub struct Recorder {
    /// Keep the hidden states that enter each layer.
    pub wants_hidden: bool,
    /// Keep the head outputs of each layer.
    pub wants_head_outputs: bool,
    /// `[S, hidden]` by layer.
    pub hidden: Vec<(usize, Vec<f32>)>,
    /// `[S, H * D]` by layer.
    pub head_outputs: Vec<(usize, Vec<f32>)>,
}

impl Hook for Recorder {
    fn needs(&self, at: At) -> Needs {
        Needs {
            input: at.prefill && self.wants_hidden,
            outputs: at.prefill && self.wants_head_outputs,
            ..Needs::default()
        }
    }

    fn layer_input(&mut self, at: At, x: Hidden) -> Result<Flow> {
        self.hidden.push((at.layer, x.host().to_vec()));
        Ok(Flow::Continue)
    }

    fn head_outputs(
        &mut self,
        at: At,
        _attention: Attention,
        o: &mut HeadOutputs,
        _applied: bool,
    ) -> Result<()> {
        self.head_outputs.push((at.layer, o.host().to_vec()));
        Ok(())
    }
}
