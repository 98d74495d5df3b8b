//! Rotary positions (time, height, width) of a prompt, and what each of its rows is.
//!
//! The rules are `get_rope_index` of transformers 4.52.3. Text counts all three axes together. An image or video starts
//! where the text before it ended and adds its grid coordinate; text goes on after the largest number of the block
//! before it. In Qwen2.5-Omni sound and frames of one video start together and alternate in chunks of time; in Qwen3-Omni,
//! which transformers 5.23.0 has, token by token. Positions are whole numbers but for times in Qwen3-Omni.

mod walk;

use crate::error::{Error, Result};
use crate::prompt::inputs::Inputs;
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

/// A prompt's tokens, where each stands and what it is; S of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Token ids, placeholders expanded.
    pub ids: Vec<u32>,
    /// Rotary positions.
    pub positions: Positions,
    /// What each row is.
    pub spans: Vec<Span>,
}

/// The layout of inputs that somebody else prepared: their ids are walked over. Those of our own preparation are laid out from
/// their chunks ([`crate::prompt::lay_out`]).
///
/// # Errors
/// Placeholders without their media, or cut off, or without their delimiter.
pub fn layout(c: &Config, inputs: &Inputs) -> Result<Layout> {
    Ok(walk::walk(c, inputs)?.finish(inputs.input_ids.clone()))
}

/// [`layout`]'s positions alone.
///
/// # Errors
/// As [`layout`].
pub fn positions(c: &Config, inputs: &Inputs) -> Result<Positions> {
    Ok(layout(c, inputs)?.positions)
}

/// What each row of the prompt is: [`layout`] without positions.
///
/// # Errors
/// As [`layout`].
pub fn spans(c: &Config, inputs: &Inputs) -> Result<Vec<Span>> {
    Ok(layout(c, inputs)?.spans)
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

/// Frames of a video.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Which video.
    pub(crate) item: usize,
    /// Patches along time, height and width.
    pub(crate) grid: [usize; 3],
    /// Seconds of a grid step.
    pub(crate) seconds: f32,
}

/// Sound, alone or of a video.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// Which audio.
    pub(crate) item: usize,
    /// Its tokens.
    pub(crate) tokens: usize,
}

/// Rows of a prompt as they are laid out, one chunk after the other.
pub(crate) struct Rows<'a> {
    config: &'a Config,
    laid: Vec<Row>,
    /// Where the next block starts: one more than the largest of the block before.
    next: f32,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(config: &'a Config, capacity: usize) -> Self {
        Self {
            config,
            laid: Vec::with_capacity(capacity),
            next: 0.0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.laid.len()
    }

    /// The layout of these ids, one a row.
    pub(crate) fn finish(self, ids: Vec<u32>) -> Layout {
        let next = largest(&self.laid).unwrap_or(-1.0) + 1.0;
        let (positions, spans) = self.laid.into_iter().unzip();
        Layout {
            ids,
            positions: Positions { ids: positions, next },
            spans,
        }
    }

    /// Text up to this row.
    pub(crate) fn text_to(&mut self, row: usize) {
        while self.laid.len() < row {
            self.laid.push(([self.next; 3], Span::Text));
            self.next += 1.0;
        }
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

    /// [`Rows::cells`] of a grid of patches, which are merged first.
    fn merged_cells(&self, [t, h, w]: [usize; 3], seconds: f32) -> Vec<([f32; 3], [usize; 3])> {
        let merge = self.config.vision.as_ref().map_or(1, |v| v.merge);
        self.cells([t, h / merge, w / merge], seconds)
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
        let start = self.laid.len();
        self.laid.extend(block);
        if let Some(largest) = largest(&self.laid[start..]) {
            self.next = largest + 1.0;
        }
    }

    fn block(&mut self, grid: [usize; 3], seconds: f32, span: impl Fn([usize; 3]) -> Span) {
        let cells = self.cells(grid, seconds).into_iter();
        self.push(cells.map(|(p, at)| (p, span(at))));
    }

    /// Tokens of a picture that goes through the tower in parts, a number each; newlines are delimiters.
    fn parts(&mut self, layout: &TokenLayout, span: impl Fn([usize; 3]) -> Span) {
        let side = self.config.vision.as_ref().and_then(|v| v.positions).unwrap_or(1);
        let start = self.next;
        let cells = layout.cells(side).into_iter().zip(0..);
        self.push(cells.map(|(cell, i)| ([start + i as f32; 3], cell.map_or(Span::Text, &span))));
    }

    /// An image of so many patches along time, height and width, and the size of its picture.
    pub(crate) fn image(&mut self, item: usize, grid: [usize; 3], size: Option<[usize; 2]>) {
        let Some(v) = &self.config.vision else { return };
        let span = |[_, y, x]: [usize; 3]| Span::Image { item, y, x };
        // One step of time is a second in Omni and nothing in VL; images have one step only.
        let seconds = if matches!(self.config.positions, PositionRule::QwenVl { .. }) {
            0.0
        } else {
            1.0
        };
        match TokenLayout::image(v, grid, size) {
            TokenLayout::Grid(grid) => self.block(grid, seconds, span),
            layout => self.parts(&layout, span),
        }
    }

    /// A video without its sound.
    pub(crate) fn video(&mut self, Seen { item, grid, seconds }: Seen) {
        let Some(v) = &self.config.vision else { return };
        let span = |[t, y, x]: [usize; 3]| Span::Video { item, t, y, x };
        match TokenLayout::video(v, grid) {
            TokenLayout::Grid(grid) => self.block(grid, seconds, span),
            layout => self.parts(&layout, span),
        }
    }

    /// One frame of a video whose frames stand apart: a picture of its own, of which some tokens may be left out; an empty
    /// `kept` is all of them.
    pub(crate) fn frame(&mut self, item: usize, step: usize, [_, h, w]: [usize; 3], kept: &[bool]) {
        let mut cells = self.merged_cells([1, h, w], 0.0);
        let mut there = kept.iter();
        cells.retain(|_| there.next().is_none_or(|k| *k));
        self.count_text(&mut cells);
        self.push(
            cells
                .into_iter()
                .map(|(p, [_, y, x])| (p, Span::Video { item, t: step, y, x })),
        );
    }

    /// A sound that stands alone.
    pub(crate) fn audio(&mut self, Heard { item, tokens }: Heard) {
        let start = self.next;
        let flat = matches!(self.config.positions, PositionRule::Salmonn { .. });
        self.push((0..tokens).map(|index| {
            let at = start + index as f32;
            (
                [at, at, if flat { start } else { at }],
                Span::Audio { item, index },
            )
        }));
    }

    /// Frames and sound of one video in video-SALMONN 2+: both share a start time, positions follow the order of the tokens
    /// (`true` is sound); text resumes at max(temporal) + 1, whatever the height and width, after the `last` medium.
    pub(crate) fn frames_beside_sound(
        &mut self,
        Seen { item, grid, seconds }: Seen,
        audio: usize,
        order: impl Iterator<Item = bool>,
        last: bool,
    ) {
        let (start, mut index) = (self.next, 0);
        let mut cells = self.merged_cells(grid, seconds).into_iter();
        let block: Vec<Row> = order
            .filter_map(|sound| {
                if sound {
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
    }

    /// Frames and sound of one video, by their times; `ends` is how many end tokens follow (2, where nothing was cut off).
    ///
    /// # Errors
    /// A model that cannot interleave them.
    pub(crate) fn frames_and_sound(&mut self, video: Seen, sound: Heard, ends: usize) -> Result<()> {
        match self.config.positions {
            PositionRule::Tmrope {
                per_second,
                seconds_per_chunk,
            } => {
                let chunk = (per_second * seconds_per_chunk).trunc() as f32;
                self.in_chunks(video, sound, chunk, ends);
                Ok(())
            }
            PositionRule::Merged { .. } => {
                self.merged(video, sound);
                Ok(())
            }
            _ => {
                let problem = "this model cannot interleave sound with frames";
                Err(Error::input("use_audio_in_video", problem))
            }
        }
    }

    /// Token by token: frames before the sound of their time. What follows goes on after what is left when one of them
    /// ends, whatever came before, as in the reference.
    fn merged(&mut self, Seen { item, grid, seconds }: Seen, sound: Heard) {
        let (audio, audio_n) = (sound.item, sound.tokens);
        let cells = self.merged_cells(grid, seconds);
        let start = self.next;
        let heard = |index: usize| ([start + index as f32; 3], Span::Audio { item: audio, index });
        let video = |i: usize| {
            let (p, [t, y, x]) = cells[i];
            (p, Span::Video { item, t, y, x })
        };
        let (mut v, mut a) = (0, 0);
        while v < cells.len() && a < audio_n {
            if cells[v].0[0] <= start + a as f32 {
                self.laid.push(video(v));
                v += 1;
            } else {
                self.laid.push(heard(a));
                a += 1;
            }
        }
        self.push((v..cells.len()).map(video));
        self.push((a..audio_n).map(heard));
    }

    /// Chunk by chunk of so many positions. The two start tokens before the video share a position, and so do the two end
    /// tokens.
    fn in_chunks(&mut self, Seen { item, grid, seconds }: Seen, sound: Heard, chunk: f32, ends: usize) {
        let (audio, audio_n) = (sound.item, sound.tokens);
        if let Some(start) = self.laid.last_mut() {
            start.0 = start.0.map(|p| p - 1.0);
        }
        self.next -= 1.0;
        let cells = self.merged_cells(grid, seconds);
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
        // Both end tokens get the same position.
        self.laid
            .extend((0..ends.min(2)).map(|_| ([self.next; 3], Span::Text)));
        self.next += 1.0;
    }
}
