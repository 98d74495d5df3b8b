//! The rules of this repository, so that CI has no check that a laptop lacks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::outro;

mod modules;
mod words;
use modules::Uses;

/// Workspace crates, and the workspace crates that each may depend on.
const CRATES: [(&str, &[&str]); 7] = [
    ("outro-kernels", &[]),
    ("outro-media", &[]),
    ("outro", &["outro-kernels", "outro-media"]),
    ("outro-hub", &["outro"]),
    ("outro-lab", &["outro", "outro-media"]),
    ("outro-server", &["outro", "outro-hub", "outro-media"]),
    (
        "outro-cli",
        &["outro", "outro-hub", "outro-lab", "outro-media", "outro-server"],
    ),
];

/// Folders of a crate, from the lowest up; none names a higher one.
const FLOORS: [(&str, &[&str]); 4] = [
    (
        "outro-media",
        &[
            "error", "note", "info", "picture", "sound", "decode", "source", "write",
        ],
    ),
    (
        "outro",
        &["error", "weights", "spec", "prompt", "hook", "compute", "run"],
    ),
    ("outro-server", &["door", "api", "work", "http"]),
    (
        "outro-cli",
        &[
            "cache",
            "memory",
            "hints",
            "fault",
            "interrupt",
            "ui",
            "hub",
            "args",
            "shell",
            "cmd",
        ],
    ),
];

/// Modules of the engine that must never name a module of a lower folder.
const NEVER: [(&str, &[&str]); 2] = [
    // A family is data: what a decoder or an encoder does depends on the configuration alone.
    ("compute", &["spec::family"]),
    ("hook", &["spec::family"]),
];

fn root() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

/// Every text file of the repository, by its path from the root.
fn texts(under: &str) -> Vec<(String, String)> {
    let root = root();
    let (mut found, mut stack) = (Vec::new(), vec![root.join(under)]);
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            // A directory, or in a second working tree a file.
            if name == ".git" {
                continue;
            }
            if path.is_dir() {
                if entry.file_name() != "target" {
                    stack.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push((name, text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "nothing under {under}");
    found
}

fn sources() -> Vec<(String, String)> {
    texts("crates")
        .into_iter()
        .filter(|(name, _)| Path::new(name).extension().is_some_and(|e| e == "rs"))
        .collect()
}

fn documents() -> Vec<(String, String)> {
    texts("")
        .into_iter()
        .filter(|(name, _)| Path::new(name).extension().is_some_and(|e| e == "md"))
        .collect()
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn crates_depend_only_downwards() {
    let known: BTreeSet<_> = CRATES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let there: BTreeSet<_> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        known, there,
        "a new crate belongs in this test and in ARCHITECTURE.md"
    );
    let mut wrong = Vec::new();
    for (name, allowed) in CRATES {
        let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        for line in manifest.lines() {
            let key: String = line
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_')
                .collect();
            if known.contains(&key) && !allowed.contains(&key.as_str()) {
                wrong.push(format!("{name} depends on {key}"));
            }
        }
    }
    none("arrows between crates that ARCHITECTURE.md does not have", &wrong);
}

/// Sources of a crate, by their path below `src`.
fn sources_of(krate: &str) -> Vec<(String, String)> {
    let folder = format!("crates/{krate}/src/");
    let all = sources().into_iter();
    all.filter_map(|(name, text)| Some((name.strip_prefix(&folder)?.to_owned(), text)))
        .collect()
}

#[test]
fn folders_are_used_from_above() {
    for (krate, floors) in FLOORS {
        let floor = |module: &[String]| {
            let folder = module.first()?;
            let found = floors.iter().position(|f| f == folder);
            assert!(
                found.is_some(),
                "{krate}: {folder} belongs in this test and in ARCHITECTURE.md"
            );
            found
        };
        let (mut wrong, uses) = (Vec::new(), Uses::of(&sources_of(krate)));
        for ((from, to), place) in &uses.edges {
            match (floor(from), floor(to)) {
                (Some(from), Some(to)) if to > from => wrong.push(format!("a higher folder: {place}")),
                // Names at the root belong to those outside: they hide whom they come from.
                (Some(_), None) => wrong.push(format!("the root: {place}")),
                _ => {}
            }
            let (from, to) = (from.join("::"), to.join("::"));
            for (module, never) in NEVER {
                if from.starts_with(module) && never.iter().any(|n| to.starts_with(n)) {
                    wrong.push(format!("what {module} must not know: {place}"));
                }
            }
        }
        none(
            "arrows between folders that ARCHITECTURE.md does not have",
            &wrong,
        );
    }
}

#[test]
fn modules_form_no_circles() {
    let mut wrong = Vec::new();
    for (krate, _) in CRATES {
        let circles = Uses::of(&sources_of(krate)).circles();
        wrong.extend(circles.into_iter().map(|c| format!("{krate}: {c}")));
    }
    none("circles of modules", &wrong);
}

/// A library's message names no flag: `Error::hint` says as data what helps, the command line has its words for it.
#[test]
fn libraries_name_no_flags() {
    let mut found = Vec::new();
    for (krate, _) in CRATES.iter().filter(|(name, _)| *name != "outro-cli") {
        let tests = |name: &str| name.ends_with("tests.rs");
        for (name, text) in sources_of(krate).into_iter().filter(|(name, _)| !tests(name)) {
            let words = words::of(&name, &text);
            let flags = words.iter().filter(|w| words::names_a_flag(w));
            found.extend(flags.map(|w| format!("{krate}: {name}: {w}")));
        }
    }
    none("flags in libraries", &found);
}

#[test]
fn nothing_is_left_open() {
    // Put together here, so that this file does not find itself.
    let words = [
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["#[", "ignore"].concat(),
        ["dbg", "!("].concat(),
    ];
    let mut found = Vec::new();
    for (name, text) in sources() {
        for (n, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w.as_str())) {
                found.push(format!("{name}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    none("open ends", &found);
}

#[test]
fn no_path_of_one_machine() {
    let places = [
        ["/wo", "rk/"].concat(),
        ["/ro", "ot/"].concat(),
        ["/ho", "me/"].concat(),
        ["/tm", "p/v/"].concat(),
    ];
    let mut found = Vec::new();
    for (name, text) in texts("") {
        for (n, line) in text.lines().enumerate() {
            if places.iter().any(|p| line.contains(p.as_str())) {
                found.push(format!("{name}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    none("paths that exist on one machine only", &found);
}

#[test]
fn links_in_documents_resolve() {
    let mut broken = Vec::new();
    for (name, text) in documents() {
        let dir = root().join(&name);
        let dir = dir.parent().unwrap();
        for after in text.split("](").skip(1) {
            let target = after.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if target.contains("://") || target.starts_with("mailto:") || file.is_empty() {
                continue;
            }
            if !dir.join(file).exists() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    none("links to nothing", &broken);
}

/// Commands in fenced blocks, without their prompt.
fn commands(text: &str) -> Vec<String> {
    let blocks = text.split("```").skip(1).step_by(2);
    let shell = blocks.filter_map(|b| b.strip_prefix("sh\n").or_else(|| b.strip_prefix("console\n")));
    shell
        .flat_map(|b| {
            b.replace("\\\n", " ")
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .map(|line| line.trim_start_matches("$ ").trim().to_owned())
        .collect()
}

/// A command that documents show exists, and so does every flag that they show with it.
#[test]
fn documented_commands_exist() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, text) in documents() {
        for line in commands(&text) {
            let rest = ["cargo run -- ", "cargo run --release -- ", "outro "]
                .iter()
                .find_map(|p| line.strip_prefix(p));
            let Some(rest) = rest else { continue };
            seen += 1;
            let mut words = rest.split_whitespace();
            let command = words.next().unwrap_or_default();
            // The second word may be a command of its own (`eval run`); where it is an argument the help is the same.
            let second = rest
                .split_whitespace()
                .nth(1)
                .filter(|w| !w.starts_with(['-', '"']));
            let help = outro([command].into_iter().chain(second).chain(["--help"]));
            if help.code != Some(0) {
                wrong.push(format!("{name}: `{line}`: no command {command}"));
            }
            for flag in words.filter(|w| w.starts_with("--") && w.len() > 2) {
                if !help.stdout.contains(flag.split('=').next().unwrap_or_default()) {
                    wrong.push(format!("{name}: `{line}`: no flag {flag}"));
                }
            }
        }
    }
    assert!(seen > 0, "README shows no command");
    none("documents show what does not exist", &wrong);
}

#[test]
fn readme_shows_what_ci_runs() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    let test = "cargo test --workspace";
    assert!(
        commands(&readme).iter().any(|c| c == test),
        "README's test command"
    );
    assert!(
        ci.lines().any(|l| l.trim() == test),
        ".ci/run does not run README's test command"
    );
    assert!(
        commands(&readme)
            .iter()
            .any(|c| c.starts_with("cargo run -- ask --video fixtures/shapes.mp4")),
        "README's run command"
    );
}

/// README's example is the doctest of the library.
#[test]
fn readme_shows_the_doctest() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let blocks = |text: &str| -> Vec<String> {
        let found = text.split("```rust\n").skip(1);
        found.map(|b| b.split("```").next().unwrap().to_owned()).collect()
    };
    let tested: Vec<String> = read("crates/outro/src/lib.rs")
        .lines()
        .skip_while(|l| *l != "//! ```")
        .skip(1)
        .take_while(|l| *l != "//! ```")
        .filter(|l| !l.starts_with("//! # "))
        .map(|l| l.trim_start_matches("//!").trim_start_matches(' ').to_owned() + "\n")
        .collect();
    for page in ["README.md", "docs/library.md"] {
        assert_eq!(blocks(&read(page))[0], tested.concat(), "{page}");
    }
}

/// What a newcomer reads first can be read in a terminal and in a diff; tables and listings are as wide as they are.
#[test]
fn first_pages_have_short_lines() {
    let mut long = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        // What is between fences is every second part.
        let mut number = 0;
        for (part, block) in text.split("```").enumerate() {
            for line in block.split_inclusive('\n') {
                number += usize::from(line.ends_with('\n'));
                if part % 2 == 0 && !line.starts_with('|') && line.chars().count() > 121 {
                    long.push(format!("{name}:{number}: {}", line.trim()));
                }
            }
        }
    }
    none("long lines", &long);
}

/// Loops over activations are in `compute::nn::ops`, kernels apart: what another backend has to bring is one folder.
#[test]
fn loops_over_activations_are_in_one_place() {
    let mut found = Vec::new();
    for (name, text) in sources_of("outro") {
        let inside = name.contains("compute/") && !name.contains("nn/ops/") && !name.ends_with("nn/mat.rs");
        if !inside {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (n, line) in code.lines().enumerate() {
            let writes = ["data_mut().iter_mut()", "row_mut(", "chunks_exact_mut("];
            // A router's row is handed to `ops` as a whole.
            if writes.iter().any(|w| line.contains(w)) && !line.contains("ops::") {
                found.push(format!("{name}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    none("loops over activations", &found);
}

#[test]
fn architecture_is_short() {
    let lines = fs::read_to_string(root().join("ARCHITECTURE.md"))
        .unwrap()
        .lines()
        .count();
    assert!(lines <= 300, "ARCHITECTURE.md has {lines} lines");
}
