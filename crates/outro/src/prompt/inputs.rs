//! What a model's forward takes, and its safetensors form (keys of the Hugging Face processors).

mod file;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::error::{Error, PromptTokens, Result};
use crate::spec::anyres::TokenLayout;
use crate::spec::config::{AudioProjector, Config, SpecialTokens, VisionConfig};

/// One request's tensors. Media rows come in the order of their placeholders in `input_ids`, kind by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Prompt tokens, media placeholders expanded. Empty when a checkpoint without a tokenizer prepared media only.
    pub input_ids: Vec<u32>,
    /// Patches of the images.
    pub pixel_values: Option<Pixels>,
    /// Height and width of each image's picture, where it goes through the tower in parts; else empty.
    pub image_sizes: Vec<[usize; 2]>,
    /// Patches of the videos.
    pub pixel_values_videos: Option<Pixels>,
    /// Seconds that one temporal grid step of each video lasts; empty means 1.0 for all.
    pub second_per_grid: Vec<f32>,
    /// Which tokens of the videos are in the prompt (`video_compression_mask`); empty means all.
    pub token_mask: Vec<bool>,
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
    /// Set where rows are whole pictures, as a file has them, and the grid is pictures, height and width in pixels: see
    /// [`Inputs::fitted`].
    pub whole: bool,
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
    /// Appends one item.
    pub(crate) fn push(&mut self, grid: [usize; 3], cols: usize, data: Vec<f32>) {
        self.grid_thw.push(grid);
        self.cols = cols;
        // A long video alone is large: it is not copied.
        if self.data.is_empty() {
            self.data = data;
        } else {
            self.data.extend(data);
        }
    }

    /// Whole pictures to patches. Where images are padded to as many parts, the surplus goes.
    fn cut(&mut self, key: &str, c: &Config, sizes: &[[usize; 2]]) -> Result<()> {
        let tiles = c.vision.as_ref().and_then(|v| Some((v, v.anyres.as_ref()?)));
        let Some((v, tiles)) = tiles else {
            let problem = "holds whole pictures, this model takes patches and their grid";
            return Err(Error::input(key, problem));
        };
        let side = tiles.side / v.patch;
        let mut new = Self {
            cols: v.channels * v.patch * v.patch,
            ..Self::default()
        };
        let mut rest = self.data.chunks_exact(self.cols.max(1));
        for (item, [count, height, width]) in self.grid_thw.iter().copied().enumerate() {
            if [height, width] != [tiles.side; 2] || self.cols != v.channels * height * width {
                let problem = format!(
                    "holds pictures of {height} x {width}, this model takes {0} x {0} and three colours",
                    tiles.side
                );
                return Err(Error::input(key, problem));
            }
            let kept = match sizes.get(item) {
                Some(size) if key == "pixel_values" && count > 1 => {
                    let [down, across] = tiles.parts(side, *size).grid;
                    (1 + down * across).min(count)
                }
                _ => count,
            };
            for picture in rest.by_ref().take(count).take(kept) {
                for patch in 0..side * side {
                    let (y, x) = (patch / side * v.patch, patch % side * v.patch);
                    for channel in picture.chunks_exact(height * width) {
                        for row in y..y + v.patch {
                            new.data
                                .extend(&channel[row * width + x..row * width + x + v.patch]);
                        }
                    }
                }
            }
            if kept < count {
                rest.nth(count - kept - 1);
            }
            new.grid_thw.push([kept, side, side]);
        }
        *self = new;
        Ok(())
    }

    pub(crate) fn validate(&self, key: &str, grid_key: &str, v: &VisionConfig, merge: usize) -> Result<()> {
        let cols = v.channels * v.temporal * v.patch * v.patch;
        if self.whole || self.cols != cols {
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
        let file = file::File {
            path,
            tensors,
            metadata: header.metadata().clone().unwrap_or_default(),
        };
        file.inputs()
    }

    /// Cuts whole pictures, as some processors give them, into the patches that the model of `c` takes.
    ///
    /// # Errors
    /// Whole pictures for a model that takes patches, or of another size.
    pub fn fitted(mut self, c: &Config) -> Result<Self> {
        let sizes = &self.image_sizes;
        for (key, pixels) in [
            ("pixel_values", &mut self.pixel_values),
            ("pixel_values_videos", &mut self.pixel_values_videos),
        ] {
            if let Some(p) = pixels.as_mut().filter(|p| p.whole) {
                p.cut(key, c, sizes)?;
            }
        }
        Ok(self)
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
        if !self.image_sizes.is_empty() {
            let sizes = self.image_sizes.iter().flatten().map(|n| *n as i64).collect();
            out.push((
                "image_sizes",
                Dtype::I64,
                vec![self.image_sizes.len(), 2],
                ints(sizes),
            ));
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
        if !self.token_mask.is_empty() {
            let mask: Vec<u8> = self.token_mask.iter().map(|k| u8::from(*k)).collect();
            let (key, shape) = ("video_compression_mask", vec![mask.len()]);
            out.push((key, Dtype::BOOL, shape, Cow::Owned(mask)));
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

    /// Tokens of all images or videos, whose grids are valid.
    fn visual_tokens(&self, key: &str, p: &Pixels, v: &VisionConfig) -> Result<usize> {
        let videos = key == "pixel_values_videos";
        let side = v.positions.unwrap_or(1);
        let mut sum = 0_usize;
        for (item, grid) in p.grid_thw.iter().enumerate() {
            let size = self.image_sizes.get(item).copied();
            let layout = if videos {
                TokenLayout::video(v, *grid)
            } else {
                TokenLayout::image(v, *grid, size)
            };
            if v.anyres.is_some() {
                if grid[1..] != [side; 2] {
                    let problem =
                        format!("holds {grid:?}, this model takes squares of {side} x {side} patches");
                    return Err(Error::input(key, problem));
                }
                let parts = match &layout {
                    TokenLayout::Tiles(parts) => 1 + parts.grid[0] * parts.grid[1],
                    TokenLayout::Grid(_) => {
                        let problem =
                            format!("image {item} is in parts, and its height and width are not given");
                        return Err(Error::input("image_sizes", problem));
                    }
                    _ => grid[0],
                };
                if parts != grid[0] {
                    let [h, w] = size.unwrap_or_default();
                    let problem = format!(
                        "{h} x {w} of image {item} give {parts} parts, there are {}",
                        grid[0]
                    );
                    return Err(Error::input("image_sizes", problem));
                }
            }
            sum = sum.saturating_add(layout.count(side));
        }
        Ok(sum)
    }

    /// How many of `tokens` of the videos stay.
    fn validate_kept(&self, c: &Config, tokens: usize) -> Result<usize> {
        let key = "video_compression_mask";
        if !c.frames.drops_static_patches {
            return Err(Error::input(
                key,
                "given, and this model takes all tokens of a video",
            ));
        }
        if self.token_mask.len() != tokens {
            let problem = format!(
                "has {} values for {tokens} tokens of videos",
                self.token_mask.len()
            );
            return Err(Error::input(key, problem));
        }
        Ok(self.token_mask.iter().filter(|k| **k).count())
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

    /// Its tokens by kind, as its ids say. Where images and videos have one placeholder, those of a video are the video's.
    fn prompt_tokens(&self, t: &SpecialTokens) -> PromptTokens {
        let of = |id: Option<u32>| self.input_ids.iter().filter(|i| Some(**i) == id).count();
        let (total, mut image, mut video, audio) =
            (self.input_ids.len(), of(t.image), of(t.video), of(t.audio));
        if t.image == t.video {
            if self.pixel_values_videos.is_some() {
                image = 0;
            } else {
                video = 0;
            }
        }
        PromptTokens {
            total,
            text: total.saturating_sub(image + video + audio),
            image,
            video,
            audio,
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
        self.prompt_tokens(t).fit(c.text.max_positions)?;
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
        one_kind(t, self.pixel_values.is_some(), self.pixel_values_videos.is_some())?;
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
                expected = self.visual_tokens(key, p, v)?;
            }
            if name == "video" && !self.token_mask.is_empty() {
                expected = self.validate_kept(c, expected)?;
            }
            // One placeholder for both: it stands for the kind that is there.
            if t.image == t.video && pixels.is_none() {
                continue;
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
            let chunk = 2 * audio.n_window;
            if let Some(len) = a
                .lengths
                .iter()
                .find(|n| matches!(audio.projector, AudioProjector::QFormer(_)) && !n.is_multiple_of(chunk))
            {
                let problem = format!("has an audio of {len} frames; this model takes multiples of {chunk}");
                return Err(Error::input("feature_attention_mask", problem));
            }
            if let Some(len) = a.lengths.iter().find(|n| audio.tokens(**n) == 0) {
                let problem = format!("has an audio of {len} frames of 10 ms, too short for one token");
                return Err(Error::input("feature_attention_mask", problem));
            }
            expected = a.lengths.iter().map(|n| audio.tokens(*n)).sum();
        }
        count("feature_attention_mask", "audio", t.audio, expected)
    }
}

/// Refuses images beside videos where their tokens cannot be told apart.
pub(crate) fn one_kind(t: &SpecialTokens, images: bool, videos: bool) -> Result<()> {
    if t.image.is_some() && t.image == t.video && images && videos {
        let problem =
            "images and videos have the same placeholder in this checkpoint: ask about one kind only";
        return Err(Error::input("pixel_values_videos", problem));
    }
    Ok(())
}

/// Key, type, shape and bytes of a tensor to be written.
type Tensor<'a> = (&'static str, Dtype, Vec<usize>, Cow<'a, [u8]>);
