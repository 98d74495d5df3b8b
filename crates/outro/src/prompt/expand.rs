//! A conversation's layout: the placeholder of each medium becomes as many as its chunk has tokens, and chunks say what their rows
//! are and where they stand.

use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::prompt::positions::{Heard, Layout, Rows, Seen, chunk_ends, interleave};
use crate::spec::anyres::TokenLayout;
use crate::spec::config::{Config, PositionRule, Timestamps, VisionConfig};

/// What the prompt must know of one medium, in the order of the conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunk {
    /// An image of so many patches along time, height and width.
    Image {
        /// Patches along time, height and width; parts instead of time where it goes through the tower in parts.
        grid: [usize; 3],
        /// Height and width of the picture before it was resized.
        size: [usize; 2],
    },
    /// A video.
    Video {
        /// Patches along time, height and width.
        grid: [usize; 3],
        /// Seconds of one temporal grid step.
        second_per_grid: f64,
        /// Tokens of its sound, if it is used.
        sound: Option<usize>,
    },
    /// A video whose frames stand apart, each after its time ([`crate::spec::config::Timestamps`]).
    Frames {
        /// Patches along time, height and width.
        grid: [usize; 3],
        /// Time of each frame.
        seconds: Vec<f64>,
        /// Which tokens of them are in the prompt; empty where all are.
        kept: Vec<bool>,
    },
    /// A sound of so many tokens.
    Audio {
        /// Tokens.
        tokens: usize,
    },
}

impl Chunk {
    /// Tokens by kind: image, video, audio.
    pub(crate) fn tokens(&self, c: &Config) -> [usize; 3] {
        let side = c.vision.as_ref().and_then(|v| v.positions).unwrap_or(1);
        let count = |layout: &dyn Fn(&VisionConfig) -> TokenLayout| {
            let vision = c.vision.as_ref();
            vision.map_or(0, |v| layout(v).count(side))
        };
        match self {
            Self::Image { grid, size } => [count(&|v| TokenLayout::image(v, *grid, Some(*size))), 0, 0],
            Self::Frames { grid, seconds, kept } if kept.is_empty() => {
                [0, frame_size(c, *grid).saturating_mul(seconds.len()), 0]
            }
            Self::Frames { kept, .. } => [0, kept.iter().filter(|k| **k).count(), 0],
            Self::Video { grid, sound, .. } => {
                [0, count(&|v| TokenLayout::video(v, *grid)), sound.unwrap_or(0)]
            }
            Self::Audio { tokens } => [0, 0, *tokens],
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Image { .. } => "image",
            Self::Video { .. } | Self::Frames { .. } => "video",
            Self::Audio { .. } => "audio",
        }
    }

    fn id(&self, c: &Config) -> Option<u32> {
        match self {
            Self::Image { .. } => c.tokens.image,
            Self::Video { .. } | Self::Frames { .. } => c.tokens.video,
            Self::Audio { .. } => c.tokens.audio,
        }
    }
}

/// Writes the times of frames into a text: the placeholder of each such video becomes one a frame.
pub(crate) fn write_timestamps(
    timestamps: &Timestamps,
    text: &str,
    placeholders: &[&str],
    chunks: &[Chunk],
) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut chunks) = (text, chunks.iter());
    let next = |rest: &str| -> Option<(usize, usize)> {
        let found = placeholders.iter().filter_map(|p| Some((rest.find(p)?, p.len())));
        found.min()
    };
    while let Some((at, length)) = next(rest) {
        let (before, after) = rest.split_at(at);
        let (placeholder, after) = after.split_at(length);
        out += before;
        match chunks.next() {
            Some(Chunk::Frames { seconds, .. }) => {
                for (i, time) in seconds.iter().enumerate() {
                    out += if i == 0 { "" } else { timestamps.between };
                    // Writing to a String cannot fail.
                    let _ = write!(
                        out,
                        "{}{time:.1}{}{placeholder}",
                        timestamps.before, timestamps.after
                    );
                }
            }
            _ => out += placeholder,
        }
        rest = after;
    }
    out + rest
}

/// Tokens of a frame that stands apart, before any is left out.
fn frame_size(c: &Config, [_, h, w]: [usize; 3]) -> usize {
    let merge = c.vision.as_ref().map_or(1, |v| v.merge);
    (h / merge).saturating_mul(w / merge)
}

/// Which of a frame's tokens are there, of those of all frames; empty where all are.
fn kept_of<'a>(c: &Config, grid: [usize; 3], kept: &'a [bool], frame: usize) -> &'a [bool] {
    let mut frames = kept.chunks(frame_size(c, grid).max(1));
    frames.nth(frame).unwrap_or_default()
}

/// A chunk, or a frame of it, in its place.
struct Placed<'a> {
    /// Its first row.
    row: usize,
    chunk: &'a Chunk,
    /// Which frame, where frames stand apart.
    frame: usize,
}

/// Expands the placeholders in `ids`, one a medium or a frame that stands apart, as the families' processors do on text.
///
/// # Errors
/// Placeholders that are not as many as the media, or of another kind: a question that spells a placeholder's name,
/// or a chat template that leaves media out.
pub fn expand(c: &Config, ids: &[u32], chunks: &[Chunk]) -> Result<Vec<u32>> {
    Ok(place(c, ids, chunks)?.0)
}

/// [`expand`]'s ids with what each row is and where it stands, from the chunks.
///
/// # Errors
/// As [`expand`], and sound in a video for a model that cannot interleave it.
pub fn lay_out(c: &Config, ids: &[u32], chunks: &[Chunk]) -> Result<Layout> {
    let (ids, placed) = place(c, ids, chunks)?;
    let mut rows = Rows::new(c, ids.len());
    let (mut images, mut videos, mut audios) = (0, 0, 0);
    let next = |count: &mut usize| {
        *count += 1;
        *count - 1
    };
    for (i, Placed { row, chunk, frame }) in placed.iter().enumerate() {
        rows.text_to(*row);
        match chunk {
            Chunk::Image { grid, size } => rows.image(next(&mut images), *grid, Some(*size)),
            Chunk::Frames { grid, seconds, kept } => {
                rows.frame(videos, *frame, *grid, kept_of(c, *grid, kept, *frame));
                videos += usize::from(frame + 1 == seconds.len());
            }
            Chunk::Video {
                grid,
                second_per_grid,
                sound,
            } => {
                let video = Seen {
                    item: next(&mut videos),
                    grid: *grid,
                    seconds: *second_per_grid as f32,
                };
                let Some(tokens) = *sound else {
                    rows.video(video);
                    continue;
                };
                let item = next(&mut audios);
                if inner_delimiters(c) {
                    rows.frames_and_sound(video, Heard { item, tokens }, 2)?;
                } else {
                    let n = chunk.tokens(c)[1] + tokens;
                    let order = ids.iter().skip(*row).take(n);
                    let order = order.map(|id| Some(*id) == c.tokens.audio);
                    rows.frames_beside_sound(video, item, order, i + 1 == placed.len());
                }
            }
            Chunk::Audio { tokens } => rows.audio(Heard {
                item: next(&mut audios),
                tokens: *tokens,
            }),
        }
    }
    rows.text_to(ids.len());
    Ok(rows.finish(ids))
}

/// The expanded ids, and where each chunk stands in them.
fn place<'a>(c: &Config, ids: &[u32], chunks: &'a [Chunk]) -> Result<(Vec<u32>, Vec<Placed<'a>>)> {
    let t = &c.tokens;
    let places = [("image", t.image), ("video", t.video), ("audio", t.audio)];
    let placeholder = |id: u32| places.iter().find(|p| p.1 == Some(id)).map(|p| p.0);
    let mismatch = |problem: String| {
        let why =
            "the question may spell the name of a placeholder token, or the chat template leaves media out";
        Error::input("prompt", format!("{problem}; {why}"))
    };
    let mut out = Vec::with_capacity(ids.len());
    let mut placed = Vec::with_capacity(chunks.len());
    // Frames that stand apart have a placeholder each, any other medium has one.
    let many = |m: &Chunk| match m {
        Chunk::Frames { seconds, .. } => seconds.len(),
        _ => 1,
    };
    let mut rest: Vec<_> = chunks
        .iter()
        .flat_map(|m| (0..many(m)).map(move |i| (m, i)))
        .collect();
    for (i, id) in ids.iter().enumerate() {
        let Some(found) = placeholder(*id) else {
            out.push(*id);
            continue;
        };
        // Some templates write all images before all videos, whatever the conversation's order.
        let Some(place) = rest.iter().position(|(m, _)| m.id(c) == Some(*id)) else {
            return Err(mismatch(match rest.first() {
                Some((m, _)) => format!("a {found} placeholder stands where the {} belongs", m.name()),
                None => format!(
                    "there are {} media and one more {found} placeholder (id {id})",
                    chunks.len()
                ),
            }));
        };
        let (chunk, frame) = rest.remove(place);
        let before = i.checked_sub(1).map(|i| ids[i]);
        if found != "audio" && t.vision_start.is_some() && before != t.vision_start {
            return Err(mismatch(format!(
                "a {found} placeholder does not follow its start token"
            )));
        }
        let mut put = |out: &Vec<u32>| {
            placed.push(Placed {
                row: out.len(),
                chunk,
                frame,
            });
        };
        match *chunk {
            Chunk::Video {
                grid,
                second_per_grid,
                sound: Some(sound),
            } => {
                let delimited = before == t.vision_start && ids.get(i + 1).copied() == t.vision_end;
                let (Some(audio), Some(start), Some(end), true) =
                    (t.audio, t.audio_start, t.audio_end, delimited)
                else {
                    return Err(mismatch(
                        "a video placeholder has no start and end tokens around it".into(),
                    ));
                };
                if inner_delimiters(c) {
                    out.push(start);
                }
                put(&out);
                let [_, videos, _] = chunk.tokens(c);
                for (video, n) in order(c, grid, second_per_grid, videos, sound) {
                    out.extend(std::iter::repeat_n(if video { *id } else { audio }, n));
                }
                if inner_delimiters(c) {
                    out.push(end);
                }
            }
            Chunk::Frames { grid, ref kept, .. } => {
                put(&out);
                let n = match kept_of(c, grid, kept, frame) {
                    [] => frame_size(c, grid),
                    there => there.iter().filter(|k| **k).count(),
                };
                out.extend(std::iter::repeat_n(*id, n));
            }
            _ => {
                put(&out);
                out.extend(std::iter::repeat_n(*id, chunk.tokens(c).iter().sum()));
            }
        }
    }
    match rest.first() {
        None => Ok((out, placed)),
        Some((m, _)) => Err(mismatch(format!("no placeholder is left for an {}", m.name()))),
    }
}

/// Whether sound in a video has delimiters of its own.
fn inner_delimiters(c: &Config) -> bool {
    !matches!(c.positions, PositionRule::Salmonn { .. })
}

/// Runs of video (`true`) and audio tokens in the order in which a video with sound has them.
fn order(c: &Config, grid: [usize; 3], seconds: f64, video: usize, sound: usize) -> Vec<(bool, usize)> {
    if let PositionRule::Salmonn { .. } = c.positions {
        // After each step its share, the larger shares first.
        let steps = grid[0].max(1);
        let share = |i: usize| sound / steps + usize::from(i < sound % steps);
        return (0..steps)
            .flat_map(|i| [(true, video / steps), (false, share(i))])
            .collect();
    }
    let cells = video / grid[0].max(1);
    let times = |per_second: f64| -> Vec<f64> {
        let time = |step: usize| step as f64 * seconds * per_second;
        (0..grid[0])
            .flat_map(|step| std::iter::repeat_n(time(step), cells))
            .collect()
    };
    let (per_second, seconds_per_chunk) = match c.positions {
        PositionRule::Tmrope {
            per_second,
            seconds_per_chunk,
        } => (per_second, seconds_per_chunk),
        PositionRule::Merged { per_second } => {
            // Each token of sound after the frames that are not later.
            let (times, mut runs, mut done) = (times(per_second), Vec::new(), 0);
            for i in 0..sound {
                let before = times[done..].partition_point(|t| *t <= i as f64);
                runs.extend([(true, before), (false, 1)]);
                done += before;
            }
            runs.push((true, video - done));
            return runs;
        }
        _ => return vec![(true, video), (false, sound)],
    };
    let times = times(per_second);
    let chunk = (per_second * seconds_per_chunk).trunc();
    let indices: Vec<f64> = (0..sound).map(|i| i as f64).collect();
    let boundary = |k: usize| k as f64 * chunk;
    let runs = interleave(&chunk_ends(&times, boundary), &chunk_ends(&indices, boundary));
    runs.into_iter()
        .map(|(video, range)| (video, range.len()))
        .collect()
}
