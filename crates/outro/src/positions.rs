//! Rotary positions of a prompt: plain for text, three-dimensional for pictures, time-aligned for sound
//! (TMRoPE of Qwen2.5-Omni), as the models were trained with them.

use crate::config::{Config, PositionRule};
use crate::error::{Error, Result};
use crate::inputs::Inputs;

/// Positions of a prompt's rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Positions {
    /// Time, height and width of each row.
    pub ids: Vec<[f32; 3]>,
    /// Position of the first decoded token; the n-th has `next + n`.
    pub next: f32,
}

/// Computes the positions of `inputs.input_ids`.
///
/// # Errors
/// Placeholders that do not fit the media, by key.
pub fn positions(config: &Config, inputs: &Inputs) -> Result<Positions> {
    let mut walk = Walk { config, inputs, at: 0, next: 0, ids: Vec::with_capacity(inputs.input_ids.len()), items: [0; 3] };
    while walk.at < inputs.input_ids.len() {
        walk.step()?;
    }
    let ids = walk.ids;
    let next = ids.iter().flatten().max().map_or(0, |m| m + 1);
    Ok(Positions { ids: ids.iter().map(|p| p.map(|x| x as f32)).collect(), next: next as f32 })
}

const IMAGE: usize = 0;
const VIDEO: usize = 1;
const AUDIO: usize = 2;

struct Walk<'a> {
    config: &'a Config,
    inputs: &'a Inputs,
    /// Index into the ids.
    at: usize,
    /// Position of the next text token.
    next: i64,
    ids: Vec<[i64; 3]>,
    /// Images, videos and audios met so far.
    items: [usize; 3],
}

impl Walk<'_> {
    fn step(&mut self) -> Result<()> {
        let t = &self.config.tokens;
        let id = Some(self.inputs.input_ids[self.at]);
        if id == t.image {
            let block = self.vision(IMAGE)?;
            self.block(&block)
        } else if id == t.video {
            let block = self.vision(VIDEO)?;
            self.block(&block)
        } else if id == t.audio {
            let block = self.audio()?;
            self.block(&block)
        } else if id.is_some() && id == t.vision_start && self.peek(1) == t.audio_start && self.peek(1).is_some() {
            self.interleaved()
        } else {
            self.put([self.next; 3])
        }
    }

    fn peek(&self, ahead: usize) -> Option<u32> {
        self.inputs.input_ids.get(self.at + ahead).copied()
    }

    fn put(&mut self, position: [i64; 3]) -> Result<()> {
        if self.at >= self.inputs.input_ids.len() {
            return Err(Error::input("input_ids", "ends inside a medium's placeholders"));
        }
        self.ids.push(position);
        self.at += 1;
        self.next = self.next.max(position.into_iter().max().unwrap_or(0) + 1);
        Ok(())
    }

    fn block(&mut self, positions: &[[i64; 3]]) -> Result<()> {
        positions.iter().try_for_each(|p| self.put(*p))
    }

    fn item(&mut self, kind: usize) -> usize {
        self.items[kind] += 1;
        self.items[kind] - 1
    }

    /// Positions of the next image or video, from `next` on.
    fn vision(&mut self, kind: usize) -> Result<Vec<[i64; 3]>> {
        let item = self.item(kind);
        let (key, pixels) = match kind {
            IMAGE => ("image_grid_thw", &self.inputs.pixel_values),
            _ => ("video_grid_thw", &self.inputs.pixel_values_videos),
        };
        let grid = pixels.as_ref().and_then(|p| p.grid_thw.get(item)).copied();
        let [frames, h, w] = grid.ok_or_else(|| Error::input(key, format!("has no entry {item}, and input_ids place one")))?;
        let merge = self.config.vision.as_ref().map_or(1, |v| v.merge);
        let seconds = match kind {
            IMAGE => 1.0,
            _ => self.inputs.second_per_grid.get(item).copied().unwrap_or(1.0),
        };
        let time = |frame: usize| match self.config.positions {
            PositionRule::Tmrope { per_second, .. } => (frame as f32 * seconds * per_second as f32) as i64,
            // The reference cuts the seconds to a whole number before it multiplies.
            PositionRule::QwenVl { tokens_per_second } if kind == VIDEO => {
                (frame as f64 * f64::from(seconds).trunc() * tokens_per_second) as i64
            }
            _ => 0,
        };
        let start = self.next;
        let mut block = Vec::with_capacity(frames * h / merge * w / merge);
        for frame in 0..frames {
            for row in 0..h / merge {
                for col in 0..w / merge {
                    block.push([start + time(frame), start + row as i64, start + col as i64]);
                }
            }
        }
        Ok(block)
    }

    /// Positions of the next audio: one a token.
    fn audio(&mut self) -> Result<Vec<[i64; 3]>> {
        let item = self.item(AUDIO);
        let frames = self.inputs.audio.as_ref().and_then(|a| a.lengths.get(item)).copied();
        let frames = frames.ok_or_else(|| Error::input("input_features", format!("has no entry {item}, and input_ids place one")))?;
        Ok((0..crate::audio_tokens(frames) as i64).map(|i| [self.next + i; 3]).collect())
    }

    /// A video with its sound: both start at the same position, and alternate in chunks of a few seconds.
    fn interleaved(&mut self) -> Result<()> {
        let PositionRule::Tmrope { per_second, seconds_per_chunk } = self.config.positions else {
            return Err(Error::input("input_ids", "places sound inside a video, which this family does not do"));
        };
        // Both delimiters before, and both after, share one position.
        let start = self.next;
        self.block(&[[start; 3], [start; 3]])?;
        let (video, audio) = (self.vision(VIDEO)?, self.audio()?);
        let chunk = (per_second * seconds_per_chunk) as i64;
        let (video, audio) = (chunks(&video, self.next, chunk), chunks(&audio, self.next, chunk));
        let first = self.next;
        let mut last = first;
        for i in 0..video.len().max(audio.len()) {
            for part in [video.get(i), audio.get(i)].into_iter().flatten() {
                self.block(part)?;
                // The reference goes on from the last part that it placed, not from the largest position.
                last = part.iter().flatten().max().map_or(last, |m| m + 1);
            }
        }
        self.next = last;
        let end = self.next;
        self.block(&[[end; 3], [end; 3]])
    }
}

/// Cuts positions where their time, from `start`, passes the next multiple of `chunk`; a part may be empty.
fn chunks(positions: &[[i64; 3]], start: i64, chunk: i64) -> Vec<&[[i64; 3]]> {
    let (mut parts, mut from, mut end) = (Vec::new(), 0, chunk);
    for (i, p) in positions.iter().enumerate() {
        if p[0] - start >= end {
            parts.push(&positions[from..i]);
            from = i;
            end += chunk;
        }
    }
    parts.push(&positions[from..]);
    parts
}
