//! How media are read, and what a conversation will cost, from the files' headers.

use outro_media::{MediaInfo, Sampling};

use crate::chat::Part;
use crate::error::{Error, Result};
use crate::prompt::Medium;

/// How media are read.
#[derive(Clone, Debug)]
pub struct MediaOptions {
    /// Which frames of a video are taken; `start` and `end` also cut its sound, and sound files.
    pub sampling: Sampling,
    /// Most pixels of a frame and of an image; `None` is the processors' own limit.
    pub max_pixels: Option<usize>,
    /// Whether a video's sound is used.
    pub audio_in_video: bool,
    /// Decoder, deadline and worker.
    pub media: outro_media::Options,
}

impl Default for MediaOptions {
    fn default() -> Self {
        Self {
            sampling: Sampling::default(),
            max_pixels: None,
            audio_in_video: true,
            media: outro_media::Options::default(),
        }
    }
}

/// One medium before decoding.
#[derive(Clone, Debug)]
pub struct PlannedItem {
    /// What its header says.
    pub info: MediaInfo,
    /// Frames that will be taken, by number in presentation order; empty for images and sound.
    pub indices: Vec<usize>,
    /// Height and width after resizing; zeros for sound.
    pub size: [usize; 2],
    /// Patches along time, height and width; zeros for sound.
    pub grid: [usize; 3],
    /// Seconds of sound that will be used; 0 for none. From the header: the decoded length may differ a little.
    pub seconds: f64,
    /// Mel frames of that sound.
    pub mel_frames: usize,
    /// Image or video tokens.
    pub visual_tokens: usize,
    /// Audio tokens.
    pub audio_tokens: usize,
    /// How it stands in the prompt.
    pub medium: Medium,
}

impl PlannedItem {
    /// What a caller said to get it.
    pub(crate) fn part(&self) -> Part {
        let path = self.info.path.clone();
        match self.medium {
            Medium::Image { .. } => Part::Image(path),
            Medium::Video { .. } | Medium::Frames { .. } => Part::Video(path),
            Medium::Audio { .. } => Part::Audio(path),
        }
    }
}

/// What a conversation will cost, before anything is decoded.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The media in prompt order.
    pub items: Vec<PlannedItem>,
    /// Tokens of words, roles and delimiters; `None` without a tokenizer.
    pub text_tokens: Option<usize>,
    /// Tokens of all images.
    pub image_tokens: usize,
    /// Tokens of all videos.
    pub video_tokens: usize,
    /// Tokens of all sound.
    pub audio_tokens: usize,
    /// All tokens; without a tokenizer those of the media only.
    pub prompt_tokens: usize,
    /// The most that the model takes.
    pub limit: usize,
    /// Things that the user should know.
    pub notes: Vec<String>,
}

impl Plan {
    /// Refuses a prompt that does not fit the model.
    ///
    /// # Errors
    /// [`Error::TokenBudget`] with the tokens by kind and the flags that make them fewer.
    pub fn check(&self) -> Result<()> {
        if self.prompt_tokens <= self.limit {
            return Ok(());
        }
        let mut kinds = Vec::new();
        let mut help = Vec::new();
        for (tokens, name, flags) in [
            (
                self.video_tokens,
                "video",
                "--fps, --frames, --max-pixels or --start/--end",
            ),
            (self.image_tokens, "image", "--max-pixels"),
            (self.audio_tokens, "audio", "--start/--end"),
            (self.text_tokens.unwrap_or(0), "text", "a shorter question"),
        ] {
            if tokens > 0 {
                kinds.push(format!("{tokens} {name}"));
                help.push((tokens, flags));
            }
        }
        help.sort_by_key(|h| std::cmp::Reverse(h.0));
        let flags = help.first().map_or("", |h| h.1);
        Err(Error::TokenBudget {
            tokens: self.prompt_tokens,
            limit: self.limit,
            breakdown: format!("{}; lower it with {flags}", kinds.join(" + ")),
        })
    }
}
