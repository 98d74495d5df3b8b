//! How media are read, and what a conversation will cost, from the files' headers.

mod budget;

use std::path::Path;

use outro_media::{Kind, MAX_SECONDS, MediaInfo, Note, NoteKind, SAMPLE_RATE, Sampling, VideoInfo};

use crate::error::{Error, PromptTokens, Result};
use crate::prompt::chat::{MediaFile, Part};
use crate::prompt::expand::Chunk;
use crate::prompt::preprocessor::Processor;
use crate::spec::config::{AudioProjector, Config};

/// How media are read.
#[derive(Clone, Debug)]
pub struct MediaOptions {
    /// Which frames of a video are taken; `start` and `end` also cut its sound, and sound files.
    pub sampling: Sampling,
    /// Most pixels of a frame and of an image; `None` is the processors' own limit.
    pub max_pixels: Option<usize>,
    /// Most tokens of a video's frames: they get fewer pixels, down to the fewest that the family has, then there are fewer of
    /// them, and a note says so. `None` is no limit.
    pub max_video_tokens: Option<usize>,
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
            max_video_tokens: None,
            audio_in_video: true,
            media: outro_media::Options::default(),
        }
    }
}

/// One medium before decoding.
#[derive(Clone, Debug)]
pub struct MediaPlan {
    /// The file; of bytes it is there as long as this.
    pub file: MediaFile,
    /// What its header says.
    pub info: MediaInfo,
    /// What is looked at; of an image one step of time without numbers of frames, of sound nothing.
    pub view: VideoPlan,
    /// Whether its sound is used.
    pub uses_audio: bool,
    /// Seconds of that sound. From the header: the decoded length may differ a little, and where the header has none the
    /// picture's is taken.
    pub seconds: f64,
    /// Mel frames of that sound.
    pub mel_frames: usize,
    /// Image or video tokens.
    pub visual_tokens: usize,
    /// Audio tokens.
    pub audio_tokens: usize,
    /// How it stands in the prompt.
    pub chunk: Chunk,
}

impl MediaPlan {
    /// Samples of its sound.
    fn samples(&self) -> usize {
        samples(self.seconds)
    }

    /// What a caller said to get it.
    pub(crate) fn part(&self) -> Part {
        let file = self.file.clone();
        match self.chunk {
            Chunk::Image { .. } => Part::Image(file),
            Chunk::Video { .. } | Chunk::Frames { .. } => Part::Video(file),
            Chunk::Audio { .. } => Part::Audio(file),
        }
    }
}

/// What is looked at of a video.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VideoPlan {
    /// Frames to take, by number in presentation order.
    pub indices: Vec<usize>,
    /// Height and width at which they are decoded: some processors resize twice.
    pub first_size: [usize; 2],
    /// Height and width after resizing.
    pub size: [usize; 2],
    /// Patches along time, height and width.
    pub grid: [usize; 3],
    /// Time of each grid step, in seconds.
    pub seconds: Vec<f64>,
    /// Seconds that the processor says a grid step lasts.
    pub second_per_grid: f64,
}

impl VideoPlan {
    /// How it stands in the prompt, with so many tokens of sound; `mask` is empty where all its tokens are there.
    pub(crate) fn chunk(&self, c: &Config, sound: Option<usize>, mask: Vec<bool>) -> Chunk {
        if c.frames.timestamps.is_some() {
            return Chunk::Frames {
                grid: self.grid,
                seconds: self.seconds.clone(),
                kept: mask,
            };
        }
        Chunk::Video {
            grid: self.grid,
            second_per_grid: self.second_per_grid,
            sound,
        }
    }
}

/// What a conversation will cost, before anything is decoded.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The media in prompt order.
    pub items: Vec<MediaPlan>,
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
    pub notes: Vec<Note>,
}

impl Plan {
    /// Refuses a prompt that does not fit the model.
    ///
    /// # Errors
    /// [`Error::TokenBudget`] with the tokens by kind.
    pub fn check(&self) -> Result<()> {
        let tokens = PromptTokens {
            total: self.prompt_tokens,
            text: self.text_tokens.unwrap_or(0),
            image: self.image_tokens,
            video: self.video_tokens,
            audio: self.audio_tokens,
        };
        tokens.fit(self.limit)
    }
}

/// Plans media from their headers; knows a model's configuration and processor, not its words.
pub(crate) struct Planner<'a> {
    pub(crate) config: &'a Config,
    pub(crate) processor: &'a Processor,
}

impl Planner<'_> {
    /// Frames, sizes and tokens of media.
    ///
    /// # Errors
    /// Files that cannot be read or that this model cannot take.
    pub(crate) fn media<'a>(
        &self,
        parts: impl Iterator<Item = &'a Part>,
        options: &MediaOptions,
    ) -> Result<Plan> {
        let parts: Vec<&Part> = parts.collect();
        let alone = one_image(parts.iter().copied());
        let (mut items, mut notes) = (Vec::new(), Vec::new());
        for part in parts {
            items.push(self.item(part, alone, options, &mut notes)?);
        }
        Ok(self.sum(items, notes))
    }

    /// [`Planner::media`] of a file that was probed, as what it is.
    pub(crate) fn probed(&self, info: MediaInfo, options: &MediaOptions) -> Result<Plan> {
        let mut notes = Vec::new();
        self.takes(info.kind, &info.path)?;
        let item = self.medium(info.kind, info, true, options, &mut notes)?;
        Ok(self.sum(vec![item], notes))
    }

    /// All tokens of media.
    fn sum(&self, items: Vec<MediaPlan>, notes: Vec<Note>) -> Plan {
        let mut plan = Plan {
            items,
            text_tokens: None,
            image_tokens: 0,
            video_tokens: 0,
            audio_tokens: 0,
            prompt_tokens: 0,
            limit: self.config.text.max_positions,
            notes,
        };
        self.count_together(&mut plan.items);
        for item in &plan.items {
            let [image, video, audio] = item.chunk.tokens(self.config);
            plan.image_tokens = plan.image_tokens.saturating_add(image);
            plan.video_tokens = plan.video_tokens.saturating_add(video);
            plan.audio_tokens = plan.audio_tokens.saturating_add(audio);
        }
        plan.prompt_tokens = plan
            .image_tokens
            .saturating_add(plan.video_tokens)
            .saturating_add(plan.audio_tokens);
        plan
    }

    /// Sounds anew, where how long one is depends on the longest.
    fn count_together(&self, items: &mut [MediaPlan]) {
        let longest = items.iter().map(MediaPlan::samples).max().unwrap_or(0);
        let Some(tower) = &self.config.audio else { return };
        for item in items {
            item.mel_frames = tower.mel_frames(item.samples(), longest);
            item.audio_tokens = tower.tokens(item.mel_frames);
            match &mut item.chunk {
                Chunk::Audio { tokens }
                | Chunk::Video {
                    sound: Some(tokens), ..
                } => *tokens = item.audio_tokens,
                _ => {}
            }
        }
    }

    /// `alone` is whether an image is the only one.
    fn item(
        &self,
        part: &Part,
        alone: bool,
        options: &MediaOptions,
        notes: &mut Vec<Note>,
    ) -> Result<MediaPlan> {
        let (path, kind) = match part {
            Part::Image(p) => (p, Kind::Image),
            Part::Video(p) => (p, Kind::Video),
            Part::Audio(p) => (p, Kind::Audio),
            Part::Text(_) => return Err(Error::input("prompt", "text is not a medium")),
        };
        self.takes(kind, path)?;
        let info = if kind == Kind::Video {
            outro_media::probe_video(path, &options.media)?
        } else {
            outro_media::probe(path, &options.media)?
        };
        let planned = self.medium(kind, info, alone, options, notes)?;
        Ok(MediaPlan {
            file: path.clone(),
            ..planned
        })
    }

    /// Refuses what the model has no tower for, before the file is opened.
    fn takes(&self, kind: Kind, path: &Path) -> Result<()> {
        let takes = match kind {
            Kind::Image | Kind::Video => self.config.vision.is_some(),
            Kind::Audio => self.config.tokens.audio.is_some(),
        };
        if takes {
            return Ok(());
        }
        let problem = format!("a {} model cannot take this kind of file", self.config.model_type);
        Err(Error::unsupported(path.to_path_buf(), "", problem))
    }

    fn medium(
        &self,
        kind: Kind,
        info: MediaInfo,
        alone: bool,
        options: &MediaOptions,
        notes: &mut Vec<Note>,
    ) -> Result<MediaPlan> {
        let item = match kind {
            Kind::Image => self.image(info, alone, options)?,
            Kind::Video => self.video_and_track(info, options, notes)?,
            Kind::Audio => self.sound(info, options, notes)?,
        };
        let relevant = |n: &&Note| item.uses_audio || !n.kind.is_about_sound();
        notes.extend(item.info.notes.iter().filter(relevant).cloned());
        Ok(item)
    }

    fn image(&self, info: MediaInfo, alone: bool, options: &MediaOptions) -> Result<MediaPlan> {
        let v = picture(&info)?;
        let (size, grid) = self
            .processor
            .image_grid(v.height, v.width, alone, options.max_pixels)?;
        let chunk = Chunk::Image {
            grid,
            size: [v.height, v.width],
        };
        let view = VideoPlan {
            size,
            grid,
            ..VideoPlan::default()
        };
        Ok(MediaPlan {
            file: info.path.clone().into(),
            info,
            view,
            uses_audio: false,
            seconds: 0.0,
            mel_frames: 0,
            visual_tokens: chunk.tokens(self.config)[0],
            audio_tokens: 0,
            chunk,
        })
    }

    fn video_and_track(
        &self,
        info: MediaInfo,
        options: &MediaOptions,
        notes: &mut Vec<Note>,
    ) -> Result<MediaPlan> {
        let (view, whole) = self.within(picture(&info)?, options)?;
        if let (Some(whole), Some(most)) = (&whole, options.max_video_tokens) {
            notes.push(self.reduced(&info.path, most, [&view, whole]));
        }
        let listens = options.audio_in_video && self.config.audio.is_some();
        let uses_audio = listens && info.audio.is_some();
        if listens && !uses_audio {
            notes.push(silent(&info.path));
        }
        let (seconds, mel_frames, audio_tokens) = if uses_audio {
            self.heard(&info, options, notes)
        } else {
            (0.0, 0, 0)
        };
        let sound = Some(audio_tokens).filter(|n| *n > 0);
        let chunk = view.chunk(self.config, sound, Vec::new());
        Ok(MediaPlan {
            file: info.path.clone().into(),
            info,
            view,
            uses_audio,
            seconds,
            mel_frames,
            visual_tokens: chunk.tokens(self.config)[1],
            audio_tokens,
            chunk,
        })
    }

    fn sound(&self, info: MediaInfo, options: &MediaOptions, notes: &mut Vec<Note>) -> Result<MediaPlan> {
        if info.audio.is_none() {
            return Err(Error::input(info.path.display().to_string(), "holds no sound"));
        }
        let (seconds, mel_frames, audio_tokens) = self.heard(&info, options, notes);
        Ok(MediaPlan {
            file: info.path.clone().into(),
            info,
            view: VideoPlan::default(),
            uses_audio: true,
            seconds,
            mel_frames,
            visual_tokens: 0,
            audio_tokens,
            chunk: Chunk::Audio { tokens: audio_tokens },
        })
    }

    /// Seconds, mel frames and tokens of a file's sound, as if it were alone.
    fn heard(&self, info: &MediaInfo, options: &MediaOptions, notes: &mut Vec<Note>) -> (f64, usize, usize) {
        let s = &options.sampling;
        let (from, to) = (s.start.unwrap_or(0.0).max(0.0), s.end.unwrap_or(f64::INFINITY));
        // A header without a duration does not say that there is no sound.
        let picture = info.video.as_ref().map_or(0.0, |v| v.duration);
        let stated = info.audio.as_ref().map(|a| a.duration).filter(|d| *d > 0.0);
        let seconds = (to.min(stated.unwrap_or(picture)) - from).max(0.0);
        let Some(tower) = &self.config.audio else {
            return (seconds, 0, 0);
        };
        if seconds > MAX_SECONDS as f64 && tower.projector == AudioProjector::AvgPool2 {
            let problem = format!(
                "only the first {MAX_SECONDS} seconds of the sound are heard (the processor's limit)"
            );
            notes.push(Note::new(NoteKind::Cut, &info.path, problem));
        }
        let samples = samples(seconds);
        let mel_frames = tower.mel_frames(samples, samples);
        (seconds, mel_frames, tower.tokens(mel_frames))
    }

    /// What is looked at of a video.
    ///
    /// # Errors
    /// A part of it that holds too few frames, pictures that are too narrow, and a limit on tokens below the fewest.
    pub(crate) fn video(&self, v: &VideoInfo, options: &MediaOptions) -> Result<VideoPlan> {
        Ok(self.within(v, options)?.0)
    }

    /// [`Planner::video`] without a limit on tokens.
    fn unbounded(&self, v: &VideoInfo, options: &MediaOptions) -> Result<VideoPlan> {
        let p = &self.processor.patches;
        let indices = options.sampling.indices(v)?;
        let count = indices.len();
        let [first_size, (height, width)] =
            self.processor
                .video_sizes(v.height, v.width, count, options.max_pixels)?;
        let (first, last) = (indices.first().copied(), indices.last().copied().unwrap_or(0));
        let at = |i: usize| indices.get(i).copied().unwrap_or(last) as f64 / v.fps;
        // The middle between the first and the last frame of a patch.
        let middle = |i| f64::midpoint(at(i), at(i + p.temporal - 1));
        let rate = match first {
            Some(first) if self.config.frames.timed => {
                let seconds = (last - first + 1) as f64 / v.fps;
                count as f64 / seconds
            }
            // Whatever the limits on frames made of it, as the processors do.
            _ => options.sampling.fps,
        };
        Ok(VideoPlan {
            first_size: first_size.into(),
            size: [height, width],
            grid: [count.div_ceil(p.temporal), height / p.patch, width / p.patch],
            seconds: (0..count).step_by(p.temporal).map(middle).collect(),
            second_per_grid: p.temporal as f64 / rate,
            indices,
        })
    }
}

/// Whether there is one image: only then is it looked at in parts, by models that do so.
pub(crate) fn one_image<'a>(parts: impl Iterator<Item = &'a Part>) -> bool {
    parts.filter(|p| matches!(p, Part::Image(_))).count() == 1
}

fn samples(seconds: f64) -> usize {
    (seconds * f64::from(SAMPLE_RATE)).round() as usize
}

fn picture(info: &MediaInfo) -> Result<&VideoInfo> {
    let none = || Error::input(info.path.display().to_string(), "holds no picture");
    info.video.as_ref().ok_or_else(none)
}

pub(crate) fn silent(path: &Path) -> Note {
    Note::new(NoteKind::NoSound, path, "has no sound; only its frames are used")
}
