//! Conversations, and their text through a checkpoint's chat template.

use std::path::{Path, PathBuf};

use minijinja::{Value as Jinja, context};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::prompt::tokenizer::{adds_bos, named_tokens, special_tokens};
use crate::spec::config::Config;
use crate::weights::checkpoint::gguf::Gguf;
use crate::weights::json::{absent, read_json};

mod arguments;
mod file;
mod jinja;
mod python;

pub use file::MediaFile;

/// One piece of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text(String),
    /// An image file.
    Image(MediaFile),
    /// A video file.
    Video(MediaFile),
    /// A sound file.
    Audio(MediaFile),
}

/// Who speaks in a [`Turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Whoever asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// An earlier turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who spoke.
    pub role: Role,
    /// Media and words, in their order.
    pub content: Vec<Part>,
}

/// A question to the model, and what was said before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The system turn; `None` is the family's default sentence, an empty string is no sentence.
    pub system: Option<String>,
    /// Turns before the question.
    pub history: Vec<Turn>,
    /// The user's turn: media in their order, then words.
    pub user: Vec<Part>,
}

impl Conversation {
    /// Media first, in their order, then the words, as the models were trained to be asked.
    pub fn new(system: Option<String>, media: &[Part], question: &str) -> Self {
        let mut user = media.to_vec();
        user.push(Part::Text(question.to_owned()));
        Self {
            system,
            history: Vec::new(),
            user,
        }
    }

    /// The media of all turns, in their order.
    pub fn media(&self) -> impl Iterator<Item = &Part> {
        let earlier = self.history.iter().flat_map(|t| &t.content);
        earlier.chain(&self.user).filter(|p| !matches!(p, Part::Text(_)))
    }

    fn turns(&self) -> impl Iterator<Item = (Role, &[Part])> {
        let earlier = self.history.iter().map(|t| (t.role, t.content.as_slice()));
        earlier.chain([(Role::User, self.user.as_slice())])
    }

    /// The words, joined.
    pub fn question(&self) -> String {
        words(&self.user)
    }
}

fn words(parts: &[Part]) -> String {
    let words = parts.iter().filter_map(|p| {
        if let Part::Text(t) = p {
            Some(t.as_str())
        } else {
            None
        }
    });
    words.collect::<Vec<_>>().join("\n")
}

/// Names of the tokens for media, as the tokenizer spells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MediaTokens {
    /// The placeholders of an image, a video and a sound.
    pub(crate) names: [Option<String>; 3],
    /// The same with the delimiters around them, where a text has no template.
    pub(crate) blocks: [Option<String>; 3],
}

/// How a family writes a conversation down.
pub(crate) struct Template {
    path: PathBuf,
    source: Option<String>,
    /// The default sentence; `None` leaves it to the template.
    system: Option<&'static str>,
    /// Text models' templates take a turn's content as one string, the others' as a list of parts.
    text_only: bool,
    is_gguf: bool,
    /// Names of special tokens, which some templates spell out: `bos_token`, `eos_token`, ...
    tokens: Vec<(String, Jinja)>,
    /// The token with which a prompt begins where the template leaves it out.
    first: Option<String>,
}

impl Template {
    /// The template in `dir`: chat_template.json, chat_template.jinja, or in processor_config.json or tokenizer_config.json;
    /// or in the metadata of a GGUF file; else ChatML.
    pub(crate) fn open(dir: &Path, config: &Config) -> Result<Self> {
        let mut this = Self::usual(dir, config);
        if dir.is_file() {
            this.read_gguf(&Gguf::open(dir)?)?;
        } else {
            this.read_dir(dir)?;
        }
        if config.frames.plain_chat {
            this.source = None;
        }
        if this.text_only && this.source.is_some() {
            this.system = None;
        }
        Ok(this)
    }

    /// The one of a model whose files have none: ChatML.
    pub(crate) fn usual(dir: &Path, config: &Config) -> Self {
        Self {
            path: dir.into(),
            source: None,
            system: Some(config.system),
            text_only: config.vision.is_none() && config.audio.is_none(),
            is_gguf: dir.is_file(),
            tokens: Vec::new(),
            first: None,
        }
    }

    fn read_gguf(&mut self, file: &Gguf) -> Result<()> {
        self.source = file.text("tokenizer.chat_template")?.map(str::to_owned);
        for (name, token) in special_tokens(file)? {
            if name == "bos_token" && adds_bos(file)? {
                self.first = Some(token.clone());
            }
            self.tokens.push((name.into(), token.into()));
        }
        Ok(())
    }

    fn read_dir(&mut self, dir: &Path) -> Result<()> {
        self.tokens = named_tokens(dir)?
            .into_iter()
            .map(|(name, tokens)| {
                let list = name.ends_with('s');
                let mut tokens = tokens.into_iter().map(Jinja::from);
                let value = if list {
                    tokens.collect()
                } else {
                    tokens.next().unwrap_or_default()
                };
                (name, value)
            })
            .collect();
        for file in [
            "chat_template.json",
            "chat_template.jinja",
            "processor_config.json",
            "tokenizer_config.json",
        ] {
            self.path = dir.join(file);
            self.source = if file.ends_with("jinja") {
                match std::fs::read_to_string(&self.path) {
                    Ok(text) => Some(text),
                    Err(e) if absent(&e) => None,
                    Err(e) => return Err(Error::io(&self.path)(e)),
                }
            } else {
                read_json(&self.path)?.and_then(|v| source_of(v.get("chat_template")?))
            };
            if self.source.is_some() {
                return Ok(());
            }
        }
        self.path = dir.join("chat_template.json");
        Ok(())
    }

    /// The name of the file that the template comes from; `None` is plain ChatML.
    pub(crate) fn file(&self) -> Option<String> {
        let name = self.path.file_name().filter(|_| self.source.is_some());
        name.map(|n| n.to_string_lossy().into_owned())
    }

    /// The conversation's text up to the answer, one placeholder a medium. `own` is the model's system sentence, before
    /// the family's.
    pub(crate) fn render(&self, c: &Conversation, own: Option<&str>, tokens: &MediaTokens) -> Result<String> {
        let system = c.system.as_deref().or(own).or(self.system).unwrap_or_default();
        let text = match &self.source {
            Some(source) if !self.lacks_media(source, tokens) => self.jinja(source, system, c, tokens)?,
            _ => chatml(system, c, tokens),
        };
        match &self.first {
            Some(first) if !text.starts_with(first) => Ok(first.clone() + &text),
            _ => Ok(text),
        }
    }

    /// Whether the template of a GGUF file is of the language model alone: it knows no placeholder of some medium that the
    /// model takes.
    fn lacks_media(&self, source: &str, tokens: &MediaTokens) -> bool {
        let unknown = |name: &String| !source.contains(name.as_str());
        !self.text_only && self.is_gguf && tokens.names.iter().flatten().any(unknown)
    }

    fn jinja(&self, source: &str, system: &str, c: &Conversation, tokens: &MediaTokens) -> Result<String> {
        let part = |part: &Part| match part {
            Part::Text(text) => context! { type => "text", text },
            Part::Image(p) => context! { type => "image", image => p.to_string_lossy().into_owned() },
            // Some templates write a placeholder a frame; here it is one a video.
            Part::Video(p) => {
                context! { type => "video", video => p.to_string_lossy().into_owned(), num_frames => 1 }
            }
            Part::Audio(p) => context! { type => "audio", audio => p.to_string_lossy().into_owned() },
        };
        let mut messages = Vec::new();
        if self.text_only {
            if !system.is_empty() {
                messages.push(context! { role => "system", content => system });
            }
            messages.extend(
                c.turns()
                    .map(|(role, parts)| context! { role => role.name(), content => words(parts) }),
            );
        } else {
            if !system.is_empty() {
                let content = vec![context! { type => "text", text => system }];
                messages.push(context! { role => "system", content });
            }
            messages.extend(c.turns().map(|(role, parts)| {
                let content: Vec<Jinja> = parts.iter().map(part).collect();
                context! { role => role.name(), content }
            }));
        }
        let mut context: Vec<(String, Jinja)> = vec![
            ("messages".into(), messages.into()),
            ("tools".into(), ().into()),
            ("documents".into(), ().into()),
            ("add_generation_prompt".into(), true.into()),
            // VideoLLaMA3's own processor sets it: the sentence is the caller's business.
            ("add_system_prompt".into(), false.into()),
        ];
        for (kind, name) in ["image_token", "video_token", "audio_token"]
            .into_iter()
            .zip(&tokens.names)
        {
            context.extend(name.clone().map(|name| (kind.to_owned(), name.into())));
        }
        context.extend(self.tokens.iter().cloned());
        jinja::render(source, Jinja::from_pairs(context)).map_err(|e| Error::Tokenizer {
            path: self.path.clone(),
            problem: format!("the chat template failed: {e}"),
        })
    }
}

/// A template is a string, or a list of named ones.
fn source_of(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let named = value.as_array()?;
    let default = named
        .iter()
        .find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
    default
        .or(named.first())?
        .get("template")?
        .as_str()
        .map(str::to_owned)
}

fn chatml(system: &str, c: &Conversation, tokens: &MediaTokens) -> String {
    let mut text = String::new();
    if !system.is_empty() {
        text += "<|im_start|>system\n";
        text += system;
        text += "<|im_end|>\n";
    }
    for (role, parts) in c.turns() {
        text += "<|im_start|>";
        text += role.name();
        text += "\n";
        for part in parts {
            let token = match part {
                Part::Text(words) => {
                    text += words;
                    continue;
                }
                Part::Image(_) => &tokens.blocks[0],
                Part::Video(_) => &tokens.blocks[1],
                Part::Audio(_) => &tokens.blocks[2],
            };
            text += token.as_deref().unwrap_or_default();
        }
        text += "<|im_end|>\n";
    }
    text + "<|im_start|>assistant\n"
}
