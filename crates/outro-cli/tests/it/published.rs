//! `outro inspect` on every published layout, and an answer of one.

use serde_json::Value;

use crate::support::{args, outro, shared};
#[path = "../../../outro/tests/it/sparse.rs"]
mod sparse;

use sparse::{checkpoint, layouts, settings, tensors};

#[test]
fn published_layouts_are_what_they_are() {
    let Some(root) = shared("published") else { return };
    let layouts = layouts(&root);
    assert!(layouts.len() >= 15, "{layouts:?}");
    for from in layouts {
        let name = from.file_name().unwrap().to_string_lossy().into_owned();
        let config: Value =
            serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        let dir = checkpoint(&from, &tensors(&from));
        settings(&from, dir.path());
        let text = outro(args!["inspect", dir.path()]).ok().stdout;
        let model = config["model_type"].as_str().unwrap();
        for part in [model, "decoder", "tower", "tokenizer.json"] {
            assert!(text.contains(part), "{name}: {part} is not in\n{text}");
        }
        for bad in ["missing ", "unexpected ", "shapes ", "unreadable ", "problem "] {
            assert!(!text.lines().any(|l| l.starts_with(bad)), "{name}: {text}");
        }
    }
}

#[test]
fn quantised_layouts_are_inspected() {
    let Some(root) = shared("published") else { return };
    for (name, scheme, bits) in [
        ("q-omni-awq", "AWQ", "4.2 bits"),
        ("q-omni-gptq", "GPTQ", "4.2 bits"),
        ("q-qwen3vl4b-fp8", "FP8", "8.0 bits"),
        ("q-vl3b-bnb4", "bitsandbytes", "4.1 bits"),
        ("q-vl3b-mlx4", "MLX", "4.5 bits"),
    ] {
        let dir = checkpoint(&root.join(name), &tensors(&root.join(name)));
        let text = outro(args!["inspect", dir.path()]).ok().stdout;
        let line = text.lines().find(|l| l.starts_with("packed ")).unwrap();
        assert!(line.contains(scheme) && line.contains(bits), "{name}: {line}");
    }
}
