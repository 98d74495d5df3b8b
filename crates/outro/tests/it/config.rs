//! config.json of every family: class defaults, fields that change results, messages.

use std::fs;
use std::path::Path;

use outro::config::Config;
use outro::{ErrorKind, Hint, Model};
use serde_json::{Map, Value, json};

/// A tiny checkpoint, where an object is in its config.json, and the object's class in `classes.json`.
const OBJECTS: [(&str, &str, &str); 24] = [
    ("qwen3-tiny", "", "Qwen3Config"),
    ("qwen3-moe-tiny", "", "Qwen3MoeConfig"),
    ("qwen2-vl-tiny", "", "Qwen2VLConfig"),
    ("qwen2-vl-tiny", "", "Qwen2VLTextConfig"),
    ("qwen2-vl-tiny", "/vision_config", "Qwen2VLVisionConfig"),
    ("qwen2-5-vl-tiny", "", "Qwen2_5_VLConfig"),
    ("qwen2-5-vl-tiny", "", "Qwen2_5_VLTextConfig"),
    ("qwen2-5-vl-tiny", "/vision_config", "Qwen2_5_VLVisionConfig"),
    ("llava-onevision-tiny", "", "LlavaOnevisionConfig"),
    ("llava-onevision-tiny", "/text_config", "Qwen2Config"),
    ("llava-onevision-tiny", "/vision_config", "SiglipVisionConfig"),
    ("videollama3-tiny", "/text_config", "Qwen2Config"),
    ("videollama3-tiny", "/vision_config", "VideoLlama3VisionConfig"),
    ("qwen3-vl-tiny", "/text_config", "Qwen3VLTextConfig"),
    ("qwen3-vl-tiny", "/vision_config", "Qwen3VLVisionConfig"),
    ("qwen3-vl-moe-tiny", "/text_config", "Qwen3VLMoeTextConfig"),
    ("qwen3-vl-moe-tiny", "/vision_config", "Qwen3VLMoeVisionConfig"),
    ("qwen3-omni-tiny", "/thinker_config", "Qwen3OmniMoeThinkerConfig"),
    (
        "qwen3-omni-tiny",
        "/thinker_config/text_config",
        "Qwen3OmniMoeTextConfig",
    ),
    (
        "qwen3-omni-tiny",
        "/thinker_config/vision_config",
        "Qwen3OmniMoeVisionEncoderConfig",
    ),
    (
        "qwen3-omni-tiny",
        "/thinker_config/audio_config",
        "Qwen3OmniMoeAudioEncoderConfig",
    ),
    ("omni-tiny", "/thinker_config", "Qwen2_5OmniThinkerConfig"),
    (
        "omni-tiny",
        "/thinker_config/text_config",
        "Qwen2_5OmniTextConfig",
    ),
    (
        "omni-tiny",
        "/thinker_config/audio_config",
        "Qwen2_5OmniAudioEncoderConfig",
    ),
];

/// Fields that change no number here: of training, of generation, of speech, and of windows, of which one alone does nothing.
const IDLE: [&str; 18] = [
    "activation_dropout",
    "attention_dropout",
    "bos_token_id",
    "conv_chunksize",
    "dropout",
    "eos_token_id",
    "initializer_range",
    "max_window_layers",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "router_aux_loss_coef",
    "sliding_window",
    "use_cache",
    "use_sliding_window",
    "user_token_id",
    "vision_use_head",
    // A tower's table says its base in rope_parameters.
    "rope_theta",
];

fn classes() -> Map<String, Value> {
    serde_json::from_str(include_str!("../../src/weights/classes.json")).unwrap()
}

fn read(name: &str) -> Value {
    let text = fs::read_to_string(crate::fixtures().join(name).join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn parse(config: &Value) -> outro::Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    Config::load(dir.path())
}

#[track_caller]
fn refused(config: &Value, parts: &[&str]) {
    let message = parse(config).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

/// Something else than a field says.
fn another(key: &str, now: &Value) -> Value {
    match (key, now) {
        ("rope_scaling" | "rope_parameters", _) => json!({"rope_type": "longrope", "factor": 2.0}),
        ("layer_types", _) => json!(["linear_attention"]),
        (_, Value::Bool(yes)) => json!(!yes),
        (_, Value::Number(n)) => n.as_u64().map_or_else(|| json!(2.5), |n| json!(2 * n.max(1))),
        (_, Value::Array(list)) => json!([usize::from(*list != [1])]),
        _ => json!("relu"),
    }
}

/// A field that transformers knows is read, refused, or of no consequence: none is passed over.
#[test]
fn no_field_is_ignored() {
    let classes = classes();
    let mut looked_at = 0;
    for (name, pointer, class) in OBJECTS {
        let config = read(name);
        let before = parse(&config).unwrap();
        for (key, default) in classes[class].as_object().unwrap() {
            if IDLE.contains(&key.as_str()) || key.ends_with("_config") {
                continue;
            }
            let mut changed = config.clone();
            let object = changed.pointer_mut(pointer).unwrap();
            // As in transformers, the older name comes first.
            if key == "rope_parameters" && object.get("rope_scaling").is_some_and(Value::is_object) {
                continue;
            }
            let now = object.get(key).filter(|v| !v.is_null()).unwrap_or(default);
            object[key] = another(key, now);
            let says = object[key].clone();
            if let Ok(after) = parse(&changed) {
                assert_ne!(after, before, "{name}{pointer}: {key} = {says} changes nothing");
            }
            looked_at += 1;
        }
    }
    assert!(looked_at > 200, "{looked_at}");
}

/// What a class has as a default may be left out.
#[test]
fn defaults_of_the_class_hold() {
    let classes = classes();
    for (name, pointer, class) in OBJECTS {
        let config = read(name);
        for (key, default) in classes[class].as_object().unwrap() {
            let object = config.pointer(pointer).unwrap();
            // Another spelling that is there says it already.
            let said = key == "num_experts" && object.get("num_local_experts").is_some();
            if default.is_null() || key.starts_with("rope") || said {
                continue;
            }
            let (mut absent, mut explicit) = (config.clone(), config.clone());
            absent
                .pointer_mut(pointer)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .remove(key);
            explicit.pointer_mut(pointer).unwrap()[key] = default.clone();
            match (parse(&absent), parse(&explicit)) {
                (Ok(a), Ok(b)) => assert_eq!(a, b, "{name}{pointer}: {key}"),
                (Err(_), Err(_)) => {}
                (a, b) => {
                    panic!("{name}{pointer}: {key}: {a:?} where it is absent, {b:?} where it says {default}")
                }
            }
        }
    }
}

#[test]
fn windows_are_refused_where_they_act() {
    let mut config = read("qwen3-tiny");
    config["max_position_embeddings"] = json!(4096);
    config["use_sliding_window"] = json!(true);
    config["sliding_window"] = json!(1024);
    config["layer_types"] = Value::Null;
    config["max_window_layers"] = json!(100);
    let plain = parse(&config).unwrap();
    for (key, value) in [
        ("use_sliding_window", json!(false)),
        ("sliding_window", json!(4096)),
        ("sliding_window", Value::Null),
        ("layer_types", json!(vec!["full_attention"; 14])),
    ] {
        let mut good = config.clone();
        good["max_window_layers"] = json!(3);
        good[key] = value;
        assert_eq!(parse(&good).unwrap(), plain, "{key}");
    }
    config["max_window_layers"] = json!(3);
    refused(
        &config,
        &["config.json", "use_sliding_window", "1024", "not supported"],
    );
    config["use_sliding_window"] = json!(false);
    config["layer_types"] = json!(["full_attention", "sliding_attention"]);
    refused(&config, &["layer_types", "sliding_attention"]);
    config["layer_types"] = json!(["full_attention", "linear_attention"]);
    refused(&config, &["layer_types", "linear_attention"]);
    let mut llama = json!({"model_type": "llama", "sliding_window": 64});
    refused(&llama, &["sliding_window", "64"]);
    llama["sliding_window"] = json!(4096);
    parse(&llama).unwrap();
}

#[test]
fn what_other_decoders_have_is_refused_by_name() {
    for (key, bad, good) in [
        ("attn_logit_softcapping", json!(50.0), Value::Null),
        ("final_logit_softcapping", json!(30.0), json!(0)),
        ("logit_scale", json!(0.0625), json!(1.0)),
        ("use_parallel_residual", json!(true), json!(false)),
        ("num_local_experts", json!(8), json!(0)),
        ("partial_rotary_factor", json!(0.25), json!(1)),
        ("is_causal", json!(false), json!(true)),
        ("hidden_act", json!("gelu"), json!("silu")),
        ("attention_bias", json!(true), json!(false)),
    ] {
        for name in ["qwen3-tiny", "llava-onevision-tiny"] {
            let mut config = read(name);
            // Qwen2's decoders have the bias whatever it says.
            if name != "qwen3-tiny" && key == "attention_bias" {
                continue;
            }
            let pointer = if name == "qwen3-tiny" { "" } else { "/text_config" };
            let before = parse(&config).unwrap();
            config.pointer_mut(pointer).unwrap()[key] = good.clone();
            assert_eq!(parse(&config).unwrap(), before, "{key}");
            config.pointer_mut(pointer).unwrap()[key] = bad.clone();
            refused(&config, &["config.json: field `", key]);
        }
    }
    let mut config = read("qwen3-omni-tiny");
    config["thinker_config"]["vision_config"]["apply_vit_abs_pos_embed"] = json!(false);
    refused(&config, &["thinker_config.vision_config.apply_vit_abs_pos_embed"]);
}

/// From config.json alone, wherever it stands, by every quantiser's key.
#[test]
fn quantised_checkpoints_are_refused_by_name() {
    for method in ["modelopt", "hqq", "quanto", "auto-round"] {
        let mut config = read("omni-tiny");
        config["quantization_config"] = json!({"bits": 4, "quant_method": method});
        let is = format!("config.json: field `quantization_config.quant_method`: is {method}; quantised");
        refused(&config, &[&is]);
        let error = parse(&config).unwrap_err();
        assert_eq!(
            (error.kind(), error.hint()),
            (ErrorKind::Unsupported, Some(Hint::QuantiseHere))
        );
        let mut config = read("omni-tiny");
        config["thinker_config"]["text_config"]["quantization_config"] = json!({"quant_method": method});
        refused(
            &config,
            &[
                "thinker_config.text_config.quantization_config.quant_method",
                method,
            ],
        );
    }
    let mut config = read("qwen3-tiny");
    config["quantization"] = json!({"group_size": 64});
    refused(&config, &["field `quantization`", "group_size"]);
    let before = parse(&read("qwen3-tiny")).unwrap();
    for nothing in [Value::Null, json!({})] {
        config["quantization"] = nothing;
        assert_eq!(parse(&config).unwrap(), before);
    }
}

#[test]
fn directories_that_are_no_checkpoint_say_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let message = || Config::load(dir.path()).unwrap_err().to_string();
    assert!(message().contains("holds no config.json; give a checkpoint directory"));
    let gguf = dir.path().join("model-q4_k.gguf");
    fs::write(&gguf, "").unwrap();
    assert!(
        message().contains(&format!("give the file itself: {}", gguf.display())),
        "{}",
        message()
    );
    let adapter = dir.path().join("adapter_config.json");
    fs::write(
        &adapter,
        r#"{"base_model_name_or_path": "a/b", "peft_type": "LORA"}"#,
    )
    .unwrap();
    let m = message();
    assert!(
        m.starts_with(&format!(
            "{}: field `base_model_name_or_path`: is a/b",
            adapter.display()
        )),
        "{m}"
    );
    assert!(m.contains("merge"), "{m}");
    fs::copy(
        crate::fixtures().join("qwen3-tiny/config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    fs::write(dir.path().join("adapter_model.safetensors"), "").unwrap();
    let m = Model::audit(dir.path()).unwrap_err().to_string();
    assert!(m.contains("adapter") && m.contains("merge"), "{m}");
}

/// Editors of Windows put a byte order mark before UTF-8.
#[test]
fn a_byte_order_mark_is_no_letter() {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(crate::fixtures().join("omni-tiny"))
        .unwrap()
        .flatten()
    {
        let path = file.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else {
            continue;
        };
        let to = dir.path().join(name);
        if Path::new(name).extension().is_some_and(|e| e == "json") {
            fs::write(to, format!("\u{feff}{}", fs::read_to_string(&path).unwrap())).unwrap();
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
    let (marked, plain) = (
        Config::load(dir.path()),
        Config::load(&crate::fixtures().join("omni-tiny")),
    );
    assert_eq!(marked.unwrap(), plain.unwrap());
    outro::prepare::Preparer::open(dir.path()).unwrap();
}
