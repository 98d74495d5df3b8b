//! Uploaded files: kept for a time, in number and size within bounds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Refused;
use super::spool::Spooled;

/// How much is kept of what is uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// Most files.
    pub count: usize,
    /// Most bytes of all.
    pub bytes: u64,
    /// Longest time that a file is kept.
    pub age: Duration,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self {
            count: 256,
            bytes: 8 << 30,
            age: Duration::from_hours(24),
        }
    }
}

/// A file that was uploaded.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) purpose: String,
    pub(super) content: Spooled,
    created: u64,
    expires: u64,
    /// The higher, the later it was asked for.
    used: u64,
}

impl Upload {
    /// As OpenAI's API has it.
    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id,
            "object": "file",
            "bytes": self.content.bytes,
            "created_at": self.created,
            "expires_at": self.expires,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        })
    }
}

/// The uploads of a server.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) limits: FileLimits,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    files: BTreeMap<String, Upload>,
    /// Bytes that are on their way.
    coming: u64,
    clock: u64,
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

impl Kept {
    fn bytes(&self) -> u64 {
        self.files.values().map(|f| f.content.bytes).sum()
    }

    fn expire(&mut self) {
        let now = now();
        self.files.retain(|_, f| f.expires > now);
    }

    /// Drops the file that was not asked for the longest, of those that no request reads.
    fn drop_one(&mut self) -> bool {
        let idle = |f: &&Upload| Arc::strong_count(&f.content.file) == 1;
        let oldest = self.files.values().filter(idle).min_by_key(|f| f.used);
        let Some(id) = oldest.map(|f| f.id.clone()) else {
            return false;
        };
        self.files.remove(&id).is_some()
    }
}

impl Files {
    pub(super) fn new(limits: FileLimits) -> Self {
        Self {
            limits,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.expire();
        kept
    }

    /// Room for a file that comes. Older ones that nobody reads go for it.
    pub(super) fn coming(self: &Arc<Self>) -> Coming {
        Coming {
            files: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Keeps a file for `age`, or as long as any.
    pub(super) fn keep(
        &self,
        content: Spooled,
        name: String,
        purpose: String,
        age: Option<Duration>,
    ) -> Result<Upload, Refused> {
        let age = age.unwrap_or(self.limits.age).min(self.limits.age);
        let mut kept = self.kept();
        while kept.files.len() >= self.limits.count {
            if !kept.drop_one() {
                return Err(full());
            }
        }
        kept.clock += 1;
        let id = content
            .path()
            .file_name()
            .map(|n| n.to_string_lossy().into_owned());
        let upload = Upload {
            id: id.unwrap_or_default(),
            name,
            purpose,
            content,
            created: now(),
            expires: now().saturating_add(age.as_secs().max(1)),
            used: kept.clock,
        };
        kept.files.insert(upload.id.clone(), upload.clone());
        Ok(upload)
    }

    /// A file by its id, which is there as long as the answer is.
    pub(super) fn get(&self, id: &str) -> Result<Upload, Refused> {
        let mut kept = self.kept();
        kept.clock += 1;
        let clock = kept.clock;
        let file = kept.files.get_mut(id).ok_or_else(unknown)?;
        file.used = clock;
        Ok(file.clone())
    }

    /// Forgets a file. Who reads it goes on.
    pub(super) fn remove(&self, id: &str) -> Result<(), Refused> {
        self.kept().files.remove(id).map(drop).ok_or_else(unknown)
    }

    /// All files, the oldest first.
    pub(super) fn list(&self) -> Vec<Upload> {
        let mut all: Vec<Upload> = self.kept().files.values().cloned().collect();
        all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        all
    }
}

fn unknown() -> Refused {
    let text = "there is no file with this id: uploads are kept for a time, and the least used go first where room is short";
    Refused::new(404, text)
}

fn full() -> Refused {
    let text = "there is no room for another file, and those that are kept are being read; delete some, or try again later";
    Refused::new(507, text)
}

/// Bytes of an upload on its way.
pub(super) struct Coming {
    files: Arc<Files>,
    bytes: u64,
}

impl Coming {
    /// # Errors
    /// 507 where even without the files that nobody reads there is no room.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Refused> {
        let mut kept = self.files.kept();
        while kept.bytes().saturating_add(kept.coming).saturating_add(bytes) > self.files.limits.bytes {
            if !kept.drop_one() {
                return Err(full());
            }
        }
        kept.coming += bytes;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut kept = self.files.kept();
        kept.coming = kept.coming.saturating_sub(self.bytes);
    }
}
