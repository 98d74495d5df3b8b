//! The cache, in the layout of `huggingface_hub`:
//!
//! ```text
//! models--ORG--NAME/blobs/OID               contents, by git hash or, of large files, SHA-256
//! models--ORG--NAME/refs/REVISION           the commit that a branch or tag meant last
//! models--ORG--NAME/snapshots/COMMIT/FILE   links to ../../blobs/OID
//! models--ORG--NAME/.no_exist/COMMIT/FILE   files that the repository does not have
//! models--ORG--NAME/trees/COMMIT.json       its listing (Python only)
//! .locks/models--ORG--NAME/OID.lock         held while a file is fetched
//! ```

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use outro::checkpoint::{files, shards};
use outro::config::Config;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::id::Id;
use crate::other::{Wanted, wanted};

/// A repository's place in the cache.
pub(crate) struct Repo {
    dir: PathBuf,
    locks: PathBuf,
}

impl Repo {
    pub(crate) fn new(cache: &Path, id: &Id) -> Self {
        Self {
            dir: cache.join(id.folder()),
            locks: cache.join(".locks").join(id.folder()),
        }
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// Where contents are, made if need be.
    pub(crate) fn blobs(&self) -> Result<PathBuf> {
        let blobs = self.dir.join("blobs");
        fs::create_dir_all(&blobs).map_err(Error::io(&blobs, "cannot be created"))?;
        Ok(blobs)
    }

    fn no_exist(&self, commit: &str, name: &str) -> PathBuf {
        self.dir.join(".no_exist").join(commit).join(name)
    }

    /// Notes that the commit has no such file, so that nobody asks again. The cache may be read-only; then they do.
    pub(crate) fn note_absent(&self, commit: &str, name: &str) {
        let path = self.no_exist(commit, name);
        if !path.exists() {
            let _ = fs::create_dir_all(self.no_exist(commit, "")).and_then(|()| File::create(path));
        }
    }

    /// Notes which commit the branch means, as the Python library does; offline runs read it.
    pub(crate) fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.dir.join("refs").join(revision);
        if is_commit(revision) || fs::read_to_string(&path).is_ok_and(|c| c == commit) {
            return Ok(());
        }
        let write = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&path, commit)
        };
        write().map_err(Error::io(&path, "cannot be written"))
    }

    /// Puts a blob into the snapshot; where there are no links, a copy of it.
    pub(crate) fn link(&self, commit: &str, name: &str, oid: &str) -> Result<()> {
        let dir = self.snapshot(commit);
        let target = dir.join(name);
        let place = || {
            fs::create_dir_all(&dir)?;
            // A link whose blob is gone is in the way.
            match fs::remove_file(&target) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let blob = Path::new("../../blobs").join(oid);
            symlink(&blob, &target).or_else(|_| fs::copy(dir.join(blob), &target).map(|_| ()))
        };
        place().map_err(Error::io(&target, "cannot be put in its place"))
    }

    /// One process at a time per file, Python's included; `wait` is called where another one has it. A file system
    /// without locks goes without.
    pub(crate) fn lock(&self, key: &str, wait: impl FnOnce()) -> Result<File> {
        let path = self.locks.join(format!("{key}.lock"));
        let lock = || {
            fs::create_dir_all(&self.locks)?;
            let file = File::create(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    wait();
                    file.lock()?;
                }
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(e)) => return Err(e),
            }
            Ok(file)
        };
        lock().map_err(Error::io(&path, "cannot be locked"))
    }

    /// The names of the commit's files, where Python has left them.
    fn listing(&self, commit: &str) -> Option<Vec<String>> {
        let bytes = fs::read(self.dir.join("trees").join(format!("{commit}.json"))).ok()?;
        let tree: Value = serde_json::from_slice(&bytes).ok()?;
        Some(tree.get("files")?.as_object()?.keys().cloned().collect())
    }
}

#[cfg(unix)]
fn symlink(to: &Path, from: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(to, from)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What the cache holds of a model.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) commit: String,
    pub(crate) dir: PathBuf,
    /// Files that the repository has or must have, and the cache has not.
    pub(crate) missing: Vec<String>,
    /// Files of which the cache does not say whether the repository has them.
    pub(crate) unknown: Vec<&'static str>,
}

impl Snapshot {
    pub(crate) fn find(repo: &Repo, id: &Id) -> Option<Self> {
        let commit = if is_commit(&id.revision) {
            id.revision.clone()
        } else {
            let commit = fs::read_to_string(repo.dir.join("refs").join(&id.revision)).ok()?;
            commit.trim().to_owned()
        };
        let dir = repo.snapshot(&commit);
        if !is_commit(&commit) || !dir.is_dir() {
            return None;
        }
        if let Some(wanted) = other_form(repo, &commit, &dir, id) {
            let missing = wanted
                .files
                .iter()
                .filter(|n| !dir.join(n).exists())
                .cloned()
                .collect();
            return Some(Self {
                dir: wanted.opened.map_or(dir.clone(), |file| dir.join(file)),
                commit,
                missing,
                unknown: Vec::new(),
            });
        }
        let mut missing = missing(&dir);
        let absent = |name: &&str| !dir.join(name).exists() && !repo.no_exist(&commit, name).exists();
        let mut unknown: Vec<_> = files::SMALL
            .iter()
            .copied()
            .filter(absent)
            .filter(|n| !missing.iter().any(|m| m == n))
            .collect();
        if let Some(listing) = repo.listing(&commit) {
            unknown.retain(|n| listing.iter().any(|l| l == n));
            missing.extend(unknown.drain(..).map(str::to_owned));
        } else if dir.join(".gitattributes").exists() {
            // Every repository has this file and no engine reads it: all of the repository was fetched.
            unknown.clear();
        }
        Some(Self {
            commit,
            dir,
            missing,
            unknown,
        })
    }
}

/// What is wanted of a snapshot that is a GGUF file or an adapter; its files are known by the listing, else by what lies there.
fn other_form(repo: &Repo, commit: &str, dir: &Path, id: &Id) -> Option<Wanted> {
    if id.quant.is_none() && dir.join(files::CONFIG).exists() {
        return None;
    }
    let there = || {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    };
    let names: Vec<String> = repo.listing(commit).unwrap_or_else(there);
    if id.quant.is_none() && names.iter().any(|n| n == files::CONFIG) {
        return None;
    }
    wanted(&names, id.quant.as_deref()).ok()
}

/// The files that a snapshot needs and does not hold. A link whose blob is gone counts as missing.
pub(crate) fn missing(dir: &Path) -> Vec<String> {
    let mut needed = vec![files::CONFIG.to_owned()];
    match weights(dir, Config::load(dir).ok().as_ref()) {
        Some(shards) => needed.extend(shards),
        None if holds_weights(dir) => {}
        None => needed.push(files::SINGLE.to_owned()),
    }
    needed.retain(|name| !dir.join(name).exists());
    needed
}

/// The shards of the snapshot's index that hold anything the engine reads, sorted; `None` where there is no index.
pub(crate) fn weights(dir: &Path, config: Option<&Config>) -> Option<Vec<String>> {
    let names = config.map(|c| c.names);
    let (skip, renamed) = names.map_or((&[][..], &[][..]), |n| (n.skipped, n.renamed));
    shards(dir, skip, renamed).ok()
}

fn holds_weights(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|e| e.path().extension().is_some_and(|x| x == "safetensors") && e.path().exists())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn shards_that_hold_only_speech_output_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let index = r#"{"weight_map": {"thinker.model.a": "m-2", "talker.x": "m-2", "thinker.b": "m-1", "talker.y": "m-3", "token2wav.z": "m-4"}}"#;
        let write = |text: &str| fs::write(dir.path().join(files::INDEX), text).unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/omni-tiny");
        let config = Config::load(&tiny).unwrap();
        write(index);
        assert_eq!(weights(dir.path(), Some(&config)).unwrap(), ["m-1", "m-2"]);
        assert_eq!(weights(dir.path(), None).unwrap(), ["m-1", "m-2", "m-3", "m-4"]);
        for none in ["{}", "not json"] {
            write(none);
            assert_eq!(weights(dir.path(), None), None);
        }
    }

    #[test]
    fn an_incomplete_snapshot_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(missing(dir.path()), ["config.json", files::SINGLE]);
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        fs::write(
            dir.path().join(files::INDEX),
            r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#,
        )
        .unwrap();
        fs::write(dir.path().join("m-1.safetensors"), "").unwrap();
        assert_eq!(missing(dir.path()), ["m-2.safetensors"]);
        fs::remove_file(dir.path().join(files::INDEX)).unwrap();
        assert!(missing(dir.path()).is_empty());
    }

    /// What is known of files that are not there: nothing, that they do not exist, that they do.
    #[test]
    fn absent_files_are_of_three_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let id = Id::parse("a/b").unwrap();
        let repo = Repo::new(dir.path(), &id);
        assert!(Snapshot::find(&repo, &id).is_none());
        repo.remember("main", COMMIT).unwrap();
        let snapshot = repo.snapshot(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        for name in [files::CONFIG, files::SINGLE] {
            fs::write(snapshot.join(name), "{}").unwrap();
        }
        let find = || {
            let found = Snapshot::find(&repo, &id).unwrap();
            (found.missing.join(" "), found.unknown)
        };
        assert_eq!(find(), (String::new(), files::SMALL[1..].to_vec()));
        for name in files::SMALL.iter().filter(|n| **n != files::VIDEO_PREPROCESSOR) {
            repo.note_absent(COMMIT, name);
        }
        assert_eq!(find(), (String::new(), vec![files::VIDEO_PREPROCESSOR]));
        // Python's listing of the repository.
        fs::create_dir_all(repo.dir.join("trees")).unwrap();
        let tree = repo.dir.join("trees").join(format!("{COMMIT}.json"));
        fs::write(
            &tree,
            r#"{"format_version": 1, "files": {"config.json": {}, "README.md": {}}}"#,
        )
        .unwrap();
        assert_eq!(find(), (String::new(), vec![]));
        fs::write(
            &tree,
            format!(r#"{{"files": {{"{}": {{}}}}}}"#, files::VIDEO_PREPROCESSOR),
        )
        .unwrap();
        assert_eq!(find(), (files::VIDEO_PREPROCESSOR.to_owned(), vec![]));
        // A repository that was fetched whole.
        fs::remove_file(&tree).unwrap();
        fs::write(snapshot.join(".gitattributes"), "").unwrap();
        assert_eq!(find(), (String::new(), vec![]));
    }

    #[test]
    fn links_are_relative_and_replace_broken_ones() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::new(dir.path(), &Id::parse("a/b").unwrap());
        let blobs = repo.blobs().unwrap();
        for oid in ["1", "2"] {
            fs::write(blobs.join(oid), oid).unwrap();
            repo.link(COMMIT, "f", oid).unwrap();
            assert_eq!(fs::read_to_string(repo.snapshot(COMMIT).join("f")).unwrap(), oid);
            fs::remove_file(blobs.join(oid)).unwrap();
        }
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(repo.snapshot(COMMIT).join("f")).unwrap(),
            Path::new("../../blobs/2")
        );
    }
}
