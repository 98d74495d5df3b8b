//! From a conversation with media files to model inputs, without the model.
//!
//! [`Preparer::plan`] does the arithmetic from the files' headers; [`Preparer::load_media`] decodes;
//! [`Preparer::assemble`] puts a question to decoded media, so that many questions cost one decoding.

mod video;

use std::path::{Path, PathBuf};

use outro_media::{Frames, MAX_SECONDS, MediaInfo, Note, PatchConfig, Sound, VideoInfo};

use crate::error::{Error, Result};
use crate::prompt::chat::{Conversation, MediaTokens, Part, Template};
use crate::prompt::expand::{Chunk, expand, lay_out, write_timestamps};
use crate::prompt::inputs::{AudioFeatures, Inputs, Pixels};
pub use crate::prompt::plan::{MediaOptions, MediaPlan, Plan, VideoPlan};
use crate::prompt::plan::{Planner, one_image};
use crate::prompt::positions::Layout;
use crate::prompt::preprocessor::{self, Processor};
use crate::prompt::tokenizer::Tokenizer;
use crate::spec::config::{AudioProjector, Config};
use crate::spec::generation::{GenerationConfig, GenerationFile};
use crate::spec::settings::Settings;
use crate::spec::shapes;
pub(crate) use video::TakePatches;

/// What is being done; for progress displays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaProgress {
    /// A video's frames are being decoded, resized and cut to patches.
    Frames {
        /// The file.
        path: PathBuf,
        /// How many frames.
        frames: usize,
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
pub struct DecodedMedia {
    /// The files, in prompt order.
    pub parts: Vec<Part>,
    /// How each stands in the prompt.
    pub items: Vec<Chunk>,
    /// All tensors; `input_ids` is empty.
    pub inputs: Inputs,
    /// What was taken of each file; empty for media that are no files.
    pub taken: Vec<MediaPlan>,
    /// Things that the user should know.
    pub notes: Vec<Note>,
}

/// A question ready for the model.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the model's forward takes.
    pub inputs: Inputs,
    /// Things that the user should know.
    pub notes: Vec<Note>,
}

/// Everything about a checkpoint that preparation needs; no weights.
pub struct Preparer {
    pub(crate) config: Config,
    pub(crate) tokenizer: Option<Tokenizer>,
    template: Template,
    pub(crate) processor: Processor,
    settings: Settings,
    generation: GenerationFile,
}

impl Preparer {
    /// Reads config.json and, where they are, the tokenizer, chat template, preprocessor_config.json and outro.json of
    /// `dir`.
    ///
    /// # Errors
    /// Files that are there and cannot be used, by file and field.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::of(Config::load(dir)?, dir)
    }

    /// [`Preparer::open`] with a configuration that the caller has read ([`Config::load_among`]).
    ///
    /// # Errors
    /// As [`Preparer::open`].
    pub fn of(config: Config, dir: &Path) -> Result<Self> {
        let processor = preprocessor::load(dir, &config)?;
        let generation = GenerationFile::read(dir)?;
        let tokenizer = Tokenizer::of(dir, &generation)?;
        let template = Template::open(dir, &config)?;
        Ok(Self {
            config,
            tokenizer,
            template,
            processor,
            settings: Settings::load(dir)?,
            generation,
        })
    }

    /// By the rules of a published model ([`crate::shapes`]) that is not at hand: without its words, of which it has no
    /// tokenizer.
    ///
    /// # Errors
    /// An unknown name.
    pub fn published(name: &str) -> Result<Self> {
        let config = shapes::config(name)?;
        Ok(Self {
            processor: preprocessor::usual(&config)?,
            tokenizer: None,
            template: Template::usual(Path::new(name), &config),
            config,
            settings: Settings::default(),
            generation: GenerationFile::default(),
        })
    }

    /// With other settings than those of the model's outro.json.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// What the checkpoint's generation_config.json says of how tokens are chosen.
    ///
    /// # Errors
    /// A contradictory value, by field.
    pub fn generation(&self) -> Result<GenerationConfig> {
        self.generation.config()
    }

    /// What the model's outro.json says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How this model's media are read where nobody says otherwise: the defaults, and what outro.json changes.
    pub fn media_options(&self) -> MediaOptions {
        let mut options = MediaOptions {
            sampling: self.processor.sampling.clone(),
            ..MediaOptions::default()
        };
        let own = &self.settings.media;
        options.sampling.fps = own.fps.unwrap_or(options.sampling.fps);
        options.sampling.frames = own.frames;
        options.max_pixels = own.max_pixels;
        options.max_video_tokens = own.max_video_tokens;
        options
    }

    /// Frames, sizes and tokens of a conversation, from the files' headers. Refuses nothing for its length: see
    /// [`Plan::check`].
    ///
    /// # Errors
    /// Files that cannot be read or that this model cannot take.
    pub fn plan(&self, conversation: &Conversation, options: &MediaOptions) -> Result<Plan> {
        self.plan_words(&self.plan_media(conversation.media(), options)?, conversation)
    }

    /// The plan of a conversation about media that were planned: its words are counted, no file is opened.
    ///
    /// # Errors
    /// As [`Preparer::ids`].
    pub fn plan_words(&self, media: &Plan, conversation: &Conversation) -> Result<Plan> {
        let mut plan = media.clone();
        if self.tokenizer.is_some() {
            let media: Vec<Chunk> = plan.items.iter().map(|i| i.chunk.clone()).collect();
            let total = self.ids(conversation, &media)?.len();
            let of_media = plan.image_tokens + plan.video_tokens + plan.audio_tokens;
            plan.text_tokens = Some(total.saturating_sub(of_media));
            plan.prompt_tokens = total;
        }
        Ok(plan)
    }

    /// The media's part of [`Preparer::plan`].
    ///
    /// # Errors
    /// Files that cannot be read or that this model cannot take.
    pub fn plan_media<'a>(
        &self,
        parts: impl Iterator<Item = &'a Part>,
        options: &MediaOptions,
    ) -> Result<Plan> {
        self.planner().media(parts, options)
    }

    /// What [`Preparer::plan_media`] makes of a file that was probed.
    ///
    /// # Errors
    /// A file that this model cannot take.
    pub fn plan_probed(&self, info: MediaInfo, options: &MediaOptions) -> Result<Plan> {
        self.planner().probed(info, options)
    }

    /// What is looked at of a video.
    ///
    /// # Errors
    /// A part of it that holds too few frames, pictures that are too narrow, and a limit on tokens below the fewest.
    pub fn plan_video(&self, v: &VideoInfo, options: &MediaOptions) -> Result<VideoPlan> {
        self.planner().video(v, options)
    }

    fn planner(&self) -> Planner<'_> {
        Planner {
            config: &self.config,
            processor: &self.processor,
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How frames of videos are cut and normalised.
    pub fn patches(&self) -> &PatchConfig {
        &self.processor.patches
    }

    /// The tokenizer, if the checkpoint has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The name of the file that the chat template comes from; `None` is plain ChatML.
    pub fn template_file(&self) -> Option<String> {
        self.template.file()
    }

    /// What [`Preparer::load_media`] would make of a file with these pictures and samples (mono, 16,000 a second; none
    /// for a file without a track). `pictures` gives frames by number.
    ///
    /// # Errors
    /// As [`Preparer::load_media`].
    pub fn media_of(
        &self,
        video: &VideoInfo,
        pictures: impl FnOnce(&[usize]) -> Frames,
        samples: &[f32],
        options: &MediaOptions,
    ) -> Result<DecodedMedia> {
        let plan = self.plan_video(video, options)?;
        let [height, width] = plan.first_size;
        let mut media = DecodedMedia {
            parts: vec![Part::Video(PathBuf::new().into())],
            ..DecodedMedia::default()
        };
        let frames = (self.processor.resize)(&pictures(&plan.indices), height, width);
        let sound = if options.audio_in_video {
            self.tokens_of(samples)
        } else {
            0
        };
        let frames = self.processor.fitted(frames, plan.size);
        let patches = outro_media::patches(&frames, &self.processor.patches)?;
        self.push_video(patches, plan, sound, &mut media);
        if sound > 0 {
            self.push_mel(&[samples], &mut media);
        }
        Ok(media)
    }

    /// Makes every frame of every video black; everything else stays.
    pub fn blacken(&self, media: &mut DecodedMedia) {
        let p = &self.processor.patches;
        let black: [f32; 3] = std::array::from_fn(|c| -p.mean[c] / p.std[c]);
        if let Some(pixels) = &mut media.inputs.pixel_values_videos {
            let channel = p.temporal * p.patch * p.patch;
            for (i, x) in pixels.data.iter_mut().enumerate() {
                *x = black[i % pixels.cols / channel];
            }
        }
    }

    /// Patches of an image and how it stands in the prompt.
    fn push_image(
        &self,
        picture: &Frames,
        alone: bool,
        media: &mut DecodedMedia,
        options: &MediaOptions,
    ) -> Result<()> {
        let patches = self.processor.image(picture, alone, options.max_pixels)?;
        let inputs = &mut media.inputs;
        let place = inputs.pixel_values.get_or_insert_with(Pixels::default);
        place.push(patches.grid_thw, patches.cols, patches.data);
        let size = [picture.height, picture.width];
        if self.processor.anyres.is_some() {
            inputs.image_sizes.push(size);
        }
        media.items.push(Chunk::Image {
            grid: patches.grid_thw,
            size,
        });
        Ok(())
    }

    /// Decodes media. Their tokens are counted from the headers first.
    ///
    /// # Errors
    /// Media that do not fit the model (before any decoding), and files that cannot be decoded.
    pub fn load_media(
        &self,
        parts: &[Part],
        options: &MediaOptions,
        progress: &mut dyn FnMut(MediaProgress),
    ) -> Result<DecodedMedia> {
        let media = parts.iter().filter(|p| !matches!(p, Part::Text(_)));
        self.load_planned(&self.plan_media(media, options)?, options, progress)
    }

    /// [`Preparer::load_media`] of files that were planned with the same options: each is probed once.
    ///
    /// # Errors
    /// As [`Preparer::load_media`].
    pub fn load_planned(
        &self,
        plan: &Plan,
        options: &MediaOptions,
        progress: &mut dyn FnMut(MediaProgress),
    ) -> Result<DecodedMedia> {
        self.load_into(plan, options, None, progress)
    }

    /// [`Preparer::load_planned`], where the patches of videos go to `taker` instead, with what belongs to them in
    /// [`Inputs`]: `second_per_grid` and `token_mask`.
    pub(crate) fn load_into(
        &self,
        plan: &Plan,
        options: &MediaOptions,
        mut taker: Option<&mut (dyn TakePatches + '_)>,
        progress: &mut dyn FnMut(MediaProgress),
    ) -> Result<DecodedMedia> {
        plan.check()?;
        let mut media = DecodedMedia {
            parts: plan.items.iter().map(MediaPlan::part).collect(),
            taken: plan.items.clone(),
            notes: plan.notes.clone(),
            ..DecodedMedia::default()
        };
        let alone = one_image(media.parts.iter());
        let mut sounds = Vec::new();
        for (place, item) in plan.items.iter().enumerate() {
            let path = item.info.path.clone();
            match item.chunk {
                Chunk::Frames { .. } | Chunk::Video { .. } => {
                    let taker = taker.as_mut().map(|t| &mut **t as &mut dyn TakePatches);
                    self.load_video(place, options, &mut media, &mut sounds, taker, progress)?;
                }
                Chunk::Image { .. } => {
                    progress(MediaProgress::Image { path: path.clone() });
                    let picture = outro_media::read_image(&path, &options.media)?;
                    self.push_image(&picture, alone, &mut media, options)?;
                }
                Chunk::Audio { .. } => {
                    progress(MediaProgress::Audio { path: path.clone() });
                    let Sound { samples, notes } =
                        self.read_sound(outro_media::read_audio, &item.info, options)?;
                    media.notes.extend(notes);
                    let tokens = self.tokens_of(&samples);
                    if tokens == 0 {
                        let problem = "its sound is too short for one token";
                        return Err(Error::input(path.display().to_string(), problem));
                    }
                    sounds.push(samples);
                    media.items.push(Chunk::Audio { tokens });
                }
            }
        }
        let sounds: Vec<&[f32]> = sounds.iter().map(Vec::as_slice).collect();
        self.push_mel(&sounds, &mut media);
        Ok(media)
    }

    /// Tokens of a sound alone.
    fn tokens_of(&self, samples: &[f32]) -> usize {
        let n = samples.len();
        self.config
            .audio
            .as_ref()
            .map_or(0, |tower| tower.tokens(tower.mel_frames(n, n)))
    }

    /// Spectrograms of all sounds, which some extractors fill up to the longest; each of at least a token.
    fn push_mel(&self, sounds: &[&[f32]], media: &mut DecodedMedia) {
        let Some(tower) = &self.config.audio else { return };
        let longest = sounds.iter().map(|s| s.len()).max().unwrap_or(0);
        let heard = media.items.iter_mut().filter_map(|item| match item {
            Chunk::Audio { tokens } => Some(tokens),
            Chunk::Video { sound, .. } => sound.as_mut(),
            _ => None,
        });
        for (tokens, samples) in heard.zip(sounds) {
            let mel = match tower.projector {
                AudioProjector::AvgPool2 => outro_media::log_mel(samples),
                AudioProjector::QFormer(_) => outro_media::log_mel_in_chunks(samples, 2 * tower.n_window),
                AudioProjector::Linear { .. } => outro_media::log_mel_together(samples, longest),
            };
            *tokens = tower.tokens(mel.frames);
            let bins = mel.data.len() / mel.frames;
            let place = media.inputs.audio.get_or_insert_with(AudioFeatures::default);
            place.push(bins, mel.frames, &mel.data);
        }
    }

    /// The wanted part of a file's sound.
    fn read_sound(&self, read: Read, file: &MediaInfo, options: &MediaOptions) -> Result<Sound> {
        let s = &options.sampling;
        let mut end = s.end;
        // What the extractor cuts off is not decoded either; a second more leaves the cut to it.
        if self
            .config
            .audio
            .as_ref()
            .is_some_and(|a| a.projector == AudioProjector::AvgPool2)
        {
            let last = s.start.unwrap_or(0.0) + (MAX_SECONDS + 1) as f64;
            end = Some(end.map_or(last, |end| end.min(last)));
        }
        Ok(read(file, s.start, end, &options.media)?)
    }

    /// The prompt's token ids, placeholders expanded; empty without a tokenizer.
    ///
    /// # Errors
    /// An empty question, a failing template, and questions that spell placeholders.
    pub fn ids(&self, conversation: &Conversation, chunks: &[Chunk]) -> Result<Vec<u32>> {
        expand(&self.config, &self.words(conversation, chunks)?, chunks)
    }

    /// [`Preparer::ids`] with what each row is and where it stands.
    ///
    /// # Errors
    /// As [`Preparer::ids`].
    pub fn layout(&self, conversation: &Conversation, chunks: &[Chunk]) -> Result<Layout> {
        lay_out(&self.config, &self.words(conversation, chunks)?, chunks)
    }

    /// The ids of the rendered conversation, one placeholder a medium or frame.
    fn words(&self, conversation: &Conversation, chunks: &[Chunk]) -> Result<Vec<u32>> {
        let Some(tokenizer) = &self.tokenizer else {
            return Ok(Vec::new());
        };
        if conversation.question().trim().is_empty() {
            return Err(Error::input("question", "empty; ask something"));
        }
        let t = &self.config.tokens;
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.name(id)).unwrap_or_default();
        let block = |start, id: Option<u32>, end| {
            id.map(|id| name(start) + &name(Some(id)) + &name(end) + self.config.frames.after)
        };
        let tokens = MediaTokens {
            names: [t.image, t.video, t.audio].map(|id| id.map(|id| name(Some(id)))),
            blocks: [
                block(t.vision_start, t.image, t.vision_end),
                block(t.vision_start, t.video, t.vision_end),
                block(t.audio_start, t.audio, t.audio_end),
            ],
        };
        let mut text = self
            .template
            .render(conversation, self.settings.system.as_deref(), &tokens)?;
        if let Some(timestamps) = &self.config.frames.timestamps {
            let mut names: Vec<String> = [t.image, t.video].into_iter().map(name).collect();
            if timestamps.delimited {
                names[1] = name(t.vision_start) + &names[1] + &name(t.vision_end);
            }
            let names: Vec<&str> = names
                .iter()
                .map(String::as_str)
                .filter(|n| !n.is_empty())
                .collect();
            text = write_timestamps(timestamps, &text, &names, chunks);
        }
        let ids = tokenizer.encode(&text)?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.config.text.vocab) {
            let problem = format!(
                "gives the id {id}, the model has {}; they do not belong together",
                self.config.text.vocab
            );
            return Err(Error::input("tokenizer", problem));
        }
        Ok(ids)
    }

    /// Puts a question to decoded media, whose tensors are not copied. Several questions about the same media take
    /// [`Preparer::layout_about`] instead.
    ///
    /// # Errors
    /// A conversation about other media, and a prompt longer than the model takes.
    pub fn assemble(&self, media: DecodedMedia, conversation: &Conversation) -> Result<Prepared> {
        let inputs = Inputs {
            input_ids: self.layout_about(&media, conversation)?.ids,
            ..media.inputs
        };
        inputs.validate(&self.config)?;
        Ok(Prepared {
            inputs,
            notes: media.notes,
        })
    }

    /// The layout of a question about these media, and no others.
    ///
    /// # Errors
    /// A conversation about other media, and as [`Preparer::ids`].
    pub fn layout_about(&self, media: &DecodedMedia, conversation: &Conversation) -> Result<Layout> {
        if !conversation.media().eq(media.parts.iter()) {
            return Err(Error::input(
                "media",
                "the conversation is not about the media that were loaded",
            ));
        }
        self.layout(conversation, &media.items)
    }

    /// Plan, decoding and assembly of one question.
    ///
    /// # Errors
    /// As [`Preparer::load_media`] and [`Preparer::assemble`].
    pub fn prepare(
        &self,
        conversation: &Conversation,
        options: &MediaOptions,
        progress: &mut dyn FnMut(MediaProgress),
    ) -> Result<Prepared> {
        let plan = self.plan(conversation, options)?;
        self.assemble(self.load_planned(&plan, options, progress)?, conversation)
    }
}

/// How sound is read: as a file of its own, or as a video's.
type Read = fn(&MediaInfo, Option<f64>, Option<f64>, &outro_media::Options) -> outro_media::Result<Sound>;
