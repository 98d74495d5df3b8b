//! Matrices that other tools have packed: found by the tensors that are there, read into the engine's blocks at loading.
//!
//! Numbers stay those of the file: a block is `scale * (code - zero)` with its scale and zero point as stored, to be
//! multiplied in f32. What fits no block (rows that are no multiples of 32) becomes f32.

mod layouts;
mod open;
mod order;
mod scheme;

use std::path::Path;

use outro_kernels::{Code, GroupLen, Head, QuantType, e4m3, put_group};
use rayon::prelude::*;

use super::matrix::{Data, Matrix, Stored, convert, widen_bytes};
use super::{Checkpoint, Dtype, TensorInfo};
use crate::error::{Error, Result};
pub use scheme::{MlxForm, Part as CompressedPart, Scheme};

/// A matrix in several tensors: which they are, and what they must be.
pub(super) struct Packed {
    form: Form,
    /// The name of the layer, without `.weight`.
    stem: String,
    pub(super) parts: Vec<Part>,
}

/// One tensor of a packed matrix.
pub(super) struct Part {
    pub(super) key: String,
    /// Types as the file format calls them; none where any will do.
    pub(super) types: &'static [&'static str],
    pub(super) shape: Shape,
}

pub(super) enum Shape {
    /// One of these, the most usual first.
    Of(Vec<Vec<usize>>),
    /// So many bytes, whatever the shape and the type.
    Bytes(usize),
    /// Any.
    Any,
}

/// Layouts, with what the configuration says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Awq {
        group: usize,
    },
    Gptq {
        bits: usize,
        group: usize,
        second: bool,
    },
    /// `weight_packed` of compressed-tensors.
    Words {
        bits: usize,
        group: usize,
    },
    /// Floats or integers of 8 bits under the plain name, and scales in `weight_scale` or `weight_scale_inv`.
    Bytes {
        float: bool,
        scale: &'static str,
        block: Option<[usize; 2]>,
    },
    /// bitsandbytes, 4 bits.
    Four {
        nested: bool,
        fp4: bool,
    },
    /// bitsandbytes, 8 bits.
    Eight,
    Mlx {
        bits: usize,
        group: usize,
    },
}

/// Types of scales.
const FLOATS: &[&str] = &["F16", "BF16", "F32"];

impl Part {
    fn of(key: String, types: &'static [&'static str], shape: &[usize]) -> Self {
        let shape = Shape::Of(vec![shape.to_vec()]);
        Self { key, types, shape }
    }

    /// Whether the tensor has a type that is read.
    pub(super) fn readable(&self, info: &TensorInfo) -> bool {
        self.types.is_empty() || self.types.contains(&info.dtype.as_str())
    }

    /// The shape that it should have.
    pub(super) fn wanted(&self) -> Vec<usize> {
        match &self.shape {
            Shape::Of(shapes) => shapes.first().cloned().unwrap_or_default(),
            Shape::Bytes(n) => vec![*n, 1],
            Shape::Any => Vec::new(),
        }
    }

    /// The same, where it has another.
    pub(super) fn bent(&self, info: &TensorInfo) -> Option<Vec<usize>> {
        let fits = match &self.shape {
            Shape::Of(shapes) => shapes.contains(&info.shape),
            Shape::Bytes(n) => *n == info.bytes(),
            Shape::Any => true,
        };
        (!fits).then(|| self.wanted())
    }
}

/// What a matrix's codes count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Low {
    /// The middle of their range, or they are floats.
    Middle,
    /// A zero point of each group.
    Zero,
    /// Zero, and a number is added.
    Bias,
}

type Codes<'a> = Box<dyn Fn(usize, &mut [u8]) + Sync + 'a>;
type Params<'a> = Box<dyn Fn(usize, usize) -> (f32, f32) + Sync + 'a>;

/// An opened layout: codes and what is said about groups of them, in the order of the original matrix.
struct Source<'a> {
    code: Code,
    /// Values of codes of 4 bits that are not those of [`Code`].
    table: Option<[f32; 16]>,
    low: Low,
    /// In what the scales are stored.
    scales: Stored,
    /// Whether every scale fits beside a zero point.
    narrow: bool,
    /// What `params` says holds for so many neighbours, counted from the start of a row, or of the order.
    unit: usize,
    /// Which column comes first, second...: those of a group lie together.
    order: Option<Vec<u32>>,
    /// Codes of rows from one on, a byte each, as many as the slice holds.
    codes: Codes<'a>,
    /// Scale, and zero point or bias, at a row and a column.
    params: Params<'a>,
}

/// Rows that are taken apart at a time: in AWQ's and GPTQ's layouts neighbours lie side by side.
const PANEL: usize = 128;

impl Source<'_> {
    fn value(&self, q: u8, (scale, low): (f32, f32)) -> f32 {
        let x = match (self.code, &self.table) {
            (Code::E4m3, _) => e4m3(q),
            (_, Some(table)) => table[usize::from(q & 15)],
            (Code::Nf4 | Code::Fp4, None) => self.code.table().map_or(0.0, |t| t[usize::from(q & 15)]),
            (Code::Int4 | Code::Int8, None) => f32::from(q),
        };
        match self.low {
            Low::Middle => scale * (x - f32::from(self.code.middle())),
            Low::Zero => scale * (x - low),
            Low::Bias => scale.mul_add(x, low),
        }
    }

    /// The shortest head that holds all numbers.
    fn head(&self) -> Head {
        match (self.low, self.scales) {
            (Low::Middle, Stored::Bf16) => Head::Bf16,
            (Low::Middle, Stored::F16) => Head::F16,
            (Low::Middle, _) => Head::F32,
            (Low::Zero, _) if self.narrow => Head::Zero,
            (Low::Bias, Stored::Bf16) => Head::Bf16Bias,
            (Low::Bias, Stored::F16) => Head::F16Bias,
            (Low::Zero | Low::Bias, _) => Head::F32Bias,
        }
    }

    /// Blocks of `rows` rows of `cols`; f32 where no block fits.
    fn build(self, rows: usize, cols: usize) -> (Data, Option<Vec<u32>>) {
        let fits = |len: &GroupLen| cols.is_multiple_of(len.get()) && self.unit.is_multiple_of(len.get());
        let Some(len) = GroupLen::ALL
            .into_iter()
            .find(fits)
            .filter(|_| self.table.is_none())
        else {
            return (Data::F32(self.wide(rows, cols).into()), None);
        };
        let (code, head) = (self.code, self.head());
        let kind = QuantType::Group { code, head, len };
        let (len, size) = (len.get(), kind.block_bytes());
        let row_bytes = cols / len * size;
        let mut out = vec![0u8; rows * row_bytes];
        out.par_chunks_mut(PANEL * row_bytes).enumerate().for_each_init(
            || (vec![0u8; PANEL * cols], vec![0u8; cols]),
            |(codes, sorted), (panel, out)| {
                let first = panel * PANEL;
                let codes = &mut codes[..out.len() / row_bytes * cols];
                (self.codes)(first, codes);
                for ((i, out), codes) in out
                    .chunks_exact_mut(row_bytes)
                    .enumerate()
                    .zip(codes.chunks_exact(cols))
                {
                    let codes = match &self.order {
                        None => codes,
                        Some(order) => {
                            for (to, from) in sorted.iter_mut().zip(order) {
                                *to = codes[*from as usize];
                            }
                            &*sorted
                        }
                    };
                    for (b, (out, codes)) in out
                        .chunks_exact_mut(size)
                        .zip(codes.chunks_exact(len))
                        .enumerate()
                    {
                        let col = self.order.as_ref().map_or(b * len, |o| o[b * len] as usize);
                        let (scale, low) = (self.params)(first + i, col);
                        let low = if self.low == Low::Zero && head == Head::F32Bias {
                            -scale * low
                        } else {
                            low
                        };
                        put_group(kind, scale, low, codes, out);
                    }
                }
            },
        );
        (Data::Quant(kind, out.into()), self.order)
    }

    fn wide(&self, rows: usize, cols: usize) -> Vec<f32> {
        let mut out = vec![0f32; rows * cols];
        out.par_chunks_mut(PANEL * cols).enumerate().for_each_init(
            || vec![0u8; PANEL * cols],
            |codes, (panel, out)| {
                let codes = &mut codes[..out.len()];
                (self.codes)(panel * PANEL, codes);
                for (i, (out, codes)) in out
                    .chunks_exact_mut(cols)
                    .zip(codes.chunks_exact(cols))
                    .enumerate()
                {
                    for (col, (out, q)) in out.iter_mut().zip(codes).enumerate() {
                        *out = self.value(*q, (self.params)(panel * PANEL + i, col));
                    }
                }
            },
        );
        out
    }
}

/// Tensors beside packed ones that only runs on other hardware need.
pub(super) const IDLE: [&str; 6] = [
    ".input_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
    ".weight_format",
    ".input_global_scale",
];

/// Ends of the names of what stands beside packed codes.
const BESIDE: [&str; 15] = [
    ".qzeros",
    ".g_idx",
    ".scales",
    ".biases",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_zero_point",
    ".weight_g_idx",
    ".weight_shape",
    ".SCB",
    ".weight.absmax",
    ".weight.quant_map",
    ".weight.nested_absmax",
    ".weight.nested_quant_map",
    ".weight_format",
];

impl Checkpoint {
    /// How many weights a tensor of a packed matrix stands for: none where it is scales and the like. `None` for plain
    /// tensors. `key` is one of [`Checkpoint::tensors`].
    pub fn packed_weights(&self, key: &str) -> Option<u64> {
        let (scheme, info) = (self.scheme.as_ref()?, self.tensors.get(key)?);
        let beside = |end: &&str| key.ends_with(*end);
        if BESIDE.iter().chain(&IDLE).any(beside) || key.contains(layouts::STATE) {
            return Some(0);
        }
        let (stem, part) = key.rsplit_once('.')?;
        let holds = |part: &str| self.tensors.contains_key(&format!("{stem}.{part}"));
        let bits = match (scheme, part) {
            (Scheme::Awq { .. }, "qweight") => 4,
            (Scheme::Gptq { bits, .. }, "qweight") => *bits,
            (Scheme::Compressed(parts), "weight_packed") => {
                parts.iter().find(|p| !p.float).map_or(4, |p| p.bits)
            }
            (Scheme::Bitsandbytes, "weight") if holds("weight.absmax") => 4,
            (Scheme::Bitsandbytes, "weight") if holds("SCB") => 8,
            (Scheme::Mlx { of_all, of_layers }, "weight") if holds("scales") => {
                of_layers
                    .get(info.name.strip_suffix(".weight")?)
                    .unwrap_or(of_all)
                    .bits
            }
            (_, "weight") if matches!(info.dtype.as_str(), "F8_E4M3" | "I8") => 8,
            _ => return None,
        };
        Some(info.bytes() as u64 * 8 / bits as u64)
    }

    /// Whether there is a tensor or a packed matrix of this name.
    pub(super) fn holds_packed(&self, name: &str) -> bool {
        name.strip_suffix(".weight").is_some_and(|stem| {
            ["qweight", "weight_packed"]
                .iter()
                .any(|part| self.tensors.contains_key(&format!("{stem}.{part}")))
        })
    }

    /// The layout of a matrix that is packed, by headers alone; `None` where it is not, or there is none.
    ///
    /// # Errors
    /// Tensors of a layout that config.json does not speak of.
    pub(super) fn packed(&self, name: &str, shape: &[usize]) -> Result<Option<Packed>> {
        let (Some(stem), [rows, rest @ ..]) = (name.strip_suffix(".weight"), shape) else {
            return Ok(None);
        };
        // Sizes are at most 2^24 each; what is too large is no packed matrix.
        let cols = rest.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let Some(cols) = cols.filter(|c| c.checked_mul(*rows).is_some_and(|n| n > 0 && n < 1 << 48)) else {
            return Ok(None);
        };
        let place = Place {
            checkpoint: self,
            stem,
            rows: *rows,
            cols,
        };
        let Some((form, parts)) = place.form()? else {
            return Ok(None);
        };
        Ok(Some(Packed {
            form,
            stem: stem.into(),
            parts,
        }))
    }

    /// Reads a packed matrix.
    pub(super) fn unpack(
        &self,
        packed: &Packed,
        name: &str,
        shape: &[usize],
        dtype: Dtype,
    ) -> Result<Matrix> {
        let (rows, cols) = (shape[0], shape[1..].iter().product());
        for part in &packed.parts {
            self.check(part)?;
        }
        let source = self.source(packed, rows, cols)?;
        let (data, order) = source.build(rows, cols);
        for part in &packed.parts {
            self.release(&part.key);
        }
        let shown = self.shown(packed, name);
        let matrix = Matrix {
            name: shown,
            rows,
            cols,
            data,
            order: order.map(Into::into),
        };
        if dtype == Dtype::Auto {
            return Ok(matrix);
        }
        // In the original order, as everything else of this type.
        let mut wide = vec![0f32; rows * cols];
        wide.par_chunks_exact_mut(cols)
            .enumerate()
            .for_each(|(r, out)| matrix.row(r, out));
        let data = convert(wide, dtype).ok_or_else(|| Error::Narrow {
            path: self.dir.clone(),
            tensor: matrix.name.clone(),
            dtype: "f16",
        })?;
        Ok(Matrix {
            data,
            order: None,
            ..matrix
        })
    }

    /// The name of the tensor that has the codes, in the file.
    fn shown(&self, packed: &Packed, name: &str) -> String {
        let first = packed.parts.first().and_then(|p| self.tensors.get(&p.key));
        first.map_or_else(|| name.to_owned(), |info| info.name.clone())
    }

    fn check(&self, part: &Part) -> Result<()> {
        let Some(info) = self.tensors.get(&part.key) else {
            return Err(Error::checkpoint(
                &self.dir,
                format!(
                    "tensor `{}` is missing, and others of the same packed matrix are there; a shard is missing, or the \
                     quantiser failed",
                    part.key
                ),
            ));
        };
        let path = &self.shards[info.shard].0;
        if !part.readable(info) {
            return Err(Error::unsupported(
                path,
                "",
                format!(
                    "tensor `{}` is of type {}; in this layout {} is read",
                    info.name,
                    info.dtype,
                    part.types.join(", ")
                ),
            ));
        }
        if let Some(wanted) = part.bent(info) {
            return Err(Error::checkpoint(
                path,
                format!(
                    "tensor `{}` has the shape {:?}, the layout asks for {wanted:?}; config.json's sizes, bits or group are \
                     of another checkpoint",
                    info.name, info.shape
                ),
            ));
        }
        Ok(())
    }

    /// A complaint about what a tensor of a packed matrix holds.
    fn wrong(&self, key: &str, problem: &str) -> Error {
        match self.tensors.get(key) {
            Some(info) => {
                let path: &Path = &self.shards[info.shard].0;
                Error::checkpoint(path, format!("tensor `{}` {problem}", info.name))
            }
            None => Error::checkpoint(&self.dir, format!("tensor `{key}` {problem}")),
        }
    }

    /// A tensor's bytes; none where it is absent.
    fn bytes(&self, key: &str) -> &[u8] {
        self.tensors
            .get(key)
            .map_or(&[], |info| &self.shards[info.shard].1[info.start..info.end])
    }

    /// A tensor of floats, widened, and how they were stored.
    fn floats(&self, key: &str) -> (Vec<f32>, Stored) {
        let stored = self
            .tensors
            .get(key)
            .and_then(|info| Stored::of_name(&info.dtype));
        let stored = stored.unwrap_or(Stored::F32);
        (widen_bytes(self.bytes(key), stored), stored)
    }

    /// Tells the system that a tensor's pages are not needed any more: what was made of them takes their place in memory.
    #[cfg(unix)]
    fn release(&self, key: &str) {
        let Some(info) = self.tensors.get(key) else { return };
        let map = &self.shards[info.shard].1;
        // SAFETY: the map is read-only and of a file, so pages that are dropped are read again when somebody asks for them.
        #[expect(unsafe_code, reason = "memory-mapping the weights")]
        // That it fails costs memory and nothing else.
        let _ = unsafe {
            map.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                info.start,
                info.end - info.start,
            )
        };
    }

    #[cfg(not(unix))]
    fn release(&self, _: &str) {}
}

/// A matrix that is looked for.
struct Place<'a> {
    checkpoint: &'a Checkpoint,
    stem: &'a str,
    rows: usize,
    cols: usize,
}
