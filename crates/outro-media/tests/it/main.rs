//! Integration tests: golden values of the Python processors, real files, hostile files.
#![cfg(test)]

mod golden;
mod hostile;
mod real;

use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}
