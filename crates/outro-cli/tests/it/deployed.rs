//! Runs as they meet the world: real videos, bad files, decoders that hang, a scheduler's environment.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{answers, run_line, run_over, world};
use crate::support::{args, command, finish, outro, shared, tiny, tiny_in};

/// The real videos of Daily-Omni, with questions as they are published, by a random checkpoint: what it says is nonsense, and
/// every question gets there.
#[test]
fn real_questions_about_real_videos_run_to_the_end() {
    let Some(data) = shared("data/dailyomni") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&fs::read(data.join("qa.json")).unwrap()).unwrap();
    let there = |r: &&Value| data.join("Videos").join(r["video_id"].as_str().unwrap()).is_dir();
    let nine: Vec<&Value> = rows.iter().filter(there).collect();
    assert_eq!(nine.len(), 9);
    fs::write(dir.path().join("qa.json"), serde_json::to_string(&nine).unwrap()).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(data.join("Videos"), dir.path().join("Videos")).unwrap();
    let log = dir.path().join("log.jsonl");
    let line = args![
        "eval",
        "run",
        "daily-omni",
        "--data",
        dir.path(),
        "--out",
        &log,
        "--model",
        tiny(),
        "--frames",
        "4",
        "--max-pixels",
        "3136",
        "--readout",
        "logits",
        "--profile",
        "official"
    ];
    outro(line).ok();
    let rows = answers(&log);
    assert_eq!(rows.len(), 18);
    for row in &rows {
        assert!(row["error"].is_null() && row["parsed"].is_string(), "{row}");
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!(number("audio_seconds") > 20.0 && number("frames") == 4.0, "{row}");
        assert!(
            number("prompt_tokens") > number("audio_tokens") + number("video_tokens"),
            "{row}"
        );
        assert_eq!(row["options"].as_array().unwrap().len(), 4);
    }
}

/// Bad data is found before a model is loaded, whichever task it is in.
#[test]
fn questions_are_read_before_weights() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("daily-omni")).unwrap();
    fs::create_dir_all(data.join("avhbench")).unwrap();
    fs::copy(world("avhbench").join("QA.json"), data.join("avhbench/QA.json")).unwrap();
    fs::create_dir_all(data.join("avhbench/videos")).unwrap();
    for video in fs::read_dir(world("avhbench").join("videos")).unwrap().flatten() {
        fs::copy(video.path(), data.join("avhbench/videos").join(video.file_name())).unwrap();
    }
    fs::write(data.join("daily-omni/qa.json"), "[{\"Question\": \"q\"}]").unwrap();
    let model = tiny_in(dir.path());
    fs::write(model.join("model.safetensors"), "no weights").unwrap();
    let run = dir.path().join("run");
    let line = args![
        "eval",
        "run",
        "avhbench",
        "daily-omni",
        "--data",
        &data,
        "--out",
        &run,
        "--model",
        &model
    ];
    outro(&line).fails(1, &["qa.json", "row 0"]);
    fs::remove_file(data.join("daily-omni/qa.json")).unwrap();
    outro(&line).fails(1, &["qa.json"]);
    // With questions that can be read it is the weights' turn.
    outro(args![
        "eval", "run", "avhbench", "--data", &data, "--out", &run, "--model", &model
    ])
    .fails(1, &["model.safetensors"]);
}

/// The Kubernetes job as it would start its pods: their arguments and environment, one after the other.
#[test]
fn the_kubernetes_job_is_a_whole_run() {
    let yaml = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes-indexed-job.yaml"),
    )
    .unwrap();
    let after = |key: &str| {
        let line = yaml
            .lines()
            .find_map(|l| l.trim_start_matches([' ', '-']).strip_prefix(key))
            .unwrap();
        line.trim().to_owned()
    };
    assert_eq!(
        (after("apiVersion:"), after("kind:"), after("completionMode:")),
        ("batch/v1".into(), "Job".into(), "Indexed".into())
    );
    let pods = after("completions:");
    let variable = |name: &str| {
        let line = after(&format!("{{ name: {name}, value:"));
        line.trim_end_matches('}').trim().trim_matches('"').to_owned()
    };
    assert_eq!(
        variable("JOB_COMPLETIONS"),
        pods,
        "a pod has to know how many there are"
    );
    let text = after("args:");
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let args: Vec<std::ffi::OsString> = text
        .trim_matches(['[', ']'])
        .split(',')
        .map(|a| match a.trim() {
            "/outro/data/avhbench" => world("avhbench").into(),
            "/outro/run" => run.clone().into(),
            "/outro/models/omni-3b" => "outro-tiny".into(),
            other => other.into(),
        })
        .collect();
    let pods: usize = pods.parse().unwrap();
    for index in 0..pods {
        let mut pod = command();
        pod.args(&args)
            .env("JOB_COMPLETION_INDEX", index.to_string())
            .env("JOB_COMPLETIONS", pods.to_string());
        finish(&mut pod).ok();
    }
    let (merged, single) = (dir.path().join("merged.jsonl"), dir.path().join("single.jsonl"));
    let shards = (1..=pods).map(|i| run.join(format!("avhbench.{i}-of-{pods}.jsonl")).into_os_string());
    outro(args!["eval", "merge", "--out", &merged].into_iter().chain(shards)).ok();
    outro(run_line("avhbench", &single)).ok();
    assert_eq!(answers(&merged), answers(&single));
}

/// A decoder that hangs costs its videos' questions and not the run; nor does a pipe that nobody writes to.
#[cfg(unix)]
#[test]
fn what_hangs_is_a_row_with_its_reason() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("ffmpeg");
    for name in [program.clone(), dir.path().join("ffprobe")] {
        fs::write(&name, "#!/bin/sh\nexec sleep 600\n").unwrap();
        fs::set_permissions(&name, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let log = dir.path().join("log.jsonl");
    let line = args![
        "--limit",
        "6",
        "--decoder",
        "ffmpeg",
        "--deadline",
        "0.5",
        "--strategy",
        "baseline"
    ];
    let line = [run_line("avhbench", &log), line.into()].concat();
    // A table of zeros is no result.
    let ran = finish(command().args(&line).env("OUTRO_FFMPEG", &program));
    assert!(
        ran.code == Some(1) && ran.stderr.contains("every answer failed"),
        "{ran:?}"
    );
    let rows = answers(&log);
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert!(row["error"].as_str().unwrap().contains("--deadline"), "{row}");
    }
    fs::create_dir(dir.path().join("videos")).unwrap();
    let pipe = dir.path().join("videos/a.mp4");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let row = json!({"video_id": "a", "task": "AV Matching", "text": "Same?", "label": "Yes"});
    fs::write(dir.path().join("QA.json"), json!([row]).to_string()).unwrap();
    let log = dir.path().join("pipe.jsonl");
    let ran = outro(run_over("avhbench", dir.path(), &log));
    assert!(
        ran.code == Some(1) && ran.stderr.contains("every answer failed"),
        "{ran:?}"
    );
    assert!(answers(&log)[0]["error"].as_str().unwrap().contains("not a file"));
}
