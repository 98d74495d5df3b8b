//! Models in two GGUF files, as llama.cpp's converter writes them (tools/make_mmproj_fixture.py): the golden values of the checkpoints
//! with the same numbers, prompts of their processors, and which file of towers is taken.

use std::fs;
use std::path::{Path, PathBuf};

use outro::chat::{Conversation, Part};
use outro::config::Config;
use outro::prepare::Preparer;
use outro::{Dtype, Model};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::families::{answer, cases, golden, hook, prompt};

/// Folders, language models, towers, and the checkpoints with the same numbers.
const PAIRS: [(&str, &str, &str, &str); 6] = [
    (
        "qwen2.5-omni",
        "Qwen2.5-Omni-tiny-F32-00001-of-00003.gguf",
        "mmproj-Qwen2.5-Omni-tiny-F32.gguf",
        "omni-tiny",
    ),
    (
        "qwen2-vl",
        "Qwen2-VL-tiny-BF16.gguf",
        "mmproj-Qwen2-VL-tiny-BF16.gguf",
        "qwen2-vl-tiny",
    ),
    (
        "qwen2.5-vl",
        "Qwen2.5-VL-tiny-BF16.gguf",
        "mmproj-Qwen2.5-VL-tiny-F32.gguf",
        "qwen2-5-vl-tiny",
    ),
    (
        "qwen3-vl",
        "Qwen3-VL-tiny-BF16.gguf",
        "mmproj-Qwen3-VL-tiny-BF16.gguf",
        "qwen3-vl-tiny",
    ),
    (
        "qwen3-vl-moe",
        "Qwen3-VL-MoE-tiny-BF16.gguf",
        "mmproj-Qwen3-VL-MoE-tiny-BF16.gguf",
        "qwen3-vl-moe-tiny",
    ),
    (
        "qwen3-omni",
        "Qwen3-Omni-tiny-BF16.gguf",
        "mmproj-Qwen3-Omni-tiny-BF16.gguf",
        "qwen3-omni-tiny",
    ),
];

fn dir(folder: &str) -> PathBuf {
    crate::fixtures().join("mmproj").join(folder)
}

fn pair(folder: &str) -> (PathBuf, PathBuf, PathBuf) {
    let (folder, text, towers, checkpoint) = PAIRS.into_iter().find(|p| p.0 == folder).unwrap();
    (
        dir(folder).join(text),
        dir(folder).join(towers),
        crate::fixtures().join(checkpoint),
    )
}

#[test]
fn golden_values() {
    let (text, _, checkpoint) = pair("qwen2.5-omni");
    let model = Model::load(&text, Dtype::F32).unwrap();
    let dirs = ["cases", "cases-no-sink", "cases-below-median-rule"];
    let count: usize = dirs
        .iter()
        .map(|d| crate::golden::cases(&model, &checkpoint.join(d)))
        .sum();
    assert_eq!(count, 26);
    for folder in ["qwen2-vl", "qwen3-vl"] {
        let name = PAIRS.into_iter().find(|p| p.0 == folder).unwrap().3;
        golden(name, &Model::load(&pair(folder).0, Dtype::Auto).unwrap());
    }
}

/// Any part opens the whole of a split file.
#[test]
fn parts_are_one_file() {
    let (first, ..) = pair("qwen2.5-omni");
    let whole = Model::load(&first, Dtype::Auto).unwrap();
    let last = dir("qwen2.5-omni").join("Qwen2.5-Omni-tiny-F32-00003-of-00003.gguf");
    let other = Model::load(&last, Dtype::Auto).unwrap();
    assert_eq!(whole.weight_bytes(), other.weight_bytes());

    let made = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| fs::copy(dir("qwen2.5-omni").join(from), made.path().join(to)).unwrap();
    copy(
        "Qwen2.5-Omni-tiny-F32-00001-of-00003.gguf",
        "a-00001-of-00003.gguf",
    );
    copy(
        "Qwen2.5-Omni-tiny-F32-00002-of-00003.gguf",
        "a-00002-of-00003.gguf",
    );
    let first = made.path().join("a-00001-of-00003.gguf");
    let error = |path: &Path| Config::load(path).unwrap_err().to_string();
    assert!(
        error(&first).contains("a-00003-of-00003.gguf"),
        "{}",
        error(&first)
    );
    assert!(error(&first).contains("missing; fetch it"), "{}", error(&first));
    copy(
        "Qwen2.5-Omni-tiny-F32-00002-of-00003.gguf",
        "a-00003-of-00003.gguf",
    );
    assert!(error(&first).contains("is not part 3 of 3"), "{}", error(&first));
    copy("Qwen2.5-Omni-tiny-F32-00001-of-00003.gguf", "renamed.gguf");
    let renamed = made.path().join("renamed.gguf");
    assert!(
        error(&renamed).contains("whose name must end in -00001-of-00003.gguf"),
        "{}",
        error(&renamed)
    );
}

/// Two fixtures say what has no place in a GGUF file, where the family's values hold: how many positions a second has; that some layers
/// have no experts, how many chunks of sound attention sees together. Both forms get those values here.
#[test]
fn others_equal_the_checkpoint_with_the_same_numbers() {
    for (folder, count) in [("qwen2.5-vl", 15), ("qwen3-vl-moe", 15), ("qwen3-omni", 25)] {
        let (text, _, from) = pair(folder);
        let made = tempfile::tempdir().unwrap();
        usual(&from, made.path());
        let (one, two) = (
            Model::load(&text, Dtype::Auto).unwrap(),
            Model::load(made.path(), Dtype::Auto).unwrap(),
        );
        assert_eq!(one.notes(), &[] as &[String]);
        let name = from.file_name().unwrap().to_str().unwrap();
        let mut seen = 0;
        for case in cases(name) {
            let [(_, a), (_, b)] = [&one, &two].map(|m| prompt(m, &case));
            assert_eq!(a.positions, b.positions, "{}", case.display());
            for on in [false, true] {
                let [a, b] = [(&one, &a), (&two, &b)].map(|(m, p)| answer(m, p, hook(on)));
                let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= 2e-5, "{}: {worst}", case.display());
            }
            seen += 1;
        }
        assert_eq!(seen, count);
    }
}

/// Copies a checkpoint.
fn files(from: &Path, to: &Path) {
    let all = fs::read_dir(from).unwrap().flatten();
    for entry in all.filter(|e| e.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A copy of a checkpoint with the family's values where a GGUF file can say no others, and with the experts of layer 0 in layers 1 and 4
/// where there are experts.
fn usual(from: &Path, to: &Path) {
    files(from, to);
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    let thinker = !config["thinker_config"].is_null();
    let experts = !config["text_config"]["num_local_experts"].is_null();
    if thinker {
        config["thinker_config"]["position_id_per_seconds"] = serde_json::json!(13);
        config["thinker_config"]["text_config"]["mlp_only_layers"] = serde_json::json!([]);
        config["thinker_config"]["audio_config"]["n_window_infer"] = serde_json::json!(800);
    } else if experts {
        config["text_config"]["mlp_only_layers"] = serde_json::json!([]);
    } else {
        config["vision_config"]["tokens_per_second"] = serde_json::json!(2);
        return fs::write(to.join("config.json"), config.to_string()).unwrap();
    }
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let top = if thinker {
        "thinker.model"
    } else {
        "model.language_model"
    };
    let mlp = |layer: usize| format!("{top}.layers.{layer}.mlp.");
    let mut tensors: Vec<(String, TensorView)> = Vec::new();
    for (name, view) in file.tensors() {
        let dense = [1, 4].iter().any(|l| name.starts_with(&mlp(*l)));
        if let Some(part) = name.strip_prefix(&mlp(0)) {
            tensors.extend([1, 4].map(|l| (mlp(l) + part, view.clone())));
        }
        if !dense {
            tensors.push((name, view));
        }
    }
    safetensors::serialize_to_file(tensors, None, &to.join("model.safetensors")).unwrap();
}

/// Text, picture, video with its sound: what the decoder takes is the same to the last position.
#[test]
fn prompts_equal_those_of_the_checkpoint() {
    let clip = crate::fixtures().join("clip.mp4");
    let picture = crate::fixtures().join("pictures/bits1.png");
    for (folder, _, _, name) in PAIRS {
        let (text, ..) = pair(folder);
        // What a GGUF file cannot say of videos is as the family has it.
        let made = tempfile::tempdir().unwrap();
        files(&crate::fixtures().join(name), made.path());
        let _ = fs::remove_file(made.path().join("video_preprocessor_config.json"));
        let two = [
            Preparer::open(&text).unwrap(),
            Preparer::open(made.path()).unwrap(),
        ];
        for part in [
            Part::Video(clip.clone().into()),
            Part::Image(picture.clone().into()),
        ] {
            let [a, b] = two.each_ref().map(|p| {
                let mut options = p.media_options();
                options.sampling.frames = Some(4);
                options.max_pixels = Some(64 * 64);
                let parts = std::slice::from_ref(&part);
                let media = p.load_media(parts, &options, &mut |_| {}).unwrap();
                let asked = Conversation::new(Some("Be brief.".into()), parts, "What is it?");
                p.assemble(media, &asked).unwrap().inputs
            });
            assert_eq!(a.input_ids, b.input_ids, "{folder} {part:?}");
            assert_eq!(a.second_per_grid, b.second_per_grid, "{folder}");
            assert_eq!(a.use_audio_in_video, b.use_audio_in_video, "{folder}");
            for (a, b) in [
                (&a.pixel_values, &b.pixel_values),
                (&a.pixel_values_videos, &b.pixel_values_videos),
            ] {
                assert_eq!(
                    a.as_ref().map(|p| (&p.grid_thw, &p.data)),
                    b.as_ref().map(|p| (&p.grid_thw, &p.data)),
                    "{folder}"
                );
            }
            assert_eq!(
                a.audio.as_ref().map(|a| &a.lengths),
                b.audio.as_ref().map(|a| &a.lengths),
                "{folder}"
            );
        }
    }
}

/// A folder with some of the files of Qwen2-VL, under names of choice.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    for (from, to) in files {
        fs::copy(crate::fixtures().join("mmproj").join(from), made.path().join(to)).unwrap();
    }
    made
}

const TEXT: &str = "qwen2-vl/Qwen2-VL-tiny-BF16.gguf";
const EXACT: &str = "qwen2-vl/mmproj-Qwen2-VL-tiny-BF16.gguf";
const SMALL: &str = "qwen2-vl/mmproj-Qwen2-VL-tiny-Q8_0.gguf";

#[test]
fn the_most_exact_towers_beside_the_model_are_taken_and_named() {
    let made = folder(&[
        (TEXT, "m.gguf"),
        (SMALL, "mmproj-a.gguf"),
        (EXACT, "mmproj-b.gguf"),
    ]);
    let model = made.path().join("m.gguf");
    let config = Config::load(&model).unwrap();
    assert_eq!(config.held.towers, Some(made.path().join("mmproj-b.gguf")));
    assert_eq!(config.held.notes.len(), 1);
    let note = &config.held.notes[0];
    assert!(
        note.contains("mmproj-b.gguf (BF16)") && note.contains("mmproj-a.gguf"),
        "{note}"
    );
    // The name of the model goes before exactness: a folder may hold several models.
    let made = folder(&[
        (TEXT, "Some-7B-Q4.gguf"),
        (SMALL, "mmproj-Some-7B.gguf"),
        (EXACT, "mmproj-Other-2B.gguf"),
    ]);
    let config = Config::load(&made.path().join("Some-7B-Q4.gguf")).unwrap();
    assert_eq!(config.held.towers, Some(made.path().join("mmproj-Some-7B.gguf")));
    // What is named is taken, wherever it is.
    let made = folder(&[(TEXT, "m.gguf"), (EXACT, "mmproj-b.gguf")]);
    let named = dir("qwen2-vl").join("mmproj-Qwen2-VL-tiny-Q8_0.gguf");
    let config = Config::load_held(&made.path().join("m.gguf"), Some(&named)).unwrap();
    assert_eq!(config.held.towers.as_deref(), Some(named.as_path()));
    Model::open(config, &made.path().join("m.gguf"), Dtype::Auto).unwrap();
}

/// Towers of 8 bits: close to the exact ones, and not the same.
#[test]
fn towers_of_8_bits() {
    let made = folder(&[(TEXT, "m.gguf"), (SMALL, "mmproj.gguf")]);
    let small = Model::load(&made.path().join("m.gguf"), Dtype::Auto).unwrap();
    let exact = Model::load(&pair("qwen2-vl").0, Dtype::Auto).unwrap();
    let case = cases("qwen2-vl-tiny")
        .find(|c| c.ends_with("video-0.safetensors"))
        .unwrap();
    let [a, b] = [&small, &exact].map(|m| prompt(m, &case).1.embeds.data().to_vec());
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let size = b.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    assert!(worst > 0.0 && worst < 0.05 * size, "{worst} of {size}");
}

#[test]
fn without_towers_it_answers_text() {
    let made = folder(&[(TEXT, "m.gguf")]);
    let path = made.path().join("m.gguf");
    let model = Model::load(&path, Dtype::Auto).unwrap();
    assert!(model.config().vision.is_none());
    assert!(
        model.notes()[0].contains("answers text alone"),
        "{:?}",
        model.notes()
    );
    let case = cases("qwen2-vl-tiny")
        .find(|c| c.ends_with("text-1.safetensors"))
        .unwrap();
    let whole = Model::load(&pair("qwen2-vl").0, Dtype::Auto).unwrap();
    let [a, b] = [&model, &whole].map(|m| answer(m, &prompt(m, &case).1, hook(true)));
    assert_eq!(a, b);
}

#[test]
fn what_does_not_belong_together_is_named() {
    let error =
        |made: &tempfile::TempDir, file: &str| Config::load(&made.path().join(file)).unwrap_err().to_string();
    let made = folder(&[
        (TEXT, "m.gguf"),
        ("qwen3-vl/mmproj-Qwen3-VL-tiny-BF16.gguf", "mmproj.gguf"),
    ]);
    let text = error(&made, "m.gguf");
    assert!(
        text.contains("qwen3vl_merger") && text.contains("clip.projector_type"),
        "{text}"
    );
    let text = error(&made, "mmproj.gguf");
    assert!(text.contains("the towers of a model (mmproj)"), "{text}");
    let made = folder(&[(TEXT, "m.gguf")]);
    let other = crate::gguf::path("qwen2-tiny");
    let text = Config::load_held(&made.path().join("m.gguf"), Some(&other))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("is `qwen2`; a file of towers (mmproj) says `clip`"),
        "{text}"
    );
    let text = Config::load_held(
        &other,
        Some(&dir("qwen2-vl").join("mmproj-Qwen2-VL-tiny-BF16.gguf")),
    );
    assert!(text.unwrap_err().to_string().contains("a text model"));
    let made = folder(&[
        ("qwen3-vl/Qwen3-VL-tiny-BF16.gguf", "m.gguf"),
        (EXACT, "mmproj.gguf"),
    ]);
    let text = error(&made, "m.gguf");
    assert!(text.contains("qwen2vl_merger"), "{text}");
}

/// Tensors that a model needs and those that are there, by headers alone.
#[test]
fn audits_are_clean() {
    for (folder, ..) in PAIRS {
        let audit = Model::audit(&pair(folder).0).unwrap();
        assert!(audit.loads(), "{folder}: {audit:?}");
        let left: Vec<_> = audit.unexpected.iter().map(|t| &t.name).collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}

/// Towers with one byte of their header changed: an error or a model, no panic.
#[test]
fn changed_bytes_do_not_panic() {
    let made = folder(&[(TEXT, "m.gguf")]);
    let towers = fs::read(crate::fixtures().join("mmproj").join(EXACT)).unwrap();
    let mut draw = crate::dice(0x9E37_79B9_7F4A_7C15);
    let mut refused = 0;
    for _ in 0..300 {
        let mut bytes = towers.clone();
        bytes[draw(4200)] = draw(256) as u8;
        fs::write(made.path().join("mmproj.gguf"), bytes).unwrap();
        let path = made.path().join("m.gguf");
        refused += usize::from(Model::load(&path, Dtype::Auto).is_err());
    }
    assert!(refused > 30, "{refused}");
}
