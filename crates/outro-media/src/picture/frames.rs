//! Frames, and the arithmetic that decides how many and how large (qwen-omni-utils 0.0.8, transformers 4.52.3).

use crate::error::{Error, Result};
use crate::info::VideoInfo;

/// Pictures of one size, RGB, `[count, height, width, 3]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Number of pictures.
    pub count: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// `count * height * width * 3` bytes.
    pub data: Vec<u8>,
}

impl Frames {
    /// Appends frames of the same size, of which about `expected` are to come in all.
    pub(crate) fn append(&mut self, f: Self, expected: usize) {
        if self.count == 0 {
            *self = f;
            // Once and for all: growing would hold the frames twice.
            let all = (self.data.len() / self.count.max(1)).saturating_mul(expected);
            let more = all.saturating_sub(self.data.len());
            self.data.reserve_exact(more.min(1 << 32));
        } else {
            self.count += f.count;
            self.data.extend_from_slice(&f.data);
        }
    }
}

/// How frames are spread over a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// An even number of them, evenly spaced, the first and the last frame included (qwen-omni-utils).
    Ends,
    /// Each at the start of one of as many equal parts (transformers' VideoLLaMA3).
    Starts,
    /// Any number of two or more, evenly spaced, the first and the last frame included (transformers' Qwen3-VL).
    Even,
    /// As many, cut off to whole frames instead of rounded (LLaVA-OneVision's and video-SALMONN 2's own code).
    Floor,
}

/// Which frames of a video are looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// How they are spread.
    pub spread: Spread,
    /// Frames a second to aim at.
    pub fps: f64,
    /// A fixed number of frames instead.
    pub frames: Option<usize>,
    /// Fewest frames that `fps` gives.
    pub min_frames: usize,
    /// Most frames that `fps` gives.
    pub max_frames: usize,
    /// Where to start, in seconds.
    pub start: Option<f64>,
    /// Where to end, in seconds.
    pub end: Option<f64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            spread: Spread::Ends,
            fps: 2.0,
            frames: None,
            min_frames: 4,
            max_frames: 768,
            start: None,
            end: None,
        }
    }
}

/// Frames at [`Spread::Ends`] come in pairs: the models' patches span two.
const PAIR: usize = 2;

impl Sampling {
    /// Fewest frames that can be taken.
    pub fn fewest(&self) -> usize {
        match self.spread {
            Spread::Ends | Spread::Even => PAIR,
            Spread::Starts | Spread::Floor => 1,
        }
    }

    /// Numbers of the frames to take, in presentation order.
    ///
    /// # Errors
    /// A video of too few frames, an empty range of time, a count that the range does not hold.
    pub fn indices(&self, v: &VideoInfo) -> Result<Vec<usize>> {
        if v.frames == 0 {
            return Err(Error::range("video", "holds no frame that could be decoded"));
        }
        // How many they come in.
        let unit = if self.spread == Spread::Ends { PAIR } else { 1 };
        let least = self.fewest();
        if v.frames < least {
            return Err(Error::OneFrame);
        }
        if !(v.fps.is_finite() && v.fps > 0.0) {
            let problem = "does not say how many frames a second it has; write it anew \
                           (ffmpeg -i VIDEO -r 25 new.mp4)";
            return Err(Error::range("video", problem));
        }
        let (first, last) = self.range(v, least)?;
        let total = last - first + 1;
        let count = self.count(v.fps, total, unit, least)?;
        let step = match self.spread {
            Spread::Starts => total as f64 / count as f64,
            _ => (last - first) as f64 / (count - 1).max(1) as f64,
        };
        let at = |i: usize| match self.spread {
            // As the reference's linspace: from both ends towards the middle, in f32.
            Spread::Ends if i < count / 2 => round_even(f64::from(first as f32 + step as f32 * i as f32)),
            Spread::Ends => round_even(f64::from(last as f32 - step as f32 * (count - 1 - i) as f32)),
            Spread::Even => round_even(first as f64 + step * i as f64),
            Spread::Floor if i + 1 == count && i > 0 => last as f64,
            Spread::Floor => (first as f64 + step * i as f64).floor(),
            // As the reference's arange: products in f64, kept in f32, cut off.
            Spread::Starts => first as f64 + f64::from((step * i as f64) as f32).trunc(),
        };
        Ok((0..count).map(|i| (at(i) as usize).clamp(first, last)).collect())
    }

    /// How many frames of `total`, a multiple of `unit`.
    fn count(&self, fps: f64, total: usize, unit: usize, least: usize) -> Result<usize> {
        let count = if let Some(n) = self.frames {
            round_even(n as f64 / unit as f64) as usize * unit
        } else {
            if !(self.fps.is_finite() && self.fps > 0.0) {
                return Err(Error::range("fps", format!("is {}, must be above 0", self.fps)));
            }
            let low = self.min_frames.div_ceil(unit) * unit;
            let high = self.max_frames.min(total) / unit * unit;
            let wish = match self.spread {
                Spread::Floor => round_even(total as f64 / fps / (1.0 / self.fps)),
                _ => total as f64 / fps * self.fps,
            };
            let wish = wish.max(low as f64).min(high as f64).min(total as f64);
            (wish / unit as f64).floor() as usize * unit
        };
        if count < least || count > total {
            return Err(Error::range(
                "frames",
                format!("{count} frames asked of {total}; at least {least} and at most all are possible"),
            ));
        }
        Ok(count)
    }

    fn range(&self, v: &VideoInfo, least: usize) -> Result<(usize, usize)> {
        let longest = v.frames as f64 / v.fps;
        for (what, time) in [("start", self.start), ("end", self.end)] {
            if time.is_some_and(|t| !t.is_finite() || t < 0.0) {
                return Err(Error::range(what, "must be 0 seconds or later"));
            }
        }
        let first = self.start.map_or(0, |t| (t.min(longest) * v.fps).ceil() as usize);
        let last = self.end.map_or(v.frames - 1, |t| {
            ((t.min(longest) * v.fps).floor() as usize).min(v.frames - 1)
        });
        if let Some(start) = self.start.filter(|_| first >= v.frames) {
            let problem = format!("{start} s is behind the end of the video, which lasts {longest:.2} s");
            return Err(Error::range("start", problem));
        }
        if first + least > last + 1 {
            return Err(Error::range(
                "start/end",
                format!(
                    "leave frames {first} to {last} of {}; the video lasts {longest:.2} seconds",
                    v.frames
                ),
            ));
        }
        Ok((first, last))
    }
}

/// Rounds half to even, as Python does.
fn round_even(x: f64) -> f64 {
    x.round_ties_even()
}

/// Largest ratio of a picture's sides.
const MAX_RATIO: f64 = 200.0;

/// The size nearest to `height` x `width` whose sides are multiples of `factor` and whose area is within limits.
///
/// # Errors
/// Sides shorter than `factor`, or longer than 200 times the other.
pub fn smart_resize(
    height: usize,
    width: usize,
    factor: usize,
    min_pixels: usize,
    max_pixels: usize,
) -> Result<(usize, usize)> {
    if height < factor || width < factor {
        return Err(Error::range(
            "picture",
            format!("height {height} and width {width} must be at least {factor}"),
        ));
    }
    fit([height, width], factor, factor, [1; 2], min_pixels, max_pixels)
}

/// The size of a picture, or of one of `frames` of a video that share `max_pixels` (transformers' VideoLLaMA3).
///
/// # Errors
/// A picture without pixels, or with one side more than 200 times the other.
pub fn shared_size(
    height: usize,
    width: usize,
    frames: usize,
    factor: usize,
    (min_pixels, max_pixels): (usize, usize),
) -> Result<(usize, usize)> {
    let share = max_pixels / frames.max(1);
    fit([height, width], factor, 0, [1; 2], min_pixels, share)
}

/// The size of one of `frames` of a video that share both limits, counted in patches of `temporal` frames (transformers'
/// Qwen3-VL).
///
/// # Errors
/// As [`shared_size`].
pub fn volume_size(
    height: usize,
    width: usize,
    (frames, temporal): (usize, usize),
    factor: usize,
    (min_pixels, max_pixels): (usize, usize),
) -> Result<(usize, usize)> {
    let (mut size, t) = ([height, width], temporal.max(1));
    let shorter = height.min(width);
    if (1..factor).contains(&shorter) {
        let scale = factor as f64 / shorter as f64;
        size = size.map(|n| (n as f64 * scale) as usize);
    }
    let whole = round_even(frames as f64 / t as f64) as usize * t;
    fit(size, factor, 0, [frames, whole], min_pixels, max_pixels)
}

/// Sides below `min_side` are rounded up to it before areas are compared. The limits apply to `budget_frames * height * width`; a
/// size outside them is scaled as if they applied to `frames * height * width`.
fn fit(
    [height, width]: [usize; 2],
    factor: usize,
    min_side: usize,
    [frames, budget_frames]: [usize; 2],
    min_pixels: usize,
    max_pixels: usize,
) -> Result<(usize, usize)> {
    if height == 0 || width == 0 || factor == 0 {
        return Err(Error::range("picture", format!("is {width} x {height} pixels")));
    }
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    if h.max(w) / h.min(w) > MAX_RATIO {
        return Err(Error::range(
            "picture",
            format!("is {width} x {height}; one side may be at most {MAX_RATIO} times the other"),
        ));
    }
    let near = |x: f64| (min_side as f64).max(round_even(x / f) * f);
    let (mut nh, mut nw) = (near(h), near(w));
    let (all, area) = (frames as f64 * h * w, budget_frames as f64 * nh * nw);
    if area > max_pixels as f64 {
        let beta = (all / max_pixels as f64).sqrt();
        let down = |x: f64| f.max((x / beta / f).floor() * f);
        (nh, nw) = (down(h), down(w));
    } else if area < min_pixels as f64 {
        let beta = (min_pixels as f64 / all).sqrt();
        let up = |x: f64| (x * beta / f).ceil() * f;
        (nh, nw) = (up(h), up(w));
    }
    Ok((nh as usize, nw as usize))
}

/// Limits on the size of a video's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Sides are multiples of this (patch size x merge).
    pub factor: usize,
    /// Smallest area in pixels.
    pub min_pixels: usize,
    /// Largest area in pixels.
    pub max_pixels: usize,
    /// Area of all frames together.
    pub total_pixels: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self {
            factor: 28,
            min_pixels: 128 * 784,
            max_pixels: 768 * 784,
            total_pixels: 128_000 * 784 / 10 * 9,
        }
    }
}

impl FrameLimits {
    /// Those of an image that stands alone.
    pub fn image() -> Self {
        Self {
            min_pixels: 4 * 784,
            max_pixels: 16_384 * 784,
            ..Self::default()
        }
    }
}

/// Area limits of the processors' own resize, which usually changes nothing.
const PROCESSOR_LIMITS: (usize, usize) = (3136, 12_845_056);

/// The size of a video's frames after both resizes.
///
/// # Errors
/// As [`smart_resize`].
pub fn video_size(height: usize, width: usize, frames: usize, l: &FrameLimits) -> Result<(usize, usize)> {
    let share = l.total_pixels as f64 / frames.max(1) as f64 * PAIR as f64;
    let ceiling = (768.0f64 * 784.0)
        .min(share)
        .max((l.min_pixels as f64 * 1.05).floor());
    let max = (l.max_pixels as f64).min(ceiling);
    twice([height, width], l, max as usize)
}

/// The size of an image after both resizes; `total_pixels` does not matter.
///
/// # Errors
/// As [`smart_resize`].
pub fn image_size(height: usize, width: usize, l: &FrameLimits) -> Result<(usize, usize)> {
    twice([height, width], l, l.max_pixels)
}

fn twice(size: [usize; 2], l: &FrameLimits, max_pixels: usize) -> Result<(usize, usize)> {
    let (h, w) = fit(size, l.factor, l.factor, [1; 2], l.min_pixels, max_pixels)?;
    smart_resize(h, w, l.factor, PROCESSOR_LIMITS.0, PROCESSOR_LIMITS.1)
}
