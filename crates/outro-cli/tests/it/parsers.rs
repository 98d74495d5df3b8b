//! How replies are read: `--parser`, reading a log anew, and logs that were begun before there was a choice.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{answers, run_line, run_over, world};
use crate::support::{args, outro};

/// Questions with replies that the parsers read differently, as a benchmark and as a file of replies.
fn replies(dir: &Path) -> (PathBuf, PathBuf) {
    let rows = [
        "B",
        "**Answer:** B",
        "A or B",
        "The answer is A or B.",
        "not B",
        "A... no, wait, B",
        "dog",
        "a dog",
        "",
        "I think so",
    ];
    let question = |i: usize| {
        json!({
            "Question": format!("What is heard, number {i}?"), "Choice": ["A. cat", "B. dog", "C. bird", "D. fish"], "Answer": "B",
            "video_id": "0", "Type": "Sound", "video_category": "S", "video_duration": "30s",
        })
    };
    let questions: Vec<Value> = (0..rows.len()).map(question).collect();
    fs::write(dir.join("qa.json"), serde_json::to_string(&questions).unwrap()).unwrap();
    // A log of nothing says how the questions are called.
    let log = dir.join("ids.jsonl");
    fs::write(dir.join("none.json"), "[]").unwrap();
    let nothing = outro(line(dir, &dir.join("none.json"), &log, &[]));
    assert!(nothing.stderr.contains("every answer failed"), "{nothing:?}");
    let ids = answers_in_order(&log);
    let said: Vec<Value> = ids
        .iter()
        .zip(rows)
        .map(|(row, reply)| json!({"id": row["id"], "reply": reply}))
        .collect();
    let file = dir.join("said.json");
    fs::write(&file, serde_json::to_string(&said).unwrap()).unwrap();
    (dir.to_owned(), file)
}

fn answers_in_order(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    text.lines()
        .skip(1)
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn line(data: &Path, said: &Path, out: &Path, more: &[&str]) -> Vec<OsString> {
    let mut line: Vec<OsString> = args![
        "eval",
        "run",
        "daily-omni",
        "--data",
        data,
        "--replies",
        said,
        "--model",
        "m",
        "--out",
        out
    ]
    .into();
    line.extend(more.iter().map(OsString::from));
    line
}

fn header(log: &Path) -> Value {
    serde_json::from_str(fs::read_to_string(log).unwrap().lines().next().unwrap()).unwrap()
}

fn rescore(log: &Path, parser: &str, new: &Path) -> crate::support::Ran {
    outro(args!["eval", "rescore", log, "--parser", parser, "--out", new])
}

#[test]
fn a_log_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (data, said) = replies(dir.path());
    let of = |parser: &str| {
        let out = dir.path().join(format!("{parser}.jsonl"));
        let ran = outro(line(&data, &said, &out, &["--parser", parser])).ok();
        assert!(ran.stdout.contains(&format!("parser {parser}")), "{}", ran.stdout);
        out
    };
    let (old, direct) = (of("outro-1"), of("outro-2"));
    let before = fs::read(&old).unwrap();
    let new = dir.path().join("new.jsonl");
    let ran = rescore(&old, "outro-2", &new).ok();
    assert_eq!(fs::read(&old).unwrap(), before, "the log itself stays");
    assert_eq!((header(&new), answers(&new)), (header(&direct), answers(&direct)));
    let changed = answers(&old)
        .iter()
        .zip(answers(&new))
        .filter(|(a, b)| a["parsed"] != b["parsed"])
        .count();
    assert!(changed > 1);
    let words = format!("{changed} of 10 answers changed from outro-1 to outro-2");
    assert!(
        ran.stdout.contains(&words) && ran.stdout.contains("| baseline"),
        "{}",
        ran.stdout
    );
    // There and back, or to itself, is the log.
    let back = dir.path().join("back.jsonl");
    rescore(&new, "outro-1", &back).ok();
    assert_eq!((header(&back), answers(&back)), (header(&old), answers(&old)));
    let same = dir.path().join("same.jsonl");
    let ran = rescore(&old, "outro-1", &same).ok();
    assert!(ran.stdout.contains("0 of 10 answers changed"), "{}", ran.stdout);
    // Once more adds nothing, after a cut only what is missing.
    let whole = fs::read_to_string(&new).unwrap();
    rescore(&old, "outro-2", &new).ok();
    assert_eq!(fs::read_to_string(&new).unwrap(), whole);
    let lines: Vec<&str> = whole.lines().collect();
    fs::write(&new, lines[..4].join("\n") + "\n").unwrap();
    let ran = rescore(&old, "outro-2", &new).ok();
    assert!(ran.stderr.contains("7 answers written"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(&new).unwrap(), whole);
    // Another run's log, the log itself and unknown parsers are refused.
    rescore(&old, "release-1", &new).fails(1, &["new.jsonl", "parser"]);
    rescore(&old, "outro-1", &old).fails(2, &["--out", "log itself"]);
    rescore(&old, "outro-9", &new).fails(2, &["outro-9", "outro-2"]);
    assert_eq!(fs::read(&old).unwrap(), before);
}

#[test]
fn every_strategy_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (log, new) = (dir.path().join("log.jsonl"), dir.path().join("new.jsonl"));
    outro([run_line("daily-omni", &log), args!["--limit", "3"].into()].concat()).ok();
    let ran = rescore(&log, "outro-1", &new).ok();
    for strategy in ["| baseline", "| outro"] {
        assert!(ran.stdout.contains(strategy), "{}", ran.stdout);
    }
    assert_eq!(header(&new)["parser"], "outro-1");
    assert_eq!(
        answers(&new),
        answers(&log),
        "an option's words are read alike by both"
    );
    let report = outro(args!["eval", "report", &new]).ok();
    assert!(report.stdout.contains("parser outro-1"), "{}", report.stdout);
    // Answers that were not read from replies have nothing to be read anew.
    let logits = dir.path().join("logits.jsonl");
    let more = args!["--limit", "1", "--readout", "logits", "--strategy", "baseline"];
    outro([run_line("daily-omni", &logits), more.into()].concat()).ok();
    rescore(&logits, "outro-1", &dir.path().join("n.jsonl")).fails(2, &["logits"]);
}

/// A log as version 0.1.0 wrote it, which read replies by `outro-1`, multiplied exactly and did not know of pictures'
/// orientation or of notes; it stopped after three answers.
fn begun(log: &Path) -> String {
    outro(
        [
            run_line("daily-omni", log),
            args!["--limit", "4", "--parser", "outro-1", "--activations", "f32"].into(),
        ]
        .concat(),
    )
    .ok();
    let lines = fs::read_to_string(log).unwrap();
    let older = lines.lines().take(4).map(|line| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("notes");
        if let Some(media) = value.get_mut("media") {
            media.as_object_mut().unwrap().remove("exif");
        }
        format!("{value}\n")
    });
    let there: String = older.collect();
    fs::write(log, &there).unwrap();
    there
}

#[test]
fn a_log_of_an_earlier_version_goes_on_as_it_was_begun() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("daily-omni.jsonl");
    let there = begun(&log);
    let run: Vec<OsString> = [
        run_over("daily-omni", &world("daily-omni"), &log),
        args!["--limit", "4"].into(),
    ]
    .concat();
    outro([&run[..], &args!["--parser", "outro-2"]].concat()).fails(1, &["daily-omni.jsonl", "parser"]);
    assert_eq!(fs::read_to_string(&log).unwrap(), there);
    let ran = outro(&run).ok();
    assert!(
        ran.stderr.contains("goes on") && ran.stderr.contains("parser = outro-1"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("activations = f32"), "{}", ran.stderr);
    let now = fs::read_to_string(&log).unwrap();
    assert!(now.starts_with(&there), "what was there stays");
    assert_eq!((there.lines().count() - 1, now.lines().count() - 1), (3, 8));
    // Given again, everything is there.
    let again = outro(&run).ok();
    assert!(
        again.stderr.contains("8 answers are there already"),
        "{}",
        again.stderr
    );
    // And a new run is read by the new parser.
    let fresh = dir.path().join("fresh.jsonl");
    outro(
        [
            run_over("daily-omni", &world("daily-omni"), &fresh),
            args!["--limit", "1"].into(),
        ]
        .concat(),
    )
    .ok();
    assert_eq!(header(&fresh)["parser"], "outro-2");
    assert_eq!(header(&fresh)["weights"], "auto, reduced activations");
}
