//! Reading weights: single or sharded safetensors or a GGUF file, memory-mapped, every name, type, shape and range checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::weights::json::read_json;

mod adapter;
mod audit;
mod experts;
pub mod files;
mod forms;
pub(crate) mod gguf;
mod matrix;
mod packed;
mod quantise;
mod random;

pub(crate) use adapter::base_of;
pub use adapter::{Adapter, adapter_base};
pub use audit::{Audit, Misshaped, Tensor, Unreadable};
use forms::Form;
pub(crate) use gguf::Renames;
pub use gguf::is_gguf;
pub use matrix::Matrix;
pub(crate) use matrix::Stored;
use matrix::{Data, convert, own, widen_bytes};
pub use packed::{CompressedPart, MlxForm, Scheme};
pub(crate) use quantise::Quantised;
pub use quantise::Quantize;
pub use random::Imitated;

/// How matrices are kept in memory. Vectors (norms, biases) are always f32, and so is all arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// As the checkpoint stores them, memory-mapped.
    #[default]
    Auto,
    /// Widened or kept as f32.
    F32,
    /// Brain float: half the memory of f32, rounded to 8 bits of precision.
    Bf16,
    /// Half precision; values beyond 65,504 are refused.
    F16,
}

impl Dtype {
    /// How elements are stored then; `None` for as they are.
    pub(crate) fn stored(self) -> Option<Stored> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(Stored::F32),
            Self::Bf16 => Some(Stored::Bf16),
            Self::F16 => Some(Stored::F16),
        }
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            _ => Err(Error::Setting {
                key: "dtype".into(),
                problem: format!("is `{s}`; possible: auto, f32, bf16, f16"),
            }),
        }
    }
}

/// Where one tensor lies.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Index into [`Checkpoint::shards`].
    pub shard: usize,
    /// The format's name of the element type, such as `BF16` or `Q4_K`.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// The name in the file; the key of [`Checkpoint::tensors`] is the name in the original checkpoint.
    pub name: String,
    start: usize,
    end: usize,
    form: Form,
}

impl TensorInfo {
    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.form.bytes(self.end - self.start, &self.shape)
    }
}

/// An opened checkpoint: tensors by name. Nothing but headers has been read.
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<(PathBuf, Arc<Mmap>)>,
    tensors: BTreeMap<String, TensorInfo>,
    skipped: usize,
    /// What the tensors of a GGUF file are called.
    names: Renames,
    /// Where tensors are made up as they are asked for.
    random: Option<random::Pattern>,
    /// Where requests are noted and nothing is read.
    asked: Option<audit::Asked>,
    /// How packed matrices are packed.
    scheme: Option<Scheme>,
    /// What is merged into its tensors.
    adapters: Vec<adapter::Opened>,
}

/// What a configuration says about reading its checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading<'a> {
    /// Tensors whose names begin so are left out.
    pub skip: &'a [&'a str],
    /// The first prefix of these that a name has is replaced by the one beside it.
    pub renamed: &'a [(&'a str, &'a str)],
    /// Of a GGUF file: the file of its towers (mmproj).
    pub(crate) towers: Option<&'a Path>,
    /// Of GGUF files: what their tensors are called.
    pub(crate) stored: Option<&'a Renames>,
    /// How matrices are packed that are.
    pub scheme: Option<&'a Scheme>,
    /// Adapters to be merged, in their order.
    pub adapters: &'a [Adapter],
}

/// Files that have weights in a form that is not read, and the way out.
const OTHERS: [(&str, &str); 3] = [
    (
        files::ADAPTER_WEIGHTS,
        "an adapter; give the model that it changes, and this beside it as its adapter",
    ),
    (
        "pytorch_model.bin",
        "save it anew with save_pretrained of a recent transformers",
    ),
    (
        "pytorch_model.bin.index.json",
        "save it anew with save_pretrained of a recent transformers",
    ),
];

impl Checkpoint {
    /// Opens a GGUF file, `dir/model.safetensors`, or the shards of `dir/model.safetensors.index.json` that hold
    /// anything but tensors to skip.
    ///
    /// # Errors
    /// Missing, truncated or lying files, by name.
    pub fn open(dir: &Path, reading: Reading) -> Result<Self> {
        let Reading {
            skip,
            renamed,
            scheme,
            ..
        } = reading;
        let (single, index) = (dir.join(files::SINGLE), dir.join(files::INDEX));
        let mut this = Self {
            names: reading.stored.cloned().unwrap_or_default(),
            scheme: scheme.cloned(),
            ..Self::empty(dir)
        };
        if dir.is_file() {
            for file in [Some(dir), reading.towers].into_iter().flatten() {
                this.add_gguf(gguf::Gguf::open(file)?)?;
            }
            experts::stacked(&mut this.tensors, experts::LLAMA);
            return this.adapted(&reading);
        }
        let key = |name: &str| key(name, renamed);
        let skips = |name: &str| skip.iter().any(|s| key(name).starts_with(s));
        if index.exists() {
            let weight_map = read_index(&index)?;
            this.skipped = weight_map.keys().filter(|n| skips(n)).count();
            let needed: BTreeMap<_, _> = weight_map.into_iter().filter(|(n, _)| !skips(n)).collect();
            for file in needed.values().collect::<BTreeSet<_>>() {
                let path = dir.join(file);
                if !path.exists() {
                    return Err(Error::missing(
                        path,
                        "this shard is named by the index and missing; fetch it, or the whole checkpoint again",
                    ));
                }
                this.add_shard(&path, |name| needed.get(name) == Some(file), &key)?;
            }
            if let Some((name, file)) = needed.iter().find(|(n, _)| !this.tensors.contains_key(&key(n))) {
                return Err(Error::checkpoint(
                    dir.join(file),
                    format!(
                        "the index places tensor `{name}` here, and it is absent; index and shard are of different checkpoints"
                    ),
                ));
            }
        } else if single.exists() {
            this.add_shard(&single, |name| !skips(name), &key)?;
        } else {
            let other = OTHERS.iter().find(|(file, _)| dir.join(file).is_file());
            let other = other.map_or(String::new(), |(file, way)| format!(". It holds {file}: {way}"));
            return Err(Error::missing(
                dir,
                format!(
                    "holds neither model.safetensors nor model.safetensors.index.json; safetensors checkpoints and single GGUF files are read{other}"
                ),
            ));
        }
        experts::stacked(&mut this.tensors, experts::MLX);
        experts::apart(&mut this.tensors);
        this.adapted(&reading)
    }

    /// A checkpoint without files: every tensor that is asked for is there, filled from a fixed random pattern (norms are
    /// 1, biases 0); linear layers whose names begin so are packed as a quantiser would.
    pub(crate) fn random(seed: u64, packed: Option<(Imitated, String)>) -> Self {
        Self {
            random: Some(random::Pattern::new(seed, packed)),
            ..Self::empty(Path::new("random weights"))
        }
    }

    /// One that holds nothing.
    fn empty(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            skipped: 0,
            names: Renames::default(),
            random: None,
            asked: None,
            scheme: None,
            adapters: Vec::new(),
        }
    }

    pub(crate) fn is_random(&self) -> bool {
        self.random.is_some()
    }

    fn add_shard(
        &mut self,
        path: &Path,
        wanted: impl Fn(&str) -> bool,
        key: &dyn Fn(&str) -> String,
    ) -> Result<()> {
        let map = map(path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::checkpoint(
                path,
                format!("not a whole safetensors file ({e}); it is truncated or damaged, fetch it again"),
            )
        })?;
        let shard = self.shards.len();
        for (name, info) in metadata.tensors() {
            if !wanted(&name) {
                self.skipped += 1;
                continue;
            }
            let (start, end) = (info.data_offsets.0 + header + 8, info.data_offsets.1 + header + 8);
            if end > map.len() {
                return Err(Error::checkpoint(
                    path,
                    format!(
                        "tensor `{name}` ends at byte {end}, the file at {}; it is truncated, fetch it again",
                        map.len()
                    ),
                ));
            }
            let info = TensorInfo {
                name: name.clone(),
                shard,
                dtype: format!("{:?}", info.dtype),
                shape: info.shape.clone(),
                start,
                end,
                form: Form::Rows,
            };
            self.tensors.insert(key(&name), info);
        }
        self.shards.push((path.into(), map));
        Ok(())
    }

    /// Tensors by name, without the skipped ones.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The files, with their sizes in bytes.
    pub fn shards(&self) -> impl Iterator<Item = (&Path, usize)> {
        self.shards.iter().map(|(p, m)| (p.as_path(), m.len()))
    }

    /// How many tensors were left out because they belong to parts that are never read.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<(&TensorInfo, &Path, &Arc<Mmap>)> {
        let info = self.tensors.get(name).ok_or_else(|| {
            let problem = if self.dir.is_file() {
                format!("holds no tensor `{}`; the file is of another architecture than it says, or incomplete", self.stored_name(name))
            } else {
                format!("tensor `{name}` is missing; config.json and weights are of different models, or a shard is; `outro inspect` on the directory lists all that is missing")
            };
            Error::checkpoint(&self.dir, problem)
        })?;
        let (path, map) = &self.shards[info.shard];
        if !self.fits(&info.shape, shape) {
            return Err(Error::checkpoint(
                path,
                format!(
                    "tensor `{}` has the shape {:?}, {} asks for {shape:?}",
                    info.name,
                    info.shape,
                    if self.dir.is_file() {
                        "the file's metadata"
                    } else {
                        "config.json"
                    },
                ),
            ));
        }
        Ok((info, path, map))
    }

    /// Whether a tensor has the shape that is asked for. GGUF files keep some biases with dimensions of 1.
    fn fits(&self, shape: &[usize], wanted: &[usize]) -> bool {
        let squeezed = |s: &[usize]| s.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
        shape == wanted || self.dir.is_file() && squeezed(shape) == squeezed(wanted)
    }

    /// What a tensor is called in the files, for messages.
    fn stored_name(&self, name: &str) -> String {
        self.names.stored(name).unwrap_or_else(|| name.to_owned())
    }

    /// Whether there is a tensor of this name, or several that are a packed matrix of it.
    pub fn holds(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.holds_packed(name)
    }

    /// The shape of a convolution's kernel as MLX stores it, with the channels last; `None` where this file does not.
    fn turned(&self, name: &str, shape: &[usize]) -> Option<Vec<usize>> {
        let [out, channels, rest @ ..] = shape else {
            return None;
        };
        if rest.is_empty() || !matches!(self.scheme, Some(Scheme::Mlx { .. })) {
            return None;
        }
        let turned = [&[*out], rest, &[*channels]].concat();
        let there = self.tensors.get(name)?;
        (there.shape == turned).then_some(turned)
    }

    /// Opens a tensor of exactly this shape as a matrix `[shape[0], the rest]`.
    ///
    /// # Errors
    /// A missing tensor, another shape, an element type that is not read.
    pub fn matrix(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<Matrix> {
        let (rows, cols) = (shape[0], shape[1..].iter().product());
        if let Some(pattern) = &self.random {
            return Ok(pattern.matrix(name, rows, cols, dtype));
        }
        if self.notes(name, shape)? {
            return Ok(Matrix::hollow(name, rows, cols));
        }
        if let Some(merged) = self.merged(name, shape, dtype)? {
            return Ok(merged);
        }
        self.base(name, shape, dtype)
    }

    /// [`Checkpoint::matrix`] as the files have it.
    fn base(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<Matrix> {
        let (rows, cols) = (shape[0], shape[1..].iter().product());
        if let Some(packed) = self.packed(name, shape)? {
            return self.unpack(&packed, name, shape, dtype);
        }
        let turned = self.turned(name, shape);
        let (info, path, map) = self.find(name, turned.as_deref().unwrap_or(shape))?;
        let second = match info.form {
            Form::Pair(shard, start, end) => &self.shards[shard].1[start..end],
            _ => &[],
        };
        let bytes = &map[info.start..info.end];
        let moved = match info.form {
            _ if turned.is_some() => Some(forms::channels_first(bytes, shape)),
            form => form.rows(bytes, second, &info.shape),
        };
        let bytes = moved.as_deref().unwrap_or(bytes);
        let stored = Stored::of_name(&info.dtype).ok_or_else(|| {
            Error::unsupported(
                path,
                "",
                format!(
                    "tensor `{}` is of type {}; F32, BF16 and F16 are read, in GGUF files also Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS and MXFP4",
                    info.name, info.dtype
                ),
            )
        })?;
        if stored.bytes_of(rows * cols) != Some(bytes.len()) {
            return Err(Error::checkpoint(
                path,
                format!(
                    "tensor `{}` has {} bytes, which its shape and type do not",
                    info.name,
                    bytes.len()
                ),
            ));
        }
        let wanted = dtype.stored().unwrap_or(stored);
        let aligned = bytes.as_ptr().align_offset(4) == 0 || matches!(stored, Stored::Quant(_));
        let data = if wanted != stored {
            convert(widen_bytes(bytes, stored), dtype).ok_or_else(|| Error::Narrow {
                path: path.into(),
                tensor: info.name.clone(),
                dtype: "f16",
            })?
        } else if aligned && moved.is_none() {
            Data::Mapped {
                map: Arc::clone(map),
                start: info.start,
                end: info.end,
                stored,
            }
        } else {
            own(bytes, stored)
        };
        Ok(Matrix {
            name: info.name.clone(),
            rows,
            cols,
            data,
            order: None,
        })
    }

    /// Reads a vector (a norm's weight, a bias) as f32.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`], and elements that are not finite.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        if self.is_random() {
            return Ok(vec![if name.ends_with("bias") { 0.0 } else { 1.0 }; len]);
        }
        self.table(name, &[len])
    }

    /// Reads a small tensor that is not multiplied with (learned positions, queries) as f32.
    ///
    /// # Errors
    /// As [`Checkpoint::vector`].
    pub fn table(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let m = self.matrix(name, shape, Dtype::F32)?;
        let mut v = vec![0f32; shape.iter().product()];
        if self.asked.is_some() {
            return Ok(v);
        }
        m.all(&mut v);
        if !v.iter().all(|x| x.is_finite()) {
            return Err(Error::NotFinite {
                place: format!("{}: tensor `{}`", self.dir.display(), m.name()),
            });
        }
        Ok(v)
    }
}

/// Maps a file.
pub(crate) fn map(path: &Path) -> Result<Arc<Mmap>> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the map is read-only. A file that another process truncates meanwhile would fault, as with
    // every memory-mapped loader; the alternative is to hold a second copy of all weights in memory.
    #[expect(unsafe_code, reason = "memory-mapping the weights")]
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
    Ok(Arc::new(map))
}

/// The shards of `dir/model.safetensors.index.json` that [`Checkpoint::open`] reads with the same `skip` and `renamed`, sorted.
///
/// # Errors
/// An index that cannot be read or is none.
pub fn shards(dir: &Path, skip: &[&str], renamed: &[(&str, &str)]) -> Result<Vec<String>> {
    let map = read_index(&dir.join(files::INDEX))?;
    let read = map
        .into_iter()
        .filter(|(name, _)| !skip.iter().any(|s| key(name, renamed).starts_with(s)));
    let shards: BTreeSet<String> = read.map(|(_, file)| file).collect();
    Ok(shards.into_iter().collect())
}

/// The name that a tensor has here: the first prefix of `renamed` that it has is replaced.
fn key(name: &str, renamed: &[(&str, &str)]) -> String {
    let new = renamed
        .iter()
        .find_map(|(from, to)| Some((*to).to_owned() + name.strip_prefix(from)?));
    new.unwrap_or_else(|| name.to_owned())
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let json = read_json(path)?.unwrap_or_default();
    let map = json.get("weight_map").and_then(Value::as_object);
    let map =
        map.ok_or_else(|| Error::config(path, "weight_map", "missing; it maps tensor names to shard files"))?;
    map.iter()
        .map(|(name, file)| {
            let file = file
                .as_str()
                .filter(|f| !f.contains(['/', '\\']) && !f.is_empty());
            let file = file.ok_or_else(|| {
                Error::config(
                    path,
                    format!("weight_map.{name}"),
                    "must be a file name in the same directory",
                )
            })?;
            Ok((name.clone(), file.to_string()))
        })
        .collect()
}
