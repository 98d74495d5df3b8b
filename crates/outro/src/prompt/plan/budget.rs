//! A video within the caller's most tokens: fewer pixels a frame first, then fewer frames.

use outro_media::{Note, NoteKind, Sampling, VideoInfo};

use super::{MediaOptions, Planner, VideoPlan};
use crate::error::{Error, Result};

impl Planner<'_> {
    /// A video's plan, and, where the caller's limit changed it, what it would be without.
    ///
    /// # Errors
    /// As [`Planner::video`].
    pub(super) fn within(
        &self,
        v: &VideoInfo,
        options: &MediaOptions,
    ) -> Result<(VideoPlan, Option<VideoPlan>)> {
        let whole = self.unbounded(v, options)?;
        let Some(most) = options
            .max_video_tokens
            .filter(|most| self.tokens(&whole) > *most)
        else {
            return Ok((whole, None));
        };
        let patches = &self.processor.patches;
        let (token, area) = (
            (patches.patch * patches.merge).pow(2),
            whole.size[0] * whole.size[1],
        );
        // Where frames share a limit, fewer of them would grow: they stay as small as they are.
        let least = self.processor.least_pixels().min(area);
        let with = |max: usize, frames: Option<usize>| {
            let sampling = Sampling {
                frames: frames.or(options.sampling.frames),
                ..options.sampling.clone()
            };
            let max_pixels = Some(options.max_pixels.map_or(max, |own| own.min(max)));
            let plan = self.unbounded(
                v,
                &MediaOptions {
                    sampling,
                    max_pixels,
                    ..options.clone()
                },
            )?;
            Ok((self.tokens(&plan), plan))
        };
        let mut plan = largest(least.div_ceil(token), area / token, most, &|tokens| {
            with((tokens * token).max(least), None)
        })?;
        if plan.0 > most {
            let whole_steps = whole.indices.len() / patches.temporal;
            let fewest = options.sampling.fewest().div_ceil(patches.temporal);
            plan = largest(fewest, whole_steps, most, &|steps| {
                with(least, Some(steps * patches.temporal))
            })?;
        }
        let (tokens, plan) = plan;
        if tokens > most {
            let [height, width] = plan.size;
            let problem = format!(
                "{most} tokens a video are too few: {} frames of {height} x {width} pixels, the least that can be taken, are \
                 {tokens}",
                plan.indices.len()
            );
            return Err(Error::input("max_video_tokens", problem));
        }
        Ok((plan, Some(whole)))
    }

    /// Tokens of a video, those included that stand still and may be left out.
    fn tokens(&self, plan: &VideoPlan) -> usize {
        plan.chunk(self.config, None, Vec::new()).tokens(self.config)[1]
    }

    /// What the limit has changed.
    pub(super) fn reduced(&self, v: &std::path::Path, most: usize, [now, before]: [&VideoPlan; 2]) -> Note {
        let mut changes = Vec::new();
        if now.size != before.size {
            let [[h, w], [height, width]] = [now.size, before.size];
            changes.push(format!(
                "frames of {h} x {w} pixels instead of {height} x {width}"
            ));
        }
        let [few, many] = [now.indices.len(), before.indices.len()];
        if few != many {
            changes.push(format!("{few} frames instead of {many}"));
        }
        let text = format!(
            "{} tokens are cut to {}, so that they are at most {most}: {}",
            self.tokens(before),
            self.tokens(now),
            changes.join(", ")
        );
        Note::new(NoteKind::Reduced, v, text)
    }
}

/// What `of` makes of the largest number between `low` and `high` that gives at most `most` tokens; where none does, of `low`.
fn largest(
    mut low: usize,
    mut high: usize,
    most: usize,
    of: &dyn Fn(usize) -> Result<(usize, VideoPlan)>,
) -> Result<(usize, VideoPlan)> {
    let mut best = of(low)?;
    if best.0 > most {
        return Ok(best);
    }
    // `low` fits; `high` need not.
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let made = of(middle)?;
        if made.0 <= most {
            (low, best) = (middle, made);
        } else {
            high = middle - 1;
        }
    }
    Ok(best)
}
