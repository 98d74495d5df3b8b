//! Text to token ids and back, from the files of a checkpoint directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer as Inner;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::{Error, Result};
use crate::spec::generation::GenerationFile;
use crate::weights::json::{read_json, read_text};

mod added;
mod gguf;
mod words;

use added::Listed;
pub(crate) use added::named_tokens;
pub(crate) use gguf::{adds_bos, special_tokens};

/// A checkpoint's tokenizer. `Send + Sync`.
pub struct Tokenizer {
    inner: Inner,
    path: PathBuf,
    form: String,
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
        Self::of(dir, &GenerationFile::read(dir)?)
    }

    /// [`Tokenizer::open`] beside a generation_config.json that was read.
    pub(crate) fn of(dir: &Path, generation: &GenerationFile) -> Result<Option<Self>> {
        if dir.is_file() {
            return gguf::open(dir);
        }
        let settings = read_json(&dir.join("tokenizer_config.json"))?;
        let listed = added::listed(dir)?;
        let (path, vocab) = (dir.join("tokenizer.json"), dir.join("vocab.json"));
        let (mut inner, path, form) = if path.is_file() {
            (whole(&path, &listed)?, path, "tokenizer.json")
        } else if vocab.is_file() && dir.join("merges.txt").is_file() {
            (
                byte_pairs(dir, &listed, settings.as_ref())?,
                vocab,
                "vocab.json and merges.txt",
            )
        } else {
            return Ok(None);
        };
        added::add(&mut inner, listed)?;
        // A limit or padding that a training script left in the file must not cut prompts.
        inner
            .with_truncation(None)
            .map_err(|e| failed(&path, e.to_string()))?;
        inner.with_padding(None);
        let ends = end_tokens(dir, &inner, settings.as_ref(), generation)?;
        Ok(Some(Self {
            inner,
            path,
            form: form.into(),
            ends,
        }))
    }

    /// Writes it as a tokenizer.json.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = self
            .inner
            .to_string(true)
            .map_err(|e| failed(&self.path, e.to_string()))?;
        std::fs::write(path, json).map_err(Error::io(path))
    }

    /// What it was read from, for displays: file names, or the kind of tokenizer in a GGUF file.
    pub fn form(&self) -> &str {
        &self.form
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
}

/// Decodes tokens as they come. A piece is only given out once its last character is whole.
#[derive(Debug, Default)]
pub struct TextStream {
    /// Tokens since the last cut; the first `shown` bytes of their text are out.
    ids: Vec<u32>,
    shown: usize,
}

/// Tokens after which a stream cuts at the next whole character; one that is never whole is given out at twice as many.
const STREAM_WINDOW: usize = 64;

impl TextStream {
    /// The text that `token` completes; empty while a character is unfinished.
    ///
    /// # Errors
    /// A tokenizer that fails on the token.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<String> {
        self.ids.push(token);
        let text = tokenizer.decode(&self.ids)?;
        if text.ends_with('\u{fffd}') && self.ids.len() < 2 * STREAM_WINDOW {
            return Ok(String::new());
        }
        let piece = text.get(self.shown..).unwrap_or_default().to_owned();
        self.shown = text.len();
        if self.ids.len() >= STREAM_WINDOW {
            // Keep a little, because some decoders treat the first token of a text differently.
            self.ids.drain(..self.ids.len() - 1);
            self.shown = tokenizer.decode(&self.ids)?.len();
        }
        Ok(piece)
    }

    /// What is left at the end, an unfinished character as U+FFFD.
    ///
    /// # Errors
    /// A tokenizer that fails on its own tokens.
    pub fn finish(self, tokenizer: &Tokenizer) -> Result<String> {
        let text = tokenizer.decode(&self.ids)?;
        Ok(text.get(self.shown..).unwrap_or_default().to_owned())
    }
}

fn failed(path: &Path, problem: impl Into<String>) -> Error {
    Error::Tokenizer {
        path: path.into(),
        problem: problem.into(),
    }
}

/// tokenizer.json, with the listed tokens that it lacks.
fn whole(path: &Path, listed: &[Listed]) -> Result<Inner> {
    let unreadable = |e: &dyn std::fmt::Display| failed(path, format!("cannot be read: {e}"));
    let text = read_text(path).map_err(Error::io(path))?;
    let inner = Inner::from_bytes(&text).map_err(|e| unreadable(&e))?;
    let missing = added::missing(listed, |t| inner.token_to_id(t), |id| inner.id_to_token(id))?;
    if missing.is_empty() {
        return Ok(inner);
    }
    let mut json: Value = serde_json::from_str(&text).map_err(|e| unreadable(&e))?;
    let vocab = json.pointer_mut("/model/vocab").and_then(Value::as_object_mut);
    let vocab = vocab.ok_or_else(|| {
        failed(
            path,
            format!(
                "lacks `{}`, and has no vocabulary that could get it",
                missing[0].0
            ),
        )
    })?;
    vocab.extend(missing.into_iter().map(|(token, id)| (token, id.into())));
    Inner::from_bytes(json.to_string()).map_err(|e| unreadable(&e))
}

/// The byte-level BPE of Qwen2 from its two older files, with the listed tokens that they lack.
fn byte_pairs(dir: &Path, listed: &[Listed], settings: Option<&Value>) -> Result<Inner> {
    let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
    let wrong = |e: tokenizers::Error| failed(&vocab, format!("cannot be used with merges.txt: {e}"));
    let name = |p: &Path| {
        p.to_str()
            .map(str::to_owned)
            .ok_or_else(|| failed(p, "the path is not UTF-8"))
    };
    let (mut tokens, merges) = BPE::read_file(&name(&vocab)?, &name(&merges)?).map_err(wrong)?;
    let name_of = |id| tokens.iter().find(|t| *t.1 == id).map(|t| t.0.clone());
    let missing = added::missing(listed, |t| tokens.get(t).copied(), name_of)?;
    tokens.extend(missing);
    let bpe = BPE::builder()
        .vocab_and_merges(tokens, merges)
        .build()
        .map_err(wrong)?;
    let mut inner = Inner::new(bpe);
    let space = settings
        .and_then(|s| s.get("add_prefix_space"))
        .and_then(Value::as_bool);
    let words = words::cut(&[words::QWEN2], space.unwrap_or(false)).map_err(wrong)?;
    inner.with_normalizer(Some(NFC)).map_err(wrong)?;
    inner.with_pre_tokenizer(Some(words));
    inner.with_decoder(Some(ByteLevel::new(false, false, false)));
    Ok(inner)
}

/// Ends of an answer that a file names, of a model or of its thinker.
fn ends_in(file: &Value) -> Vec<u32> {
    let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let places = [
        "/eos_token_id",
        "/thinker_eos_token_id",
        "/thinker_config/eos_token_id",
        "/thinker_config/text_config/eos_token_id",
        "/text_config/eos_token_id",
    ];
    let found = places.iter().filter_map(|place| file.pointer(place));
    found
        .flat_map(|value| match value {
            Value::Array(list) => list.iter().filter_map(number).collect(),
            one => number(one).into_iter().collect::<Vec<_>>(),
        })
        .collect()
}

/// Ends of an answer: what generation_config.json names, else config.json, with the tokenizer's own and ChatML's two.
fn end_tokens(
    dir: &Path,
    inner: &Inner,
    settings: Option<&Value>,
    generation: &GenerationFile,
) -> Result<Vec<u32>> {
    let mut ends = generation.value().map_or_else(Vec::new, ends_in);
    if ends.is_empty() {
        let config = read_json(&dir.join("config.json"))?;
        ends = config.as_ref().map_or_else(Vec::new, ends_in);
    }
    let eos = settings.and_then(|s| s.get("eos_token"));
    let eos = eos.and_then(|e| e.as_str().or_else(|| e.get("content").and_then(Value::as_str)));
    let names = eos.into_iter().chain(["<|im_end|>", "<|endoftext|>"]);
    ends.extend(names.filter_map(|name| inner.token_to_id(name)));
    let mut seen = BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    Ok(ends)
}
