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
fn quantised_layouts_are_refused_by_name() {
    let Some(root) = shared("published") else { return };
    for (name, what) in [
        ("q-omni-awq", "awq"),
        ("q-omni-gptq", "gptq"),
        ("q-qwen3vl4b-fp8", "fp8"),
        ("q-vl3b-bnb4", "bitsandbytes"),
        ("q-vl3b-mlx4", "quantization"),
    ] {
        let dir = checkpoint(&root.join(name), &tensors(&root.join(name)));
        outro(args!["inspect", dir.path()]).fails(1, &["config.json", what, "unquantised"]);
    }
}
