//! From `--model` to a directory: a local path as it is, a hub id through the user's Hugging Face cache.
//!
//! hf-hub reads HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_TOKEN (or the token file). Offline mode, the choice of files and
//! resumed transfers are ours: hf-hub 1.0 has none of the three.

mod fetch;

use std::fs;
use std::path::{Path, PathBuf};

use outro::family::FAMILIES;
use serde_json::Value;

use crate::fault::Fault;
use crate::ui::Ui;

/// Small files of a checkpoint that the engine may read, in the order in which they are fetched.
const SMALL: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    outro::settings::FILE,
    INDEX,
];
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The directory (or file) that holds the checkpoint `model`.
pub(crate) fn resolve(model: &str, ui: &Ui) -> anyhow::Result<PathBuf> {
    let local = Path::new(model);
    if local.exists() {
        return Ok(local.to_path_buf());
    }
    let id = Id::parse(model).ok_or_else(|| {
        Fault::usage(format!("{model}: no such file or directory"))
            .hint("give the directory of a checkpoint, or a hub id such as Qwen/Qwen2.5-Omni-3B")
    })?;
    let cache = hf_hub::resolve_cache_dir();
    let cached = Cached::find(&cache, &id);
    if offline() {
        return from_cache_only(&id, &cache, cached);
    }
    match cached {
        // A commit never changes, so there is nothing to ask the hub.
        Some(c) if c.commit == id.revision && c.missing.is_empty() => Ok(c.dir),
        cached => fetch::fetch(&id, cached, ui),
    }
}

/// Where the hub's cache is, for reports.
pub(crate) fn cache_dir() -> PathBuf {
    hf_hub::resolve_cache_dir()
}

/// Whether the user forbids the network, in the spellings that the Python library takes.
pub(crate) fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|v| matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

fn from_cache_only(id: &Id, cache: &Path, cached: Option<Cached>) -> anyhow::Result<PathBuf> {
    let problem = match cached {
        Some(c) if c.missing.is_empty() => return Ok(c.dir),
        Some(c) => format!("is in the cache only in part: {} missing", c.missing.join(", ")),
        None => "is not in the cache".to_owned(),
    };
    Err(Fault::failure(format!(
        "{id} {problem} ({}), and HF_HUB_OFFLINE forbids the network",
        cache.display()
    ))
    .hint("unset HF_HUB_OFFLINE and run the command again, or give the directory of a checkpoint")
    .into())
}

/// `org/name` at a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Id {
    org: String,
    name: String,
    revision: String,
}

impl Id {
    fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (org, name) = path.split_once('/')?;
        let plain = |s: &str| {
            !s.is_empty()
                && !s.starts_with('.')
                && !s.starts_with('-')
                && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        // The revision names a file under refs/, so it must not lead out of there.
        let safe = revision.split('/').all(plain);
        (plain(org) && plain(name) && safe).then(|| Self {
            org: org.into(),
            name: name.into(),
            revision: revision.into(),
        })
    }

    /// The repository's directory in the cache.
    fn dir(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}--{}", self.org, self.name))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        if self.revision == "main" {
            Ok(())
        } else {
            write!(f, "@{}", self.revision)
        }
    }
}

/// What the cache holds of a model.
#[derive(Debug)]
struct Cached {
    commit: String,
    dir: PathBuf,
    /// Files without which the model cannot be used.
    missing: Vec<String>,
}

impl Cached {
    fn find(cache: &Path, id: &Id) -> Option<Self> {
        let repo = id.dir(cache);
        let commit = if is_commit(&id.revision) {
            id.revision.clone()
        } else {
            fs::read_to_string(repo.join("refs").join(&id.revision))
                .ok()?
                .trim()
                .to_owned()
        };
        let dir = repo.join("snapshots").join(&commit);
        dir.is_dir().then(|| Self {
            missing: missing(&dir),
            commit,
            dir,
        })
    }
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The files that a snapshot needs and does not hold. A link whose blob is gone counts as missing.
fn missing(dir: &Path) -> Vec<String> {
    let mut needed = vec!["config.json".to_owned()];
    match fs::read(dir.join(INDEX)).ok().and_then(|bytes| shards(&bytes)) {
        Some(shards) => needed.extend(shards),
        None if holds_weights(dir) => {}
        None => needed.push(SINGLE.to_owned()),
    }
    needed.retain(|name| !dir.join(name).exists());
    needed
}

fn holds_weights(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|e| e.path().extension().is_some_and(|x| x == "safetensors") && e.path().exists())
    })
}

/// The shards of an index that hold anything the engine reads, sorted; `None` where it is not an index.
fn shards(index: &[u8]) -> Option<Vec<String>> {
    let unread = |tensor: &str| {
        FAMILIES
            .iter()
            .flat_map(|f| f.names.skipped)
            .any(|part| tensor.starts_with(part))
    };
    let index: Value = serde_json::from_slice(index).ok()?;
    let mut names: Vec<String> = index
        .get("weight_map")?
        .as_object()?
        .iter()
        .filter(|(tensor, _)| !unread(tensor))
        .filter_map(|(_, shard)| shard.as_str().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = Id::parse("Qwen/Qwen2.5-Omni-3B").unwrap();
        assert_eq!(
            (id.org.as_str(), id.name.as_str(), id.revision.as_str()),
            ("Qwen", "Qwen2.5-Omni-3B", "main")
        );
        assert_eq!(id.to_string(), "Qwen/Qwen2.5-Omni-3B");
        assert_eq!(Id::parse("a/b@refs/pr/1").unwrap().to_string(), "a/b@refs/pr/1");
        for path in [
            "", "b", "a/", "/b", "./b", "../b", "a/b/c", "/a/b", "~/b", "a/..", "a/b@", "a/b@../x", "a/b@/x",
            "a b/c", "-a/b",
        ] {
            assert_eq!(Id::parse(path), None, "{path:?}");
        }
    }

    #[test]
    fn shards_that_hold_only_speech_output_are_left_out() {
        let index = br#"{"weight_map": {"thinker.model.a": "m-2", "talker.x": "m-2", "thinker.b": "m-1", "talker.y": "m-3", "token2wav.z": "m-4"}}"#;
        assert_eq!(shards(index).unwrap(), ["m-1", "m-2"]);
        assert_eq!(shards(b"{}"), None);
        assert_eq!(shards(b"not json"), None);
    }

    #[test]
    fn an_incomplete_snapshot_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(missing(dir.path()), ["config.json", SINGLE]);
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        fs::write(
            dir.path().join(INDEX),
            r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#,
        )
        .unwrap();
        fs::write(dir.path().join("m-1.safetensors"), "").unwrap();
        assert_eq!(missing(dir.path()), ["m-2.safetensors"]);
        fs::remove_file(dir.path().join(INDEX)).unwrap();
        assert!(missing(dir.path()).is_empty());
    }
}
