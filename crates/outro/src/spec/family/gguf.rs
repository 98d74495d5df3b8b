//! A GGUF file's metadata as the fields of `config.json`.

use serde_json::{Map, Value, json};

use super::{Family, qwen3, text};
use crate::error::{Error, Result};
use crate::spec::config::{Config, Json, Scaling};
use crate::weights::checkpoint::gguf::Gguf;

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

/// Architectures of GGUF files.
const ARCHITECTURES: [(&str, &Family); 4] = [
    ("qwen2", &text::QWEN2),
    ("llama", &text::LLAMA),
    ("qwen3", &qwen3::DENSE),
    ("qwen3moe", &qwen3::MOE),
];

/// Parts of names of architectures that take pictures or sound, or are the towers alone.
const MEDIA: [&str; 5] = ["vl", "omni", "clip", "mmproj", "audio"];

/// Configuration of a GGUF file.
pub(crate) fn config(file: &Gguf) -> Result<Config> {
    let key = "general.architecture";
    let architecture = file.text(key)?;
    let architecture = architecture.ok_or_else(|| file.error(key, "missing; every model's file has it"))?;
    let family = ARCHITECTURES.iter().find(|a| a.0 == architecture);
    let (_, family) = family.ok_or_else(|| {
        let known = ARCHITECTURES.map(|a| a.0).join(", ");
        let media = if MEDIA.iter().any(|m| architecture.contains(m)) {
            "; pictures and sound need the safetensors checkpoint"
        } else {
            ""
        };
        file.unsupported(
            key,
            format!("is `{architecture}`; of GGUF files these are read: {known}{media}"),
        )
    })?;
    let own = |key: &str| format!("{architecture}.{key}");
    let mut fields = Map::new();
    for (theirs, ours) in KEYS {
        let name = own(theirs);
        let value = match ours {
            "rms_norm_eps" | "rope_theta" => file.float(&name)?.map(|x| json!(x)),
            // Out of range is for the reader of the field to say.
            _ => file.int(&name)?.map(|n| json!(i64::try_from(n).unwrap_or(-1))),
        };
        if let Some(value) = value {
            fields.insert(ours.into(), value);
        }
    }
    if let Some(vocab) = file.rows("model.embed_tokens.weight") {
        fields.insert("vocab_size".into(), json!(vocab));
    }
    fields.insert("tie_word_embeddings".into(), json!(!file.holds("lm_head.weight")));
    let experts = if architecture == "qwen3moe" {
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
    let value = Value::Object(fields);
    let mut config = (family.parse)(&Json::new(file.path(), &value)).map_err(|mut e| {
        // The user's file has other names for the fields.
        if let Error::Config { field, .. } | Error::Unsupported { field, .. } = &mut e
            && let Some(key) = KEYS.iter().find(|k| k.1 == field)
        {
            *field = own(key.0);
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
    text.rope_pairs_interleaved = architecture == "llama";
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
