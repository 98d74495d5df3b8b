//! From a conversation with media files to model inputs, without the model.
//!
//! [`Preparer::plan`] does the arithmetic from the files' headers; [`Preparer::load_media`] decodes;
//! [`Preparer::assemble`] puts a question to decoded media, so that many questions cost one decoding.

use std::path::{Path, PathBuf};

use outro_media::{FrameLimits, Kind, PatchConfig, Sampling, VideoInfo};
use serde_json::Value;

use crate::audio_tokens;
use crate::chat::{Conversation, MediaTokens, Part, Template};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::inputs::{AudioFeatures, Inputs, Pixels};
pub use crate::plan::{Plan, PlannedItem};
use crate::positions::{Span, spans};
use crate::prompt::{Medium, expand};
use crate::tokenizer::{Tokenizer, read_json};

/// Samples between mel frames, at 16,000 a second.
const HOP: usize = 160;
/// The feature extractor keeps 300 seconds.
const MAX_MEL: usize = 30_000;

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

/// What is being done; for progress displays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A video's frames are being decoded.
    Frames {
        /// The file.
        path: PathBuf,
        /// How many frames.
        frames: usize,
    },
    /// Frames are being resized and cut to patches.
    Patches {
        /// The file.
        path: PathBuf,
        /// How many patches.
        patches: usize,
    },
    /// An image is being decoded.
    Image {
        /// The file.
        path: PathBuf,
    },
    /// Sound is being decoded and its spectrogram taken.
    Audio {
        /// The file.
        path: PathBuf,
    },
}

/// Decoded media, ready for any number of questions.
#[derive(Clone, Debug, Default)]
pub struct Media {
    /// The files, in prompt order.
    pub parts: Vec<Part>,
    /// How each stands in the prompt.
    pub items: Vec<Medium>,
    /// All tensors; `input_ids` is empty.
    pub inputs: Inputs,
    /// Things that the user should know.
    pub notes: Vec<String>,
}

/// A question ready for the model.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the model's forward takes.
    pub inputs: Inputs,
    /// What each row of the prompt is.
    pub spans: Vec<Span>,
    /// Things that the user should know.
    pub notes: Vec<String>,
}

/// Everything about a checkpoint that preparation needs; no weights.
pub struct Preparer {
    config: Config,
    tokenizer: Option<Tokenizer>,
    template: Template,
    patches: PatchConfig,
    image_min: usize,
    image_max: usize,
}

impl Preparer {
    /// Reads config.json and, where they are, the tokenizer, chat template and preprocessor_config.json of `dir`.
    ///
    /// # Errors
    /// Files that are there and cannot be used, by file and field.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = Config::load(dir)?;
        let path = dir.join("preprocessor_config.json");
        let settings = read_json(&path)?.unwrap_or(Value::Null);
        let mut patches = PatchConfig::default();
        if let Some(v) = &config.vision {
            (patches.patch, patches.temporal, patches.merge) = (v.patch, v.temporal, v.merge);
        }
        let number = |key: &str, default: usize| match settings.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(v) => v
                .as_u64()
                .filter(|n| (1..=1 << 40).contains(n))
                .map(|n| n as usize)
                .ok_or_else(|| Error::config(&path, key, format!("is {v}, must be a whole number above 0"))),
        };
        for (key, have) in [
            ("patch_size", patches.patch),
            ("temporal_patch_size", patches.temporal),
            ("merge_size", patches.merge),
        ] {
            let given = number(key, have)?;
            if config.vision.is_some() && given != have {
                return Err(Error::config(
                    &path,
                    key,
                    format!("is {given}, config.json says {have}"),
                ));
            }
        }
        for (key, place) in [("image_mean", &mut patches.mean), ("image_std", &mut patches.std)] {
            let Some(value) = settings.get(key).filter(|v| !v.is_null()) else {
                continue;
            };
            let list: Option<Vec<f32>> = value
                .as_array()
                .and_then(|l| l.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
            let valid = list.and_then(|l| <[f32; 3]>::try_from(l).ok());
            *place = valid
                .filter(|l| {
                    l.iter().all(|x| x.is_finite()) && (key == "image_mean" || l.iter().all(|x| *x > 0.0))
                })
                .ok_or_else(|| Error::config(&path, key, format!("is {value}, must be three numbers")))?;
        }
        let tokenizer = Tokenizer::open(dir)?;
        let template = Template::open(dir, &config.model_type)?;
        let (image_min, image_max) = (
            number("min_pixels", 4 * 28 * 28)?,
            number("max_pixels", 16384 * 28 * 28)?,
        );
        Ok(Self {
            config,
            tokenizer,
            template,
            patches,
            image_min,
            image_max,
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tokenizer, if the checkpoint has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Frames, sizes and tokens of a conversation, from the files' headers. Refuses nothing for its length: see
    /// [`Plan::check`].
    ///
    /// # Errors
    /// Files that cannot be read or that this model cannot take.
    pub fn plan(&self, conversation: &Conversation, options: &MediaOptions) -> Result<Plan> {
        let mut plan = self.plan_media(conversation.media(), options)?;
        let media: Vec<Medium> = plan.items.iter().map(|i| i.medium).collect();
        if self.tokenizer.is_some() {
            let total = self.ids(conversation, &media)?.len();
            plan.text_tokens = Some(total.saturating_sub(plan.prompt_tokens));
            plan.prompt_tokens = total;
        }
        Ok(plan)
    }

    /// The media's part of [`Preparer::plan`].
    fn plan_media<'a>(&self, parts: impl Iterator<Item = &'a Part>, options: &MediaOptions) -> Result<Plan> {
        let mut plan = Plan {
            items: Vec::new(),
            text_tokens: None,
            image_tokens: 0,
            video_tokens: 0,
            audio_tokens: 0,
            prompt_tokens: 0,
            limit: self.config.text.max_positions,
            notes: Vec::new(),
        };
        for part in parts {
            let item = self.plan_item(part, options, &mut plan.notes)?;
            let [image, video, audio, _] = item.medium.tokens(&self.config);
            plan.image_tokens = plan.image_tokens.saturating_add(image);
            plan.video_tokens = plan.video_tokens.saturating_add(video);
            plan.audio_tokens = plan.audio_tokens.saturating_add(audio);
            plan.items.push(item);
        }
        plan.prompt_tokens = plan
            .image_tokens
            .saturating_add(plan.video_tokens)
            .saturating_add(plan.audio_tokens);
        Ok(plan)
    }

    fn plan_item(&self, part: &Part, options: &MediaOptions, notes: &mut Vec<String>) -> Result<PlannedItem> {
        let (path, wanted) = match part {
            Part::Image(p) => (p, Kind::Image),
            Part::Video(p) => (p, Kind::Video),
            Part::Audio(p) => (p, Kind::Audio),
            Part::Text(_) => return Err(Error::input("prompt", "text is not a medium")),
        };
        let refuse = |problem: String| Error::input(path.display().to_string(), problem);
        if wanted == Kind::Audio && self.config.tokens.audio.is_none()
            || wanted != Kind::Audio && self.config.vision.is_none()
        {
            return Err(refuse(format!(
                "a {} model cannot take this kind of file",
                self.config.model_type
            )));
        }
        let info = outro_media::probe(path, &options.media)?;
        let mut item = PlannedItem {
            info,
            indices: Vec::new(),
            size: [0; 2],
            grid: [0; 3],
            seconds: 0.0,
            mel_frames: 0,
            visual_tokens: 0,
            audio_tokens: 0,
            medium: Medium::Audio { tokens: 0 },
        };
        if wanted != Kind::Audio {
            let video = item
                .info
                .video
                .clone()
                .ok_or_else(|| refuse("holds no picture".into()))?;
            self.plan_frames(&mut item, &video, wanted == Kind::Video, options)?;
        }
        let hears = wanted == Kind::Audio
            || wanted == Kind::Video && options.audio_in_video && self.config.audio.is_some();
        if let Some(audio) = item.info.audio.clone().filter(|_| hears) {
            let s = &options.sampling;
            let (from, to) = (s.start.unwrap_or(0.0).max(0.0), s.end.unwrap_or(f64::INFINITY));
            item.seconds = (to.min(audio.duration) - from).max(0.0);
            item.mel_frames = ((item.seconds * 16_000.0).round() as usize)
                .div_ceil(HOP)
                .min(MAX_MEL);
            item.audio_tokens = audio_tokens(item.mel_frames);
            if item.seconds > 300.0 {
                let problem = "only the first 300 seconds of the sound are heard (the processor's limit)";
                notes.push(format!(
                    "{}: {problem}; use --start/--end for another part",
                    path.display()
                ));
            }
        } else if wanted == Kind::Audio {
            return Err(refuse("holds no sound".into()));
        } else if hears && wanted == Kind::Video {
            notes.push(silent(path));
        }
        item.medium = match wanted {
            Kind::Audio => Medium::Audio {
                tokens: item.audio_tokens,
            },
            Kind::Image => Medium::Image { grid: item.grid },
            Kind::Video => Medium::Video {
                grid: item.grid,
                second_per_grid: self.second_per_grid(options),
                sound: Some(item.audio_tokens).filter(|n| *n > 0),
            },
        };
        let [image, video, _, _] = item.medium.tokens(&self.config);
        item.visual_tokens = image + video;
        Ok(item)
    }

    fn plan_frames(
        &self,
        item: &mut PlannedItem,
        v: &VideoInfo,
        video: bool,
        options: &MediaOptions,
    ) -> Result<()> {
        let p = &self.patches;
        let factor = p.patch * p.merge;
        let ((height, width), steps) = if video {
            item.indices = options.sampling.indices(v)?;
            let mut limits = FrameLimits {
                factor,
                ..FrameLimits::default()
            };
            if let Some(max) = options.max_pixels {
                limits.max_pixels = max;
                limits.min_pixels = limits.min_pixels.min(max);
            }
            let count = item.indices.len();
            (
                outro_media::video_size(v.height, v.width, count, &limits)?,
                count.div_ceil(p.temporal),
            )
        } else {
            let max = options.max_pixels.unwrap_or(self.image_max).min(self.image_max);
            (
                outro_media::image_size(v.height, v.width, factor, self.image_min.min(max), max)?,
                1,
            )
        };
        item.size = [height, width];
        item.grid = [steps, height / p.patch, width / p.patch];
        Ok(())
    }

    /// The processor's value: from the rate that was asked for, whatever the frame limits made of it.
    fn second_per_grid(&self, options: &MediaOptions) -> f64 {
        self.patches.temporal as f64 / options.sampling.fps
    }

    /// Decodes media. Their tokens are counted from the headers first.
    ///
    /// # Errors
    /// Media that do not fit the model (before any decoding), and files that cannot be decoded.
    pub fn load_media(
        &self,
        parts: &[Part],
        options: &MediaOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Media> {
        let parts: Vec<Part> = parts
            .iter()
            .filter(|p| !matches!(p, Part::Text(_)))
            .cloned()
            .collect();
        let plan = self.plan_media(parts.iter(), options)?;
        plan.check()?;
        let mut media = Media {
            parts,
            notes: plan.notes,
            ..Media::default()
        };
        for item in plan.items {
            let path = item.info.path.clone();
            match item.medium {
                Medium::Image { .. } => {
                    progress(Progress::Image { path: path.clone() });
                    let picture = outro_media::read_image(&path, &options.media)?;
                    // The decoder may know better than the header (orientation).
                    let factor = self.patches.patch * self.patches.merge;
                    let max = options.max_pixels.unwrap_or(self.image_max).min(self.image_max);
                    let (height, width) = outro_media::image_size(
                        picture.height,
                        picture.width,
                        factor,
                        self.image_min.min(max),
                        max,
                    )?;
                    let patches = outro_media::patches(
                        &outro_media::resize_image(&picture, height, width),
                        &self.patches,
                    )?;
                    let place = media.inputs.pixel_values.get_or_insert_with(Pixels::default);
                    place.push(patches.grid_thw, patches.cols, &patches.data);
                    media.items.push(Medium::Image {
                        grid: patches.grid_thw,
                    });
                }
                Medium::Video {
                    second_per_grid,
                    sound,
                    ..
                } => {
                    progress(Progress::Frames {
                        path: path.clone(),
                        frames: item.indices.len(),
                    });
                    let size = (item.size[0], item.size[1]);
                    let frames = outro_media::read_frames_sized(&path, &item.indices, size, &options.media)?;
                    progress(Progress::Patches {
                        path: path.clone(),
                        patches: item.grid.iter().product(),
                    });
                    let patches = outro_media::patches(&frames, &self.patches)?;
                    drop(frames);
                    let place = media
                        .inputs
                        .pixel_values_videos
                        .get_or_insert_with(Pixels::default);
                    place.push(patches.grid_thw, patches.cols, &patches.data);
                    media.inputs.second_per_grid.push(second_per_grid as f32);
                    let sound = if sound.is_some() {
                        let tokens = hear(&path, options, &mut media.inputs, progress)?;
                        if tokens == 0 {
                            media.notes.push(silent(&path));
                        }
                        Some(tokens).filter(|n| *n > 0)
                    } else {
                        None
                    };
                    media.inputs.use_audio_in_video |= sound.is_some();
                    media.items.push(Medium::Video {
                        grid: patches.grid_thw,
                        second_per_grid,
                        sound,
                    });
                }
                Medium::Audio { .. } => {
                    let tokens = hear(&path, options, &mut media.inputs, progress)?;
                    if tokens == 0 {
                        let problem = "its sound is shorter than 30 ms, too short for one token";
                        return Err(Error::input(path.display().to_string(), problem));
                    }
                    media.items.push(Medium::Audio { tokens });
                }
            }
        }
        Ok(media)
    }

    /// The prompt's token ids, placeholders expanded; empty without a tokenizer.
    ///
    /// # Errors
    /// An empty question, a failing template, and questions that spell placeholders.
    pub fn ids(&self, conversation: &Conversation, media: &[Medium]) -> Result<Vec<u32>> {
        let Some(tokenizer) = &self.tokenizer else {
            return Ok(Vec::new());
        };
        if conversation.question().trim().is_empty() {
            return Err(Error::input("question", "empty; ask something"));
        }
        let t = &self.config.tokens;
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.name(id)).unwrap_or_default();
        let block = |start, id: Option<u32>, end| id.map(|id| name(start) + &name(Some(id)) + &name(end));
        let tokens = MediaTokens {
            image: block(t.vision_start, t.image, t.vision_end),
            video: block(t.vision_start, t.video, t.vision_end),
            audio: block(t.audio_start, t.audio, t.audio_end),
        };
        let ids = tokenizer.encode(&self.template.render(conversation, &tokens)?)?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.config.text.vocab) {
            let problem = format!(
                "gives the id {id}, the model has {}; they do not belong together",
                self.config.text.vocab
            );
            return Err(Error::input("tokenizer", problem));
        }
        expand(&self.config, &ids, media)
    }

    /// Puts a question to decoded media. Cheap: tokenizes and copies.
    ///
    /// # Errors
    /// A conversation about other media, and a prompt longer than the model takes.
    pub fn assemble(&self, media: &Media, conversation: &Conversation) -> Result<Prepared> {
        if !conversation.media().eq(media.parts.iter()) {
            return Err(Error::input(
                "media",
                "the conversation is not about the media that were loaded",
            ));
        }
        let input_ids = self.ids(conversation, &media.items)?;
        let inputs = Inputs {
            input_ids,
            ..media.inputs.clone()
        };
        inputs.validate(&self.config)?;
        let spans = spans(&self.config, &inputs)?;
        Ok(Prepared {
            inputs,
            spans,
            notes: media.notes.clone(),
        })
    }

    /// Plan, decoding and assembly of one question.
    ///
    /// # Errors
    /// As [`Preparer::load_media`] and [`Preparer::assemble`].
    pub fn prepare(
        &self,
        conversation: &Conversation,
        options: &MediaOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Prepared> {
        self.plan(conversation, options)?.check()?;
        let parts: Vec<Part> = conversation.media().cloned().collect();
        self.assemble(&self.load_media(&parts, options, progress)?, conversation)
    }
}

fn silent(path: &Path) -> String {
    format!("{}: has no sound; only its frames are used", path.display())
}

/// Reads a file's sound into `inputs`; the tokens it gives. Too little sound for a token is left out.
fn hear(
    path: &Path,
    options: &MediaOptions,
    inputs: &mut Inputs,
    progress: &mut dyn FnMut(Progress),
) -> Result<usize> {
    progress(Progress::Audio { path: path.into() });
    let s = &options.sampling;
    let samples = outro_media::read_audio(path, s.start, s.end, &options.media)?;
    let mel = outro_media::log_mel(&samples);
    let tokens = audio_tokens(mel.frames);
    if tokens > 0 {
        let bins = mel.data.len() / mel.frames;
        inputs
            .audio
            .get_or_insert_with(AudioFeatures::default)
            .push(bins, mel.frames, &mel.data);
    }
    Ok(tokens)
}
