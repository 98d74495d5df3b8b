//! `outro doctor`.

use std::ffi::OsStr;

use crate::support::{command, finish};

#[test]
fn a_sound_machine() {
    let cache = tempfile::tempdir().unwrap();
    std::fs::write(cache.path().join("kept"), [0; 2048]).unwrap();
    let offline = |args: &[&str]| {
        let mut line = command();
        line.env("HF_HUB_OFFLINE", "1").env("OUTRO_CACHE", cache.path());
        finish(line.args(args)).ok().stdout
    };
    let text = offline(&["doctor"]);
    for key in [
        "outro ",
        "cpu ",
        "threads ",
        "memory ",
        "ffmpeg ",
        "decoder ",
        "isolation ",
        "hub cache ",
        "own cache ",
        "models ",
        "hub ",
        "verdict    ready",
    ] {
        assert!(
            text.lines().any(|l| l.starts_with(key)),
            "{key} is not in: {text}"
        );
    }
    assert!(text.contains("decoder    works"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&offline(&["doctor", "--json"])).unwrap();
    assert_eq!(json["decoder"]["works"], true);
    assert_eq!(json["own cache"]["bytes"], 2048);
    assert!(json["hub"]["reachable"].is_null(), "{json}");
    assert!(json["models"].as_array().unwrap().len() > 5, "{json}");
    assert!(json["threads"]["used"].as_u64() >= Some(1));
}

#[test]
fn a_hub_that_is_away_is_said_and_is_no_failure() {
    let mut line = command();
    // Nothing listens on the discard port.
    line.env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env_remove("HF_HUB_OFFLINE");
    let text = finish(line.arg("doctor")).ok().stdout;
    assert!(text.contains("http://127.0.0.1:9 does not answer"), "{text}");
}

#[test]
fn without_ffmpeg_and_with_a_broken_one() {
    let empty = tempfile::tempdir().unwrap();
    let nowhere = [
        ("PATH", empty.path().as_os_str()),
        ("OUTRO_FFMPEG", OsStr::new("")),
        ("HF_HUB_OFFLINE", OsStr::new("1")),
    ];
    let text = finish(command().envs(nowhere).arg("doctor")).ok().stdout;
    assert!(text.contains("not installed; mp4"), "{text}");
    // One that runs and cannot decode, as an ffmpeg 9 did for whoever passed -vsync, is broken: ask would take it.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let bad = empty.path().join("bad");
        std::fs::write(&bad, "#!/bin/sh\ncase $1 in -version) echo ffmpeg version 99 x;; *) echo Option not found >&2; exit 8;; esac\n")
            .unwrap();
        std::fs::set_permissions(&bad, std::fs::Permissions::from_mode(0o755)).unwrap();
        let ran = finish(
            command()
                .env("HF_HUB_OFFLINE", "1")
                .env("OUTRO_FFMPEG", &bad)
                .arg("doctor"),
        );
        assert_ne!(ran.code, Some(0));
        let says = [
            "does not work: 99 at",
            "without ffprobe",
            "Option not found",
            "--decoder builtin",
        ];
        assert!(says.iter().all(|s| ran.stdout.contains(s)), "{}", ran.stdout);
    }
    let missing = empty.path().join("ffmpeg");
    let text = finish(
        command()
            .env("HF_HUB_OFFLINE", "1")
            .env("OUTRO_FFMPEG", &missing)
            .arg("doctor"),
    )
    .ok()
    .stdout;
    assert!(
        text.contains("OUTRO_FFMPEG=") && text.contains("is not there"),
        "{text}"
    );
}
