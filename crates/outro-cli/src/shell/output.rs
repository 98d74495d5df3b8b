//! Files that a command writes: checked before the work, complete or not there afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::fault::Fault;

/// A place where a file will appear. An existing file stays as it is until [`Target::commit`].
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    temp: PathBuf,
}

impl Target {
    /// Makes sure that `path` can be written, by creating a temporary file beside it.
    pub(crate) fn claim(path: &Path) -> anyhow::Result<Self> {
        let fail = |why: String| {
            Fault::failure(format!("--out {}: {why}", path.display()))
                .hint("give a file in a directory that you may write to")
        };
        // Through a link: the file behind it is what the user means, and a rename would replace the link.
        let path = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(e) if e.kind() == ErrorKind::NotFound => path.to_path_buf(),
            Err(e) => return Err(fail(e.to_string()).into()),
        };
        if let Ok(meta) = fs::metadata(&path) {
            if meta.is_dir() {
                return Err(fail("is a directory".into()).into());
            }
            if !meta.is_file() {
                return Err(fail("is not a regular file".into()).into());
            }
            OpenOptions::new()
                .append(true)
                .open(&path)
                .map_err(|e| fail(e.to_string()))?;
        }
        let name = path.file_name().ok_or_else(|| fail("has no file name".into()))?;
        let mut temp_name = std::ffi::OsString::from(".");
        temp_name.push(name);
        temp_name.push(format!(".{}.tmp", std::process::id()));
        let temp = path.with_file_name(temp_name);
        make_parent(&path)?;
        File::create(&temp).map_err(|e| fail(e.to_string()))?;
        Ok(Self { path, temp })
    }

    /// Where to write.
    pub(crate) fn temp(&self) -> &Path {
        &self.temp
    }

    /// Puts what was written in its place, replacing what was there.
    pub(crate) fn commit(self) -> anyhow::Result<()> {
        fs::rename(&self.temp, &self.path)
            .with_context(|| format!("--out {}: cannot be replaced", self.path.display()))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Gone already after a commit.
        let _ = fs::remove_file(&self.temp);
    }
}

/// Makes the directory in which `path` will lie, where it is not there.
pub(crate) fn make_parent(path: &Path) -> anyhow::Result<()> {
    let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) else {
        return Ok(());
    };
    fs::create_dir_all(dir).map_err(|e| {
        Fault::failure(format!("--out {}: {e}", path.display()))
            .hint("give a file in a directory that you may write to")
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_survives_until_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o");
        fs::write(&path, "old").unwrap();
        let target = Target::claim(&path).unwrap();
        fs::write(target.temp(), "half").unwrap();
        drop(target);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let target = Target::claim(&path).unwrap();
        fs::write(target.temp(), "new").unwrap();
        target.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn places_that_cannot_be_written_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            Target::claim(dir.path())
                .unwrap_err()
                .to_string()
                .contains("directory")
        );
        fs::write(dir.path().join("file"), "x").unwrap();
        let error = Target::claim(&dir.path().join("file/o")).unwrap_err().to_string();
        assert!(error.contains("--out"), "{error}");
        // A directory that is not there is made.
        drop(Target::claim(&dir.path().join("no/such/o")).unwrap());
        assert!(dir.path().join("no/such").is_dir());
        if Path::new("/dev/null").exists() {
            assert!(
                Target::claim(Path::new("/dev/null"))
                    .unwrap_err()
                    .to_string()
                    .contains("regular")
            );
        }
    }
}
