//! `outro ask` and `outro prepare` on the repository's tiny checkpoint and clip.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{File, Ran, args, command, outro, tiny};

fn clip() -> PathBuf {
    tiny().with_file_name("clip.mp4")
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/data")
        .join(name)
}

/// A short answer about the clip.
fn ask(extra: &[OsString]) -> Ran {
    let base = args![
        "ask",
        "--model",
        tiny(),
        "--video",
        clip(),
        "--frames",
        "4",
        "--max-new-tokens",
        "6"
    ];
    outro([&base[..], extra].concat()).ok()
}

fn json(ran: &Ran) -> Vec<Value> {
    ran.stdout
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

#[test]
fn the_answer_is_on_stdout_and_nothing_else_anywhere() {
    let ran = ask(&args!["what moves?"]);
    assert!(ran.stdout.ends_with('\n'), "{:?}", ran.stdout);
    assert_eq!(ran.stderr, "", "stderr is no terminal here");
    assert_eq!(
        ran.stdout,
        ask(&args!["what moves?", "--threads", "1"]).stdout,
        "threads do not change an answer"
    );
}

#[test]
fn json_has_everything_that_was_promised() {
    let records = json(&ask(&args!["--json", "--strategy", "both", "what moves?"]));
    assert_eq!(records.len(), 1);
    let r = &records[0];
    assert_eq!(r["question"], "what moves?");
    let count = |key: &str| r["prompt_tokens"][key].as_u64().unwrap();
    // 4 frames of 280 x 392: grid 2 x 20 x 28, four patches a token.
    assert_eq!(count("video"), 2 * 20 * 28 / 4);
    assert!((98..=102).contains(&count("audio")), "{r}");
    assert_eq!(
        count("total"),
        count("video") + count("audio") + count("text") + count("image")
    );
    let answers = r["answers"].as_array().unwrap();
    assert_eq!(
        answers
            .iter()
            .map(|a| a["strategy"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["baseline", "outro"]
    );
    for a in answers {
        let top = a["first_token_top5"].as_array().unwrap();
        assert_eq!(top.len(), 5);
        let p: Vec<f64> = top.iter().map(|c| c["probability"].as_f64().unwrap()).collect();
        assert!(
            p.is_sorted_by(|a, b| a >= b) && p.iter().sum::<f64>() <= 1.0 + 1e-6 && p[4] > 0.0,
            "{p:?}"
        );
        assert!(a["seconds"]["prefill"].as_f64().unwrap() > 0.0);
        assert!(a["tokens"].as_u64().unwrap() <= 6);
        assert!(["stop", "length"].contains(&a["finish"].as_str().unwrap()));
    }
    assert!(answers[0].get("sinks").is_none() && answers[0].get("relaxed_at").is_none());
    assert_eq!(
        answers[1]["sinks"]["0"][0], 0,
        "the chat's first token is the planted sink"
    );
    assert_eq!(answers[1]["relaxed_at"]["0"][0], 0);
}

#[test]
fn several_strategies_answer_one_after_the_other() {
    let line = args![
        "--strategy",
        "baseline",
        "--strategy",
        "vcd:alpha=0,beta=0",
        "--strategy",
        "mod+outro"
    ];
    let ran = ask(&[&line[..], &args!["what moves?"]].concat());
    let (plain, rest) = ran.stdout.split_once("[vcd:alpha=0,beta=0]\n").unwrap();
    let (vcd, last) = rest.split_once("[mod+outro]\n").unwrap();
    assert_eq!(
        plain,
        format!("[baseline]\n{vcd}"),
        "no strength is the plain model"
    );
    assert!(last.ends_with('\n'), "{last}");
    let records = json(&ask(&[&line[..], &args!["--json", "what moves?"]].concat()));
    let answers = records[0]["answers"].as_array().unwrap();
    let number = |a: &Value, key: &str| a[key].as_u64().unwrap();
    for a in &answers[1..] {
        assert_eq!(number(a, "passes") % 2, 0, "{a}");
        assert_eq!(number(a, "cache_bytes"), 2 * number(&answers[0], "cache_bytes"));
    }
    assert!(answers[2].get("sinks").is_some());
}

#[test]
fn both_stand_side_by_side() {
    let ran = ask(&args!["--strategy", "both", "what moves?"]);
    let first = ran.stdout.lines().next().unwrap();
    assert!(
        first.starts_with("baseline") && first.ends_with("| outro"),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.stdout.matches("first token:").count(), 2);
    assert_eq!(ran.stdout.matches(" %  ").count(), 10);
}

#[test]
fn several_questions_answer_as_they_do_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("questions.txt");
    std::fs::write(&file, "what moves?\nand what sounds, and how often?\n").unwrap();
    let together = json(&ask(&args!["--json", "--questions", &file]));
    assert_eq!(together.len(), 2);
    for (q, record) in ["what moves?", "and what sounds, and how often?"]
        .iter()
        .zip(&together)
    {
        let alone = &json(&ask(&args!["--json", q]))[0];
        assert_eq!(record["question"], *q);
        assert_eq!(record["prompt_tokens"], alone["prompt_tokens"]);
        for key in ["text", "first_token_top5", "sinks", "relaxed_at"] {
            assert_eq!(record["answers"][0][key], alone["answers"][0][key], "{key}");
        }
    }
    assert_eq!(
        together[1]["shared_seconds"]["media"], 0.0,
        "the second question decodes nothing"
    );
    assert_eq!(together[1]["shared_seconds"]["encode"], 0.0, "nor does it encode");
}

#[test]
fn switches_act() {
    let top = |extra: &[OsString]| {
        json(&ask(&[&args!["--json", "what moves?"][..], extra].concat()))[0]["answers"][0]["first_token_top5"].clone()
    };
    let (outro, baseline) = (top(&[]), top(&args!["--strategy", "baseline"]));
    assert_ne!(outro, baseline);
    assert_eq!(
        top(&args!["--no-rotate", "--no-relax"]),
        baseline,
        "without both halves nothing is left"
    );
    assert_eq!(
        top(&args!["--gamma", "3", "--set", "temperature=0.1"]),
        outro,
        "the defaults by name"
    );
    assert_ne!(top(&args!["--gamma", "1"]), outro);
    assert_ne!(top(&args!["--no-audio-in-video"]), outro);
}

#[test]
fn sampling_follows_its_seed() {
    let text = |seed: &str| {
        ask(&args![
            "--temperature",
            "5",
            "--top-p",
            "0.95",
            "--seed",
            seed,
            "what moves?"
        ])
        .stdout
    };
    assert_eq!(text("1"), text("1"));
    assert!((2..8).any(|s| text(&s.to_string()) != text("1")));
}

#[test]
fn a_silent_video_falls_back_to_its_frames() {
    let ran = outro(args![
        "ask",
        "--model",
        tiny(),
        "--video",
        data("silent.mp4"),
        "--max-new-tokens",
        "1",
        "--json",
        "what?"
    ])
    .ok();
    assert!(
        ran.stderr.starts_with("note: ") && ran.stderr.contains("silent.mp4"),
        "{}",
        ran.stderr
    );
    assert_eq!(json(&ran)[0]["prompt_tokens"]["audio"], 0);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = command()
        .args(args![
            "ask",
            "--model",
            tiny(),
            "--max-new-tokens",
            "200",
            "hello?"
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
    assert_eq!(stderr, "");
}

#[test]
fn prepared_inputs_can_be_traced_and_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (inputs, out) = (
        dir.path().join("in.safetensors"),
        dir.path().join("out.safetensors"),
    );
    std::fs::write(&inputs, "old").unwrap();
    let ran = outro(args![
        "prepare",
        "--model",
        tiny(),
        "--video",
        clip(),
        "--frames",
        "4",
        "what moves?",
        "--out",
        &inputs
    ])
    .ok();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    let prepared = File::read(&inputs);
    let len = prepared.get("input_ids").shape[1];
    assert_eq!(prepared.get("input_ids").shape, [1, len]);
    assert_eq!(prepared.get("attention_mask").data, vec![1.0; len]);
    assert_eq!(prepared.get("video_grid_thw").data, [2.0, 20.0, 28.0]);
    assert_eq!(
        prepared.get("pixel_values_videos").shape,
        [2 * 20 * 28, 3 * 2 * 14 * 14]
    );
    assert_eq!(prepared.get("video_second_per_grid").data, [1.0]);
    assert_eq!(prepared.get("input_features").shape[..2], [1, 128]);
    assert_eq!(prepared.metadata["use_audio_in_video"], "true");

    outro(args![
        "trace",
        "--model",
        tiny(),
        "--inputs",
        &inputs,
        "--out",
        &out
    ])
    .ok();
    let traced = File::read(&out);
    let tokens = &traced.get("tokens").data;
    let answer = &json(&ask(&args!["--json", "--dtype", "f32", "what moves?"]))[0]["answers"][0];
    assert_eq!(
        tokens[0] as u64,
        answer["first_token_top5"][0]["token"].as_u64().unwrap()
    );
}

#[test]
fn without_a_tokenizer_prepare_writes_the_media() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "preprocessor_config.json"] {
        std::fs::copy(tiny().join(name), dir.path().join(name)).unwrap();
    }
    let out = dir.path().join("media.safetensors");
    let ran = outro(args![
        "prepare",
        "--model",
        dir.path(),
        "--video",
        clip(),
        "--frames",
        "4",
        "what?",
        "--out",
        &out
    ])
    .ok();
    assert!(ran.stderr.contains("tokenizer"), "{}", ran.stderr);
    let file = File::read(&out);
    assert!(!file.tensors.contains_key("input_ids"));
    assert_eq!(file.get("video_grid_thw").data, [2.0, 20.0, 28.0]);
    outro(args!["ask", "--model", dir.path(), "what?"]).fails(1, &["tokenizer"]);
}
