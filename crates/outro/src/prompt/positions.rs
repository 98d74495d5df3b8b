//! Rotary positions (time, height, width) of a prompt, and what each of its rows is.
//!
//! The rules are `get_rope_index` of transformers 4.52.3. Text counts all three axes together. An image or video starts
//! where the text before it ended and adds its grid coordinate; text goes on after the largest number of the block
//! before it. In Qwen2.5-Omni sound and frames of one video start together and alternate in chunks of time; in Qwen3-Omni,
//! which transformers 5.23.0 has, token by token. Positions are whole numbers but for times in Qwen3-Omni.

use crate::error::{Error, Result};
use crate::prompt::inputs::{Inputs, Pixels};
use crate::spec::anyres::TokenLayout;
use crate::spec::config::{Config, PositionRule};

/// Rotary positions of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    /// Time, height and width of each of the S rows.
    pub ids: Vec<[f32; 3]>,
    /// Position, on all three axes, of the first decoded token: one more than the largest of the prompt.
    /// Decode step n uses `next + n`.
    pub next: f32,
}

/// What a row of a prompt is. Items count from 0 within their kind, in prompt order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// A text token or a delimiter.
    Text,
    /// One token of an image.
    Image {
        /// Which image.
        item: usize,
        /// Row of the merged grid.
        y: usize,
        /// Column of the merged grid.
        x: usize,
    },
    /// One token of a video.
    Video {
        /// Which video.
        item: usize,
        /// Temporal grid step.
        t: usize,
        /// Row of the merged grid.
        y: usize,
        /// Column of the merged grid.
        x: usize,
    },
    /// One token of an audio, alone or in a video.
    Audio {
        /// Which audio, those of videos counted too.
        item: usize,
        /// Token within it; 25 are a second in Qwen2.5-Omni, 13 in Qwen3-Omni.
        index: usize,
    },
}

/// Rotary positions of the prompt's rows, and what each row is.
///
/// # Errors
/// Placeholders without their media, or cut off, or without their delimiter.
pub fn layout(c: &Config, inputs: &Inputs) -> Result<(Positions, Vec<Span>)> {
    let rows = walk(c, inputs)?;
    let positions = Positions {
        ids: rows.iter().map(|r| r.0).collect(),
        next: largest(&rows).unwrap_or(-1.0) + 1.0,
    };
    Ok((positions, rows.into_iter().map(|r| r.1).collect()))
}

/// [`layout`]'s positions alone.
///
/// # Errors
/// As [`layout`].
pub fn positions(c: &Config, inputs: &Inputs) -> Result<Positions> {
    Ok(layout(c, inputs)?.0)
}

/// What each row of the prompt is: [`layout`] without positions.
///
/// # Errors
/// As [`layout`].
pub fn spans(c: &Config, inputs: &Inputs) -> Result<Vec<Span>> {
    Ok(layout(c, inputs)?.1)
}

/// Positions, in f32 as the reference has them, and what it is.
type Row = ([f32; 3], Span);

fn largest(rows: &[Row]) -> Option<f32> {
    rows.iter().flat_map(|r| r.0).reduce(f32::max)
}

/// Where chunks of `length` units of time end, given each token's time; the last end is `times.len()`.
/// A chunk without tokens gives up its place to the next token, as in the reference.
pub(crate) fn chunk_ends<T: PartialOrd>(times: &[T], boundary: impl Fn(usize) -> T) -> Vec<usize> {
    let mut ends = Vec::new();
    for (i, time) in times.iter().enumerate() {
        if *time >= boundary(ends.len() + 1) {
            ends.push(i);
        }
    }
    ends.push(times.len());
    ends
}

/// The order of a video's tokens and its sound's: chunk by chunk, video before audio. `true` is video.
pub(crate) fn interleave(video_ends: &[usize], audio_ends: &[usize]) -> Vec<(bool, std::ops::Range<usize>)> {
    let chunk = |ends: &[usize], j: usize| {
        let start = if j == 0 { 0 } else { ends[j - 1] };
        start..ends[j]
    };
    let mut out = Vec::new();
    for j in 0..video_ends.len().max(audio_ends.len()) {
        if j < video_ends.len() {
            out.push((true, chunk(video_ends, j)));
        }
        if j < audio_ends.len() {
            out.push((false, chunk(audio_ends, j)));
        }
    }
    out
}

struct Walk<'a> {
    config: &'a Config,
    inputs: &'a Inputs,
    rows: Vec<Row>,
    /// Where the next block starts: one more than the largest of the block before.
    next: f32,
    /// The next frame of a video whose frames stand apart: its video, its step, and the tokens before it, kept or not.
    frame: (usize, usize, usize),
}

fn walk(config: &Config, inputs: &Inputs) -> Result<Vec<Row>> {
    let ids = &inputs.input_ids;
    let t = &config.tokens;
    let mut w = Walk {
        config,
        inputs,
        rows: Vec::with_capacity(ids.len()),
        next: 0.0,
        frame: (0, 0, 0),
    };
    let (mut images, mut videos, mut audios) = (0, 0, 0);
    while w.rows.len() < ids.len() {
        let id = Some(ids[w.rows.len()]);
        if id == t.video && config.frames.timestamps.is_some() && inputs.pixel_values_videos.is_some() {
            w.frame()?;
        } else if id == t.video
            && inputs.use_audio_in_video
            && matches!(config.positions, PositionRule::Salmonn { .. })
        {
            w.frames_and_sound(videos, audios)?;
            videos += 1;
            audios += 1;
        } else if id == t.image {
            w.image(images)?;
            images += 1;
        } else if id == t.video
            && w.before(1, t.audio_start)
            && w.before(2, t.vision_start)
            && inputs.use_audio_in_video
        {
            w.video_with_sound(videos, audios)?;
            videos += 1;
            audios += 1;
        } else if id == t.video {
            w.video(videos)?;
            videos += 1;
        } else if id == t.audio {
            w.audio(audios)?;
            audios += 1;
        } else {
            w.rows.push(([w.next; 3], Span::Text));
            w.next += 1.0;
        }
    }
    Ok(w.rows)
}

impl Walk<'_> {
    /// Whether the token `back` places before this one is `id`.
    fn before(&self, back: usize, id: Option<u32>) -> bool {
        let i = self.rows.len().checked_sub(back);
        id.is_some() && i.and_then(|i| self.inputs.input_ids.get(i)).copied() == id
    }

    /// Checks that the next `n` rows hold only the given placeholders.
    fn take(&self, n: Option<usize>, allowed: &[Option<u32>], what: &str) -> Result<usize> {
        let ids = &self.inputs.input_ids[self.rows.len()..];
        let n = n.unwrap_or(usize::MAX);
        if n > ids.len() || ids[..n].iter().any(|id| !allowed.contains(&Some(*id))) {
            let start = self.rows.len();
            let problem =
                format!("from row {start} on {n} placeholders of {what} are needed, and there are fewer");
            return Err(Error::input("input_ids", problem));
        }
        Ok(n)
    }

    /// Grid of an item after merging, and its tokens.
    fn grid(&self, pixels: Option<&Pixels>, item: usize, what: &str) -> Result<([usize; 3], Option<usize>)> {
        let merge = self
            .config
            .vision
            .as_ref()
            .map_or(1, |v| if what == "image" { v.image_merge } else { v.merge });
        let Some([t, h, w]) = pixels.and_then(|p| p.grid_thw.get(item)).copied() else {
            let problem = format!(
                "has a placeholder at row {} for {what} {item}, which is not given",
                self.rows.len()
            );
            return Err(Error::input("input_ids", problem));
        };
        let start = self.config.tokens.vision_start;
        if start.is_some() && !self.before(1, start) && !self.before(1, self.config.tokens.audio_start) {
            let problem = format!(
                "{what} {item} at row {} does not follow its start token",
                self.rows.len()
            );
            return Err(Error::input("input_ids", problem));
        }
        let (h, w) = (h / merge, w / merge);
        Ok(([t, h, w], t.checked_mul(h).and_then(|n| n.checked_mul(w))))
    }

    /// Numbers of the time axis at each grid step, from the block's start.
    fn times(&self, steps: usize, seconds: f32) -> impl Iterator<Item = f32> + use<> {
        let rule = self.config.positions;
        (0..steps).map(move |i| match rule {
            PositionRule::Text => 0.0,
            PositionRule::Grid => i as f32,
            // The reference converts the seconds to whole ones before it multiplies.
            PositionRule::QwenVl { tokens_per_second } => {
                (i as f32 * seconds.trunc() * tokens_per_second as f32).trunc()
            }
            PositionRule::Tmrope { per_second, .. } | PositionRule::Salmonn { per_second } => {
                (i as f32 * seconds * per_second as f32).trunc()
            }
            PositionRule::Merged { per_second } => i as f32 * seconds * per_second as f32,
        })
    }

    /// Positions of a grid's tokens that starts at `self.next`, with their coordinates.
    fn cells(&self, [t, h, w]: [usize; 3], seconds: f32) -> Vec<([f32; 3], [usize; 3])> {
        let mut cells = Vec::with_capacity(t * h * w);
        for (step, time) in self.times(t, seconds).enumerate() {
            for y in 0..h {
                for x in 0..w {
                    cells.push((
                        [self.next + time, self.next + y as f32, self.next + x as f32],
                        [step, y, x],
                    ));
                }
            }
        }
        self.count_text(&mut cells);
        cells
    }

    /// Where media count as text does, one number a row.
    fn count_text(&self, cells: &mut [([f32; 3], [usize; 3])]) {
        if self.config.positions == PositionRule::Text {
            for (i, cell) in cells.iter_mut().enumerate() {
                cell.0 = [self.next + i as f32; 3];
            }
        }
    }

    fn push(&mut self, block: impl Iterator<Item = Row>) {
        let start = self.rows.len();
        self.rows.extend(block);
        if let Some(largest) = largest(&self.rows[start..]) {
            self.next = largest + 1.0;
        }
    }

    fn image(&mut self, item: usize) -> Result<()> {
        let (grid, n) = self.grid(self.inputs.pixel_values.as_ref(), item, "image")?;
        if let Some(v) = self.config.vision.as_ref().filter(|v| v.anyres.is_some()) {
            let layout = TokenLayout::image(v, grid, self.inputs.image_sizes.get(item).copied());
            return self.parts(
                &layout,
                &format!("image {item}"),
                self.config.tokens.image,
                |[_, y, x]| Span::Image { item, y, x },
            );
        }
        self.take(n, &[self.config.tokens.image], &format!("image {item}"))?;
        // One step of time is a second in Omni and nothing in VL; images have one step only.
        let seconds = if matches!(self.config.positions, PositionRule::QwenVl { .. }) {
            0.0
        } else {
            1.0
        };
        let cells = self.cells(grid, seconds);
        self.push(
            cells
                .into_iter()
                .map(|(p, [_, y, x])| (p, Span::Image { item, y, x })),
        );
        Ok(())
    }

    /// Tokens of a picture that goes through the tower in parts, a number each; newlines are delimiters.
    fn parts(
        &mut self,
        layout: &TokenLayout,
        what: &str,
        id: Option<u32>,
        span: impl Fn([usize; 3]) -> Span,
    ) -> Result<()> {
        let side = self.config.vision.as_ref().and_then(|v| v.positions).unwrap_or(1);
        self.take(Some(layout.count(side)), &[id], what)?;
        let start = self.next;
        let cells = layout.cells(side).into_iter().zip(0..);
        self.push(cells.map(|(cell, i)| ([start + i as f32; 3], cell.map_or(Span::Text, &span))));
        Ok(())
    }

    fn seconds(&self, item: usize) -> f32 {
        self.inputs.second_per_grid.get(item).copied().unwrap_or(1.0)
    }

    fn video(&mut self, item: usize) -> Result<()> {
        let (grid, n) = self.grid(self.inputs.pixel_values_videos.as_ref(), item, "video")?;
        if let Some(v) = self.config.vision.as_ref().filter(|v| v.anyres.is_some()) {
            let layout = TokenLayout::video(v, grid);
            return self.parts(
                &layout,
                &format!("video {item}"),
                self.config.tokens.video,
                |[t, y, x]| Span::Video { item, t, y, x },
            );
        }
        self.take(n, &[self.config.tokens.video], &format!("video {item}"))?;
        let cells = self.cells(grid, self.seconds(item));
        self.push(
            cells
                .into_iter()
                .map(|(p, [t, y, x])| (p, Span::Video { item, t, y, x })),
        );
        Ok(())
    }

    /// One frame of a video whose frames stand apart: a picture of its own, of which some tokens may be left out.
    fn frame(&mut self) -> Result<()> {
        let (item, step, start) = self.frame;
        let ([steps, h, w], n) = self.grid(self.inputs.pixel_values_videos.as_ref(), item, "video")?;
        let size = n.map(|n| n / steps.max(1));
        let end = size.and_then(|n| start.checked_add(n));
        let mask = &self.inputs.token_mask;
        let kept = end.and_then(|end| mask.get(start..end)).unwrap_or_default();
        if !mask.is_empty() && Some(kept.len()) != size {
            let problem = format!("ends before frame {step} of video {item}");
            return Err(Error::input("video_compression_mask", problem));
        }
        let count = if mask.is_empty() {
            size
        } else {
            Some(kept.iter().filter(|k| **k).count())
        };
        let what = format!("frame {step} of video {item}");
        self.take(count, &[self.config.tokens.video], &what)?;
        let mut cells = self.cells([1, h, w], 0.0);
        let mut there = kept.iter();
        cells.retain(|_| there.next().is_none_or(|k| *k));
        self.count_text(&mut cells);
        self.push(
            cells
                .into_iter()
                .map(|(p, [_, y, x])| (p, Span::Video { item, t: step, y, x })),
        );
        let next = if step + 1 < steps {
            (item, step + 1)
        } else {
            (item + 1, 0)
        };
        self.frame = (next.0, next.1, end.unwrap_or(usize::MAX));
        Ok(())
    }

    fn audio_len(&self, item: usize) -> Result<usize> {
        let lengths = self.inputs.audio.as_ref().map_or(&[][..], |a| &a.lengths);
        lengths
            .get(item)
            .zip(self.config.audio.as_ref())
            .map(|(n, audio)| audio.tokens(*n))
            .filter(|n| *n > 0)
            .ok_or_else(|| {
                let problem = format!(
                    "has a placeholder at row {} for audio {item}, which is not given",
                    self.rows.len()
                );
                Error::input("input_ids", problem)
            })
    }

    fn audio(&mut self, item: usize) -> Result<()> {
        let n = self.audio_len(item)?;
        self.take(Some(n), &[self.config.tokens.audio], &format!("audio {item}"))?;
        let start = self.next;
        let flat = matches!(self.config.positions, PositionRule::Salmonn { .. });
        self.push((0..n).map(|index| {
            let at = start + index as f32;
            (
                [at, at, if flat { start } else { at }],
                Span::Audio { item, index },
            )
        }));
        Ok(())
    }

    /// Grid of a video, tokens of its sound, and of both; checks that the next rows hold their placeholders.
    fn both(&self, item: usize, audio: usize) -> Result<([usize; 3], usize, usize)> {
        let (grid, video_n) = self.grid(self.inputs.pixel_values_videos.as_ref(), item, "video")?;
        let audio_n = self.audio_len(audio)?;
        let t = &self.config.tokens;
        let n = video_n.and_then(|n| n.checked_add(audio_n));
        let n = self.take(n, &[t.video, t.audio], &format!("video {item} and its sound"))?;
        let here = &self.inputs.input_ids[self.rows.len()..self.rows.len() + n];
        let found = here.iter().filter(|id| Some(**id) == t.audio).count();
        if found != audio_n {
            let problem = format!("video {item} holds {found} audio placeholders, its sound gives {audio_n}");
            return Err(Error::input("input_ids", problem));
        }
        Ok((grid, audio_n, n))
    }

    /// Frames and sound of one video in video-SALMONN 2+: both share a start time, positions follow placeholder order; text
    /// resumes at max(temporal) + 1, whatever the height and width.
    fn frames_and_sound(&mut self, item: usize, audio: usize) -> Result<()> {
        let (grid, _, n) = self.both(item, audio)?;
        let (here, after) = self.inputs.input_ids[self.rows.len()..].split_at(n);
        let t = &self.config.tokens;
        let last = !after
            .iter()
            .any(|id| [t.video, t.audio, t.image].contains(&Some(*id)));
        let (start, mut index) = (self.next, 0);
        let mut cells = self.cells(grid, self.seconds(item)).into_iter();
        let block: Vec<Row> = here
            .iter()
            .filter_map(|id| {
                if Some(*id) == t.audio {
                    let at = start + index as f32;
                    index += 1;
                    return Some((
                        [at, start, at],
                        Span::Audio {
                            item: audio,
                            index: index - 1,
                        },
                    ));
                }
                let (p, [t, y, x]) = cells.next()?;
                Some((p, Span::Video { item, t, y, x }))
            })
            .collect();
        let latest = block.iter().map(|r| r.0[0]).reduce(f32::max);
        self.push(block.into_iter());
        if let Some(latest) = latest.filter(|_| last) {
            self.next = latest + 1.0;
        }
        Ok(())
    }

    /// Frames and sound of one video.
    fn video_with_sound(&mut self, item: usize, audio: usize) -> Result<()> {
        let (grid, audio_n, _) = self.both(item, audio)?;
        match self.config.positions {
            PositionRule::Tmrope {
                per_second,
                seconds_per_chunk,
            } => {
                let chunk = (per_second * seconds_per_chunk).trunc() as f32;
                self.in_chunks((item, grid), (audio, audio_n), chunk);
            }
            PositionRule::Merged { .. } => self.merged((item, grid), (audio, audio_n)),
            _ => {
                let problem = "this model cannot interleave sound with frames";
                return Err(Error::input("use_audio_in_video", problem));
            }
        }
        Ok(())
    }

    /// Token by token: frames before the sound of their time. What follows goes on after what is left when one of them
    /// ends, whatever came before, as in the reference.
    fn merged(&mut self, (item, grid): (usize, [usize; 3]), (audio, audio_n): (usize, usize)) {
        let cells = self.cells(grid, self.seconds(item));
        let start = self.next;
        let sound = |index: usize| ([start + index as f32; 3], Span::Audio { item: audio, index });
        let video = |i: usize| {
            let (p, [t, y, x]) = cells[i];
            (p, Span::Video { item, t, y, x })
        };
        let (mut v, mut a) = (0, 0);
        while v < cells.len() && a < audio_n {
            if cells[v].0[0] <= start + a as f32 {
                self.rows.push(video(v));
                v += 1;
            } else {
                self.rows.push(sound(a));
                a += 1;
            }
        }
        self.push((v..cells.len()).map(video));
        self.push((a..audio_n).map(sound));
    }

    /// Chunk by chunk of so many positions. The two start tokens before the video share a position, and so do the two end
    /// tokens.
    fn in_chunks(&mut self, (item, grid): (usize, [usize; 3]), (audio, audio_n): (usize, usize), chunk: f32) {
        if let Some(start) = self.rows.last_mut() {
            start.0 = start.0.map(|p| p - 1.0);
        }
        self.next -= 1.0;
        let cells = self.cells(grid, self.seconds(item));
        let times: Vec<f32> = cells.iter().map(|c| c.0[0] - self.next).collect();
        let video_ends = chunk_ends(&times, |k| k as f32 * chunk);
        let indices: Vec<f32> = (0..audio_n).map(|i| i as f32).collect();
        let audio_ends = chunk_ends(&indices, |k| k as f32 * chunk);
        let start = self.next;
        for (video, range) in interleave(&video_ends, &audio_ends) {
            if video {
                let part = cells[range].iter();
                self.push(part.map(|&(p, [t, y, x])| (p, Span::Video { item, t, y, x })));
            } else {
                self.push(range.map(|index| ([start + index as f32; 3], Span::Audio { item: audio, index })));
            }
        }
        // Both end tokens get the same position; the second one is pushed by the caller.
        for _ in 0..2 {
            if self.rows.len() < self.inputs.input_ids.len() {
                self.rows.push(([self.next; 3], Span::Text));
            }
        }
        self.next += 1.0;
    }
}
