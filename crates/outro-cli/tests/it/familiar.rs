//! The demonstration model knows its world: media that are unlike it are answered after a line that says so.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{run_over, world};
use crate::support::{Ran, args, ffmpeg, outro, shared, tiny};

const WHAT_TO_DO: &str = "--model Qwen/Qwen2.5-Omni-3B";

fn fixture(name: &str) -> PathBuf {
    tiny().with_file_name(name)
}

fn ask(media: &[OsString], more: &[&str]) -> Ran {
    let mut line: Vec<OsString> = args!["ask", "--model", "outro-tiny", "--max-new-tokens", "2"].into();
    line.extend_from_slice(media);
    line.extend(more.iter().map(OsString::from));
    line.push("What happens?".into());
    outro(line).ok()
}

/// What `--json` says about media that are unlike its own.
fn noted(ran: &Ran) -> Vec<Value> {
    let record: Value = serde_json::from_str(&ran.stdout).unwrap();
    let notes = record["notes"].as_array().unwrap();
    notes
        .iter()
        .filter(|n| n["kind"] == "unfamiliar")
        .cloned()
        .collect()
}

#[track_caller]
fn is_told(media: &[OsString]) {
    let ran = ask(media, &["--json"]);
    let notes: Vec<&str> = ran
        .stderr
        .lines()
        .filter(|l| l.contains("demonstration"))
        .collect();
    assert_eq!(notes.len(), 1, "{media:?}: {}", ran.stderr);
    assert!(
        notes[0].contains("distance") && notes[0].contains(WHAT_TO_DO),
        "{}",
        notes[0]
    );
    let said = noted(&ran);
    assert_eq!(said.len(), 1, "{media:?}: {}", ran.stdout);
    assert!(said[0]["text"].as_str().unwrap().contains("distance"), "{said:?}");
}

#[track_caller]
fn is_not_told(media: &[OsString]) {
    let ran = ask(media, &["--json"]);
    assert!(!ran.stderr.contains("demonstration"), "{media:?}: {}", ran.stderr);
    assert_eq!(noted(&ran), Vec::<Value>::new());
}

#[test]
fn its_own_clips_are_answered_without_a_word() {
    is_not_told(&args!["--video", fixture("shapes.mp4")]);
    for entry in fs::read_dir(world("avhbench").join("videos")).unwrap().flatten() {
        is_not_told(&args!["--video", entry.path()]);
    }
}

#[test]
fn other_clips_pictures_and_sounds_are_told() {
    is_told(&args!["--video", fixture("clip.mp4")]);
    // In one line also where no model was named, and with no number where there are no media.
    let bare = outro(args![
        "ask",
        "--max-new-tokens",
        "1",
        "--video",
        fixture("clip.mp4"),
        "What?"
    ])
    .ok();
    assert_eq!(bare.stderr.matches("demonstration").count(), 1, "{}", bare.stderr);
    let ran = ask(&[], &["--json"]);
    assert!(
        ran.stderr.contains(WHAT_TO_DO) && !ran.stderr.contains("distance"),
        "{}",
        ran.stderr
    );
    assert_eq!((noted(&ran).len(), &noted(&ran)[0]["path"]), (1, &json!("")));
    if let Some(clips) = shared("data/clips") {
        for entry in fs::read_dir(clips).unwrap().flatten() {
            is_told(&args!["--video", entry.path()]);
        }
    }
}

/// Pictures and sounds that ffmpeg makes.
#[test]
fn made_media_are_told() {
    if !ffmpeg() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (source, name, flag) in [
        ("testsrc=duration=2", "test.mp4", "--video"),
        ("mandelbrot=size=320x240", "mandelbrot.mp4", "--video"),
        ("testsrc", "test.png", "--image"),
        ("mandelbrot", "mandelbrot.png", "--image"),
        ("sine=frequency=440:duration=5", "tone.wav", "--audio"),
    ] {
        let file = dir.path().join(name);
        make(source, &file, flag);
        is_told(&args![flag, &file]);
    }
}

fn make(source: &str, file: &Path, flag: &str) {
    let mut command = std::process::Command::new("ffmpeg");
    command.args(["-v", "error", "-f", "lavfi", "-i", source]);
    command.args(match flag {
        "--image" => &["-frames:v", "1"][..],
        "--video" => &["-t", "2", "-pix_fmt", "yuv420p"],
        _ => &[],
    });
    assert!(command.arg(file).status().unwrap().success(), "{source}");
}

#[test]
fn a_run_is_told_once_and_every_row_carries_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("videos")).unwrap();
    let rows: Vec<Value> = ["a", "b"]
        .iter()
        .map(|id| {
            fs::copy(fixture("clip.mp4"), data.join(format!("videos/{id}.mp4"))).unwrap();
            json!({"video_id": id, "task": "AV Matching", "text": "Is a dog visible?", "label": "Yes"})
        })
        .collect();
    fs::write(data.join("QA.json"), serde_json::to_string(&rows).unwrap()).unwrap();
    let log = dir.path().join("log.jsonl");
    let ran = outro(run_over("avhbench", &data, &log)).ok();
    assert_eq!(ran.stderr.matches(WHAT_TO_DO).count(), 1, "{}", ran.stderr);
    let text = fs::read_to_string(&log).unwrap();
    let told = text.lines().skip(1).filter(|l| l.contains("\"unfamiliar\""));
    assert_eq!(told.count(), 4);
    // Of its own clips nothing is said.
    let own = dir.path().join("own.jsonl");
    let line = [
        run_over("avhbench", &world("avhbench"), &own),
        args!["--limit", "2"].into(),
    ]
    .concat();
    assert!(!outro(line).ok().stderr.contains(WHAT_TO_DO));
}
