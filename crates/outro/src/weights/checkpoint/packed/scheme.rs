//! What config.json says about packed weights, as far as the tensors do not say it themselves.

use std::collections::BTreeMap;

/// How a checkpoint's linear layers are packed. Which of them are is told by the tensors that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// AutoAWQ's `gemm` layout, 4 bits; `None` is one group a row.
    Awq {
        /// Inputs that share a scale.
        group: Option<usize>,
    },
    /// GPTQ.
    Gptq {
        /// 4 or 8.
        bits: usize,
        /// Inputs that share a scale; `None` is one group a row.
        group: Option<usize>,
        /// Whether zero points are stored as they are; format 1 stores them less 1.
        second: bool,
    },
    /// compressed-tensors; one entry for each of its `config_groups`.
    Compressed(Vec<Part>),
    /// FP8 of vLLM and of Qwen's files, with scales for blocks of `[outputs, inputs]` or for whole matrices.
    Fp8 {
        /// `weight_block_size`.
        block: Option<[usize; 2]>,
    },
    /// bitsandbytes, 4 or 8 bits: its tensors say the rest.
    Bitsandbytes,
    /// MLX's affine form.
    Mlx {
        /// What holds where a layer says nothing else.
        of_all: MlxForm,
        /// Layers of their own, by their names in the file.
        of_layers: BTreeMap<String, MlxForm>,
    },
}

/// A group of layers of compressed-tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 4 or 8.
    pub bits: usize,
    /// Whether elements are floats.
    pub float: bool,
    /// Inputs that share a scale, where the strategy is by groups.
    pub group: Option<usize>,
    /// `block_structure`.
    pub block: Option<[usize; 2]>,
    /// Whether there are no zero points.
    pub symmetric: bool,
}

/// Bits and group of a layer of MLX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlxForm {
    /// 4 or 8.
    pub bits: usize,
    /// 32, 64 or 128.
    pub group: usize,
}

impl Scheme {
    /// As its makers call it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Awq { .. } => "AWQ",
            Self::Gptq { .. } => "GPTQ",
            Self::Compressed(_) => "compressed-tensors",
            Self::Fp8 { .. } => "FP8",
            Self::Bitsandbytes => "bitsandbytes",
            Self::Mlx { .. } => "MLX",
        }
    }
}
