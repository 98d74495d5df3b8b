//! From the name of a model to a directory: a local path as it is, a hub id through the Hugging Face cache.
//!
//! The cache is the one of Python's `huggingface_hub`, in its layout (`blobs`, `refs`, `snapshots`, `.no_exist`, locks), so
//! both use each other's files. Of a repository those files are fetched that the engine reads: the small ones first, then
//! config.json is judged, then the weights. Nothing here prints: progress and notes are [`Event`]s, failures an [`Error`]
//! with its [`Cause`] and a hint.

mod cache;
mod error;
mod fetch;
pub mod http;
mod id;
mod other;
mod settings;

use std::path::{Path, PathBuf};

pub use error::{Cause, Error, Result, human_bytes};
pub use id::Id;
pub use settings::{Settings, Token};

use cache::{Repo, Snapshot};

/// What happens while a model is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Weights are about to come.
    Weights {
        /// Bytes that are not in the cache yet.
        bytes: u64,
        /// The cache.
        into: &'a Path,
    },
    /// Bytes of these weights that have come, those of earlier runs included.
    Arrived(u64),
    /// Of several quantisations one is taken; with each the bytes of its files.
    Chosen {
        /// By their names.
        all: &'a [(String, u64)],
        /// Which.
        taken: usize,
        /// The file of the towers that belong to it.
        towers: Option<(&'a str, u64)>,
    },
    /// A sentence for a person.
    Note(String),
}

/// Where events go.
pub type Events<'a> = dyn FnMut(Event<'_>) + 'a;

/// The directory (or file) of the model `name`: a path that exists as it is, else a hub id `ORG/NAME[:QUANTISATION][@REVISION]`. Of a
/// repository of GGUF files it is one of these, with its towers beside it, and of an adapter the directory that holds it.
///
/// The hub is asked which commit a branch means, and for what the cache lacks. Where it gives no answer and the cache holds
/// what is needed, the cache is used, with a note. A full commit whose files are in the cache needs no network.
///
/// # Errors
/// See [`Cause`].
pub fn resolve(name: &str, settings: &Settings, events: &mut Events<'_>) -> Result<PathBuf> {
    let local = Path::new(name);
    if local.exists() {
        return Ok(local.to_path_buf());
    }
    let id = Id::of_model(name)?;
    let repo = Repo::new(&settings.cache, &id);
    let cached = Snapshot::find(&repo, &id);
    if settings.offline {
        return offline(&id, settings, cached, events);
    }
    match cached {
        // A commit never changes, so there is nothing to ask the hub.
        Some(c) if c.commit == id.revision && c.missing.is_empty() && c.unknown.is_empty() => Ok(c.dir),
        cached => {
            if cached.is_none()
                && let Some(here) = id.beside()
            {
                events(Event::Note(format!(
                    "{here}, so {id} is taken for a model of {}",
                    settings.endpoint
                )));
            }
            fetch::fetch(&id, &repo, cached, settings, events)
        }
    }
}

fn offline(
    id: &Id,
    settings: &Settings,
    cached: Option<Snapshot>,
    events: &mut Events<'_>,
) -> Result<PathBuf> {
    let problem = match cached {
        Some(c) if c.missing.is_empty() => {
            if !c.unknown.is_empty() {
                events(Event::Note(format!(
                    "{id}: the cache does not say whether the repository has {}; one run with the network completes it",
                    c.unknown.join(", ")
                )));
            }
            return Ok(c.dir);
        }
        Some(c) => format!("is in the cache only in part: {} missing", c.missing.join(", ")),
        None => "is not in the cache".to_owned(),
    };
    let here = id.beside().map_or_else(String::new, |here| format!("; {here}"));
    let message = format!(
        "{id} {problem} ({}), and HF_HUB_OFFLINE forbids the network{here}",
        settings.cache.display()
    );
    Err(Error::new(Cause::Offline, message)
        .hint("unset HF_HUB_OFFLINE and run the command again, or give the directory of a checkpoint"))
}
