//! Checkpoints of published layouts without their weights: configurations, and tensors' names, types and shapes, as holes in
//! sparse files. Tests of the binary use this file, too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};

/// Tensors of a checkpoint: type and shape by name.
pub(crate) type Tensors = BTreeMap<String, (String, Vec<usize>)>;

/// A JSON file, packed or not.
pub(crate) fn read(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap();
    let mut text = String::new();
    if path.extension().is_some_and(|e| e == "gz") {
        GzDecoder::new(bytes.as_slice())
            .read_to_string(&mut text)
            .unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn tensors(dir: &Path) -> Tensors {
    serde_json::from_value(read(&dir.join("tensors.json.gz"))).unwrap()
}

/// A safetensors file of these tensors, all zeros that no disk holds.
fn sparse(path: &Path, tensors: &Tensors) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, (dtype, shape)) in tensors {
        let size = match dtype.as_str() {
            "F32" | "I32" | "U32" => 4,
            "BF16" | "F16" => 2,
            "I64" => 8,
            _ => 1,
        };
        let start = end;
        end += size * shape.iter().product::<usize>();
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let mut text = Value::Object(header).to_string();
    text += &" ".repeat(text.len().next_multiple_of(8) - text.len());
    let mut file = File::create(path).unwrap();
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_len((8 + text.len() + end) as u64).unwrap();
}

/// A checkpoint of a published layout: its config.json, and its tensors in the published shards where these are known.
pub(crate) fn checkpoint(from: &Path, tensors: &Tensors) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let index = from.join("model.safetensors.index.json.gz");
    if !index.is_file() {
        sparse(&dir.path().join("model.safetensors"), tensors);
        return dir;
    }
    let index = read(&index);
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let mut shards: BTreeMap<&str, Tensors> = BTreeMap::new();
    for (name, file) in index["weight_map"].as_object().unwrap() {
        let shard = shards.entry(file.as_str().unwrap()).or_default();
        shard.insert(name.clone(), tensors[name].clone());
    }
    for (file, tensors) in shards {
        sparse(&dir.path().join(file), &tensors);
    }
    dir
}

/// Layouts whose tensors are known and not quantised.
pub(crate) fn layouts(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for dir in fs::read_dir(root).unwrap().flatten().map(|e| e.path()) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("q-") && dir.join("tensors.json.gz").is_file() {
            all.push(dir);
        }
    }
    all.sort();
    all
}

/// Copies the settings of a published checkpoint, beside a tokenizer with its special tokens and no merges.
pub(crate) fn settings(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap().flatten().map(|e| e.path()) {
        if file.extension().is_some_and(|e| e == "json") {
            fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
    let vocab: Map<String, Value> = letters().into_iter().zip((0..256).map(Value::from)).collect();
    let byte =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    // The special tokens come from tokenizer_config.json, far behind the letters.
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": byte, "decoder": byte,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    fs::write(to.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// The 256 letters of a byte-level vocabulary.
fn letters() -> Vec<String> {
    let plain = |b: u32| (33..127).contains(&b) || (161..173).contains(&b) || (174..256).contains(&b);
    let mut others = 256..512;
    let letter = |b: u32| if plain(b) { b } else { others.next().unwrap() };
    (0..256)
        .map(letter)
        .map(|c| char::from_u32(c).unwrap().to_string())
        .collect()
}
