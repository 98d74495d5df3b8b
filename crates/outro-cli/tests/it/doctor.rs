//! `outro doctor`.

use crate::support::{command, finish, outro};

#[test]
fn a_sound_machine() {
    let text = outro(["doctor"]).ok().stdout;
    for key in [
        "outro ",
        "cpu ",
        "threads ",
        "memory ",
        "ffmpeg ",
        "decoder ",
        "hub cache ",
    ] {
        assert!(
            text.lines().any(|l| l.starts_with(key)),
            "{key} is not in: {text}"
        );
    }
    assert!(text.contains("decoder    works"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&outro(["doctor", "--json"]).ok().stdout).unwrap();
    assert_eq!(json["decoder"]["works"], true);
    assert!(json["threads"]["used"].as_u64() >= Some(1));
}

#[test]
fn without_ffmpeg_and_with_a_broken_one() {
    let empty = tempfile::tempdir().unwrap();
    let text = finish(command().env("PATH", empty.path()).arg("doctor"))
        .ok()
        .stdout;
    assert!(text.contains("not installed; mp4"), "{text}");
    let missing = empty.path().join("ffmpeg");
    let text = finish(command().env("OUTRO_FFMPEG", &missing).arg("doctor"))
        .ok()
        .stdout;
    assert!(
        text.contains("OUTRO_FFMPEG=") && text.contains("is not there"),
        "{text}"
    );
}
