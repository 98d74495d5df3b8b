//! Keys and values of one layer of one request.

use std::str::FromStr;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use outro_kernels::{Cached, KvBlocks, KvQuant, Stored};

use crate::error::{Error, Result};
use crate::hook::RowMap;

/// How keys and values are kept. What is rounded is rounded when it is written, and everybody reads the same rows: attention of
/// the prompt itself, of other requests behind a shared prefix, and hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// As they are computed.
    #[default]
    F32,
    /// Half the memory, rounded to 11 bits of precision; what is beyond 65,504 becomes infinite and is noticed.
    F16,
    /// 8.5 bits a number: 8 bits and a scale for 32 numbers of a head.
    Q8_0,
    /// 5 bits a number: each head's row is turned by a Hadamard matrix, then 4 bits, a scale and a minimum for 32 numbers.
    Q4,
}

impl KvType {
    /// All of them, the most exact first.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q8_0, Self::Q4];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4 => "q4",
        }
    }

    /// How rows are quantised, if they are.
    fn quantised(self) -> Option<KvQuant> {
        match self {
            Self::F32 | Self::F16 => None,
            Self::Q8_0 => Some(KvQuant::Q8_0),
            Self::Q4 => Some(KvQuant::Q4),
        }
    }

    /// Bytes of the keys, or of the values, of one token in one head of `dim` numbers.
    pub fn head_bytes(self, dim: usize) -> usize {
        match self.quantised() {
            Some(kind) => kind.row_bytes(dim),
            None => dim * if self == Self::F16 { 2 } else { 4 },
        }
    }
}

impl FromStr for KvType {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kv| kv.name() == s)
            .ok_or_else(|| Error::Setting {
                key: "kv".into(),
                problem: format!("is `{s}`; possible: {}", Self::ALL.map(Self::name).join(", ")),
            })
    }
}

/// Rows `[tokens, G * D]` of one type.
#[derive(Debug)]
enum Block {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Quantised {
        kind: KvQuant,
        dim: usize,
        bytes: Vec<u8>,
    },
}

impl Block {
    fn new(kv: KvType, dim: usize) -> Self {
        match (kv, kv.quantised()) {
            (_, Some(kind)) => Self::Quantised {
                kind,
                dim,
                bytes: Vec::new(),
            },
            (KvType::F16, None) => Self::F16(Vec::new()),
            (_, None) => Self::F32(Vec::new()),
        }
    }

    /// An empty one of the same type.
    fn like(&self) -> Self {
        match self {
            Self::F32(_) => Self::F32(Vec::new()),
            Self::F16(_) => Self::F16(Vec::new()),
            Self::Quantised { kind, dim, .. } => Self::Quantised {
                kind: *kind,
                dim: *dim,
                bytes: Vec::new(),
            },
        }
    }

    fn stored(&self) -> Stored<'_> {
        match self {
            Self::F32(x) => Stored::F32(x),
            Self::F16(x) => Stored::F16(x),
            Self::Quantised { kind, dim, bytes } => Stored::Quantised(KvBlocks::new(*kind, *dim, bytes)),
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
            Self::Quantised { kind, dim, bytes } => kind.push(*dim, rows, bytes),
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
    fn new(kv: KvType, dim: usize) -> Self {
        Self {
            shared: None,
            own: Block::new(kv, dim),
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

    /// For attention and hooks.
    pub(crate) fn view(&self) -> Cached<'_> {
        match &self.shared {
            None => self.own.stored().into(),
            Some(shared) => Cached::two(shared.stored(), self.own.stored()),
        }
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
    /// An empty one for heads of `dim` numbers.
    pub(crate) fn new(kv: KvType, dim: usize) -> Self {
        Self {
            k: Rows::new(kv, dim),
            v: Rows::new(kv, dim),
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
