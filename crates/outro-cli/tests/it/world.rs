//! The synthetic world, the program's own model, and a model's own settings.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{args, command, copy_tiny, ffmpeg, finish, outro, tiny};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_seed_gives_one_set() {
    if !ffmpeg() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let set = |name: &str, seed: &str, threads: &str| {
        let out = dir.path().join(name);
        let line = args![
            "synth",
            "--out",
            &out,
            "--videos",
            "3",
            "--seed",
            seed,
            "--level",
            "rich",
            "--threads",
            threads
        ];
        let ran = outro(line).ok();
        assert!(ran.stdout.contains("3 videos"), "{}", ran.stdout);
        (read(&out.join("manifest.json")), out)
    };
    let ((a, out), (b, _), (c, _)) = (set("a", "1", "2"), set("b", "1", "1"), set("c", "2", "2"));
    assert_eq!(a, b);
    assert!(a["clips"][0]["frames_sha256"] != c["clips"][0]["frames_sha256"]);
    for (file, fields) in [
        ("avhbench/QA.json", &["video_id", "task", "text", "label"][..]),
        (
            "daily-omni/qa.json",
            &[
                "Question",
                "Choice",
                "Answer",
                "video_id",
                "Type",
                "video_duration",
            ],
        ),
    ] {
        let rows = read(&out.join(file));
        let rows = rows.as_array().unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            assert!(fields.iter().all(|f| !row[*f].is_null()), "{row}");
        }
    }
    let id = "00000";
    let one = fs::read(out.join(format!("avhbench/videos/{id}.mp4"))).unwrap();
    assert_eq!(
        one,
        fs::read(out.join(format!("daily-omni/Videos/{id}/{id}_video.mp4"))).unwrap()
    );
    // The same again is fine; another set in its place, or a directory of the user's, is not.
    set("a", "1", "2");
    outro(args!["synth", "--out", &out, "--videos", "3", "--seed", "9"]).fails(1, &["manifest.json", "seed"]);
    outro(args!["synth", "--out", dir.path(), "--videos", "3"]).fails(1, &["new or empty"]);
    outro(args!["synth", "--out", &out, "--videos", "0"]).fails(2, &["--videos"]);
}

#[test]
fn without_a_model_the_programs_own_is_used_and_named() {
    let line = args!["ask", "--max-new-tokens", "1", "hello?"];
    let ran = outro(&line).ok();
    assert!(
        ran.stderr.contains("outro-tiny") && ran.stderr.contains("demonstration"),
        "{}",
        ran.stderr
    );
    assert_eq!(outro([&line[..], &args!["--quiet"]].concat()).ok().stderr, "");
    let named = outro([&line[..], &args!["--model", "outro-tiny"]].concat()).ok();
    // Its world is known, and a question without a clip is not of it: that is said in either case, in one line.
    assert_eq!((named.stdout, named.stderr), (ran.stdout, ran.stderr));
    let ran = finish(command().env("OUTRO_MODEL", "no/such/model/dir").args(&line));
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("no/such/model/dir"), "{}", ran.stderr);
}

#[test]
fn the_programs_own_model_is_laid_down_whole() {
    let dir = tempfile::tempdir().unwrap();
    let ask = || {
        finish(
            command()
                .env("OUTRO_CACHE", dir.path())
                .args(["ask", "--max-new-tokens", "1", "hello?"]),
        )
    };
    let first = ask().ok();
    let folder = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let weights = folder.join("model.safetensors");
    fs::write(&weights, "cut short").unwrap();
    assert_eq!(ask().ok().stdout, first.stdout, "a damaged copy is replaced");
    assert!(fs::metadata(&weights).unwrap().len() > 1_000_000);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    finish(command().env("OUTRO_CACHE", &file).args(["ask", "hello?"])).fails(1, &["OUTRO_CACHE"]);
}

/// The tiny checkpoint with an outro.json.
fn with_settings(settings: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_tiny(dir.path());
    fs::write(dir.path().join("outro.json"), settings.to_string()).unwrap();
    dir
}

#[test]
fn a_model_brings_its_settings_and_flags_win() {
    let dir = with_settings(&json!({
        "format": 1, "system": "",
        "method": {"sinks": [3], "gamma": 1.5},
        "media": {"frames": 4, "max_pixels": 784},
    }));
    let clip = tiny().with_file_name("clip.mp4");
    let ask = |extra: &[&str]| -> Value {
        let base = args![
            "ask",
            "--model",
            dir.path(),
            "--json",
            "--max-new-tokens",
            "1",
            "--video",
            &clip,
            "what?"
        ];
        let extra: Vec<_> = extra.iter().map(|s| (*s).into()).collect();
        serde_json::from_str(&outro([&base[..], &extra].concat()).ok().stdout).unwrap()
    };
    let own = ask(&[]);
    let tokens = |v: &Value| v["prompt_tokens"]["video"].as_u64().unwrap();
    assert_eq!(
        tokens(&own),
        2,
        "two pairs of frames of one token, as small as was asked"
    );
    assert_eq!(own["answers"][0]["sinks"]["0"], json!([3]));
    let typed = ask(&["--sinks", "1", "--frames", "6", "--max-pixels", "50176"]);
    assert!(tokens(&typed) > 100, "{typed}");
    assert_eq!(typed["answers"][0]["sinks"]["0"], json!([1]));
    let text = own["prompt_tokens"]["text"].as_u64().unwrap();
    let with_system = ask(&[
        "--system",
        "You are a most helpful and patient assistant who sees and hears.",
    ])["prompt_tokens"]["text"]
        .as_u64()
        .unwrap();
    assert!(with_system > text, "an empty system sentence is none");
}

#[test]
fn settings_that_cannot_be_meant_name_file_and_field() {
    for (settings, part) in [
        (json!({"method": {}}), "format"),
        (json!({"format": 1, "methods": {}}), "methods"),
        (json!({"format": 1, "method": {"gama": 1}}), "gama"),
        (json!({"format": 1, "method": {"gamma": "much"}}), "gamma"),
        (json!({"format": 1, "method": {"layers": [99]}}), "layers"),
        (json!({"format": 1, "media": {"fps": 0}}), "media.fps"),
        (json!({"format": 1, "media": {"frames": 1}}), "media.frames"),
        (
            json!({"format": 1, "media": {"max_pixels": 3}}),
            "media.max_pixels",
        ),
        (json!([]), "outro.json"),
    ] {
        let dir = with_settings(&settings);
        let ran = outro(args![
            "ask",
            "--model",
            dir.path(),
            "--max-new-tokens",
            "1",
            "what?"
        ]);
        ran.fails(1, &["outro.json", part]);
    }
}

#[test]
fn the_demo_shows_three_questions() {
    for seed in ["0", "5"] {
        let ran = outro(["demo", "--seed", seed]).ok();
        for (part, count) in [("truth ", 3), ("baseline ", 3), ("OutRo ", 3)] {
            assert_eq!(ran.stdout.matches(part).count(), count, "{}", ran.stdout);
        }
        // No ffmpeg is no reason not to show it.
        let bare = finish(
            command()
                .env("OUTRO_FFMPEG", "no/such/ffmpeg")
                .args(["demo", "--seed", seed]),
        )
        .ok();
        assert!(bare.stdout.contains("from memory"), "{}", bare.stdout);
    }
}

/// The clips in the repository, which the model was not trained on; without ffmpeg the built-in decoders read them.
#[test]
fn the_programs_own_model_sees_and_hears() {
    let world = tiny().with_file_name("world");
    let dir = tempfile::tempdir().unwrap();
    let (mut right, mut total) = (0, 0);
    for task in ["avhbench", "daily-omni"] {
        let log = dir.path().join(format!("{task}.jsonl"));
        let base = args![
            "eval",
            "run",
            task,
            "--data",
            world.join(task),
            "--out",
            &log,
            "--model",
            "outro-tiny",
            "--quiet"
        ];
        let first = outro(&base).ok();
        assert!(first.stdout.contains("McNemar"), "{}", first.stdout);
        // A run that was cut goes on: the torn line and what followed are answered again, to the same effect.
        let text = fs::read_to_string(&log).unwrap();
        fs::write(&log, &text[..text.len() / 2]).unwrap();
        outro(&base).ok();
        let answers = |text: &str| -> Vec<(Value, Value, Value)> {
            let rows = text
                .lines()
                .skip(1)
                .map(|l| serde_json::from_str::<Value>(l).unwrap());
            rows.map(|r| (r["id"].clone(), r["strategy"].clone(), r["reply"].clone()))
                .collect()
        };
        assert_eq!(answers(&fs::read_to_string(&log).unwrap()), answers(&text));
        let with_sound_taken = [&base[..], &args!["--ablate", "sound"]].concat();
        outro(with_sound_taken).fails(1, &["ablation"]);
        let report = outro(args!["eval", "report", &log, "--format", "json"]).ok();
        let report: Value = serde_json::from_str(&report.stdout).unwrap();
        for strategy in report[0]["results"].as_array().unwrap() {
            right += strategy["all"]["right"].as_u64().unwrap();
            total += strategy["all"]["total"].as_u64().unwrap();
        }
    }
    assert!(right * 100 >= total * 80, "{right} of {total}");
}

/// All strategies on the same questions, with passes as they were announced; a stopped run goes on.
#[test]
fn rivals_are_run_beside_outro() {
    let dir = tempfile::tempdir().unwrap();
    let world = tiny().with_file_name("world/daily-omni");
    let log = dir.path().join("rivals.jsonl");
    let names = [
        "baseline",
        "outro",
        "farsight",
        "var",
        "vcd",
        "mod",
        "avcd",
        "avcd:entropy=0",
        "vcd+outro",
    ];
    let run = |names: &[&str]| {
        let mut line = command();
        line.args(["eval", "run", "daily-omni", "--model", "outro-tiny", "--data"]);
        line.arg(&world).arg("--out").arg(&log);
        line.args(["--limit", "2", "--max-new-tokens", "1"]);
        for name in names {
            line.args(["--strategy", name]);
        }
        finish(&mut line).ok()
    };
    let first = run(&names).stdout;
    assert!(names.iter().all(|name| first.contains(name)), "{first}");
    let text = fs::read_to_string(&log).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .skip(1)
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 2 * names.len());
    for row in &rows {
        let passes = match row["strategy"].as_str().unwrap() {
            "vcd" | "mod" | "vcd+outro" => [2, 2],
            "avcd:entropy=0" => [4, 4],
            "avcd" => [1, 4],
            _ => [1, 1],
        };
        assert!(
            row.get("error").is_none() && passes.contains(&row["passes"].as_u64().unwrap()),
            "{row}"
        );
    }
    assert_eq!(run(&names).stdout, first, "nothing was left to do");
    assert_eq!(fs::read_to_string(&log).unwrap(), text);
}

#[test]
fn a_benchmark_that_cannot_be_run_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let world = tiny().with_file_name("world/avhbench");
    let log = dir.path().join("log.jsonl");
    let run = |task: &str, data: &Path, extra: &[&str]| {
        let base = args![
            "eval",
            "run",
            task,
            "--data",
            data,
            "--out",
            &log,
            "--model",
            "outro-tiny"
        ];
        let extra: Vec<_> = extra.iter().map(|s| (*s).into()).collect();
        outro([&base[..], &extra].concat())
    };
    run("avhbnch", &world, &[]).fails(2, &["avhbnch", "mean `avhbench`", "daily-omni"]);
    run("avhbench", dir.path(), &[]).fails(1, &["QA.json"]);
    run("avhbench", &world, &["--strategy", "vcdd"]).fails(2, &["vcdd", "mean `vcd`", "baseline", "avcd"]);
    run("avhbench", &world, &["--strategy", "vcd:steps=1000"]).fails(2, &["vcd:steps", "999"]);
    run("avhbench", &world, &["--strategy", "outro:layers=99"]).fails(2, &["layers", "0 to 7"]);
    run("avhbench", &world, &["--limit", "0"]).fails(2, &["--limit"]);
    run("avhbench", &world, &["--profile", "x"]).fails(2, &["profile", "letter"]);
    fs::write(&log, "my notes\n").unwrap();
    run("avhbench", &world, &["--limit", "1"]).fails(1, &["not a log"]);
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "my notes\n",
        "what was there stays"
    );
    assert!(outro(["eval", "list"]).ok().stdout.contains("daily-omni"));
}
