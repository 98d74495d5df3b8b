//! `outro chat`, and the library beside `outro ask`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use outro::chat::Part;
use outro::{Engine, EngineOptions};

use crate::support::{Ran, args, command, outro};

const QUESTION: &str = "What do you see and hear?";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn clip() -> PathBuf {
    root().join("fixtures/shapes.mp4")
}

/// A conversation of these lines.
fn chat(extra: &[&str], lines: &[&str]) -> Ran {
    let mut child = command()
        .arg("chat")
        .args(extra)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Whoever left early reads no more.
    let _ = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    Ran {
        code: out.status.code(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

#[test]
fn turns_see_what_was_shown() {
    let clip = clip().display().to_string();
    let asked = outro(args!["-q", "ask", "--video", &clip, QUESTION]).ok().stdout;
    let show = format!("/video {clip}");
    let ran = chat(
        &[],
        &[
            &show,
            "/media",
            QUESTION,
            "Hello?",
            "/reset",
            "/media",
            "/quit",
            "never said",
        ],
    );
    let ran = ran.ok();
    let mut lines = ran.stdout.lines();
    assert_eq!(lines.next(), Some(clip.as_str()));
    assert_eq!(
        lines.next(),
        Some(asked.trim()),
        "the first turn is what ask says"
    );
    assert_eq!(
        lines.count(),
        1,
        "a second answer, and nothing after /reset and /quit:\n{}",
        ran.stdout
    );
    // Files and the first turn on the command line.
    let ran = chat(&[&clip, QUESTION], &[]).ok();
    assert_eq!(ran.stdout.trim(), asked.trim());
}

#[test]
fn what_cannot_be_is_named() {
    chat(&[], &["/vidoe x.mp4"]).fails(1, &["/vidoe is no command", "/help"]);
    chat(&[], &["/video"]).fails(1, &["/video wants a file"]);
    chat(&[], &["/video no-such.mp4"]).fails(1, &["no-such.mp4"]);
    chat(&[], &["/strategy otro"]).fails(2, &["otro", "outro"]);
    chat(&["--strategy", "both"], &[]).fails(2, &["one answer", "outro ask"]);
    let help = chat(&[], &["/help"]).ok().stdout;
    assert!(help.contains("/image FILE"), "{help}");
}

/// The library's four lines and the command say the same, with the same sinks.
#[test]
fn the_library_answers_as_the_command_does() {
    let engine = Engine::open(root().join("models/outro-tiny"), EngineOptions::default()).unwrap();
    let media = engine.media(&[Part::Video(clip().into())]).unwrap();
    let ask = engine.ask(&media, QUESTION).strategy("outro").unwrap();
    let answer = ask.run().unwrap();
    let ran = outro(args!["-q", "ask", "--json", "--video", clip(), QUESTION]).ok();
    let record: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let said = &record["answers"][0];
    assert_eq!(said["text"], answer.text.as_str());
    assert_eq!(said["sinks"], serde_json::to_value(&answer.sinks).unwrap());
    assert_eq!(said["finish"], "stop");
    assert_eq!(
        record["prompt_tokens"],
        serde_json::to_value(answer.prompt_tokens).unwrap()
    );
}
