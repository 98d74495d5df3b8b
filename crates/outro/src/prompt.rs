//! A conversation's token ids: the placeholder of each medium becomes as many as the medium has tokens.

use crate::config::{Config, PositionRule};
use crate::error::{Error, Result};
use crate::positions::{chunk_ends, interleave};

/// What the prompt must know of one medium, in the order of the conversation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Medium {
    /// An image of so many patches along time, height and width.
    Image {
        /// Patches along time, height and width.
        grid: [usize; 3],
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
    /// A sound of so many tokens.
    Audio {
        /// Tokens.
        tokens: usize,
    },
}

impl Medium {
    /// Tokens by kind: image, video, audio, delimiters that the expansion adds.
    pub(crate) fn tokens(&self, c: &Config) -> [usize; 4] {
        let (merge, image_merge) = c.vision.as_ref().map_or((1, 1), |v| (v.merge, v.image_merge));
        let cells =
            |[t, h, w]: [usize; 3], merge: usize| t.saturating_mul(h / merge).saturating_mul(w / merge);
        match *self {
            Self::Image { grid } => [cells(grid, image_merge), 0, 0, 0],
            Self::Video { grid, sound, .. } => [
                0,
                cells(grid, merge),
                sound.unwrap_or(0),
                if sound.is_some() { 2 } else { 0 },
            ],
            Self::Audio { tokens } => [0, 0, tokens, 0],
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Image { .. } => "image",
            Self::Video { .. } => "video",
            Self::Audio { .. } => "audio",
        }
    }

    fn id(&self, c: &Config) -> Option<u32> {
        match self {
            Self::Image { .. } => c.tokens.image,
            Self::Video { .. } => c.tokens.video,
            Self::Audio { .. } => c.tokens.audio,
        }
    }
}

/// Expands the placeholders in `ids`, one a medium, as the families' processors do on text.
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
    let mut rest = media.iter();
    for (i, id) in ids.iter().enumerate() {
        let Some(found) = placeholder(*id) else {
            out.push(*id);
            continue;
        };
        let medium = rest.next().ok_or_else(|| {
            mismatch(format!(
                "there are {} media and one more {found} placeholder (id {id})",
                media.len()
            ))
        })?;
        if medium.id(c) != Some(*id) {
            return Err(mismatch(format!(
                "a {found} placeholder stands where the {} belongs",
                medium.name()
            )));
        }
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
                out.push(start);
                for (video, n) in order(c, grid, second_per_grid, videos, sound) {
                    out.extend(std::iter::repeat_n(if video { *id } else { audio }, n));
                }
                out.push(end);
            }
            _ => out.extend(std::iter::repeat_n(*id, images + videos + sounds)),
        }
    }
    match rest.next() {
        None => Ok(out),
        Some(m) => Err(mismatch(format!("no placeholder is left for an {}", m.name()))),
    }
}

/// Runs of video (`true`) and audio tokens in the order in which a video with sound has them.
fn order(c: &Config, grid: [usize; 3], seconds: f64, video: usize, sound: usize) -> Vec<(bool, usize)> {
    let PositionRule::Tmrope {
        per_second,
        seconds_per_chunk,
    } = c.positions
    else {
        return vec![(true, video), (false, sound)];
    };
    let chunk = (per_second * seconds_per_chunk).trunc();
    let cells = video / grid[0].max(1);
    let times: Vec<f64> = (0..grid[0])
        .flat_map(|step| std::iter::repeat_n(step as f64 * seconds * per_second, cells))
        .collect();
    let indices: Vec<f64> = (0..sound).map(|i| i as f64).collect();
    let boundary = |k: usize| k as f64 * chunk;
    let runs = interleave(&chunk_ends(&times, boundary), &chunk_ends(&indices, boundary));
    runs.into_iter()
        .map(|(video, range)| (video, range.len()))
        .collect()
}
