//! Keys and values of one layer of one request.

use std::str::FromStr;

use half::f16;
use half::slice::HalfFloatSliceExt;
use outro_kernels::Cached;

use crate::error::{Error, Result};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// As they are computed.
    #[default]
    F32,
    /// Half the memory, rounded to 11 bits of precision; what is beyond 65,504 becomes infinite and is noticed.
    F16,
}

impl FromStr for KvType {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            _ => Err(Error::Setting {
                key: "kv".into(),
                problem: format!("is `{s}`; possible: f32, f16"),
            }),
        }
    }
}

/// Rows `[tokens, G * D]` that grow.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Rows {
    fn new(kv: KvType) -> Self {
        match kv {
            KvType::F32 => Self::F32(Vec::new()),
            KvType::F16 => Self::F16(Vec::new()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.view().len()
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::F32(x) => size_of_val(x.as_slice()),
            Self::F16(x) => size_of_val(x.as_slice()),
        }
    }

    pub(crate) fn push(&mut self, rows: &[f32]) {
        match self {
            Self::F32(x) => x.extend_from_slice(rows),
            Self::F16(x) => {
                let old = x.len();
                x.resize(old + rows.len(), f16::ZERO);
                x[old..].convert_from_f32_slice(rows);
            }
        }
    }

    /// For attention.
    pub(crate) fn view(&self) -> Cached<'_> {
        match self {
            Self::F32(x) => Cached::F32(x),
            Self::F16(x) => Cached::F16(x),
        }
    }

    /// For hooks; widened into `wide` where they must be, and empty where nobody `reads` them and that would cost.
    pub(crate) fn wide<'a>(&'a self, reads: bool, wide: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::F32(x) => x,
            Self::F16(x) if reads => {
                wide.resize(x.len(), 0.0);
                x.convert_to_f32_slice(wide);
                wide
            }
            Self::F16(_) => &[],
        }
    }
}

/// Keys and values of one layer of one request, `[tokens, G * D]` each.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    pub(crate) k: Rows,
    pub(crate) v: Rows,
}

impl LayerCache {
    pub(crate) fn new(kv: KvType) -> Self {
        Self {
            k: Rows::new(kv),
            v: Rows::new(kv),
        }
    }
}
