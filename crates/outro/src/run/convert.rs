//! Any form of a checkpoint as a plain one: config.json, safetensors, tokenizer, as transformers writes them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype as FileType, View};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::prompt::tokenizer::{Tokenizer, special_tokens};
use crate::run::model::Model;
use crate::spec::config::{Config, Scaling};
use crate::spec::family;
use crate::weights::checkpoint::gguf::Gguf;
use crate::weights::checkpoint::{Checkpoint, Dtype, Stored, files};
use crate::weights::json::read_json;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files of weights.
    pub shards: usize,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Bytes of a file of weights at most, as transformers has it.
const SHARD: u64 = 5_000_000_000;

/// Writes the checkpoint in `dir`, of which `config` is the configuration (with adapters and towers, as it says), to the directory
/// `out`, which must not hold one: every tensor that the model reads under the name of the original, unpacked, adapters merged. With
/// [`Dtype::Auto`] numbers stay what they are: plain tensors keep their type, packed ones become f32. `on` gets bytes done, and all.
///
/// # Errors
/// As [`Model::load`]; a directory that holds a checkpoint, or cannot be written.
pub fn convert(
    config: &Config,
    dir: &Path,
    out: &Path,
    dtype: Dtype,
    on: &mut dyn FnMut(u64, u64),
) -> Result<Converted> {
    if out.join(files::CONFIG).exists() || out.join(files::SINGLE).exists() || out.join(files::INDEX).exists()
    {
        return Err(Error::setting(
            "out",
            format!(
                "{} holds a checkpoint already; give another directory",
                out.display()
            ),
        ));
    }
    let audit = Model::audit_of(config.clone(), dir)?;
    if !audit.loads() {
        let problem = "has tensors that are missing, of another shape or of a type that is not read; `outro inspect` lists them";
        return Err(Error::checkpoint(dir, problem));
    }
    if let Scaling::Divided(_) = config.text.rope.scaling {
        let problem =
            "divides rotary frequencies by numbers of its own (rope_freqs), which a config.json cannot say";
        return Err(Error::unsupported(dir, "", problem));
    }
    let checkpoint = config.checkpoint(dir)?;
    let parts = parts(config, &checkpoint, Model::tensors(config.clone(), dir)?, dtype);
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let total = parts.iter().map(|p| p.bytes() as u64).sum();
    let from = From {
        checkpoint: &checkpoint,
        config,
        state: RefCell::new(State {
            done: 0,
            total,
            on,
            failed: None,
        }),
    };
    let mut made = Converted {
        tensors: parts.len(),
        bytes: total,
        shards: write(&from, &parts, out)?,
        notes: Vec::new(),
    };
    if checkpoint.skipped() > 0 {
        made.notes.push(format!(
            "{} tensors of the part that makes speech are not written",
            checkpoint.skipped()
        ));
    }
    if dir.is_file() {
        gguf_files(config, dir, out)?;
    } else {
        copied(dir, out)?;
    }
    Ok(made)
}

/// A tensor to be written, and those that it is made of.
struct Part {
    name: String,
    shape: Vec<usize>,
    from: Vec<(String, Vec<usize>)>,
    /// Of experts that are stored together: how many matrices of each are side by side, turned (`gate_up_proj [E, hidden, 2 I]`,
    /// `down_proj [E, I, hidden]`). `None` is row after row.
    turned: Option<usize>,
    stored: Stored,
}

impl Part {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * if self.stored == Stored::F32 { 4 } else { 2 }
    }
}

/// Projections that some families have in one tensor, and files of towers in three.
const THIRDS: [&str; 3] = [".attn.q.", ".attn.k.", ".attn.v."];

/// What the original checkpoint of the family has, of what the model reads.
fn parts(
    config: &Config,
    checkpoint: &Checkpoint,
    asked: Vec<(String, Vec<usize>)>,
    dtype: Dtype,
) -> Vec<Part> {
    // Files of towers have three tensors where these families have one.
    let fused =
        config.held.towers.is_some() && ["qwen2_vl", "qwen2_5_vl"].contains(&config.model_type.as_str());
    let together = config.model_type == "qwen3_vl_moe";
    let mut groups: BTreeMap<String, Vec<(usize, String, Vec<usize>)>> = BTreeMap::new();
    for (name, shape) in asked {
        let third = THIRDS.into_iter().position(|part| fused && name.contains(part));
        let expert = name
            .split_once(".experts.")
            .filter(|_| together)
            .and_then(|(head, rest)| {
                let (number, part) = rest.split_once('.')?;
                Some((head, number.parse::<usize>().ok()?, part))
            });
        let (target, order) = match (third, expert) {
            (Some(i), _) => (name.replacen(THIRDS[i], ".attn.qkv.", 1), i),
            (None, Some((head, n, "gate_proj.weight"))) => (format!("{head}.experts.gate_up_proj"), 2 * n),
            (None, Some((head, n, "up_proj.weight"))) => (format!("{head}.experts.gate_up_proj"), 2 * n + 1),
            (None, Some((head, n, _))) => (format!("{head}.experts.down_proj"), n),
            (None, None) => (name.clone(), 0),
        };
        groups.entry(target).or_default().push((order, name, shape));
    }
    let part = |(name, mut from): (String, Vec<(usize, String, Vec<usize>)>)| {
        from.sort();
        let from: Vec<(String, Vec<usize>)> =
            from.into_iter().map(|(_, name, shape)| (name, shape)).collect();
        let stored = dtype.stored().unwrap_or_else(|| plain(checkpoint, &from));
        let turned = match name.rsplit_once(".experts.") {
            Some((_, "gate_up_proj")) => Some(2),
            Some((_, "down_proj")) => Some(1),
            _ => None,
        };
        let mut shape = from.first().map(|(_, shape)| shape.clone()).unwrap_or_default();
        if let (Some(beside), [rows, cols]) = (turned, shape.as_slice()) {
            shape = vec![from.len() / beside, *cols, rows * beside];
        } else if let Some(rows) = shape.first_mut() {
            *rows = from.iter().filter_map(|(_, shape)| shape.first()).sum();
        }
        Part {
            name,
            shape,
            from,
            turned,
            stored,
        }
    };
    groups.into_iter().map(part).collect()
}

/// The type that all of these have, if it is a plain one.
fn plain(checkpoint: &Checkpoint, from: &[(String, Vec<usize>)]) -> Stored {
    let mut kinds = from.iter().map(|(name, _)| {
        let info = checkpoint.tensors().get(name)?;
        Stored::of_name(&info.dtype).filter(|s| !matches!(s, Stored::Quant(_)))
    });
    let first = kinds.next().flatten();
    match first {
        Some(kind) if kinds.all(|k| k == first) => kind,
        _ => Stored::F32,
    }
}

/// A part that is read when it is written.
struct Later<'a, 's> {
    part: &'a Part,
    from: &'a From<'s>,
}

/// What parts are read from, and how far that is.
struct From<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    state: RefCell<State<'a>>,
}

struct State<'a> {
    done: u64,
    total: u64,
    on: &'a mut dyn FnMut(u64, u64),
    failed: Option<Error>,
}

impl From<'_> {
    /// The bytes of a part, as the file has them.
    fn read(&self, part: &Part) -> Result<Vec<u8>> {
        let dtype = part.stored.dtype().unwrap_or(Dtype::F32);
        let mut out = Vec::with_capacity(part.bytes());
        let mut group: Vec<Vec<f32>> = Vec::new();
        for (name, shape) in &part.from {
            let mut matrix = self.checkpoint.matrix(name, shape, dtype)?;
            let turns = ["self_attn.q_proj.weight", "self_attn.k_proj.weight"]
                .iter()
                .any(|n| name.ends_with(n));
            if self.config.text.rope_pairs_interleaved && turns {
                matrix = matrix.deinterleaved(self.config.text.head_dim);
            }
            let mut values = vec![0f32; matrix.rows() * matrix.cols()];
            matrix.all(&mut values);
            let Some(beside) = part.turned else {
                encode(&values, part.stored, &mut out);
                continue;
            };
            group.push(values);
            if group.len() == beside {
                let (rows, cols) = (matrix.rows(), matrix.cols());
                let mut turned = Vec::with_capacity(rows * cols * beside);
                for c in 0..cols {
                    for values in &group {
                        turned.extend((0..rows).map(|r| values[r * cols + c]));
                    }
                }
                encode(&turned, part.stored, &mut out);
                group.clear();
            }
        }
        Ok(out)
    }
}

fn encode(values: &[f32], stored: Stored, out: &mut Vec<u8>) {
    match stored {
        Stored::Bf16 => out.extend(values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
        Stored::F16 => out.extend(values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
        _ => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
    }
}

impl View for Later<'_, '_> {
    fn dtype(&self) -> FileType {
        match self.part.stored {
            Stored::Bf16 => FileType::BF16,
            Stored::F16 => FileType::F16,
            _ => FileType::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.part.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let read = self.from.read(self.part);
        let mut state = self.from.state.borrow_mut();
        state.done += self.part.bytes() as u64;
        let (done, total) = (state.done, state.total);
        (state.on)(done, total);
        Cow::Owned(read.unwrap_or_else(|e| {
            state.failed.get_or_insert(e);
            vec![0; self.part.bytes()]
        }))
    }

    fn data_len(&self) -> usize {
        self.part.bytes()
    }
}

/// Writes files of weights, and the index where there are several; returns how many.
fn write(from: &From, parts: &[Part], out: &Path) -> Result<usize> {
    let mut shards: Vec<Vec<&Part>> = vec![Vec::new()];
    let mut size = 0;
    for part in parts {
        let bytes = part.bytes() as u64;
        if size > 0 && size + bytes > SHARD {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(last) = shards.last_mut() {
            last.push(part);
        }
    }
    let count = shards.len();
    let mut index = Map::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let file = match count {
            1 => files::SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        index.extend(shard.iter().map(|part| (part.name.clone(), json!(file))));
        let views = shard
            .into_iter()
            .map(|part| (part.name.as_str(), Later { part, from }));
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let path = out.join(&file);
        let temporary = path.with_extension("part");
        let written = safetensors::serialize_to_file(views, Some(metadata), &temporary);
        let failed = from.state.borrow_mut().failed.take();
        let written = written.map_err(|e| Error::checkpoint(&path, format!("cannot be written: {e}")));
        let done = failed
            .map_or(written, Err)
            .and_then(|()| std::fs::rename(&temporary, &path).map_err(Error::io(&path)));
        if done.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        done?;
    }
    if count > 1 {
        let total = from.state.borrow().total;
        let value = json!({"metadata": {"total_size": total}, "weight_map": index});
        json_file(&out.join(files::INDEX), &value)?;
    }
    Ok(count)
}

fn json_file(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    std::fs::write(path, text).map_err(Error::io(path))
}

/// The small files of a checkpoint directory; config.json no longer says how weights were packed.
fn copied(dir: &Path, out: &Path) -> Result<()> {
    for name in files::SMALL.iter().filter(|n| **n != files::INDEX) {
        let (from, to) = (dir.join(name), out.join(name));
        if *name == files::CONFIG {
            let mut value = read_json(&from)?.unwrap_or_default();
            unpacked(&mut value);
            json_file(&to, &value)?;
        } else if from.is_file() {
            std::fs::copy(&from, &to).map_err(Error::io(&from))?;
        }
    }
    Ok(())
}

fn unpacked(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        for key in family::quantised::KEYS {
            fields.remove(key);
        }
        fields.values_mut().for_each(unpacked);
    }
}

/// Classes of transformers, by `model_type`.
const CLASSES: [(&str, &str); 10] = [
    ("qwen2", "Qwen2ForCausalLM"),
    ("llama", "LlamaForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("qwen3_moe", "Qwen3MoeForCausalLM"),
    ("qwen2_vl", "Qwen2VLForConditionalGeneration"),
    ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    (
        "qwen2_5_omni_thinker",
        "Qwen2_5OmniThinkerForConditionalGeneration",
    ),
    ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
    ("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"),
    (
        "qwen3_omni_moe_thinker",
        "Qwen3OmniMoeThinkerForConditionalGeneration",
    ),
];

/// The files that stand for a GGUF file's metadata and that of its towers.
fn gguf_files(config: &Config, dir: &Path, out: &Path) -> Result<()> {
    let mut fields = config.held.fields.clone().unwrap_or_default();
    if let Some((_, class)) = CLASSES.iter().find(|(kind, _)| *kind == config.model_type) {
        fields["architectures"] = json!([class]);
    }
    json_file(&out.join(files::CONFIG), &fields)?;
    let file = Gguf::open(dir)?;
    if let Some(towers) = &config.held.towers {
        let mut processor = family::gguf::processor(&Gguf::open(towers)?)?;
        if let Some(v) = &config.vision {
            processor["patch_size"] = json!(v.patch);
            processor["temporal_patch_size"] = json!(v.temporal);
            processor["merge_size"] = json!(v.merge);
        }
        json_file(&out.join(files::PREPROCESSOR), &processor)?;
    }
    let Some(tokenizer) = Tokenizer::open(dir)? else {
        return Ok(());
    };
    tokenizer.save(&out.join(files::TOKENIZER))?;
    let named = special_tokens(&file)?.into_iter();
    let mut settings: Map<String, Value> = named
        .map(|(name, token)| (name.to_owned(), json!(token)))
        .collect();
    if let Some(template) = file.text("tokenizer.chat_template")? {
        settings.insert("chat_template".into(), json!(template));
    }
    json_file(&out.join(files::TOKENIZER_CONFIG), &Value::Object(settings))?;
    json_file(
        &out.join(files::GENERATION),
        &json!({"eos_token_id": tokenizer.end_tokens(), "do_sample": false}),
    )
}
