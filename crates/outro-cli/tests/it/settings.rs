//! The table of settings in documents and help.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use outro::strategy::{SETTINGS, settings_of};

use crate::support::outro;

const MARKS: [&str; 2] = ["<!-- settings -->\n", "<!-- /settings -->"];

fn table() -> String {
    let mut out = "| of | key | value | default | flag | what |\n|---|---|---|---|---|---|\n".to_owned();
    for s in SETTINGS {
        let code = |text: &str| {
            if text.is_empty() {
                String::new()
            } else {
                format!("`{text}`")
            }
        };
        let flag = if s.flag.is_empty() {
            String::new()
        } else {
            format!("`--{}`", s.flag)
        };
        let (form, default) = (s.form.words(), code(s.default));
        writeln!(
            out,
            "| `{}` | `{}` | {form} | {default} | {flag} | {} |",
            s.of, s.name, s.help
        )
        .unwrap();
    }
    out
}

/// docs/settings.md has the table; with OUTRO_UPDATE_DOCS=1 it is written anew.
#[test]
fn the_document_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (there, after) = rest.split_once(MARKS[1]).unwrap();
    if std::env::var_os("OUTRO_UPDATE_DOCS").is_some() {
        let [begin, end] = MARKS;
        fs::write(&path, format!("{before}{begin}{}{end}{after}", table())).unwrap();
        return;
    }
    assert_eq!(there, table(), "run this test with OUTRO_UPDATE_DOCS=1");
}

/// `ask --help` has each flag of the method, and where it names a default it is the table's.
#[test]
fn help_has_the_table() {
    let help = outro(["ask", "--help"]).ok().stdout;
    for s in settings_of("outro") {
        let (_, after) = help
            .split_once(&format!("\n      --{}", s.flag))
            .unwrap_or_else(|| panic!("no --{}", s.flag));
        let own: String = after
            .split("\n      --")
            .next()
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        // Switches that are on or off, and lists, have no default in words.
        let told = own.contains("[default: the model's own, else ");
        assert!(
            told || [
                "layers",
                "once",
                "no-rotate",
                "no-relax",
                "no-rescale",
                "decode",
                "sinks"
            ]
            .contains(&s.flag),
            "--{}",
            s.flag
        );
        if let Some((_, said)) = own.split_once("[default: the model's own, else ") {
            let said = said.split(']').next().unwrap();
            let other = ["number of layers - 2", "layers / 7"].contains(&said) && s.default == "default";
            assert!(said == s.default || other, "--{}: {said}", s.flag);
        }
    }
    let (_, keys) = help.split_once("Any switch by its name:").unwrap();
    let keys = keys
        .split(['.', '-'])
        .next()
        .unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let all: Vec<&str> = settings_of("outro").map(|s| s.name).collect();
    assert_eq!(keys, all.join(", "));
}

/// Dropping tokens is a part of a run's name, however it was asked for.
#[test]
fn pruning_has_one_name() {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/shapes.mp4");
    let name = |more: &[&str]| -> (String, u64) {
        let clip = clip.to_str().unwrap();
        let common = [
            "ask",
            "--json",
            "--max-new-tokens",
            "1",
            "--video",
            clip,
            "What is it?",
        ];
        let made = outro(common.iter().chain(more)).ok().stdout;
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let answer = &made["answers"][0];
        (
            answer["strategy"].as_str().unwrap().to_owned(),
            answer["pruned"].as_u64().unwrap(),
        )
    };
    let (flag, pruned) = name(&["--prune", "layer=3,keep=0.5"]);
    assert_eq!(flag, "outro/prune:layer=3,keep=0.5");
    assert_eq!(name(&["--strategy", &flag]), (flag, pruned));
    assert!(pruned > 0);
}
