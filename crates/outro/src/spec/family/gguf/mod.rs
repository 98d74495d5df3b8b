//! A GGUF file's metadata as the fields of `config.json`; the towers of a model that sees or hears are in a file of their own.

use std::path::Path;

use serde_json::{Map, Value, json};

mod beside;
mod mmproj;
mod names;

use super::{Family, qwen3, text};
use crate::error::{Error, Result};
use crate::spec::config::{Config, Json, Scaling};
use crate::weights::checkpoint::gguf::Gguf;
pub(crate) use mmproj::processor;

/// Metadata keys of an architecture, behind its name and a dot, and what config.json calls them.
const KEYS: [(&str, &str); 12] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
];

/// An architecture of GGUF files.
struct Architecture {
    name: &'static str,
    /// The decoder alone.
    text: &'static Family,
    experts: bool,
    /// Whether towers belong to it, in a file of their own.
    sees: bool,
}

const ARCHITECTURES: [Architecture; 7] = [
    Architecture::new("qwen2", &text::QWEN2, false, false),
    Architecture::new("llama", &text::LLAMA, false, false),
    Architecture::new("qwen3", &qwen3::DENSE, false, false),
    Architecture::new("qwen3moe", &qwen3::MOE, true, false),
    Architecture::new("qwen2vl", &text::QWEN2, false, true),
    Architecture::new("qwen3vl", &qwen3::DENSE, false, true),
    Architecture::new("qwen3vlmoe", &qwen3::MOE, true, true),
];

impl Architecture {
    const fn new(name: &'static str, text: &'static Family, experts: bool, sees: bool) -> Self {
        Self {
            name,
            text,
            experts,
            sees,
        }
    }
}

/// The architecture of a file of towers.
const TOWERS: &str = "clip";

/// Configuration of a GGUF file and of the file of its towers, which is looked for beside it where none is given.
pub(crate) fn config(path: &Path, towers: Option<&Path>) -> Result<Config> {
    let file = &Gguf::open(path)?;
    let key = "general.architecture";
    let name = file.text(key)?;
    let name = name.ok_or_else(|| file.error(key, "missing; every model's file has it"))?;
    let architecture = ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| {
        if name == TOWERS {
            let problem = "is `clip`: these are the towers of a model (mmproj); give the file of its language model, \
                           beside which they are found";
            return file.unsupported(key, problem);
        }
        let known = ARCHITECTURES.map(|a| a.name).join(", ");
        file.unsupported(key, format!("is `{name}`; of GGUF files these are read: {known}"))
    })?;
    if !architecture.sees
        && let Some(towers) = towers
    {
        let problem = format!(
            "is `{name}`, a text model; towers ({}) do not belong to it",
            towers.display()
        );
        return Err(file.error(key, &problem));
    }
    if architecture.sees
        && let Some(found) = beside::find(file, towers)?
    {
        return mmproj::config(file, architecture, found);
    }
    let mut config = decoder(file, architecture)?;
    if architecture.sees {
        config.held.notes.push(format!(
            "no file of towers (mmproj-*.gguf) lies beside {}: it answers text alone",
            file_name(path)
        ));
    }
    config.held.renames = names::of(&config, None);
    Ok(config)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The configuration of the decoder alone.
fn decoder(file: &Gguf, architecture: &Architecture) -> Result<Config> {
    let mut value = Value::Object(fields(file, architecture)?);
    let config = (architecture.text.parse)(&Json::new(file.path(), &value));
    let mut config = finished(file, architecture, config)?;
    value["model_type"] = json!(architecture.text.model_type);
    config.held.fields = Some(value);
    Ok(config)
}

/// The decoder's fields, as config.json has them.
fn fields(file: &Gguf, architecture: &Architecture) -> Result<Map<String, Value>> {
    let own = |key: &str| format!("{}.{key}", architecture.name);
    let mut fields = Map::new();
    for (theirs, ours) in KEYS {
        let name = own(theirs);
        let value = match ours {
            "rms_norm_eps" | "rope_theta" => file.float(&name)?.map(|x| json!(x)),
            // Out of range is for the reader of the field to say.
            _ => file.int(&name)?.map(|n| json!(i64::try_from(n).unwrap_or(-1))),
        };
        match value {
            Some(value) => _ = fields.insert(ours.into(), value),
            // A class of transformers would have a default for it.
            None if architecture.experts && theirs.starts_with("expert_") => {
                return Err(file.error(&name, "is missing; a model with experts says it"));
            }
            None => {}
        }
    }
    if let Some([vocab, ..]) = file.shape("token_embd.weight") {
        fields.insert("vocab_size".into(), json!(vocab));
    }
    fields.insert("tie_word_embeddings".into(), json!(!file.holds("output.weight")));
    let experts = if architecture.experts {
        // llama.cpp has no key for it: every released file is so.
        fields.insert("norm_topk_prob".into(), json!(true));
        "expert_shared_count"
    } else {
        "expert_count"
    };
    for key in [experts, "attention.sliding_window"] {
        if file.int(&own(key))?.is_some_and(|n| n > 0) {
            return Err(file.unsupported(&own(key), "is not supported"));
        }
    }
    scaling(file, &own, &mut fields)?;
    Ok(fields)
}

/// What a family read, with what no config.json says; the user's file has other names for the fields.
fn finished(file: &Gguf, architecture: &Architecture, config: Result<Config>) -> Result<Config> {
    let own = |key: &str| format!("{}.{key}", architecture.name);
    let mut config = config.map_err(|mut e| {
        if let Error::Config { path, field, .. } | Error::Unsupported { path, field, .. } = &mut e
            && path == file.path()
        {
            let plain = field.strip_prefix("text_config.").unwrap_or(field);
            if let Some(key) = KEYS.iter().find(|k| k.1 == plain) {
                *field = own(key.0);
            }
        }
        e
    })?;
    let text = &mut config.text;
    for key in ["rope.dimension_count", "attention.value_length"] {
        if let Some(n) = file.int(&own(key))?
            && n != text.head_dim as i128
        {
            let problem = format!("is {n}; only the head dimension, {}, is supported", text.head_dim);
            return Err(file.unsupported(&own(key), problem));
        }
    }
    if let Some(factors) = file.f32s("rope_freqs.weight", text.head_dim / 2)? {
        if !factors.iter().all(|x| x.is_finite() && *x > 0.0) {
            return Err(Error::checkpoint(
                file.path(),
                "tensor `rope_freqs.weight` holds numbers that are not above 0",
            ));
        }
        text.rope.scaling = Scaling::Divided(factors.into_iter().map(f64::from).collect());
    }
    text.rope_pairs_interleaved = architecture.name == "llama";
    Ok(config)
}

/// Long-context scaling of rotary frequencies.
fn scaling(file: &Gguf, own: &dyn Fn(&str) -> String, fields: &mut Map<String, Value>) -> Result<()> {
    let key = |name: &str| own(&format!("rope.scaling.{name}"));
    let factor = file.float(&key("factor"))?;
    match (file.text(&key("type"))?, factor) {
        (None | Some("none"), _) | (Some("linear" | "yarn"), None) => Ok(()),
        (Some(kind @ ("linear" | "yarn")), Some(factor)) => {
            let mut rope = json!({"type": kind, "factor": factor});
            if let Some(n) = file.int(&key("original_context_length"))? {
                rope["original_max_position_embeddings"] = json!(i64::try_from(n).unwrap_or(-1));
            }
            for beta in ["beta_fast", "beta_slow"] {
                if let Some(x) = file.float(&key(&format!("yarn_{beta}")))? {
                    rope[beta] = json!(x);
                }
            }
            // Corrections of what YaRN says by itself, each with the value that is none; below 0 is unset.
            for (name, none) in [
                ("attn_factor", 1.0),
                ("yarn_attn_factor", 1.0),
                ("yarn_ext_factor", 1.0),
                ("yarn_log_multiplier", 0.0),
            ] {
                if let Some(x) = file.float(&key(name))?
                    && x != none
                    && x >= 0.0
                {
                    return Err(file.unsupported(&key(name), format!("is {x}, only {none} is supported")));
                }
            }
            fields.insert("rope_scaling".into(), rope);
            Ok(())
        }
        (Some(other), _) => {
            let problem = format!("is `{other}`; none, linear and yarn are supported");
            Err(file.unsupported(&key("type"), problem))
        }
    }
}
