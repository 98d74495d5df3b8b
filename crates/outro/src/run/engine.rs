//! A checkpoint that answers: from files and a question to a reply, by any strategy.

mod answer;
mod ask;
mod batch;
mod live;
mod media;
mod streamed;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use answer::{Answer, Candidate, Finish, Spent};
pub use ask::{Ask, Ends, Update};
pub use batch::{Batch, answer_all};
pub use media::MediaSet;

use outro_kernels::Activations;

use crate::compute::nn::KvType;
use crate::error::{Error, Result};
use crate::hook::method::OutRoConfig;
use crate::prompt::chat::{Conversation, Part};
use crate::prompt::prepare::{DecodedMedia, MediaOptions, Plan, Preparer};
use crate::prompt::tokenizer::Tokenizer;
use crate::run::model::{LoadOptions, Model};
use crate::spec::config::Config;
use crate::spec::generation::{GenerationConfig, Sampling};
use crate::weights::checkpoint::Adapter;

/// How an [`Engine`] is opened. The default is that of `outro ask`: weights as they are stored, multiplied as this processor
/// does it fastest ([`Activations::Reduced`]); `LoadOptions::default()` multiplies exactly.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How weights are held and multiplied.
    pub load: LoadOptions,
    /// How keys and values are kept.
    pub kv: KvType,
    /// Of a GGUF file: the file of its towers (mmproj), where it is not the one beside it.
    pub towers: Option<PathBuf>,
    /// LoRA adapters that are merged into its weights, in their order.
    pub adapters: Vec<Adapter>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let load = LoadOptions {
            activations: Activations::Reduced,
            ..LoadOptions::default()
        };
        Self {
            load,
            kv: KvType::default(),
            towers: None,
            adapters: Vec::new(),
        }
    }
}

/// A checkpoint, ready to answer. A clone shares the weights.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    model: Model,
    preparer: Arc<Preparer>,
    method: OutRoConfig,
    generation: GenerationConfig,
    kv: KvType,
}

impl Engine {
    /// Opens the checkpoint in the directory, or the GGUF file, `dir`, with all that its files say: sampling of frames, sizes,
    /// the method's settings (`outro.json`), generation (`generation_config.json`).
    ///
    /// # Errors
    /// As [`Preparer::open`] and [`Model::load`]; a checkpoint without a tokenizer.
    pub fn open(dir: impl AsRef<Path>, options: EngineOptions) -> Result<Self> {
        let dir = dir.as_ref();
        let mut config = Config::load_held(dir, options.towers.as_deref())?;
        config.held.adapters = options.adapters;
        let preparer = Preparer::of(config.clone(), dir)?;
        let model = Model::open(config, dir, options.load)?;
        Self::of(dir, preparer, model, options.kv)
    }

    /// [`Engine::open`] with parts that the caller has opened, both of `dir`.
    ///
    /// # Errors
    /// A checkpoint without a tokenizer; `outro.json` and `generation_config.json` with values that cannot be.
    pub fn of(dir: &Path, preparer: impl Into<Arc<Preparer>>, model: Model, kv: KvType) -> Result<Self> {
        let preparer = preparer.into();
        if preparer.tokenizer().is_none() {
            let problem = "the checkpoint has no tokenizer; put its tokenizer.json beside config.json";
            return Err(Error::missing(dir, problem));
        }
        Ok(Self(Arc::new(Inner {
            dir: dir.into(),
            method: OutRoConfig::from_fields(&preparer.settings().method)?,
            generation: preparer.generation()?,
            model,
            preparer,
            kv,
        })))
    }

    /// The checkpoint's directory or file.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The weights.
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// What makes prompts.
    pub fn preparer(&self) -> &Preparer {
        &self.0.preparer
    }

    /// What the name `outro` means for this checkpoint: the published settings, and what its `outro.json` changes.
    pub fn method(&self) -> &OutRoConfig {
        &self.0.method
    }

    /// What its `generation_config.json` says.
    pub fn generation(&self) -> &GenerationConfig {
        &self.0.generation
    }

    /// How keys and values are kept.
    pub fn kv(&self) -> KvType {
        self.0.kv
    }

    /// Its words.
    ///
    /// # Errors
    /// None: an engine has a tokenizer.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let missing = || Error::input("tokenizer", "is missing");
        self.0.preparer.tokenizer().ok_or_else(missing)
    }

    /// Plans, checks, decodes and encodes media as this checkpoint's processor does, once for any number of questions.
    ///
    /// # Errors
    /// Files that cannot be read or that the model cannot take; media that do not fit its context.
    pub fn media(&self, parts: &[Part]) -> Result<MediaSet> {
        self.media_with(parts, &self.0.preparer.media_options(), &mut |_| {})
    }

    /// [`Engine::media`] with other options than the checkpoint's; `on` gets what happens.
    ///
    /// # Errors
    /// As [`Engine::media`]; [`Error::Cancelled`] when `options.media.cancel` was set.
    pub fn media_with(
        &self,
        parts: &[Part],
        options: &MediaOptions,
        on: &mut dyn FnMut(Update<'_>),
    ) -> Result<MediaSet> {
        let plan = self.0.preparer.plan_media(parts.iter(), options)?;
        self.media_planned(plan, options, on)
    }

    /// [`Engine::media_with`] of files that were planned with the same options ([`Preparer::plan_media`]). A video's frames go
    /// through the tower while later ones are decoded, and their patches are not kept: where a strategy distorts them, the
    /// file is read once more.
    ///
    /// # Errors
    /// As [`Engine::media_with`].
    pub fn media_planned(
        &self,
        plan: Plan,
        options: &MediaOptions,
        on: &mut dyn FnMut(Update<'_>),
    ) -> Result<MediaSet> {
        let (media, embeds, seconds, source) = streamed::read(self, plan, options, on)?;
        Ok(MediaSet::new(media, embeds, seconds, source))
    }

    /// Runs the encoders over decoded media, whose tensors are kept.
    ///
    /// # Errors
    /// As [`Model::encode`]; [`Error::Cancelled`].
    pub fn encode(
        &self,
        media: DecodedMedia,
        cancel: &outro_media::Cancel,
        on: &mut dyn FnMut(Update<'_>),
    ) -> Result<MediaSet> {
        let since = Instant::now();
        let embeds = self
            .0
            .model
            .encode_until(&media.inputs, cancel, &mut |p| on(Update::Encode(p)))?;
        Ok(MediaSet::new(media, embeds, since.elapsed().as_secs_f64(), None))
    }

    /// A question about media, before words in the user's turn.
    pub fn ask(&self, media: &MediaSet, question: &str) -> Ask {
        self.chat(media, Conversation::new(None, media.parts(), question))
    }

    /// A conversation, whose media (in all turns, in their order) are those of `media`. Every turn prefills the whole
    /// conversation: the method looks at all of the prompt.
    pub fn chat(&self, media: &MediaSet, conversation: Conversation) -> Ask {
        Ask::new(self.clone(), media.clone(), conversation)
    }

    /// What follows a prompt of these ids, which no chat template makes.
    ///
    /// # Errors
    /// None yet: an empty prompt, and one with placeholders of media, is refused when it runs.
    pub fn complete(&self, ids: Vec<u32>) -> Result<Ask> {
        let media = self.media(&[])?;
        Ok(Ask::new(self.clone(), media, Conversation::default()).raw(ids))
    }

    /// How tokens are chosen where nobody says otherwise: as `generation_config.json` says, with seed 0.
    ///
    /// # Errors
    /// Values in it that contradict each other.
    pub fn sampling(&self) -> Result<Sampling> {
        self.0.generation.sampling(0)
    }
}
