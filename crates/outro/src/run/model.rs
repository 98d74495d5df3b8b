//! A model: a configuration and immutable weights, shared by all requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use outro_kernels::Activations;
use outro_media::Cancel;

use crate::compute::encoder::{AudioTower, VisionTower};
use crate::compute::nn::{Decoder, Deepstack, Mat, Weights, ops};
use crate::error::{Error, Result};
use crate::prompt::inputs::{Inputs, Pixels};
use crate::prompt::positions::{Layout, Positions, Span, layout};
use crate::run::domain::Domain;
use crate::spec::anyres::TokenLayout;
use crate::spec::config::{Config, Scaling};
use crate::weights::checkpoint::{Audit, Checkpoint, Dtype, Imitated, Matrix, Quantised, Quantize};

/// What happens while media are encoded and a prompt is run; for progress displays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeProgress {
    /// Patches through the vision tower.
    Vision {
        /// Patches done.
        done: usize,
        /// Patches of all images and videos.
        total: usize,
    },
    /// Mel frames through the audio tower.
    Audio {
        /// Frames done.
        done: usize,
        /// Frames of all audios.
        total: usize,
    },
}

/// How weights are held and multiplied. A [`Dtype`] alone is one, too.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// How matrices that are not quantised are kept.
    pub dtype: Dtype,
    /// Makes the decoder's matrices smaller. Embeddings, norms and the towers stay as they are.
    pub quantize: Option<Quantize>,
    /// A directory in which quantised weights are kept for the next time.
    pub cache: Option<PathBuf>,
    /// What quantised weights are multiplied with where a few tokens are run: f32 (exact, the default), or 8 bits.
    pub activations: Activations,
    /// The layout of the decoder's linear layers where weights are made up ([`Model::random`]).
    pub imitated: Option<Imitated>,
}

impl From<Dtype> for LoadOptions {
    fn from(dtype: Dtype) -> Self {
        Self {
            dtype,
            ..Self::default()
        }
    }
}

/// Weights and configuration. A clone shares them; all methods take `&self`.
#[derive(Clone)]
pub struct Model(Arc<Parts>);

struct Parts {
    config: Config,
    domain: Option<Domain>,
    notes: Vec<String>,
    decoder: Decoder,
    vision: Option<VisionTower>,
    audio: Option<AudioTower>,
}

impl Parts {
    fn build(mut config: Config, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let names = config.names;
        let mut notes = config.held.notes.clone();
        let embedding = format!("{}embed_tokens.weight", names.text);
        if !config.text.tied && !checkpoint.holds(names.lm_head) && checkpoint.holds(&embedding) {
            config.text.tied = true;
            notes.push(format!(
                "the checkpoint has no output head (`{}`): its embedding serves as one; if this is a model that makes \
                 embeddings, its answers mean nothing",
                names.lm_head
            ));
        }
        let w = Weights {
            checkpoint,
            dtype: options.dtype,
            quantised: None,
            activations: options.activations,
        };
        let quantised = match options.quantize {
            None => None,
            Some(to) => {
                let layers = format!("{}layers.", names.text);
                let head = if config.text.tied {
                    embedding.as_str()
                } else {
                    names.lm_head
                };
                let cache = options.cache.as_deref();
                Some(Quantised::open(checkpoint, to, &layers, head, cache)?)
            }
        };
        let smaller = Weights {
            quantised: quantised.as_ref(),
            ..w
        };
        notes.extend(quantised.iter().flat_map(|q| q.notes.iter().cloned()));
        let decoder = Decoder::load(smaller, names.text, names.lm_head, &config.text)?;
        let vision = config
            .vision
            .as_ref()
            .map(|c| VisionTower::load(w, &names, c))
            .transpose()?;
        let audio = config
            .audio
            .as_ref()
            .map(|c| AudioTower::load(w, names.audio, c))
            .transpose()?;
        Ok(Self {
            config,
            domain: None,
            notes,
            decoder,
            vision,
            audio,
        })
    }
}

/// A prompt as the decoder takes it.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// One row a token, `[S, hidden]`: text embeddings with the media's rows in their places.
    pub embeds: Mat,
    /// Rotary positions of the rows, and of the first decoded token.
    pub positions: Positions,
    /// What visual rows get after the first decoder layers.
    pub deepstack: Deepstack,
    /// What each row is.
    pub spans: Vec<Span>,
}

impl Prompt {
    /// Some of its rows, from one to another. `positions.next` stays.
    pub(crate) fn rows(&self, range: std::ops::Range<usize>) -> Self {
        let kept: Vec<usize> = range.clone().collect();
        Self {
            embeds: self.embeds.copy_of(range.clone()),
            positions: Positions {
                ids: self.positions.ids[range.clone()].to_vec(),
                next: self.positions.next,
            },
            deepstack: self.deepstack.kept(&kept),
            spans: self.spans.get(range).unwrap_or_default().to_vec(),
        }
    }

    /// Whether it begins with the rows of `prefix`, and goes on.
    pub(crate) fn extends(&self, prefix: &Self) -> bool {
        let n = prefix.embeds.rows();
        let (mine, other) = (&self.deepstack, &prefix.deepstack);
        self.embeds.rows() > n
            && prefix.embeds.cols() == self.embeds.cols()
            && self.embeds.data().starts_with(prefix.embeds.data())
            && self.positions.ids.starts_with(&prefix.positions.ids)
            && mine.rows.iter().take_while(|r| r.0 < n).eq(&other.rows)
            && (Arc::ptr_eq(&mine.layers, &other.layers) || mine.layers == other.layers)
    }
}

/// What the towers made of a request's media; the same for every question about them.
#[derive(Clone, Debug, Default)]
pub struct MediaEmbeds {
    /// Tokens of all images, `[tokens, hidden]`.
    pub image: Mat,
    /// Tokens of all videos.
    pub video: Mat,
    /// Tokens of all audios.
    pub audio: Mat,
    /// For each of the first decoder layers what is added to the tokens of all images, then of all videos
    /// (`VisionConfig::deepstack`).
    pub deepstack: Arc<Vec<Mat>>,
}

impl MediaEmbeds {
    /// Of tokens of images and of videos, each before what is added behind the first decoder layers.
    fn of(mut image: Vec<Mat>, mut video: Vec<Mat>, audio: Mat) -> Self {
        let mut deepstack = image.split_off(1);
        for (all, video) in deepstack.iter_mut().zip(video.split_off(1)) {
            all.append(video);
        }
        Self {
            image: image.swap_remove(0),
            video: video.swap_remove(0),
            audio,
            deepstack: Arc::new(deepstack),
        }
    }

    /// With videos that were encoded apart, where there were none.
    pub(crate) fn with_videos(self, video: Vec<Mat>) -> Self {
        let deepstack = Arc::try_unwrap(self.deepstack).unwrap_or_else(|shared| (*shared).clone());
        let image = std::iter::once(self.image).chain(deepstack).collect();
        Self::of(image, video, self.audio)
    }
}

impl Model {
    /// Opens the checkpoint in the directory, or the GGUF file, `dir`. Matrices stay memory-mapped where the options
    /// allow it.
    ///
    /// # Errors
    /// Everything that can be wrong with config.json and the weights, by file, field and tensor.
    pub fn load(dir: &Path, options: impl Into<LoadOptions>) -> Result<Self> {
        Self::open(Config::load(dir)?, dir, options)
    }

    /// [`Model::load`] with a configuration that the caller has read ([`Config::load_among`]).
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn open(config: Config, dir: &Path, options: impl Into<LoadOptions>) -> Result<Self> {
        let checkpoint = config.checkpoint(dir)?;
        let domain = Domain::load(dir, config.text.hidden)?;
        let parts = Parts::build(config, &checkpoint, &options.into())?;
        Ok(Self(Arc::new(Parts { domain, ..parts })))
    }

    /// Which tensors the model needs beside those that the checkpoint holds, from config.json and headers alone.
    ///
    /// # Errors
    /// As [`Model::load`], but for what is wrong with single tensors.
    pub fn audit(dir: &Path) -> Result<Audit> {
        Self::audit_of(Config::load(dir)?, dir)
    }

    /// [`Model::audit`] with a configuration that the caller has read.
    ///
    /// # Errors
    /// As [`Model::audit`].
    pub fn audit_of(config: Config, dir: &Path) -> Result<Audit> {
        let names = config.names;
        let checkpoint = config.checkpoint(dir)?.noting();
        let model = Parts::build(config, &checkpoint, &LoadOptions::default())?;
        let mut unused = names.unused.to_vec();
        // A tied model may have a copy.
        unused.push(names.lm_head);
        Ok(Audit {
            notes: model.notes,
            ..checkpoint.audit(&unused)
        })
    }

    /// Names and shapes of the tensors that a model of this configuration reads.
    ///
    /// # Errors
    /// As [`Model::audit`].
    pub(crate) fn tensors(config: Config, dir: &Path) -> Result<Vec<(String, Vec<usize>)>> {
        let checkpoint = config.checkpoint(dir)?.noting();
        Parts::build(config, &checkpoint, &LoadOptions::default())?;
        Ok(checkpoint.asked())
    }

    /// A model of this size with random weights, made in memory: for measurements. `options.cache` is not used, and
    /// `dtype` auto is bf16.
    ///
    /// # Errors
    /// Options that cannot be.
    pub fn random(config: Config, options: impl Into<LoadOptions>, seed: u64) -> Result<Self> {
        let options = LoadOptions {
            cache: None,
            ..options.into()
        };
        let layers = format!("{}layers.", config.names.text);
        let checkpoint = Checkpoint::random(seed, options.imitated.map(|i| (i, layers)));
        let parts = Parts::build(config, &checkpoint, &options)?;
        Ok(Self(Arc::new(parts)))
    }

    /// Whether both are clones of one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Whether rows that prompts begin with can be run before the rest is known ([`crate::Prefix`]): not where
    /// positions turn by the length of the whole.
    pub fn shares_rows(&self) -> bool {
        !matches!(self.0.config.text.rope.scaling, Scaling::Dynamic { .. })
    }

    /// What the user should know about how the weights were loaded.
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// What is to be known of media that are unlike those that the checkpoint was trained on, or of a question without media,
    /// in a line. `None` where they are like them, or the checkpoint does not say what it was trained on ([`Domain`]).
    pub fn unfamiliar(&self, media: &MediaEmbeds) -> Option<String> {
        let kinds = [
            ("image", &media.image),
            ("video", &media.video),
            ("audio", &media.audio),
        ];
        let kinds = kinds.map(|(kind, rows)| (kind, rows.data()));
        self.0
            .domain
            .as_ref()?
            .unfamiliar(&kinds, self.0.config.text.hidden)
    }

    /// The vision tower, where there is one.
    pub(crate) fn vision(&self) -> Option<&VisionTower> {
        self.0.vision.as_ref()
    }

    pub(crate) fn decoder(&self) -> &Decoder {
        &self.0.decoder
    }

    /// Bytes and elements of the matrices that every decoded token is multiplied with.
    pub fn decode_weights(&self) -> (usize, usize) {
        let used = self.0.decoder.product_matrices();
        used.fold((0, 0), |(bytes, n), m| {
            (bytes + m.bytes(), n + m.rows() * m.cols())
        })
    }

    /// Lower bound on the encoders' FLOPs for the videos and the sound of `inputs`: vision, audio.
    pub fn tower_operations(&self, inputs: &Inputs) -> (f64, f64) {
        let merge = self.0.config.vision.as_ref().map_or(1, |v| v.merge);
        let grids = inputs.pixel_values_videos.iter().flat_map(|p| &p.grid_thw);
        let sounds = inputs.audio.iter().flat_map(|a| &a.lengths);
        let (see, hear) = (self.0.vision.as_ref(), self.0.audio.as_ref());
        (
            grids.filter_map(|g| Some(see?.operations(*g, merge))).sum(),
            sounds.filter_map(|n| Some(hear?.operations(*n))).sum(),
        )
    }

    /// Bytes that the matrices take, mapped or owned.
    pub fn weight_bytes(&self) -> usize {
        let vision = self.0.vision.iter().flat_map(VisionTower::matrices);
        let audio = self.0.audio.iter().flat_map(AudioTower::matrices);
        self.0
            .decoder
            .matrices()
            .chain(vision)
            .chain(audio)
            .map(Matrix::bytes)
            .sum()
    }

    /// Embeddings `[ids, hidden]` of tokens.
    pub(crate) fn embed(&self, ids: &[u32]) -> Result<Mat> {
        let table = &self.0.decoder.embed;
        let mut out = Mat::zeros(ids.len(), table.cols());
        for (i, id) in ids.iter().enumerate() {
            if *id as usize >= table.rows() {
                return Err(Error::input(
                    "input_ids",
                    format!("holds the id {id}, the vocabulary ends at {}", table.rows() - 1),
                ));
            }
            table.row(*id as usize, out.row_mut(i));
        }
        if ops::is_finite(out.data()) {
            Ok(out)
        } else {
            Err(Error::NotFinite {
                place: format!("tensor `{}`", table.name()),
            })
        }
    }

    /// Runs the towers over all media of `inputs`.
    ///
    /// # Errors
    /// Media that this model has no tower for, and numbers that are not finite.
    pub fn encode(&self, inputs: &Inputs, progress: &mut dyn FnMut(EncodeProgress)) -> Result<MediaEmbeds> {
        self.encode_until(inputs, &Cancel::default(), progress)
    }

    /// [`Model::encode`], which ends with [`Error::Cancelled`] once `cancel` is set.
    ///
    /// # Errors
    /// As [`Model::encode`].
    pub fn encode_until(
        &self,
        inputs: &Inputs,
        cancel: &Cancel,
        progress: &mut dyn FnMut(EncodeProgress),
    ) -> Result<MediaEmbeds> {
        inputs.validate(&self.0.config)?;
        let progress = &mut |p| {
            progress(p);
            if cancel.is_set() {
                Err(Error::Cancelled)
            } else {
                Ok(())
            }
        };
        let patches = |p: &Option<Pixels>| {
            p.as_ref().map_or(0, |p| {
                p.grid_thw.iter().map(|g| g.iter().product::<usize>()).sum()
            })
        };
        let (images, videos): (usize, usize) = (
            patches(&inputs.pixel_values),
            patches(&inputs.pixel_values_videos),
        );
        let total = images + videos;
        let image = self.encode_vision(inputs, false, &mut |done| {
            progress(EncodeProgress::Vision { done, total })
        })?;
        let mut video = self.encode_vision(inputs, true, &mut |done| {
            progress(EncodeProgress::Vision {
                done: images + done,
                total,
            })
        })?;
        if !inputs.token_mask.is_empty() {
            for video in &mut video {
                *video = ops::masked(video, &inputs.token_mask);
            }
        }
        Ok(MediaEmbeds::of(
            image,
            video,
            self.encode_audio(inputs, progress)?,
        ))
    }

    /// Tokens of all images or of all videos, then what is added to them behind the first decoder layers.
    fn encode_vision(
        &self,
        inputs: &Inputs,
        videos: bool,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Mat>> {
        let deep = self.0.config.vision.as_ref().map_or(0, |v| v.deepstack.len());
        let mut out = vec![Mat::empty(self.0.config.text.hidden); 1 + deep];
        let (key, pixels) = if videos {
            ("pixel_values_videos", &inputs.pixel_values_videos)
        } else {
            ("pixel_values", &inputs.pixel_values)
        };
        let Some(pixels) = pixels else { return Ok(out) };
        let (Some(tower), Some(v)) = (&self.0.vision, &self.0.config.vision) else {
            return Err(Error::input(key, "given, and this model has no vision tower"));
        };
        let mut done = 0;
        for (item, grid) in pixels.grid_thw.iter().enumerate() {
            let rows: usize = grid.iter().product();
            let part = &pixels.data[done * pixels.cols..(done + rows) * pixels.cols];
            let (merge, tokens) = if videos {
                (v.merge, TokenLayout::video(v, *grid))
            } else {
                let size = inputs.image_sizes.get(item).copied();
                (v.image_merge, TokenLayout::image(v, *grid, size))
            };
            let made = tower.forward(part, *grid, merge, &tokens, &mut |n| progress(done + n))?;
            for (out, made) in out.iter_mut().zip(made) {
                out.append(made);
            }
            done += rows;
        }
        Ok(out)
    }

    fn encode_audio(
        &self,
        inputs: &Inputs,
        progress: &mut dyn FnMut(EncodeProgress) -> Result<()>,
    ) -> Result<Mat> {
        let mut out = Mat::empty(self.0.config.text.hidden);
        let Some(audio) = &inputs.audio else {
            return Ok(out);
        };
        let tower = self
            .0
            .audio
            .as_ref()
            .ok_or_else(|| Error::input("input_features", "given, and this model has no audio tower"))?;
        let (total, mut done) = (audio.lengths.iter().sum(), 0);
        let longest = audio.lengths.iter().copied().max().unwrap_or(0);
        for frames in &audio.lengths {
            let mel = &audio.data[done * audio.mel_bins..(done + frames) * audio.mel_bins];
            out.append(tower.forward(mel, longest, &mut |n| {
                progress(EncodeProgress::Audio {
                    done: done + n,
                    total,
                })
            })?);
            done += frames;
        }
        Ok(out)
    }

    /// Puts text embeddings and the media's rows together.
    ///
    /// # Errors
    /// Placeholders in `input_ids` that do not fit the media.
    pub fn prompt(&self, inputs: &Inputs, media: &MediaEmbeds) -> Result<Prompt> {
        inputs.validate(&self.0.config)?;
        self.prompt_of(layout(&self.0.config, inputs)?, media)
    }

    /// [`Model::prompt`] of a layout that our own preparation made.
    ///
    /// # Errors
    /// A layout of other media.
    pub fn prompt_of(&self, layout: Layout, media: &MediaEmbeds) -> Result<Prompt> {
        let Layout {
            ids,
            positions,
            spans,
        } = layout;
        let mut embeds = self.embed(&ids)?;
        let mut visual = Vec::new();
        let t = &self.0.config.tokens;
        for (key, id, rows) in [
            ("image", t.image, &media.image),
            ("video", t.video, &media.video),
            ("audio", t.audio, &media.audio),
        ] {
            // One placeholder for images and videos stands for the kind that is there.
            if t.image == t.video && key != "audio" && rows.is_empty() {
                continue;
            }
            let places: Vec<usize> = (0..ids.len()).filter(|i| Some(ids[*i]) == id).collect();
            if places.len() != rows.rows() {
                let problem = format!(
                    "{} {key} placeholders for {} {key} tokens",
                    places.len(),
                    rows.rows()
                );
                return Err(Error::input("input_ids", problem));
            }
            ops::scatter(rows, &places, &mut embeds);
            if !media.deepstack.is_empty() && key != "audio" {
                visual.extend(places);
            }
        }
        // Features of the towers stand in this order, images before videos; rows must ascend.
        let mut rows: Vec<_> = visual.into_iter().zip(0..).collect();
        rows.sort_unstable();
        Ok(Prompt {
            embeds,
            positions,
            spans,
            deepstack: Deepstack {
                rows,
                layers: Arc::clone(&media.deepstack),
            },
        })
    }
}
