//! Benchmarks, runs that are cut, shared out or hindered, and their reports.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{args, command, finish, outro, shared, tiny};

pub(crate) fn world(task: &str) -> PathBuf {
    tiny().with_file_name("world").join(task)
}

/// A run of a task on these files by the default model.
pub(crate) fn run_over(task: &str, data: &Path, out: &Path) -> Vec<OsString> {
    let line = args![
        "eval",
        "run",
        task,
        "--data",
        data,
        "--out",
        out,
        "--model",
        "outro-tiny"
    ];
    line.into()
}

pub(crate) fn run_line(task: &str, out: &Path) -> Vec<OsString> {
    let mut line = run_over(task, &world(task), out);
    line.push("--quiet".into());
    line
}

/// The rows of a log without what differs between machines and moments, in a fixed order.
pub(crate) fn answers(log: &Path) -> Vec<Value> {
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
    // The file from its end: other ids, another order of videos and of the questions about each.
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut rows: Vec<Value> =
        serde_json::from_slice(&fs::read(world("daily-omni").join("qa.json")).unwrap()).unwrap();
    rows.reverse();
    fs::write(data.join("qa.json"), serde_json::to_string(&rows).unwrap()).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(world("daily-omni").join("Videos"), data.join("Videos")).unwrap();
    let turned = dir.path().join("turned.jsonl");
    outro(args![
        "eval",
        "run",
        "daily-omni",
        "--data",
        &data,
        "--out",
        &turned,
        "--model",
        "outro-tiny"
    ])
    .ok();
    let named = |log: &Path| -> std::collections::BTreeMap<String, Value> {
        let key = |r: &Value| format!("{} {} {}", r["video"], r["question"], r["strategy"]);
        let without_id = |mut r: Value| {
            let name = key(&r);
            r.as_object_mut().unwrap().remove("id");
            (name, r)
        };
        answers(log).into_iter().map(without_id).collect()
    };
    assert_eq!(named(&turned), named(&single));
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
        let mut line: Vec<OsString> = args!["eval", "merge", "--out", &merged].into();
        line.extend(logs.iter().map(Into::into));
        outro(line)
    };
    merge(&logs[1..]).fails(2, &["of 4 shards, 1 are not given"]);
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
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let (mut killed, mut grew) = (0, 0);
    while killed < crashes {
        let before = lines(&cut);
        let mut child = command()
            .args(run_line("avhbench", &cut))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // One kill in eight comes at any time of the start; the others when so many lines more are there, a little later.
        let started = Instant::now();
        let wait = Duration::from_millis(random(600));
        let more = before + random(6) as usize;
        let early = random(8) == 0;
        let ready = || {
            if early {
                started.elapsed() > wait
            } else {
                lines(&cut) > more
            }
        };
        while !ready() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random(40_000)));
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        killed += u64::from(!ended);
        grew += u64::from(!ended && lines(&cut) > before);
        if ended {
            assert_eq!(answers(&cut), answers(&whole));
            fs::remove_file(&cut).unwrap();
        }
    }
    assert!(
        grew * 2 > killed,
        "of {killed} kills only {grew} came when lines had been written"
    );
    // A kill in the middle of a line is rarer than this.
    let text = fs::read_to_string(&cut).unwrap_or_default();
    if !text.is_empty() {
        fs::write(&cut, &text[..text.len() - text.len().min(30)]).unwrap();
    }
    outro(run_line("avhbench", &cut)).ok();
    assert_eq!(answers(&cut), answers(&whole));
    println!("{killed} kills, {grew} of them after lines had been written");
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
    assert_eq!(csv.matches("task,parser,strategy").count(), 1);
    assert!(csv.contains("daily-omni,outro-2,outro,all,,6,"), "{csv}");
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
    // The run goes on over what is missing and says why; of what was cut it takes what is left, with a note.
    let log = dir.path().join("log.jsonl");
    outro(run_over("avhbench", dir.path(), &log)).ok();
    let rows = answers(&log);
    assert_eq!(rows.len(), 8);
    assert_eq!(rows.iter().filter(|r| r["error"].is_string()).count(), 2);
    let noted = |r: &&Value| r["notes"].to_string().contains("b.mp4");
    assert_eq!(rows.iter().filter(noted).count(), 2);
}
