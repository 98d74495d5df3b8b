//! GGUF files: golden logits and token ids of four tiny models (tools/make_gguf_fixture.py), and damaged files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use outro::chat::Conversation;
use outro::inputs::Inputs;
use outro::prepare::{MediaOptions, Preparer};
use outro::tokenizer::Tokenizer;
use outro::{Dtype, MediaEmbeds, Model, OutRo, OutRoConfig, Session};
use proptest::prelude::*;
use safetensors::SafeTensors;

const NAMES: [&str; 4] = ["llama-tiny", "qwen2-tiny", "qwen3-tiny", "qwen3moe-tiny"];

pub(crate) fn path(name: &str) -> PathBuf {
    crate::fixtures().join("gguf").join(format!("{name}.gguf"))
}

/// What transformers made of the file.
struct Golden {
    ids: Vec<u32>,
    logits: Vec<f32>,
    texts: Vec<(String, Vec<u32>)>,
}

fn golden(name: &str) -> Golden {
    let bytes = fs::read(path(name).with_extension("safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let ids = |key: &str| -> Vec<u32> {
        let data = file.tensor(key).unwrap().data().to_vec();
        data.as_chunks()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b) as u32)
            .collect()
    };
    let logits = file.tensor("logits").unwrap().data().to_vec();
    let metadata = header.metadata().clone().unwrap();
    Golden {
        ids: ids("input_ids"),
        logits: logits
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        texts: (0..3)
            .map(|i| (metadata[&format!("text.{i}")].clone(), ids(&format!("ids.{i}"))))
            .collect(),
    }
}

pub(crate) fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let inputs = Inputs {
        input_ids: ids.to_vec(),
        ..Default::default()
    };
    let prompt = model.prompt(&inputs, &MediaEmbeds::default()).unwrap();
    let mut session = Session::new(model, None);
    session
        .prefill(&prompt, ids.len(), &mut |_| {})
        .unwrap()
        .into_data()
}

/// f32 activations on the same dequantised weights: only the order of sums differs.
#[test]
fn logits_equal_transformers_on_the_dequantised_weights() {
    for name in NAMES {
        let want = golden(name);
        for dtype in [Dtype::Auto, Dtype::F32] {
            let model = Model::load(&path(name), dtype).unwrap();
            let got = logits(&model, &want.ids);
            assert_eq!(got.len(), want.logits.len());
            for (g, w) in got.iter().zip(&want.logits) {
                assert!((g - w).abs() < 2e-5, "{name} {dtype:?}: {g} for {w}");
            }
        }
    }
}

#[test]
fn decoding_equals_prefilling() {
    for name in NAMES {
        let want = golden(name);
        let model = Model::load(&path(name), Dtype::Auto).unwrap();
        let vocab = model.config().text.vocab;
        let inputs = Inputs {
            input_ids: want.ids[..20].to_vec(),
            ..Default::default()
        };
        let prompt = model.prompt(&inputs, &MediaEmbeds::default()).unwrap();
        let hook = OutRo::new(OutRoConfig {
            rotate: false,
            relax: false,
            ..OutRoConfig::default()
        });
        let mut session = Session::new(&model, None);
        let mut off = Session::new(&model, Some(Box::new(hook)));
        session.prefill(&prompt, 1, &mut |_| {}).unwrap();
        off.prefill(&prompt, 1, &mut |_| {}).unwrap();
        for (i, id) in want.ids.iter().enumerate().skip(20) {
            let row = session.decode(*id).unwrap();
            assert_eq!(row, off.decode(*id).unwrap(), "OutRo switched off");
            for (g, w) in row.iter().zip(&want.logits[i * vocab..]) {
                assert!((g - w).abs() < 2e-5, "{name} step {i}: {g} for {w}");
            }
        }
    }
}

#[test]
fn token_ids_equal_transformers() {
    for name in NAMES {
        let tokenizer = Tokenizer::open(&path(name)).unwrap().unwrap();
        for (text, ids) in golden(name).texts {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{name}: {text:?}");
        }
        assert_eq!(tokenizer.end_tokens(), [0, 2]);
    }
}

#[test]
fn a_question_goes_through_the_files_template() {
    let preparer = Preparer::open(&path("qwen2-tiny")).unwrap();
    let asked = Conversation::new(None, &[], "the thing");
    let tokenizer = preparer.tokenizer().unwrap();
    let ids = preparer.ids(&asked, &[]).unwrap();
    let whole: String = ids.iter().map(|id| tokenizer.token(*id)).collect();
    assert_eq!(
        whole,
        "<|im_start|>user\nthe thing<|im_end|>\n<|im_start|>assistant\n"
    );
    let asked = Conversation::new(Some("in 12".into()), &[], "the thing");
    let with_system = preparer.ids(&asked, &[]).unwrap();
    assert!(with_system.len() > ids.len());
    let image = outro::chat::Part::Image(crate::fixtures().join("clip.mp4").into());
    let asked = Conversation::new(None, &[image], "?");
    assert!(preparer.plan(&asked, &MediaOptions::default()).is_err());
}

/// Loads everything and runs a few tokens; whatever is wrong must be an error.
fn message(path: &Path) -> String {
    let run = || -> outro::Result<()> {
        let preparer = Preparer::open(path)?;
        if let Some(t) = preparer.tokenizer() {
            t.encode("the 123 <|im_end|>")?;
        }
        preparer.ids(&Conversation::new(None, &[], "the thing"), &[])?;
        let model = Model::load(path, Dtype::Auto)?;
        let inputs = Inputs {
            input_ids: vec![1, 2, 3],
            ..Default::default()
        };
        let prompt = model.prompt(&inputs, &MediaEmbeds::default())?;
        Session::new(&model, None).prefill(&prompt, 1, &mut |_| {})?;
        Ok(())
    };
    run().map_or_else(|e| e.to_string(), |()| "fine".into())
}

static LLAMA: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(path("llama-tiny")).unwrap());

fn damaged(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    message(&path)
}

/// The file with `from` replaced by `to` of the same length, at its first place.
fn edited(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = LLAMA.clone();
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// The value of a u32 key, replaced.
fn number(key: &str, value: u32) -> Vec<u8> {
    let mut bytes = LLAMA.clone();
    let at = bytes
        .windows(key.len())
        .position(|w| w == key.as_bytes())
        .unwrap();
    let value_at = at + key.len() + 4;
    bytes[value_at..value_at + 4].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[test]
fn damage_is_named() {
    assert_eq!(damaged(&LLAMA), "fine");
    for (bytes, parts) in [
        (edited(b"GGUF", b"GGML"), vec!["m.gguf", "not a GGUF"]),
        (edited(b"GGUF\x03", b"GGUF\x09"), vec!["version 9"]),
        (edited(b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), vec!["big-endian"]),
        (
            edited(b"general.architecture", b"general.architectura"),
            vec!["general.architecture", "missing"],
        ),
        (number("llama.block_count", 3), vec!["blk.2.attn_norm.weight"]),
        (
            number("llama.feed_forward_length", 128),
            vec!["blk.0.ffn_gate.weight", "[96, 64]", "[128, 64]"],
        ),
        (
            number("llama.attention.head_count", 0),
            vec!["llama.attention.head_count", "1 to"],
        ),
        (
            number("llama.attention.head_count_kv", 3),
            vec!["llama.attention.head_count_kv", "divide"],
        ),
        (
            number("llama.rope.dimension_count", 8),
            vec!["llama.rope.dimension_count", "8"],
        ),
        (
            edited(b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez"),
            vec!["tokenizer.ggml.merges", "missing"],
        ),
        (edited(b"12 3", b"12 4"), vec!["tokenizer.ggml.merges", "12 4"]),
        (
            edited(b"blk.0.attn_q.weight", b"blk.0.attn_z.weight"),
            vec!["blk.0.attn_q.weight"],
        ),
        (
            edited(b"blk.1.attn_q.weight", b"blk.0.attn_q.weight"),
            vec!["blk.0.attn_q.weight", "twice"],
        ),
        (
            number("tokenizer.ggml.eos_token_id", 5000),
            vec!["tokenizer.ggml", "5000"],
        ),
        (edited(b"smollm", b"smallm"), vec!["tokenizer.ggml.pre", "smallm"]),
    ] {
        let m = damaged(&bytes);
        for part in parts {
            assert!(m.contains(part), "`{m}` does not say `{part}`");
        }
    }
    // Tensor data that says infinity is met when it is used, and named.
    let mut bytes = LLAMA.clone();
    let n = bytes.len();
    for b in bytes[n - 4000..].chunks_exact_mut(2) {
        b.copy_from_slice(&[0x80, 0x7F]);
    }
    let m = damaged(&bytes);
    assert!(m.contains("not a finite number") || m.contains("blk.1"), "{m}");
}

#[test]
fn truncated_files_are_errors() {
    let n = LLAMA.len();
    for keep in (0..400).chain((400..n).step_by(n / 50)).chain([n - 1]) {
        let m = damaged(&LLAMA[..keep]);
        assert!(m.contains("m.gguf"), "{keep} bytes: {m}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever bytes of the header say: an answer or an error, no panic and no run-away memory.
    #[test]
    fn any_header_is_an_answer_or_an_error(
        at in prop::collection::vec((0usize..8000, any::<u8>()), 1..4),
        wide in any::<bool>(),
    ) {
        let mut bytes = LLAMA.clone();
        for (at, value) in at {
            bytes[at] = value;
            if wide {
                bytes[at + 1..at + 8].fill(value);
            }
        }
        prop_assert!(!damaged(&bytes).is_empty());
    }
}
