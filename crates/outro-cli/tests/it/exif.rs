//! Pictures upright by their EXIF orientation, `--no-exif`, and that a run's identity knows which.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::lab::run_line;
use crate::support::{File, args, outro, tiny};

fn picture(name: &str) -> PathBuf {
    tiny().with_file_name("pictures").join(name)
}

#[test]
fn inspect_says_the_size_that_is_seen() {
    for (name, flags, size) in [
        ("exif1.png", &[][..], (28, 40)),
        ("exif6.png", &[], (40, 28)),
        ("exif6.jpg", &[], (40, 28)),
        ("exif5.webp", &[], (40, 28)),
        ("exif3.jpg", &[], (28, 40)),
        ("exif6.jpg", &["--no-exif"], (28, 40)),
    ] {
        let mut line = args!["inspect", picture(name), "--json"].to_vec();
        line.extend(flags.iter().map(Into::into));
        let report: Value = serde_json::from_str(&outro(line).ok().stdout).unwrap();
        let video = &report["video"];
        let got = (
            video["height"].as_u64().unwrap(),
            video["width"].as_u64().unwrap(),
        );
        assert_eq!(got, size, "{name} {flags:?}: {report}");
        let turned = report["notes"].to_string().contains("EXIF");
        assert_eq!(
            turned,
            flags.is_empty() && name != "exif1.png",
            "{name} {flags:?}: {report}"
        );
    }
}

#[test]
fn what_the_model_gets() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = |name: &str, flags: &[&str]| {
        let out = dir.path().join("out.safetensors");
        let mut line = args![
            "prepare",
            "--model",
            tiny(),
            "--image",
            picture(name),
            "--out",
            &out,
            "What?"
        ]
        .to_vec();
        line.extend(flags.iter().map(Into::into));
        outro(line).ok();
        File::read(&out).tensors
    };
    let stored = prepared("exif1.png", &[]);
    assert_ne!(prepared("exif6.png", &[]), stored);
    assert_eq!(prepared("exif6.png", &["--no-exif"]), stored);
}

#[test]
fn a_log_knows_how_pictures_were_turned() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut line = run_line("avhbench", &log);
    line.extend(args!["--limit", "1", "--strategy", "baseline"]);
    outro(&line).ok();
    let header: Value =
        serde_json::from_str(fs::read_to_string(&log).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(header["media"]["exif"], true);
    line.push("--no-exif".into());
    outro(&line).fails(1, &["media", "exif"]);
}
