//! Integration tests of the engine: golden values, laws, hostile checkpoints.
#![cfg(test)]

mod adapters;
mod answers;
mod budget;
mod checkpoint;
mod checkpoints;
mod config;
mod convert;
mod engine;
mod errors;
mod families;
mod gguf;
mod golden;
mod kv;
mod laws;
mod layout;
mod levels;
mod mmproj;
mod packed;
mod prepare;
mod processors;
mod published;
mod quantise;
mod qwen3;
mod rope;
mod sampling;
mod sparse;
mod strategies;
mod streamed;
mod text;
mod videollama3;

use std::path::{Path, PathBuf};

/// The repository's own fixtures.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The larger fixtures beside the checkout, if they are there; where CI runs they must be.
fn shared() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let dir = std::env::var_os("OUTRO_SHARED").map_or_else(default, PathBuf::from);
    if dir.join("fixtures").is_dir() {
        return Some(dir);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing; set OUTRO_SHARED",
        dir.display()
    );
    println!("note: {} is not here, its cases were not run", dir.display());
    None
}

/// Numbers below another, drawn the same way every time.
fn dice(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % below
    }
}
