//! In which arithmetic rows are multiplied with weights.

/// What weights are multiplied with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// f32: exact products with the stored weights, up to the order of sums.
    #[default]
    F32,
    /// Rounded to what the processor multiplies fastest. With quantised weights: 8 bits with one scale for 32 elements, an
    /// error of up to 1/254 of the largest of the 32 (in prefill only with AVX-512 VNNI). With bf16 weights: bf16, in prefill
    /// on AMD processors with AVX512-BF16 (Intel's multiply f32 faster). All else stays f32.
    Reduced,
}

/// What rows belong to, which chooses the arithmetic. A row's result depends on it and on the row, never on how many other
/// rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Many rows of one prompt, and those of encoders: weights are packed panel by panel (gemm).
    Prefill,
    /// One row each of one or several requests: weights are streamed as they are stored (gemv).
    Decode,
}
