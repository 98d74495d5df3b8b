//! What a model's forward takes, and its safetensors form (keys of the Hugging Face processors).

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::audio_tokens;
use crate::config::{Config, VisionConfig};
use crate::error::{Error, Result};

/// One request's tensors. Media rows come in the order of their placeholders in `input_ids`, kind by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Prompt tokens, media placeholders expanded. Empty when a checkpoint without a tokenizer prepared media only.
    pub input_ids: Vec<u32>,
    /// Patches of the images.
    pub pixel_values: Option<Pixels>,
    /// Patches of the videos.
    pub pixel_values_videos: Option<Pixels>,
    /// Seconds that one temporal grid step of each video lasts; empty means 1.0 for all.
    pub second_per_grid: Vec<f32>,
    /// Log-mel spectrograms, those of videos' sound tracks included.
    pub audio: Option<AudioFeatures>,
    /// Whether videos whose placeholder begins with the audio delimiter carry their sound, interleaved in chunks.
    pub use_audio_in_video: bool,
}

/// Patches of some images or videos, item after item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pixels {
    /// Each item's patches along time, height and width.
    pub grid_thw: Vec<[usize; 3]>,
    /// Numbers in a patch: channels x temporal x patch x patch.
    pub cols: usize,
    /// `[sum of t * h * w, cols]`, row-major.
    pub data: Vec<f32>,
}

/// Log-mel spectrograms, item after item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AudioFeatures {
    /// Mel bins of every item.
    pub mel_bins: usize,
    /// Valid frames of each item.
    pub lengths: Vec<usize>,
    /// Item after item, each `[mel_bins, lengths[i]]`, row-major.
    pub data: Vec<f32>,
}

impl Pixels {
    /// Tokens of each item once `merge x merge` patches are one.
    pub(crate) fn tokens(&self, merge: usize) -> Vec<usize> {
        self.grid_thw
            .iter()
            .map(|[t, h, w]| t * (h / merge) * (w / merge))
            .collect()
    }

    /// Appends one item.
    pub(crate) fn push(&mut self, grid: [usize; 3], cols: usize, data: &[f32]) {
        self.grid_thw.push(grid);
        self.cols = cols;
        self.data.extend_from_slice(data);
    }

    fn validate(&self, key: &str, grid_key: &str, v: &VisionConfig, merge: usize) -> Result<()> {
        let cols = v.channels * v.temporal * v.patch * v.patch;
        if self.cols != cols {
            let problem = format!(
                "has rows of {}, this model's patches have {cols} numbers",
                self.cols
            );
            return Err(Error::input(key, problem));
        }
        let mut rows = 0_usize;
        for grid in &self.grid_thw {
            let [t, h, w] = *grid;
            if t == 0 || h == 0 || w == 0 || h % merge != 0 || w % merge != 0 {
                let problem =
                    format!("holds {grid:?}; time must be above 0, height and width multiples of {merge}");
                return Err(Error::input(grid_key, problem));
            }
            rows = t
                .checked_mul(h)
                .and_then(|n| n.checked_mul(w))
                .and_then(|n| n.checked_add(rows))
                .ok_or_else(|| Error::input(grid_key, format!("holds {grid:?}, which is too large")))?;
        }
        if rows.checked_mul(cols) != Some(self.data.len()) {
            let problem = format!(
                "has {} rows, {grid_key} describes {rows}",
                self.data.len() / cols.max(1)
            );
            return Err(Error::input(key, problem));
        }
        Ok(())
    }
}

impl AudioFeatures {
    /// Appends one item of `frames` mel frames.
    pub(crate) fn push(&mut self, mel_bins: usize, frames: usize, data: &[f32]) {
        self.mel_bins = mel_bins;
        self.lengths.push(frames);
        self.data.extend_from_slice(data);
    }
}

impl Inputs {
    /// Reads a safetensors file with the processors' keys; keys may carry the prefix `input.`.
    ///
    /// # Errors
    /// Files that are not safetensors, and tensors whose type, shape or values cannot be, by file and key.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let broken = |e| {
            Error::input(
                path.display().to_string(),
                format!("not a whole safetensors file ({e})"),
            )
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(broken)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let file = File {
            path,
            tensors,
            metadata: header.metadata().clone().unwrap_or_default(),
        };
        file.inputs()
    }

    /// Writes the file that [`Inputs::load`] reads: floats as F32, numbers as I64. It appears whole or not at all.
    ///
    /// # Errors
    /// An output that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut out: Vec<Tensor> = Vec::new();
        let ints = |v: Vec<i64>| Cow::Owned(bytemuck::cast_slice(&v).to_vec());
        if !self.input_ids.is_empty() {
            let shape = vec![1, self.input_ids.len()];
            let ids = self.input_ids.iter().map(|i| i64::from(*i)).collect();
            out.push(("input_ids", Dtype::I64, shape.clone(), ints(ids)));
            out.push((
                "attention_mask",
                Dtype::I64,
                shape,
                ints(vec![1; self.input_ids.len()]),
            ));
        }
        for (key, grid_key, pixels) in [
            ("pixel_values", "image_grid_thw", &self.pixel_values),
            ("pixel_values_videos", "video_grid_thw", &self.pixel_values_videos),
        ] {
            let Some(p) = pixels else { continue };
            let shape = vec![p.data.len() / p.cols.max(1), p.cols];
            out.push((
                key,
                Dtype::F32,
                shape,
                Cow::Borrowed(bytemuck::cast_slice(&p.data)),
            ));
            let grid = p.grid_thw.iter().flatten().map(|n| *n as i64).collect();
            out.push((grid_key, Dtype::I64, vec![p.grid_thw.len(), 3], ints(grid)));
        }
        if !self.second_per_grid.is_empty() {
            let data = Cow::Borrowed(bytemuck::cast_slice(&self.second_per_grid));
            out.push((
                "video_second_per_grid",
                Dtype::F32,
                vec![self.second_per_grid.len()],
                data,
            ));
        }
        if let Some(a) = &self.audio {
            let (n, longest) = (a.lengths.len(), a.lengths.iter().copied().max().unwrap_or(0));
            let mut padded = Vec::with_capacity(n * a.mel_bins * longest);
            let mut mask = Vec::with_capacity(n * longest);
            let mut rest = a.data.as_slice();
            for len in &a.lengths {
                let (item, after) = rest.split_at((a.mel_bins * len).min(rest.len()));
                rest = after;
                for row in item.chunks(*len.max(&1)) {
                    padded.extend_from_slice(row);
                    padded.resize(padded.len() + longest - len, 0.0_f32);
                }
                mask.extend((0..longest).map(|i| i64::from(i < *len)));
            }
            let features = Cow::Owned(bytemuck::cast_slice(&padded).to_vec());
            out.push((
                "input_features",
                Dtype::F32,
                vec![n, a.mel_bins, longest],
                features,
            ));
            out.push(("feature_attention_mask", Dtype::I64, vec![n, longest], ints(mask)));
        }
        let mut views = Vec::new();
        for (key, dtype, shape, data) in &out {
            let view = TensorView::new(*dtype, shape.clone(), data)
                .map_err(|e| Error::input(*key, format!("cannot be written: {e}")))?;
            views.push((*key, view));
        }
        let metadata = HashMap::from([
            ("kind".to_owned(), self.kind().to_owned()),
            (
                "use_audio_in_video".to_owned(),
                self.use_audio_in_video.to_string(),
            ),
        ]);
        // A neighbour first, so that a full disk or a kill leaves what was there before.
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        safetensors::serialize_to_file(views, Some(metadata), &part).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(e) => Error::io(path)(e),
            e => Error::input(path.display().to_string(), format!("cannot be written: {e}")),
        })?;
        std::fs::rename(&part, path).map_err(Error::io(path))
    }

    /// The word for its media: text, image, video, audio, audio-in-video or mixed.
    pub fn kind(&self) -> &'static str {
        match (
            self.pixel_values.is_some(),
            self.pixel_values_videos.is_some(),
            self.audio.is_some(),
        ) {
            (false, false, false) => "text",
            (true, false, false) => "image",
            (false, true, false) => "video",
            (false, false, true) => "audio",
            (false, true, true) if self.use_audio_in_video => "audio-in-video",
            _ => "mixed",
        }
    }

    /// Checks that the tensors fit the model and each other.
    ///
    /// # Errors
    /// Names the key, with both numbers.
    pub fn validate(&self, c: &Config) -> Result<()> {
        let (ids, t) = (&self.input_ids, &c.tokens);
        if let Some(id) = ids.iter().find(|id| **id as usize >= c.text.vocab) {
            let problem = format!("holds the id {id}, the vocabulary ends at {}", c.text.vocab - 1);
            return Err(Error::input("input_ids", problem));
        }
        if ids.len() > c.text.max_positions {
            let breakdown = "shorten the prompt (--fps, --frames, --max-pixels, --start/--end)".into();
            return Err(Error::TokenBudget {
                tokens: ids.len(),
                limit: c.text.max_positions,
                breakdown,
            });
        }
        let count = |key: &str, name: &str, id: Option<u32>, expected: usize| {
            let Some(id) = id else { return Ok(()) };
            let found = ids.iter().filter(|i| **i == id).count();
            // Media prepared without a tokenizer have no ids to compare with.
            if found == expected || ids.is_empty() {
                return Ok(());
            }
            let problem =
                format!("gives {expected} {name} tokens, input_ids holds {found} placeholders (id {id})");
            Err(Error::input(key, problem))
        };
        for (key, grid_key, name, id, pixels) in [
            (
                "pixel_values",
                "image_grid_thw",
                "image",
                t.image,
                &self.pixel_values,
            ),
            (
                "pixel_values_videos",
                "video_grid_thw",
                "video",
                t.video,
                &self.pixel_values_videos,
            ),
        ] {
            let mut expected = 0;
            if let Some(p) = pixels {
                let (Some(v), Some(_)) = (&c.vision, id) else {
                    return Err(Error::input(key, "given, and this model takes no such media"));
                };
                let merge = if name == "image" { v.image_merge } else { v.merge };
                p.validate(key, grid_key, v, merge)?;
                expected = p.tokens(merge).iter().sum();
            }
            count(grid_key, name, id, expected)?;
        }
        let videos = self.pixel_values_videos.as_ref().map_or(0, |p| p.grid_thw.len());
        let seconds = &self.second_per_grid;
        if !seconds.is_empty() && seconds.len() != videos {
            let problem = format!("has {} values for {videos} videos", seconds.len());
            return Err(Error::input("video_second_per_grid", problem));
        }
        if let Some(s) = seconds
            .iter()
            .find(|s| !(s.is_finite() && **s >= 0.0 && **s <= 86400.0))
        {
            return Err(Error::input(
                "video_second_per_grid",
                format!("holds {s}, must be seconds from 0 to 86400"),
            ));
        }
        let mut expected = 0;
        if let Some(a) = &self.audio {
            let (Some(audio), Some(_)) = (&c.audio, t.audio) else {
                return Err(Error::input(
                    "input_features",
                    "given, and this model takes no audio",
                ));
            };
            if a.mel_bins != audio.mel_bins {
                let problem = format!("has {} mel bins, this model takes {}", a.mel_bins, audio.mel_bins);
                return Err(Error::input("input_features", problem));
            }
            let frames = a.lengths.iter().try_fold(0_usize, |n, len| n.checked_add(*len));
            if frames.and_then(|n| n.checked_mul(a.mel_bins)) != Some(a.data.len()) {
                return Err(Error::input(
                    "input_features",
                    "does not have the frames that its lengths give",
                ));
            }
            if let Some(len) = a.lengths.iter().find(|n| audio_tokens(**n) == 0) {
                let problem =
                    format!("has an audio of {len} frames; 3 (30 ms) are the least that give a token");
                return Err(Error::input("feature_attention_mask", problem));
            }
            expected = a.lengths.iter().map(|n| audio_tokens(*n)).sum();
        }
        count("feature_attention_mask", "audio", t.audio, expected)
    }
}

/// Key, type, shape and bytes of a tensor to be written.
type Tensor<'a> = (&'static str, Dtype, Vec<usize>, Cow<'a, [u8]>);

/// A file of inputs while it is read.
struct File<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
}

impl File<'_> {
    fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::input(format!("{}: {key}", self.path.display()), problem)
    }

    fn get(&self, key: &str) -> Option<TensorView<'_>> {
        self.tensors
            .tensor(key)
            .or_else(|_| self.tensors.tensor(&format!("input.{key}")))
            .ok()
    }

    fn inputs(&self) -> Result<Inputs> {
        let ids = match self.get("input_ids") {
            Some(t) => self.row("input_ids", &t)?,
            None => Vec::new(),
        };
        let input_ids = ids
            .iter()
            .map(|i| {
                u32::try_from(*i).map_err(|_| self.error("input_ids", format!("holds {i}, not a token id")))
            })
            .collect::<Result<Vec<_>>>()?;
        if let Some(t) = self.get("attention_mask") {
            let mask = self.row("attention_mask", &t)?;
            if mask.len() != ids.len() || mask.iter().any(|m| *m != 1) {
                let problem = format!("must be {} ones; remove padded tokens from input_ids", ids.len());
                return Err(self.error("attention_mask", problem));
            }
        }
        let inputs = Inputs {
            input_ids,
            pixel_values: self.pixels("pixel_values", "image_grid_thw")?,
            pixel_values_videos: self.pixels("pixel_values_videos", "video_grid_thw")?,
            second_per_grid: self.seconds()?,
            audio: self.audio()?,
            use_audio_in_video: match self
                .metadata
                .get("use_audio_in_video")
                .map(|s| s.to_ascii_lowercase())
            {
                None => false,
                Some(s) if s == "false" || s == "0" => false,
                Some(s) if s == "true" || s == "1" => true,
                Some(s) => {
                    return Err(self.error(
                        "metadata use_audio_in_video",
                        format!("is `{s}`, must be true or false"),
                    ));
                }
            },
        };
        if inputs == Inputs::default() {
            return Err(self.error(
                "input_ids",
                "missing, and so is every other input; see `outro trace --help` for the keys",
            ));
        }
        Ok(inputs)
    }

    /// Integers of shape `[S]` or `[1, S]`.
    fn row(&self, key: &str, t: &TensorView) -> Result<Vec<i64>> {
        if !matches!(t.shape(), [_] | [1, _]) {
            return Err(self.error(
                key,
                format!(
                    "has shape {:?}, must be [1, tokens]; one prompt a file",
                    t.shape()
                ),
            ));
        }
        self.ints(key, t)
    }

    fn ints(&self, key: &str, t: &TensorView) -> Result<Vec<i64>> {
        let b = t.data();
        Ok(match t.dtype() {
            Dtype::I64 => b.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c)).collect(),
            Dtype::I32 => b
                .as_chunks()
                .0
                .iter()
                .map(|c| i64::from(i32::from_le_bytes(*c)))
                .collect(),
            Dtype::U32 => b
                .as_chunks()
                .0
                .iter()
                .map(|c| i64::from(u32::from_le_bytes(*c)))
                .collect(),
            Dtype::U8 | Dtype::BOOL => b.iter().map(|c| i64::from(*c)).collect(),
            d => return Err(self.error(key, format!("has type {d:?}, must be I64 or I32"))),
        })
    }

    fn floats(&self, key: &str, t: &TensorView) -> Result<Vec<f32>> {
        let b = t.data();
        let out: Vec<f32> = match t.dtype() {
            Dtype::F32 => b.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c)).collect(),
            Dtype::F64 => b
                .as_chunks()
                .0
                .iter()
                .map(|c| f64::from_le_bytes(*c) as f32)
                .collect(),
            Dtype::F16 => b
                .as_chunks()
                .0
                .iter()
                .map(|c| half::f16::from_le_bytes(*c).to_f32())
                .collect(),
            Dtype::BF16 => b
                .as_chunks()
                .0
                .iter()
                .map(|c| half::bf16::from_le_bytes(*c).to_f32())
                .collect(),
            d => return Err(self.error(key, format!("has type {d:?}, must be F32, F16 or BF16"))),
        };
        if out.iter().all(|x| x.is_finite()) {
            Ok(out)
        } else {
            Err(self.error(key, "holds NaN or infinity"))
        }
    }

    fn pixels(&self, key: &str, grid_key: &str) -> Result<Option<Pixels>> {
        let (pixels, grid) = match (self.get(key), self.get(grid_key)) {
            (None, None) => return Ok(None),
            (Some(p), Some(g)) => (p, g),
            (Some(_), None) => return Err(self.error(grid_key, format!("missing, and {key} is given"))),
            (None, Some(_)) => return Err(self.error(key, format!("missing, and {grid_key} is given"))),
        };
        let &[rows, cols] = pixels.shape() else {
            return Err(self.error(
                key,
                format!("has shape {:?}, must be [patches, numbers]", pixels.shape()),
            ));
        };
        if !matches!(grid.shape(), [n, 3] if *n > 0) {
            return Err(self.error(
                grid_key,
                format!("has shape {:?}, must be [items, 3]", grid.shape()),
            ));
        }
        let mut total = 0_usize;
        let mut grid_thw = Vec::new();
        for g in self.ints(grid_key, &grid)?.as_chunks::<3>().0 {
            // Below 2^20 a side, products of three fit 64 bits.
            let side = |n: i64| usize::try_from(n).ok().filter(|n| (1..1 << 20).contains(n));
            let (Some(t), Some(h), Some(w)) = (side(g[0]), side(g[1]), side(g[2])) else {
                return Err(self.error(grid_key, format!("holds {g:?}, must be three numbers above 0")));
            };
            total = total.saturating_add(t * h * w);
            grid_thw.push([t, h, w]);
        }
        if total != rows {
            return Err(self.error(key, format!("has {rows} rows, {grid_key} describes {total}")));
        }
        Ok(Some(Pixels {
            grid_thw,
            cols,
            data: self.floats(key, &pixels)?,
        }))
    }

    fn seconds(&self) -> Result<Vec<f32>> {
        // Qwen2.5-VL's processor has another name for the same thing.
        for key in ["video_second_per_grid", "second_per_grid_ts"] {
            let Some(t) = self.get(key) else { continue };
            if t.shape().len() > 1 {
                return Err(self.error(key, format!("has shape {:?}, must be [videos]", t.shape())));
            }
            if matches!(t.dtype(), Dtype::I64 | Dtype::I32) {
                return Ok(self.ints(key, &t)?.into_iter().map(|n| n as f32).collect());
            }
            return self.floats(key, &t);
        }
        Ok(Vec::new())
    }

    fn audio(&self) -> Result<Option<AudioFeatures>> {
        let (key, mask_key) = ("input_features", "feature_attention_mask");
        let Some(t) = self.get(key) else { return Ok(None) };
        let &[n, mel_bins, longest] = t.shape() else {
            return Err(self.error(
                key,
                format!("has shape {:?}, must be [items, mel bins, frames]", t.shape()),
            ));
        };
        if n == 0 || mel_bins == 0 || longest == 0 {
            return Err(self.error(key, format!("has shape {:?}, no number may be 0", t.shape())));
        }
        let lengths = match self.get(mask_key) {
            None => vec![longest; n],
            Some(mask) => {
                if mask.shape() != [n, longest] {
                    return Err(self.error(
                        mask_key,
                        format!("has shape {:?}, must be [{n}, {longest}]", mask.shape()),
                    ));
                }
                let mut lengths = Vec::with_capacity(n);
                for row in self.ints(mask_key, &mask)?.chunks(longest) {
                    let valid = row.iter().take_while(|m| **m == 1).count();
                    if valid == 0 || row[valid..].iter().any(|m| *m != 0) {
                        return Err(self.error(mask_key, "every row must be ones, then zeros"));
                    }
                    lengths.push(valid);
                }
                lengths
            }
        };
        let padded = self.floats(key, &t)?;
        let mut data = Vec::with_capacity(lengths.iter().sum::<usize>() * mel_bins);
        for (item, len) in padded.chunks(mel_bins * longest).zip(&lengths) {
            for row in item.chunks(longest) {
                data.extend_from_slice(&row[..*len]);
            }
        }
        Ok(Some(AudioFeatures {
            mel_bins,
            lengths,
            data,
        }))
    }
}
