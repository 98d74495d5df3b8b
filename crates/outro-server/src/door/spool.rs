//! Where media of strangers lie: files that nobody else may read, in a directory that goes with the process.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir, TempPath};

use super::Refused;

const PREFIX: &str = "outro-media-";
const LOCK: &str = "lock";

/// The directory of a running server. What a killed one left is removed by the next.
#[derive(Debug)]
pub(super) struct Directory {
    dir: TempDir,
    _lock: File,
}

impl Directory {
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let dir = builder.tempdir_in(parent)?;
        // It has its name once it is locked, so nobody takes it for one that was left.
        let (early, name) = (dir.path().join("lock.new"), dir.path().join(LOCK));
        let lock = File::create(&early)?;
        lock.lock()?;
        fs::rename(early, name)?;
        remove_left(parent, dir.path());
        Ok(Self { dir, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes directories whose servers are gone. What cannot be removed stays: it is no reason not to start.
fn remove_left(parent: &Path, own: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !named || path == own || !is_ours(&path, own) {
            continue;
        }
        if let Ok(lock) = File::open(path.join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Whether it is a directory of the same owner: those of others may hold pipes and links in place of a lock.
fn is_ours(path: &Path, own: &Path) -> bool {
    let (Ok(it), Ok(own)) = (fs::symlink_metadata(path), fs::metadata(own)) else {
        return false;
    };
    #[cfg(unix)]
    let same = {
        use std::os::unix::fs::MetadataExt;
        it.uid() == own.uid()
    };
    #[cfg(not(unix))]
    let same = own.is_dir();
    it.is_dir() && same
}

/// How much may still come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Most bytes of one medium.
    pub(super) medium: u64,
    /// Most bytes of a request, and how many of them are taken.
    pub(super) request: u64,
    pub(super) taken: u64,
}

impl Room {
    /// # Errors
    /// 413 where a medium of so many bytes is too large.
    pub(super) fn check(&self, bytes: u64) -> Result<(), Refused> {
        if bytes > self.medium {
            let most = self.medium;
            return Err(Refused::new(
                413,
                format!("is larger than a medium may be ({most} bytes)"),
            ));
        }
        if bytes > self.request.saturating_sub(self.taken) {
            let text = format!(
                "makes the media of this request larger than they may be together ({} bytes)",
                self.request
            );
            return Err(Refused::new(413, text));
        }
        Ok(())
    }
}

/// A medium as it comes.
pub(super) struct Spool {
    file: NamedTempFile,
    hash: Sha256,
    bytes: u64,
    room: Room,
}

/// A medium that has come.
#[derive(Clone, Debug)]
pub(super) struct Spooled {
    pub(super) file: Arc<TempPath>,
    pub(super) hash: [u8; 32],
    pub(super) bytes: u64,
}

impl Spooled {
    pub(super) fn path(&self) -> PathBuf {
        self.file.to_path_buf()
    }
}

impl Spool {
    /// A new file; `prefix` and 24 random characters are its name.
    pub(super) fn new(directory: &Directory, prefix: &str, room: Room) -> Result<Self, Refused> {
        let made = tempfile::Builder::new()
            .prefix(prefix)
            .rand_bytes(24)
            .tempfile_in(directory.path());
        Ok(Self {
            file: made.map_err(|e| disk(&e))?,
            hash: Sha256::new(),
            bytes: 0,
            room,
        })
    }

    /// # Errors
    /// 413 where a medium of so many bytes would be too large.
    pub(super) fn expect(&self, bytes: u64) -> Result<(), Refused> {
        self.room.check(bytes)
    }

    /// # Errors
    /// 413 where it becomes too large; 507 where the disk is full.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), Refused> {
        self.room.check(self.bytes.saturating_add(piece.len() as u64))?;
        self.file.write_all(piece).map_err(|e| disk(&e))?;
        self.hash.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    pub(super) fn finish(self) -> Spooled {
        Spooled {
            hash: self.hash.finalize().into(),
            bytes: self.bytes,
            file: Arc::new(self.file.into_temp_path()),
        }
    }
}

/// What goes wrong with the disk is no fault of who asked, and its words may hold paths.
pub(super) fn disk(e: &io::Error) -> Refused {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Refused::new(507, "does not fit on the server's disk; try again later")
        }
        _ => Refused::new(
            500,
            "cannot be kept: the server's temporary directory cannot be used",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        medium: 10,
        request: 15,
        taken: 0,
    };

    #[test]
    fn files_are_private_and_go() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::new(parent.path()).unwrap();
        let mut spool = Spool::new(&directory, "a-", ROOM).unwrap();
        spool.write(b"abc").unwrap();
        spool.write(b"").unwrap();
        let spooled = spool.finish();
        assert_eq!((spooled.bytes, spooled.hash), (3, Sha256::digest(b"abc").into()));
        let path = spooled.path();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        #[cfg(unix)]
        for (path, mode) in [(path.as_path(), 0o600), (directory.path(), 0o700)] {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        let clone = spooled.clone();
        drop(spooled);
        assert!(path.exists());
        drop(clone);
        assert!(!path.exists());
        // One that is not finished.
        let spool = Spool::new(&directory, "a-", ROOM).unwrap();
        let path = spool.file.path().to_path_buf();
        drop(spool);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::new(parent.path()).unwrap();
        let mut spool = Spool::new(&directory, "a-", ROOM).unwrap();
        spool.write(&[0; 10]).unwrap();
        assert_eq!(spool.write(&[0]).unwrap_err().status, 413);
        let mut spool = Spool::new(&directory, "a-", Room { taken: 12, ..ROOM }).unwrap();
        spool.write(&[0; 3]).unwrap();
        let refused = spool.write(&[0]).unwrap_err();
        assert!(refused.message.contains("together"), "{refused}");
    }

    #[test]
    fn what_a_killed_server_left_goes_with_the_next() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, lock: bool| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("medium"), "x").unwrap();
            if lock {
                fs::write(path.join(LOCK), "").unwrap();
            }
            path
        };
        let (left, early, other) = (
            make("outro-media-left", true),
            make("outro-media-early", false),
            make("else", true),
        );
        let running = Directory::new(parent.path()).unwrap();
        let next = Directory::new(parent.path()).unwrap();
        assert!(!left.exists() && early.exists() && other.exists());
        assert!(running.path().exists());
        let path = next.path().to_path_buf();
        drop(next);
        assert!(!path.exists());
    }
}
