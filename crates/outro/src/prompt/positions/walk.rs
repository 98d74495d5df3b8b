//! The layout of inputs that somebody else prepared: which chunks their ids spell.

use super::{Heard, Rows, Seen};
use crate::error::{Error, Result};
use crate::prompt::inputs::{Inputs, Pixels};
use crate::spec::anyres::TokenLayout;
use crate::spec::config::{Config, PositionRule};

struct Walk<'a> {
    config: &'a Config,
    inputs: &'a Inputs,
    rows: Rows<'a>,
    /// The next frame of a video whose frames stand apart: its video, its step, and the tokens before it, kept or not.
    frame: (usize, usize, usize),
}

pub(super) fn walk<'a>(config: &'a Config, inputs: &'a Inputs) -> Result<Rows<'a>> {
    let ids = &inputs.input_ids;
    let t = &config.tokens;
    let mut w = Walk {
        config,
        inputs,
        rows: Rows::new(config, ids.len()),
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
            w.frames_beside_sound(videos, audios)?;
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
            w.frames_and_sound(videos, audios)?;
            videos += 1;
            audios += 1;
        } else if id == t.video {
            w.video(videos)?;
            videos += 1;
        } else if id == t.audio {
            w.audio(audios)?;
            audios += 1;
        } else {
            w.rows.text_to(w.rows.len() + 1);
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

    /// Grid of patches of an item.
    fn grid(&self, pixels: Option<&Pixels>, item: usize, what: &str) -> Result<[usize; 3]> {
        let Some(grid) = pixels.and_then(|p| p.grid_thw.get(item)).copied() else {
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
        Ok(grid)
    }

    /// Frames of a video, and their tokens.
    fn seen(&self, item: usize) -> Result<(Seen, usize)> {
        let grid = self.grid(self.inputs.pixel_values_videos.as_ref(), item, "video")?;
        let seconds = self.inputs.second_per_grid.get(item).copied().unwrap_or(1.0);
        let tokens = self.config.vision.as_ref().map(|v| v.video_tokens(grid));
        Ok((Seen { item, grid, seconds }, tokens.unwrap_or(usize::MAX)))
    }

    fn image(&mut self, item: usize) -> Result<()> {
        let grid = self.grid(self.inputs.pixel_values.as_ref(), item, "image")?;
        let size = self.inputs.image_sizes.get(item).copied();
        let tokens = self.config.vision.as_ref().map(|v| {
            let side = v.positions.unwrap_or(1);
            TokenLayout::image(v, grid, size).count(side)
        });
        self.take(tokens, &[self.config.tokens.image], &format!("image {item}"))?;
        self.rows.image(item, grid, size);
        Ok(())
    }

    fn video(&mut self, item: usize) -> Result<()> {
        let (video, tokens) = self.seen(item)?;
        self.take(
            Some(tokens),
            &[self.config.tokens.video],
            &format!("video {item}"),
        )?;
        self.rows.video(video);
        Ok(())
    }

    fn frame(&mut self) -> Result<()> {
        let (item, step, start) = self.frame;
        let (video, tokens) = self.seen(item)?;
        let steps = video.grid[0];
        let size = tokens / steps.max(1);
        let end = start.saturating_add(size);
        let mask = &self.inputs.token_mask;
        let kept = mask.get(start..end).unwrap_or_default();
        if !mask.is_empty() && kept.len() != size {
            let problem = format!("ends before frame {step} of video {item}");
            return Err(Error::input("video_compression_mask", problem));
        }
        let count = if mask.is_empty() {
            size
        } else {
            kept.iter().filter(|k| **k).count()
        };
        let what = format!("frame {step} of video {item}");
        self.take(Some(count), &[self.config.tokens.video], &what)?;
        self.rows.frame(item, step, video.grid, kept);
        let next = if step + 1 < steps {
            (item, step + 1)
        } else {
            (item + 1, 0)
        };
        self.frame = (next.0, next.1, end);
        Ok(())
    }

    fn heard(&self, item: usize) -> Result<Heard> {
        let lengths = self.inputs.audio.as_ref().map_or(&[][..], |a| &a.lengths);
        let tokens = lengths
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
            })?;
        Ok(Heard { item, tokens })
    }

    fn audio(&mut self, item: usize) -> Result<()> {
        let sound = self.heard(item)?;
        self.take(
            Some(sound.tokens),
            &[self.config.tokens.audio],
            &format!("audio {item}"),
        )?;
        self.rows.audio(sound);
        Ok(())
    }

    /// A video, its sound, and the tokens of both; checks that the next rows hold their placeholders.
    fn both(&self, item: usize, audio: usize) -> Result<(Seen, Heard, usize)> {
        let (video, video_n) = self.seen(item)?;
        let sound = self.heard(audio)?;
        let t = &self.config.tokens;
        let n = video_n.checked_add(sound.tokens);
        let n = self.take(n, &[t.video, t.audio], &format!("video {item} and its sound"))?;
        let here = &self.inputs.input_ids[self.rows.len()..self.rows.len() + n];
        let found = here.iter().filter(|id| Some(**id) == t.audio).count();
        if found != sound.tokens {
            let problem = format!(
                "video {item} holds {found} audio placeholders, its sound gives {}",
                sound.tokens
            );
            return Err(Error::input("input_ids", problem));
        }
        Ok((video, sound, n))
    }

    fn frames_beside_sound(&mut self, item: usize, audio: usize) -> Result<()> {
        let (video, _, n) = self.both(item, audio)?;
        let (here, after) = self.inputs.input_ids[self.rows.len()..].split_at(n);
        let t = &self.config.tokens;
        let last = !after
            .iter()
            .any(|id| [t.video, t.audio, t.image].contains(&Some(*id)));
        let order = here.iter().map(|id| Some(*id) == t.audio);
        self.rows.frames_beside_sound(video, audio, order, last);
        Ok(())
    }

    fn frames_and_sound(&mut self, item: usize, audio: usize) -> Result<()> {
        let (video, sound, n) = self.both(item, audio)?;
        let left = self.inputs.input_ids.len() - self.rows.len() - n;
        self.rows.frames_and_sound(video, sound, left)
    }
}
