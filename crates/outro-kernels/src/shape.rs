//! Sizes of an attention layer.

/// Head counts and dimension of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads G; H is a multiple of G, and query head h reads `h / (H / G)`.
    pub kv_heads: usize,
    /// Head dimension D.
    pub dim: usize,
}
