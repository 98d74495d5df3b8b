//! `outro ask` follows a checkpoint's generation_config.json, and flags win over it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Ran, args, outro, tiny, tiny_in};

const QWEN3_VL: &str =
    r#"{"do_sample": true, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.0}"#;
const QWEN2_5_VL: &str = r#"{"do_sample": true, "temperature": 0.000001, "repetition_penalty": 1.05}"#;
/// Hot enough that two draws differ.
const HOT: &str = r#"{"do_sample": true, "temperature": 5, "top_k": 0, "max_new_tokens": 9}"#;

fn with(file: &str, dir: &Path) -> PathBuf {
    let model = tiny_in(dir);
    fs::write(model.join("generation_config.json"), file).unwrap();
    model
}

fn ask(model: &Path, extra: &[OsString]) -> Ran {
    let base = args!["ask", "--model", model, "--json", "what moves?"];
    outro([&base[..], extra].concat()).ok()
}

fn record(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap()
}

fn texts(ran: &Ran) -> Vec<String> {
    let record = record(ran);
    let answers = record["answers"].as_array().unwrap();
    answers
        .iter()
        .map(|a| a["text"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_file_is_followed_with_a_line_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let ran = ask(&with(QWEN3_VL, dir.path()), &args!["--max-new-tokens", "3"]);
    assert_eq!(
        ran.stderr,
        "note: generation_config.json: tokens are drawn (temperature 0.7, top_k 20, top_p 0.8, seed 0); --greedy undoes it\n"
    );
    let want = json!({"do_sample": true, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.0,
        "repetition_penalty": 1.0, "seed": 0, "max_new_tokens": 3});
    let got = &record(&ran)["sampling"];
    for (key, value) in want.as_object().unwrap() {
        let same = match (value.as_f64(), got[key].as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-6,
            _ => *value == got[key],
        };
        assert!(same, "{key}: {got}");
    }
    let dir = tempfile::tempdir().unwrap();
    let ran = ask(&with(QWEN2_5_VL, dir.path()), &args!["--max-new-tokens", "3"]);
    assert!(
        ran.stderr
            .contains("temperature 0.000001, top_k 50, repetition_penalty 1.05"),
        "{}",
        ran.stderr
    );
}

#[test]
fn strategies_draw_from_one_seed_and_greedy_undoes_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = with(HOT, dir.path());
    // No strength is the plain model, so that equal draws show.
    let line = args![
        "--strategy",
        "baseline",
        "--strategy",
        "outro:rotate=false,relax=false"
    ];
    let zero = texts(&ask(&model, &line));
    assert_eq!(zero[0], zero[1]);
    let seeded = |seed: &str| texts(&ask(&model, &[&line[..], &args!["--seed", seed]].concat()));
    assert_eq!(seeded("0"), zero);
    assert!((1..6).any(|s| seeded(&s.to_string()) != zero));

    let greedy = ask(&model, &[&line[..], &args!["--greedy"]].concat());
    assert_eq!(greedy.stderr, "", "nothing is left to say");
    let sampling = record(&greedy)["sampling"].clone();
    assert_eq!(
        (&sampling["do_sample"], &sampling["max_new_tokens"]),
        (&json!(false), &json!(9))
    );
    let plain = ask(&tiny(), &[&line[..], &args!["--max-new-tokens", "9"]].concat());
    assert_eq!(texts(&greedy), texts(&plain));
    assert_eq!(plain.stderr, "");
}

#[test]
fn a_penalty_acts_on_the_likeliest_token_and_greedy_undoes_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = with(r#"{"do_sample": false, "repetition_penalty": 3.0}"#, dir.path());
    let short = args!["--max-new-tokens", "12"];
    let penalised = ask(&model, &short);
    assert!(
        penalised.stderr.contains("repetition_penalty 3") && penalised.stderr.lines().count() == 1,
        "{}",
        penalised.stderr
    );
    let plain = texts(&ask(&tiny(), &short));
    assert_ne!(texts(&penalised), plain);
    assert_eq!(
        texts(&ask(&model, &[&short[..], &args!["--greedy"]].concat())),
        plain
    );
    assert_eq!(
        texts(&ask(
            &model,
            &[&short[..], &args!["--repetition-penalty", "1"]].concat()
        )),
        plain
    );
    let by_flag = [&short[..], &args!["--greedy", "--repetition-penalty", "3"]].concat();
    assert_eq!(texts(&ask(&model, &by_flag)), texts(&penalised));
}

#[test]
fn flags_win_field_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let model = with(QWEN3_VL, dir.path());
    let flags = args![
        "--top-p",
        "0.5",
        "--min-p",
        "0.1",
        "--seed",
        "4",
        "--max-new-tokens",
        "2"
    ];
    let ran = ask(&model, &flags);
    assert!(
        ran.stderr
            .contains("(temperature 0.7, top_k 20, top_p 0.5, min_p 0.1, seed 4)"),
        "{}",
        ran.stderr
    );
    let cold = ask(&model, &args!["--temperature", "0", "--max-new-tokens", "2"]);
    assert_eq!(
        (record(&cold)["sampling"]["do_sample"].clone(), &*cold.stderr),
        (json!(false), "")
    );
    for (flags, part) in [
        (args!["--greedy", "--temperature", "1"].to_vec(), "--temperature"),
        (args!["--min-p", "2"].to_vec(), "--min-p"),
        (
            args!["--repetition-penalty", "0"].to_vec(),
            "--repetition-penalty",
        ),
        (args!["--top-k", "-1"].to_vec(), "-1"),
    ] {
        let base = args!["ask", "--model", &model, "what?"];
        outro([&base[..], &flags[..]].concat()).fails(2, &[part]);
    }
}

#[test]
fn what_is_not_supported_is_named_and_what_cannot_be_meant_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = with(r#"{"num_beams": 4, "no_repeat_ngram_size": 3}"#, dir.path());
    let ran = ask(&model, &args!["--max-new-tokens", "2"]);
    assert!(
        ran.stderr.contains("num_beams 4, no_repeat_ngram_size 3") && ran.stderr.lines().count() == 1,
        "{}",
        ran.stderr
    );
    assert_eq!(
        record(&ran)["sampling"]["unsupported"],
        json!(["num_beams 4", "no_repeat_ngram_size 3"])
    );
    fs::write(
        model.join("generation_config.json"),
        r#"{"repetition_penalty": -1}"#,
    )
    .unwrap();
    let base = args!["ask", "--model", &model, "what?"];
    outro(base).fails(1, &["generation_config.json", "repetition_penalty", "above 0"]);
}

#[test]
fn ends_are_those_of_generation_config_where_it_names_any() {
    let dir = tempfile::tempdir().unwrap();
    let model = with("{}", dir.path());
    let first = texts(&ask(
        &model,
        &args!["--max-new-tokens", "1", "--strategy", "baseline"],
    ));
    let ran = ask(&model, &args!["--max-new-tokens", "1", "--strategy", "baseline"]);
    let likeliest = record(&ran)["answers"][0]["first_token_top5"][0]["token"].clone();
    let ends = |file: &str, config: &Value| {
        fs::write(model.join("generation_config.json"), file).unwrap();
        let text = fs::read_to_string(tiny().join("config.json")).unwrap();
        let mut changed: Value = serde_json::from_str(&text).unwrap();
        changed["eos_token_id"] = config.clone();
        fs::write(model.join("config.json"), changed.to_string()).unwrap();
        texts(&ask(
            &model,
            &args!["--max-new-tokens", "1", "--strategy", "baseline"],
        )) != first
    };
    assert!(
        ends(&json!({"eos_token_id": likeliest}).to_string(), &json!(7)),
        "a number"
    );
    assert!(
        ends(&json!({"eos_token_id": [7, likeliest]}).to_string(), &Value::Null),
        "a list"
    );
    assert!(ends("{}", &likeliest), "config.json, where the file is silent");
    assert!(!ends(r#"{"eos_token_id": 7}"#, &likeliest), "the file wins");
}
