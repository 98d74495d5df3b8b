//! Every form as a plain checkpoint: the numbers are the same.

use std::path::{Path, PathBuf};

use outro::checkpoint::Adapter;
use outro::config::Config;
use outro::convert::convert;
use outro::prepare::Preparer;
use outro::{Dtype, Model};
use safetensors::SafeTensors;

use crate::families::{answer, answers, cases, hook, prompt};
use crate::golden::LOGITS;

fn mmproj(path: &str) -> PathBuf {
    crate::fixtures().join("mmproj").join(path)
}

/// The plain form of a checkpoint, in a directory that is not there yet.
fn plain(config: &Config, from: &Path, dtype: Dtype) -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    let mut last = (0, 0);
    let out = made.path().join("plain");
    let written = convert(config, from, &out, dtype, &mut |done, all| last = (done, all)).unwrap();
    assert_eq!(last, (written.bytes, written.bytes));
    assert_eq!(written.shards, 1);
    let audit = Model::audit(&out).unwrap();
    assert!(audit.loads() && audit.unexpected.is_empty(), "{audit:?}");
    made
}

#[test]
fn two_gguf_files_become_a_checkpoint_with_the_same_answers() {
    for (text, of) in [
        ("qwen2.5-omni/Qwen2.5-Omni-tiny-F32-00001-of-00003.gguf", "omni"),
        ("qwen2-vl/Qwen2-VL-tiny-BF16.gguf", "qwen2-vl-tiny"),
        ("qwen2.5-vl/Qwen2.5-VL-tiny-BF16.gguf", "qwen2-5-vl-tiny"),
        ("qwen3-vl/Qwen3-VL-tiny-BF16.gguf", "qwen3-vl-tiny"),
        ("qwen3-omni/Qwen3-Omni-tiny-BF16.gguf", "qwen3-omni-tiny"),
    ] {
        let from = mmproj(text);
        let config = Config::load(&from).unwrap();
        let made = plain(&config, &from, Dtype::Auto);
        let out = made.path().join("plain");
        let (one, two) = (
            Model::load(&from, Dtype::Auto).unwrap(),
            Model::load(&out, Dtype::Auto).unwrap(),
        );
        assert_eq!(one.config().model_type, two.config().model_type);
        let all: Vec<PathBuf> = if of == "omni" {
            let dir = crate::fixtures().join("omni-tiny/cases");
            ["video", "audio-in-video"]
                .map(|k| dir.join(format!("{k}.inputs.safetensors")))
                .to_vec()
        } else {
            cases(of)
                .filter(|c| c.to_string_lossy().contains("-1."))
                .collect()
        };
        for case in all {
            let [(_, a), (_, b)] = [&one, &two].map(|m| prompt(m, &case));
            assert_eq!(a.positions, b.positions, "{}", case.display());
            let [a, b] = [(&one, &a), (&two, &b)].map(|(m, p)| answer(m, p, hook(true)));
            assert_eq!(a, b, "{}", case.display());
        }
        let [a, b] = [&from, &out].map(|dir| Preparer::open(dir).unwrap());
        let words = "<|im_start|>user\nDon't 12.5 Grüße 日本";
        let ids = |p: &Preparer| p.tokenizer().unwrap().encode(words).unwrap();
        assert_eq!(ids(&a), ids(&b));
        assert_eq!(
            a.tokenizer().unwrap().end_tokens(),
            b.tokenizer().unwrap().end_tokens()
        );
    }
}

#[test]
fn text_models_of_gguf_files() {
    for name in ["llama-tiny", "qwen2-tiny", "qwen3-tiny", "qwen3moe-tiny"] {
        let from = crate::gguf::path(name);
        let config = Config::load(&from).unwrap();
        let made = plain(&config, &from, Dtype::Auto);
        let ids: Vec<u32> = (5..30).collect();
        let [a, b] = [from, made.path().join("plain")]
            .map(|dir| crate::gguf::logits(&Model::load(&dir, Dtype::F32).unwrap(), &ids));
        let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{name}: {worst}");
    }
}

/// A layer's experts lie in two tensors, as the published checkpoints have them.
#[test]
fn experts_are_stored_as_the_family_stores_them() {
    let from = crate::fixtures().join("qwen3-vl-moe-tiny");
    let made = plain(&Config::load(&from).unwrap(), &from, Dtype::Auto);
    let [a, b] =
        [from, made.path().join("plain")].map(|d| std::fs::read(d.join("model.safetensors")).unwrap());
    let [a, b] = [&a, &b].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    assert_eq!(a.len(), b.len());
    for (name, view) in a.tensors() {
        let other = b.tensor(&name).unwrap();
        assert_eq!(
            (view.shape(), view.dtype()),
            (other.shape(), other.dtype()),
            "{name}"
        );
        assert_eq!(view.data(), other.data(), "{name}");
    }
}

#[test]
fn adapters_are_merged_and_packed_weights_unpacked() {
    let base = crate::fixtures().join("qwen2-5-vl-tiny");
    let mut config = Config::load(&base).unwrap();
    let adapters = crate::fixtures().join("adapters");
    config.held.adapters = vec![Adapter::new(adapters.join("vision"))];
    let made = plain(&config, &base, Dtype::F32);
    let model = Model::load(&made.path().join("plain"), Dtype::Auto).unwrap();
    answers(&model, &adapters.join("vision.safetensors"), LOGITS);

    for name in [
        "awq-text",
        "bnb-nf4",
        "ct-fp8-block",
        "gptq-order",
        "mlx-4",
        "ct-w4-order",
    ] {
        let from = crate::fixtures().join("packed").join(name);
        let config = Config::load(&from).unwrap();
        let made = plain(&config, &from, Dtype::Auto);
        let out = made.path().join("plain");
        assert!(Config::load(&out).unwrap().held.scheme.is_none());
        let case = from.join("case.safetensors");
        let [a, b] = [&from, &out].map(|dir| {
            let model = Model::load(dir, Dtype::Auto).unwrap();
            answer(&model, &prompt(&model, &case).1, hook(true))
        });
        let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < LOGITS, "{name}: {worst}");
    }
}

#[test]
fn a_checkpoint_is_not_written_over() {
    let from = crate::fixtures().join("qwen3-tiny");
    let made = plain(&Config::load(&from).unwrap(), &from, Dtype::Bf16);
    let again = convert(
        &Config::load(&from).unwrap(),
        &from,
        &made.path().join("plain"),
        Dtype::Auto,
        &mut |_, _| {},
    );
    let text = again.unwrap_err().to_string();
    assert!(text.contains("holds a checkpoint already"), "{text}");
}
