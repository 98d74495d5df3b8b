//! Where each layout has its numbers: which bits of which tensor are a code, a scale, a zero point.

use outro_kernels::{Code, FP4, Head, NF4};
use rayon::prelude::*;
use serde_json::Value;

use super::layouts::STATE;
use super::order::{Groups, groups};
use super::{Form, Low, Packed, Source};
use crate::error::{Error, Result};
use crate::weights::checkpoint::Checkpoint;
use crate::weights::checkpoint::matrix::Stored;

/// The output of a word's nibbles in AWQ's layout: nibble `AWQ[j]` is output `j`.
const AWQ: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
/// Word `i` of a tensor.
fn word(bytes: &[u8], i: usize) -> u32 {
    let b = &bytes[4 * i..4 * i + 4];
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

/// Code `i` of a row of words that are filled from the lowest bits on.
fn code(bytes: &[u8], first: usize, i: usize, bits: usize) -> u8 {
    let per = 32 / bits;
    (word(bytes, first + i / per) >> (bits * (i % per))) as u8 & mask(bits)
}

const fn mask(bits: usize) -> u8 {
    if bits == 4 { 15 } else { 255 }
}

const fn integer(bits: usize) -> Code {
    if bits == 4 { Code::Int4 } else { Code::Int8 }
}

/// Where every zero point is the middle of the range, none has to be kept.
fn low(zeros: &[u8], code: Code) -> Low {
    if zeros.iter().all(|z| *z == code.middle()) {
        Low::Middle
    } else {
        Low::Zero
    }
}

/// What scales hold for so many neighbours: a group that is a whole row is as long as anybody likes.
fn unit(group: usize, cols: usize) -> usize {
    if group >= cols { 128 } else { group }
}

impl Checkpoint {
    /// Opens the tensors, which have been checked.
    pub(super) fn source(&self, packed: &Packed, rows: usize, cols: usize) -> Result<Source<'_>> {
        let key = |part: &str| format!("{}.{part}", packed.stem);
        let of = |part: &str| self.bytes(&key(part));
        match packed.form {
            Form::Awq { group } => self.open_awq(&key, rows, cols, group),
            Form::Gptq { bits, group, second } => self.open_gptq(&key, rows, cols, (bits, group, second)),
            Form::Words { bits, group } => self.open_words(&key, rows, cols, (bits, group)),
            Form::Bytes { float, scale, block } => self.open_bytes(&key, (rows, cols), float, scale, block),
            Form::Four { nested, fp4 } => self.open_four(&key, (rows, cols), nested, fp4),
            Form::Eight => {
                let (scales, _) = self.floats(&key("SCB"));
                let weight = of("weight");
                Ok(Source {
                    code: Code::Int8,
                    table: None,
                    low: Low::Middle,
                    scales: Stored::F32,
                    narrow: false,
                    unit: 128,
                    order: None,
                    codes: Box::new(move |row, out| flipped(&weight[row * cols..][..out.len()], out)),
                    params: Box::new(move |row, _| (scales[row] / 127.0, 0.0)),
                })
            }
            Form::Mlx { bits, group } => {
                if !cols.is_multiple_of(group) {
                    let problem = format!("has rows of {cols}, which are no multiples of the group {group}");
                    return Err(self.wrong(&key("weight"), &problem));
                }
                let ((scales, stored), (biases, other)) =
                    (self.floats(&key("scales")), self.floats(&key("biases")));
                let (weight, words, groups) = (of("weight"), cols * bits / 32, cols / group);
                Ok(Source {
                    code: integer(bits),
                    table: None,
                    low: Low::Bias,
                    scales: if stored == other { stored } else { Stored::F32 },
                    narrow: false,
                    unit: group,
                    order: None,
                    codes: Box::new(move |row, out| {
                        for (r, out) in out.chunks_exact_mut(cols).enumerate() {
                            for (i, out) in out.iter_mut().enumerate() {
                                *out = code(weight, (row + r) * words, i, bits);
                            }
                        }
                    }),
                    params: Box::new(move |row, col| {
                        let at = row * groups + col / group;
                        (scales[at], biases[at])
                    }),
                })
            }
        }
    }

    fn open_awq(
        &self,
        key: &dyn Fn(&str) -> String,
        rows: usize,
        cols: usize,
        group: usize,
    ) -> Result<Source<'_>> {
        if !cols.is_multiple_of(group) || !rows.is_multiple_of(8) {
            let problem =
                format!("is [{rows}, {cols}]; AWQ's are multiples of 8 by multiples of the group {group}");
            return Err(self.wrong(&key("qweight"), &problem));
        }
        let (weight, packed, words) = (self.bytes(&key("qweight")), self.bytes(&key("qzeros")), rows / 8);
        let (scales, stored) = self.floats(&key("scales"));
        let nibble = move |bytes: &[u8], row: usize, n: usize| {
            (word(bytes, row * words + n / 8) >> (4 * AWQ[n % 8])) as u8 & 15
        };
        let zeros: Vec<u8> = (0..cols / group * rows)
            .map(|i| nibble(packed, i / rows, i % rows))
            .collect();
        Ok(Source {
            code: Code::Int4,
            table: None,
            low: low(&zeros, Code::Int4),
            narrow: scales.iter().all(|s| Head::holds(*s)),
            scales: stored,
            unit: unit(group, cols),
            order: None,
            codes: Box::new(move |row, out| {
                let count = out.len() / cols;
                for k in 0..cols {
                    for r in 0..count {
                        out[r * cols + k] = nibble(weight, k, row + r);
                    }
                }
            }),
            params: Box::new(move |row, col| {
                let at = col / group * rows + row;
                (scales[at], f32::from(zeros[at]))
            }),
        })
    }

    fn open_gptq(
        &self,
        key: &dyn Fn(&str) -> String,
        rows: usize,
        cols: usize,
        (bits, group, second): (usize, usize, bool),
    ) -> Result<Source<'_>> {
        let per = 32 / bits;
        if !cols.is_multiple_of(per) || !rows.is_multiple_of(per) {
            let problem = format!("is [{rows}, {cols}]; GPTQ's are multiples of {per} by {per}");
            return Err(self.wrong(&key("qweight"), &problem));
        }
        let (weight, packed) = (self.bytes(&key("qweight")), self.bytes(&key("qzeros")));
        let (scales, stored) = self.floats(&key("scales"));
        let count = cols.div_ceil(group);
        // Format 1 has zero points less 1, taken from whole words.
        let one = match (second, bits) {
            (true, _) => 0,
            (false, 4) => 0x1111_1111,
            (false, _) => 0x0101_0101,
        };
        let words = rows / per;
        let zeros: Vec<u8> = (0..count * rows)
            .map(|i| {
                let (g, n) = (i / rows, i % rows);
                let word = word(packed, g * words + n / per).wrapping_add(one);
                (word >> (bits * (n % per))) as u8 & mask(bits)
            })
            .collect();
        let (list, order, unit) = self.ordered(&key("g_idx"), cols, group)?;
        Ok(Source {
            code: integer(bits),
            table: None,
            low: low(&zeros, integer(bits)),
            narrow: scales.iter().all(|s| Head::holds(*s)),
            scales: stored,
            unit,
            order,
            codes: Box::new(move |row, out| {
                let count = out.len() / cols;
                for k in (0..cols).step_by(per) {
                    for r in 0..count {
                        let word = word(weight, k / per * rows + row + r);
                        for (i, out) in out[r * cols + k..][..per].iter_mut().enumerate() {
                            *out = (word >> (bits * i)) as u8 & mask(bits);
                        }
                    }
                }
            }),
            params: Box::new(move |row, col| {
                let group = list.as_ref().map_or(col / group, |l| l[col] as usize);
                let at = group * rows + row;
                (scales[at], f32::from(zeros[at]))
            }),
        })
    }

    /// The groups of columns where they are not in order, what comes first, and of how many neighbours parts of a group
    /// are multiples.
    fn ordered(&self, key: &str, cols: usize, group: usize) -> Result<Ordered> {
        let bytes = self.bytes(key);
        if bytes.is_empty() {
            return Ok((None, None, unit(group, cols)));
        }
        let list: Vec<i32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| i32::from_le_bytes(*b))
            .collect();
        match groups(&list, cols.div_ceil(group), |i| i / group) {
            Groups::InOrder => Ok((None, None, unit(group, cols))),
            Groups::Sorted { order, unit } => Ok((Some(list), Some(order), unit)),
            Groups::Wrong { group: wrong, column } => {
                let problem = format!(
                    "places column {column} in group {wrong}, there are {}; the file is damaged",
                    cols.div_ceil(group)
                );
                Err(self.wrong(key, &problem))
            }
        }
    }

    fn open_words(
        &self,
        key: &dyn Fn(&str) -> String,
        rows: usize,
        cols: usize,
        (bits, group): (usize, usize),
    ) -> Result<Source<'_>> {
        if group < cols && !cols.is_multiple_of(group) {
            let problem = format!("has rows of {cols}, which are no multiples of the group {group}");
            return Err(self.wrong(&key("weight_packed"), &problem));
        }
        let shape = self.integers(&key("weight_shape"));
        if !shape.is_empty() && shape != [rows as i64, cols as i64] {
            let problem = format!("says {shape:?}, config.json asks for [{rows}, {cols}]");
            return Err(self.wrong(&key("weight_shape"), &problem));
        }
        let (weight, packed) = (
            self.bytes(&key("weight_packed")),
            self.bytes(&key("weight_zero_point")),
        );
        let (scales, stored) = self.floats(&key("weight_scale"));
        let (per, count) = (32 / bits, cols.div_ceil(group));
        let zeros: Vec<u8> = if packed.is_empty() {
            Vec::new()
        } else {
            (0..rows * count)
                .map(|i| {
                    let (n, g) = (i / count, i % count);
                    (word(packed, n / per * count + g) >> (bits * (n % per))) as u8 & mask(bits)
                })
                .collect()
        };
        let (list, order, unit) = self.ordered(&key("weight_g_idx"), cols, group)?;
        let words = (cols * bits).div_ceil(32);
        Ok(Source {
            code: integer(bits),
            table: None,
            low: low(&zeros, integer(bits)),
            narrow: scales.iter().all(|s| Head::holds(*s)),
            scales: stored,
            unit,
            order,
            codes: Box::new(move |row, out| {
                for (r, out) in out.chunks_exact_mut(cols).enumerate() {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = code(weight, (row + r) * words, i, bits);
                    }
                }
            }),
            params: Box::new(move |row, col| {
                let group = list.as_ref().map_or(col / group, |l| l[col] as usize);
                let at = row * count + group;
                (scales[at], zeros.get(at).map_or(0.0, |z| f32::from(*z)))
            }),
        })
    }

    fn integers(&self, key: &str) -> Vec<i64> {
        let bytes = self.bytes(key);
        if self.tensors.get(key).is_some_and(|info| info.dtype == "I32") {
            return bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| i32::from_le_bytes(*b).into())
                .collect();
        }
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b))
            .collect()
    }

    fn open_bytes(
        &self,
        key: &dyn Fn(&str) -> String,
        (rows, cols): (usize, usize),
        float: bool,
        scale: &str,
        block: Option<[usize; 2]>,
    ) -> Result<Source<'_>> {
        let weight = self.bytes(&key("weight"));
        if float && any_nan(weight) {
            let place = format!("{}: tensor `{}`", self.dir.display(), key("weight"));
            return Err(Error::NotFinite { place });
        }
        let (scales, stored) = self.floats(&key(scale));
        let zeros: Vec<u8> = self
            .bytes(&key("weight_zero_point"))
            .iter()
            .map(|z| z ^ 0x80)
            .collect();
        // Floats have no zero points; a packer may store zeros for them.
        let zeros = if float { Vec::new() } else { zeros };
        // Blocks of outputs and inputs; one output, or all, where there is none.
        let [high, wide] = block.unwrap_or([if scales.len() == rows { 1 } else { rows }, cols]);
        let across = cols.div_ceil(wide);
        Ok(Source {
            code: if float { Code::E4m3 } else { Code::Int8 },
            table: None,
            low: low(&zeros, Code::Int8),
            narrow: scales.iter().all(|s| Head::holds(*s)),
            scales: stored,
            unit: unit(wide, cols),
            order: None,
            codes: Box::new(move |row, out| {
                let from = &weight[row * cols..][..out.len()];
                if float {
                    out.copy_from_slice(from);
                } else {
                    flipped(from, out);
                }
            }),
            params: Box::new(move |row, col| {
                let at = row / high * across + col / wide;
                (scales[at], zeros.get(at).map_or(0.0, |z| f32::from(*z)))
            }),
        })
    }

    fn open_four(
        &self,
        key: &dyn Fn(&str) -> String,
        (rows, cols): (usize, usize),
        nested: bool,
        fp4: bool,
    ) -> Result<Source<'_>> {
        let state_key = key(&format!("{STATE}{}", if fp4 { "fp4" } else { "nf4" }));
        let state: Value = serde_json::from_slice(self.bytes(&state_key))
            .map_err(|e| self.wrong(&state_key, &format!("is no JSON: {e}; the file is damaged")))?;
        let number = |name: &str| {
            state
                .get(name)
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok())
        };
        let shape: Option<Vec<usize>> = state.get("shape").and_then(Value::as_array).map(|s| {
            s.iter()
                .filter_map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()))
                .collect()
        });
        if shape.as_deref() != Some(&[rows, cols]) {
            let problem = format!("says the shape {shape:?}, config.json asks for [{rows}, {cols}]");
            return Err(self.wrong(&state_key, &problem));
        }
        let size = number("blocksize").filter(|n| n.is_power_of_two() && *n >= 32);
        let size =
            size.ok_or_else(|| self.wrong(&state_key, "has no blocksize that is a power of two from 32 up"))?;
        let blocks = (rows * cols).div_ceil(size);
        let absmax = if nested {
            let inner = number("nested_blocksize").filter(|n| *n > 0);
            let inner = inner.ok_or_else(|| self.wrong(&state_key, "has no nested_blocksize"))?;
            let offset = state.get("nested_offset").and_then(Value::as_f64);
            let offset = offset.ok_or_else(|| self.wrong(&state_key, "has no nested_offset"))? as f32;
            let (outer, map) = (
                self.floats(&key("weight.nested_absmax")).0,
                self.floats(&key("weight.nested_quant_map")).0,
            );
            let codes = self.bytes(&key("weight.absmax"));
            if outer.len() < codes.len().div_ceil(inner) {
                let problem = format!("has {} numbers for {} blocks", outer.len(), codes.len());
                return Err(self.wrong(&key("weight.nested_absmax"), &problem));
            }
            let one = |(b, q): (usize, &u8)| map[usize::from(*q)] * outer[b / inner] + offset;
            codes.iter().enumerate().map(one).collect()
        } else {
            self.floats(&key("weight.absmax")).0
        };
        if absmax.len() < blocks {
            let problem = format!(
                "has {} numbers, {blocks} blocks of {size} need one each",
                absmax.len()
            );
            return Err(self.wrong(&key("weight.absmax"), &problem));
        }
        let map = self.floats(&key("weight.quant_map")).0;
        let weight = self.bytes(&key("weight"));
        let known = if fp4 { &FP4 } else { &NF4 };
        let table = (map != known).then(|| std::array::from_fn(|i| map[i]));
        Ok(Source {
            code: if fp4 { Code::Fp4 } else { Code::Nf4 },
            table,
            low: Low::Middle,
            scales: Stored::F32,
            narrow: false,
            unit: size,
            order: None,
            codes: Box::new(move |row, out| {
                for (i, out) in out.iter_mut().enumerate() {
                    let at = row * cols + i;
                    // The first of two is the high half.
                    *out = if at.is_multiple_of(2) {
                        weight[at / 2] >> 4
                    } else {
                        weight[at / 2] & 15
                    };
                }
            }),
            // Blocks run over the ends of rows.
            params: Box::new(move |row, col| (absmax[(row * cols + col) / size], 0.0)),
        })
    }
}

/// Groups of columns, their order, and a unit: [`Checkpoint::ordered`].
type Ordered = (Option<Vec<i32>>, Option<Vec<u32>>, usize);

/// Signed bytes as codes that count from 128.
fn flipped(from: &[u8], out: &mut [u8]) {
    for (out, q) in out.iter_mut().zip(from) {
        *out = q ^ 0x80;
    }
}

/// Whether one of the floats of 8 bits is none.
fn any_nan(floats: &[u8]) -> bool {
    let parts = floats.par_chunks(1 << 16);
    parts
        .into_par_iter()
        .any(|part| part.iter().any(|q| q & 0x7F == 0x7F))
}
