//! Text to token ids and back, from the files of a checkpoint directory.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Inner};

use crate::error::{Error, Result};

mod gguf;

/// How Qwen2 cuts text into words before merging bytes.
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A checkpoint's tokenizer. `Send + Sync`.
pub struct Tokenizer {
    inner: Inner,
    path: PathBuf,
    ends: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or `vocab.json` and `merges.txt`, in `dir`, or the metadata of a GGUF file; `None` where
    /// there is no tokenizer.
    ///
    /// # Errors
    /// Files that are there and cannot be used.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        if dir.is_file() {
            return gguf::open(dir);
        }
        let settings = read_json(&dir.join("tokenizer_config.json"))?;
        let (mut inner, path) = if dir.join("tokenizer.json").is_file() {
            let path = dir.join("tokenizer.json");
            let inner = Inner::from_file(&path).map_err(|e| failed(&path, format!("cannot be read: {e}")))?;
            (inner, path)
        } else if dir.join("vocab.json").is_file() && dir.join("merges.txt").is_file() {
            (byte_pairs(dir)?, dir.join("vocab.json"))
        } else {
            return Ok(None);
        };
        if let Some(settings) = &settings {
            add_tokens(&mut inner, settings, &dir.join("tokenizer_config.json"))?;
        }
        // A limit or padding that a training script left in the file must not cut prompts.
        inner
            .with_truncation(None)
            .map_err(|e| failed(&path, e.to_string()))?;
        inner.with_padding(None);
        let ends = end_tokens(dir, &inner, settings.as_ref())?;
        Ok(Some(Self { inner, path, ends }))
    }

    /// Ids of `text`; the names of special tokens in it become those tokens.
    ///
    /// # Errors
    /// A tokenizer that fails on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| failed(&self.path, e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids` without special tokens; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// A tokenizer that fails on the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, true)
            .map_err(|e| failed(&self.path, e.to_string()))
    }

    /// The name of one token, for displays: its text, or its entry in the vocabulary where it is part of a character.
    pub fn token(&self, id: u32) -> String {
        match self.inner.decode(&[id], false) {
            Ok(text) if !text.is_empty() && !text.contains('\u{fffd}') => text,
            _ => self.inner.id_to_token(id).unwrap_or_else(|| format!("<{id}>")),
        }
    }

    /// A token's entry in the vocabulary.
    pub fn name(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token by its exact name.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Tokens that end an answer.
    pub fn end_tokens(&self) -> &[u32] {
        &self.ends
    }

    /// A decoder for tokens that come one at a time.
    pub fn stream(&self) -> Stream<'_> {
        Stream {
            tokenizer: self,
            ids: Vec::new(),
            shown: 0,
        }
    }
}

/// Decodes tokens as they come. A piece is only given out once its last character is whole.
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens since the last cut; the first `shown` bytes of their text are out.
    ids: Vec<u32>,
    shown: usize,
}

/// Tokens after which a stream cuts at the next whole character; one that is never whole is given out at twice as many.
const STREAM_WINDOW: usize = 64;

impl Stream<'_> {
    /// The text that `token` completes; empty while a character is unfinished.
    ///
    /// # Errors
    /// A tokenizer that fails on the token.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.ids.push(token);
        let text = self.tokenizer.decode(&self.ids)?;
        if text.ends_with('\u{fffd}') && self.ids.len() < 2 * STREAM_WINDOW {
            return Ok(String::new());
        }
        let piece = text.get(self.shown..).unwrap_or_default().to_owned();
        self.shown = text.len();
        if self.ids.len() >= STREAM_WINDOW {
            // Keep a little, because some decoders treat the first token of a text differently.
            self.ids.drain(..self.ids.len() - 1);
            self.shown = self.tokenizer.decode(&self.ids)?.len();
        }
        Ok(piece)
    }

    /// What is left at the end, an unfinished character as U+FFFD.
    ///
    /// # Errors
    /// A tokenizer that fails on its own tokens.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(self.shown..).unwrap_or_default().to_owned())
    }
}

fn failed(path: &Path, problem: impl Into<String>) -> Error {
    Error::Tokenizer {
        path: path.into(),
        problem: problem.into(),
    }
}

/// A JSON file, `None` where it is not there.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let value = serde_json::from_str(&text);
            value
                .map(Some)
                .map_err(|e| Error::config(path, "", format!("not JSON: {e}")))
        }
        Err(e) if absent(&e) => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// No such file, also where the model is one file and has none beside it.
pub(crate) fn absent(e: &std::io::Error) -> bool {
    matches!(
        e.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

/// The byte-level BPE of Qwen2 from its two older files.
fn byte_pairs(dir: &Path) -> Result<Inner> {
    let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
    let wrong = |e: tokenizers::Error| failed(&vocab, format!("cannot be used with merges.txt: {e}"));
    let name = |p: &Path| {
        p.to_str()
            .map(str::to_owned)
            .ok_or_else(|| failed(p, "the path is not UTF-8"))
    };
    let bpe = BPE::from_file(&name(&vocab)?, &name(&merges)?)
        .build()
        .map_err(wrong)?;
    let mut inner = Inner::new(bpe);
    let words = words(&[QWEN2_WORDS]).map_err(wrong)?;
    let bytes = ByteLevel::new(false, false, false);
    inner.with_normalizer(Some(NFC)).map_err(wrong)?;
    inner.with_pre_tokenizer(Some(words));
    inner.with_decoder(Some(bytes));
    Ok(inner)
}

/// Cuts text by each expression in turn, then turns bytes into the letters of a byte-level vocabulary.
fn words(expressions: &[&str]) -> tokenizers::Result<Sequence> {
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for e in expressions {
        let pattern = SplitPattern::Regex((*e).into());
        steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
    }
    steps.push(ByteLevel::new(false, false, false).into());
    Ok(Sequence::new(steps))
}

/// Adds the tokens of `added_tokens_decoder` that the tokenizer does not know yet, and checks the ids of all.
fn add_tokens(inner: &mut Inner, settings: &Value, path: &Path) -> Result<()> {
    let Some(listed) = settings.get("added_tokens_decoder").and_then(Value::as_object) else {
        return Ok(());
    };
    let mut tokens: Vec<(u32, &Value)> = Vec::new();
    for (id, token) in listed {
        let id = id.parse().map_err(|_| {
            Error::config(
                path,
                format!("added_tokens_decoder.{id}"),
                "the key must be a token id",
            )
        })?;
        tokens.push((id, token));
    }
    tokens.sort_by_key(|t| t.0);
    for (id, token) in tokens {
        let field = format!("added_tokens_decoder.{id}");
        let Some(content) = token.get("content").and_then(Value::as_str) else {
            return Err(Error::config(path, field, "has no `content`"));
        };
        if inner.token_to_id(content).is_none() {
            let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
            let added = AddedToken::from(content, flag("special"))
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(flag("normalized"));
            let done = if flag("special") {
                inner.add_special_tokens([added])
            } else {
                inner.add_tokens([added])
            };
            done.map_err(|e| Error::config(path, &field, e.to_string()))?;
        }
        if inner.token_to_id(content) != Some(id) {
            let problem = format!(
                "`{content}` has the id {:?} in the tokenizer",
                inner.token_to_id(content)
            );
            return Err(Error::config(path, field, problem));
        }
    }
    Ok(())
}

/// Ends of an answer: what generation_config.json or config.json name, the tokenizer's own, and ChatML's two.
fn end_tokens(dir: &Path, inner: &Inner, settings: Option<&Value>) -> Result<Vec<u32>> {
    let mut ends = Vec::new();
    let mut add = |id: Option<u32>| {
        if let Some(id) = id.filter(|id| !ends.contains(id)) {
            ends.push(id);
        }
    };
    let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    for file in ["generation_config.json", "config.json"] {
        let Some(value) = read_json(&dir.join(file))? else {
            continue;
        };
        for place in [
            "/eos_token_id",
            "/thinker_config/eos_token_id",
            "/thinker_config/text_config/eos_token_id",
        ] {
            match value.pointer(place) {
                Some(Value::Array(list)) => list.iter().for_each(|v| add(number(v))),
                Some(v) => add(number(v)),
                None => {}
            }
        }
    }
    let eos = settings.and_then(|s| s.get("eos_token"));
    let eos = eos.and_then(|e| e.as_str().or_else(|| e.get("content").and_then(Value::as_str)));
    for name in eos.into_iter().chain(["<|im_end|>", "<|endoftext|>"]) {
        add(inner.token_to_id(name));
    }
    Ok(ends)
}
