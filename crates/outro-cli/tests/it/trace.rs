//! `outro trace` against every public golden case.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{File, args, close, outro, shared};

/// Tolerance of logits and of everything before them: fixtures/README.md.
const LOGITS: f32 = 2e-4;
const ACTIVATIONS: f32 = 1e-4;

/// A JSON value as `--set` takes it.
fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn trace(model: &Path, inputs: &Path, strategy: &str, settings: &[(String, String)], last: usize) -> File {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("trace.safetensors");
    let last = last.to_string();
    let mut line = args![
        "trace",
        "--model",
        model,
        "--inputs",
        inputs,
        "--out",
        &out,
        "--strategy",
        strategy,
        "--steps",
        "8",
        "--last",
        &last,
        "--capture",
        "head_outputs,vbar,hidden,embeds",
    ]
    .to_vec();
    for (key, value) in settings {
        line.extend(args!["--set", format!("{key}={value}")]);
    }
    let ran = outro(line).ok();
    assert_eq!(ran.stdout, "");
    File::read(&out)
}

fn files(dir: &Path, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| {
            p.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.starts_with(prefix) && n.ends_with(suffix))
        })
        .collect();
    list.sort();
    list
}

/// Every mode of every prompt of the first oracle's tiny model.
fn check_first_oracle(cases: &str) {
    let Some(model) = shared("fixtures/omni-tiny") else {
        return;
    };
    let mut checked = 0;
    for path in files(&model.join(cases), "", ".safetensors") {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (kind, mode) = name
            .strip_suffix(".safetensors")
            .unwrap()
            .split_once('.')
            .unwrap();
        if mode == "inputs" {
            continue;
        }
        let want = File::read(&path);
        let settings = match want.json("settings") {
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), text(v))).collect(),
            _ => Vec::new(),
        };
        let strategy = if mode == "baseline" { "baseline" } else { "outro" };
        let inputs = path.with_file_name(format!("{kind}.inputs.safetensors"));
        // All rows, so that the first ones can be compared as well.
        let got = trace(&model, &inputs, strategy, &settings, usize::MAX >> 1);
        let at = |what: &str| format!("{cases}/{name}: {what}");

        close(
            &at("position_ids"),
            got.get("position_ids"),
            want.get("position_ids"),
            0.0,
        );
        assert_eq!(got.get("tokens"), want.get("tokens"), "{}", at("tokens"));
        close(
            &at("decode_logits"),
            got.get("decode_logits"),
            want.get("decode_logits"),
            LOGITS,
        );
        let prefill = got.get("prefill_logits");
        close(
            &at("prefill_logits, last"),
            &prefill.last(8),
            want.get("prefill_logits_last8"),
            LOGITS,
        );
        close(
            &at("prefill_logits, first"),
            &prefill.rows(0, 4),
            want.get("prefill_logits_first4"),
            LOGITS,
        );
        for (key, tensor) in &want.tensors {
            if key.ends_with("_embeds") || key.starts_with("vbar.") {
                close(&at(key), got.get(key), tensor, ACTIVATIONS);
            } else if let Some(layer) = key
                .strip_suffix(".first4")
                .filter(|k| k.starts_with("head_outputs"))
            {
                close(&at(key), &got.get(layer).rows(0, 4), tensor, ACTIVATIONS);
            } else if let Some(layer) = key
                .strip_suffix(".last8")
                .filter(|k| k.starts_with("head_outputs"))
            {
                close(&at(key), &got.get(layer).last(8), tensor, ACTIVATIONS);
            }
        }
        let count = |f: &File| f.tensors.keys().filter(|k| k.starts_with("vbar.")).count();
        assert_eq!(count(&got), count(&want), "{}", at("layers with a vbar"));
        if strategy == "outro" {
            for key in ["sinks", "relaxed_at"] {
                assert_eq!(got.json(key), want.json(key), "{}", at(key));
            }
        }
        checked += 1;
    }
    assert!(checked >= 2, "{cases}: only {checked} cases");
}

#[test]
fn every_mode_of_the_first_oracle() {
    check_first_oracle("cases");
}

#[test]
fn no_sink_anywhere() {
    check_first_oracle("cases-no-sink");
}

#[test]
fn below_the_median_rule() {
    check_first_oracle("cases-below-median-rule");
}

/// Every case of the second oracle: other shapes, shards, Qwen2.5-VL, prefixed input names.
fn check_second_oracle(model: &str) {
    let Some(dir) = shared(&format!("fixtures/more/{model}")) else {
        return;
    };
    let cases = files(&dir, "case_", ".json");
    assert!(cases.len() >= 2, "{model}: only {} cases", cases.len());
    for json in cases {
        let about: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
        let inputs = json.with_extension("safetensors");
        let want = File::read(&inputs);
        let name = format!("{model}/{}", json.file_stem().unwrap().display());
        let config: Vec<(String, String)> = about["outro_config"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| {
                let key = match key.as_str() {
                    "median_multiplier" => "median_multiple",
                    "apply_once" => "once",
                    other => other,
                };
                (key.to_owned(), text(value))
            })
            .collect();
        let with =
            |key: &str, value: &str| [config.clone(), vec![(key.to_owned(), value.to_owned())]].concat();
        let same = about["absolute_equals_official"].as_bool() == Some(true);
        for (mode, strategy, settings) in [
            ("baseline", "baseline", Vec::new()),
            ("outro", "outro", with("decode", "release")),
            ("outro_absolute", "outro", with("decode", "paper")),
            ("rotation_only", "outro", with("relax", "false")),
            ("relaxation_only", "outro", with("rotate", "false")),
        ] {
            let at = |what: &str| format!("{name}, {mode}: {what}");
            let got = trace(&dir, &inputs, strategy, &settings, 1);
            let seq = want.get("input.input_ids").shape[1];
            close(
                &at("position_ids"),
                got.get("position_ids"),
                &want.get("expect.position_ids").clone().reshape(&[3, seq]),
                0.0,
            );
            let prefill = got.get("prefill_logits");
            let vocab = prefill.shape[1];
            if mode.ends_with("_only") {
                let wanted = want
                    .get(&format!("{mode}.prefill_logits"))
                    .clone()
                    .reshape(&[1, vocab]);
                close(&at("prefill_logits"), prefill, &wanted, LOGITS);
                continue;
            }
            let ids = &want.get(&format!("{mode}.ids")).data;
            // 9 ids: the prefill's choice and 8 decoded; our tokens are the 8 that were fed.
            assert_eq!(got.get("tokens").data, ids[..8], "{}", at("tokens"));
            let source =
                if mode == "outro_absolute" && same && !want.tensors.contains_key("outro_absolute.logits") {
                    "outro"
                } else {
                    mode
                };
            let logits = want.get(&format!("{source}.logits"));
            close(&at("prefill_logits"), prefill, &logits.rows(0, 1), LOGITS);
            close(
                &at("decode_logits"),
                got.get("decode_logits"),
                &logits.rows(1, 9),
                LOGITS,
            );
            if mode == "baseline" {
                check_embeds(&got, &want, &at);
            }
            if mode == "outro" {
                check_method(&got, &want, &about, &at);
            }
        }
    }
}

/// The oracle lists what each call of an encoder gave: images first where a prompt has both.
fn check_embeds(got: &File, want: &File, at: &dyn Fn(&str) -> String) {
    let visual: Vec<&String> = ["image_embeds", "video_embeds"]
        .iter()
        .filter_map(|k| got.tensors.get_key_value(*k).map(|(k, _)| k))
        .collect();
    for (i, key) in visual.iter().enumerate() {
        close(
            &at(key),
            got.get(key),
            want.get(&format!("expect.visual_embeds.{i}")),
            ACTIVATIONS,
        );
    }
    assert!(
        !want
            .tensors
            .contains_key(&format!("expect.visual_embeds.{}", visual.len())),
        "{}",
        at("embeds")
    );
    if let Some(audio) = want.tensors.get("expect.audio_embeds.0") {
        close(&at("audio_embeds"), got.get("audio_embeds"), audio, ACTIVATIONS);
    }
}

fn check_method(got: &File, want: &File, about: &Value, at: &dyn Fn(&str) -> String) {
    // Layers that were looked at have a list of sinks, maybe empty; relaxed rows are listed where there are some.
    let per_layer = |key: &str| -> serde_json::Map<String, Value> {
        about["layers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|l| l[key].as_array().is_some_and(|a| key == "sinks" || !a.is_empty()))
            .map(|l| (l["layer"].to_string(), l[key].clone()))
            .collect()
    };
    assert_eq!(
        got.json("sinks"),
        Value::Object(per_layer("sinks")),
        "{}",
        at("sinks")
    );
    assert_eq!(
        got.json("relaxed_at"),
        Value::Object(per_layer("relaxed")),
        "{}",
        at("relaxed_at")
    );
    for (key, tensor) in &want.tensors {
        if let Some(layer) = key.strip_prefix("outro.v_sink.") {
            close(&at(key), got.get(&format!("vbar.{layer}")), tensor, ACTIVATIONS);
        } else if let Some(layer) = key.strip_prefix("outro.pre_o.") {
            let ours = got.get(&format!("head_outputs.{layer}")).clone();
            close(&at(key), &ours.reshape(&tensor.shape), tensor, ACTIVATIONS);
        }
    }
}

#[test]
fn second_oracle_omni_a() {
    check_second_oracle("omni_a");
}

#[test]
fn second_oracle_omni_b() {
    check_second_oracle("omni_b");
}

#[test]
fn second_oracle_vl_a() {
    check_second_oracle("vl_a");
}

#[test]
fn second_oracle_vl_b() {
    check_second_oracle("vl_b");
}
