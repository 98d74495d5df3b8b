//! A weight matrix, mapped or owned, of any element type.

use std::borrow::Cow;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use outro_kernels::{Blocks, QuantType, Weight};

use super::Dtype;

/// How elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    Bf16,
    F16,
    Quant(QuantType),
}

impl Stored {
    /// Bytes of `n` elements; `None` where they are not whole blocks, or too many.
    pub(crate) fn bytes_of(self, n: usize) -> Option<usize> {
        match self {
            Self::F32 => n.checked_mul(4),
            Self::Bf16 | Self::F16 => n.checked_mul(2),
            Self::Quant(kind) => kind.bytes_of(n),
        }
    }

    /// Elements of which a row has a multiple.
    pub(crate) fn block_len(self) -> usize {
        match self {
            Self::Quant(kind) => kind.block_len(),
            _ => 1,
        }
    }

    /// What holds matrices so; `None` for blocks.
    pub(crate) fn dtype(self) -> Option<Dtype> {
        match self {
            Self::F32 => Some(Dtype::F32),
            Self::Bf16 => Some(Dtype::Bf16),
            Self::F16 => Some(Dtype::F16),
            Self::Quant(_) => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Quant(kind) => kind.name(),
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let quant = QuantType::ALL.into_iter().map(Self::Quant);
        quant
            .chain([Self::F32, Self::Bf16, Self::F16])
            .find(|s| s.name() == name)
    }
}

/// A weight matrix `[rows, cols]`, or a higher tensor seen as one.
#[derive(Clone)]
pub struct Matrix {
    pub(super) name: String,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) data: Data,
    /// Which input each stored column is multiplied with, where columns are not in order.
    pub(super) order: Option<Arc<[u32]>>,
}

#[derive(Clone)]
pub(super) enum Data {
    Mapped {
        map: Arc<Mmap>,
        start: usize,
        end: usize,
        stored: Stored,
    },
    F32(Arc<[f32]>),
    Bf16(Arc<[bf16]>),
    F16(Arc<[f16]>),
    Quant(QuantType, Arc<[u8]>),
}

impl Matrix {
    /// Output dimension.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input dimension.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The tensor's name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which input each of [`Matrix::weight`]'s columns is multiplied with; `None` where they are in order.
    pub fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }

    /// Rows of inputs in the order of the columns; they are taken as they are where that is the same.
    pub(crate) fn gathered<'a>(&self, x: &'a [f32]) -> Cow<'a, [f32]> {
        let Some(order) = &self.order else {
            return Cow::Borrowed(x);
        };
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(order.len().max(1)) {
            out.extend(order.iter().map(|i| row[*i as usize]));
        }
        Cow::Owned(out)
    }

    /// The elements, for the kernels.
    pub fn weight(&self) -> Weight<'_> {
        match &self.data {
            // Alignment and length were checked when the tensor was opened.
            Data::Mapped {
                map,
                start,
                end,
                stored,
            } => {
                let bytes = &map[*start..*end];
                match stored {
                    Stored::Bf16 => Weight::Bf16(bytemuck::cast_slice(bytes)),
                    Stored::F16 => Weight::F16(bytemuck::cast_slice(bytes)),
                    Stored::F32 => Weight::F32(bytemuck::cast_slice(bytes)),
                    Stored::Quant(kind) => blocks(*kind, bytes),
                }
            }
            Data::Quant(kind, bytes) => blocks(*kind, bytes),
            Data::F32(w) => Weight::F32(w),
            Data::Bf16(w) => Weight::Bf16(w),
            Data::F16(w) => Weight::F16(w),
        }
    }

    /// Copies one row, widened, its columns in the model's order.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let out = &mut out[..self.cols];
        self.weight().widen(row * self.cols, out);
        if let Some(order) = &self.order {
            let sorted = out.to_vec();
            for (x, to) in sorted.iter().zip(order.iter()) {
                out[*to as usize] = *x;
            }
        }
    }

    /// Copies all rows, as [`Matrix::row`] does.
    pub(crate) fn all(&self, out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.row(row, out);
        }
    }

    /// Whether all elements are finite. Reads every one of them.
    pub fn is_finite(&self) -> bool {
        let mut row = vec![0f32; self.cols];
        (0..self.rows).all(|r| {
            self.row(r, &mut row);
            row.iter().all(|x| x.is_finite())
        })
    }

    /// Bytes that the elements take.
    pub fn bytes(&self) -> usize {
        self.weight().size()
    }

    pub(crate) fn stored(&self) -> Stored {
        match &self.data {
            Data::Mapped { stored, .. } => *stored,
            Data::F32(_) => Stored::F32,
            Data::Bf16(_) => Stored::Bf16,
            Data::F16(_) => Stored::F16,
            Data::Quant(kind, _) => Stored::Quant(*kind),
        }
    }

    /// The elements' bytes, row after row.
    fn raw(&self) -> &[u8] {
        match &self.data {
            Data::Mapped { map, start, end, .. } => &map[*start..*end],
            Data::F32(w) => bytemuck::cast_slice(w),
            Data::Bf16(w) => bytemuck::cast_slice(w),
            Data::F16(w) => bytemuck::cast_slice(w),
            Data::Quant(_, bytes) => bytes,
        }
    }

    /// Undoes llama.cpp's order of query and key rows: in every head of `dim` rows, row `2 i + j` becomes row
    /// `j * dim / 2 + i`, so that rotary pairs are half a head apart as in the original checkpoint. Exact: rows only move.
    pub(crate) fn deinterleaved(&self, dim: usize) -> Self {
        let raw = self.raw();
        let row = raw.len() / self.rows.max(1);
        let mut out = Vec::with_capacity(raw.len());
        // A hollow one has no rows.
        for head in raw.chunks((row * dim).max(1)) {
            for j in 0..2 {
                for pair in head.chunks(2 * row) {
                    out.extend_from_slice(&pair[j * row..(j + 1) * row]);
                }
            }
        }
        let data = match self.stored() {
            Stored::Quant(kind) => Data::Quant(kind, out.into()),
            stored => own(&out, stored),
        };
        Self { data, ..self.clone() }
    }
}

#[expect(
    clippy::expect_used,
    reason = "wholeness was checked when the bytes were taken in"
)]
fn blocks(kind: QuantType, bytes: &[u8]) -> Weight<'_> {
    Weight::Quant(Blocks::new(kind, bytes).expect("whole blocks"))
}

/// Bytes of a file as owned elements of the same type.
pub(super) fn own(bytes: &[u8], stored: Stored) -> Data {
    match stored {
        Stored::F32 => Data::F32(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        ),
        Stored::Bf16 => Data::Bf16(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| bf16::from_le_bytes(*b))
                .collect(),
        ),
        Stored::F16 => Data::F16(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f16::from_le_bytes(*b))
                .collect(),
        ),
        Stored::Quant(kind) => Data::Quant(kind, bytes.into()),
    }
}

pub(super) fn widen_bytes(bytes: &[u8], stored: Stored) -> Vec<f32> {
    let weight = |w: Weight| {
        let mut wide = vec![0f32; w.len()];
        w.widen(0, &mut wide);
        wide
    };
    match own(bytes, stored) {
        Data::F32(w) => w.to_vec(),
        Data::Bf16(w) => weight(Weight::Bf16(&w)),
        Data::F16(w) => weight(Weight::F16(&w)),
        Data::Quant(kind, _) => weight(blocks(kind, bytes)),
        Data::Mapped { .. } => Vec::new(),
    }
}

/// `None` when a finite value does not fit the type.
pub(super) fn convert(wide: Vec<f32>, dtype: Dtype) -> Option<Data> {
    Some(match dtype {
        Dtype::F32 | Dtype::Auto => Data::F32(wide.into()),
        Dtype::Bf16 => Data::Bf16(wide.iter().map(|x| bf16::from_f32(*x)).collect()),
        Dtype::F16 => {
            if wide.iter().any(|x| x.is_finite() && x.abs() > 65504.0) {
                return None;
            }
            let mut out = vec![f16::ZERO; wide.len()];
            out.convert_from_f32_slice(&wide);
            Data::F16(out.into())
        }
    })
}
