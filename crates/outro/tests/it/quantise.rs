//! Weights made smaller at loading, and their cache.

use std::fs;
use std::path::Path;

use outro::inputs::Inputs;
use outro::{Activations, Dtype, LoadOptions, MediaEmbeds, Model, Quantize, Session};

use crate::gguf::logits;

const IDS: [u32; 12] = [1, 40, 5, 60, 61, 62, 63, 100, 101, 17, 22, 9];

fn load(dir: &Path, quantize: Option<Quantize>, cache: Option<&Path>) -> Model {
    let options = LoadOptions {
        quantize,
        cache: cache.map(Into::into),
        ..LoadOptions::default()
    };
    Model::load(dir, options).unwrap()
}

fn tiny() -> std::path::PathBuf {
    crate::fixtures().join("omni-tiny")
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn logits_stay_close_and_weights_shrink() {
    let plain = load(&tiny(), None, None);
    let want = logits(&plain, &IDS);
    let smaller = load(&tiny(), Some(Quantize::Q8_0), None);
    assert!(cosine(&want, &logits(&smaller, &IDS)) > 0.999);
    assert!(smaller.weight_bytes() < plain.weight_bytes());
    assert!(smaller.notes().is_empty(), "{:?}", smaller.notes());
    // Rows of 32 or 64 cannot be blocks of 256; the model says so.
    let q4 = load(&tiny(), Some(Quantize::Q4K), None);
    assert!(q4.notes()[0].contains("multiples of 256"), "{:?}", q4.notes());
    assert!(cosine(&want, &logits(&q4, &IDS)) > 0.999);
}

#[test]
fn a_cache_changes_nothing_but_time() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("deep/er");
    let want = logits(&load(&tiny(), Some(Quantize::Q8_0), None), &IDS);
    let made = load(&tiny(), Some(Quantize::Q8_0), Some(&cache));
    assert!(
        made.notes()[0].contains("kept for the next time"),
        "{:?}",
        made.notes()
    );
    assert_eq!(logits(&made, &IDS), want);
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).collect();
    let [file] = files.as_slice() else {
        panic!("{files:?}");
    };
    let again = load(&tiny(), Some(Quantize::Q8_0), Some(&cache));
    assert!(again.notes().is_empty(), "{:?}", again.notes());
    assert_eq!(logits(&again, &IDS), want);
    drop((made, again));

    // Damage of any kind is noticed, said and repaired.
    let good = fs::read(file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        bytes
    };
    for bad in [
        Vec::new(),
        good[..good.len() / 2].to_vec(),
        good[..good.len() - 1].to_vec(),
        flipped(good.len() - 3),
        flipped(good.len() / 2),
        flipped(20),
        b"nonsense".to_vec(),
    ] {
        fs::write(file, &bad).unwrap();
        let repaired = load(&tiny(), Some(Quantize::Q8_0), Some(&cache));
        assert!(
            repaired.notes()[0].contains("made anew"),
            "{:?}",
            repaired.notes()
        );
        assert_eq!(logits(&repaired, &IDS), want);
        assert_eq!(fs::read(file).unwrap(), good);
    }
}

#[test]
fn another_checkpoint_or_type_has_another_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, copy) = (dir.path().join("cache"), dir.path().join("model"));
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny().join(name), copy.join(name)).unwrap();
    }
    let count = || fs::read_dir(&cache).map_or(0, Iterator::count);
    load(&tiny(), Some(Quantize::Q8_0), Some(&cache));
    load(&copy, Some(Quantize::Q8_0), Some(&cache));
    assert_eq!(count(), 2);
    load(&copy, Some(Quantize::Q6K), Some(&cache));
    assert_eq!(count(), 3);
    let file = fs::File::options()
        .append(true)
        .open(copy.join("model.safetensors"))
        .unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    load(&copy, Some(Quantize::Q8_0), Some(&cache));
    assert_eq!(count(), 4);
}

#[test]
fn a_cache_that_cannot_be_written_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let model = load(&tiny(), Some(Quantize::Q8_0), Some(&file.join("below")));
    assert!(model.notes()[0].contains("not kept"), "{:?}", model.notes());
    assert_eq!(
        logits(&model, &IDS),
        logits(&load(&tiny(), Some(Quantize::Q8_0), None), &IDS)
    );
}

#[test]
fn quantised_files_stay_as_they_are() {
    for name in ["llama-tiny", "qwen2-tiny"] {
        let path = crate::gguf::path(name);
        let plain = Model::load(&path, Dtype::Auto).unwrap();
        let asked = load(&path, Some(Quantize::Q8_0), None);
        assert!(
            asked.notes()[0].contains("stay as they are"),
            "{:?}",
            asked.notes()
        );
        let (a, b) = (logits(&plain, &IDS), logits(&asked, &IDS));
        // Only the F16 and BF16 matrices of one of them have changed.
        assert!(cosine(&a, &b) > 0.9999, "{name}");
    }
}

#[test]
fn reduced_activations_are_a_choice_and_close() {
    for name in ["llama-tiny", "qwen2-tiny"] {
        let load = |activations| {
            let options = LoadOptions {
                activations,
                ..LoadOptions::default()
            };
            Model::load(&crate::gguf::path(name), options).unwrap()
        };
        // Decoding rounds activations on every processor.
        let decoded = |model: &Model| {
            let inputs = Inputs {
                input_ids: IDS[..3].to_vec(),
                ..Inputs::default()
            };
            let prompt = model.prompt(&inputs, &MediaEmbeds::default()).unwrap();
            let mut session = Session::new(model, None);
            session.prefill(&prompt, 1, &mut |_| {}).unwrap();
            session.decode(IDS[3]).unwrap()
        };
        let exact = decoded(&load(Activations::F32));
        let rounded = decoded(&load(Activations::Reduced));
        assert_ne!(exact, rounded);
        assert!(
            cosine(&exact, &rounded) > 0.999,
            "{name}: {}",
            cosine(&exact, &rounded)
        );
    }
}

#[test]
fn types_have_names() {
    assert_eq!("q4_k".parse::<Quantize>().unwrap(), Quantize::Q4K);
    let e = "q5".parse::<Quantize>().unwrap_err().to_string();
    assert!(e.contains("quantize") && e.contains("q8_0, q6_k, q4_k"), "{e}");
}
