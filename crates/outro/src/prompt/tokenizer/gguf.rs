//! The tokenizer in a GGUF file's metadata: a byte-level vocabulary with merges.

use std::collections::HashSet;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::words::{Words, cut};
use super::{Tokenizer, failed};
use crate::error::Result;
use crate::weights::checkpoint::gguf::Gguf;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";

/// Types of a token that are not plain text.
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

pub(super) fn open(path: &Path) -> Result<Option<Tokenizer>> {
    let file = Gguf::open(path)?;
    let key = "tokenizer.ggml.model";
    match file.text(key)? {
        None => return Ok(None),
        Some("gpt2") => {}
        Some(other) => {
            let problem = format!("is `{other}`; only gpt2, a byte-level BPE, is read");
            return Err(file.error(key, &problem));
        }
    }
    let tokens = file
        .texts(TOKENS)?
        .ok_or_else(|| file.error(TOKENS, "missing; a tokenizer has it"))?;
    let types = file.ints(TYPES)?.unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        let problem = format!("has {} entries for {} tokens", types.len(), tokens.len());
        return Err(file.error(TYPES, &problem));
    }
    let merges = merges(&file, &tokens)?;
    let mut vocab = Vocab::default();
    for (id, token) in tokens.iter().enumerate() {
        // Ids are counted in 32 bits; the file would have to be larger than any for more.
        if vocab.insert(token.clone(), id as u32).is_some() {
            return Err(file.error(TOKENS, &format!("holds `{token}` twice")));
        }
    }
    let wrong = |e: tokenizers::Error| failed(path, format!("its tokenizer cannot be used: {e}"));
    let words = words(&file)?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(words.whole)
        .build()
        .map_err(wrong)?;
    let mut inner = Inner::new(bpe);
    if words.composed {
        inner.with_normalizer(Some(NFC)).map_err(wrong)?;
    }
    inner.with_pre_tokenizer(Some(cut(words.expressions, false).map_err(wrong)?));
    inner.with_decoder(Some(ByteLevel::new(false, false, false)));
    let of_type = |wanted: i128, special: bool| {
        let named = tokens.iter().zip(&types).filter(move |(_, t)| **t == wanted);
        named.map(move |(token, _)| AddedToken::from(token.clone(), special).normalized(false))
    };
    let (special, plain): (Vec<_>, Vec<_>) = (
        of_type(CONTROL, true).collect(),
        of_type(USER_DEFINED, false).collect(),
    );
    inner.add_special_tokens(special).map_err(wrong)?;
    inner.add_tokens(plain).map_err(wrong)?;
    let ends = ends(&file, &inner, tokens.len())?;
    Ok(Some(Tokenizer {
        inner,
        path: path.into(),
        form: format!("{PRE} = {}", file.text(PRE)?.unwrap_or("default")),
        ends,
    }))
}

/// How the file's tokenizer cuts text.
fn words(file: &Gguf) -> Result<&'static Words> {
    let name = file.text(PRE)?.unwrap_or("default");
    Words::named(name).ok_or_else(|| {
        file.error(
            PRE,
            &format!("is `{name}`; these are read: {}", Words::names().join(", ")),
        )
    })
}

/// Whether a prompt begins with the token for beginnings.
pub(crate) fn adds_bos(file: &Gguf) -> Result<bool> {
    let default = || words(file).is_ok_and(|w| w.begins);
    Ok(file.flag("tokenizer.ggml.add_bos_token")?.unwrap_or_else(default))
}

/// Special tokens that a file names, by the names that `tokenizer_config.json` gives them.
pub(crate) fn special_tokens(file: &Gguf) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for (name, key) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("pad_token", "padding"),
    ] {
        if let Some(id) = file.id(&format!("tokenizer.ggml.{key}_token_id"))? {
            found.push((name, file.text_at(TOKENS, id as usize)?));
        }
    }
    Ok(found)
}

/// Pairs of tokens in the order in which they are merged; each pair and what it makes are in the vocabulary.
fn merges(file: &Gguf, tokens: &[String]) -> Result<Vec<(String, String)>> {
    let list = file
        .texts(MERGES)?
        .ok_or_else(|| file.error(MERGES, "missing; a byte-level BPE has it"))?;
    let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
    list.iter()
        .map(|merge| {
            let pair = merge.split_once(' ').filter(|(a, b)| {
                known.contains(a) && known.contains(b) && known.contains(format!("{a}{b}").as_str())
            });
            match pair {
                Some((a, b)) => Ok((a.to_owned(), b.to_owned())),
                None => Err(file.error(
                    MERGES,
                    &format!("holds `{merge}`, which is not two tokens that make a third"),
                )),
            }
        })
        .collect()
}

/// Tokens that end an answer: those that the file names, and the usual ones that it has.
fn ends(file: &Gguf, inner: &Inner, tokens: usize) -> Result<Vec<u32>> {
    let mut ends = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        let key = format!("tokenizer.ggml.{key}");
        if let Some(id) = file.id(&key)? {
            if id as usize >= tokens {
                return Err(file.error(&key, &format!("is {id}, there are {tokens} tokens")));
            }
            ends.push(id);
        }
    }
    for name in ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"] {
        ends.extend(inner.token_to_id(name));
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}
