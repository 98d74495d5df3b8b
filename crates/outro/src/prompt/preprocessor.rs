//! preprocessor_config.json and its siblings: how pictures are cut, normalised and limited, and what sounds must be.

use std::path::{Path, PathBuf};

use outro_media::{FrameLimits, Frames, HOP, MAX_SECONDS, PatchConfig, Patches, Resize, Sampling};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::spec::config::{AnyRes, AudioConfig, AudioProjector, Config, PixelLimits, ResizePolicy};
use crate::spec::family;
use crate::weights::checkpoint::gguf::Gguf;
use crate::weights::json::read_json;

/// How a checkpoint's processor looks at pictures and videos.
pub(crate) struct Processor {
    /// Patches of videos.
    pub(crate) patches: PatchConfig,
    /// Patches of images.
    image_patches: PatchConfig,
    /// Fewest and most pixels of an image.
    pub(crate) image: PixelLimits,
    /// Fewest and most pixels of a frame that has the size of the authors' utils; where frames have limits of their own.
    frame: PixelLimits,
    /// How large pictures become, in this checkpoint's numbers.
    pixels: ResizePolicy,
    /// How images and how frames are resized.
    pub(crate) image_resize: Resize,
    pub(crate) resize: Resize,
    /// Which frames are taken where nobody says otherwise.
    pub(crate) sampling: Sampling,
    /// Whether tokens of a frame that look like those of the frame before are left out.
    pub(crate) drops_static_patches: bool,
    /// Pictures in parts.
    pub(crate) anyres: Option<AnyRes>,
}

/// Grey on the scale 0 to 1, to which the processors of families with shared pixels normalise.
const GREY: [f32; 3] = [0.5; 3];

/// What transformers' processors may read, and in which files: each part of processor_config.json where it is nested there
/// (releases from 5 on write nothing else), else a file of its own.
#[derive(Default)]
struct Files {
    /// processor_config.json itself.
    both: File,
    images: File,
    /// Empty where there is none.
    videos: File,
    sounds: File,
}

impl Files {
    fn of(dir: &Path, config: &Config) -> Result<Self> {
        match &config.held.towers {
            Some(towers) => Self::of_towers(towers),
            None => Self::open(dir),
        }
    }

    /// Those that stand for the metadata of a GGUF file's towers.
    fn of_towers(towers: &Path) -> Result<Self> {
        let file = |content| File {
            path: towers.into(),
            within: "clip.vision.".into(),
            content,
        };
        Ok(Self {
            both: file(Value::Null),
            images: file(family::gguf::processor(&Gguf::open(towers)?)?),
            videos: file(Value::Null),
            sounds: file(Value::Null),
        })
    }

    fn open(dir: &Path) -> Result<Self> {
        let both = File::open(dir, "processor_config.json")?;
        let part = |names: &[&str], file: &str| match names.iter().find_map(|name| both.part(name)) {
            Some(part) => Ok(part),
            None => File::open(dir, file),
        };
        Ok(Self {
            images: part(&["image_processor"], "preprocessor_config.json")?,
            videos: part(&["video_processor"], "video_preprocessor_config.json")?,
            sounds: part(
                &["feature_extractor", "audio_processor"],
                "preprocessor_config.json",
            )?,
            both,
        })
    }
}

/// The processor of a checkpoint in a directory.
pub(crate) fn load(dir: &Path, config: &Config) -> Result<Processor> {
    read(Files::of(dir, config)?, config)
}

/// The processor of a model whose files say nothing of their own.
pub(crate) fn usual(config: &Config) -> Result<Processor> {
    read(Files::default(), config)
}

fn read(files: Files, config: &Config) -> Result<Processor> {
    let rule = &config.frames;
    let Files {
        both,
        images,
        videos,
        sounds,
    } = files;
    let mut this = Processor {
        patches: PatchConfig::default(),
        image_patches: PatchConfig::default(),
        image: (4 * 28 * 28, 16384 * 28 * 28),
        frame: (4 * 28 * 28, 16384 * 28 * 28),
        pixels: rule.pixels,
        image_resize: outro_media::resize_image,
        resize: outro_media::resize,
        sampling: rule.sampling.clone(),
        drops_static_patches: rule.drops_static_patches,
        anyres: config.vision.as_ref().and_then(|v| v.anyres.clone()),
    };
    if let Some(tower) = &config.audio {
        sounds.check_audio(tower)?;
    }
    let Some(v) = &config.vision else { return Ok(this) };
    let p = &mut this.patches;
    (p.patch, p.temporal, p.merge) = (v.patch, v.temporal, v.merge);
    let shared = !matches!(rule.pixels, ResizePolicy::PerFrame | ResizePolicy::TwoStep(_));
    if !matches!(rule.pixels, ResizePolicy::PerFrame | ResizePolicy::Fixed { .. }) || this.anyres.is_some() {
        (p.mean, p.std) = (GREY, GREY);
    }
    if shared || this.anyres.is_some() {
        (this.image_resize, this.resize) = (outro_media::resize_bytes, outro_media::resize_bytes);
    }
    this.image_patches = PatchConfig {
        merge: v.image_merge,
        ..p.clone()
    };
    // Without settings of their own, frames have those of images.
    let of_frames = if videos.is_empty() { &images } else { &videos };
    for (file, p, merge) in [
        (&images, &mut this.image_patches, v.image_merge),
        (of_frames, p, v.merge),
    ] {
        file.same(&[("patch_size", v.patch), ("temporal_patch_size", v.temporal)])?;
        // One file that is for both speaks of images.
        let merge = if std::ptr::eq(file, &raw const images) {
            v.image_merge
        } else {
            merge
        };
        file.same(&[("merge_size", merge)])?;
        file.triple("image_mean", &mut p.mean, |_| true)?;
        file.triple("image_std", &mut p.std, |x| x > 0.0)?;
        file.usual()?;
        if let Some(tiles) = &this.anyres {
            file.same(&[("size.height", tiles.side), ("size.width", tiles.side)])?;
        }
    }
    let side = |merge: usize| v.patch * merge;
    let (of_image, of_tokens) = (side(v.image_merge), side(v.merge));
    let (image, video) = match &mut this.pixels {
        ResizePolicy::PerFrame | ResizePolicy::TwoStep(_) => {
            this.image = images.limits(this.image, of_image)?;
            this.frame = match rule.limits {
                Some(limits) => limits,
                None => of_frames.limits(this.frame, of_tokens)?,
            };
            return Ok(this);
        }
        ResizePolicy::Fixed { image, .. } => {
            this.image = *image;
            return Ok(this);
        }
        ResizePolicy::TotalBudget { image, video } | ResizePolicy::Volume { image, video } => (image, video),
    };
    this.image = images.limits(*image, of_image)?;
    // One file for both in the layout of the models' authors, two in that of transformers.
    if images.has("min_tokens") || images.has("max_tokens") {
        *video = images.limits(*video, of_tokens)?;
    }
    *video = videos.limits(*video, of_tokens)?;
    both.same(&[("image_merge_size", v.image_merge), ("video_merge_size", v.merge)])?;
    for file in [&both, &videos] {
        let s = &mut this.sampling;
        s.min_frames = file.number("min_frames", s.min_frames)?;
        s.max_frames = file.number("max_frames", s.max_frames)?;
        s.fps = file.get("fps").and_then(Value::as_f64).unwrap_or(s.fps);
    }
    this.drops_static_patches &= videos
        .get("use_token_compression")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    Ok(this)
}

impl Processor {
    /// Height and width of an image after resizing, and its patches' grid; `alone` is whether it is the only one, `max`
    /// the caller's limit on its pixels.
    pub(crate) fn image_grid(
        &self,
        height: usize,
        width: usize,
        alone: bool,
        max: Option<usize>,
    ) -> Result<([usize; 2], [usize; 3])> {
        let patch = self.image_patches.patch;
        if let Some(tiles) = &self.anyres {
            let side = tiles.side / patch;
            let size = [height, width];
            return Ok(if alone {
                let [down, across] = tiles.parts(side, size).grid;
                let best = tiles.best(size);
                (AnyRes::within(size, best), [1 + down * across, side, side])
            } else {
                ([tiles.side; 2], [1, side, side])
            });
        }
        let [_, (height, width)] = self.image_sizes(height, width, max)?;
        Ok(([height, width], [1, height / patch, width / patch]))
    }

    /// Heights and widths of an image after both resizes; `max` is the caller's limit on its pixels.
    fn image_sizes(&self, height: usize, width: usize, max: Option<usize>) -> Result<Sizes> {
        let side = self.image_patches.patch * self.image_patches.merge;
        let most = max.unwrap_or(self.image.1).min(self.image.1);
        let limits = (self.image.0.min(most), most);
        let mut first = FrameLimits::image();
        match self.pixels {
            ResizePolicy::PerFrame => {
                (first.min_pixels, first.max_pixels) = limits;
                first.factor = side;
                Ok([outro_media::image_size(height, width, &first)?; 2])
            }
            ResizePolicy::TwoStep(_) => {
                lower(&mut first, max);
                let (h, w) = outro_media::image_size(height, width, &first)?;
                Ok([(h, w), outro_media::shared_size(h, w, 1, side, limits)?])
            }
            _ => Ok([outro_media::shared_size(height, width, 1, side, limits)?; 2]),
        }
    }

    /// Heights and widths of a video's `frames` frames after both resizes; `max` is the caller's limit on a frame's pixels.
    pub(crate) fn video_sizes(
        &self,
        height: usize,
        width: usize,
        frames: usize,
        max: Option<usize>,
    ) -> Result<Sizes> {
        if let Some(tiles) = &self.anyres {
            return Ok([(tiles.side, tiles.side); 2]);
        }
        let side = self.patches.patch * self.patches.merge;
        // The caller's limit is on a frame, `most` on all of them.
        let own = max.map_or(usize::MAX, |m| m.saturating_mul(frames));
        let shared = |(least, most): PixelLimits| (least.min(max.unwrap_or(least)), most.min(own));
        let mut limits = FrameLimits::default();
        lower(&mut limits, max);
        let size = match self.pixels {
            ResizePolicy::PerFrame => {
                limits.factor = side;
                let first = outro_media::video_size(height, width, frames, &limits)?;
                let most = max.unwrap_or(self.frame.1).min(self.frame.1);
                let least = self.frame.0.min(most);
                return Ok([
                    first,
                    outro_media::smart_resize(first.0, first.1, side, least, most)?,
                ]);
            }
            ResizePolicy::TwoStep((least, most)) => {
                let (h, w) = outro_media::video_size(height, width, frames, &limits)?;
                let most = most.min(max.unwrap_or(most));
                let then = outro_media::shared_size(h, w, 1, side, (least.min(most), most))?;
                return Ok([(h, w), then]);
            }
            ResizePolicy::TotalBudget { video, .. } => {
                outro_media::shared_size(height, width, frames, side, shared(video))?
            }
            ResizePolicy::Volume { video, .. } => {
                let count = (frames, self.patches.temporal);
                let limits = (video.0.min(own), video.1.min(own));
                outro_media::volume_size(height, width, count, side, limits)?
            }
            ResizePolicy::Fixed { video, full, .. } => {
                let all = if frames < self.sampling.max_frames {
                    video.1
                } else {
                    full.saturating_mul(frames)
                };
                outro_media::shared_size(height, width, frames, side, shared((video.0, all)))?
            }
        };
        Ok([size; 2])
    }

    /// Pixels of a frame below which a limit on a video's tokens takes frames instead: the fewest that the family has for one,
    /// and where all frames share the fewest, what the authors' utils take (128 tokens).
    pub(crate) fn least_pixels(&self) -> usize {
        let utils = FrameLimits::default().min_pixels;
        match self.pixels {
            ResizePolicy::PerFrame => utils.max(self.frame.0),
            ResizePolicy::TwoStep((least, _)) => utils.max(least),
            ResizePolicy::TotalBudget { video, .. } | ResizePolicy::Fixed { video, .. } => video.0,
            ResizePolicy::Volume { .. } => 128 * (self.patches.patch * self.patches.merge).pow(2),
        }
    }

    /// Resizes an image and cuts it into patches.
    pub(crate) fn image(&self, picture: &Frames, alone: bool, max: Option<usize>) -> Result<Patches> {
        if let Some(tiles) = &self.anyres {
            return self.parts(picture, tiles, alone);
        }
        let [first, last] = self.image_sizes(picture.height, picture.width, max)?;
        let mut resized = (self.image_resize)(picture, first.0, first.1);
        if last != first {
            resized = outro_media::resize_bytes(&resized, last.0, last.1);
        }
        Ok(outro_media::patches(&resized, &self.image_patches)?)
    }

    /// The whole picture as a square, and, where it stands `alone`, then the squares of its parts. What is filled up is
    /// black around parts and grey around the whole of one among several.
    fn parts(&self, picture: &Frames, tiles: &AnyRes, alone: bool) -> Result<Patches> {
        let square = |f: &Frames| (self.image_resize)(f, tiles.side, tiles.side);
        let size = [picture.height, picture.width];
        if !alone {
            let grey = self.image_patches.mean.map(|m| (m * 255.0) as u8);
            let whole = outro_media::pad(picture, [size[0].max(size[1]); 2], grey);
            return cut(&square(&whole), &self.image_patches);
        }
        let best = tiles.best(size);
        let [height, width] = AnyRes::within(size, best);
        let filled = outro_media::pad(&(self.image_resize)(picture, height, width), best, [0; 3]);
        let mut all = square(picture);
        for top in (0..best[0]).step_by(tiles.side) {
            for left in (0..best[1]).step_by(tiles.side) {
                all.data
                    .extend(outro_media::crop(&filled, [top, left], [tiles.side; 2]).data);
                all.count += 1;
            }
        }
        cut(&all, &self.image_patches)
    }

    /// A video's frames as they are cut into patches, resized once before.
    pub(crate) fn fitted(&self, frames: Frames, [height, width]: [usize; 2]) -> Frames {
        if (height, width) != (frames.height, frames.width) {
            (self.resize)(&frames, height, width)
        } else if self.anyres.is_some() {
            whole_patches(&frames, &self.patches)
        } else {
            frames
        }
    }

    /// Which tokens of a video's next steps differ from those of the frame before by more than a twentieth of a step of 255 on
    /// average (0.1 of the normalised range's 510); where none of a frame does, its first stays.
    pub(crate) fn mark(&self, patches: &Patches, mask: &mut TokenMask) {
        const LEAST: f64 = 0.1;
        let [_, h, w] = patches.grid_thw;
        let unit = self.patches.merge * self.patches.merge;
        let (tokens, size) = (h * w / unit, patches.cols * unit);
        for frame in patches.data.chunks_exact((tokens * size).max(1)) {
            let start = mask.kept.len();
            if mask.before.len() == frame.len() {
                let pairs = frame.chunks_exact(size).zip(mask.before.chunks_exact(size));
                mask.kept.extend(pairs.map(|(now, before)| {
                    let sum: f64 = now
                        .iter()
                        .zip(before)
                        .map(|(a, b)| f64::from((a - b).abs()))
                        .sum();
                    sum / size as f64 * 255.0 > LEAST
                }));
            } else {
                mask.kept.resize(start + tokens, true);
            }
            if !mask.kept[start..].contains(&true) {
                mask.kept[start] = true;
            }
            mask.before.clear();
            mask.before.extend_from_slice(frame);
        }
    }
}

/// Which tokens of a video stay, as far as its frames have come.
#[derive(Default)]
pub(crate) struct TokenMask {
    /// One a token.
    pub(crate) kept: Vec<bool>,
    /// The last frame's patches.
    before: Vec<f32>,
}

/// Pictures without the last rows and columns that are fewer than a patch's.
fn whole_patches(f: &Frames, config: &PatchConfig) -> Frames {
    let whole = [f.height, f.width].map(|n| n / config.patch * config.patch);
    outro_media::crop(f, [0; 2], whole)
}

/// Patches of those.
fn cut(f: &Frames, config: &PatchConfig) -> Result<Patches> {
    Ok(outro_media::patches(&whole_patches(f, config), config)?)
}

/// Height and width after the first and the second resize (the identity for all processors but Qwen3-Omni and the Qwen utils).
pub(crate) type Sizes = [(usize, usize); 2];

/// The caller's limit.
fn lower(limits: &mut FrameLimits, max: Option<usize>) {
    limits.max_pixels = max.unwrap_or(limits.max_pixels).min(limits.max_pixels);
    limits.min_pixels = limits.min_pixels.min(limits.max_pixels);
}

/// A JSON file that need not be there, or an object in one.
#[derive(Default)]
struct File {
    path: PathBuf,
    /// Before the names of fields, in messages.
    within: String,
    content: Value,
}

impl File {
    fn open(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let content = read_json(&path)?.unwrap_or(Value::Null);
        Ok(Self {
            path,
            within: String::new(),
            content,
        })
    }

    /// The object in a field.
    fn part(&self, name: &str) -> Option<Self> {
        let content = self.get(name).filter(|v| v.is_object())?.clone();
        Some(Self {
            path: self.path.clone(),
            within: format!("{name}."),
            content,
        })
    }

    fn is_empty(&self) -> bool {
        self.content.is_null()
    }

    fn error(&self, key: &str, problem: String) -> Error {
        Error::config(&self.path, format!("{}{key}", self.within), problem)
    }

    fn unsupported(&self, key: &str, problem: String) -> Error {
        Error::unsupported(&self.path, format!("{}{key}", self.within), problem)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let pointer = format!("/{}", key.replace('.', "/"));
        self.content.pointer(&pointer).filter(|v| !v.is_null())
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn number(&self, key: &str, default: usize) -> Result<usize> {
        let Some(v) = self.get(key) else {
            return Ok(default);
        };
        v.as_u64()
            .filter(|n| (1..=1 << 40).contains(n))
            .map(|n| n as usize)
            .ok_or_else(|| self.error(key, format!("is {v}, must be a whole number above 0")))
    }

    /// Numbers that config.json, or the family, gives already.
    fn same(&self, fields: &[(&str, usize)]) -> Result<()> {
        for (key, have) in fields {
            let given = self.number(key, *have)?;
            if given != *have {
                let problem = format!("is {given}, the model has {have}");
                return Err(self.error(key, problem));
            }
        }
        Ok(())
    }

    /// Refuses settings that make other pixels than all published processors do.
    fn usual(&self) -> Result<()> {
        for (key, usual) in [
            ("do_resize", true),
            ("do_rescale", true),
            ("do_normalize", true),
            ("do_center_crop", false),
            ("cap_pixels_per_frame", false),
        ] {
            if self.get(key).is_some_and(|v| v.as_bool() == Some(!usual)) {
                return Err(self.unsupported(key, format!("{} is not supported; remove the field", !usual)));
            }
        }
        let close = |key: &str, usual: f64| match self.get(key).and_then(Value::as_f64) {
            Some(x) if (x - usual).abs() > 1e-6 => {
                Err(self.unsupported(key, format!("is {x}; only {usual} is supported")))
            }
            _ => Ok(()),
        };
        close("rescale_factor", 1.0 / 255.0)?;
        // Pillow's number for bicubic.
        close("resample", 3.0)
    }

    /// Refuses settings of spectrograms that are not those of the models.
    fn check_audio(&self, tower: &AudioConfig) -> Result<()> {
        self.same(&[
            ("feature_size", tower.mel_bins),
            ("sampling_rate", outro_media::SAMPLE_RATE as usize),
            ("n_fft", 400),
            ("hop_length", HOP),
        ])?;
        if tower.projector == AudioProjector::AvgPool2 {
            self.same(&[("chunk_length", MAX_SECONDS)])?;
        }
        match self.get("dither").and_then(Value::as_f64) {
            Some(x) if x != 0.0 => {
                Err(self.unsupported("dither", format!("is {x}; noise is not supported, set it to 0")))
            }
            _ => Ok(()),
        }
    }

    /// Fewest and most pixels, under any of the names that they have; tokens are `side x side` pixels.
    fn limits(&self, default: (usize, usize), side: usize) -> Result<(usize, usize)> {
        let one = |keys: [&str; 3], default| {
            let [pixels, edge, tokens] = keys;
            if self.has(tokens) {
                return Ok(self.number(tokens, 1)?.saturating_mul(side * side));
            }
            self.number(pixels, self.number(edge, default)?)
        };
        Ok((
            one(["min_pixels", "size.shortest_edge", "min_tokens"], default.0)?,
            one(["max_pixels", "size.longest_edge", "max_tokens"], default.1)?,
        ))
    }

    fn triple(&self, key: &str, place: &mut [f32; 3], fits: impl Fn(f32) -> bool) -> Result<()> {
        let Some(value) = self.get(key) else { return Ok(()) };
        let list: Option<Vec<f32>> = value
            .as_array()
            .and_then(|l| l.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
        *place = list
            .and_then(|l| <[f32; 3]>::try_from(l).ok())
            .filter(|l| l.iter().all(|x| x.is_finite() && fits(*x)))
            .ok_or_else(|| self.error(key, format!("is {value}, must be three numbers")))?;
        Ok(())
    }
}
