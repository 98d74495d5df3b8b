//! Keys and values of one layer of one request.

use std::str::FromStr;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use outro_kernels::{Cached, Stored};

use crate::error::{Error, Result};
use crate::hook::RowMap;

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

/// Rows `[tokens, G * D]` of one type.
#[derive(Debug)]
enum Block {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Block {
    fn new(kv: KvType) -> Self {
        match kv {
            KvType::F32 => Self::F32(Vec::new()),
            KvType::F16 => Self::F16(Vec::new()),
        }
    }

    /// An empty one of the same type.
    fn like(&self) -> Self {
        match self {
            Self::F32(_) => Self::new(KvType::F32),
            Self::F16(_) => Self::new(KvType::F16),
        }
    }

    fn stored(&self) -> Stored<'_> {
        match self {
            Self::F32(x) => Stored::F32(x),
            Self::F16(x) => Stored::F16(x),
        }
    }

    fn push(&mut self, rows: &[f32]) {
        match self {
            Self::F32(x) => x.extend_from_slice(rows),
            Self::F16(x) => {
                let old = x.len();
                x.resize(old + rows.len(), f16::ZERO);
                x[old..].convert_from_f32_slice(rows);
            }
        }
    }
}

/// Rows `[tokens, G * D]` that grow, behind rows that may be shared with other requests and never change.
#[derive(Debug)]
pub(crate) struct Rows {
    shared: Option<Arc<Block>>,
    own: Block,
}

impl Rows {
    fn new(kv: KvType) -> Self {
        Self {
            shared: None,
            own: Block::new(kv),
        }
    }

    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.view().len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.view().bytes()
    }

    pub(crate) fn push(&mut self, rows: &[f32]) {
        self.own.push(rows);
    }

    /// For attention.
    pub(crate) fn view(&self) -> Cached<'_> {
        match &self.shared {
            None => self.own.stored().into(),
            Some(shared) => Cached::two(shared.stored(), self.own.stored()),
        }
    }

    /// For hooks: all rows in f32, in `wide` where they do not lie so.
    pub(crate) fn wide<'a>(&'a self, wide: &'a mut Vec<f32>) -> &'a [f32] {
        if let (None, Block::F32(x)) = (&self.shared, &self.own) {
            return x;
        }
        wide.resize(self.len(), 0.0);
        self.view().widen(wide);
        wide
    }

    /// These rows, to be shared from now on.
    fn share(self) -> Self {
        let own = self.own.like();
        Self {
            // A prefix is made of nothing but its own rows.
            shared: self.shared.or_else(|| Some(Arc::new(self.own))),
            own,
        }
    }

    /// The same shared rows, with nothing behind them.
    fn behind(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            own: self.own.like(),
        }
    }
}

/// Keys and values of one layer of one request, `[tokens, G * D]` each.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) k: Rows,
    pub(crate) v: Rows,
    /// Where its keys came from.
    pub(crate) rows: RowMap,
}

impl LayerCache {
    pub(crate) fn new(kv: KvType) -> Self {
        Self {
            k: Rows::new(kv),
            v: Rows::new(kv),
            rows: RowMap::default(),
        }
    }

    /// Its rows, for other requests to begin with.
    pub(crate) fn share(self) -> Self {
        Self {
            k: self.k.share(),
            v: self.v.share(),
            rows: self.rows,
        }
    }

    /// A request that begins with the shared rows of this one; nothing is copied.
    pub(crate) fn behind(&self) -> Self {
        Self {
            k: self.k.behind(),
            v: self.v.behind(),
            rows: self.rows.clone(),
        }
    }
}
