//! Published checkpoints by their metadata: configurations as they are on the hub and as releases of transformers save them
//! again, and tensors' names, types and shapes. Weights are holes in sparse files.

use std::fs;
use std::path::{Path, PathBuf};

use outro::checkpoint::{Audit, Checkpoint, Reading};
use outro::config::Config;
use outro::family::FAMILIES;
use outro::inputs::Inputs;
use outro::{Dtype, Model, Session};
use serde_json::json;

use crate::sparse::{Tensors, checkpoint, layouts, read, tensors};

fn published() -> Option<PathBuf> {
    Some(crate::shared()?.join("published")).filter(|p| p.is_dir())
}

#[track_caller]
fn clean(name: &Path, audit: &Audit) {
    assert_eq!(*audit, Audit::default(), "{}", name.display());
}

#[test]
fn every_tiny_checkpoint_passes_the_audit() {
    let mut seen = 0;
    for dir in fs::read_dir(crate::fixtures())
        .unwrap()
        .flatten()
        .map(|e| e.path())
    {
        if dir.join("config.json").is_file() {
            clean(&dir, &Model::audit(&dir).unwrap());
            seen += 1;
        }
    }
    for file in fs::read_dir(crate::fixtures().join("gguf"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
    {
        if file.extension().is_some_and(|e| e == "gguf") {
            clean(&file, &Model::audit(&file).unwrap());
            seen += 1;
        }
    }
    assert!(seen >= 14, "{seen}");
}

/// What is missing, unexpected, of another shape or type, by headers alone.
#[test]
fn the_audit_lists_what_is_wrong() {
    let from = crate::fixtures().join("qwen2-5-vl-tiny");
    let good = Checkpoint::open(&from, Reading::default()).unwrap();
    let mut tensors: Tensors = good
        .tensors()
        .iter()
        .map(|(k, t)| (k.clone(), (t.dtype.clone(), t.shape.clone())))
        .collect();
    let taken = |tensors: &mut Tensors, end: &str| {
        let name = tensors.keys().find(|k| k.ends_with(end)).unwrap().clone();
        (name.clone(), tensors.remove(&name).unwrap())
    };
    let (missing, (_, shape)) = taken(&mut tensors, "layers.3.mlp.up_proj.weight");
    let (bent, (dtype, mut other)) = taken(&mut tensors, "norm.weight");
    other[0] += 1;
    tensors.insert(bent.clone(), (dtype, other.clone()));
    let (odd, (_, same)) = taken(&mut tensors, "layers.0.self_attn.q_proj.weight");
    tensors.insert(odd.clone(), ("I8".into(), same));
    tensors.insert(
        "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
        ("F32".into(), vec![8]),
    );
    tensors.insert("score.weight".into(), ("BF16".into(), vec![2, 64]));
    let dir = checkpoint(&from, &tensors);
    let audit = Model::audit(dir.path()).unwrap();
    assert!(!audit.loads());
    let names = |a: &[outro::checkpoint::Tensor]| {
        a.iter()
            .map(|t| (t.name.clone(), t.shape.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&audit.missing), [(missing, shape)]);
    assert_eq!(
        names(&audit.unexpected),
        [("score.weight".to_owned(), vec![2, 64])]
    );
    let [m] = audit.misshaped.as_slice() else {
        panic!("{audit:?}")
    };
    assert_eq!((&m.name, &m.shape, m.wanted[0]), (&bent, &other, other[0] - 1));
    let [u] = audit.unreadable.as_slice() else {
        panic!("{audit:?}")
    };
    assert_eq!((&u.name, u.dtype.as_str()), (&odd, "I8"));
}

#[test]
fn published_layouts_pass_the_audit() {
    let Some(root) = published() else { return };
    let layouts = layouts(&root);
    assert!(layouts.len() >= 15, "{layouts:?}");
    for from in layouts {
        let dir = checkpoint(&from, &tensors(&from));
        clean(&from, &Model::audit(dir.path()).unwrap());
    }
}

/// The thinker of an Omni model alone, without its prefix: the same model.
#[test]
fn thinkers_alone_load() {
    let Some(root) = published() else { return };
    for (whole, model_type) in [
        ("qwen2.5-omni-3b", "qwen2_5_omni_thinker"),
        ("qwen3-omni-30b", "qwen3_omni_moe_thinker"),
    ] {
        let from = root.join(whole);
        let all = tensors(&from).into_iter();
        let inner = all.filter_map(|(name, t)| Some((name.strip_prefix("thinker.")?.to_owned(), t)));
        let alone = tempfile::tempdir().unwrap();
        let mut config = read(&from.join("config.json"))["thinker_config"].clone();
        assert_eq!(config["model_type"], model_type);
        // What a full dump of a configuration class has, whatever the model.
        config["tie_word_embeddings"] = json!(true);
        fs::write(alone.path().join("config.json"), config.to_string()).unwrap();
        let dir = checkpoint(alone.path(), &inner.collect());
        clean(&from, &Model::audit(dir.path()).unwrap());
        let (a, b) = (Config::load(dir.path()).unwrap(), Config::load(&from).unwrap());
        assert_eq!(a.model_type, model_type);
        let renamed = Config {
            model_type: b.model_type.clone(),
            names: b.names,
            ..a
        };
        assert_eq!(renamed, b);
    }
    let saved = root.join("qwen2.5-omni-3b-thinker-only");
    let (saved, whole) = (
        Config::load(&saved).unwrap(),
        Config::load(&root.join("qwen2.5-omni-3b")).unwrap(),
    );
    assert_eq!(
        (saved.text, saved.vision, saved.audio),
        (whole.text, whole.vision, whole.audio)
    );
}

/// Every release of transformers writes the same model.
#[test]
fn configurations_saved_again_are_the_same() {
    let Some(root) = published() else { return };
    let mut seen = 0;
    for release in fs::read_dir(root.join("resaved")).unwrap().flatten() {
        for saved in fs::read_dir(release.path()).unwrap().flatten().map(|e| e.path()) {
            if !saved.join("config.json").is_file() {
                continue;
            }
            let name = saved.file_name().unwrap().to_string_lossy().into_owned();
            let original = match root.join(&name).join("config.json") {
                there if there.is_file() => there,
                _ => root.join("hub/qwen3/_sources/Qwen__Qwen3-4B.config.json"),
            };
            assert_eq!(
                Config::load(&saved).unwrap(),
                load(&original).unwrap(),
                "{}",
                saved.display()
            );
            seen += 1;
        }
    }
    assert!(seen >= 31, "{seen}");
}

/// A configuration file of any name.
fn load(file: &Path) -> outro::Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(file, dir.path().join("config.json")).unwrap();
    Config::load(dir.path())
}

/// Models saved by each release, with heads left out where they are tied.
#[test]
fn checkpoints_saved_by_every_release_load() {
    let Some(root) = published() else { return };
    let mut seen = 0;
    for release in fs::read_dir(root.join("savetiny")).unwrap().flatten() {
        for saved in fs::read_dir(release.path()).unwrap().flatten().map(|e| e.path()) {
            let dir = checkpoint(&saved, &tensors(&saved));
            clean(&saved, &Model::audit(dir.path()).unwrap());
            assert!(Config::load(dir.path()).unwrap().text.tied, "{}", saved.display());
            Model::load(dir.path(), Dtype::Auto).unwrap();
            seen += 1;
        }
    }
    assert!(seen >= 11, "{seen}");
}

/// Every configuration that was found is read, or refused by name before a weight is looked for.
#[test]
fn configurations_on_the_hub_are_read_or_refused_by_name() {
    let Some(root) = published() else { return };
    let mut stack = vec![root.join("hub")];
    let (mut read_ones, mut refused) = (0, 0);
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(fs::read_dir(path).unwrap().flatten().map(|e| e.path()));
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let others = ["generation_", "tokenizer_", "processor_"];
        if !name.ends_with("config.json") || others.iter().any(|o| name.contains(o)) {
            continue;
        }
        let json = read(&path);
        let known = FAMILIES.iter().any(|f| json["model_type"] == f.model_type);
        match load(&path) {
            Ok(config) => {
                assert!(
                    known
                        && json.get("quantization_config").is_some() == config.held.scheme.is_some()
                        && config.text.layers > 0,
                    "{name}"
                );
                read_ones += 1;
            }
            Err(e) => {
                let (e, field) = (
                    e.to_string(),
                    if known {
                        "quantization_config"
                    } else {
                        "model_type"
                    },
                );
                assert!(e.contains(&format!("config.json: field `{field}")), "{name}: {e}");
                assert!(!known || json.get("quantization_config").is_some(), "{name}: {e}");
                refused += 1;
            }
        }
    }
    assert!(read_ones >= 38 && refused >= 8, "{read_ones}, {refused}");
}

/// Headers of packed matrices are what their layouts ask for.
#[test]
fn quantised_layouts_pass_the_audit() {
    let Some(root) = published() else { return };
    for (name, scheme) in [
        ("q-omni-awq", "AWQ"),
        ("q-omni-gptq", "GPTQ"),
        ("q-qwen3vl4b-fp8", "FP8"),
        ("q-vl3b-bnb4", "bitsandbytes"),
        ("q-vl3b-mlx4", "MLX"),
    ] {
        let from = root.join(name);
        let all = tensors(&from);
        let dir = checkpoint(&from, &all);
        assert_eq!(
            Config::load(dir.path()).unwrap().held.scheme.unwrap().name(),
            scheme
        );
        clean(&from, &Model::audit(dir.path()).unwrap());
        // A matrix without its scales is named by them.
        let scales = ["scales", "weight_scale_inv", "weight.absmax"];
        let (lost, _) = all
            .iter()
            .rev()
            .find(|(k, _)| scales.iter().any(|s| k.ends_with(s)) && !k.contains("talker"))
            .unwrap();
        let fewer: Tensors = all
            .iter()
            .filter(|(k, _)| *k != lost)
            .map(|(k, t)| (k.clone(), t.clone()))
            .collect();
        if from.join("model.safetensors.index.json.gz").is_file() {
            continue;
        }
        let dir = checkpoint(&from, &fewer);
        assert!(
            !Model::audit(dir.path()).unwrap().loads(),
            "{name} without {lost}"
        );
    }
}

/// An embedding model has no head: its embedding serves as one, and a note says what that is worth.
#[test]
fn a_checkpoint_without_a_head_is_tied_with_a_note() {
    let from = crate::fixtures().join("qwen3-tiny");
    let good = Checkpoint::open(&from, Reading::default()).unwrap();
    let all = good
        .tensors()
        .iter()
        .map(|(k, t)| (k.clone(), (t.dtype.clone(), t.shape.clone())));
    let tensors: Tensors = all.filter(|(k, _)| k != "lm_head.weight").collect();
    let dir = checkpoint(&from, &tensors);
    let mut config = read(&from.join("config.json"));
    config["tie_word_embeddings"] = json!(false);
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let model = Model::load(dir.path(), Dtype::Auto).unwrap();
    assert!(model.config().text.tied);
    let audit = Model::audit(dir.path()).unwrap();
    assert!(audit.loads() && audit.unexpected.is_empty());
    assert_eq!(audit.notes, model.notes());
    assert!(audit.notes[0].contains("lm_head.weight"), "{:?}", audit.notes);
}

/// The first logits of a prompt of words.
fn logits(dir: &Path) -> outro::Result<Vec<f32>> {
    let model = Model::load(dir, Dtype::F32)?;
    let inputs = Inputs {
        input_ids: (0..30).map(|i| 20 + 7 * i % 200).collect(),
        ..Inputs::default()
    };
    let prompt = model.prompt(&inputs, &model.encode(&inputs, &mut |_| {})?)?;
    Ok(Session::new(&model, None)
        .prefill(&prompt, 1, &mut |_| {})?
        .into_data())
}

/// Small checkpoints after public reports of bugs.
#[test]
fn reported_checkpoints_behave() {
    let Some(shared) = crate::shared() else { return };
    let case = |name: &str| shared.join("cases/ckpt").join(name);
    assert!(Config::load(&case("k03_tie_inner")).unwrap().text.tied);
    for loads in ["k03_tie_inner", "k12_thinker_only", "k13_bom", "k04_yarn"] {
        logits(&case(loads)).unwrap();
        clean(&case(loads), &Model::audit(&case(loads)).unwrap());
    }
    let plain = tempfile::tempdir().unwrap();
    let mut config = read(&case("k04_yarn").join("config.json"));
    config["rope_scaling"]["type"] = json!("mrope");
    config["rope_scaling"]["rope_type"] = json!("default");
    fs::write(plain.path().join("config.json"), config.to_string()).unwrap();
    let weights = "model.safetensors";
    fs::copy(case("k04_yarn").join(weights), plain.path().join(weights)).unwrap();
    assert_ne!(logits(plain.path()).unwrap(), logits(&case("k04_yarn")).unwrap());
    for (name, parts) in [
        ("k10_awq", ["q_proj.qzeros", "missing"]),
        (
            "k11_adapter",
            ["base_model_name_or_path", "Qwen/Qwen2.5-VL-3B-Instruct"],
        ),
    ] {
        let message = logits(&case(name)).unwrap_err().to_string();
        assert!(parts.iter().all(|p| message.contains(p)), "{message}");
    }
}
