//! Conversations, and their text through a checkpoint's chat template.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value as Jinja, context};
use serde_json::Value;

use crate::checkpoint::gguf::Gguf;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::tokenizer::{absent, read_json};

/// One piece of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text(String),
    /// An image file.
    Image(PathBuf),
    /// A video file.
    Video(PathBuf),
    /// A sound file.
    Audio(PathBuf),
}

/// One question to the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The system turn; `None` is the family's default sentence, an empty string is no sentence.
    pub system: Option<String>,
    /// The user's turn: media in their order, then words.
    pub user: Vec<Part>,
}

impl Conversation {
    /// Media first, in their order, then the words, as the models were trained to be asked.
    pub fn new(system: Option<String>, media: &[Part], question: &str) -> Self {
        let mut user = media.to_vec();
        user.push(Part::Text(question.to_owned()));
        Self { system, user }
    }

    /// The media, in their order.
    pub fn media(&self) -> impl Iterator<Item = &Part> {
        self.user.iter().filter(|p| !matches!(p, Part::Text(_)))
    }

    /// The words, joined.
    pub fn question(&self) -> String {
        let words = self.user.iter().filter_map(|p| {
            if let Part::Text(t) = p {
                Some(t.as_str())
            } else {
                None
            }
        });
        words.collect::<Vec<_>>().join("\n")
    }
}

/// Names of the tokens around and for media, as the tokenizer spells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MediaTokens {
    pub(crate) image: Option<String>,
    pub(crate) video: Option<String>,
    pub(crate) audio: Option<String>,
}

/// How a family writes a conversation down.
pub(crate) struct Template {
    path: PathBuf,
    source: Option<String>,
    /// The default sentence; `None` leaves it to the template.
    system: Option<&'static str>,
    /// Text models' templates take a turn's content as one string, the others' as a list of parts.
    text_only: bool,
    /// Names of the first and the last token of a text, which some templates spell out.
    bos: String,
    eos: String,
    /// Whether a prompt begins with `bos` where the template leaves it out.
    add_bos: bool,
}

impl Template {
    /// The template in `dir`: chat_template.json, chat_template.jinja, or in tokenizer_config.json; or in the metadata of
    /// a GGUF file; else ChatML.
    pub(crate) fn open(dir: &Path, config: &Config) -> Result<Self> {
        let text_only = config.vision.is_none() && config.audio.is_none();
        let mut this = Self {
            path: dir.into(),
            source: None,
            system: Some(config.system),
            text_only,
            bos: String::new(),
            eos: String::new(),
            add_bos: false,
        };
        if dir.is_file() {
            this.read_gguf(&Gguf::open(dir)?)?;
        } else {
            this.read_dir(dir)?;
        }
        if config.frames.plain_chat {
            this.source = None;
        }
        if text_only && this.source.is_some() {
            this.system = None;
        }
        Ok(this)
    }

    fn read_gguf(&mut self, file: &Gguf) -> Result<()> {
        self.source = file.text("tokenizer.chat_template")?.map(str::to_owned);
        let name = |key: &str| -> Result<String> {
            match file.id(key)? {
                None => Ok(String::new()),
                Some(id) => file.text_at("tokenizer.ggml.tokens", id as usize),
            }
        };
        self.bos = name("tokenizer.ggml.bos_token_id")?;
        self.eos = name("tokenizer.ggml.eos_token_id")?;
        self.add_bos = file.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(false);
        Ok(())
    }

    fn read_dir(&mut self, dir: &Path) -> Result<()> {
        let settings = read_json(&dir.join("tokenizer_config.json"))?;
        let name = |key: &str| {
            let value = settings.as_ref()?.get(key)?;
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            text.map(str::to_owned)
        };
        self.bos = name("bos_token").unwrap_or_default();
        self.eos = name("eos_token").unwrap_or_default();
        for file in [
            "chat_template.json",
            "chat_template.jinja",
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

    /// The conversation's text up to the answer, one placeholder a medium. `own` is the model's system sentence, before
    /// the family's.
    pub(crate) fn render(&self, c: &Conversation, own: Option<&str>, tokens: &MediaTokens) -> Result<String> {
        let system = c.system.as_deref().or(own).or(self.system).unwrap_or_default();
        let text = match &self.source {
            None => chatml(system, c, tokens),
            Some(source) => self.jinja(source, system, c)?,
        };
        if self.add_bos && !text.starts_with(&self.bos) {
            return Ok(self.bos.clone() + &text);
        }
        Ok(text)
    }

    fn jinja(&self, source: &str, system: &str, c: &Conversation) -> Result<String> {
        let failed = |e: &minijinja::Error| Error::Tokenizer {
            path: self.path.clone(),
            problem: format!("the chat template failed: {e}"),
        };
        let content: Vec<Jinja> = c
            .user
            .iter()
            .map(|part| match part {
                Part::Text(text) => context! { type => "text", text },
                Part::Image(p) => context! { type => "image", image => p.to_string_lossy().into_owned() },
                // Some templates write a placeholder a frame; here it is one a video.
                Part::Video(p) => {
                    context! { type => "video", video => p.to_string_lossy().into_owned(), num_frames => 1 }
                }
                Part::Audio(p) => context! { type => "audio", audio => p.to_string_lossy().into_owned() },
            })
            .collect();
        let mut messages = Vec::new();
        if self.text_only {
            if !system.is_empty() {
                messages.push(context! { role => "system", content => system });
            }
            messages.push(context! { role => "user", content => c.question() });
        } else {
            if !system.is_empty() {
                let content = vec![context! { type => "text", text => system }];
                messages.push(context! { role => "system", content });
            }
            messages.push(context! { role => "user", content });
        }
        let mut env = Environment::new();
        // The reference's Jinja runs with these.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        env.set_syntax(syntax.map_err(|e| failed(&e))?);
        // A template from a file may loop; a conversation needs far fewer steps than this.
        env.set_recursion_limit(64);
        env.set_unknown_method_callback(python_method);
        env.add_function(
            "raise_exception",
            |text: String| -> std::result::Result<Jinja, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
            },
        );
        let source = plain_blocks(source);
        env.add_template("chat", &source).map_err(|e| failed(&e))?;
        let template = env.get_template("chat").map_err(|e| failed(&e))?;
        let text = template
            .render(context! { messages, add_generation_prompt => true, bos_token => &self.bos, eos_token => &self.eos })
            .map_err(|e| failed(&e))?;
        Ok(text)
    }
}

/// Blocks that only training marks (`{% generation %}`) become ones that always hold.
fn plain_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("{%") {
        out += before;
        out += "{%";
        rest = after;
        let Some((tag, _)) = after.split_once("%}") else {
            break;
        };
        let plain = match tag.trim_matches(['-', '+', ' ', '\n']) {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        let edge = |c: Option<char>| {
            c.filter(|c| "-+".contains(*c))
                .map(String::from)
                .unwrap_or_default()
        };
        out += &edge(tag.chars().next());
        out += &[" ", plain, " "].concat();
        out += &edge(tag.chars().last());
        rest = &after[tag.len()..];
    }
    out + rest
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

/// The string methods of Python that chat templates call.
fn python_method(
    _: &mut minijinja::State,
    value: &Jinja,
    method: &str,
    args: &[Jinja],
) -> std::result::Result<Jinja, minijinja::Error> {
    let unknown = || minijinja::Error::new(ErrorKind::UnknownMethod, format!("no method `{method}`"));
    if method == "get" && value.kind() == minijinja::value::ValueKind::Map {
        let found = args
            .first()
            .map(|k| value.get_item(k))
            .transpose()?
            .unwrap_or_default();
        let default = args.get(1).cloned().unwrap_or_else(|| Jinja::from(()));
        return Ok(if found.is_undefined() { default } else { found });
    }
    if method == "items" && value.kind() == minijinja::value::ValueKind::Map {
        let pairs: Vec<Jinja> = value
            .try_iter()?
            .map(|k| Ok(Jinja::from(vec![k.clone(), value.get_item(&k)?])))
            .collect::<std::result::Result<_, minijinja::Error>>()?;
        return Ok(Jinja::from(pairs));
    }
    let text = value.as_str().ok_or_else(unknown)?;
    let arg = args.first().and_then(|a| a.as_str().map(str::to_owned));
    Ok(match (method, arg) {
        ("strip", None) => Jinja::from(text.trim()),
        ("lstrip", None) => Jinja::from(text.trim_start()),
        ("rstrip", None) => Jinja::from(text.trim_end()),
        ("strip", Some(set)) => Jinja::from(text.trim_matches(|c| set.contains(c))),
        ("lstrip", Some(set)) => Jinja::from(text.trim_start_matches(|c| set.contains(c))),
        ("rstrip", Some(set)) => Jinja::from(text.trim_end_matches(|c| set.contains(c))),
        ("upper", _) => Jinja::from(text.to_uppercase()),
        ("lower", _) => Jinja::from(text.to_lowercase()),
        ("startswith", Some(s)) => Jinja::from(text.starts_with(&s)),
        ("endswith", Some(s)) => Jinja::from(text.ends_with(&s)),
        ("split", Some(s)) if !s.is_empty() => {
            Jinja::from(text.split(&s).map(Jinja::from).collect::<Vec<_>>())
        }
        _ => return Err(unknown()),
    })
}

fn chatml(system: &str, c: &Conversation, tokens: &MediaTokens) -> String {
    let mut text = String::new();
    if !system.is_empty() {
        text += "<|im_start|>system\n";
        text += system;
        text += "<|im_end|>\n";
    }
    text += "<|im_start|>user\n";
    for part in &c.user {
        let token = match part {
            Part::Text(words) => {
                text += words;
                continue;
            }
            Part::Image(_) => &tokens.image,
            Part::Video(_) => &tokens.video,
            Part::Audio(_) => &tokens.audio,
        };
        text += token.as_deref().unwrap_or_default();
    }
    text + "<|im_end|>\n<|im_start|>assistant\n"
}
