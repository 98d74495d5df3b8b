//! Videos through ffmpeg as a user gives them: notes as data, versions of ffmpeg beside each other, names, a minute with sound.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{File, args, command, finish, outro, shared, tiny};

/// ffmpeg on the PATH. CI has one.
fn ffmpeg() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("ffmpeg"))
        .find(|p| p.is_file());
    assert!(
        found.is_some() || std::env::var_os("CI").is_none(),
        "there is no ffmpeg"
    );
    if found.is_none() {
        println!("skipped: there is no ffmpeg");
    }
    found
}

fn make(path: &Path, words: &str) {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]);
    let made = command.args(words.split_whitespace()).arg(path).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// The tensors of a video, by an ffmpeg.
fn prepared(program: &Path, video: &Path, out: &Path) -> File {
    let line = args![
        "prepare",
        "--model",
        tiny(),
        "--max-pixels",
        "12544",
        "--decoder",
        "ffmpeg",
        "--video",
        video,
        "--out",
        out,
        "what?"
    ];
    finish(command().env("OUTRO_FFMPEG", program).args(line)).ok();
    File::read(out)
}

/// The first line of `ffmpeg -version`.
fn version(program: &Path) -> String {
    let out = Command::new(program).arg("-version").output().unwrap().stdout;
    String::from_utf8_lossy(&out)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// What two programs that agree may still say in different words: lengths, where one takes the header's and one the packets',
/// and the samples behind the last of which the newest cuts a padding.
fn comparable(mut report: Value) -> Value {
    for stream in ["video", "audio"] {
        if let Some(d) = report[stream]["duration"].as_f64() {
            report[stream]["duration"] = ((d * 10.0).round() / 10.0).into();
        }
    }
    for key in ["samples", "mel_frames", "audio_tokens"] {
        report["becomes"][key] = Value::Null;
    }
    report
}

/// Every ffmpeg gives the same, with ffprobe beside it and without. More of them than the one on the PATH are named in
/// OUTRO_FFMPEGS, as directories are in PATH.
#[cfg(unix)]
#[test]
fn versions_of_ffmpeg_agree() {
    let (Some(own), Some(cases)) = (ffmpeg(), shared("cases/video")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let alone = dir.path().join("ffmpeg");
    std::os::unix::fs::symlink(&own, &alone).unwrap();
    let mut programs = vec![alone];
    let more = std::env::var_os("OUTRO_FFMPEGS").unwrap_or_default();
    programs.extend(std::env::split_paths(&more).filter(|p| !p.as_os_str().is_empty()));
    let mut videos: Vec<PathBuf> = fs::read_dir(&cases)
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|p| !p.ends_with("still_sound.mp4"))
        .collect();
    videos.push(tiny().with_file_name("clip.mp4"));
    let out = dir.path().join("out.safetensors");
    for video in videos {
        let want = prepared(&own, &video, &out);
        let inspect = |program: &Path| {
            let line = args!["inspect", &video, "--json"];
            let ran = finish(command().env("OUTRO_FFMPEG", program).args(line)).ok();
            serde_json::from_str::<Value>(&ran.stdout).unwrap()
        };
        let report = inspect(&own);
        for program in &programs {
            let (name, by) = (video.display(), program.display());
            // Its scaler, which only pictures of another size than the first meet, rounds differently.
            if video.ends_with("size_change.mp4") && version(program).starts_with("ffmpeg version 4.") {
                continue;
            }
            let got = prepared(program, &video, &out);
            for key in ["pixel_values_videos", "video_grid_thw"] {
                assert!(got.get(key).data == want.get(key).data, "{name}: {key} of {by}");
            }
            // AAC decoders of different versions round the last bit of a sample differently, and the newest cuts the padding
            // behind the last one, less than a packet.
            let sounds = [&got, &want].map(|f| f.tensors.get("input_features"));
            assert_eq!(sounds[0].is_some(), sounds[1].is_some(), "{name}: {by}");
            if let [Some(a), Some(b)] = sounds {
                let (n, m) = (a.shape[2], b.shape[2]);
                assert!(n.abs_diff(m) <= 7, "{name}: {by}: {n} mel frames, not {m}");
                let rows = a.data.chunks(n).zip(b.data.chunks(m));
                let common = n.min(m).saturating_sub(3);
                let differences =
                    rows.flat_map(|(x, y)| x.iter().zip(y).take(common).map(|(x, y)| (x - y).abs()));
                let worst = differences.fold(0.0, f32::max);
                assert!(worst < 1e-3, "{name}: {by}: mel differs by {worst}");
            }
            assert_eq!(
                comparable(inspect(program)),
                comparable(report.clone()),
                "{name}: {by}"
            );
        }
    }
    println!("{} programs beside {}", programs.len(), own.display());
}

#[test]
fn notes_are_data() {
    let (Some(_), Some(cases)) = (ffmpeg(), shared("cases/video")) else {
        return;
    };
    let video = cases.join("vp8_altref.webm");
    let line = args![
        "ask",
        "--model",
        tiny(),
        "--video",
        &video,
        "--max-pixels",
        "12544",
        "--max-new-tokens",
        "1",
        "--json",
        "what?"
    ];
    let ran = outro(line).ok();
    let record: Value = serde_json::from_str(&ran.stdout).unwrap();
    let kinds: Vec<&str> = record["notes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["no_sound", "recounted"], "{record}");
    assert_eq!(record["notes"][1]["path"], video.display().to_string());
    assert!(
        ran.stderr.contains("note: ") && ran.stderr.contains("60 frames"),
        "{}",
        ran.stderr
    );
    let two = cases.join("default_second.mkv");
    let report: Value = serde_json::from_str(&outro(args!["inspect", &two, "--json"]).ok().stdout).unwrap();
    assert_eq!(report["notes"][0]["kind"], "track_taken");
    assert!(
        outro(args!["inspect", &two])
            .ok()
            .stdout
            .contains("note         of its 2 sound tracks")
    );
}

#[test]
fn a_log_says_what_is_to_be_known_about_a_video() {
    let (Some(_), Some(cases)) = (ffmpeg(), shared("cases/video")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (set, log) = (dir.path().join("set"), dir.path().join("log.jsonl"));
    outro(args!["synth", "--out", &set, "--videos", "1"]).ok();
    fs::copy(
        cases.join("vp8_altref.webm"),
        set.join("avhbench/videos/00000.mp4"),
    )
    .unwrap();
    let run = || {
        outro(args![
            "eval",
            "run",
            "avhbench",
            "--data",
            set.join("avhbench"),
            "--model",
            tiny(),
            "--max-pixels",
            "12544",
            "--limit",
            "1",
            "--out",
            &log
        ])
        .ok()
    };
    run();
    let text = fs::read_to_string(&log).unwrap();
    let row: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    let notes = row["notes"].as_array().unwrap();
    assert!(notes.iter().any(|n| n["kind"] == "recounted"), "{row}");
    assert!(row["frames"].as_u64() > Some(0));
    // An older log has rows without notes; it is read and gone on with.
    let old: Vec<String> = text
        .lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row.as_object_mut().unwrap().remove("notes");
            row.to_string()
        })
        .collect();
    fs::write(&log, old.join("\n") + "\n").unwrap();
    assert!(run().stderr.contains("answers are there already"));
}

#[test]
fn a_name_is_no_address() {
    let Some(_) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let clip = tiny().with_file_name("clip.mp4");
    for name in ["Title: part 1.mp4", "-rf.mp4", "100%d.mp4", "http:clip.mp4"] {
        fs::copy(&clip, dir.path().join(name)).unwrap();
        // Relative, as it is typed.
        let given = if name.starts_with('-') {
            format!("./{name}")
        } else {
            name.into()
        };
        let ran = finish(command().current_dir(dir.path()).args(["inspect", &given]));
        assert!(ran.ok().stdout.contains("40 frames"), "{name}");
    }
}

#[test]
fn a_minute_with_sound_is_answered() {
    let Some(_) = ffmpeg() else { return };
    let dir = tempfile::tempdir().unwrap();
    let video = dir.path().join("minute.mp4");
    make(
        &video,
        "-f lavfi -i testsrc2=s=160x120:r=25:d=60 -f lavfi -i sine=f=440:d=60 -c:v libx264 -preset ultrafast -c:a aac",
    );
    let line = args![
        "ask",
        "--video",
        &video,
        "--max-new-tokens",
        "4",
        "--json",
        "What do you see and hear?"
    ];
    let record: Value = serde_json::from_str(&outro(line).ok().stdout).unwrap();
    let tokens = &record["prompt_tokens"];
    assert!(
        tokens["video"].as_u64() >= Some(60) && tokens["audio"] == 1500,
        "{tokens}"
    );
    // Nothing but that it is not of the model's world.
    let notes = record["notes"].as_array().unwrap();
    assert!(notes.iter().all(|n| n["kind"] == "unfamiliar"), "{record}");
    let report: Value = serde_json::from_str(&outro(args!["inspect", &video, "--json"]).ok().stdout).unwrap();
    assert_eq!(report["becomes"]["frames"], 120);
}
