//! Benchmarks, runs that are cut, shared out or hindered, and their reports.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{args, command, finish, outro, shared, tiny};

fn world(task: &str) -> PathBuf {
    tiny().with_file_name("world").join(task)
}

fn run_line(task: &str, out: &Path) -> Vec<std::ffi::OsString> {
    let line = args![
        "eval",
        "run",
        task,
        "--data",
        world(task),
        "--out",
        out,
        "--model",
        "outro-tiny",
        "--quiet"
    ];
    line.into()
}

/// The rows of a log without what differs between machines and moments, in a fixed order.
fn answers(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    let mut rows: Vec<Value> = text
        .lines()
        .skip(1)
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    for row in &mut rows {
        let fields = row.as_object_mut().unwrap();
        fields.retain(|name, _| !name.ends_with("_seconds") || name == "audio_seconds");
    }
    rows.sort_by_key(|r| format!("{} {}", r["id"], r["strategy"]));
    rows
}

fn check(task: &str, data: &Path) -> Value {
    let ran = outro(args![
        "eval",
        "check",
        task,
        "--data",
        data,
        "--model",
        "outro-tiny",
        "--json"
    ])
    .ok();
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn the_official_files_hold_what_they_should() {
    if let Some(data) = shared("data/avhbench") {
        let found = check("avhbench", &data);
        assert_eq!(
            (&found["questions"], &found["left_out"]),
            (&json!(5302), &json!({"AV Captioning": 1106}))
        );
        for (task, n) in [
            ("Audio-driven Video Hallucination", 568),
            ("Video-driven Audio Hallucination", 1145),
            ("AV Matching", 938),
        ] {
            assert_eq!(found["answers"][task], json!({"Yes": n, "No": n}), "{task}");
        }
    }
    if let Some(data) = shared("data/dailyomni") {
        let found = check("daily-omni", &data);
        let sum = |t: &str| {
            found["answers"][t]
                .as_object()
                .unwrap()
                .values()
                .map(|n| n.as_u64().unwrap())
                .sum::<u64>()
        };
        let types = [
            "AV Event Alignment",
            "Comparative",
            "Context understanding",
            "Event Sequence",
            "Inference",
            "Reasoning",
        ];
        assert_eq!(types.map(sum), [238, 131, 193, 306, 154, 175]);
        assert_eq!(found["groups"]["duration"], json!({"30s": 647, "60s": 550}));
        assert_eq!(found["questions"], 1197);
        let videos = found["videos"].as_u64().unwrap();
        assert_eq!(found["missing"].as_array().unwrap().len() as u64, videos - 3);
        assert_eq!(found["unusable"], json!([]));
    }
    if let Some(data) = shared("data/music_avqa") {
        let found = check("music-avqa", &data);
        assert_eq!(found["questions"], 7402);
        assert!(found["answers"]["Audio-Visual Temporal"]["violin"].is_u64());
    }
}

#[test]
fn shards_threads_and_order_change_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let single = dir.path().join("single.jsonl");
    outro([run_line("daily-omni", &single), args!["--threads", "1"].into()].concat()).ok();
    let run = dir.path().join("run");
    // The last first, and one of them told by a scheduler.
    for i in (2..=4).rev() {
        outro(
            [
                run_line("daily-omni", &run),
                args!["--shard", format!("{i}/4"), "--threads", "2"].into(),
            ]
            .concat(),
        )
        .ok();
    }
    let by_slurm = [
        ("SLURM_ARRAY_TASK_ID", "7"),
        ("SLURM_ARRAY_TASK_MIN", "7"),
        ("SLURM_ARRAY_TASK_COUNT", "4"),
    ];
    finish(command().args(run_line("daily-omni", &run)).envs(by_slurm)).ok();
    let logs: Vec<PathBuf> = (1..=4)
        .map(|i| run.join(format!("daily-omni.{i}-of-4.jsonl")))
        .collect();
    let merged = dir.path().join("merged.jsonl");
    let merge = |logs: &[PathBuf]| {
        let mut line: Vec<std::ffi::OsString> = args!["eval", "merge", "--out", &merged].into();
        line.extend(logs.iter().map(Into::into));
        outro(line)
    };
    merge(&logs[1..]).fails(1, &["of 4 shards, 1 are not given"]);
    merge(&[&logs[..], &logs[..1]].concat()).fails(1, &["is shard 1/4"]);
    merge(&logs).ok();
    assert_eq!(answers(&merged), answers(&single));
    let header = |log: &Path| {
        fs::read_to_string(log)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(header(&merged), header(&single));
    merge(&logs).fails(1, &["there already"]);
    // Another run's shard is refused.
    let text = fs::read_to_string(&logs[0])
        .unwrap()
        .replacen("\"none\"", "\"sound\"", 1);
    fs::write(&logs[0], text).unwrap();
    fs::remove_file(&merged).unwrap();
    merge(&logs).fails(1, &["ablation"]);
    for (name, value) in [("SLURM_ARRAY_TASK_ID", "1"), ("JOB_COMPLETION_INDEX", "0")] {
        finish(command().args(run_line("daily-omni", &run)).env(name, value)).fails(2, &[name, "is not"]);
    }
    outro([run_line("daily-omni", &run), args!["--shard", "5/4"].into()].concat()).fails(2, &["5/4"]);
}

/// As often as OUTRO_CRASHES says; 10 times where it does not.
#[test]
fn a_run_that_is_killed_loses_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole.jsonl"), dir.path().join("cut.jsonl"));
    outro(run_line("avhbench", &whole)).ok();
    let lines = |log: &Path| fs::read_to_string(log).unwrap_or_default().lines().count();
    let crashes: u64 = std::env::var("OUTRO_CRASHES")
        .ok()
        .map_or(10, |n| n.parse().unwrap());
    let (mut state, mut killed, mut grew) = (1_u64, 0, 0);
    while killed < crashes {
        let before = lines(&cut);
        let mut child = command()
            .args(run_line("avhbench", &cut))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis(20 + (state >> 33) % 600));
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        killed += u64::from(!ended);
        grew += u64::from(lines(&cut) > before);
        if ended {
            assert_eq!(answers(&cut), answers(&whole));
            fs::remove_file(&cut).unwrap();
        }
    }
    // A kill in the middle of a line is rarer than this.
    let text = fs::read_to_string(&cut).unwrap_or_default();
    if !text.is_empty() {
        fs::write(&cut, &text[..text.len() - text.len().min(30)]).unwrap();
    }
    outro(run_line("avhbench", &cut)).ok();
    assert_eq!(answers(&cut), answers(&whole));
    println!("{killed} kills, {grew} of the runs had written something");
}

#[test]
fn a_run_belongs_to_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let line = [run_line("avhbench", &log), args!["--limit", "2"].into()].concat();
    outro(&line).ok();
    let held = OpenOptions::new().read(true).open(&log).unwrap();
    held.lock().unwrap();
    outro(&line).fails(1, &["log.jsonl", "another process"]);
    drop(held);
    outro(&line).ok();
}

/// A limit on the size of files stands for a full disk: writing stops in the middle of a line either way.
#[cfg(unix)]
#[test]
fn a_full_disk_is_reported_and_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, log) = (dir.path().join("whole.jsonl"), dir.path().join("log.jsonl"));
    outro(run_line("avhbench", &whole)).ok();
    let script = "trap '' XFSZ; ulimit -f 12; exec \"$@\"";
    let mut full = std::process::Command::new("bash");
    full.args(["-c", script, "bash", env!("CARGO_BIN_EXE_outro")])
        .args(run_line("avhbench", &log));
    finish(full.env_remove("OUTRO_MODEL")).fails(1, &["log.jsonl", "too large"]);
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.ends_with("}\n") && text.lines().count() > 2,
        "only whole lines stay"
    );
    outro(run_line("avhbench", &log)).ok();
    assert_eq!(answers(&log), answers(&whole));
}

#[test]
fn several_tasks_and_all_forms_of_report() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let base = args![
        "eval",
        "run",
        "avhbench",
        "daily-omni",
        "--data",
        tiny().with_file_name("world"),
        "--model",
        "outro-tiny",
        "--limit",
        "6",
        "--readout",
        "logits",
        "--out",
    ];
    outro([&base[..], &args![dir.path().join("one.jsonl")]].concat()).fails(2, &["--out", "directory"]);
    let ran = outro([&base[..], &args![&run]].concat()).ok();
    assert!(ran.stdout.contains("## daily-omni"), "{}", ran.stdout);
    for row in answers(&run.join("avhbench.jsonl")) {
        assert_eq!(row["readout"]["answer"], row["parsed"], "{row}");
        let frames = row["frames"].as_u64().unwrap();
        assert!(
            frames > 1 && row["fps"].as_f64().unwrap() > 0.5 && row["pixels"][0].as_u64().unwrap() > 20,
            "{row}"
        );
        assert_eq!(row["prompt_sha256"].as_str().unwrap().len(), 64);
    }
    let report = |form: &str| outro(args!["eval", "report", &run, "--format", form]).ok().stdout;
    let csv = report("csv");
    assert_eq!(csv.matches("task,strategy").count(), 1);
    assert!(csv.contains("daily-omni,outro,all,,6,"), "{csv}");
    let json: Value = serde_json::from_str(&report("json")).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert!(report("markdown").contains("McNemar"));
    let page = report("html");
    assert!(
        page.contains("<svg") && page.contains("avhbench") && !page.contains("{{"),
        "a whole page"
    );
    assert!(
        !page.contains("src=\"http") && !page.contains("href=\"http"),
        "needs nothing else"
    );
    assert_eq!(report("html"), page, "a pure function of logs");
    let data = tiny().with_file_name("world");
    let line = args!["eval", "report", &run, "--format", "html", "--data", &data];
    let shown = outro(line).ok().stdout;
    let videos = ["avhbench", "daily-omni"].map(|task| {
        let rows = answers(&run.join(format!("{task}.jsonl")));
        let videos: std::collections::BTreeSet<_> = rows.iter().map(|r| r["video"].to_string()).collect();
        videos.len()
    });
    assert_eq!(
        shown.matches("data:image/jpeg;base64,").count(),
        videos.iter().sum::<usize>(),
        "one of every video"
    );
    assert!(!page.contains("data:image"));
    outro(args!["eval", "report", &run, "--data", &data]).fails(2, &["--data", "html"]);
}

#[test]
fn check_names_what_a_run_would_stumble_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("videos")).unwrap();
    let good = world("avhbench/videos/00000.mp4");
    fs::copy(&good, dir.path().join("videos/a.mp4")).unwrap();
    let bytes = fs::read(&good).unwrap();
    fs::write(dir.path().join("videos/b.mp4"), &bytes[..bytes.len() / 3]).unwrap();
    let row = |id: &str| json!({"video_id": id, "task": "AV Matching", "text": "Same?", "label": "Yes"});
    fs::write(
        dir.path().join("QA.json"),
        json!([row("a"), row("a"), row("b"), row("c")]).to_string(),
    )
    .unwrap();
    let found = check("avhbench", dir.path());
    assert_eq!(found["twice"], json!([["000000", "000001"]]));
    assert!(found["missing"][0].as_str().unwrap().ends_with("c.mp4"));
    assert!(
        found["unusable"][0][0].as_str().unwrap().ends_with("b.mp4"),
        "{found}"
    );
    assert!(found["tokens"][0].as_u64().unwrap() > 10);
    let text = outro(args![
        "eval",
        "check",
        "avhbench",
        "--data",
        dir.path(),
        "--model",
        "outro-tiny"
    ])
    .ok();
    assert!(
        text.stdout.contains("1 missing, 1 unusable") && text.stderr.contains("repeated"),
        "{}",
        text.stdout
    );
    // The run goes on over them, and says why.
    let log = dir.path().join("log.jsonl");
    let line = args![
        "eval",
        "run",
        "avhbench",
        "--data",
        dir.path(),
        "--out",
        &log,
        "--model",
        "outro-tiny"
    ];
    outro(line).ok();
    let rows = answers(&log);
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().filter(|r| r["error"].is_string()).count() == 4);
}

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
    fs::write(data.join("daily-omni/qa.json"), "[{\"Question\": \"q\"}]").unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(tiny())
        .unwrap()
        .flatten()
        .filter(|f| f.path().is_file())
    {
        fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
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
    fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
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
    finish(command().args(&line).env("OUTRO_FFMPEG", &program)).ok();
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
    outro(args![
        "eval",
        "run",
        "avhbench",
        "--data",
        dir.path(),
        "--out",
        &log,
        "--model",
        "outro-tiny"
    ])
    .ok();
    assert!(answers(&log)[0]["error"].as_str().unwrap().contains("not a file"));
}
