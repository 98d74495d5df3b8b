//! The network side: which files of a repository are wanted, and their way into the cache.
//!
//! The listing names each file's hash, which is its name in the cache. A file is streamed into a partial one that the next
//! attempt or the next run continues, and gets its name when it has that hash.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use outro::checkpoint::files;
use outro::config::Config;
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::cache::{Repo, Snapshot, is_commit, missing, weights};
use crate::error::{Cause, Error, Result, human_bytes};
use crate::http::{Client, Failure, quoted};
use crate::id::Id;
use crate::other::{Why, wanted};
use crate::settings::Settings;
use crate::{Event, Events};

/// Attempts in a row that bring nothing before a transfer is given up.
const ATTEMPTS: u32 = 5;
/// The first pause between two attempts; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: u64 = 60;

/// Brings the model into the cache and returns its snapshot directory.
pub(crate) fn fetch(
    id: &Id,
    repo: &Repo,
    cached: Option<Snapshot>,
    settings: &Settings,
    events: &mut Events<'_>,
) -> Result<PathBuf> {
    let client = Client::new(settings)?;
    let mut hub = Hub {
        client,
        id,
        repo,
        cache: &settings.cache,
        events,
    };
    match hub.commit() {
        Ok((commit, names)) => hub.snapshot(&commit, &names),
        Err(failure) => match cached {
            Some(c) if c.missing.is_empty() && failure.unreachable() => {
                let note = format!(
                    "{} cannot be reached; using the cached {id} at {}",
                    settings.endpoint,
                    c.commit.get(..8).unwrap_or(&c.commit)
                );
                (hub.events)(Event::Note(note));
                Ok(c.dir)
            }
            _ => Err(hub.explain(&failure)),
        },
    }
}

struct Hub<'a, 'e> {
    client: Client<'a>,
    id: &'a Id,
    repo: &'a Repo,
    cache: &'a Path,
    events: &'a mut Events<'e>,
}

/// A file of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    size: u64,
    hash: Hash,
}

/// What the hub says that a file's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hash {
    Sha256(String),
    /// Of `blob SIZE\0` and the content.
    Git(String),
    /// Nothing that can be checked.
    Unknown,
}

impl Entry {
    /// Reads an element of a listing; `None` for directories and for names that lead elsewhere.
    fn read(json: &Value) -> Option<Self> {
        let name = json["path"].as_str()?;
        // A name is joined to a directory of the cache.
        if json["type"] != "file" || name.contains(['/', '\\']) || name.starts_with('.') {
            return None;
        }
        let hex = |value: &Value, digits: usize| {
            let text = value.as_str()?;
            let plain = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            plain.then(|| text.to_owned())
        };
        let large = json.get("lfs").filter(|l| !l.is_null());
        let hash = match large {
            Some(lfs) => hex(&lfs["oid"], 64).map(Hash::Sha256),
            None => hex(&json["oid"], 40).map(Hash::Git),
        };
        Some(Self {
            name: name.to_owned(),
            size: json["size"].as_u64()?,
            hash: hash.unwrap_or(Hash::Unknown),
        })
    }
}

impl Hash {
    fn known(&self) -> Option<&str> {
        match self {
            Self::Sha256(oid) | Self::Git(oid) => Some(oid),
            Self::Unknown => None,
        }
    }

    /// The hash of the same kind of a file's content.
    fn of(&self, path: &Path) -> Result<String> {
        let read = || match self {
            Self::Sha256(_) => digest(path, Sha256::new()),
            Self::Git(_) | Self::Unknown => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {}\0", fs::metadata(path)?.len()));
                digest(path, hash)
            }
        };
        read().map_err(Error::io(path, "cannot be read"))
    }
}

fn digest(path: &Path, mut hash: impl Digest) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .fold(String::new(), |s, b| s + &format!("{b:02x}")))
}

/// Bytes of the weights before this file; `None` where nobody counts.
type Done = Option<u64>;

impl Hub<'_, '_> {
    fn api(&self, what: &str, revision: &str) -> String {
        let Id { org, name, .. } = self.id;
        format!(
            "{}/api/models/{org}/{name}/{what}/{}",
            self.client.endpoint,
            quoted(revision)
        )
    }

    /// The commit that the revision means now, and the names of its files.
    fn commit(&self) -> std::result::Result<(String, Vec<String>), Failure> {
        let (info, _) = self.client.json(&self.api("revision", &self.id.revision))?;
        let commit = info["sha"].as_str().filter(|sha| is_commit(sha));
        let commit = commit.ok_or_else(|| Failure::Broken("it names no commit".into()))?;
        let siblings = info["siblings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let names = siblings
            .iter()
            .filter_map(|s| Some(s["rfilename"].as_str()?.to_owned()));
        Ok((commit.to_owned(), names.collect()))
    }

    /// Names, sizes and hashes of the files at the top of the repository.
    fn entries(&self, commit: &str) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut page = Some(self.api("tree", commit));
        while let Some(url) = page {
            let (list, next) = self.client.json(&url).map_err(|f| self.explain(&f))?;
            entries.extend(list.as_array().into_iter().flatten().filter_map(Entry::read));
            page = next.filter(|n| *n != url);
        }
        Ok(entries)
    }

    fn snapshot(&mut self, commit: &str, names: &[String]) -> Result<PathBuf> {
        let dir = self.repo.snapshot(commit);
        let has = |name: &str| names.iter().any(|n| n == name);
        if self.id.quant.is_some() || !has(files::CONFIG) {
            return self.other(commit, names);
        }
        let small: Vec<&str> = files::SMALL.iter().copied().filter(|n| has(n)).collect();
        let whole = small.iter().all(|n| dir.join(n).exists()) && missing(&dir).is_empty();
        if !whole {
            let entries = self.entries(commit)?;
            for name in &small {
                self.file(commit, &entries, name, None)?;
            }
            // Here it costs nothing yet.
            let config = Config::load(&dir)
                .map_err(|e| self.unusable(&format!("{e} (none of the weights was fetched)")))?;
            let weights = self.weights(&dir, names, &config)?;
            self.large(commit, &entries, &weights)?;
        }
        for name in files::SMALL.iter().filter(|n| !has(n)) {
            self.repo.note_absent(commit, name);
        }
        self.repo.remember(&self.id.revision, commit)?;
        Ok(dir)
    }

    /// Fetches weights, with their progress.
    fn large(&mut self, commit: &str, entries: &[Entry], names: &[String]) -> Result<()> {
        let dir = self.repo.snapshot(commit);
        let wanted: Vec<&Entry> = entries
            .iter()
            .filter(|e| names.contains(&e.name) && !dir.join(&e.name).exists())
            .collect();
        let bytes = wanted.iter().map(|e| e.size).sum::<u64>();
        if bytes > 0 {
            (self.events)(Event::Weights {
                bytes,
                into: self.cache,
            });
        }
        let mut done = 0;
        for name in names {
            self.file(commit, entries, name, Some(done))?;
            done += wanted.iter().find(|e| e.name == *name).map_or(0, |e| e.size);
        }
        Ok(())
    }

    /// A repository of GGUF files, or of an adapter.
    fn other(&mut self, commit: &str, names: &[String]) -> Result<PathBuf> {
        let id = self.id;
        let found = wanted(names, id.quant.as_deref()).map_err(|why| match why {
            Why::Nothing if id.quant.is_some() => {
                self.unusable("it holds no GGUF files, so there is no quantisation to choose")
            }
            Why::Nothing => {
                let problem = format!("{id} has no config.json, so it is not a model that can be loaded");
                Error::new(Cause::Unusable, problem)
            }
            Why::NotAmong(there) => {
                let all = there.join(", ");
                let problem = match &id.quant {
                    Some(quant) => format!("{}/{} holds no {quant}; it holds {all}", id.org, id.name),
                    None => format!("{id} holds GGUF files and none is the usual one; it holds {all}"),
                };
                let example = there.first().map_or("Q8_0", String::as_str);
                Error::new(Cause::Unusable, problem)
                    .hint(format!("say which, as in {}/{}:{example}", id.org, id.name))
            }
        })?;
        let dir = self.repo.snapshot(commit);
        let chosen = id.quant.is_none() && found.all.len() > 1;
        let whole = found.files.iter().all(|name| dir.join(name).exists());
        // The listing has the sizes; where nothing is fetched and nothing told nobody needs it.
        let entries = if whole && !chosen {
            Vec::new()
        } else {
            self.entries(commit)?
        };
        let size = |name: &String| entries.iter().find(|e| e.name == *name).map_or(0, |e| e.size);
        if chosen {
            let all: Vec<(String, u64)> = found
                .all
                .iter()
                .map(|(label, files)| (label.clone(), files.iter().map(size).sum()))
                .collect();
            let towers = found.towers.as_ref().map(|name| (name.as_str(), size(name)));
            (self.events)(Event::Chosen {
                all: &all,
                taken: found.taken,
                towers,
            });
        }
        self.large(commit, &entries, &found.files)?;
        self.repo.remember(&id.revision, commit)?;
        Ok(found.opened.map_or(dir.clone(), |file| dir.join(file)))
    }

    fn unusable(&self, problem: &str) -> Error {
        Error::new(Cause::Unusable, format!("{}: {problem}", self.id))
    }

    /// The weight files that the engine reads.
    fn weights(&self, dir: &Path, names: &[String], config: &Config) -> Result<Vec<String>> {
        let has = |name: &str| names.iter().any(|n| n == name);
        let (id, index) = (self.id, files::INDEX);
        if has(index) {
            let shards = weights(dir, Some(config))
                .ok_or_else(|| self.unusable(&format!("{index} is not an index of shards")))?;
            return match shards.iter().find(|s| !has(s)) {
                Some(absent) => Err(self.unusable(&format!(
                    "{index} names {absent}, which the repository does not have"
                ))),
                None => Ok(shards),
            };
        }
        if has(files::SINGLE) {
            return Ok(vec![files::SINGLE.to_owned()]);
        }
        Err(Error::new(
            Cause::Unusable,
            format!("{id} has no {} and no {index}", files::SINGLE),
        )
        .hint("only weights in safetensors files can be loaded"))
    }

    /// Makes sure that the snapshot holds `name`.
    fn file(&mut self, commit: &str, entries: &[Entry], name: &str, done: Done) -> Result<()> {
        let target = self.repo.snapshot(commit).join(name);
        if target.exists() {
            return Ok(());
        }
        let entry = entries.iter().find(|e| e.name == name).ok_or_else(|| {
            let problem = format!("{}: {name} is announced but not listed by the hub", self.id);
            Error::new(Cause::Transfer, problem)
        })?;
        let blobs = self.repo.blobs()?;
        let own = format!("{commit}-{name}");
        let (events, id) = (&mut *self.events, self.id);
        let _lock = self.repo.lock(entry.hash.known().unwrap_or(&own), || {
            events(Event::Note(format!(
                "another process is fetching {name} of {id}; waiting for it"
            )));
        })?;
        if target.exists() {
            return Ok(());
        }
        let there = |oid: &&str| fs::metadata(blobs.join(oid)).is_ok_and(|m| m.len() == entry.size);
        let oid = match entry.hash.known().filter(there) {
            Some(oid) => oid.to_owned(),
            None => self.content(
                commit,
                entry,
                &blobs,
                &blobs.join(format!("{own}.incomplete")),
                done,
            )?,
        };
        self.repo.link(commit, name, &oid)
    }

    /// Fetches a file's content and returns the name that it has in the cache.
    fn content(
        &mut self,
        commit: &str,
        entry: &Entry,
        blobs: &Path,
        part: &Path,
        done: Done,
    ) -> Result<String> {
        for last in [false, true] {
            self.stream(commit, entry, part, done)?;
            let oid = entry.hash.of(part)?;
            if entry.hash.known().is_none_or(|known| known == oid) {
                fs::rename(part, blobs.join(&oid)).map_err(Error::io(part, "cannot be put in its place"))?;
                return Ok(oid);
            }
            fs::remove_file(part).map_err(Error::io(part, "cannot be removed"))?;
            if !last {
                (self.events)(Event::Note(format!(
                    "{} came damaged and is fetched again",
                    entry.name
                )));
            }
        }
        let problem = format!("{}: {} came damaged twice", self.id, entry.name);
        Err(Error::new(Cause::Transfer, problem)
            .hint("look at the network, or at a proxy that changes files"))
    }

    /// Streams the rest of a file into `part` until it is whole.
    fn stream(&mut self, commit: &str, entry: &Entry, part: &Path, done: Done) -> Result<()> {
        let (mut idle, mut overruns) = (0, 0);
        loop {
            let have = fs::metadata(part).map(|m| m.len());
            if have.as_ref().is_ok_and(|n| *n == entry.size) {
                return Ok(());
            }
            let have = have.unwrap_or(0);
            let mut wait = PAUSE * (1 << idle);
            let broken = match self.attempt(commit, entry, part, have, done)? {
                End::Whole => return Ok(()),
                End::TooMuch => {
                    overruns += 1;
                    fs::remove_file(part).map_err(Error::io(part, "cannot be removed"))?;
                    "the server sends more than the file's size".to_owned()
                }
                End::Broken(failure) if failure.transient() => {
                    if let Failure::Status { wait: Some(s), .. } = &failure {
                        wait = Duration::from_secs((*s).min(LONGEST_PAUSE));
                    }
                    failure.to_string()
                }
                End::Broken(failure) => return Err(self.refused(&failure, &entry.name)),
            };
            let now = fs::metadata(part).map_or(0, |m| m.len());
            idle = if now > have { 0 } else { idle + 1 };
            if idle >= ATTEMPTS || overruns >= 2 {
                let problem = format!(
                    "{}: the transfer of {} broke off after {} of {}: {broken}",
                    self.id,
                    entry.name,
                    human_bytes(now),
                    human_bytes(entry.size)
                );
                return Err(Error::new(Cause::Transfer, problem)
                    .hint("run the command again; what has arrived is kept"));
            }
            std::thread::sleep(wait);
        }
    }

    fn attempt(&mut self, commit: &str, entry: &Entry, part: &Path, have: u64, done: Done) -> Result<End> {
        if have > entry.size {
            return Ok(End::TooMuch);
        }
        let Id { org, name, .. } = self.id;
        let file = quoted(&entry.name);
        let url = format!("{}/{org}/{name}/resolve/{commit}/{file}", self.client.endpoint);
        let range = (have > 0).then(|| format!("bytes={have}-{}", entry.size - 1));
        let response = match self.client.get(&url, range.as_deref()) {
            Ok(response) => response,
            Err(Failure::Status { status: 416, .. }) => return Ok(End::TooMuch),
            Err(failure) => return Ok(End::Broken(failure)),
        };
        // A server without ranges starts from the first byte again.
        let mut at = if response.status() == 206 { have } else { 0 };
        let mut out = OpenOptions::new()
            .create(true)
            .truncate(at == 0)
            .write(true)
            .open(part)
            .map_err(Error::io(part, "cannot be written"))?;
        out.seek(SeekFrom::Start(at))
            .map_err(Error::io(part, "cannot be written"))?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) if at == entry.size => break,
                Ok(0) => return Ok(End::Broken(Failure::Broken("the connection was closed".into()))),
                Ok(n) => n,
                Err(e) => return Ok(End::Broken(crate::http::broken(&e.into()))),
            };
            at += n as u64;
            if at > entry.size {
                return Ok(End::TooMuch);
            }
            out.write_all(&buffer[..n])
                .map_err(Error::io(part, "cannot be written"))?;
            if let Some(done) = done {
                (self.events)(Event::Arrived(done + at));
            }
        }
        out.sync_all().map_err(Error::io(part, "cannot be written"))?;
        Ok(End::Whole)
    }

    /// Why the hub gives a listed file not out.
    fn refused(&self, failure: &Failure, name: &str) -> Error {
        let general = self.explain(failure);
        let Failure::Status { status, .. } = failure else {
            return general;
        };
        let problem = format!(
            "{}: {} answers {status} for {name} instead of the file",
            self.id, self.client.endpoint
        );
        Error::new(general.cause, problem).hint(general.way_out().unwrap_or("run the command again"))
    }

    /// What a person can do about an answer of the hub.
    fn explain(&self, failure: &Failure) -> Error {
        let (id, endpoint) = (self.id, self.client.endpoint);
        let page = format!("{endpoint}/{}/{}", id.org, id.name);
        match failure {
            Failure::Status { status: 401, .. } => {
                let problem = "there is no such public model, or it asks who you are";
                Error::new(Cause::Denied, format!("{id}: {endpoint} answers 401: {problem}")).hint(format!(
                    "check the name; for a private or gated model set HF_TOKEN, or log in with `hf auth login`, and accept its terms at {page}"
                ))
            }
            Failure::Status { status: 403, .. } => {
                Error::new(Cause::Denied, format!("{id}: {endpoint} answers 403: your token may not read this model"))
                    .hint(format!("ask for access at {page}"))
            }
            Failure::Status { status: 404, code, .. } if id.revision != "main" && code != "RepoNotFound" => {
                let path = format!("{}/{}", id.org, id.name);
                Error::new(
                    Cause::NotFound,
                    format!("{path}: {endpoint} knows no branch, tag or commit {}", id.revision),
                )
                .hint(format!("see which there are at {page}"))
            }
            Failure::Status { status: 404, .. } => {
                let here = id.beside().unwrap_or_else(|| "there is no directory of that name here".into());
                Error::new(
                    Cause::NotFound,
                    format!("{}/{}: {endpoint} has no such model, and {here}", id.org, id.name),
                )
                .hint("check the spelling; for a private model set HF_TOKEN")
            }
            Failure::Status { status: 429, wait, .. } => {
                let wait = wait.map_or_else(|| "a while".to_owned(), |s| format!("{s} s"));
                Error::new(Cause::Busy, format!("{id}: {endpoint} answers 429: too many requests"))
                    .hint(format!("wait {wait} and run the command again"))
            }
            failure if failure.unreachable() => {
                Error::new(Cause::Unreachable, format!("{id}: {endpoint} cannot be reached: {failure}"))
                    .hint("look at the network, HF_ENDPOINT and the proxy variables; or give the directory of a checkpoint")
            }
            failure => Error::new(Cause::Transfer, format!("{id}: {endpoint}: {failure}"))
                .hint("run the command again; what has arrived is kept"),
        }
    }
}

/// How an attempt to stream a file ended.
enum End {
    Whole,
    TooMuch,
    Broken(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read() {
        let read = |text: &str| Entry::read(&serde_json::from_str(text).unwrap());
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let plain = read(&format!(
            r#"{{"type": "file", "path": "a", "size": 6, "oid": "{git}"}}"#
        ))
        .unwrap();
        assert_eq!(plain.hash, Hash::Git(git.into()));
        let sha = "0".repeat(64);
        let lfs = format!(
            r#"{{"type": "file", "path": "a", "size": 6, "oid": "{git}", "lfs": {{"oid": "{sha}"}}}}"#
        );
        assert_eq!(read(&lfs).unwrap().hash, Hash::Sha256(sha));
        let odd = r#"{"type": "file", "path": "a", "size": 6, "oid": "../../x"}"#;
        assert_eq!(read(odd).unwrap().hash, Hash::Unknown);
        for name in ["../a", "a/b", "a\\b", ".a"] {
            let text = serde_json::json!({"type": "file", "path": name, "size": 1, "oid": git}).to_string();
            assert_eq!(read(&text), None, "{name}");
        }
        assert_eq!(read(r#"{"type": "directory", "path": "a", "oid": "1"}"#), None);
    }

    #[test]
    fn hashes_are_those_of_git_and_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "hello\n").unwrap();
        // git hash-object; sha256sum
        assert_eq!(
            Hash::Unknown.of(&path).unwrap(),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
        assert_eq!(
            Hash::Sha256(String::new()).of(&path).unwrap(),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
    }
}
