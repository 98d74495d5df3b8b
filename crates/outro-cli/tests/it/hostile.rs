//! Bad input: a clear error, the right exit code, and never a panic (the runner of `support` checks that).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::tensor::Dtype;
use tempfile::TempDir;

use crate::support::{Ran, Raw, args, command, finish, outro, tiny, weights, write_weights};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/data")
        .join(name)
}

fn clip() -> PathBuf {
    tiny().with_file_name("clip.mp4")
}

/// No ffmpeg in reach: an empty PATH and a variable that points nowhere.
fn without_ffmpeg(dir: &Path) -> Command {
    let mut c = command();
    c.env("PATH", dir).env("OUTRO_FFMPEG", dir.join("no-ffmpeg"));
    c
}

fn ask(media: &[OsString]) -> Ran {
    outro(
        [
            &args!["ask", "--model", tiny(), "--max-new-tokens", "1"][..],
            media,
            &args!["what?"],
        ]
        .concat(),
    )
}

/// The tiny checkpoint in a place where it can be damaged.
struct Copy {
    dir: TempDir,
    weights: BTreeMap<String, Raw>,
}

impl Copy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(tiny().join("config.json"), dir.path().join("config.json")).unwrap();
        Self {
            dir,
            weights: weights(&tiny().join("model.safetensors")),
        }
    }

    fn write(&self) -> &Path {
        write_weights(&self.dir.path().join("model.safetensors"), &self.weights);
        self.dir.path()
    }

    /// Two shards with an index.
    fn shards(&self) -> (PathBuf, PathBuf) {
        let names = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        let mut map = serde_json::Map::new();
        let mut parts = [BTreeMap::new(), BTreeMap::new()];
        for (i, (name, raw)) in self.weights.iter().enumerate() {
            let part = usize::from(i * 2 >= self.weights.len());
            parts[part].insert(name.clone(), raw.clone());
            map.insert(name.clone(), names[part].into());
        }
        let paths = names.map(|n| self.dir.path().join(n));
        for (path, part) in paths.iter().zip(&parts) {
            write_weights(path, part);
        }
        self.index(&map);
        paths.into()
    }

    fn index(&self, map: &serde_json::Map<String, serde_json::Value>) {
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        std::fs::write(
            self.dir.path().join("model.safetensors.index.json"),
            index.to_string(),
        )
        .unwrap();
    }

    fn trace(&self) -> Ran {
        let inputs = tiny().join("cases/text.inputs.safetensors");
        let out = self.dir.path().join("out.safetensors");
        let _ = std::fs::remove_file(&out);
        let ran = outro(args![
            "trace",
            "--model",
            self.dir.path(),
            "--inputs",
            inputs,
            "--out",
            &out
        ]);
        assert_eq!(
            out.exists(),
            ran.code == Some(0),
            "a file appears only where the run succeeds"
        );
        ran
    }
}

#[test]
fn whole_shards_work_and_damaged_ones_are_named() {
    let copy = Copy::new();
    let (first, second) = copy.shards();
    copy.trace().ok();

    let bytes = std::fs::read(&second).unwrap();
    std::fs::write(&second, &bytes[..bytes.len() - 1000]).unwrap();
    copy.trace().fails(1, &["model-00002", "truncated"]);
    std::fs::write(&second, &bytes[..5]).unwrap();
    copy.trace().fails(1, &["model-00002"]);
    // A header that promises more than any file holds.
    std::fs::write(&second, [&u64::MAX.to_le_bytes()[..], &bytes[8..]].concat()).unwrap();
    copy.trace().fails(1, &["model-00002"]);
    std::fs::remove_file(&second).unwrap();
    copy.trace().fails(1, &["model-00002", "missing"]);
    outro(args!["inspect", copy.dir.path()]).fails(1, &["model-00002", "missing"]);
    std::fs::write(&second, &bytes).unwrap();
    std::fs::write(&first, b"").unwrap();
    copy.trace().fails(1, &["model-00001"]);
}

#[test]
fn an_index_that_names_an_absent_tensor() {
    let copy = Copy::new();
    copy.shards();
    let path = copy.dir.path().join("model.safetensors.index.json");
    let index: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut map = index["weight_map"].as_object().unwrap().clone();
    map.insert(
        "thinker.model.layers.99.mlp.up_proj.weight".into(),
        "model-00001-of-00002.safetensors".into(),
    );
    copy.index(&map);
    copy.trace()
        .fails(1, &["thinker.model.layers.99.mlp.up_proj.weight", "absent"]);
    map.insert(
        "thinker.model.layers.99.mlp.up_proj.weight".into(),
        "../../etc/passwd".into(),
    );
    copy.index(&map);
    copy.trace()
        .fails(1, &["thinker.model.layers.99.mlp.up_proj.weight"]);
    std::fs::write(&path, "{ not json").unwrap();
    copy.trace().fails(1, &["index.json", "JSON"]);
}

#[test]
fn weights_that_do_not_fit_the_config() {
    let mut copy = Copy::new();
    let name = "thinker.model.layers.3.mlp.up_proj.weight";
    let whole = copy.weights.get(name).unwrap().clone();
    let (dtype, shape, bytes) = &whole;
    copy.weights
        .insert(name.into(), (*dtype, vec![shape[1], shape[0]], bytes.clone()));
    copy.write();
    copy.trace().fails(1, &[name, "shape"]);
    copy.weights
        .insert(name.into(), (Dtype::I32, shape.clone(), bytes.clone()));
    copy.write();
    copy.trace().fails(1, &[name, "I32"]);
    copy.weights.remove(name);
    copy.write();
    copy.trace().fails(1, &[name, "missing"]);
}

#[test]
fn weights_that_are_not_numbers() {
    for (name, value) in [
        ("thinker.model.layers.2.mlp.down_proj.weight", f32::NAN),
        ("thinker.model.layers.2.input_layernorm.weight", f32::NAN),
        ("thinker.lm_head.weight", f32::NAN),
        ("thinker.model.layers.4.self_attn.q_proj.weight", f32::INFINITY),
    ] {
        let mut copy = Copy::new();
        let raw = copy.weights.get_mut(name).unwrap();
        raw.2[40..44].copy_from_slice(&value.to_le_bytes());
        copy.write();
        copy.trace().fails(1, &["not a finite number"]);
    }
}

#[test]
fn configs_that_cannot_be_meant() {
    let copy = Copy::new();
    copy.write();
    let path = copy.dir.path().join("config.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&good).unwrap();
    config["model_type"] = "llama9".into();
    std::fs::write(&path, config.to_string()).unwrap();
    copy.trace()
        .fails(1, &["unknown architecture", "llama9", "qwen2_5_omni"]);
    outro(args!["inspect", copy.dir.path()]).fails(1, &["llama9"]);
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    copy.trace().fails(1, &["config.json", "JSON"]);
    let broken = good.replace("\"num_hidden_layers\"", "\"num_hidden_layerz\"");
    std::fs::write(&path, broken).unwrap();
    // An absent field has its class's default, which the weights do not have.
    copy.trace()
        .fails(1, &["layers.15.", "is missing", "outro inspect"]);
    std::fs::remove_file(&path).unwrap();
    copy.trace().fails(1, &["config.json"]);
}

#[test]
fn videos_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.mp4");
    std::fs::write(&empty, b"").unwrap();
    let noise = dir.path().join("noise.mp4");
    std::fs::write(
        &noise,
        (0..50_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect::<Vec<u8>>(),
    )
    .unwrap();
    let cut = dir.path().join("cut.mp4");
    let bytes = std::fs::read(clip()).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 3]).unwrap();
    for (path, name) in [(&empty, "empty.mp4"), (&noise, "noise.mp4")] {
        ask(&args!["--video", path]).fails(1, &[name]);
        finish(without_ffmpeg(dir.path()).args(args!["ask", "--model", tiny(), "--video", path, "what?"]))
            .fails(1, &[name]);
        ask(&args!["--image", path]).fails(1, &[name]);
        ask(&args!["--audio", path]).fails(1, &[name]);
        outro(args!["inspect", path]).fails(1, &[name]);
    }
    for decoder in ["builtin", "auto"] {
        let ran = ask(&args!["--video", &cut, "--decoder", decoder]).ok();
        assert!(
            ran.stderr.contains("cut.mp4") && ran.stderr.contains("note: "),
            "{}",
            ran.stderr
        );
    }
    ask(&args!["--video", data("sound_only.mp4")]).fails(1, &["sound_only.mp4", "holds no"]);
    finish(without_ffmpeg(dir.path()).args(args![
        "ask",
        "--model",
        tiny(),
        "--video",
        data("sound_only.mp4"),
        "what?"
    ]))
    .fails(1, &["sound_only.mp4", "holds no"]);
    outro(args!["inspect", data("one_frame.mp4")]).fails(1, &["one_frame.mp4", "frame"]);
    ask(&args!["--video", data("one_frame.mp4")]).fails(1, &["one_frame.mp4", "frame"]);
    ask(&args!["--video", dir.path()]).fails(1, &["directory"]);
    ask(&args!["--video", dir.path().join("none.mp4")]).fails(1, &["none.mp4"]);
}

#[test]
fn a_video_over_the_token_budget_is_refused_with_numbers_and_a_flag() {
    // 32 x 40 frames would be some 83,000 tokens.
    let media: Vec<OsString> = (0..32).flat_map(|_| args!["--video", clip()]).collect();
    let ran = ask(&[&media[..], &args!["--frames", "40"]].concat()).fails(1, &["tokens", "--"]);
    assert!(ran.stderr.chars().any(|c| c.is_ascii_digit()), "{}", ran.stderr);
}

#[test]
fn a_wav_whose_header_lies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lie.wav");
    let wav = |data_size: u32, channels: u16, rate: u32| {
        let mut b = Vec::new();
        b.extend(b"RIFF");
        b.extend(data_size.saturating_add(36).to_le_bytes());
        b.extend(b"WAVEfmt ");
        b.extend(16_u32.to_le_bytes());
        b.extend(1_u16.to_le_bytes());
        b.extend(channels.to_le_bytes());
        b.extend(rate.to_le_bytes());
        b.extend(
            rate.wrapping_mul(u32::from(channels))
                .wrapping_mul(2)
                .to_le_bytes(),
        );
        b.extend(channels.wrapping_mul(2).to_le_bytes());
        b.extend(16_u16.to_le_bytes());
        b.extend(b"data");
        b.extend(data_size.to_le_bytes());
        b.extend([0; 64]);
        b
    };
    for (size, channels, rate) in [
        (u32::MAX, 1, 16_000),
        (1 << 30, 2, 44_100),
        (64, 0, 16_000),
        (64, 1, 0),
        (64, u16::MAX, u32::MAX),
        (0, 1, 16_000),
    ] {
        std::fs::write(&path, wav(size, channels, rate)).unwrap();
        for c in [&mut command(), &mut without_ffmpeg(dir.path())] {
            let ran = finish(c.args(args![
                "ask",
                "--model",
                tiny(),
                "--max-new-tokens",
                "1",
                "--audio",
                &path,
                "what?"
            ]));
            // What is there may be used; what is not there may not be invented.
            assert!(
                matches!(ran.code, Some(0 | 1)),
                "{size} {channels} {rate}: {}",
                ran.stderr
            );
            if ran.code == Some(1) {
                assert!(
                    ran.stderr.contains("lie.wav") || ran.stderr.contains("tokens"),
                    "{}",
                    ran.stderr
                );
            }
        }
    }
}

#[test]
fn missing_ffmpeg_is_named_where_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let run = |line: &[OsString]| {
        finish(
            without_ffmpeg(dir.path())
                .args(args!["ask", "--model", tiny(), "--max-new-tokens", "1"])
                .args(line)
                .arg("what?"),
        )
    };
    run(&args!["--video", data("vp9.webm")]).fails(1, &["vp9.webm", "ffmpeg"]);
    run(&args!["--video", clip(), "--decoder", "ffmpeg"]).fails(1, &["ffmpeg"]);
    // The common case needs nothing.
    run(&args!["--video", clip()]).ok();
}

#[test]
fn outputs_that_cannot_be_written_are_refused_first() {
    let dir = tempfile::tempdir().unwrap();
    // A directory that is not there would be made, but a file is in its place.
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("file"), "x").unwrap();
    let out = other.path().join("file/dir/out.safetensors");
    // The model does not exist either: the output is checked before anything is opened.
    outro(args![
        "trace",
        "--model",
        dir.path(),
        "--inputs",
        "none",
        "--out",
        &out
    ])
    .fails(1, &["--out", "out.safetensors"]);
    outro(args!["prepare", "--model", dir.path(), "--out", &out, "what?"])
        .fails(1, &["--out", "out.safetensors"]);
    outro(args!["prepare", "--model", tiny(), "--out", dir.path(), "what?"])
        .fails(1, &["--out", "directory"]);

    let kept = dir.path().join("kept");
    std::fs::write(&kept, "precious").unwrap();
    outro(args![
        "prepare",
        "--model",
        tiny(),
        "--video",
        data("one_frame.mp4"),
        "--out",
        &kept,
        "what?"
    ])
    .fails(1, &["one_frame"]);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "precious");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no temporary file stays"
    );
}

#[test]
fn command_lines_that_cannot_be_meant() {
    let model = tiny();
    let base = args!["ask", "--model", &model];
    for (line, parts) in [
        (
            args!["--strategy", "nothing", "q"].to_vec(),
            &["--strategy", "nothing"][..],
        ),
        (args!["--decoder", "magic", "q"].to_vec(), &["--decoder", "magic"]),
        (args!["--dtype", "int3", "q"].to_vec(), &["--dtype", "int3"]),
        (args!["--set", "gama=1", "q"].to_vec(), &["gama"]),
        (args!["--set", "gamma=wide", "q"].to_vec(), &["gamma", "wide"]),
        (args!["--gamma", "nan", "q"].to_vec(), &["gamma"]),
        (args!["--decode", "both", "q"].to_vec(), &["decode", "both"]),
        (args![""].to_vec(), &["question is empty"]),
        (args!["--fps", "0", "q"].to_vec(), &["--fps"]),
        (args!["--nonsense", "q"].to_vec(), &["--nonsense"]),
        (args![].to_vec(), &["QUESTION"]),
    ] {
        outro([&base[..], &line].concat()).fails(2, parts);
    }
    let inputs = model.join("cases/text.inputs.safetensors");
    outro(args![
        "trace", "--model", &model, "--inputs", &inputs, "--out", "o", "--set", "nope=1"
    ])
    .fails(2, &["nope", "gamma"]);
    outro(args!["ask", "--model", "no/such/directory/at/all", "q"]).fails(2, &["no/such/directory/at/all"]);
}

#[test]
fn inputs_that_do_not_fit_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let run = |inputs: &Path| {
        outro(args![
            "trace",
            "--model",
            tiny(),
            "--inputs",
            inputs,
            "--out",
            &out
        ])
    };
    run(&dir.path().join("none.safetensors")).fails(1, &["none.safetensors"]);
    let bad = dir.path().join("bad.safetensors");
    std::fs::write(&bad, b"not tensors").unwrap();
    run(&bad).fails(1, &["bad.safetensors"]);

    let good = weights(&tiny().join("cases/image.inputs.safetensors"));
    let change = |key: &str, raw: Option<Raw>| {
        let mut tensors = good.clone();
        match raw {
            Some(raw) => tensors.insert(key.into(), raw),
            None => tensors.remove(key),
        };
        write_weights(&bad, &tensors);
        run(&bad)
    };
    let i64s = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    change("input_ids", None).fails(1, &["input_ids"]);
    change("image_grid_thw", None).fails(1, &["image_grid_thw"]);
    change("pixel_values", None).fails(1, &["pixel_values"]);
    change(
        "image_grid_thw",
        Some((Dtype::I64, vec![1, 3], i64s(&[1, 8, 14]))),
    )
    .fails(1, &["image"]);
    change(
        "image_grid_thw",
        Some((Dtype::I64, vec![1, 3], i64s(&[i64::MAX, 8, 12]))),
    )
    .fails(1, &["image_grid_thw"]);
    change(
        "image_grid_thw",
        Some((Dtype::I64, vec![1, 3], i64s(&[-1, 8, 12]))),
    )
    .fails(1, &["image_grid_thw"]);
    change(
        "image_grid_thw",
        Some((Dtype::I64, vec![1, 3], i64s(&[1, 7, 12]))),
    )
    .fails(1, &["image"]);
    change("input_ids", Some((Dtype::I64, vec![1, 2], i64s(&[1, 100_000])))).fails(1, &["input_ids"]);
    change("input_ids", Some((Dtype::I64, vec![1, 0], Vec::new()))).fails(1, &["input_ids"]);
    change("attention_mask", Some((Dtype::I64, vec![1, 3], i64s(&[1, 1, 0])))).fails(1, &["attention_mask"]);
}
