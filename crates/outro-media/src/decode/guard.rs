//! Panics of decoders that were written for whole files, as errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

use crate::error::{Error, Result};

thread_local! {
    /// Whether a panic of this thread is expected, and then says nothing.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder; a panic becomes an error that names the file, and prints nothing.
pub(crate) fn guarded<T>(path: &Path, what: &str, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    QUIET.set(outer);
    result.unwrap_or_else(|_| {
        Err(Error::damaged(
            path,
            format!("the built-in {what} failed on this file: it is damaged, or of a kind that needs ffmpeg"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_names_the_file() {
        let path = Path::new("some.mp4");
        let failed = guarded(path, "decoder", || -> Result<()> {
            panic!("index out of bounds")
        });
        let message = failed.unwrap_err().to_string();
        assert!(
            message.starts_with("some.mp4: the built-in decoder failed"),
            "{message}"
        );
        assert_eq!(guarded(path, "decoder", || Ok(3)).unwrap(), 3);
    }
}
