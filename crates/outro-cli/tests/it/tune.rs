//! `outro tune`, and what keeps its questions out of results.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Ran, args, outro, tiny, tiny_in};

fn world() -> PathBuf {
    tiny().with_file_name("world")
}

/// Settings of the random checkpoint, with two rows that count as sinks: its answers are nonsense, and settings change them.
const OWN: &str = r#"{"format": 1, "note": "mine", "method": {"sinks": [0, 3]}, "media": {"frames": 2, "max_pixels": 784}}"#;

fn tune(model: &Path, out: &Path, extra: &[&str]) -> Ran {
    let base = args![
        "tune",
        "avhbench",
        "--data",
        world(),
        "--model",
        model,
        "--out",
        out,
        "--share",
        "0.6",
        "--gamma",
        "1,2,16",
        "--readout",
        "logits",
        "--json",
        "--quiet"
    ];
    outro(base.into_iter().chain(extra.iter().map(Into::into)))
}

fn parsed(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_search_writes_settings_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (tiny_in(dir.path()), dir.path().join("tuned"));
    fs::write(model.join("outro.json"), OWN).unwrap();
    let found = parsed(&tune(&model, &out, &[]).ok());
    let best = found["best"]
        .as_str()
        .expect("one of the settings is better by chance; another grid is needed")
        .to_owned();
    let of = |name: &str| {
        found["tried"]
            .as_array()
            .unwrap()
            .iter()
            .find(|t| t["strategy"] == name)
            .unwrap()
            .clone()
    };
    let (winner, plain) = (of(&best), of("baseline"));
    assert!(winner["right"].as_u64() > plain["right"].as_u64(), "{found}");
    assert!(winner["p_times_settings"].as_f64() >= winner["paired"]["p"].as_f64());
    // What is there stays; the result lies beside it, with everything else that it said.
    assert_eq!(fs::read_to_string(model.join("outro.json")).unwrap(), OWN);
    assert_eq!(found["installed"], Value::Null);
    let written = read(&out.join("outro.json"));
    let gamma: f64 = best.strip_prefix("outro:gamma=").unwrap().parse().unwrap();
    assert_eq!(
        (written["method"]["gamma"].as_f64(), &written["method"]["sinks"]),
        (Some(gamma), &json!([0, 3]))
    );
    assert_eq!(
        (&written["note"], &written["media"]["frames"]),
        (&json!("mine"), &json!(2))
    );
    assert_eq!(written["tuned"][0]["questions"], found["questions"]);
    // The same again: nothing is asked, nothing is written twice.
    let log = out.join("avhbench.tuning.jsonl");
    let before = fs::read(&log).unwrap();
    assert_eq!(
        parsed(&tune(&model, &out, &[]).ok())["tried"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    assert_eq!(
        (fs::read(&log).unwrap(), out.join("outro.json.1").exists()),
        (before.clone(), false)
    );
    // Cut in the middle it comes to the same end.
    fs::write(&log, &before[..before.len() / 2]).unwrap();
    let again = parsed(&tune(&model, &out, &[]).ok());
    assert_eq!(
        (&again["best"], again["tried"][1]["right"].as_u64()),
        (&found["best"], found["tried"][1]["right"].as_u64())
    );
    // Put in its place, the old one gets a number.
    let installed = parsed(&tune(&model, &out, &["--install"]).ok());
    assert_eq!(fs::read_to_string(model.join("outro.json.1")).unwrap(), OWN);
    assert_eq!(read(&model.join("outro.json")), written);
    assert!(installed["kept"].as_str().unwrap().ends_with("outro.json.1"));
}

#[test]
fn without_settings_of_its_own_a_model_gets_them() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (tiny_in(dir.path()), dir.path().join("tuned"));
    let own = dir.path().join("own.json");
    fs::write(&own, OWN).unwrap();
    // A random checkpoint has no sinks of its own; they come by --settings, and then the model's place is left alone.
    let found = parsed(&tune(&model, &out, &["--settings", own.to_str().unwrap()]).ok());
    assert!(!model.join("outro.json").exists() && found["installed"].is_null());
    let line = [
        "--layers",
        "default,0",
        "--gate-temperature",
        "0.1,0.5",
        "--limit",
        "8",
        "--gamma",
        "8",
        "--frames",
        "2",
        "--max-pixels",
        "784",
    ];
    let base = args![
        "tune",
        "avhbench",
        "--data",
        world(),
        "--model",
        &model,
        "--out",
        dir.path().join("second"),
        "--json"
    ];
    let second = outro(base.into_iter().chain(line.iter().map(Into::into))).ok();
    let second = parsed(&second);
    let names: Vec<_> = second["tried"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["strategy"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names[1..],
        [
            "outro:gamma=8,gate_temperature=0.1,layers=default",
            "outro:gamma=8,gate_temperature=0.1,layers=0",
            "outro:gamma=8,gate_temperature=0.5,layers=default",
            "outro:gamma=8,gate_temperature=0.5,layers=0"
        ]
    );
    // Without sinks nothing differs, so nothing is better and nothing is written.
    assert_eq!(
        (&second["best"], model.join("outro.json").exists()),
        (&Value::Null, false)
    );
}

#[test]
fn tuned_questions_are_not_for_results() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (tiny_in(dir.path()), dir.path().join("tuned"));
    fs::write(model.join("outro.json"), OWN).unwrap();
    let found = parsed(&tune(&model, &out, &["--install"]).ok());
    let log = out.join("avhbench.tuning.jsonl");
    outro(args!["eval", "report", &log]).fails(1, &["very questions", "--held-out"]);
    outro(args!["eval", "report", &out]).fails(1, &["very questions"]);
    let run = |name: &str, extra: &[&str]| {
        let base = args![
            "eval",
            "run",
            "avhbench",
            "--data",
            world(),
            "--model",
            &model,
            "--out",
            dir.path().join(name),
            "--readout",
            "logits"
        ];
        outro(base.into_iter().chain(extra.iter().map(Into::into)))
    };
    run("a.jsonl", &[]).fails(1, &["tuned on", "--held-out"]);
    run("b.jsonl", &["--strategy", "baseline"]).ok();
    run("c.jsonl", &["--held-out"]).ok();
    let rows = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(dir.path().join(name)).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let held = rows("c.jsonl");
    assert!(held[0]["split"].as_str().unwrap().starts_with("held out"));
    let videos = read(&model.join("outro.json"))["tuned"][0]["videos"].clone();
    let used = found["questions"].as_u64().unwrap() as usize;
    assert_eq!(held.len() - 1, 2 * (42 - used));
    assert!(
        held[1..]
            .iter()
            .all(|r| !videos.as_array().unwrap().contains(&r["video"]))
    );
    outro(args!["eval", "report", dir.path().join("c.jsonl")]).ok();
    // The other way round: a run's log is not for tuning.
    fs::copy(dir.path().join("c.jsonl"), &log).unwrap();
    tune(&model, &out, &[]).fails(1, &["log of a run"]);
    // A model that was not tuned has nothing to hold out; another task's questions are other questions.
    fs::write(model.join("outro.json"), OWN).unwrap();
    run("d.jsonl", &["--held-out"]).fails(2, &["--held-out"]);
    let settings = out.join("outro.json");
    run(
        "e.jsonl",
        &[
            "--held-out",
            "--settings",
            settings.to_str().unwrap(),
            "--limit",
            "2",
        ],
    )
    .ok();
    assert_eq!(rows("e.jsonl").len(), 5);
}

/// The gate's temperature was `temperature` in names once; a search that was begun so goes on.
#[test]
fn a_search_with_the_older_key_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (tiny_in(dir.path()), dir.path().join("tuned"));
    fs::write(model.join("outro.json"), OWN).unwrap();
    let grid = ["--gate-temperature", "0.1,0.5", "--limit", "8"];
    let whole = parsed(&tune(&model, &out, &grid).ok());
    let log = out.join("avhbench.tuning.jsonl");
    let today = fs::read_to_string(&log).unwrap();
    let older = today.replace("gate_temperature=", "temperature=");
    assert_ne!(older, today);
    // Finished: nothing is asked again.
    fs::write(&log, &older).unwrap();
    let told = |found: &Value| -> Vec<Value> {
        let tried = found["tried"].as_array().unwrap().iter();
        tried
            .map(|t| json!([t["strategy"], t["questions"], t["right"]]))
            .collect()
    };
    assert_eq!(told(&parsed(&tune(&model, &out, &grid).ok())), told(&whole));
    assert_eq!(fs::read_to_string(&log).unwrap(), older);
    // Cut: what is missing is asked under today's name.
    let some = older.lines().count() / 2;
    let begun: String = older.lines().take(some).flat_map(|l| [l, "\n"]).collect();
    fs::write(&log, &begun).unwrap();
    assert_eq!(told(&parsed(&tune(&model, &out, &grid).ok())), told(&whole));
    let now = fs::read_to_string(&log).unwrap();
    assert!(
        now.starts_with(&begun) && now[begun.len()..].contains("gate_temperature="),
        "{now}"
    );
    assert_eq!(now.lines().count(), older.lines().count());
    assert_eq!(fs::read_to_string(&log).unwrap().matches("outro_eval").count(), 1);
}

#[test]
fn searches_that_cannot_be_meant() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let run = |extra: &[&str]| {
        let base = args![
            "tune",
            "avhbench",
            "--data",
            world(),
            "--model",
            "outro-tiny",
            "--out",
            &out
        ];
        outro(base.into_iter().chain(extra.iter().map(Into::into)))
    };
    run(&["--share", "0"]).fails(2, &["--share"]);
    run(&["--share", "0.0001"]).fails(2, &["--share"]);
    run(&["--gamma", "1,1"]).fails(2, &["--gamma"]);
    run(&["--gamma", "much"]).fails(2, &["gamma"]);
    run(&["--layers", "x"]).fails(2, &["layers"]);
    run(&["--settings", "no/such.json"]).fails(1, &["no/such.json"]);
    assert!(!out.exists());
}
