//! `outro inspect DIR`: tokenizer, template, and what is wrong with tensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::Value;

use crate::support::{Raw, args, outro, shared, tiny, weights, write_weights};

/// The tiny checkpoint with other tensors.
fn with(change: impl FnOnce(&mut BTreeMap<String, Raw>)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
    ] {
        fs::copy(tiny().join(file), dir.path().join(file)).unwrap();
    }
    let mut tensors = weights(&tiny().join("model.safetensors"));
    change(&mut tensors);
    write_weights(&dir.path().join("model.safetensors"), &tensors);
    dir
}

/// The report on stdout of a checkpoint that would not run, why on stderr.
#[track_caller]
fn refused(dir: &Path, parts: &[&str]) -> String {
    let ran = outro(args!["inspect", dir]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for part in parts {
        assert!(ran.stderr.contains(part), "{part} is not in\n{}", ran.stderr);
    }
    ran.stdout
}

fn report(dir: &Path) -> Value {
    serde_json::from_str(&outro(args!["inspect", dir, "--json"]).stdout).unwrap()
}

#[test]
fn tokenizer_and_template_are_named() {
    let whole = report(&tiny());
    assert_eq!(whole["tokenizer"], "tokenizer.json", "{whole}");
    assert_eq!(whole["template"], "tokenizer_config.json", "{whole}");
    assert_eq!((&whole["loads"], &whole["problem"]), (&true.into(), &Value::Null));
    let text = outro(args!["inspect", tiny()]).ok().stdout;
    assert!(text.contains("tokenizer    tokenizer.json\n"), "{text}");
    assert!(text.contains("template     tokenizer_config.json\n"), "{text}");

    let dir = with(|_| {});
    fs::write(dir.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    assert_eq!(report(dir.path())["template"], "chat_template.jinja");
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let text = outro(args!["inspect", dir.path()]).ok().stdout;
    assert!(text.contains("tokenizer    none: prepared inputs only"), "{text}");
    let broken = dir.path().join("tokenizer.json");
    fs::write(&broken, "{").unwrap();
    let text = refused(dir.path(), &["would not run", "tokenizer.json"]);
    assert!(
        text.contains("problem      ") && text.contains("decoder      15 layers"),
        "{text}"
    );

    let gguf = tiny().with_file_name("gguf").join("qwen2-tiny.gguf");
    let file = report(&gguf);
    assert!(
        file["tokenizer"]
            .as_str()
            .unwrap()
            .starts_with("tokenizer.ggml.pre = "),
        "{file}"
    );
    if let Some(slow) = shared("cases/ckpt/k07_slow_added_file") {
        let text = outro(args!["inspect", slow]).ok().stdout;
        assert!(
            text.contains("tokenizer    vocab.json and merges.txt\n"),
            "{text}"
        );
    }
}

#[test]
fn tensors_are_held_against_what_the_model_needs() {
    let norm = "thinker.model.norm.weight";
    let dir = with(|t| {
        let mut other = t.remove(norm).unwrap();
        t.insert("thinker.model.norm2.weight".into(), other.clone());
        let name = "thinker.model.layers.0.input_layernorm.weight";
        other.1 = vec![1];
        other.2.truncate(4);
        t.insert(name.into(), other);
        let first = t
            .get_mut("thinker.model.layers.1.input_layernorm.weight")
            .unwrap();
        (first.0, first.2) = (Dtype::I32, first.2.clone());
    });
    let json = report(dir.path());
    let names = |kind: &str| -> Vec<String> {
        let list = json["tensors"][kind].as_array().unwrap();
        list.iter()
            .map(|t| t["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(json["loads"], false, "{json}");
    assert_eq!(names("missing"), [norm]);
    assert_eq!(names("unexpected"), ["thinker.model.norm2.weight"]);
    assert_eq!(
        names("misshaped"),
        ["thinker.model.layers.0.input_layernorm.weight"]
    );
    assert_eq!(
        names("unreadable"),
        ["thinker.model.layers.1.input_layernorm.weight"]
    );
    let counts = ["1 missing", "1 of another shape", "1 of a type that is not read"];
    let text = refused(dir.path(), &counts);
    for part in [
        "missing      thinker.model.norm.weight [",
        "unexpected   thinker.model.norm2.weight [",
        "shapes       thinker.model.layers.0.input_layernorm.weight [1], needed [",
        "unreadable   thinker.model.layers.1.input_layernorm.weight I32",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // What is not needed does no harm.
    let extra = with(|t| {
        t.insert("left.over".into(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    let text = outro(args!["inspect", extra.path()]).ok().stdout;
    assert!(text.contains("unexpected   left.over [1]"), "{text}");
}
