//! `outro doctor`.

use std::ffi::OsStr;

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
    let nowhere = [
        ("PATH", empty.path().as_os_str()),
        ("OUTRO_FFMPEG", OsStr::new("")),
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
        let ran = finish(command().env("OUTRO_FFMPEG", &bad).arg("doctor"));
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
    let text = finish(command().env("OUTRO_FFMPEG", &missing).arg("doctor"))
        .ok()
        .stdout;
    assert!(
        text.contains("OUTRO_FFMPEG=") && text.contains("is not there"),
        "{text}"
    );
}
