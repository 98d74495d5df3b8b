//! Integration tests: golden values of the Python processors, real files, hostile files.
#![cfg(test)]

mod golden;
mod hostile;
mod limits;
mod mutate;
mod pictures;
mod real;
mod sounds;
mod support;
mod video;

use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}
