//! The decoder's matrices made smaller at loading, and the result kept on disk for the next time.
//!
//! A cache file is a safetensors file of bytes, one tensor a matrix, and a checksum of them all at the end. Its name and its
//! metadata say what it was made from: the checkpoint's files with sizes and times, the type, the version of the format.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use memmap2::Mmap;
use outro_kernels::{QuantType, quantise};
use rayon::prelude::*;
use safetensors::tensor::{Dtype as FileType, View};
use safetensors::{SafeTensors, serialize_to_file};

use super::matrix::{Data, Matrix, Stored};
use super::{Checkpoint, Dtype, map};
use crate::error::{Error, Result};

/// Of the cache file; another number is another file.
const VERSION: u32 = 1;
/// The name of the checksum; it sorts, and so is written, behind all others.
const CHECKSUM: &str = "~checksum";

/// What the decoder's matrices become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    /// 8.5 bits a weight; differences are hardly measurable.
    Q8_0,
    /// 6.6 bits.
    Q6K,
    /// 4.5 bits, the output head 6.6.
    Q4K,
}

impl FromStr for Quantize {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let all = [Self::Q8_0, Self::Q6K, Self::Q4K];
        all.into_iter()
            .find(|q| q.name() == s)
            .ok_or_else(|| Error::Setting {
                key: "quantize".into(),
                problem: format!("is `{s}`; possible: {}", all.map(Self::name).join(", ")),
            })
    }
}

impl Quantize {
    /// As it is written on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q4K => "q4_k",
        }
    }

    /// The layout of a matrix with rows of `cols`; `None` where no layout fits them.
    fn layout(self, cols: usize, head: bool) -> Option<QuantType> {
        let wanted = match (self, head) {
            (Self::Q8_0, _) => QuantType::Q8_0,
            (Self::Q6K, _) | (Self::Q4K, true) => QuantType::Q6K,
            (Self::Q4K, false) => QuantType::Q4K,
        };
        [wanted, QuantType::Q8_0]
            .into_iter()
            .find(|kind| cols.is_multiple_of(kind.block_len()))
    }
}

/// Which matrices become what, by the names under which the decoder asks for them.
pub(crate) struct Quantised {
    to: Quantize,
    /// The output head's tensor.
    head: String,
    plan: BTreeMap<String, QuantType>,
    cache: Option<Arc<Mmap>>,
    /// Where each matrix lies in the cache.
    places: HashMap<String, (usize, usize)>,
    /// Things that the user should know.
    pub(crate) notes: Vec<String>,
}

impl Quantised {
    /// Plans, and opens or makes the cache in `dir` where one is given. The cache is a convenience: what is wrong with it
    /// is a note.
    ///
    /// # Errors
    /// Matrices of the checkpoint that cannot be read.
    pub(crate) fn open(
        checkpoint: &Checkpoint,
        to: Quantize,
        layers: &str,
        head: &str,
        dir: Option<&Path>,
    ) -> Result<Self> {
        let mut this = Self {
            to,
            head: head.into(),
            plan: BTreeMap::new(),
            cache: None,
            places: HashMap::new(),
            notes: Vec::new(),
        };
        let (mut kept, mut other) = (0, 0);
        for (name, info) in checkpoint.tensors() {
            let is_head = name == head;
            let inner = name.starts_with(layers) && name.ends_with("_proj.weight");
            let (true, [_, cols]) = (is_head || inner, info.shape.as_slice()) else {
                continue;
            };
            if matches!(Stored::of_name(&info.dtype), Some(Stored::Quant(_)) | None) {
                kept += 1;
            } else if let Some(kind) = to.layout(*cols, is_head) {
                other += usize::from(kind == QuantType::Q8_0 && to != Quantize::Q8_0);
                this.plan.insert(name.clone(), kind);
            } else {
                other += 1;
            }
        }
        if kept > 0 {
            this.notes.push(format!(
                "{kept} matrices are quantised in the file and stay as they are"
            ));
        }
        if other > 0 {
            this.notes.push(format!(
                "{other} matrices have rows that are not multiples of 256 and became q8_0, or stay where 32 does not divide them"
            ));
        }
        let Some(dir) = dir.filter(|_| !this.plan.is_empty()) else {
            return Ok(this);
        };
        let identity = identity(checkpoint, to);
        let path = dir.join(format!("{:016x}.safetensors", checksum(identity.as_bytes())));
        if path.exists() {
            match this.read(checkpoint, &path, &identity) {
                Ok(()) => return Ok(this),
                Err(problem) => this.notes.push(format!(
                    "{}: {problem}; the cache of quantised weights is made anew",
                    path.display()
                )),
            }
        }
        match this.write(checkpoint, &path, &identity)? {
            Ok(()) => {
                let size = std::fs::metadata(&path).map_or(0, |m| m.len()) >> 20;
                this.notes.push(format!(
                    "quantised weights are kept for the next time: {} ({size} MiB)",
                    path.display()
                ));
                if let Err(problem) = this.read(checkpoint, &path, &identity) {
                    this.notes
                        .push(format!("{}: {problem}; it is not used", path.display()));
                }
            }
            Err(problem) => this.notes.push(format!(
                "{}: {problem}; the quantised weights are not kept",
                path.display()
            )),
        }
        Ok(this)
    }

    /// The matrix that stands for tensor `name`: from the cache, or made now, or as stored where it is not planned.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`].
    pub(crate) fn matrix(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        shape: &[usize],
        dtype: Dtype,
    ) -> Result<Matrix> {
        if let (Some(pattern), [rows, cols]) = (&checkpoint.random, shape)
            && let Some(kind) = self.to.layout(*cols, name == self.head)
            && (name == self.head || name.ends_with("_proj.weight"))
        {
            return Ok(pattern.quantised(name, *rows, *cols, kind));
        }
        let Some(kind) = self.plan.get(name) else {
            return checkpoint.matrix(name, shape, dtype);
        };
        if let (Some(map), Some((start, end)), [rows, cols]) = (&self.cache, self.places.get(name), shape)
            && kind.bytes_of(rows * cols) == Some(end - start)
        {
            return Ok(Matrix {
                name: name.to_owned(),
                rows: *rows,
                cols: *cols,
                data: Data::Mapped {
                    map: Arc::clone(map),
                    start: *start,
                    end: *end,
                    stored: Stored::Quant(*kind),
                },
                order: None,
            });
        }
        let source = checkpoint.matrix(name, shape, Dtype::Auto)?;
        let data = Data::Quant(*kind, make(&source, *kind).into());
        Ok(Matrix { data, ..source })
    }

    /// Opens the cache, or says what is wrong with it.
    fn read(
        &mut self,
        checkpoint: &Checkpoint,
        path: &Path,
        identity: &str,
    ) -> std::result::Result<(), String> {
        let map = map(path).map_err(|e| e.to_string())?;
        let damaged = || "is damaged".to_owned();
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|_| damaged())?;
        let said = metadata.metadata().as_ref().and_then(|m| m.get("made_from"));
        if said.map(String::as_str) != Some(identity) {
            return Err("was made from something else".into());
        }
        let place = |name: &str| -> Option<(usize, usize)> {
            let (start, end) = metadata.info(name)?.data_offsets;
            let range = (start.checked_add(header + 8)?, end.checked_add(header + 8)?);
            (range.1 <= map.len()).then_some(range)
        };
        let mut places = HashMap::new();
        for (name, kind) in &self.plan {
            let elements: usize = checkpoint
                .tensors()
                .get(name)
                .map_or(0, |t| t.shape.iter().product());
            let found = place(name).filter(|(start, end)| Some(end - start) == kind.bytes_of(elements));
            places.insert(name.clone(), found.ok_or_else(damaged)?);
        }
        let sums: Vec<u64> = self
            .plan
            .par_iter()
            .map(|(name, _)| {
                places
                    .get(name)
                    .map_or(0, |(start, end)| checksum(&map[*start..*end]))
            })
            .collect();
        let sum = sums.into_iter().fold(0, together);
        let (start, end) = place(CHECKSUM).ok_or_else(damaged)?;
        if map[start..end] != sum.to_le_bytes() {
            return Err(damaged());
        }
        self.cache = Some(map);
        self.places = places;
        Ok(())
    }

    /// Quantises matrix by matrix into a file of another name, and renames it when it is whole. The outer error is the
    /// checkpoint's, the inner one the cache's.
    fn write(
        &self,
        checkpoint: &Checkpoint,
        path: &Path,
        identity: &str,
    ) -> Result<std::result::Result<(), String>> {
        let (sum, failed) = (Cell::new(0), RefCell::new(None));
        let mut views = Vec::new();
        let later = |of, size| Later {
            checkpoint,
            of,
            shape: [size],
            sum: &sum,
            failed: &failed,
        };
        for (name, kind) in &self.plan {
            let Some(info) = checkpoint.tensors().get(name) else {
                continue;
            };
            let size = kind.bytes_of(info.shape.iter().product()).unwrap_or(0);
            views.push((
                name.as_str(),
                later(Some((name, info.shape.as_slice(), *kind)), size),
            ));
        }
        views.push((CHECKSUM, later(None, 8)));
        let temporary = path.with_extension(format!("{}.part", std::process::id()));
        let metadata = HashMap::from([("made_from".to_owned(), identity.to_owned())]);
        let written = (|| {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
            }
            serialize_to_file(views, Some(metadata), &temporary).map_err(|e| e.to_string())?;
            if failed.borrow().is_some() {
                return Ok(());
            }
            std::fs::rename(&temporary, path).map_err(|e| e.to_string())
        })();
        let failed = failed.take();
        if written.is_err() || failed.is_some() {
            // It may not even be there.
            let _ = std::fs::remove_file(&temporary);
        }
        failed.map_or(Ok(written), Err)
    }
}

/// A tensor of the cache file that is only read and made when it is written; without a matrix, the checksum of those before.
struct Later<'a> {
    checkpoint: &'a Checkpoint,
    /// Name and shape of the source, and what it becomes.
    of: Option<(&'a str, &'a [usize], QuantType)>,
    shape: [usize; 1],
    sum: &'a Cell<u64>,
    /// The first source that could not be read.
    failed: &'a RefCell<Option<Error>>,
}

impl View for Later<'_> {
    fn dtype(&self) -> FileType {
        FileType::U8
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self.of {
            Some((name, shape, kind)) => match self.checkpoint.matrix(name, shape, Dtype::Auto) {
                Ok(source) => {
                    let bytes = make(&source, kind);
                    self.sum.set(together(self.sum.get(), checksum(&bytes)));
                    bytes
                }
                Err(e) => {
                    self.failed.borrow_mut().get_or_insert(e);
                    vec![0; self.shape[0]]
                }
            },
            None => self.sum.get().to_le_bytes().to_vec(),
        })
    }

    fn data_len(&self) -> usize {
        self.shape[0]
    }
}

/// A matrix's blocks, row by row in parallel; at no time is more than a row of each thread in f32.
fn make(matrix: &Matrix, kind: QuantType) -> Vec<u8> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    // Planned matrices have rows of whole blocks.
    let row_bytes = kind.bytes_of(cols).unwrap_or(0);
    let mut out = vec![0; rows * row_bytes];
    out.par_chunks_exact_mut(row_bytes.max(1))
        .enumerate()
        .for_each_init(
            || vec![0f32; cols],
            |wide, (row, out)| {
                matrix.row(row, wide);
                quantise(kind, wide, out);
            },
        );
    out
}

/// What a cache was made from.
fn identity(checkpoint: &Checkpoint, to: Quantize) -> String {
    let mut text = format!("outro quantised weights {VERSION}, {to:?}");
    for adapter in &checkpoint.adapters {
        let _ = write!(text, "\nadapter {}{}", adapter.weight, files_of(&adapter.weights));
    }
    text + &files_of(checkpoint)
}

/// Its files, their sizes and when they were changed.
fn files_of(checkpoint: &Checkpoint) -> String {
    let mut text = String::new();
    for (path, size) in checkpoint.shards() {
        let whole: PathBuf = path.canonicalize().unwrap_or_else(|_| path.into());
        let changed = std::fs::metadata(path)
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |t| t.as_nanos());
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{} {size} {changed}", whole.display());
    }
    text
}

fn together(a: u64, b: u64) -> u64 {
    (a ^ b).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// Finds damage, not malice. Four chains, because one waits for its multiplications.
fn checksum(bytes: &[u8]) -> u64 {
    let mut lanes = [bytes.len() as u64, 1, 2, 3];
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        lanes[i % 4] = together(lanes[i % 4], u64::from_le_bytes(*word));
    }
    let last = rest.iter().fold(0, |a, b| a << 8 | u64::from(*b));
    lanes.into_iter().fold(last, together)
}
