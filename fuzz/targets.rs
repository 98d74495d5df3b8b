//! What is fuzzed: each reader of files that a user can feed in, over bytes. Results do not matter; a panic, a hang or a huge
//! allocation does. The corpora run as plain tests too (`crates/outro-cli/tests/it/corpus.rs`).

use std::fs;
use std::path::Path;

use outro::chat::Conversation;
use outro::checkpoint::{Checkpoint, Reading};
use outro::config::Config;
use outro::prepare::Preparer;

/// A name, and what is run on bytes.
type Target = (&'static str, fn(&[u8]));

/// Every target by its name, which is that of its corpus.
pub(crate) const TARGETS: [Target; 8] = [
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("config", config),
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

/// The file beside others of a tiny checkpoint.
fn of_tiny(name: &str, bytes: &[u8], run: impl Fn(&Path)) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut tiny = here.map(|d| d.join("fixtures/omni-tiny")).filter(|d| d.is_dir());
    let tiny = tiny.next().unwrap();
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
