//! Reading weights: single or sharded safetensors, memory-mapped, every name, type, shape and range checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use outro_kernels::Weight;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::error::{Error, Result};

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

/// A weight matrix `[rows, cols]`, or a higher tensor seen as one.
#[derive(Clone)]
pub struct Matrix {
    name: String,
    rows: usize,
    cols: usize,
    data: Data,
}

#[derive(Clone)]
enum Data {
    Mapped {
        map: Arc<Mmap>,
        start: usize,
        end: usize,
        dtype: Dtype,
    },
    F32(Arc<[f32]>),
    Bf16(Arc<[bf16]>),
    F16(Arc<[f16]>),
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

    /// The elements, for the kernels.
    pub fn weight(&self) -> Weight<'_> {
        match &self.data {
            // Alignment and length were checked when the tensor was opened.
            Data::Mapped {
                map,
                start,
                end,
                dtype,
            } => {
                let bytes = &map[*start..*end];
                match dtype {
                    Dtype::Bf16 => Weight::Bf16(bytemuck::cast_slice(bytes)),
                    Dtype::F16 => Weight::F16(bytemuck::cast_slice(bytes)),
                    Dtype::F32 | Dtype::Auto => Weight::F32(bytemuck::cast_slice(bytes)),
                }
            }
            Data::F32(w) => Weight::F32(w),
            Data::Bf16(w) => Weight::Bf16(w),
            Data::F16(w) => Weight::F16(w),
        }
    }

    /// Copies one row, widened.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.weight().widen(row * self.cols, &mut out[..self.cols]);
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
        let w = self.weight();
        w.len() * if matches!(w, Weight::F32(_)) { 4 } else { 2 }
    }
}

/// Where one tensor lies.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Index into [`Checkpoint::shards`].
    pub shard: usize,
    /// safetensors' name of the element type, such as `BF16`.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// An opened checkpoint: tensors by name. Nothing but headers has been read.
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<(PathBuf, Arc<Mmap>)>,
    tensors: BTreeMap<String, TensorInfo>,
    skipped: usize,
}

impl Checkpoint {
    /// Opens `dir/model.safetensors`, or the shards of `dir/model.safetensors.index.json` that hold anything
    /// but tensors whose names begin with one of `skip`.
    ///
    /// # Errors
    /// Missing, truncated or lying files, by name.
    pub fn open(dir: &Path, skip: &[&str]) -> Result<Self> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        let mut this = Self {
            dir: dir.into(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            skipped: 0,
        };
        let skips = |name: &str| skip.iter().any(|s| name.starts_with(s));
        if index.exists() {
            let weight_map = read_index(&index)?;
            this.skipped = weight_map.keys().filter(|n| skips(n)).count();
            let needed: BTreeMap<_, _> = weight_map.into_iter().filter(|(n, _)| !skips(n)).collect();
            for file in needed.values().collect::<BTreeSet<_>>() {
                let path = dir.join(file);
                if !path.exists() {
                    return Err(Error::checkpoint(
                        path,
                        "this shard is named by the index and missing; fetch it, or the whole checkpoint again",
                    ));
                }
                this.add_shard(&path, |name| needed.get(name) == Some(file))?;
            }
            if let Some((name, file)) = needed.iter().find(|(n, _)| !this.tensors.contains_key(*n)) {
                return Err(Error::checkpoint(
                    dir.join(file),
                    format!(
                        "the index places tensor `{name}` here, and it is absent; index and shard are of different checkpoints"
                    ),
                ));
            }
        } else if single.exists() {
            this.add_shard(&single, |name| !skips(name))?;
        } else {
            return Err(Error::checkpoint(
                dir,
                "holds neither model.safetensors nor model.safetensors.index.json; only safetensors checkpoints are read",
            ));
        }
        Ok(this)
    }

    fn add_shard(&mut self, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the map is read-only. A file that another process truncates meanwhile would fault, as with
        // every memory-mapped loader; the alternative is to hold a second copy of all weights in memory.
        #[expect(unsafe_code, reason = "memory-mapping the weights")]
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
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
                shard,
                dtype: format!("{:?}", info.dtype),
                shape: info.shape.clone(),
                start,
                end,
            };
            self.tensors.insert(name, info);
        }
        self.shards.push((path.into(), Arc::new(map)));
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
            Error::checkpoint(&self.dir, format!("tensor `{name}` is missing; config.json and weights are of different models, or a shard is"))
        })?;
        let (path, map) = &self.shards[info.shard];
        if info.shape != shape {
            return Err(Error::checkpoint(
                path,
                format!(
                    "tensor `{name}` has the shape {:?}, config.json asks for {shape:?}",
                    info.shape
                ),
            ));
        }
        Ok((info, path, map))
    }

    /// Opens a tensor of exactly this shape as a matrix `[shape[0], the rest]`.
    ///
    /// # Errors
    /// A missing tensor, another shape, an element type other than F32, BF16 and F16.
    pub fn matrix(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<Matrix> {
        let (info, path, map) = self.find(name, shape)?;
        let bytes = &map[info.start..info.end];
        let stored = match info.dtype.as_str() {
            "F32" => Dtype::F32,
            "BF16" => Dtype::Bf16,
            "F16" => Dtype::F16,
            other => {
                return Err(Error::checkpoint(
                    path,
                    format!("tensor `{name}` is of type {other}; F32, BF16 and F16 are read"),
                ));
            }
        };
        let (rows, cols) = (shape[0], shape[1..].iter().product());
        let aligned = bytes.as_ptr().align_offset(4) == 0;
        let data = if aligned && (dtype == Dtype::Auto || dtype == stored) {
            Data::Mapped {
                map: Arc::clone(map),
                start: info.start,
                end: info.end,
                dtype: stored,
            }
        } else {
            let target = if dtype == Dtype::Auto { stored } else { dtype };
            convert(widen_bytes(bytes, stored), target).ok_or_else(|| {
                Error::checkpoint(
                    path,
                    format!("tensor `{name}` holds values that --dtype f16 cannot, use bf16 or f32"),
                )
            })?
        };
        Ok(Matrix {
            name: name.into(),
            rows,
            cols,
            data,
        })
    }

    /// Reads a vector (a norm's weight, a bias) as f32.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`], and elements that are not finite.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let m = self.matrix(name, &[len], Dtype::Auto)?;
        let mut v = vec![0f32; len];
        m.weight().widen(0, &mut v);
        if !v.iter().all(|x| x.is_finite()) {
            return Err(Error::NotFinite {
                place: format!("{}: tensor `{name}`", self.dir.display()),
            });
        }
        Ok(v)
    }
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|e| Error::config(path, "", format!("not JSON: {e}")))?;
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

fn widen_bytes(bytes: &[u8], stored: Dtype) -> Vec<f32> {
    match stored {
        Dtype::F32 | Dtype::Auto => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::Bf16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| bf16::from_le_bytes(*b).to_f32())
            .collect(),
        Dtype::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f16::from_le_bytes(*b).to_f32())
            .collect(),
    }
}

/// `None` when a finite value does not fit the type.
fn convert(wide: Vec<f32>, dtype: Dtype) -> Option<Data> {
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
