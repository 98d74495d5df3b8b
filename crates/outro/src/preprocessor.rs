//! preprocessor_config.json and its siblings: how pictures are cut, normalised and limited.

use std::path::{Path, PathBuf};

use outro_media::{FrameLimits, Frames, PatchConfig, Patches, Resize, Sampling};
use serde_json::Value;

use crate::config::{Config, PixelLimits, PixelRule, Tiles};
use crate::error::{Error, Result};
use crate::tokenizer::read_json;

/// How a checkpoint's processor looks at pictures and videos.
pub(crate) struct Processor {
    /// Patches of videos.
    pub(crate) patches: PatchConfig,
    /// Patches on the side of an image's token.
    pub(crate) image_merge: usize,
    /// Fewest and most pixels of an image.
    pub(crate) image: (usize, usize),
    /// How large pictures become, in this checkpoint's numbers.
    pixels: PixelRule,
    /// How images and how frames are resized.
    pub(crate) image_resize: Resize,
    pub(crate) resize: Resize,
    /// Which frames are taken where nobody says otherwise.
    pub(crate) sampling: Sampling,
    /// Whether tokens of a frame that look like those of the frame before are left out.
    pub(crate) drops_still: bool,
    /// Pictures in parts.
    pub(crate) tiles: Option<Tiles>,
}

/// Grey on the scale 0 to 1, to which the processors of families with shared pixels normalise.
const GREY: [f32; 3] = [0.5; 3];

pub(crate) fn load(dir: &Path, config: &Config) -> Result<Processor> {
    let rule = &config.frames;
    let images = File::open(dir, "preprocessor_config.json")?;
    let mut this = Processor {
        patches: PatchConfig::default(),
        image_merge: 1,
        image: (4 * 28 * 28, 16384 * 28 * 28),
        pixels: rule.pixels,
        image_resize: outro_media::resize_image,
        resize: outro_media::resize,
        sampling: rule.sampling.clone(),
        drops_still: rule.drops_still,
        tiles: config.vision.as_ref().and_then(|v| v.tiles.clone()),
    };
    let p = &mut this.patches;
    if let Some(v) = &config.vision {
        (p.patch, p.temporal, p.merge) = (v.patch, v.temporal, v.merge);
        this.image_merge = v.image_merge;
        images.same(&[
            ("patch_size", v.patch),
            ("temporal_patch_size", v.temporal),
            ("merge_size", v.image_merge),
        ])?;
    }
    let shared = !matches!(rule.pixels, PixelRule::Own | PixelRule::Twice(_));
    if !matches!(rule.pixels, PixelRule::Own | PixelRule::Fixed { .. }) || this.tiles.is_some() {
        (p.mean, p.std) = (GREY, GREY);
    }
    if shared || this.tiles.is_some() {
        (this.image_resize, this.resize) = (outro_media::resize_bytes, outro_media::resize_bytes);
    }
    images.triple("image_mean", &mut p.mean, |_| true)?;
    images.triple("image_std", &mut p.std, |x| x > 0.0)?;
    let side = |merge: usize| this.patches.patch * merge;
    let (of_image, of_tokens) = (side(this.image_merge), side(this.patches.merge));
    let (image, video) = match &mut this.pixels {
        PixelRule::Own | PixelRule::Twice(_) => {
            this.image = images.limits(this.image, of_image)?;
            return Ok(this);
        }
        PixelRule::Fixed { image, .. } => {
            this.image = *image;
            return Ok(this);
        }
        PixelRule::Shared { image, video } | PixelRule::Volume { image, video } => (image, video),
    };
    this.image = images.limits(*image, of_image)?;
    // One file for both in the layout of the models' authors, two in that of transformers.
    if images.has("min_tokens") || images.has("max_tokens") {
        *video = images.limits(*video, of_tokens)?;
    }
    let videos = File::open(dir, "video_preprocessor_config.json")?;
    *video = videos.limits(*video, of_tokens)?;
    if let Some(v) = &config.vision {
        videos.same(&[
            ("patch_size", v.patch),
            ("temporal_patch_size", v.temporal),
            ("merge_size", v.merge),
        ])?;
    }
    let both = File::open(dir, "processor_config.json")?;
    both.same(&[
        ("image_merge_size", this.image_merge),
        ("video_merge_size", this.patches.merge),
    ])?;
    for file in [&both, &videos] {
        let s = &mut this.sampling;
        s.min_frames = file.number("min_frames", s.min_frames)?;
        s.max_frames = file.number("max_frames", s.max_frames)?;
        s.fps = file.get("fps").and_then(Value::as_f64).unwrap_or(s.fps);
    }
    this.drops_still &= videos
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
        let patch = self.patches.patch;
        if let Some(tiles) = &self.tiles {
            let side = tiles.side / patch;
            let size = [height, width];
            return Ok(if alone {
                let [down, across] = tiles.parts(side, size).grid;
                let best = tiles.best(size);
                (Tiles::within(size, best), [1 + down * across, side, side])
            } else {
                ([tiles.side; 2], [1, side, side])
            });
        }
        let [_, (height, width)] = self.image_sizes(height, width, max)?;
        Ok(([height, width], [1, height / patch, width / patch]))
    }

    /// Heights and widths of an image after both resizes; `max` is the caller's limit on its pixels.
    fn image_sizes(&self, height: usize, width: usize, max: Option<usize>) -> Result<Sizes> {
        let side = self.patches.patch * self.image_merge;
        let most = max.unwrap_or(self.image.1).min(self.image.1);
        let limits = (self.image.0.min(most), most);
        let mut first = FrameLimits::image();
        match self.pixels {
            PixelRule::Own => {
                (first.min_pixels, first.max_pixels) = limits;
                first.factor = side;
                Ok([outro_media::image_size(height, width, &first)?; 2])
            }
            PixelRule::Twice(_) => {
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
        if let Some(tiles) = &self.tiles {
            return Ok([(tiles.side, tiles.side); 2]);
        }
        let side = self.patches.patch * self.patches.merge;
        // The caller's limit is on a frame, `most` on all of them.
        let own = max.map_or(usize::MAX, |m| m.saturating_mul(frames));
        let shared = |(least, most): PixelLimits| (least.min(max.unwrap_or(least)), most.min(own));
        let mut limits = FrameLimits::default();
        lower(&mut limits, max);
        let size = match self.pixels {
            PixelRule::Own => {
                limits.factor = side;
                outro_media::video_size(height, width, frames, &limits)?
            }
            PixelRule::Twice((least, most)) => {
                let (h, w) = outro_media::video_size(height, width, frames, &limits)?;
                let most = most.min(max.unwrap_or(most));
                let then = outro_media::shared_size(h, w, 1, side, (least.min(most), most))?;
                return Ok([(h, w), then]);
            }
            PixelRule::Shared { video, .. } => {
                outro_media::shared_size(height, width, frames, side, shared(video))?
            }
            PixelRule::Volume { video, .. } => {
                let count = (frames, self.patches.temporal);
                let limits = (video.0.min(own), video.1.min(own));
                outro_media::volume_size(height, width, count, side, limits)?
            }
            PixelRule::Fixed { video, full, .. } => {
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

    /// Resizes an image and cuts it into patches.
    pub(crate) fn image(&self, picture: &Frames, alone: bool, max: Option<usize>) -> Result<Patches> {
        if let Some(tiles) = &self.tiles {
            return self.parts(picture, tiles, alone);
        }
        let [first, last] = self.image_sizes(picture.height, picture.width, max)?;
        let config = PatchConfig {
            merge: self.image_merge,
            ..self.patches.clone()
        };
        let mut resized = (self.image_resize)(picture, first.0, first.1);
        if last != first {
            resized = outro_media::resize_bytes(&resized, last.0, last.1);
        }
        Ok(outro_media::patches(&resized, &config)?)
    }

    /// The whole picture as a square, and, where it stands `alone`, then the squares of its parts. What is filled up is
    /// black around parts and grey around the whole of one among several.
    fn parts(&self, picture: &Frames, tiles: &Tiles, alone: bool) -> Result<Patches> {
        let square = |f: &Frames| (self.image_resize)(f, tiles.side, tiles.side);
        let size = [picture.height, picture.width];
        if !alone {
            let grey = self.patches.mean.map(|m| (m * 255.0) as u8);
            return self.cut(&square(&outro_media::pad(
                picture,
                [size[0].max(size[1]); 2],
                grey,
            )));
        }
        let best = tiles.best(size);
        let [height, width] = Tiles::within(size, best);
        let filled = outro_media::pad(&(self.image_resize)(picture, height, width), best, [0; 3]);
        let mut all = square(picture);
        for top in (0..best[0]).step_by(tiles.side) {
            for left in (0..best[1]).step_by(tiles.side) {
                all.data
                    .extend(outro_media::crop(&filled, [top, left], [tiles.side; 2]).data);
                all.count += 1;
            }
        }
        self.cut(&all)
    }

    /// Patches of pictures whose last rows and columns may be fewer than a patch's, and are left out.
    fn cut(&self, f: &Frames) -> Result<Patches> {
        let whole = [f.height, f.width].map(|n| n / self.patches.patch * self.patches.patch);
        Ok(outro_media::patches(
            &outro_media::crop(f, [0; 2], whole),
            &self.patches,
        )?)
    }

    /// Patches of a video's frames, resized once before.
    pub(crate) fn video(&self, frames: &Frames, [height, width]: [usize; 2]) -> Result<Patches> {
        if (height, width) != (frames.height, frames.width) {
            return Ok(outro_media::patches(
                &(self.resize)(frames, height, width),
                &self.patches,
            )?);
        }
        if self.tiles.is_some() {
            return self.cut(frames);
        }
        Ok(outro_media::patches(frames, &self.patches)?)
    }

    /// Which tokens of a video differ from those of the frame before by more than a twentieth of a step of 255 on average
    /// (0.1 of the normalised range's 510); where none of a frame does, its first stays.
    pub(crate) fn kept(&self, patches: &Patches) -> Vec<bool> {
        const LEAST: f64 = 0.1;
        let [steps, h, w] = patches.grid_thw;
        let unit = self.patches.merge * self.patches.merge;
        let (tokens, size) = (h * w / unit, patches.cols * unit);
        let mut kept = vec![true; tokens];
        for step in 1..steps {
            let frame = |s: usize| &patches.data[s * tokens * size..(s + 1) * tokens * size];
            let pairs = frame(step)
                .chunks_exact(size)
                .zip(frame(step - 1).chunks_exact(size));
            let start = kept.len();
            kept.extend(pairs.map(|(now, before)| {
                let sum: f64 = now
                    .iter()
                    .zip(before)
                    .map(|(a, b)| f64::from((a - b).abs()))
                    .sum();
                sum / size as f64 * 255.0 > LEAST
            }));
            if !kept[start..].contains(&true) {
                kept[start] = true;
            }
        }
        kept
    }
}

/// Height and width after the first and after the second resize, which mostly changes nothing.
pub(crate) type Sizes = [(usize, usize); 2];

/// The caller's limit.
fn lower(limits: &mut FrameLimits, max: Option<usize>) {
    limits.max_pixels = max.unwrap_or(limits.max_pixels).min(limits.max_pixels);
    limits.min_pixels = limits.min_pixels.min(limits.max_pixels);
}

/// A JSON file that need not be there.
struct File {
    path: PathBuf,
    content: Value,
}

impl File {
    fn open(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let content = read_json(&path)?.unwrap_or(Value::Null);
        Ok(Self { path, content })
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
            .ok_or_else(|| Error::config(&self.path, key, format!("is {v}, must be a whole number above 0")))
    }

    /// Numbers that config.json, or the family, gives already.
    fn same(&self, fields: &[(&str, usize)]) -> Result<()> {
        for (key, have) in fields {
            let given = self.number(key, *have)?;
            if given != *have {
                let problem = format!("is {given}, the model has {have}");
                return Err(Error::config(&self.path, *key, problem));
            }
        }
        Ok(())
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
            .ok_or_else(|| Error::config(&self.path, key, format!("is {value}, must be three numbers")))?;
        Ok(())
    }
}
