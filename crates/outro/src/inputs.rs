//! What a model's forward takes: ids, patches and mel frames; read from and written to safetensors with the key
//! names of the Python processors, so that any implementation can be fed the same.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::config::Config;
use crate::error::{Error, Result};

/// A prepared request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Token ids `[S]`; empty when there is no tokenizer.
    pub input_ids: Vec<u32>,
    /// Patches of all images.
    pub pixel_values: Option<Pixels>,
    /// Patches of all videos.
    pub pixel_values_videos: Option<Pixels>,
    /// Seconds that one temporal patch of each video spans (`video_second_per_grid`).
    pub second_per_grid: Vec<f32>,
    /// Log-mel of all audios.
    pub audio: Option<AudioFeatures>,
    /// Whether sound is interleaved with its video.
    pub use_audio_in_video: bool,
}

/// Normalised patches of several items, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pixels {
    /// Temporal, vertical and horizontal patches of each item.
    pub grid_thw: Vec<[usize; 3]>,
    /// Elements of a patch: channels x temporal x patch x patch.
    pub cols: usize,
    /// `[sum of t * h * w, cols]`.
    pub data: Vec<f32>,
}

/// Log-mel spectrograms of several items, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AudioFeatures {
    /// Mel bins.
    pub mel_bins: usize,
    /// Frames of each item.
    pub lengths: Vec<usize>,
    /// Item after item, each `[mel_bins, length]`.
    pub data: Vec<f32>,
}

impl Inputs {
    /// Reads a file of prepared inputs. Keys may carry the prefix `input.`.
    ///
    /// # Errors
    /// A file that is not safetensors, keys of the wrong type or shape, counts that contradict each other.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let damaged = |e: safetensors::SafeTensorError| Error::input(path.display().to_string(), format!("not a safetensors file ({e})"));
        let tensors = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let file = File { path, tensors };
        let flag = header.metadata().as_ref().and_then(|m| m.get("use_audio_in_video"));
        let seconds = file.floats("video_second_per_grid")?.map_or_else(Vec::new, |(_, s)| s);
        Ok(Self {
            input_ids: file.ids()?,
            pixel_values: file.pixels("pixel_values", "image_grid_thw")?,
            pixel_values_videos: file.pixels("pixel_values_videos", "video_grid_thw")?,
            second_per_grid: seconds,
            audio: file.audio()?,
            use_audio_in_video: flag.is_some_and(|f| f == "true"),
        })
    }

    /// Writes the inputs: floats as F32, ids and grids as I64. The file appears whole or not at all.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut out: Vec<(&str, Vec<usize>, Dtype, Vec<u8>)> = Vec::new();
        let longs = |v: &mut dyn Iterator<Item = i64>| v.flat_map(i64::to_le_bytes).collect::<Vec<u8>>();
        let floats = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let s = self.input_ids.len();
        if s > 0 {
            out.push(("input_ids", vec![1, s], Dtype::I64, longs(&mut self.input_ids.iter().map(|i| i64::from(*i)))));
            out.push(("attention_mask", vec![1, s], Dtype::I64, longs(&mut (0..s).map(|_| 1))));
        }
        let visual = [("pixel_values", "image_grid_thw", &self.pixel_values), ("pixel_values_videos", "video_grid_thw", &self.pixel_values_videos)];
        for (key, grid_key, pixels) in visual {
            if let Some(p) = pixels {
                out.push((key, vec![p.data.len() / p.cols.max(1), p.cols], Dtype::F32, floats(&p.data)));
                let grid = longs(&mut p.grid_thw.iter().flatten().map(|n| *n as i64));
                out.push((grid_key, vec![p.grid_thw.len(), 3], Dtype::I64, grid));
            }
        }
        if self.pixel_values_videos.is_some() {
            out.push(("video_second_per_grid", vec![self.second_per_grid.len()], Dtype::F32, floats(&self.second_per_grid)));
        }
        if let Some(a) = &self.audio {
            let longest = a.lengths.iter().copied().max().unwrap_or(0);
            let mut padded = Vec::with_capacity(a.lengths.len() * a.mel_bins * longest);
            let mut rest = &a.data[..];
            for n in &a.lengths {
                for _ in 0..a.mel_bins {
                    let (row, after) = rest.split_at(*n);
                    padded.extend_from_slice(row);
                    padded.resize(padded.len() + longest - n, 0.0);
                    rest = after;
                }
            }
            out.push(("input_features", vec![a.lengths.len(), a.mel_bins, longest], Dtype::F32, floats(&padded)));
            let mask = a.lengths.iter().flat_map(|n| (0..longest).map(move |i| i64::from(i < *n)));
            out.push(("feature_attention_mask", vec![a.lengths.len(), longest], Dtype::I64, longs(&mut mask.into_iter())));
        }
        let views: Vec<_> = out
            .iter()
            .map(|(key, shape, dtype, bytes)| Ok((*key, TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<std::result::Result<_, safetensors::SafeTensorError>>()
            .map_err(|e| Error::input(path.display().to_string(), e.to_string()))?;
        let meta = HashMap::from([
            ("kind".to_string(), self.kind().to_string()),
            ("use_audio_in_video".to_string(), self.use_audio_in_video.to_string()),
        ]);
        let bytes = safetensors::serialize(views, Some(meta)).map_err(|e| Error::input(path.display().to_string(), e.to_string()))?;
        // A neighbour first, so that a full disk or a kill leaves what was there before.
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = std::path::PathBuf::from(part);
        std::fs::write(&part, bytes).map_err(Error::io(path))?;
        std::fs::rename(&part, path).map_err(Error::io(path))
    }

    fn kind(&self) -> &'static str {
        match (&self.pixel_values, &self.pixel_values_videos, &self.audio) {
            (None, None, None) => "text",
            (Some(_), None, None) => "image",
            (None, Some(_), None) => "video",
            (None, None, Some(_)) => "audio",
            (None, Some(_), Some(_)) if self.use_audio_in_video => "audio-in-video",
            _ => "mixed",
        }
    }

    /// Checks that ids, grids, patches and mel frames fit each other and the model.
    ///
    /// # Errors
    /// The first contradiction, by key.
    pub fn validate(&self, c: &Config) -> Result<()> {
        let count = |id: Option<u32>| self.input_ids.iter().filter(|i| Some(**i) == id).count();
        if let Some(id) = self.input_ids.iter().find(|i| **i as usize >= c.text.vocab) {
            return Err(Error::input("input_ids", format!("holds the id {id}, the vocabulary has {} ids", c.text.vocab)));
        }
        let visual = [
            ("pixel_values", "image", &self.pixel_values, c.tokens.image),
            ("pixel_values_videos", "video", &self.pixel_values_videos, c.tokens.video),
        ];
        for (key, name, pixels, id) in visual {
            let mut tokens = 0;
            if let Some(p) = pixels {
                let v = c.vision.as_ref().ok_or_else(|| Error::input(key, "given, and this model has no vision tower"))?;
                let cols = v.channels * v.temporal * v.patch * v.patch;
                if p.cols != cols {
                    return Err(Error::input(key, format!("has {} columns, this model's patches have {cols}", p.cols)));
                }
                let mut rows = 0usize;
                for grid in &p.grid_thw {
                    let n = grid.iter().try_fold(1usize, |n, x| n.checked_mul(*x)).unwrap_or(usize::MAX);
                    if n == 0 || !grid[1].is_multiple_of(v.merge) || !grid[2].is_multiple_of(v.merge) {
                        return Err(Error::input(format!("{name}_grid_thw"), format!("{grid:?}: must be above 0, height and width multiples of {}", v.merge)));
                    }
                    rows = rows.saturating_add(n);
                    tokens += n / (v.merge * v.merge);
                }
                if rows.checked_mul(cols) != Some(p.data.len()) {
                    return Err(Error::input(key, format!("has {} rows, {name}_grid_thw says {rows}", p.data.len() / cols)));
                }
                if name == "video" && self.second_per_grid.len() != p.grid_thw.len() {
                    return Err(Error::input("video_second_per_grid", format!("has {} entries for {} videos", self.second_per_grid.len(), p.grid_thw.len())));
                }
            }
            self.fits(name, count(id), tokens)?;
        }
        let mut tokens = 0;
        if let Some(a) = &self.audio {
            let t = c.audio.as_ref().ok_or_else(|| Error::input("input_features", "given, and this model has no audio tower"))?;
            let frames: usize = a.lengths.iter().sum();
            if a.mel_bins != t.mel_bins || frames.checked_mul(a.mel_bins) != Some(a.data.len()) {
                return Err(Error::input("input_features", format!("has {} bins and {} elements; this model wants {} bins", a.mel_bins, a.data.len(), t.mel_bins)));
            }
            tokens = a.lengths.iter().map(|n| crate::audio_tokens(*n)).sum();
        }
        self.fits("audio", count(c.tokens.audio), tokens)
    }

    /// Placeholders must be as many as tokens; without a tokenizer there are no ids to compare.
    fn fits(&self, name: &str, placeholders: usize, tokens: usize) -> Result<()> {
        if self.input_ids.is_empty() || placeholders == tokens {
            return Ok(());
        }
        Err(Error::input("input_ids", format!("has {placeholders} {name} placeholders, the media make {tokens} {name} tokens")))
    }
}

/// A file of tensors that knows its path.
struct File<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl File<'_> {
    fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: {key}", self.path.display()), problem.to_string())
    }

    fn find(&self, key: &str) -> Option<TensorView<'_>> {
        self.tensors.tensor(key).or_else(|_| self.tensors.tensor(&format!("input.{key}"))).ok()
    }

    fn floats(&self, key: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let Some(t) = self.find(key) else { return Ok(None) };
        let d = t.data();
        let values: Vec<f32> = match t.dtype() {
            Dtype::F32 => d.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F64 => d.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::BF16 => d.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F16 => d.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            other => return Err(self.bad(key, format!("is of type {other:?}, must be F32, F64, F16 or BF16"))),
        };
        if !values.iter().all(|x| x.is_finite()) {
            return Err(self.bad(key, "holds values that are not finite"));
        }
        Ok(Some((t.shape().to_vec(), values)))
    }

    fn integers(&self, key: &str) -> Result<Option<(Vec<usize>, Vec<usize>)>> {
        let Some(t) = self.find(key) else { return Ok(None) };
        let d = t.data();
        let values: Vec<i64> = match t.dtype() {
            Dtype::I64 => d.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            Dtype::I32 => d.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
            Dtype::BOOL | Dtype::U8 => d.iter().map(|b| i64::from(*b)).collect(),
            other => return Err(self.bad(key, format!("is of type {other:?}, must be I64 or I32"))),
        };
        let values = values.into_iter().map(|v| u32::try_from(v).map(|v| v as usize));
        let values = values.collect::<std::result::Result<_, _>>().map_err(|_| self.bad(key, "holds numbers below 0 or above 2^32"))?;
        Ok(Some((t.shape().to_vec(), values)))
    }

    fn ids(&self) -> Result<Vec<u32>> {
        let Some((shape, ids)) = self.integers("input_ids")? else { return Ok(Vec::new()) };
        if !(shape.len() == 1 || shape.len() == 2 && shape[0] == 1) {
            return Err(self.bad("input_ids", format!("has the shape {shape:?}, must be [S] or [1, S]")));
        }
        if self.integers("attention_mask")?.is_some_and(|(_, m)| m.len() != ids.len() || m.contains(&0)) {
            return Err(self.bad("attention_mask", "must be ones, as many as input_ids; padding is not supported"));
        }
        Ok(ids.into_iter().map(|i| i as u32).collect())
    }

    fn pixels(&self, key: &str, grid_key: &str) -> Result<Option<Pixels>> {
        let Some((shape, data)) = self.floats(key)? else { return Ok(None) };
        let grid = self.integers(grid_key)?.ok_or_else(|| self.bad(grid_key, format!("missing; it goes with {key}")))?;
        if shape.len() != 2 || shape[1] == 0 {
            return Err(self.bad(key, format!("has the shape {shape:?}, must be [patches, elements]")));
        }
        if grid.0.len() != 2 || grid.0[1] != 3 {
            return Err(self.bad(grid_key, format!("has the shape {:?}, must be [items, 3]", grid.0)));
        }
        let grid_thw: Vec<[usize; 3]> = grid.1.as_chunks().0.to_vec();
        Ok(Some(Pixels { grid_thw, cols: shape[1], data }))
    }

    fn audio(&self) -> Result<Option<AudioFeatures>> {
        let Some((shape, data)) = self.floats("input_features")? else { return Ok(None) };
        let [items, mel_bins, frames] = shape[..] else {
            return Err(self.bad("input_features", format!("has the shape {shape:?}, must be [items, mel bins, frames]")));
        };
        let mask = self.integers("feature_attention_mask")?;
        let mask = mask.map_or_else(|| vec![1; items * frames], |(_, m)| m);
        if mask.len() != items * frames {
            return Err(self.bad("feature_attention_mask", format!("has {} elements, input_features {items} x {frames} frames", mask.len())));
        }
        let mut audio = AudioFeatures { mel_bins, lengths: Vec::with_capacity(items), data: Vec::with_capacity(data.len()) };
        for item in 0..items {
            let mask = &mask[item * frames..(item + 1) * frames];
            let n = mask.iter().take_while(|m| **m == 1).count();
            if mask[n..].iter().any(|m| *m != 0) {
                return Err(self.bad("feature_attention_mask", format!("item {item}: must be ones, then zeros")));
            }
            for bin in 0..mel_bins {
                let start = (item * mel_bins + bin) * frames;
                audio.data.extend_from_slice(&data[start..start + n]);
            }
            audio.lengths.push(n);
        }
        Ok(Some(audio))
    }
}
