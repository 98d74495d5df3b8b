//! The towers' file (mmproj) of a model: its metadata and the shapes of its tensors as `vision_config` and `audio_config`. What
//! is in neither file (limits of pixels, positions of a second, window sizes) are the family's defaults.

use serde_json::{Map, Value, json};

use super::beside::Found;
use super::{Architecture, fields, file_name, finished, names};
use crate::error::Result;
use crate::spec::config::{Config, Json};
use crate::spec::family::{Family, qwen2_5_omni, qwen2_vl, qwen3_omni, qwen3_vl, video_salmonn2};
use crate::weights::checkpoint::gguf::Gguf;

/// A model of two files.
struct Model {
    architecture: &'static str,
    /// `clip.projector_type`, or those of both towers.
    projectors: &'static [&'static str],
    hears: bool,
    family: &'static Family,
    /// Whether projections of query, key and value are one tensor.
    fused: bool,
    /// A field that neither file has, where all published models say something else than transformers' class does.
    published: Option<(&'static str, i64)>,
    /// Fields of special tokens, and their texts.
    tokens: &'static [(&'static str, &'static str)],
}

const VISION_TOKENS: [(&str, &str); 4] = [
    ("image_token_id", "<|image_pad|>"),
    ("video_token_id", "<|video_pad|>"),
    ("vision_start_token_id", "<|vision_start|>"),
    ("vision_end_token_id", "<|vision_end|>"),
];

const MODELS: [Model; 6] = [
    Model {
        architecture: "qwen2vl",
        projectors: &["qwen2vl_merger"],
        hears: false,
        family: &qwen2_vl::FAMILY,
        fused: false,
        published: None,
        tokens: &VISION_TOKENS,
    },
    Model {
        architecture: "qwen2vl",
        projectors: &["qwen2.5vl_merger"],
        hears: false,
        family: &video_salmonn2::FAMILY,
        fused: false,
        published: Some(("tokens_per_second", 2)),
        tokens: &VISION_TOKENS,
    },
    Model {
        architecture: "qwen2vl",
        projectors: &["qwen2.5o", "qwen2.5vl_merger", "qwen2a"],
        hears: true,
        family: &qwen2_5_omni::THINKER,
        fused: false,
        published: None,
        tokens: &[
            ("audio_token_index", "<|AUDIO|>"),
            ("image_token_index", "<|IMAGE|>"),
            ("video_token_index", "<|VIDEO|>"),
            ("audio_start_token_id", "<|audio_bos|>"),
            ("audio_end_token_id", "<|audio_eos|>"),
            ("vision_start_token_id", "<|vision_bos|>"),
            ("vision_end_token_id", "<|vision_eos|>"),
        ],
    },
    Model {
        architecture: "qwen3vl",
        projectors: &["qwen3vl_merger"],
        hears: false,
        family: &qwen3_vl::FAMILY,
        fused: true,
        published: None,
        tokens: &VISION_TOKENS,
    },
    Model {
        architecture: "qwen3vlmoe",
        projectors: &["qwen3vl_merger"],
        hears: false,
        family: &qwen3_vl::MOE,
        fused: true,
        published: None,
        tokens: &VISION_TOKENS,
    },
    Model {
        architecture: "qwen3vlmoe",
        projectors: &["qwen3vl_merger", "qwen3a"],
        hears: true,
        family: &qwen3_omni::THINKER,
        fused: true,
        published: Some(("position_id_per_seconds", 13)),
        tokens: &[
            ("audio_token_id", "<|audio_pad|>"),
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
            ("audio_start_token_id", "<|audio_start|>"),
            ("audio_end_token_id", "<|audio_end|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
        ],
    },
];

/// Metadata keys behind `clip.vision.` and `clip.audio.`, and what config.json calls them.
const VISION: [(&str, &str); 5] = [
    ("block_count", "depth"),
    ("embedding_length", "hidden_size"),
    ("attention.head_count", "num_heads"),
    ("patch_size", "patch_size"),
    ("spatial_merge_size", "spatial_merge_size"),
];
const AUDIO: [(&str, &str); 5] = [
    ("block_count", "encoder_layers"),
    ("embedding_length", "d_model"),
    ("attention.head_count", "encoder_attention_heads"),
    ("feed_forward_length", "encoder_ffn_dim"),
    ("num_mel_bins", "num_mel_bins"),
];

/// The configuration of a model of two files.
pub(super) fn config(text: &Gguf, architecture: &Architecture, found: Found) -> Result<Config> {
    let Found { file, note } = found;
    let has = |tower: &str| {
        file.flag(&format!("clip.has_{tower}_encoder"))
            .map(|has| has.unwrap_or(false))
    };
    let (sees, hears) = (has("vision")?, has("audio")?);
    let model = model(&file, architecture, hears)?;
    let mut decoder = fields(text, architecture)?;
    sections(text, architecture, &mut decoder)?;
    let mut whole = Map::new();
    whole.insert("text_config".into(), Value::Object(decoder));
    // A family's reader wants both towers; what is not there is taken out again.
    whole.insert("vision_config".into(), Value::Object(vision(&file, model)?));
    if model.hears {
        whole.insert("audio_config".into(), Value::Object(audio(&file)?));
    }
    if let Some((field, n)) = model.published.filter(|_| model.hears) {
        whole.insert(field.into(), json!(n));
    }
    let key = "tokenizer.ggml.tokens";
    let listed = text.texts(key)?.unwrap_or_default();
    for (field, token) in model.tokens {
        let id = listed.iter().position(|t| t == token).ok_or_else(|| {
            text.error(key, &format!("has no `{token}`, with which media stand in a prompt; the file is of another model than its towers"))
        })?;
        whole.insert((*field).into(), json!(id));
    }
    let mut value = Value::Object(whole);
    let config =
        (model.family.parse)(&Json::of_transformers(text.path(), &value)).map_err(|e| named(e, text, &file));
    let mut config = finished(text, architecture, config)?;
    if let Some(tower) = &mut config.vision {
        if !model.fused {
            tower.names.qkv = &["attn.q", "attn.k", "attn.v"];
        }
        if let Some(eps) = file.float("clip.vision.attention.layer_norm_epsilon")? {
            tower.norm_eps = eps as f32;
        }
        let wanted = text
            .int(&format!("{}.n_deepstack_layers", architecture.name))?
            .unwrap_or(0);
        if sees && model.fused && tower.deepstack.is_empty() {
            let layers = if wanted > 0 {
                format!(" for {wanted} layers")
            } else {
                String::new()
            };
            config.held.notes.push(format!(
                "{} has no deepstack tensors{layers}: pictures reach the decoder's first layer alone, and answers about them are \
                 worse than the original's",
                file_name(file.path())
            ));
        }
    }
    if !sees {
        config.vision = None;
    }
    if !hears {
        config.audio = None;
    }
    value["model_type"] = json!(model.family.model_type);
    config.held.fields = Some(value);
    config.held.notes.extend(note);
    config.held.towers = Some(file.path().to_path_buf());
    config.held.renames = names::of(&config, Some(&file));
    Ok(config)
}

/// Which model two files are.
fn model(file: &Gguf, architecture: &Architecture, hears: bool) -> Result<&'static Model> {
    let mut projectors = Vec::new();
    for key in [
        "clip.projector_type",
        "clip.vision.projector_type",
        "clip.audio.projector_type",
    ] {
        projectors.extend(file.text(key)?);
    }
    // Omni's towers are Omni's even where the file has no audio encoder.
    let hears = hears || projectors.contains(&"qwen2.5o");
    let fits = |m: &&Model| {
        m.architecture == architecture.name
            && m.hears == hears
            && !projectors.is_empty()
            && projectors.iter().all(|p| m.projectors.contains(p))
    };
    MODELS.iter().find(fits).ok_or_else(|| {
        let problem = format!(
            "is {} in a file {} audio encoder, which is none of the towers of `{}` that are read: {}",
            if projectors.is_empty() {
                "missing".to_owned()
            } else {
                projectors.join(" and ")
            },
            if hears { "with an" } else { "without an" },
            architecture.name,
            MODELS
                .iter()
                .filter(|m| m.architecture == architecture.name)
                .map(|m| format!("{} ({})", m.projectors.join(" and "), m.family.model_type))
                .collect::<Vec<_>>()
                .join(", ")
        );
        file.unsupported("clip.projector_type", problem)
    })
}

/// How many rotary frequencies follow time, height and width.
fn sections(text: &Gguf, architecture: &Architecture, fields: &mut Map<String, Value>) -> Result<()> {
    let key = format!("{}.rope.dimension_sections", architecture.name);
    let Some(sections) = text.ints(&key)? else {
        return Ok(());
    };
    if sections.len() < 3 || sections[3..].iter().any(|n| *n != 0) {
        let problem = format!("is {sections:?}, must be three numbers (time, height, width), and 0");
        return Err(text.error(&key, &problem));
    }
    let list: Vec<i64> = sections[..3]
        .iter()
        .map(|n| i64::try_from(*n).unwrap_or(-1))
        .collect();
    let rope = fields
        .entry("rope_scaling")
        .or_insert_with(|| json!({"type": "default"}));
    rope["mrope_section"] = json!(list);
    Ok(())
}

/// The keys of a tower that the file has.
fn read(file: &Gguf, tower: &str, keys: &[(&str, &str)]) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    for (theirs, ours) in keys {
        if let Some(n) = file.int(&format!("clip.{tower}.{theirs}"))? {
            fields.insert((*ours).into(), json!(i64::try_from(n).unwrap_or(-1)));
        }
    }
    Ok(fields)
}

/// One dimension of a tensor.
fn dimension(file: &Gguf, name: &str, at: usize) -> Option<Value> {
    file.shape(name)?.get(at).map(|n| json!(n))
}

/// `vision_config`. Widths are those of the tensors: some converters write others, or 0.
fn vision(file: &Gguf, model: &Model) -> Result<Map<String, Value>> {
    let mut v = read(file, "vision", &VISION)?;
    let [up, down] = ["ffn_up", "ffn_down"].map(|n| file.shape(&format!("v.blk.0.{n}.weight")));
    let hidden = v.get("hidden_size").and_then(Value::as_u64).unwrap_or_default() as usize;
    // Files of old converters have the two names the wrong way round.
    let wide = up
        .into_iter()
        .chain(down)
        .find_map(|s| s.iter().copied().find(|n| *n != hidden));
    let wide = wide.or(up.and_then(|s| s.first().copied()));
    let out = dimension(file, "mm.2.weight", 0);
    if model.family.model_type == qwen2_vl::FAMILY.model_type {
        // This family calls its own width another name, and the tokens' width by this one.
        v.insert("embed_dim".into(), json!(hidden));
        v.extend(out.map(|out| ("hidden_size".to_owned(), out)));
        if let Some(wide) = wide.filter(|_| hidden > 0) {
            // A whole number, which all published ones are, is written as one: transformers takes no other.
            let ratio = if wide.is_multiple_of(hidden) {
                json!(wide / hidden)
            } else {
                json!(wide as f64 / hidden as f64)
            };
            v.insert("mlp_ratio".into(), ratio);
        }
    } else {
        v.extend(out.map(|out| ("out_hidden_size".to_owned(), out)));
        v.extend(wide.map(|wide| ("intermediate_size".to_owned(), json!(wide))));
    }
    if model.fused {
        v.extend(
            dimension(file, "v.position_embd.weight", 0).map(|n| ("num_position_embeddings".to_owned(), n)),
        );
        v.insert("deepstack_visual_indexes".into(), json!(deepstack(file)));
    } else if model.family.model_type != qwen2_vl::FAMILY.model_type {
        windows(file, &mut v)?;
    }
    if let Some((field, n)) = model.published.filter(|_| !model.hears) {
        v.insert(field.into(), json!(n));
    }
    Ok(v)
}

/// Blocks whose rows become tokens, too: those that have a merger in the file.
fn deepstack(file: &Gguf) -> Vec<usize> {
    let layer = |name: &str| {
        name.strip_prefix("v.deepstack.")?
            .strip_suffix(".fc1.weight")?
            .parse()
            .ok()
    };
    let mut layers: Vec<usize> = file.names().filter_map(layer).collect();
    layers.sort_unstable();
    layers
}

/// Blocks that attend over a whole frame: every n-th, or those of a list.
fn windows(file: &Gguf, v: &mut Map<String, Value>) -> Result<()> {
    let (list, every) = ("clip.vision.wa_layer_indexes", "clip.vision.n_wa_pattern");
    let depth = v.get("depth").and_then(Value::as_i64).unwrap_or_default();
    let full: Vec<i64> = if let Some(layers) = file.ints(list)? {
        layers.iter().map(|n| i64::try_from(*n).unwrap_or(-1)).collect()
    } else if let Some(n) = file.int(every)?.filter(|n| (1..=1 << 20).contains(n)) {
        (1..=depth.min(1 << 20))
            .filter(|i| i128::from(*i) % n == 0)
            .map(|i| i - 1)
            .collect()
    } else {
        return Err(file.error(every, "missing; it says which blocks attend over a whole frame"));
    };
    v.insert("fullatt_block_indexes".into(), json!(full));
    let side = file.int("clip.vision.window_size")?.filter(|n| *n > 0);
    // It is in no file of today's converters, and the same in all published models.
    v.insert(
        "window_size".into(),
        json!(side.map_or(112, |n| i64::try_from(n).unwrap_or(-1))),
    );
    Ok(())
}

/// `audio_config`.
fn audio(file: &Gguf) -> Result<Map<String, Value>> {
    let mut a = read(file, "audio", &AUDIO)?;
    let out = ["mm.a.fc.weight", "mm.a.mlp.2.weight"];
    a.extend(
        out.iter()
            .find_map(|n| dimension(file, n, 0))
            .map(|n| ("output_dim".to_owned(), n)),
    );
    a.extend(dimension(file, "a.conv2d.1.weight", 0).map(|n| ("downsample_hidden_size".to_owned(), n)));
    Ok(a)
}

/// What the towers' file says of pictures, as preprocessor_config.json would.
pub(crate) fn processor(towers: &Gguf) -> Result<Value> {
    let mut fields = Map::new();
    for key in ["image_mean", "image_std"] {
        if let Some(list) = towers.floats(&format!("clip.vision.{key}"))? {
            fields.insert(key.into(), json!(list));
        }
    }
    for (theirs, ours) in [
        ("image_min_pixels", "min_pixels"),
        ("image_max_pixels", "max_pixels"),
    ] {
        if let Some(n) = towers.int(&format!("clip.vision.{theirs}"))?.filter(|n| *n > 0) {
            fields.insert(ours.into(), json!(i64::try_from(n).unwrap_or(-1)));
        }
    }
    Ok(Value::Object(fields))
}

/// An error about a tower's field, with the key and the file in which it stands.
fn named(mut e: crate::error::Error, text: &Gguf, towers: &Gguf) -> crate::error::Error {
    use crate::error::Error::{Config, Unsupported};
    if let Config { path, field, .. } | Unsupported { path, field, .. } = &mut e
        && path == text.path()
    {
        for (prefix, tower, keys) in [
            ("vision_config.", "vision", &VISION),
            ("audio_config.", "audio", &AUDIO),
        ] {
            if let Some(plain) = field.strip_prefix(prefix) {
                let key = keys.iter().find(|k| k.1 == plain).map_or(plain, |k| k.0);
                *field = format!("clip.{tower}.{key}");
                *path = towers.path().to_path_buf();
                break;
            }
        }
    }
    e
}
