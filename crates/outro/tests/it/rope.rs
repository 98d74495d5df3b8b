//! Rotary scaling against transformers' values (`tools/rope_fixture.py`), and settings that are refused.

use std::fs;
use std::path::Path;

use outro::config::Config;
use outro::inputs::Inputs;
use outro::{Dtype, KvType, Model, Prefix, Session};
use serde_json::{Value, json};

/// Frequencies and factors are computed in f32 by both.
const FREQUENCY: f64 = 1e-6;
/// Of a logit; see `golden::LOGITS`.
const LOGIT: f64 = 2e-4;

fn fixture() -> Value {
    let text = fs::read_to_string(crate::fixtures().join("rope.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

fn parse(config: &Value) -> outro::Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    Config::load(dir.path())
}

/// A Llama with these fields.
fn llama(fields: &Value) -> Value {
    let mut config =
        json!({"model_type": "llama", "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 300});
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

#[test]
fn frequencies_are_those_of_transformers() {
    let cases = fixture()["frequencies"].as_array().unwrap().clone();
    assert!(cases.len() >= 19);
    for case in cases {
        let config = parse(&llama(&case["config"])).unwrap();
        let rope = &config.text.rope;
        let length = case["length"].as_f64().unwrap_or(0.0);
        let (got, want) = (
            rope.frequencies(config.text.head_dim, length),
            floats(&case["frequencies"]),
        );
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let off = (f64::from(*got) - want).abs() / want.abs();
            assert!(off < FREQUENCY, "{}: {i}: {got} for {want}", case["config"]);
        }
        let want = case["attention_factor"].as_f64().unwrap();
        assert!(
            (f64::from(rope.attention_factor()) - want).abs() < FREQUENCY,
            "{}",
            case["config"]
        );
    }
}

/// Prefill beyond the context of the training and decoding with the cache, in decoders with one axis of positions and with
/// three, in sections and in turn.
#[test]
fn logits_are_those_of_transformers() {
    let fixture = fixture();
    let ids: Vec<u32> = floats(&fixture["ids"]).iter().map(|x| *x as u32).collect();
    for case in fixture["logits"].as_array().unwrap() {
        let name = case["checkpoint"].as_str().unwrap();
        let dir = with_scaling(name, &case["config"]);
        let model = Model::load(dir.path(), Dtype::F32).unwrap();
        let inputs = Inputs {
            input_ids: ids.clone(),
            ..Inputs::default()
        };
        let media = model.encode(&inputs, &mut |_| {}).unwrap();
        let prompt = model.prompt(&inputs, &media).unwrap();
        let mut session = Session::new(&model, None);
        let mut rows = vec![session.prefill(&prompt, 1, &mut |_| {}).unwrap().into_data()];
        for token in floats(&fixture["decoded"]) {
            rows.push(session.decode(token as u32).unwrap());
        }
        let wants = case["logits"].as_array().unwrap();
        assert_eq!(rows.len(), wants.len());
        for (row, want) in rows.iter().zip(wants) {
            for (got, want) in row.iter().zip(floats(want)) {
                let off = (f64::from(*got) - want).abs();
                assert!(off < LOGIT, "{name}, {}: {got} for {want}", case["config"]);
            }
        }
    }
}

/// A tiny checkpoint whose decoder has these fields.
fn with_scaling(name: &str, fields: &Value) -> tempfile::TempDir {
    let from = crate::fixtures().join(name);
    let dir = tempfile::tempdir().unwrap();
    fs::copy(
        from.join("model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(from.join("config.json")).unwrap()).unwrap();
    let mut text = &mut config;
    for inner in ["thinker_config", "text_config"] {
        if text.get(inner).is_some() {
            text = &mut text[inner];
        }
    }
    for (key, value) in fields.as_object().unwrap() {
        text[key] = value.clone();
    }
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

/// Prompts of a model whose frequencies depend on the length of all share no rows.
#[test]
fn dynamic_scaling_shares_no_rows() {
    let dir = with_scaling(
        "qwen3-tiny",
        &json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    );
    let model = Model::load(dir.path(), Dtype::F32).unwrap();
    let inputs = Inputs {
        input_ids: vec![20, 21, 22, 23],
        ..Inputs::default()
    };
    let prompt = model
        .prompt(&inputs, &model.encode(&inputs, &mut |_| {}).unwrap())
        .unwrap();
    assert!(!model.shares_rows());
    let refused = Prefix::run(&model, KvType::F32, &prompt, 2);
    assert!(refused.err().unwrap().to_string().contains("dynamic"));
    let plain = Model::load(&crate::fixtures().join("qwen3-tiny"), Dtype::F32).unwrap();
    assert!(plain.shares_rows());
}

/// The setting of Qwen2.5-VL's README stretches the context, whichever key has it and whatever stands beside it.
#[test]
fn every_spelling_is_the_same() {
    let name = "qwen2-5-vl-tiny";
    let yarn = json!({"type": "yarn", "mrope_section": [2, 3, 3], "factor": 4, "original_max_position_embeddings": 1024});
    let load = |fields: &Value| Config::load(with_scaling(name, fields).path()).unwrap();
    let first = load(&json!({"rope_scaling": yarn, "max_position_embeddings": 1024}));
    assert_eq!(first.text.max_positions, 4096);
    let mut both = yarn.clone();
    both["rope_type"] = json!("yarn");
    let mut newer = both.clone();
    newer["rope_theta"] = json!(1e6);
    let mut inside = yarn.clone();
    inside
        .as_object_mut()
        .unwrap()
        .remove("original_max_position_embeddings");
    for fields in [
        json!({"rope_scaling": both, "max_position_embeddings": 1024}),
        json!({"rope_scaling": null, "rope_theta": null, "rope_parameters": newer, "max_position_embeddings": 1024}),
        json!({"rope_scaling": inside, "max_position_embeddings": 1024}),
        json!({"rope_scaling": inside, "original_max_position_embeddings": 1024, "max_position_embeddings": 1024}),
    ] {
        assert_eq!(load(&fields), first, "{fields}");
    }
    let plain =
        load(&json!({"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]}}));
    assert_eq!(plain, Config::load(&crate::fixtures().join(name)).unwrap());
}

#[test]
fn what_is_not_computed_is_refused() {
    for (rope, parts) in [
        (
            json!({"type": "longrope", "factor": 4}),
            &["rope_scaling.type", "longrope", "yarn"][..],
        ),
        (json!({"rope_type": "su"}), &["rope_scaling.rope_type", "su"]),
        (json!({"rope_type": 3}), &["rope_scaling.rope_type", "string"]),
        (
            json!({"type": "yarn", "rope_type": "default", "factor": 4}),
            &["rope_scaling.rope_type", "yarn", "default"],
        ),
        (json!({"type": "yarn"}), &["rope_scaling.factor", "missing"]),
        (
            json!({"type": "yarn", "factor": -4}),
            &["rope_scaling.factor", "-4"],
        ),
        (
            json!({"type": "yarn", "factor": 4, "beta_fast": "x"}),
            &["rope_scaling.beta_fast"],
        ),
        (
            json!({"type": "dynamic", "factor": 0.5}),
            &["rope_scaling.factor", "0.5", "at least 1"],
        ),
        (json!({"factor": 4}), &["rope_scaling.type", "missing"]),
        (
            json!({"type": "default", "partial_rotary_factor": 0.5}),
            &["partial_rotary_factor", "0.5"],
        ),
        (
            json!({"full_attention": {"rope_type": "yarn"}}),
            &["rope_scaling.full_attention", "one kind of layer"],
        ),
        (json!("yarn"), &["rope_scaling", "an object"]),
    ] {
        let mut config = llama(&json!({"hidden_size": 64, "num_attention_heads": 4}));
        config["rope_scaling"] = rope.clone();
        let message = parse(&config).unwrap_err().to_string();
        for part in parts {
            assert!(
                message.contains(part),
                "{rope}: `{message}` does not say `{part}`"
            );
        }
        assert!(message.contains(&Path::new("config.json").display().to_string()));
    }
}
