//! Plain Qwen2 and Llama checkpoints: their config.json.

use std::fs;

use outro::config::{Config, PositionRule, Rope, Scaling};
use serde_json::{Value, json};

fn load(value: &Value) -> outro::Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), value.to_string()).unwrap();
    Config::load(dir.path())
}

/// The shape of Llama-3.2-1B.
fn llama(more: &[(&str, Value)]) -> Value {
    let mut value = json!({
        "model_type": "llama", "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 16, "intermediate_size": 8192, "vocab_size": 128_256, "rope_theta": 500_000.0,
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    });
    for (key, v) in more {
        value[*key] = v.clone();
    }
    value
}

/// Of transformers 4.52.3 for this shape.
const GOLDEN: [(usize, f64); 7] = [
    (0, 1.0),
    (14, 1.0),
    (15, 1.65133),
    (16, 3.29226),
    (17, 9.66673),
    (18, 32.0),
    (31, 32.0),
];

#[test]
fn a_llama() {
    let c = load(&llama(&[])).unwrap();
    assert_eq!(c.positions, PositionRule::Text);
    assert!(c.text.tied && !c.text.qkv_bias && !c.text.rope_pairs_interleaved && c.vision.is_none());
    // transformers' own frequencies without and with the scaling, divided.
    let plain = Rope {
        scaling: Scaling::None,
        ..c.text.rope.clone()
    };
    let (scaled, plain) = (c.text.rope.frequencies(64, 0.0), plain.frequencies(64, 0.0));
    assert_eq!(scaled.len(), 32);
    for (i, want) in GOLDEN {
        let divisor = f64::from(plain[i]) / f64::from(scaled[i]);
        assert!((divisor - want).abs() < 1e-4 * want, "{i}: {divisor} for {want}");
    }
    let linear = load(&llama(&[(
        "rope_scaling",
        json!({"type": "linear", "factor": 4.0}),
    )]))
    .unwrap();
    assert_eq!(linear.text.rope.scaling, Scaling::Linear { factor: 4.0 });
    let none = load(&llama(&[("rope_scaling", Value::Null)])).unwrap();
    assert_eq!(none.text.rope.scaling, Scaling::None);
}

#[test]
fn a_qwen2() {
    let c = load(&llama(&[
        ("model_type", json!("qwen2")),
        ("rope_scaling", Value::Null),
    ]))
    .unwrap();
    assert!(c.text.qkv_bias);
}

#[test]
fn what_is_not_supported_is_named() {
    for (key, value, parts) in [
        (
            "rope_scaling",
            json!({"rope_type": "longrope"}),
            ["rope_scaling.rope_type", "longrope"],
        ),
        (
            "rope_scaling",
            json!({"type": "linear"}),
            ["rope_scaling.factor", "missing"],
        ),
        (
            "attention_bias",
            json!(true),
            ["attention_bias", "only false is supported"],
        ),
        ("mlp_bias", json!(true), ["mlp_bias", "not supported"]),
        ("num_key_value_heads", json!(5), ["num_key_value_heads", "divide"]),
    ] {
        let m = load(&llama(&[(key, value)])).unwrap_err().to_string();
        for part in parts {
            assert!(m.contains(part), "`{m}` does not say `{part}`");
        }
    }
}
