//! llama.cpp's GGUF files: metadata, then tensors in quantised blocks. Nothing in the file is believed unchecked.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use outro_kernels::QuantType;

use super::{Stored, TensorInfo, map};
use crate::error::{Error, Result};

const MAGIC: [u8; 4] = *b"GGUF";
/// Arrays in arrays, at most; no known file has any.
const DEPTH: usize = 4;

/// Whether `path` is a file that begins as GGUF files do.
pub fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file()
        && std::fs::File::open(path).is_ok_and(|mut f| f.read_exact(&mut magic).is_ok())
        && magic == MAGIC
}

/// One value of the metadata.
#[derive(Clone, Debug)]
enum Meta {
    Int(i128),
    Float(f64),
    Bool(bool),
    Str(String),
    /// Element type, number, and where the elements begin.
    Array {
        kind: u32,
        len: usize,
        start: usize,
    },
}

/// An opened file: metadata by key, tensors by the names they have in the original checkpoint.
pub(crate) struct Gguf {
    path: PathBuf,
    pub(super) map: Arc<Mmap>,
    metadata: BTreeMap<String, Meta>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Reads metadata and the list of tensors; no weights.
    ///
    /// # Errors
    /// Truncated, damaged and lying files, by name and by key or tensor.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let map = map(path)?;
        let mut c = Cursor {
            path,
            bytes: &map,
            at: 0,
        };
        if c.take(4, "the first four bytes")? != MAGIC {
            return Err(Error::checkpoint(
                path,
                "is not a GGUF file; give a GGUF file or a checkpoint directory",
            ));
        }
        let version = c.u32("version")?;
        if !(2..=3).contains(&version) {
            let problem = if (2..=3).contains(&version.swap_bytes()) {
                "is a big-endian GGUF file; only little-endian ones are read".into()
            } else {
                format!("is of GGUF version {version}; 2 and 3 are read")
            };
            return Err(Error::unsupported(path, "", problem));
        }
        let (tensors, pairs) = (c.u64("number of tensors")?, c.u64("number of metadata keys")?);
        // Every step below takes bytes, so a lying count ends at the end of the file, before memory does.
        let mut metadata = BTreeMap::new();
        for i in 0..pairs {
            let key = c.string(&format!("metadata key {i}"))?;
            let kind = c.u32(&key)?;
            let value = c.value(&key, kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(c.wrong(&key, "is there twice"));
            }
        }
        let mut this = Self {
            path: path.into(),
            map: Arc::clone(&map),
            metadata,
            tensors: BTreeMap::new(),
        };
        if this.int("split.count")?.is_some_and(|n| n > 1) {
            let problem = "the file is one of several parts; join them with llama.cpp's llama-gguf-split";
            return Err(this.unsupported("split.count", problem));
        }
        let alignment = this.int("general.alignment")?.unwrap_or(32);
        if !(1..=1 << 20).contains(&alignment) || alignment.count_ones() != 1 {
            return Err(this.error(
                "general.alignment",
                &format!("is {alignment}, must be a power of two"),
            ));
        }
        this.read_tensors(&mut c, tensors, alignment as usize)?;
        Ok(this)
    }

    fn read_tensors(&mut self, c: &mut Cursor, count: u64, alignment: usize) -> Result<()> {
        let mut listed = Vec::new();
        for i in 0..count {
            let name = c.string(&format!("name of tensor {i}"))?;
            let dims = c.u32(&name)?;
            if !(1..=4).contains(&dims) {
                return Err(c.wrong(&name, &format!("has {dims} dimensions, must be 1 to 4")));
            }
            let mut shape = Vec::new();
            for _ in 0..dims {
                let n = usize::try_from(c.u64(&name)?).unwrap_or(usize::MAX);
                shape.push(n);
            }
            let (kind, offset) = (c.u32(&name)?, c.u64(&name)?);
            listed.push((name, shape, kind, offset));
        }
        let begin = c.at.checked_next_multiple_of(alignment);
        for (name, mut shape, kind, offset) in listed {
            let wrong = |problem: String| c.wrong(&name, &problem);
            let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            let elements =
                elements.ok_or_else(|| wrong(format!("has the shape {shape:?}, which is too large")))?;
            let stored = stored(kind);
            let size = match stored {
                // A type that is not read has no length here; it is refused where it is used.
                Err(_) => 0,
                Ok(s) => {
                    // The first dimension is the one that is contiguous.
                    if !shape[0].is_multiple_of(s.block_len()) {
                        let problem = format!(
                            "has rows of {}, {} needs multiples of {}",
                            shape[0],
                            s.name(),
                            s.block_len()
                        );
                        return Err(wrong(problem));
                    }
                    s.bytes_of(elements)
                        .ok_or_else(|| wrong(format!("has the shape {shape:?}, which is too large")))?
                }
            };
            if !offset.is_multiple_of(alignment as u64) {
                return Err(wrong(format!(
                    "begins at offset {offset}, which is not a multiple of {alignment}"
                )));
            }
            let start = usize::try_from(offset).ok().and_then(|o| o.checked_add(begin?));
            let end = start.and_then(|s| s.checked_add(size));
            let (Some(start), Some(end)) = (start, end.filter(|e| *e <= self.map.len())) else {
                return Err(wrong(format!(
                    "takes {size} bytes at offset {offset}, the file has {}; it is truncated, fetch it again",
                    self.map.len()
                )));
            };
            shape.reverse();
            let info = TensorInfo {
                shard: 0,
                dtype: stored.map_or_else(ToOwned::to_owned, |s| s.name().to_owned()),
                shape,
                name: name.clone(),
                start,
                end,
            };
            if self.tensors.insert(original_name(&name), info).is_some() {
                return Err(wrong("is there twice".into()));
            }
        }
        Ok(())
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about a key.
    pub(crate) fn error(&self, key: &str, problem: &str) -> Error {
        Error::config(&self.path, key, problem)
    }

    /// That what this key says is not done.
    pub(crate) fn unsupported(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::unsupported(&self.path, key, problem)
    }

    fn mistyped<T>(&self, key: &str, what: &str) -> Result<T> {
        Err(self.error(key, &format!("must be {what}")))
    }

    /// A whole number.
    pub(crate) fn int(&self, key: &str) -> Result<Option<i128>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Meta::Int(n)) => Ok(Some(*n)),
            Some(_) => self.mistyped(key, "a whole number"),
        }
    }

    /// A token id.
    pub(crate) fn id(&self, key: &str) -> Result<Option<u32>> {
        match self.int(key)? {
            None => Ok(None),
            Some(n) => u32::try_from(n).map_or_else(|_| self.mistyped(key, "a token id"), |n| Ok(Some(n))),
        }
    }

    /// A number.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Meta::Float(x)) => Ok(Some(*x)),
            Some(Meta::Int(n)) => Ok(Some(*n as f64)),
            Some(_) => self.mistyped(key, "a number"),
        }
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Meta::Bool(b)) => Ok(Some(*b)),
            Some(_) => self.mistyped(key, "true or false"),
        }
    }

    /// Text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Meta::Str(s)) => Ok(Some(s)),
            Some(_) => self.mistyped(key, "text"),
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.array(
            key,
            "a list of texts",
            |kind| kind == 8,
            |c, kind| match c.value(key, kind, DEPTH)? {
                Meta::Str(s) => Ok(Some(s)),
                _ => Ok(None),
            },
        )
    }

    /// One text of a list.
    pub(crate) fn text_at(&self, key: &str, index: usize) -> Result<String> {
        let Some(Meta::Array { kind: 8, len, start }) = self.metadata.get(key) else {
            return self.mistyped(key, "a list of texts");
        };
        if index >= *len {
            return Err(self.error(key, &format!("has {len} entries, entry {index} is asked for")));
        }
        let mut c = Cursor {
            path: &self.path,
            bytes: &self.map,
            at: *start,
        };
        for _ in 0..index {
            c.string_bytes(key)?;
        }
        c.string(key)
    }

    /// A list of whole numbers.
    pub(crate) fn ints(&self, key: &str) -> Result<Option<Vec<i128>>> {
        self.array(
            key,
            "a list of whole numbers",
            |kind| width(kind).is_some(),
            |c, kind| match c.value(key, kind, DEPTH)? {
                Meta::Int(n) => Ok(Some(n)),
                _ => Ok(None),
            },
        )
    }

    fn array<T>(
        &self,
        key: &str,
        what: &str,
        fits: impl Fn(u32) -> bool,
        read: impl Fn(&mut Cursor, u32) -> Result<Option<T>>,
    ) -> Result<Option<Vec<T>>> {
        let (kind, len, start) = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Meta::Array { kind, len, start }) if fits(*kind) => (*kind, *len, *start),
            Some(_) => return self.mistyped(key, what),
        };
        let mut c = Cursor {
            path: &self.path,
            bytes: &self.map,
            at: start,
        };
        let mut out = Vec::new();
        for _ in 0..len {
            match read(&mut c, kind)? {
                Some(x) => out.push(x),
                None => return self.mistyped(key, what),
            }
        }
        Ok(Some(out))
    }

    /// Whether there is a tensor, by its original name.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A short tensor of floats, by its original name.
    pub(crate) fn f32s(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(info) = self.tensors.get(name) else {
            return Ok(None);
        };
        let bytes = &self.map[info.start..info.end];
        if info.dtype != "F32" || info.shape != [len] {
            let problem = format!(
                "tensor `{name}` is {} {:?}, must be F32 [{len}]",
                info.dtype, info.shape
            );
            return Err(Error::checkpoint(&self.path, problem));
        }
        Ok(Some(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        ))
    }

    /// Rows of a tensor, by its original name.
    pub(crate) fn rows(&self, name: &str) -> Option<usize> {
        self.tensors.get(name).map(|t| t.shape[0])
    }
}

/// What is read of a type's number; its name where it is not read.
fn stored(kind: u32) -> std::result::Result<Stored, &'static str> {
    Ok(match kind {
        0 => Stored::F32,
        1 => Stored::F16,
        30 => Stored::Bf16,
        2 => Stored::Quant(QuantType::Q4_0),
        3 => Stored::Quant(QuantType::Q4_1),
        6 => Stored::Quant(QuantType::Q5_0),
        7 => Stored::Quant(QuantType::Q5_1),
        8 => Stored::Quant(QuantType::Q8_0),
        12 => Stored::Quant(QuantType::Q4K),
        13 => Stored::Quant(QuantType::Q5K),
        14 => Stored::Quant(QuantType::Q6K),
        9 => return Err("Q8_1"),
        10 => return Err("Q2_K"),
        11 => return Err("Q3_K"),
        15 => return Err("Q8_K"),
        16..=23 | 29 => return Err("one of the IQ types"),
        24..=28 => return Err("integer or F64"),
        34 | 35 => return Err("one of the TQ types"),
        39 => return Err("MXFP4"),
        _ => return Err("unknown"),
    })
}

/// The name that the tensors of a decoder have in its original checkpoint.
fn original_name(name: &str) -> String {
    let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
    let renamed = match stem {
        "token_embd" => "model.embed_tokens".to_owned(),
        "output_norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        _ => {
            let block = stem.strip_prefix("blk.").and_then(|s| s.split_once('.'));
            let part = block.and_then(|(n, part)| Some((n, BLOCK.iter().find(|b| b.0 == part)?.1)));
            let Some((n, part)) = part else {
                return name.to_owned();
            };
            format!("model.layers.{n}.{part}")
        }
    };
    format!("{renamed}.{suffix}")
}

/// The reverse of [`original_name`], for messages.
pub(super) fn stored_name(name: &str) -> String {
    let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
    let renamed = match stem {
        "model.embed_tokens" => "token_embd".to_owned(),
        "model.norm" => "output_norm".to_owned(),
        "lm_head" => "output".to_owned(),
        _ => {
            let block = stem.strip_prefix("model.layers.").and_then(|s| s.split_once('.'));
            let part = block.and_then(|(n, part)| Some((n, BLOCK.iter().find(|b| b.1 == part)?.0)));
            let Some((n, part)) = part else {
                return name.to_owned();
            };
            format!("blk.{n}.{part}")
        }
    };
    format!("{renamed}.{suffix}")
}

/// Parts of a layer: in GGUF files, in the original checkpoints.
const BLOCK: [(&str, &str); 15] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.gate_proj"),
    ("ffn_up_exps", "mlp.experts.up_proj"),
    ("ffn_down_exps", "mlp.experts.down_proj"),
];

/// Bytes of a number of this type.
fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A place in the file.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn wrong(&self, what: &str, problem: &str) -> Error {
        // What a damaged file calls a name may be anything.
        let what: String = what.chars().filter(|c| !c.is_control()).take(80).collect();
        Error::checkpoint(self.path, format!("`{what}` {problem}"))
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n);
        let Some(found) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            let problem = format!(
                "needs {n} bytes at {}, the file has {}; it is truncated or damaged, fetch it again",
                self.at,
                self.bytes.len()
            );
            return Err(self.wrong(what, &problem));
        };
        self.at += n;
        Ok(found)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn string_bytes(&mut self, what: &str) -> Result<&'a [u8]> {
        let len = usize::try_from(self.u64(what)?).unwrap_or(usize::MAX);
        self.take(len, what)
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let bytes = self.string_bytes(what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.wrong(what, "is not UTF-8")),
        }
    }

    fn value(&mut self, key: &str, kind: u32, depth: usize) -> Result<Meta> {
        Ok(match kind {
            0 => Meta::Int(self.array::<1>(key)?[0].into()),
            1 => Meta::Int(i8::from_le_bytes(self.array(key)?).into()),
            2 => Meta::Int(u16::from_le_bytes(self.array(key)?).into()),
            3 => Meta::Int(i16::from_le_bytes(self.array(key)?).into()),
            4 => Meta::Int(self.u32(key)?.into()),
            5 => Meta::Int(i32::from_le_bytes(self.array(key)?).into()),
            6 => Meta::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => Meta::Bool(self.array::<1>(key)?[0] != 0),
            8 => Meta::Str(self.string(key)?),
            9 if depth < DEPTH => {
                let (kind, len) = (self.u32(key)?, self.u64(key)?);
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                let start = self.at;
                if let Some(width) = width(kind) {
                    self.take(len.saturating_mul(width), key)?;
                } else {
                    for _ in 0..len {
                        if kind == 8 {
                            self.string_bytes(key)?;
                        } else {
                            self.value(key, kind, depth + 1)?;
                        }
                    }
                }
                Meta::Array { kind, len, start }
            }
            10 => Meta::Int(self.u64(key)?.into()),
            11 => Meta::Int(i64::from_le_bytes(self.array(key)?).into()),
            12 => Meta::Float(f64::from_le_bytes(self.array(key)?)),
            _ => return Err(self.wrong(key, &format!("is of the unknown type {kind}"))),
        })
    }
}
