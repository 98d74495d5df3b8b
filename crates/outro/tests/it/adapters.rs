//! LoRA adapters (tools/families/adapters.py): the adapted models of peft, refusals, and mistakes that would be seen.

use std::fs;
use std::path::{Path, PathBuf};

use outro::checkpoint::{Adapter, adapter_base};
use outro::config::Config;
use outro::{Dtype, Error, LoadOptions, Model, Quantize};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::families::{answer, answers, hook, prompt};
use crate::golden::LOGITS;

fn adapters() -> PathBuf {
    crate::fixtures().join("adapters")
}

fn base(name: &str) -> PathBuf {
    crate::fixtures().join(match name {
        "text" => "qwen3-tiny",
        "salmonn" => "video-salmonn2-tiny",
        _ => "qwen2-5-vl-tiny",
    })
}

fn load(base: &Path, adapters: Vec<Adapter>, dtype: Dtype) -> Result<Model, Error> {
    let mut config = Config::load(base)?;
    config.held.adapters = adapters;
    Model::open(config, base, dtype)
}

fn adapter(name: &str) -> Adapter {
    Adapter::new(adapters().join(name))
}

#[test]
fn adapted_models_compute_what_peft_computes() {
    for (name, case) in [
        ("vision", "vision"),
        ("vision-older", "vision"),
        ("patterns", "patterns"),
        ("text", "text"),
        // As the authors of video-SALMONN 2+ save theirs: no adapters in Whisper's layers, Q-Former and merger whole.
        ("salmonn", "salmonn"),
    ] {
        let model = load(&base(name), vec![adapter(name)], Dtype::F32).unwrap();
        answers(&model, &adapters().join(format!("{case}.safetensors")), LOGITS);
    }
    let first = Adapter {
        weight: 0.5,
        ..adapter("vision")
    };
    let model = load(&base("vision"), vec![first, adapter("second")], Dtype::F32).unwrap();
    answers(&model, &adapters().join("two.safetensors"), LOGITS);
}

/// The base of a directory with an adapter and nothing else.
#[test]
fn an_adapter_says_its_base() {
    let base = adapter_base(&adapters().join("vision")).unwrap();
    assert_eq!(base.as_deref(), Some("qwen2-5-vl-tiny"));
    assert_eq!(
        adapter_base(&crate::fixtures().join("qwen2-vl-tiny")).unwrap(),
        None
    );
    let error = Config::load(&adapters().join("vision")).unwrap_err().to_string();
    assert!(
        error.contains("qwen2-5-vl-tiny") && error.contains("an adapter"),
        "{error}"
    );
}

fn prefill(model: &Model, case: &str) -> Vec<f32> {
    let path = adapters().join(format!("{case}.safetensors"));
    answer(model, &prompt(model, &path).1, hook(false))
}

/// In the type of the base, as peft merges: close to the exact one and not the same. Quantised on the way, and kept: the cache of
/// one adapter is not taken for another.
#[test]
fn other_types_and_the_cache_of_quantised_weights() {
    let exact = prefill(
        &load(&base("vision"), vec![adapter("vision")], Dtype::F32).unwrap(),
        "vision",
    );
    let model = load(&base("vision"), vec![adapter("vision")], Dtype::Auto).unwrap();
    let near = prefill(&model, "vision");
    let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(
        far(&exact, &near) > 0.0 && far(&exact, &near) < 0.2,
        "{}",
        far(&exact, &near)
    );
    let cache = tempfile::tempdir().unwrap();
    let quantised = |adapters: Vec<Adapter>| {
        let mut config = Config::load(&base("vision")).unwrap();
        config.held.adapters = adapters;
        let options = LoadOptions {
            quantize: Some(Quantize::Q8_0),
            cache: Some(cache.path().into()),
            ..LoadOptions::default()
        };
        prefill(&Model::open(config, &base("vision"), options).unwrap(), "vision")
    };
    let one = quantised(vec![adapter("vision")]);
    let half = quantised(vec![Adapter {
        weight: 0.5,
        ..adapter("vision")
    }]);
    assert_eq!(one, quantised(vec![adapter("vision")]));
    assert!(far(&one, &half) > 0.05);
    assert!(far(&one, &near) < 0.5, "{}", far(&one, &near));
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2);
}

/// A copy of an adapter with other fields and other names of tensors.
fn changed(
    name: &str,
    edit: impl Fn(&mut Value),
    rename: impl Fn(&str) -> Option<String>,
) -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    let from = adapters().join(name);
    let mut config: Value =
        serde_json::from_slice(&fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    edit(&mut config);
    fs::write(made.path().join("adapter_config.json"), config.to_string()).unwrap();
    let bytes = fs::read(from.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file
        .tensors()
        .into_iter()
        .filter_map(|(n, v)| Some((rename(&n)?, v)));
    safetensors::serialize_to_file(tensors, None, &made.path().join("adapter_model.safetensors")).unwrap();
    made
}

#[expect(clippy::unnecessary_wraps, reason = "others leave tensors out")]
fn kept(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn what_is_not_merged_is_named() {
    let error = |made: &tempfile::TempDir| match load(
        &base("vision"),
        vec![Adapter::new(made.path())],
        Dtype::Auto,
    ) {
        Ok(_) => panic!("it loads"),
        Err(e) => e.to_string(),
    };
    for (key, value, words) in [
        ("use_dora", json!(true), "DoRA"),
        ("fan_in_fan_out", json!(true), "the other way round"),
        ("lora_bias", json!(true), "bias"),
        ("init_lora_weights", json!("pissa_niter_4"), "pissa"),
        ("peft_type", json!("IA3"), "only LORA is merged"),
        ("layer_replication", json!([[0, 2]]), "repeats layers"),
        ("init_lora_weights", json!("lora_ga"), "lora_ga"),
        ("alora_invocation_tokens", json!([1, 2]), "activated"),
        ("arrow_config", json!({"arrow_top_k": 3}), "Arrow"),
        ("kasa_config", json!({"beta": 1e-4}), "singular"),
        ("monteclora_config", json!({"n": 4}), "samples"),
        ("use_bdlora", json!({"nblocks": 2}), "block-diagonal"),
        (
            "target_parameters",
            json!(["mlp.experts.gate_up_proj"]),
            "experts",
        ),
        ("alpha_pattern", json!({"(": 3}), "is no pattern"),
        ("lora_alpha", json!("much"), "lora_alpha"),
    ] {
        let text = error(&changed("vision", |c| c[key] = value.clone(), kept));
        assert!(text.contains(key) && text.contains(words), "{text}");
    }
    let text = error(&changed(
        "vision",
        |_| {},
        |n| Some(n.replace("lora_A", "lora_embedding_A")),
    ));
    assert!(text.contains("lora_embedding_A"), "{text}");
    let text = error(&changed(
        "vision",
        |_| {},
        |n| Some(n.replace("layers.3.", "layers.90.")),
    ));
    assert!(
        text.contains("layers.90.") && text.contains("adapter of another model"),
        "{text}"
    );
    let text = error(&changed(
        "vision",
        |_| {},
        |n| (!n.contains("layers.2.mlp.up_proj.lora_B")).then(|| n.to_owned()),
    ));
    assert!(text.contains("no lora_B beside it"), "{text}");
    let text = error(&changed("vision", |_| {}, |_| None));
    assert!(text.contains("holds no LoRA matrices"), "{text}");
    let text = error(&changed("text", |_| {}, kept));
    assert!(text.contains("adapter_model.safetensors"), "{text}");
    let empty = tempfile::tempdir().unwrap();
    assert!(error(&empty).contains("adapter_config.json"), "{}", error(&empty));
    fs::copy(
        adapters().join("vision/adapter_config.json"),
        empty.path().join("adapter_config.json"),
    )
    .unwrap();
    assert!(
        error(&empty).contains("adapter_model.safetensors"),
        "{}",
        error(&empty)
    );
    // A part that is replaced as a whole has no half.
    let half = Adapter {
        weight: 0.5,
        ..adapter("patterns")
    };
    let text = load(&base("patterns"), vec![half], Dtype::Auto)
        .err()
        .unwrap()
        .to_string();
    assert!(text.contains("modules_to_save") && text.contains("0.5"), "{text}");
    let twice = vec![adapter("patterns"), adapter("patterns")];
    let text = load(&base("patterns"), twice, Dtype::Auto)
        .err()
        .unwrap()
        .to_string();
    assert!(text.contains("give one of the two"), "{text}");
}

/// Loaders that get it wrong: an alpha that is not divided by the rank, or by its root; patterns that are not looked at.
#[test]
fn mistakes_of_loaders_would_be_seen() {
    let right = prefill(
        &load(&base("patterns"), vec![adapter("patterns")], Dtype::F32).unwrap(),
        "patterns",
    );
    let edits: [fn(&mut Value); 4] = [
        |c| c["use_rslora"] = json!(false),
        |c| c["alpha_pattern"] = json!({}),
        |c| c["alpha_pattern"] = json!({"v_proj": 7}),
        |c| c["lora_alpha"] = json!(9),
    ];
    for (i, edit) in edits.into_iter().enumerate() {
        let made = changed("patterns", edit, kept);
        let model = load(&base("patterns"), vec![Adapter::new(made.path())], Dtype::F32).unwrap();
        let wrong = prefill(&model, "patterns");
        let worst = wrong
            .iter()
            .zip(&right)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst > 10.0 * LOGITS, "mistake {i}: {worst}");
    }
}

/// Files with one byte changed, in the configuration or in the weights' header: an error or a model, no panic.
#[test]
fn changed_bytes_do_not_panic() {
    let from = adapters().join("patterns");
    let files = ["adapter_config.json", "adapter_model.safetensors"]
        .map(|name| (name, fs::read(from.join(name)).unwrap()));
    let made = tempfile::tempdir().unwrap();
    let mut draw = crate::dice(0x2545_F491_4F6C_DD1D);
    let mut refused = 0;
    for round in 0..200 {
        for (i, (name, bytes)) in files.iter().enumerate() {
            let mut bytes = bytes.clone();
            if round % 2 == i {
                let at = draw(bytes.len().min(3000));
                bytes[at] = draw(256) as u8;
            }
            fs::write(made.path().join(name), bytes).unwrap();
        }
        refused +=
            usize::from(load(&base("patterns"), vec![Adapter::new(made.path())], Dtype::Auto).is_err());
    }
    assert!(refused > 20, "{refused}");
}
