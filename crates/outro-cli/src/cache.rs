//! Where the program keeps what it can make again.

use std::path::PathBuf;

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

/// `OUTRO_CACHE`, or `outro` where the user's programs keep such things.
pub(crate) fn dir() -> Option<PathBuf> {
    set("OUTRO_CACHE").or_else(|| {
        let home = || Some(set("HOME")?.join(".cache"));
        let user = set("XDG_CACHE_HOME")
            .or_else(|| set("LOCALAPPDATA"))
            .or_else(home)?;
        Some(user.join("outro"))
    })
}

/// [`dir`], then, unless `OUTRO_CACHE` chose it, the system's directory of temporary files.
pub(crate) fn places() -> Vec<PathBuf> {
    let temp = set("OUTRO_CACHE")
        .is_none()
        .then(|| std::env::temp_dir().join("outro"));
    dir().into_iter().chain(temp).collect()
}
