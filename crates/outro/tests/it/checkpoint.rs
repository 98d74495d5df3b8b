//! Damaged and lying checkpoints: a clear error each, never a panic.

use std::fs;
use std::path::Path;

use outro::{Dtype, Error, Model};
use serde_json::{Value, json};

/// A copy of the tiny checkpoint to damage.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(
            crate::fixtures().join("omni-tiny").join(name),
            dir.path().join(name),
        )
        .unwrap();
    }
    dir
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Loads and runs one token, so that damage that only shows in numbers is met too.
fn message(dir: &Path) -> String {
    let run = || -> outro::Result<()> {
        let model = Model::load(dir, Dtype::Auto)?;
        let inputs = outro::inputs::Inputs {
            input_ids: vec![1, 2, 3],
            ..Default::default()
        };
        let prompt = model.prompt(&inputs, &model.encode(&inputs, &mut |_| {})?)?;
        outro::Session::new(&model, None).prefill(&prompt, 1, &mut |_| {})?;
        Ok(())
    };
    let e: Error = run().expect_err("damage must be noticed");
    e.to_string()
}

fn check(dir: &Path, parts: &[&str]) {
    let m = message(dir);
    for part in parts {
        assert!(m.contains(part), "`{m}` does not say `{part}`");
    }
}

#[test]
fn missing_files_are_named() {
    let dir = copy();
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    check(dir.path(), &["model.safetensors"]);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    check(dir.path(), &["config.json"]);
}

#[test]
fn truncated_weights_are_noticed_before_they_are_used() {
    let dir = copy();
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for keep in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..keep]).unwrap();
        check(dir.path(), &["model.safetensors"]);
    }
}

#[test]
fn an_index_must_tell_the_truth() {
    let dir = copy();
    let index = dir.path().join("model.safetensors.index.json");
    let write = |map: Value| fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    write(json!({"thinker.model.norm.weight": "model-00001-of-00002.safetensors"}));
    check(dir.path(), &["model-00001-of-00002.safetensors", "missing"]);
    write(json!({"thinker.no.such.tensor": "model.safetensors"}));
    check(dir.path(), &["thinker.no.such.tensor", "absent"]);
    write(json!({"thinker.model.norm.weight": "../../etc/passwd"}));
    check(dir.path(), &["weight_map.thinker.model.norm.weight", "file name"]);
    write(json!({"thinker.model.norm.weight": 3}));
    check(dir.path(), &["weight_map"]);
    fs::write(&index, "{").unwrap();
    check(dir.path(), &["model.safetensors.index.json", "JSON"]);
}

#[test]
fn shapes_and_fields_are_checked() {
    for (pointer, value, parts) in [
        (
            "/thinker_config/text_config/intermediate_size",
            json!(64),
            &["mlp", "shape"][..],
        ),
        (
            "/thinker_config/text_config/num_hidden_layers",
            json!(16),
            &["layers.15", "missing"],
        ),
        (
            "/thinker_config/text_config/hidden_size",
            json!("64"),
            &["thinker_config.text_config.hidden_size"],
        ),
        (
            "/thinker_config/text_config/hidden_size",
            json!(null),
            &["hidden_size", "missing"],
        ),
        (
            "/thinker_config/text_config/vocab_size",
            json!(-5),
            &["vocab_size", "-5"],
        ),
        (
            "/thinker_config/text_config/vocab_size",
            json!(u64::MAX),
            &["vocab_size"],
        ),
        (
            "/thinker_config/text_config/num_key_value_heads",
            json!(3),
            &["num_key_value_heads", "divide"],
        ),
        (
            "/thinker_config/text_config/hidden_act",
            json!("gelu"),
            &["hidden_act", "silu"],
        ),
        (
            "/thinker_config/text_config/rope_scaling/mrope_section",
            json!([1, 1, 1]),
            &["mrope_section", "head_dim / 2"],
        ),
        (
            "/thinker_config/vision_config/out_hidden_size",
            json!(63),
            &["out_hidden_size", "64"],
        ),
        (
            "/thinker_config/vision_config/window_size",
            json!(8),
            &["window_size"],
        ),
        ("/thinker_config/audio_config/d_model", json!(33), &["d_model"]),
        (
            "/thinker_config/audio_token_index",
            json!("x"),
            &["audio_token_index"],
        ),
        (
            "/model_type",
            json!("qwen9"),
            &["unknown architecture `qwen9`", "qwen2_5_omni", "nearest"],
        ),
        ("/model_type", json!(4), &["model_type", "string"]),
    ] {
        let dir = copy();
        edit_config(dir.path(), |c| *c.pointer_mut(pointer).unwrap() = value);
        check(dir.path(), parts);
    }
    let dir = copy();
    fs::write(dir.path().join("config.json"), "[1, 2").unwrap();
    check(dir.path(), &["config.json", "JSON"]);
}

#[test]
fn weights_that_are_not_numbers_are_named() {
    let dir = copy();
    let path = dir.path().join("model.safetensors");
    let good = fs::read(&path).unwrap();
    let (header, meta) = safetensors::SafeTensors::read_metadata(&good).unwrap();
    for name in [
        "thinker.model.layers.3.mlp.up_proj.weight",
        "thinker.model.norm.weight",
        "thinker.model.embed_tokens.weight",
        "thinker.lm_head.weight",
    ] {
        let mut bad = good.clone();
        let (start, end) = meta.info(name).unwrap().data_offsets;
        for x in bad[header + 8 + start..header + 8 + end].chunks_exact_mut(4) {
            x.copy_from_slice(&f32::NAN.to_le_bytes());
        }
        fs::write(&path, bad).unwrap();
        check(dir.path(), &[name, "finite"]);
    }
}

#[test]
fn every_dtype_is_close_and_f16_overflow_is_refused() {
    let logits = |dtype| {
        let model = Model::load(&crate::fixtures().join("omni-tiny"), dtype).unwrap();
        let inputs = outro::inputs::Inputs {
            input_ids: (0..40).map(|i| 20 + 7 * i % 300).collect(),
            ..Default::default()
        };
        let prompt = model
            .prompt(&inputs, &model.encode(&inputs, &mut |_| {}).unwrap())
            .unwrap();
        outro::Session::new(&model, None)
            .prefill(&prompt, 1, &mut |_| {})
            .unwrap()
            .into_data()
    };
    let (auto, wide) = (logits(Dtype::Auto), logits(Dtype::F32));
    assert_eq!(auto, wide, "f32 on disk is f32 either way");
    for (dtype, least) in [(Dtype::Bf16, 0.999), (Dtype::F16, 0.99999)] {
        let narrow = logits(dtype);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let cosine = dot(&wide, &narrow) / (dot(&wide, &wide) * dot(&narrow, &narrow)).sqrt();
        assert!(cosine > least, "{dtype:?}: cosine {cosine}");
    }
}
