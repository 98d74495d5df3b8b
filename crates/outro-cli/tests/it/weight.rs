//! How much a newcomer compiles before the first answer.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates of the binary with default features, with build scripts and procedural macros; the server (axum, hyper, tokio, uploads)
/// is some thirty of them.
const CRATES: usize = 280;

#[test]
fn the_binary_is_made_of_few_crates() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| env!("CARGO").into());
    let output = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "-p", "outro-cli"])
        .args(["-e", "normal,build", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // `name version (path or note)`
    let crates: BTreeSet<&str> = text.lines().filter_map(|l| l.split(" (").next()).collect();
    assert!(crates.iter().any(|c| c.starts_with("outro-cli ")), "{text}");
    assert!(
        crates.len() <= CRATES,
        "{} crates; `cargo tree -i NAME` says who brings one",
        crates.len()
    );
}
