//! Tokens beside a vocabulary, from the files in which releases of transformers list them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::read_json;
use crate::error::{Error, Result};

const CONFIG: &str = "tokenizer_config.json";

/// A token that the files list.
pub(super) struct Listed {
    pub(super) token: AddedToken,
    /// Its id, if the file says it.
    pub(super) id: Option<u32>,
    path: PathBuf,
    field: String,
}

impl Listed {
    fn error(&self, problem: impl Into<String>) -> Error {
        Error::config(&self.path, &self.field, problem)
    }
}

/// Names of special tokens, by what they are for: `eos_token`, `image_token`, ...; lists have a name in the plural.
/// tokenizer_config.json comes before special_tokens_map.json.
pub(crate) fn named_tokens(dir: &Path) -> Result<Vec<(String, Vec<String>)>> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    let text = |v: &Value| {
        v.as_str()
            .or_else(|| v.get("content")?.as_str())
            .map(str::to_owned)
    };
    let mut add = |key: &str, value: &Value| {
        let tokens: Vec<String> = match value {
            Value::Array(list) => list.iter().filter_map(text).collect(),
            one => text(one).into_iter().collect(),
        };
        if !tokens.is_empty() && !all.iter().any(|(k, _)| k == key) {
            all.push((key.to_owned(), tokens));
        }
    };
    for file in [CONFIG, "special_tokens_map.json"] {
        let Some(Value::Object(fields)) = read_json(&dir.join(file))? else {
            continue;
        };
        for (key, value) in &fields {
            match (key.as_str(), value) {
                ("extra_special_tokens", Value::Object(own)) => own.iter().for_each(|(k, v)| add(k, v)),
                ("extra_special_tokens" | "additional_special_tokens", list) => {
                    add("additional_special_tokens", list);
                }
                (key, one) if key.ends_with("_token") && !one.is_array() => add(key, one),
                _ => {}
            }
        }
    }
    Ok(all)
}

/// All tokens of `added_tokens_decoder`, added_tokens.json and [`named_tokens`], those with ids first, in their order.
///
/// # Errors
/// Entries that are none, two ids for a token, two tokens for an id.
pub(super) fn listed(dir: &Path) -> Result<Vec<Listed>> {
    let mut all: BTreeMap<String, Listed> = BTreeMap::new();
    let path = dir.join(CONFIG);
    let settings = read_json(&path)?.unwrap_or_default();
    for (id, token) in settings
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let field = format!("added_tokens_decoder.{id}");
        let wrong = |problem: &str| Error::config(&path, &field, problem);
        let id: u32 = id.parse().map_err(|_| wrong("the key must be a token id"))?;
        let content = token.get("content").and_then(Value::as_str);
        let content = content.ok_or_else(|| wrong("has no `content`"))?;
        let flag = |key: &str| token.get(key).and_then(Value::as_bool);
        let special = flag("special").unwrap_or(false);
        let token = AddedToken::from(content, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special));
        put(
            &mut all,
            Listed {
                token,
                id: Some(id),
                path: path.clone(),
                field,
            },
        )?;
    }
    let path = dir.join("added_tokens.json");
    for (content, id) in read_json(&path)?
        .as_ref()
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let number = id.as_u64().and_then(|n| u32::try_from(n).ok());
        let Some(number) = number else {
            return Err(Error::config(
                &path,
                content,
                format!("is {id}, must be a token id"),
            ));
        };
        let token = AddedToken::from(content.as_str(), false).normalized(true);
        put(
            &mut all,
            Listed {
                token,
                id: Some(number),
                path: path.clone(),
                field: content.clone(),
            },
        )?;
    }
    for (key, tokens) in named_tokens(dir)? {
        for content in tokens {
            // What has its own entry keeps its other flags.
            let found = all.entry(content.clone()).or_insert_with(|| Listed {
                token: AddedToken::from(content, true),
                id: None,
                path: dir.join(CONFIG),
                field: key.clone(),
            });
            if found.path == path {
                found.token.normalized = false;
            }
            found.token.special = true;
        }
    }
    let mut all: Vec<Listed> = all.into_values().collect();
    all.sort_by_key(|l| l.id.unwrap_or(u32::MAX));
    for pair in all.windows(2) {
        if pair[0].id.is_some() && pair[0].id == pair[1].id {
            let problem = format!(
                "has the id of `{}`; each token needs its own",
                pair[0].token.content
            );
            return Err(pair[1].error(problem));
        }
    }
    Ok(all)
}

/// The first file that lists a token knows it best; the second may not give it another id.
fn put(all: &mut BTreeMap<String, Listed>, new: Listed) -> Result<()> {
    match all.get(&new.token.content) {
        Some(old) if old.id != new.id => {
            let (name, [a, b]) = (
                &new.token.content,
                [old.id, new.id].map(Option::unwrap_or_default),
            );
            Err(new.error(format!("`{name}` has the id {b}, in {} {a}", old.path.display())))
        }
        Some(_) => Ok(()),
        None => {
            all.insert(new.token.content.clone(), new);
            Ok(())
        }
    }
}

/// Tokens with an id that a vocabulary does not have; it has to get them at these ids.
///
/// # Errors
/// An id that another token has.
pub(super) fn missing(
    listed: &[Listed],
    id_of: impl Fn(&str) -> Option<u32>,
    name_of: impl Fn(u32) -> Option<String>,
) -> Result<Vec<(String, u32)>> {
    let mut missing = Vec::new();
    for one in listed {
        let content = &one.token.content;
        let Some(id) = one.id.filter(|_| id_of(content).is_none()) else {
            continue;
        };
        if let Some(other) = name_of(id) {
            return Err(one.error(format!(
                "`{content}` has the id {id}, which `{other}` has in the tokenizer"
            )));
        }
        missing.push((content.clone(), id));
    }
    Ok(missing)
}

/// Makes every listed token one that text is searched for before it is cut into words.
///
/// # Errors
/// A token with another id than the vocabulary's, and an id that another token has.
pub(super) fn add(inner: &mut Inner, listed: Vec<Listed>) -> Result<()> {
    for one in listed {
        let content = &one.token.content;
        let have = inner.token_to_id(content);
        match (one.id, have) {
            // A name without a token, as a slow tokenizer's `unk_token`, stands for nothing in a text.
            (None, None) => continue,
            (None, Some(id))
                if inner
                    .get_added_vocabulary()
                    .get_added_tokens_decoder()
                    .contains_key(&id) =>
            {
                continue;
            }
            (Some(id), Some(have)) if id != have => {
                return Err(one.error(format!("`{content}` has the id {have} in the tokenizer")));
            }
            _ => {}
        }
        let (special, token) = (one.token.special, [one.token.clone()]);
        let done = if special {
            inner.add_special_tokens(token)
        } else {
            inner.add_tokens(token)
        };
        done.map_err(|e| one.error(e.to_string()))?;
        let now = inner.token_to_id(content);
        if one.id.is_some() && now != one.id {
            return Err(one.error(format!("`{content}` has the id {now:?} in the tokenizer")));
        }
    }
    Ok(())
}
