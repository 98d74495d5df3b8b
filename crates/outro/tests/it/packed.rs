//! Checkpoints that quantisers packed (fixtures/packed): values of transformers on the same numbers in f32, the mistakes that
//! loaders make, refusals.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use outro::checkpoint::Audit;
use outro::config::Config;
use outro::hook::Hook;
use outro::inputs::Inputs;
use outro::{Dtype, Model, OutRo, OutRoConfig, Session};
use safetensors::tensor::TensorView;
use safetensors::{Dtype as Stored, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::golden::{Golden, LOGITS};

fn all() -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(crate::fixtures().join("packed"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    all.sort();
    assert!(all.len() >= 21, "{all:?}");
    all
}

fn dir(name: &str) -> PathBuf {
    crate::fixtures().join("packed").join(name)
}

/// Logits of the prompt's last rows and of steps that feed the golden tokens, and the sinks.
fn run(model: &Model, case: &Path, mode: &str) -> (Vec<f32>, BTreeMap<usize, Vec<usize>>) {
    let golden = Golden::open(case.into());
    let tokens = golden.get(&format!("{mode}.tokens")).unwrap();
    let rows =
        golden.get(&format!("{mode}.logits")).unwrap().len() / model.config().text.vocab - tokens.len();
    let inputs = Inputs::load(case).unwrap().fitted(model.config()).unwrap();
    let prompt = model
        .prompt(&inputs, &model.encode(&inputs, &mut |_| {}).unwrap())
        .unwrap();
    let hook = (mode == "outro").then(|| Box::new(OutRo::new(OutRoConfig::default())) as Box<dyn Hook>);
    let mut session = Session::new(model, hook);
    let mut all = session
        .prefill(&prompt, rows, &mut |_| {})
        .unwrap()
        .data()
        .to_vec();
    for token in tokens {
        all.extend(session.decode(token as u32).unwrap());
    }
    let sinks = session
        .hook::<OutRo>()
        .map(|o| o.sinks().clone())
        .unwrap_or_default();
    (
        all,
        sinks.into_iter().filter(|(_, rows)| !rows.is_empty()).collect(),
    )
}

#[test]
fn every_layout_gives_the_values_of_its_numbers_in_f32() {
    for from in all() {
        let (name, case) = (from.display(), from.join("case.safetensors"));
        let golden = Golden::open(case.clone());
        for dtype in [Dtype::Auto, Dtype::F32] {
            let model = Model::load(&from, dtype).unwrap_or_else(|e| panic!("{name}: {e}"));
            for mode in ["baseline", "outro"] {
                let (got, sinks) = run(&model, &case, mode);
                golden.check(&format!("{mode}.logits"), &got, LOGITS);
                if mode == "outro" {
                    let want: BTreeMap<usize, Vec<usize>> =
                        serde_json::from_str(&golden.meta()["sinks"]).unwrap();
                    assert_eq!(sinks, want, "{name}");
                }
            }
        }
        assert_eq!(Model::audit(&from).unwrap(), Audit::default(), "{name}");
    }
}

/// Tensors of a file, to be changed: type, shape and bytes by name.
type File = BTreeMap<String, (Stored, Vec<usize>, Vec<u8>)>;

fn file(from: &Path) -> File {
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
        .collect()
}

/// The checkpoint with other tensors and another config.json.
fn changed(name: &str, tensors: impl Fn(&mut File), config: impl Fn(&mut Value)) -> TempDir {
    let (from, to) = (dir(name), tempfile::tempdir().unwrap());
    let mut all = file(&from);
    tensors(&mut all);
    let views = all
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &to.path().join("model.safetensors")).unwrap();
    let mut json: Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    config(&mut json);
    fs::write(to.path().join("config.json"), json.to_string()).unwrap();
    to
}

/// Every tensor whose name ends so, as words of 32 bits.
fn words(all: &mut File, end: &str, change: impl Fn(u32) -> u32) {
    let mut seen = 0;
    for (_, (.., bytes)) in all.iter_mut().filter(|(name, _)| name.ends_with(end)) {
        for word in bytes.as_chunks_mut::<4>().0 {
            *word = change(u32::from_le_bytes(*word)).to_le_bytes();
        }
        seen += 1;
    }
    assert!(seen > 0, "{end}");
}

/// As [`words`], of brain floats.
fn brains(all: &mut File, end: &str, change: impl Fn(f32) -> f32) {
    for (_, (dtype, _, bytes)) in all.iter_mut().filter(|(name, _)| name.ends_with(end)) {
        assert_eq!(*dtype, Stored::BF16, "{end}");
        for half in bytes.as_chunks_mut::<2>().0 {
            let wide = f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16);
            let narrow = (change(wide).to_bits() >> 16) as u16;
            *half = narrow.to_le_bytes();
        }
    }
}

/// Nibbles of a word in another order: nibble `i` of the result is nibble `order[i]`.
fn shuffled(word: u32, order: [u32; 8]) -> u32 {
    order
        .iter()
        .enumerate()
        .fold(0, |w, (i, from)| w | (word >> (4 * from) & 15) << (4 * i))
}

/// A file in which the right loader finds what a wrong one finds in the fixture: the fixture tells them apart.
#[test]
fn typical_mistakes_change_the_logits() {
    let same = |_: &mut Value| {};
    let none = |_: &mut File| {};
    let in_order = |all: &mut File, end: &str, group: usize| {
        for (_, (.., bytes)) in all.iter_mut().filter(|(name, _)| name.ends_with(end)) {
            for (i, word) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *word = (i as u32 / group as u32).to_le_bytes();
            }
        }
    };
    let state = |all: &mut File, change: &dyn Fn(&mut Value)| {
        for (_, (_, shape, bytes)) in all.iter_mut().filter(|(name, _)| name.contains("quant_state")) {
            let mut json: Value = serde_json::from_slice(bytes).unwrap();
            change(&mut json);
            *bytes = json.to_string().into_bytes();
            *shape = vec![bytes.len()];
        }
    };
    let cases: Vec<(&str, &str, TempDir)> = vec![
        (
            "zero points without + 1",
            "gptq-order",
            changed("gptq-order", none, |c| {
                c["quantization_config"]["checkpoint_format"] = json!("gptq_v2");
            }),
        ),
        (
            "+ 1 where format 2 has none",
            "gptq-v2-vision",
            changed("gptq-v2-vision", none, |c| {
                c["quantization_config"]["checkpoint_format"] = json!("gptq");
            }),
        ),
        (
            "g_idx ignored",
            "gptq-order",
            changed("gptq-order", |all| in_order(all, ".g_idx", 128), same),
        ),
        (
            "weight_g_idx ignored",
            "ct-w4-order",
            changed("ct-w4-order", |all| in_order(all, ".weight_g_idx", 32), same),
        ),
        (
            "AWQ's nibbles in plain order",
            "awq-text",
            changed(
                "awq-text",
                |all| words(all, ".qweight", |w| shuffled(w, [0, 2, 4, 6, 1, 3, 5, 7])),
                same,
            ),
        ),
        (
            "AWQ's zero points in plain order",
            "awq-vision",
            changed(
                "awq-vision",
                |all| words(all, ".qzeros", |w| shuffled(w, [0, 2, 4, 6, 1, 3, 5, 7])),
                same,
            ),
        ),
        (
            "codes of compressed-tensors as two's complement",
            "ct-w4-channel",
            changed(
                "ct-w4-channel",
                |all| words(all, ".weight_packed", |w| w ^ 0x8888_8888),
                same,
            ),
        ),
        (
            "zero points ignored",
            "ct-w4-zeros",
            changed(
                "ct-w4-zeros",
                |all| words(all, ".weight_zero_point", |_| 0x8888_8888),
                same,
            ),
        ),
        (
            "weight_scale_inv divided by",
            "fp8-block",
            changed(
                "fp8-block",
                |all| brains(all, ".weight_scale_inv", |s| 1.0 / s),
                same,
            ),
        ),
        (
            "absmax without its offset",
            "bnb-nf4",
            changed(
                "bnb-nf4",
                |all| state(all, &|s| s["nested_offset"] = json!(0.0)),
                same,
            ),
        ),
        (
            "the low half first",
            "bnb-fp4",
            changed(
                "bnb-fp4",
                |all| {
                    words(all, "_proj.weight", |w| {
                        (w & 0x0F0F_0F0F) << 4 | (w >> 4 & 0x0F0F_0F0F)
                    });
                },
                same,
            ),
        ),
        (
            "SCB not divided by 127",
            "bnb-int8",
            changed(
                "bnb-int8",
                |all| words(all, ".SCB", |s| (f32::from_bits(s) * 127.0).to_bits()),
                same,
            ),
        ),
        (
            "biases left out",
            "mlx-8",
            changed("mlx-8", |all| brains(all, ".biases", |_| 0.0), same),
        ),
        (
            "MLX's nibbles from the highest",
            "mlx-4",
            changed(
                "mlx-4",
                |all| {
                    words(all, "self_attn.q_proj.weight", |w| {
                        shuffled(w, [7, 6, 5, 4, 3, 2, 1, 0])
                    });
                },
                same,
            ),
        ),
        (
            "an untransposed patch embedding",
            "mlx-4",
            changed(
                "mlx-4",
                |all| {
                    let (_, shape, bytes) = all.get_mut("vision_tower.patch_embed.proj.weight").unwrap();
                    let (channels, places) = (shape[4], shape[1] * shape[2] * shape[3]);
                    let flat = bytes.clone();
                    for (i, two) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        let (kernel, at) = (i / (channels * places), i % (channels * places));
                        let (place, channel) = (at / channels, at % channels);
                        let from = 2 * (kernel * channels * places + channel * places + place);
                        two.copy_from_slice(&flat[from..from + 2]);
                    }
                },
                same,
            ),
        ),
    ];
    for (mistake, name, to) in &cases {
        let case = dir(name).join("case.safetensors");
        let model = Model::load(to.path(), Dtype::Auto).unwrap_or_else(|e| panic!("{mistake}: {e}"));
        let want = Golden::open(case.clone()).get("baseline.logits").unwrap();
        let (got, _) = run(&model, &case, "baseline");
        let worst = got
            .iter()
            .zip(&want)
            .map(|(a, b)| (a - b).abs())
            .fold(0f32, f32::max);
        assert!(worst > 10.0 * LOGITS, "{mistake}: {worst}");
    }
}

type Change<'a> = &'a dyn Fn(&mut Value);

/// By the file and the field, with what is read.
#[test]
fn forms_that_are_not_read_are_refused_by_name() {
    let q = "quantization_config";
    let weights = |c: &mut Value, key: &str, value: Value| {
        c[q]["config_groups"]["group_0"]["weights"][key] = value;
    };
    let cases: [(&str, Change, &[&str]); 17] = [
        (
            "awq-text",
            &|c| c[q]["version"] = json!("gemv"),
            &["version", "gemv"],
        ),
        ("awq-text", &|c| c[q]["bits"] = json!(3), &["bits", "is 3"]),
        ("gptq-8", &|c| c[q]["bits"] = json!(3), &["bits", "is 3"]),
        (
            "gptq-8",
            &|c| c[q]["checkpoint_format"] = json!("marlin"),
            &["checkpoint_format", "marlin"],
        ),
        (
            "gptq-8",
            &|c| c[q]["dynamic"] = json!({"+:.*": {"bits": 4}}),
            &["dynamic", "one form"],
        ),
        (
            "gptq-8",
            &|c| c[q]["pack_dtype"] = json!("int16"),
            &["pack_dtype", "int16"],
        ),
        (
            "ct-w8",
            &|c| c[q]["format"] = json!("nvfp4-pack-quantized"),
            &["format", "nvfp4"],
        ),
        (
            "ct-w8",
            &|c| c[q]["format"] = json!("marlin-24"),
            &["format", "marlin-24"],
        ),
        (
            "ct-w8",
            &|c| c[q]["config_groups"]["group_0"]["format"] = json!("mxfp4-pack-quantized"),
            &["group_0.format", "mxfp4"],
        ),
        (
            "ct-w8",
            &|c| weights(c, "num_bits", json!(6)),
            &["num_bits", "is 6"],
        ),
        (
            "ct-w8",
            &|c| weights(c, "strategy", json!("tensor_group")),
            &["strategy", "tensor_group"],
        ),
        (
            "ct-w8",
            &|c| c[q]["sparsity_config"] = json!({"format": "sparse-24-bitmask"}),
            &["sparsity_config.format", "sparse-24"],
        ),
        ("fp8-block", &|c| c[q]["fmt"] = json!("e5m2"), &["fmt", "e5m2"]),
        (
            "bnb-nf4",
            &|c| c[q]["bnb_4bit_quant_type"] = json!("af4"),
            &["bnb_4bit_quant_type", "af4"],
        ),
        (
            "mlx-8",
            &|c| {
                c[q]["mode"] = json!("mxfp4");
                c["quantization"] = json!({});
            },
            &["mode", "mxfp4"],
        ),
        (
            "mlx-8",
            &|c| {
                c[q]["bits"] = json!(6);
                c["quantization"] = json!({});
            },
            &["bits", "is 6"],
        ),
        (
            "mlx-8",
            &|c| c["quantization"]["bits"] = json!(4),
            &["quantization_config", "otherwise"],
        ),
    ];
    for (name, change, parts) in cases {
        let to = changed(name, |_| {}, change);
        let error = Config::load(to.path()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("config.json: field") && parts.iter().all(|p| message.contains(p)),
            "{name}: {message}"
        );
    }
}

/// Tensors that are missing, of another shape or type, or hold what cannot be: each by its name in the file.
#[test]
fn damaged_tensors_are_named() {
    let load = |name: &str, change: &dyn Fn(&mut File)| {
        let to = changed(name, change, |_| {});
        let audit = Model::audit(to.path()).unwrap();
        (
            Model::load(to.path(), Dtype::Auto).err().unwrap().to_string(),
            audit,
        )
    };
    let q = "model.layers.0.self_attn.q_proj";
    for (name, part) in [
        ("awq-text", "scales"),
        ("awq-text", "qzeros"),
        ("gptq-order", "scales"),
        ("ct-w8", "weight_scale"),
        ("ct-w4-zeros", "weight_zero_point"),
        ("bnb-nf4", "weight.quant_map"),
        ("bnb-nf4", "weight.nested_quant_map"),
        ("bnb-nf4", "weight.quant_state.bitsandbytes__nf4"),
        ("mlx-8", "biases"),
    ] {
        let key = format!("{q}.{part}");
        let (message, audit) = load(name, &|all| drop(all.remove(&key).unwrap()));
        assert!(
            message.contains(&format!("{q}.{part}")) && message.contains("missing"),
            "{name}: {message}"
        );
        assert!(
            !audit.loads() && audit.missing[0].name.ends_with(part),
            "{audit:?}"
        );
        // Of another type.
        let (message, audit) = load(name, &|all| {
            let tensor = all.get_mut(&key).unwrap();
            let bytes: usize = tensor.2.len();
            (tensor.0, tensor.1) = (Stored::BOOL, vec![bytes]);
        });
        assert!(
            message.contains(&key) && message.contains("BOOL"),
            "{name}: {message}"
        );
        assert_eq!(audit.unreadable[0].name, key);
    }
    // One row less.
    for (name, part) in [
        ("awq-text", "qweight"),
        ("gptq-8", "qzeros"),
        ("ct-w4-order", "weight_packed"),
        ("ct-fp8", "weight_scale"),
        ("bnb-nf4", "weight"),
        ("mlx-8", "scales"),
    ] {
        let key = format!("{q}.{part}");
        let (message, audit) = load(name, &|all| {
            let (_, shape, bytes) = all.get_mut(&key).unwrap();
            let row = bytes.len() / shape[0];
            bytes.truncate(bytes.len() - row);
            shape[0] -= 1;
        });
        assert!(
            message.contains(&key) && message.contains("shape"),
            "{name}: {message}"
        );
        assert_eq!(audit.misshaped[0].name, key, "{name}");
    }
    let set = |name: &str, part: &str, bytes: &dyn Fn(&mut Vec<u8>)| {
        let key = format!("{q}.{part}");
        load(name, &|all| {
            let tensor = all.get_mut(&key).unwrap();
            bytes(&mut tensor.2);
            if tensor.0 == Stored::U8 {
                tensor.1 = vec![tensor.2.len()];
            }
        })
        .0
    };
    let state = "weight.quant_state.bitsandbytes__nf4";
    let said = |text: &'static str| move |b: &mut Vec<u8>| *b = text.as_bytes().to_vec();
    for (message, parts) in [
        (
            set("gptq-order", "g_idx", &|b| {
                b[4..8].copy_from_slice(&9i32.to_le_bytes());
            }),
            ["g_idx", "group 9"],
        ),
        (
            set("ct-w8", "weight_shape", &|b| b[0] += 1),
            ["weight_shape", "config.json asks for"],
        ),
        (
            set("ct-fp8", "weight", &|b| b[5] = 0x7F),
            ["weight", "not a finite"],
        ),
        (set("bnb-nf4", state, &said("{")), [state, "JSON"]),
        (
            set("bnb-nf4", state, &said(r#"{"shape":[64,64]}"#)),
            [state, "blocksize"],
        ),
        (
            set("bnb-nf4", state, &said(r#"{"shape":[64,65],"blocksize":64}"#)),
            [state, "shape"],
        ),
        (
            set(
                "bnb-nf4",
                state,
                &said(r#"{"shape":[64,64],"blocksize":32,"nested_blocksize":256,"nested_offset":0}"#),
            ),
            ["weight.absmax", "blocks"],
        ),
        (
            set(
                "bnb-nf4",
                state,
                &said(r#"{"shape":[64,64],"blocksize":64,"nested_blocksize":1,"nested_offset":0}"#),
            ),
            ["nested_absmax", "blocks"],
        ),
    ] {
        assert!(parts.iter().all(|p| message.contains(p)), "{parts:?}: {message}");
    }
    // Packed tensors of which config.json says nothing.
    for name in ["awq-text", "ct-w8", "mlx-8"] {
        let to = changed(
            name,
            |_| {},
            |c| {
                c["quantization_config"] = json!(null);
                c["quantization"] = json!(null);
            },
        );
        let message = Model::load(to.path(), Dtype::Auto).err().unwrap().to_string();
        assert!(
            message.contains(q) && message.contains("config.json says otherwise"),
            "{message}"
        );
        assert!(!Model::audit(to.path()).unwrap().loads());
    }
}

/// Single bytes of headers, settings and small tensors changed at random: an error, or a model, and never a panic.
#[test]
fn changed_bytes_are_no_panic() {
    let mut draw = crate::dice(7);
    let to = tempfile::tempdir().unwrap();
    let mut loaded = 0;
    for from in all() {
        let weights = fs::read(from.join("model.safetensors")).unwrap();
        let config = fs::read(from.join("config.json")).unwrap();
        let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        for _ in 0..24 {
            let (mut weights, mut config) = (weights.clone(), config.clone());
            for _ in 0..=draw(3) {
                let digit = b"0123456789-\"[]{},:abefnIU"[draw(25)];
                match draw(4) {
                    0 => weights[8 + draw(header - 8)] = digit,
                    1 => {
                        let at = draw(config.len());
                        config[at] = digit;
                    }
                    2 => {
                        let at = config.len() - 1 - draw(700.min(config.len()));
                        config[at] = digit;
                    }
                    _ => {
                        let at = header + draw(weights.len() - header);
                        weights[at] = draw(256) as u8;
                    }
                }
            }
            fs::write(to.path().join("model.safetensors"), weights).unwrap();
            fs::write(to.path().join("config.json"), config).unwrap();
            let _ = Model::audit(to.path());
            loaded += usize::from(Model::load(to.path(), Dtype::Auto).is_ok());
        }
    }
    assert!(loaded > 20, "{loaded}");
}
