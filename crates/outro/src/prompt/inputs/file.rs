//! Inputs out of a safetensors file.

use std::collections::HashMap;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::{AudioFeatures, Inputs, Pixels};
use crate::error::{Error, Result};

/// A file of inputs while it is read.
pub(super) struct File<'a> {
    pub(super) path: &'a Path,
    pub(super) tensors: SafeTensors<'a>,
    pub(super) metadata: HashMap<String, String>,
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

    pub(super) fn inputs(&self) -> Result<Inputs> {
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
            image_sizes: self.sizes()?,
            pixel_values_videos: self.pixels("pixel_values_videos", "video_grid_thw")?,
            second_per_grid: self.seconds()?,
            token_mask: match self.get("video_compression_mask") {
                None => Vec::new(),
                Some(t) => self
                    .row("video_compression_mask", &t)?
                    .into_iter()
                    .map(|k| k != 0)
                    .collect(),
            },
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
                "missing, and so is every other input; docs/trace.md has the keys",
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

    fn sizes(&self) -> Result<Vec<[usize; 2]>> {
        let key = "image_sizes";
        let Some(t) = self.get(key) else {
            return Ok(Vec::new());
        };
        if !matches!(t.shape(), [_, 2]) {
            return Err(self.error(key, format!("has shape {:?}, must be [images, 2]", t.shape())));
        }
        let side = |n: i64| usize::try_from(n).ok().filter(|n| (1..1 << 20).contains(n));
        let sizes = self.ints(key, &t)?;
        let pairs = sizes.as_chunks::<2>().0.iter();
        pairs
            .map(|[h, w]| {
                let pair = side(*h).zip(side(*w)).map(|(h, w)| [h, w]);
                pair.ok_or_else(|| self.error(key, format!("holds [{h}, {w}], must be two numbers above 0")))
            })
            .collect()
    }

    /// Pictures `[items, pictures, channels, height, width]`, or of one item.
    fn pictures(&self, key: &str, t: &TensorView) -> Result<Option<Pixels>> {
        let shape = t.shape();
        let (items, &[count, channels, h, w]) = (
            if shape.len() == 5 { shape[0] } else { 1 },
            shape.last_chunk::<4>().unwrap_or(&[0; 4]),
        );
        let sides = [count, channels, h, w];
        if items == 0 || sides.iter().any(|n| !(1..1 << 15).contains(n)) {
            return Err(self.error(key, format!("has shape {shape:?}, no number may be 0 or huge")));
        }
        Ok(Some(Pixels {
            grid_thw: vec![[count, h, w]; items],
            cols: channels * h * w,
            data: self.floats(key, t)?,
            whole: true,
        }))
    }

    fn pixels(&self, key: &str, grid_key: &str) -> Result<Option<Pixels>> {
        if let Some(t) = self.get(key).filter(|t| matches!(t.shape().len(), 4 | 5)) {
            return self.pictures(key, &t);
        }
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
            whole: false,
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
