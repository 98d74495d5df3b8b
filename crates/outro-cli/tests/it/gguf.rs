//! Text models from GGUF files, quantised weights and half-precision caches, as a user types them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{File, args, command, finish, outro, tiny};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../fixtures/gguf/{name}.gguf"))
}

#[test]
fn a_question_with_and_without_outro() {
    for name in ["llama-tiny", "qwen2-tiny"] {
        let ran = outro(args![
            "ask",
            "--model",
            model(name),
            "--strategy",
            "both",
            "--max-new-tokens",
            "5",
            "--json",
            "the thing"
        ])
        .ok();
        let record: Value = serde_json::from_str(ran.stdout.trim()).unwrap();
        assert_eq!(record["answers"].as_array().unwrap().len(), 2);
        assert_eq!(record["prompt_tokens"]["image"], 0);
        assert_eq!(record["builtin_model"], false);
    }
    outro(args![
        "ask",
        "--model",
        model("qwen2-tiny"),
        "--activations",
        "reduced",
        "--kv",
        "f16",
        "--max-new-tokens",
        "2",
        "q"
    ])
    .ok();
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/clip.mp4");
    outro(args!["ask", "--model", model("qwen2-tiny"), "--video", clip, "q"])
        .fails(1, &["clip.mp4", "qwen2"]);
}

#[test]
fn inspect_says_what_it_is() {
    let text = outro(args!["inspect", model("qwen2-tiny")]).ok().stdout;
    for part in [
        "qwen2",
        "1 layers",
        "Q4_K",
        "tokenizer    tokenizer.ggml.pre",
        "vision       none",
        "output head",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let json = outro(args!["inspect", model("llama-tiny"), "--json"]).ok().stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["family"], "llama");
    assert_eq!(json["decoder"]["tied"], true);
    let bytes: u64 = json["parts"]
        .as_object()
        .unwrap()
        .values()
        .map(|p| p["bytes"].as_u64().unwrap())
        .sum();
    let file = std::fs::metadata(model("llama-tiny")).unwrap().len();
    assert!(bytes < file && bytes > file / 2, "{bytes} of {file}");
}

/// `prepare` and `trace` take the file too; the logits are those that transformers gives.
#[test]
fn a_trace_of_a_gguf_file() {
    let dir = tempfile::tempdir().unwrap();
    let (inputs, out) = (dir.path().join("in"), dir.path().join("out"));
    outro(args![
        "prepare",
        "--model",
        model("llama-tiny"),
        "--out",
        &inputs,
        "the thing"
    ])
    .ok();
    outro(args![
        "trace",
        "--model",
        model("llama-tiny"),
        "--inputs",
        &inputs,
        "--out",
        &out,
        "--steps",
        "2",
        "--capture",
        "hidden"
    ])
    .ok();
    let golden = model("llama-tiny").with_extension("safetensors");
    let traced = dir.path().join("traced");
    outro(args![
        "trace",
        "--model",
        model("llama-tiny"),
        "--inputs",
        &golden,
        "--out",
        &traced,
        "--last",
        "40",
        "--strategy",
        "baseline"
    ])
    .ok();
    let (got, want) = (File::read(&traced), File::read(&golden));
    for (g, w) in got.tensors["prefill_logits"]
        .data
        .iter()
        .zip(&want.tensors["logits"].data)
    {
        assert!((g - w).abs() < 2e-5, "{g} for {w}");
    }
    assert!(File::read(&out).tensors.contains_key("hidden.1"));
}

#[test]
fn quantised_weights_are_kept_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |extra: &[&str]| {
        let mut command = command();
        command
            .env("OUTRO_CACHE", dir.path())
            .args(["ask", "--max-new-tokens", "3", "--quantize", "q8_0"]);
        command.arg("--model").arg(tiny()).args(extra).arg("hello");
        finish(&mut command).ok()
    };
    let count = || std::fs::read_dir(dir.path()).unwrap().count();
    let without = ask(&["--no-quantize-cache"]);
    assert_eq!(count(), 0);
    let first = ask(&[]);
    assert!(
        first.stderr.contains("kept for the next time"),
        "{}",
        first.stderr
    );
    assert_eq!(count(), 1);
    let second = ask(&[]);
    assert!(!second.stderr.contains("kept for"), "{}", second.stderr);
    assert_eq!(without.stdout, first.stdout);
    assert_eq!(first.stdout, second.stdout);
}

#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(model("llama-tiny")).unwrap();
    let path = dir.path().join("cut.gguf");
    for keep in [4, 30, 3000, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..keep]).unwrap();
        outro(args!["ask", "--model", &path, "q"]).fails(1, &["cut.gguf"]);
        outro(args!["inspect", &path]).fails(1, &["cut.gguf"]);
    }
    std::fs::write(&path, b"something else").unwrap();
    outro(args!["ask", "--model", &path, "q"]).fails(1, &["cut.gguf", "not a GGUF file"]);
}

#[test]
fn two_files_are_converted_to_a_checkpoint() {
    let made = tempfile::tempdir().unwrap();
    let out = made.path().join("plain");
    let text = tiny().join("../mmproj/qwen2-vl/Qwen2-VL-tiny-BF16.gguf");
    let line = args!["convert", "--model", &text, "--out", &out];
    let ran = outro(line.clone()).ok();
    assert!(
        ran.stderr.contains("mmproj-Qwen2-VL-tiny-BF16.gguf (BF16)"),
        "{}",
        ran.stderr
    );
    let ran = outro(args!["inspect", &out]).ok();
    assert!(ran.stdout.contains("family       qwen2_vl"), "{}", ran.stdout);
    assert!(ran.stdout.contains("vision       3 blocks"), "{}", ran.stdout);
    outro(line).fails(2, &["holds a checkpoint already"]);
}

#[test]
fn towers_and_adapters_are_a_part_of_the_models_name() {
    let text = tiny().join("../mmproj/qwen2-vl/Qwen2-VL-tiny-BF16.gguf");
    let towers = tiny().join("../mmproj/qwen2-vl/mmproj-Qwen2-VL-tiny-Q8_0.gguf");
    let clip = tiny().join("../shapes.mp4");
    let media = args![
        "--decoder",
        "builtin",
        "--frames",
        "2",
        "--max-pixels",
        "784",
        "--max-new-tokens",
        "2",
        "--json",
        "What?"
    ];
    let mut line = args!["ask", "--model", &text, "--mmproj", &towers, "--video", &clip].to_vec();
    line.extend(media.clone());
    let ran = outro(line).ok();
    assert!(
        ran.stdout.contains("mmproj-Qwen2-VL-tiny-Q8_0.gguf"),
        "{}",
        ran.stdout
    );
    let base = tiny().join("../qwen2-5-vl-tiny");
    let adapter = format!("{}=0.5", tiny().join("../adapters/vision").display());
    let mut line = args!["ask", "--model", &base, "--adapter", &adapter, "--video", &clip].to_vec();
    line.extend(media);
    let ran = outro(line).ok();
    assert!(ran.stdout.contains("adapters/vision times 0.5"), "{}", ran.stdout);
    outro(args![
        "ask",
        "--model",
        &base,
        "--adapter",
        &format!("{}=much", base.display()),
        "x"
    ])
    .fails(2, &["is no number"]);
    outro(args!["ask", "--model", &base, "--mmproj", &towers, "x"]).fails(2, &["belongs to a GGUF file"]);
}
