//! A conversation's token ids: the placeholder of each medium becomes as many as the medium has tokens.

use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::prompt::positions::{chunk_ends, interleave};
use crate::spec::anyres::TokenLayout;
use crate::spec::config::{Config, PositionRule, Timestamps, VisionConfig};

/// What the prompt must know of one medium, in the order of the conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Medium {
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
        /// Tokens of each frame.
        tokens: Vec<usize>,
    },
    /// A sound of so many tokens.
    Audio {
        /// Tokens.
        tokens: usize,
    },
}

impl Medium {
    /// A video whose frames stand apart; `mask` is empty where all its tokens are in the prompt.
    pub(crate) fn frames(c: &Config, grid: [usize; 3], seconds: Vec<f64>, mask: &[bool]) -> Self {
        let merge = c.vision.as_ref().map_or(1, |v| v.merge);
        let size = (grid[1] / merge).saturating_mul(grid[2] / merge);
        let tokens = if mask.is_empty() {
            vec![size; seconds.len()]
        } else {
            let frames = mask.chunks(size.max(1));
            frames.map(|f| f.iter().filter(|k| **k).count()).collect()
        };
        Self::Frames {
            grid,
            seconds,
            tokens,
        }
    }

    /// Tokens by kind: image, video, audio, delimiters that the expansion adds.
    pub(crate) fn tokens(&self, c: &Config) -> [usize; 4] {
        let side = c.vision.as_ref().and_then(|v| v.positions).unwrap_or(1);
        let count = |layout: &dyn Fn(&VisionConfig) -> TokenLayout| {
            let vision = c.vision.as_ref();
            vision.map_or(0, |v| layout(v).count(side))
        };
        match self {
            Self::Image { grid, size } => [count(&|v| TokenLayout::image(v, *grid, Some(*size))), 0, 0, 0],
            Self::Frames { tokens, .. } => [0, tokens.iter().sum(), 0, 0],
            Self::Video { grid, sound, .. } => [
                0,
                count(&|v| TokenLayout::video(v, *grid)),
                sound.unwrap_or(0),
                if sound.is_some() && inner_delimiters(c) {
                    2
                } else {
                    0
                },
            ],
            Self::Audio { tokens } => [0, 0, *tokens, 0],
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
    media: &[Medium],
) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut media) = (text, media.iter());
    let next = |rest: &str| -> Option<(usize, usize)> {
        let found = placeholders.iter().filter_map(|p| Some((rest.find(p)?, p.len())));
        found.min()
    };
    while let Some((at, length)) = next(rest) {
        let (before, after) = rest.split_at(at);
        let (placeholder, after) = after.split_at(length);
        out += before;
        match media.next() {
            Some(Medium::Frames { seconds, .. }) => {
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

/// Expands the placeholders in `ids`, one a medium or a frame that stands apart, as the families' processors do on text.
///
/// # Errors
/// Placeholders that are not as many as the media, or of another kind: a question that spells a placeholder's name,
/// or a chat template that leaves media out.
pub fn expand(c: &Config, ids: &[u32], media: &[Medium]) -> Result<Vec<u32>> {
    let t = &c.tokens;
    let places = [("image", t.image), ("video", t.video), ("audio", t.audio)];
    let placeholder = |id: u32| places.iter().find(|p| p.1 == Some(id)).map(|p| p.0);
    let mismatch = |problem: String| {
        let why =
            "the question may spell the name of a placeholder token, or the chat template leaves media out";
        Error::input("prompt", format!("{problem}; {why}"))
    };
    let mut out = Vec::with_capacity(ids.len());
    // Frames that stand apart have a placeholder each, any other medium has one.
    let many = |m: &Medium| match m {
        Medium::Frames { tokens, .. } => tokens.len(),
        _ => 1,
    };
    let mut rest: Vec<_> = media
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
                    media.len()
                ),
            }));
        };
        let (medium, frame) = rest.remove(place);
        let [images, videos, sounds, _] = medium.tokens(c);
        match *medium {
            Medium::Video {
                grid,
                second_per_grid,
                sound: Some(sound),
            } => {
                let delimited =
                    i > 0 && Some(ids[i - 1]) == t.vision_start && ids.get(i + 1).copied() == t.vision_end;
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
                for (video, n) in order(c, grid, second_per_grid, videos, sound) {
                    out.extend(std::iter::repeat_n(if video { *id } else { audio }, n));
                }
                if inner_delimiters(c) {
                    out.push(end);
                }
            }
            Medium::Frames { ref tokens, .. } => out.extend(std::iter::repeat_n(*id, tokens[frame])),
            _ => out.extend(std::iter::repeat_n(*id, images + videos + sounds)),
        }
    }
    match rest.first() {
        None => Ok(out),
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
