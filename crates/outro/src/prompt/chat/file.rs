//! Files of media, and bytes that become one.

use std::any::Any;
use std::fmt;
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// A file of media: one that is there, or bytes ([`MediaFile::from_bytes`]), which lie in a temporary file until the last
/// clone is dropped. Decoders take files: ffmpeg seeks in them.
#[derive(Clone)]
pub struct MediaFile {
    path: PathBuf,
    _held: Option<Arc<dyn Any + Send + Sync>>,
}

impl MediaFile {
    /// Bytes of a file, of any format; what they are is found in them, not in a name.
    ///
    /// # Errors
    /// A temporary directory that cannot be written to.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let failed = |path: &Path, e| Error::io(path)(e);
        let dir = std::env::temp_dir();
        let mut file = tempfile::Builder::new()
            .prefix("outro-")
            .tempfile_in(&dir)
            .map_err(|e| failed(&dir, e))?;
        file.write_all(bytes).map_err(|e| failed(file.path(), e))?;
        let held = file.into_temp_path();
        Ok(Self::held(held.to_path_buf(), Arc::new(held)))
    }

    /// A file that is there as long as `held` is: whatever removes it when it is dropped.
    pub fn held(path: PathBuf, held: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            path,
            _held: Some(held),
        }
    }
}

impl fmt::Debug for MediaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MediaFile").field(&self.path).finish()
    }
}

impl Deref for MediaFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for MediaFile {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl<P: Into<PathBuf>> From<P> for MediaFile {
    fn from(path: P) -> Self {
        Self {
            path: path.into(),
            _held: None,
        }
    }
}

impl PartialEq for MediaFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for MediaFile {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_in_a_file_as_long_as_somebody_has_them() {
        let file = MediaFile::from_bytes(b"abc").unwrap();
        let (clone, path) = (file.clone(), file.to_path_buf());
        drop(file);
        assert_eq!(std::fs::read(&*clone).unwrap(), b"abc");
        assert_eq!(clone, path.clone().into());
        drop(clone);
        assert!(!path.exists());
    }
}
