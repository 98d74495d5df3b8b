//! llama.cpp's GGUF files: metadata, then tensors in quantised blocks. Nothing in the file is believed unchecked.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use outro_kernels::QuantType;

mod names;

pub(crate) use names::Renames;

use super::{Form, Stored, TensorInfo, map};
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

/// An opened file, or all parts of a split one: metadata by key, tensors by the names that they have there.
pub(crate) struct Gguf {
    path: PathBuf,
    /// The metadata's file.
    map: Arc<Mmap>,
    metadata: BTreeMap<String, Meta>,
    pub(super) shards: Vec<(PathBuf, Arc<Mmap>)>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Reads metadata and the list of tensors; no weights. Of a file that was split any part opens all of them.
    ///
    /// # Errors
    /// Truncated, damaged, missing and lying files, by name and by key or tensor.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let part = Self::open_part(path)?;
        match part.int(SPLIT_COUNT)? {
            Some(count) if count > 1 => part.joined(count),
            _ => Ok(part),
        }
    }

    /// The whole of which this is one of `count` parts.
    fn joined(self, count: i128) -> Result<Self> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let own = self.int(SPLIT_NO)?.unwrap_or(-1);
        let Some(prefix) = name.strip_suffix(&split_suffix(own + 1, count)) else {
            let problem = format!(
                "is {count}: this is part {} of so many, whose name must end in {}",
                own + 1,
                split_suffix(own + 1, count)
            );
            return Err(self.error(SPLIT_COUNT, &problem));
        };
        let part = |no: i128| -> Result<Self> {
            let path = self
                .path
                .with_file_name(format!("{prefix}{}", split_suffix(no + 1, count)));
            if !path.is_file() {
                let problem = format!("part {} of {count} of a split file is missing; fetch it", no + 1);
                return Err(Error::missing(path, problem));
            }
            let part = Self::open_part(&path)?;
            if part.int(SPLIT_COUNT)? != Some(count) || part.int(SPLIT_NO)? != Some(no) {
                let problem = format!(
                    "is not part {} of {count}, as its name says; fetch all parts again",
                    no + 1
                );
                return Err(part.error(SPLIT_NO, &problem));
            }
            Ok(part)
        };
        let mut whole = part(0)?;
        for no in 1..count {
            let part = part(no)?;
            let shard = whole.shards.len();
            whole.shards.extend(part.shards);
            for (name, info) in part.tensors {
                if whole.tensors.contains_key(&name) {
                    let problem = format!(
                        "tensor `{name}` is in an earlier part too; the parts are of different files"
                    );
                    return Err(Error::checkpoint(part.path, problem));
                }
                whole.tensors.insert(name, TensorInfo { shard, ..info });
            }
        }
        if let Some(all) = whole.int("split.tensors.count")?
            && all != whole.tensors.len() as i128
        {
            let problem = format!("is {all}, the {count} parts hold {} tensors", whole.tensors.len());
            return Err(whole.error("split.tensors.count", &problem));
        }
        Ok(whole)
    }

    fn open_part(path: &Path) -> Result<Self> {
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
            shards: vec![(path.into(), Arc::clone(&map))],
            tensors: BTreeMap::new(),
        };
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
                form: Form::Rows,
            };
            if self.tensors.contains_key(&name) {
                return Err(wrong("is there twice".into()));
            }
            self.tensors.insert(name.clone(), info);
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

    /// A list of numbers.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.array(
            key,
            "a list of numbers",
            |kind| width(kind).is_some(),
            |c, kind| match c.value(key, kind, DEPTH)? {
                Meta::Float(x) => Ok(Some(x)),
                Meta::Int(n) => Ok(Some(n as f64)),
                _ => Ok(None),
            },
        )
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

    /// Whether there is a tensor.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A short tensor of floats.
    pub(crate) fn f32s(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(info) = self.tensors.get(name) else {
            return Ok(None);
        };
        let bytes = &self.shards[info.shard].1[info.start..info.end];
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

    /// The dimensions of a tensor, the contiguous one last.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// All names of tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// How many bits of a number the matrices keep at least, F32 as 32 and BF16 as 17 (its range is wider than that of F16),
    /// and the type's name: what tells files of one model apart.
    pub(crate) fn exactness(&self) -> (usize, &str) {
        let matrices = self.tensors.values().filter(|t| t.shape.len() > 1);
        let kinds = matrices.map(|t| match t.dtype.as_str() {
            "F32" => (32, "F32"),
            "BF16" => (17, "BF16"),
            "F16" => (16, "F16"),
            other => (
                Stored::of_name(other).map_or(0, |s| s.bytes_of(1024).unwrap_or(0) * 8 / 1024),
                other,
            ),
        });
        // A convolution may stay F16 in a file of F32: what most matrices have counts.
        let mut found: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        for kind in kinds {
            *found.entry(kind).or_default() += 1;
        }
        let most = found.into_iter().max_by_key(|(_, n)| *n);
        most.map_or((0, "nothing"), |(kind, _)| kind)
    }
}

const SPLIT_COUNT: &str = "split.count";
const SPLIT_NO: &str = "split.no";

/// How the name of a part ends; parts are counted from 1.
fn split_suffix(part: i128, count: i128) -> String {
    format!("-{part:05}-of-{count:05}.gguf")
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
        10 => Stored::Quant(QuantType::Q2K),
        11 => Stored::Quant(QuantType::Q3K),
        20 => Stored::Quant(QuantType::IQ4NL),
        23 => Stored::Quant(QuantType::IQ4XS),
        39 => Stored::Quant(QuantType::MXFP4),
        9 => return Err("Q8_1"),
        15 => return Err("Q8_K"),
        16 => return Err("IQ2_XXS"),
        17 => return Err("IQ2_XS"),
        18 => return Err("IQ3_XXS"),
        19 => return Err("IQ1_S"),
        21 => return Err("IQ3_S"),
        22 => return Err("IQ2_S"),
        29 => return Err("IQ1_M"),
        24..=28 => return Err("integer or F64"),
        34 => return Err("TQ1_0"),
        35 => return Err("TQ2_0"),
        _ => return Err("unknown"),
    })
}

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
