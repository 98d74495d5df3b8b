//! What is fuzzed: each reader of files that a user can feed in, over bytes. Results do not matter; a panic, a hang or a huge
//! allocation does. The corpora run as plain tests too (`crates/outro-cli/tests/it/corpus.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use outro::chat::Conversation;
use outro::checkpoint::{Adapter, Checkpoint, Reading};
use outro::config::Config;
use outro::prepare::Preparer;

/// A name, and what is run on bytes.
type Target = (&'static str, fn(&[u8]));

/// Every target by its name, which is that of its corpus.
pub(crate) const TARGETS: [Target; 10] = [
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("config", config),
    ("packed", packed),
    ("adapter", adapter),
    ("processor", processor),
    ("template", template),
    ("mp4", mp4),
    ("wav", wav),
    ("log", log),
];

/// Runs on a file of these bytes in a directory of its own.
fn file(name: &str, bytes: &[u8], run: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    run(&path);
}

/// Metadata of a GGUF file, its tokenizer, its tensors.
pub(crate) fn gguf(bytes: &[u8]) {
    file("model.gguf", bytes, |path| {
        let _ = Config::load(path);
        let _ = Preparer::open(path);
        if let Ok(checkpoint) = Checkpoint::open(path, Reading::default()) {
            for (name, info) in checkpoint.tensors() {
                let _ = checkpoint.matrix(name, &info.shape, outro::Dtype::F32);
            }
        }
    });
}

/// The header of a safetensors file and its tensors.
pub(crate) fn safetensors(bytes: &[u8]) {
    file("model.safetensors", bytes, |path| {
        let Some(dir) = path.parent() else { return };
        if let Ok(checkpoint) = Checkpoint::open(dir, Reading::default()) {
            for (name, info) in checkpoint.tensors() {
                let _ = checkpoint.matrix(name, &info.shape, outro::Dtype::F32);
            }
        }
        let _ = outro::inputs::Inputs::load(path);
    });
}

/// config.json of any family.
pub(crate) fn config(bytes: &[u8]) {
    file("config.json", bytes, |path| {
        let Some(dir) = path.parent() else { return };
        let _ = Config::load(dir);
        let _ = outro::Model::audit(dir);
    });
}

fn fixture(name: &str) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut found = here.map(|d| d.join("fixtures").join(name));
    found.find(|d| d.is_dir())
}

/// A directory of `fixtures/FOLDER` with other bytes for one of its files: the first line names the directory, the second is
/// `config` or `header` (of the safetensors file, whose data stay), the rest takes its place.
fn replaced(folder: &str, [config, weights]: [&str; 2], bytes: &[u8], run: impl Fn(&Path)) {
    let mut lines = bytes.splitn(3, |b| *b == b'\n');
    let (Some(name), Some(which), Some(rest)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return;
    }
    let Some(from) = fixture(folder).map(|d| d.join(name)).filter(|d| d.is_dir()) else {
        return;
    };
    let read = |name: &str| fs::read(from.join(name)).unwrap();
    let made = tempfile::tempdir().unwrap();
    let (mut says, mut holds) = (read(config), read(weights));
    if which == b"config" {
        says = rest.to_vec();
    } else {
        let head = u64::from_le_bytes(holds[..8].try_into().unwrap()) as usize;
        let data = holds.split_off(8 + head);
        holds = [&(rest.len() as u64).to_le_bytes(), rest, &data].concat();
    }
    fs::write(made.path().join(config), says).unwrap();
    fs::write(made.path().join(weights), holds).unwrap();
    run(made.path());
}

/// A checkpoint that a quantiser packed.
pub(crate) fn packed(bytes: &[u8]) {
    replaced("packed", ["config.json", "model.safetensors"], bytes, |dir| {
        let _ = outro::Model::audit(dir);
        let _ = outro::Model::load(dir, outro::Dtype::Auto);
    });
}

/// A LoRA adapter of a tiny model.
pub(crate) fn adapter(bytes: &[u8]) {
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    replaced("adapters", files, bytes, |dir| {
        let base = fixture("qwen3-tiny").unwrap();
        let mut config = Config::load(&base).unwrap();
        config.held.adapters = vec![Adapter::new(dir)];
        let _ = outro::Model::open(config, &base, outro::Dtype::Auto);
    });
}

/// The file beside others of a tiny checkpoint.
fn of_tiny(name: &str, bytes: &[u8], run: impl Fn(&Path)) {
    let tiny = fixture("omni-tiny").unwrap();
    file(name, bytes, |path| {
        let Some(dir) = path.parent() else { return };
        for other in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "preprocessor_config.json",
        ] {
            if other != name {
                fs::copy(tiny.join(other), dir.join(other)).unwrap();
            }
        }
        run(dir);
    });
}

/// preprocessor_config.json of a tiny model.
pub(crate) fn processor(bytes: &[u8]) {
    of_tiny("preprocessor_config.json", bytes, |dir| {
        let _ = Preparer::open(dir);
    });
}

/// A chat template over a short conversation.
pub(crate) fn template(bytes: &[u8]) {
    of_tiny("chat_template.jinja", bytes, |dir| {
        if let Ok(preparer) = Preparer::open(dir) {
            let asked = Conversation::new(Some("A system.".into()), &[], "A question?");
            let _ = preparer.ids(&asked, &[]);
        }
    });
}

fn media(name: &str, bytes: &[u8]) {
    let options = outro_media::Options {
        decoder: outro_media::Decoder::Builtin,
        ..outro_media::Options::default()
    };
    file(name, bytes, |path| {
        let Ok(info) = outro_media::probe(path, &options) else {
            return;
        };
        if let Some(video) = &info.video {
            let picks: Vec<usize> = (0..video.frames.min(3)).collect();
            let _ = outro_media::read_frames(&info, &picks, &options);
        }
        if info.audio.is_some() {
            let _ = outro_media::read_audio(&info, None, Some(2.0), &options);
        }
    });
}

/// An mp4 or mov file through the built-in demuxer and decoders.
pub(crate) fn mp4(bytes: &[u8]) {
    media("clip.mp4", bytes);
}

/// A sound file through the built-in demuxers and decoders.
pub(crate) fn wav(bytes: &[u8]) {
    media("sound.wav", bytes);
}

/// The log of a run.
pub(crate) fn log(bytes: &[u8]) {
    file("run.jsonl", bytes, |path| {
        if let Ok((header, rows)) = outro_lab::log::read(path) {
            let _ = outro_lab::report::report(&header, &rows);
        }
        let _ = outro_lab::log::begun(path);
    });
}
