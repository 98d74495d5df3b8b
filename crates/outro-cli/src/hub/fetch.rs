//! The network side: which files of a repository are wanted, and their way into the cache.
//!
//! hf-hub starts a broken transfer from its first byte and, for the body of a file, does not look at the HTTP status. So the
//! large files are streamed here, with ranges, into a partial file that the next attempt or the next run continues; their
//! SHA-256 is their name in the cache, and hf-hub, which compares it with the hub's, then finds them there and links them.
//! Small files go through hf-hub and are checked for their size.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::future::Future;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use hf_hub::repository::{HFRepository, RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFClient, HFError};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{Cached, INDEX, Id, SINGLE, SMALL, is_commit, missing, shards};
use crate::fault::Fault;
use crate::ui::{Bar, Ui, Unit, bytes};

/// A transfer that brings nothing for this long is broken.
const STALL: Duration = Duration::from_mins(1);
/// Attempts in a row that bring nothing before a transfer is given up.
const ATTEMPTS: u32 = 5;
/// The first pause between two attempts; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// Brings the model into the cache and returns its snapshot directory.
pub(super) fn fetch(id: &Id, cached: Option<Cached>, ui: &Ui) -> anyhow::Result<PathBuf> {
    let client = HFClient::builder().build().map_err(|e| {
        Fault::failure(format!("the hub cannot be asked: {e}"))
            .hint("look at HF_ENDPOINT; it must be a URL such as https://host")
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the network runtime")?;
    runtime.block_on(async {
        let hub = Hub {
            repo: client.model(&id.org, &id.name),
            client,
            id,
            ui,
        };
        match hub.commit().await {
            Ok((commit, names)) => hub.snapshot(&commit, &names).await,
            Err(error) => match cached {
                Some(c) if c.missing.is_empty() && unreachable(&error) => {
                    ui.note(&format!(
                        "{} cannot be reached; using the cached {id} at {}",
                        hub.client.endpoint(),
                        short(&c.commit)
                    ));
                    Ok(c.dir)
                }
                _ => Err(hub.explain(error)),
            },
        }
    })
}

struct Hub<'a> {
    client: HFClient,
    repo: HFRepository<RepoTypeModel>,
    id: &'a Id,
    ui: &'a Ui,
}

/// A file of the repository.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    size: u64,
    /// Kept by its SHA-256 rather than its git hash: streamed here.
    large: bool,
}

impl Hub<'_> {
    /// The commit that the revision means now, and the names of its files.
    async fn commit(&self) -> Result<(String, Vec<String>), HFError> {
        let info = limited(self.repo.info().revision(&self.id.revision).send()).await?;
        let commit = info
            .sha
            .filter(|sha| is_commit(sha))
            .ok_or_else(|| HFError::Other("the hub names no commit".into()))?;
        Ok((
            commit,
            info.siblings
                .unwrap_or_default()
                .into_iter()
                .map(|s| s.rfilename)
                .collect(),
        ))
    }

    async fn snapshot(&self, commit: &str, names: &[String]) -> anyhow::Result<PathBuf> {
        let dir = self
            .id
            .dir(self.client.cache_dir())
            .join("snapshots")
            .join(commit);
        if !names.iter().any(|n| n == "config.json") {
            return Err(Fault::failure(format!(
                "{} has no config.json, so it is not a model that can be loaded",
                self.id
            ))
            .into());
        }
        let small: Vec<&str> = SMALL
            .into_iter()
            .filter(|s| names.iter().any(|n| n == s))
            .collect();
        let entries = if small.iter().all(|n| dir.join(n).exists()) && missing(&dir).is_empty() {
            Vec::new()
        } else {
            self.entries(commit).await?
        };
        for name in small {
            self.file(commit, &dir, &entries, name, None).await?;
        }
        let weights = self.weights(&dir, names)?;
        let wanted: Vec<&Entry> = entries
            .iter()
            .filter(|e| weights.contains(&e.name) && !dir.join(&e.name).exists())
            .collect();
        let total = wanted.iter().map(|e| e.size).sum::<u64>();
        if total > 0 {
            self.ui.line(&format!(
                "{}: {} to fetch into {}",
                self.id,
                bytes(total),
                self.client.cache_dir().display()
            ));
        }
        let bar = self.ui.bar(&self.id.to_string(), total, Unit::Bytes);
        let mut done = 0;
        for name in &weights {
            self.file(commit, &dir, &entries, name, Some((&bar, done)))
                .await?;
            done += wanted.iter().find(|e| e.name == *name).map_or(0, |e| e.size);
        }
        bar.done();
        self.remember(commit)?;
        Ok(dir)
    }

    async fn entries(&self, commit: &str) -> anyhow::Result<Vec<Entry>> {
        let listing = async {
            let mut stream = std::pin::pin!(self.repo.list_tree().revision(commit).recursive(false).send()?);
            let mut entries = Vec::new();
            while let Some(entry) = stream.next().await {
                // A name is joined to a directory of the cache.
                if let RepoTreeEntry::File { path, size, lfs, .. } = entry?
                    && !path.contains(['/', '\\'])
                {
                    entries.push(Entry {
                        name: path,
                        size,
                        large: lfs.is_some(),
                    });
                }
            }
            Ok(entries)
        };
        limited(listing).await.map_err(|e| self.explain(e))
    }

    /// The weight files that the engine reads.
    fn weights(&self, dir: &Path, names: &[String]) -> anyhow::Result<Vec<String>> {
        let has = |name: &str| names.iter().any(|n| n == name);
        if has(INDEX) {
            let path = dir.join(INDEX);
            let content = fs::read(&path).with_context(|| path.display().to_string())?;
            let shards = shards(&content)
                .ok_or_else(|| Fault::failure(format!("{}: {INDEX} is not an index of shards", self.id)))?;
            if let Some(absent) = shards.iter().find(|s| !has(s)) {
                return Err(Fault::failure(format!(
                    "{}: {INDEX} names {absent}, which the repository does not have",
                    self.id
                ))
                .into());
            }
            return Ok(shards);
        }
        if has(SINGLE) {
            return Ok(vec![SINGLE.to_owned()]);
        }
        Err(
            Fault::failure(format!("{} has no {SINGLE} and no {INDEX}", self.id))
                .hint("only weights in safetensors files can be loaded")
                .into(),
        )
    }

    /// Makes sure that the snapshot holds `name`. `bar` counts the bytes, from an offset.
    async fn file(
        &self,
        commit: &str,
        dir: &Path,
        entries: &[Entry],
        name: &str,
        bar: Option<(&Bar, u64)>,
    ) -> anyhow::Result<()> {
        let target = dir.join(name);
        if target.exists() {
            return Ok(());
        }
        let entry = entries.iter().find(|e| e.name == name).ok_or_else(|| {
            Fault::failure(format!(
                "{}: {name} is announced but not listed by the hub",
                self.id
            ))
        })?;
        let blobs = self.id.dir(self.client.cache_dir()).join("blobs");
        fs::create_dir_all(&blobs).with_context(|| format!("{}: cannot be created", blobs.display()))?;
        let key = format!("{commit}-{}", name.replace('/', "-"));
        let _lock = self.lock(&key, name)?;
        if entry.large && entry.size > 0 && !target.exists() {
            let part = blobs.join(format!("{key}.incomplete"));
            self.stream(commit, entry, &part, bar).await?;
            let blob = blobs.join(sha256(&part)?);
            fs::rename(&part, &blob)
                .with_context(|| format!("{}: cannot be put in its place", part.display()))?;
            self.link(commit, name).await?;
            // The hub's hash was another one, so hf-hub has fetched the file itself: ours was damaged on its way.
            if fs::canonicalize(&target).ok() != fs::canonicalize(&blob).ok() {
                self.ui
                    .note(&format!("{name} came damaged and was fetched again"));
                fs::remove_file(&blob).with_context(|| format!("{}: cannot be removed", blob.display()))?;
            }
        } else {
            self.link(commit, name).await?;
        }
        self.check(&target, entry)
    }

    /// One process at a time per file; a second one waits and then finds it done.
    fn lock(&self, key: &str, name: &str) -> anyhow::Result<File> {
        let dir = self
            .client
            .cache_dir()
            .join(".locks")
            .join(format!("models--{}--{}", self.id.org, self.id.name));
        let path = dir.join(format!("{key}.lock"));
        let fail = || format!("{}: cannot be locked", path.display());
        fs::create_dir_all(&dir).with_context(fail)?;
        let file = File::create(&path).with_context(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                self.ui
                    .note(&format!("another process is fetching {name}; waiting for it"));
                file.lock().with_context(fail)?;
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(fail),
        }
        Ok(file)
    }

    /// Streams the rest of a large file into `part` until it is whole.
    async fn stream(
        &self,
        commit: &str,
        entry: &Entry,
        part: &Path,
        bar: Option<(&Bar, u64)>,
    ) -> anyhow::Result<()> {
        let (mut idle, mut overruns) = (0, 0);
        loop {
            let have = fs::metadata(part).map_or(0, |m| m.len());
            if have == entry.size {
                return Ok(());
            }
            let broken = match self.attempt(commit, entry, part, have, bar).await? {
                End::Whole => return Ok(()),
                End::TooMuch => {
                    overruns += 1;
                    fs::remove_file(part)
                        .with_context(|| format!("{}: cannot be removed", part.display()))?;
                    "the server sends more than the file's size".to_owned()
                }
                End::Broken(HFError::Request { source, .. }) => source.to_string(),
                End::Broken(e) if transient(&e) => e.to_string(),
                End::Broken(e) => return Err(self.explain(e)),
            };
            let now = fs::metadata(part).map_or(0, |m| m.len());
            idle = if now > have { 0 } else { idle + 1 };
            if idle >= ATTEMPTS || overruns >= 2 {
                return Err(Fault::failure(format!(
                    "{}: the transfer of {} broke off after {} of {}: {broken}",
                    self.id,
                    entry.name,
                    bytes(now),
                    bytes(entry.size)
                ))
                .hint("run the command again; what has arrived is kept")
                .into());
            }
            tokio::time::sleep(PAUSE * (1 << idle)).await;
        }
    }

    async fn attempt(
        &self,
        commit: &str,
        entry: &Entry,
        part: &Path,
        have: u64,
        bar: Option<(&Bar, u64)>,
    ) -> anyhow::Result<End> {
        if have > entry.size {
            return Ok(End::TooMuch);
        }
        let range = (have > 0).then_some(have..entry.size);
        let request = self
            .repo
            .download_file_stream()
            .filename(&entry.name)
            .revision(commit)
            .maybe_range(range)
            .send();
        let mut stream = match limited(request).await {
            Ok((_, stream)) => stream,
            Err(e) => return Ok(End::Broken(e)),
        };
        let fail = || format!("{}: cannot be written", part.display());
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(part)
            .with_context(fail)?;
        let mut at = have;
        loop {
            let chunk = match timeout(STALL, stream.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(e))) => return Ok(End::Broken(e)),
                Ok(None) if at == entry.size => break,
                Ok(None) => return Ok(End::Broken(HFError::Other(BROKEN.into()))),
                Err(_) => return Ok(End::Broken(stalled())),
            };
            at += chunk.len() as u64;
            // A server without ranges starts from the first byte again.
            if at > entry.size {
                return Ok(End::TooMuch);
            }
            file.write_all(&chunk).with_context(fail)?;
            if let Some((bar, offset)) = bar {
                bar.set(offset + at);
            }
        }
        file.sync_all().with_context(fail)?;
        Ok(End::Whole)
    }

    /// Lets hf-hub fetch a file, or link the blob that is there already.
    async fn link(&self, commit: &str, name: &str) -> anyhow::Result<()> {
        let seen = Arc::new(AtomicU64::new(0));
        let progress = Progress::new(Watch(Arc::clone(&seen)));
        let transfer = self
            .repo
            .download_file()
            .filename(name)
            .revision(commit)
            .progress(progress)
            .send();
        let mut transfer = std::pin::pin!(transfer);
        let mut before = u64::MAX;
        loop {
            if let Ok(done) = timeout(STALL, &mut transfer).await {
                return done.map(|_| ()).map_err(|e| self.explain(e));
            }
            let now = seen.load(Ordering::Relaxed);
            if now == before {
                return Err(self.explain(stalled()));
            }
            before = now;
        }
    }

    /// hf-hub keeps whatever a failing server answers, so a file of another size goes away again.
    fn check(&self, target: &Path, entry: &Entry) -> anyhow::Result<()> {
        let size = fs::metadata(target)
            .with_context(|| target.display().to_string())?
            .len();
        if size == entry.size {
            return Ok(());
        }
        for path in [fs::canonicalize(target).unwrap_or_default(), target.to_path_buf()] {
            // The first may be the second.
            let _ = fs::remove_file(path);
        }
        Err(Fault::failure(format!(
            "{}: {} came with {size} bytes instead of {}",
            self.id, entry.name, entry.size
        ))
        .hint("run the command again")
        .into())
    }

    /// Notes which commit the branch means, as the Python library does; offline runs read it.
    fn remember(&self, commit: &str) -> anyhow::Result<()> {
        if is_commit(&self.id.revision) {
            return Ok(());
        }
        let path = self
            .id
            .dir(self.client.cache_dir())
            .join("refs")
            .join(&self.id.revision);
        let write = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&path, commit)
        };
        write().with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// What a person can do about an answer of the hub.
    fn explain(&self, error: HFError) -> anyhow::Error {
        let (id, endpoint) = (self.id, self.client.endpoint());
        let page = format!("{endpoint}/{}/{}", id.org, id.name);
        let fault = match error {
            HFError::AuthRequired { .. } => {
                Fault::failure(format!("{id}: {endpoint} answers 401: there is no such public model, or it asks who you are")).hint(
                    format!("check the name; for a private or gated model set HF_TOKEN, or log in with `hf auth login`, and accept its terms at {page}"),
                )
            }
            HFError::Forbidden { .. } => Fault::failure(format!("{id}: {endpoint} answers 403: your token may not read this model"))
                .hint(format!("ask for access at {page}")),
            HFError::RepoNotFound { .. } => self.not_found(endpoint),
            HFError::RevisionNotFound { context, .. }
                if id.revision == "main" || context.as_ref().is_some_and(|c| c.error_code.as_deref() == Some("RepoNotFound")) =>
            {
                self.not_found(endpoint)
            }
            HFError::RevisionNotFound { .. } => {
                Fault::failure(format!("{}/{}: {endpoint} knows no branch, tag or commit {}", id.org, id.name, id.revision))
                    .hint(format!("see which there are at {page}"))
            }
            HFError::RateLimited { retry_after, .. } => {
                let wait = retry_after.map_or_else(|| "a while".to_owned(), |d| format!("{} s", d.as_secs()));
                Fault::failure(format!("{id}: {endpoint} answers 429: too many requests")).hint(format!("wait {wait} and run the command again"))
            }
            error if unreachable(&error) => Fault::failure(format!("{id}: {endpoint} cannot be reached: {}", innermost(&error)))
                .hint("look at the network, HF_ENDPOINT and the proxy variables; or give the directory of a checkpoint"),
            error => Fault::failure(format!("{id}: {error}")).hint("run the command again; what has arrived is kept"),
        };
        fault.into()
    }

    fn not_found(&self, endpoint: &str) -> Fault {
        let path = format!("{}/{}", self.id.org, self.id.name);
        Fault::failure(format!(
            "{path}: {endpoint} has no such model, and there is no directory of that name here"
        ))
        .hint("check the spelling; for a private model set HF_TOKEN")
    }
}

/// How an attempt to stream a file ended.
enum End {
    Whole,
    TooMuch,
    Broken(HFError),
}

const BROKEN: &str = "the connection was closed";
const STALLED: &str = "nothing came for 60 s";

fn stalled() -> HFError {
    HFError::Other(STALLED.into())
}

/// hf-hub sets no time limit on a request.
async fn limited<T>(request: impl Future<Output = Result<T, HFError>>) -> Result<T, HFError> {
    timeout(STALL, request).await.unwrap_or_else(|_| Err(stalled()))
}

/// Worth another attempt.
fn transient(error: &HFError) -> bool {
    match error {
        HFError::Http { context } => context.status.is_server_error(),
        HFError::Other(text) => text == BROKEN || text == STALLED,
        HFError::Request { .. } | HFError::Xet { .. } | HFError::RateLimited { .. } => true,
        _ => false,
    }
}

/// The hub gave no answer, or none of its own.
fn unreachable(error: &HFError) -> bool {
    match error {
        HFError::Http { context } => context.status.is_server_error(),
        HFError::Other(text) => text == STALLED,
        HFError::Request { .. } => true,
        _ => false,
    }
}

fn innermost(error: &HFError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn short(commit: &str) -> &str {
    commit.get(..8).unwrap_or(commit)
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let read = || {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
        Ok::<_, std::io::Error>(hash.finalize())
    };
    let hash = read().with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(hash.iter().fold(String::new(), |s, b| s + &format!("{b:02x}")))
}

/// Remembers how many bytes hf-hub has seen.
struct Watch(Arc<AtomicU64>);

impl ProgressHandler for Watch {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                self.0
                    .store(files.iter().map(|f| f.bytes_completed).sum(), Ordering::Relaxed);
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, .. }) => {
                self.0.store(*bytes_completed, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}
