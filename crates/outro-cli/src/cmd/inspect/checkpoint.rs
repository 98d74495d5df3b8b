//! What a checkpoint is, from its config and the headers of its shards. No weights are read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::shell::source::Source;

use anyhow::Context;
use outro::checkpoint::Audit;
use outro::config::{Config, TextConfig};
use outro::family::Names;
use outro::prepare::Preparer;
use outro::{KvType, Model};
use serde::Serialize;
use serde_json::{Value, json};

use crate::ui::{bytes, thousands};

/// Tensors of a kind that the text names.
const SHOWN: usize = 12;

/// How many prompt tokens the memory estimate assumes: half a minute of video with sound.
const TYPICAL_PROMPT: u64 = 10_000;

/// Numbers of one part of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Part {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

impl Part {
    /// Bits of a weight.
    fn bits(&self) -> f64 {
        8.0 * self.bytes as f64 / self.parameters.max(1) as f64
    }

    fn add(&mut self, parameters: u64, bytes: u64) {
        self.tensors += 1;
        self.parameters = self.parameters.saturating_add(parameters);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

#[derive(Debug, Serialize)]
struct Shard {
    file: String,
    bytes: u64,
    tensors: usize,
}

/// All that `outro inspect` says about a checkpoint.
#[derive(Debug)]
pub(crate) struct Report {
    dir: PathBuf,
    config: Config,
    shards: Vec<Shard>,
    parts: BTreeMap<&'static str, Part>,
    skipped: usize,
    dtypes: BTreeMap<String, u64>,
    /// Matrices that a quantiser packed; their weights and what is beside them.
    packed: Part,
    audit: Audit,
    /// What the tokenizer was read from.
    tokenizer: Option<String>,
    /// The chat template's file.
    template: Option<String>,
    /// What is wrong with the files of tokenizer, template and processor.
    problem: Option<String>,
}

/// Reads `dir`'s config and shard headers, and checks that they fit each other, the files' lengths and what the model needs,
/// and the files that prepare prompts.
pub(crate) fn read(source: &Source) -> anyhow::Result<Report> {
    let dir = source.dir.as_path();
    let config = source.config()?;
    let names = config.names;
    let checkpoint = config.checkpoint(dir)?;
    let preparer = Preparer::of(config.clone(), dir);
    let mut report = Report {
        dir: dir.to_path_buf(),
        config: config.clone(),
        shards: Vec::new(),
        parts: BTreeMap::new(),
        skipped: checkpoint.skipped(),
        dtypes: BTreeMap::new(),
        packed: Part::default(),
        audit: Model::audit_of(config.clone(), dir)?,
        tokenizer: None,
        template: None,
        problem: None,
    };
    match preparer {
        Ok(p) => {
            report.tokenizer = p.tokenizer().map(|t| t.form().to_owned());
            report.template = p.template_file();
        }
        Err(e) => report.problem = Some(e.to_string()),
    }
    for (path, length) in checkpoint.shards() {
        let file = path
            .file_name()
            .map(|n| n.display().to_string())
            .unwrap_or_default();
        report.shards.push(Shard {
            file,
            bytes: length as u64,
            tensors: 0,
        });
    }
    for (name, info) in checkpoint.tensors() {
        let parameters = info.shape.iter().try_fold(1_u64, |n, d| n.checked_mul(*d as u64));
        let parameters =
            parameters.with_context(|| format!("{}: tensor {name}: its shape overflows", dir.display()))?;
        let packed = checkpoint.packed_weights(name);
        if let Some(weights) = packed {
            report.packed.add(weights, info.bytes() as u64);
        }
        let parameters = packed.unwrap_or(parameters);
        report
            .parts
            .entry(part(name, &names))
            .or_default()
            .add(parameters, info.bytes() as u64);
        let of_type = report.dtypes.entry(info.dtype.clone()).or_default();
        *of_type = of_type.saturating_add(parameters);
        if let Some(shard) = report.shards.get_mut(info.shard) {
            shard.tensors += 1;
        }
    }
    Ok(report)
}

/// The part of the model that a tensor belongs to.
fn part(name: &str, names: &Names) -> &'static str {
    if name == names.lm_head {
        "output head"
    } else if !names.vision.is_empty() && (name.starts_with(names.vision) || name.starts_with(names.merger)) {
        "vision tower"
    } else if !names.audio.is_empty() && name.starts_with(names.audio) {
        "audio tower"
    } else if name.starts_with(names.text) {
        "decoder"
    } else {
        "other"
    }
}

/// What a run needs beside the weights, in bytes.
pub(crate) struct Need {
    /// Keys and values of one token, f32.
    pub(crate) cache_per_token: u64,
    /// Activations of one prompt token during the prefill, f32.
    pub(crate) work_per_token: u64,
}

/// What follows attention.
fn mlp(t: &TextConfig) -> String {
    let Some(moe) = &t.moe else {
        return format!("MLP {}", t.intermediate);
    };
    let sparse = (0..t.layers).filter(|l| moe.at(*l)).count();
    let experts = format!("{} of {} experts of {}", moe.top_k, moe.experts, moe.intermediate);
    if sparse == t.layers {
        return experts;
    }
    format!(
        "{experts} in {sparse} layers, MLP {} in the others",
        t.intermediate
    )
}

/// Keys and values of one token in a cache of a type.
fn cache_per_token(t: &TextConfig, kv: KvType) -> u64 {
    2 * t.layers as u64 * t.kv_heads as u64 * kv.head_bytes(t.head_dim) as u64
}

/// From the sizes of the decoder alone.
pub(crate) fn need(config: &Config) -> Need {
    let t = &config.text;
    let (kv, q) = ((t.kv_heads * t.head_dim) as u64, (t.heads * t.head_dim) as u64);
    Need {
        cache_per_token: cache_per_token(t, KvType::F32),
        // Residual stream, its norm, the embeddings and an output; q twice (head outputs); k, v; both halves of the MLP.
        work_per_token: (4 * t.hidden as u64 + 2 * q + 2 * kv + 2 * t.intermediate as u64) * 4,
    }
}

impl Report {
    /// Bytes of the weights that are read, as they are stored.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.parts.values().fold(0, |n, p| n.saturating_add(p.bytes))
    }

    /// What keeps the model from running, in a line; `None` for nothing.
    pub(crate) fn fault(&self) -> Option<String> {
        let counts = [
            (self.audit.missing.len(), "missing"),
            (self.audit.misshaped.len(), "of another shape"),
            (self.audit.unreadable.len(), "of a type that is not read"),
        ];
        let told: Vec<String> = counts
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} {what}"))
            .collect();
        let tensors = (!told.is_empty()).then(|| format!("tensors: {}", told.join(", ")));
        let parts: Vec<String> = tensors.into_iter().chain(self.problem.clone()).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Tensors with something to say about them, by what that is.
    fn tensors(&self) -> [(&'static str, Vec<String>); 4] {
        let a = &self.audit;
        let named = |list: &[outro::checkpoint::Tensor]| -> Vec<String> {
            list.iter().map(|t| format!("{} {:?}", t.name, t.shape)).collect()
        };
        let shapes = a.misshaped.iter();
        [
            ("missing", named(&a.missing)),
            (
                "shapes",
                shapes
                    .map(|t| format!("{} {:?}, needed {:?}", t.name, t.shape, t.wanted))
                    .collect(),
            ),
            (
                "unreadable",
                a.unreadable
                    .iter()
                    .map(|t| format!("{} {}", t.name, t.dtype))
                    .collect(),
            ),
            ("unexpected", named(&a.unexpected)),
        ]
    }

    fn parameters(&self) -> u64 {
        self.parts.values().fold(0, |n, p| n.saturating_add(p.parameters))
    }

    fn typical(&self) -> u64 {
        let need = need(&self.config);
        self.weight_bytes()
            .saturating_add(TYPICAL_PROMPT * (need.cache_per_token + need.work_per_token))
    }

    /// How matrices are packed, and in what they are multiplied.
    fn packed(&self) -> Option<String> {
        let scheme = self
            .config
            .held
            .scheme
            .as_ref()
            .filter(|_| self.packed.parameters > 0)?;
        Some(format!(
            "{}: {} weights of {:.1} bits, scales included; codes and scales stay as they are, products are in f32, with \
             `--activations auto` and codes that are no floats in 8 bits",
            scheme.name(),
            thousands(self.packed.parameters),
            self.packed.bits(),
        ))
    }

    /// For `--json`.
    pub(crate) fn json(&self) -> Value {
        let (c, t) = (&self.config, &self.config.text);
        let need = need(c);
        let shards: Vec<Value> = self.shards.iter().map(|s| json!(s)).collect();
        json!({
            "kind": "checkpoint",
            "path": self.dir.display().to_string(),
            "family": c.model_type,
            "decoder": {
                "layers": t.layers, "hidden": t.hidden, "heads": t.heads, "kv_heads": t.kv_heads, "head_dim": t.head_dim,
                "intermediate": t.intermediate, "vocab": t.vocab, "max_positions": t.max_positions, "tied": t.tied,
                "experts": t.moe.as_ref().map(|m| json!({
                    "count": m.experts, "top_k": m.top_k, "intermediate": m.intermediate,
                    "layers": (0..t.layers).filter(|l| m.at(*l)).count(),
                })),
            },
            "vision": c.vision.as_ref().map(|v| json!({
                "blocks": v.depth, "hidden": v.hidden, "heads": v.heads, "patch": v.patch, "temporal": v.temporal, "merge": v.merge,
            })),
            "audio": c.audio.as_ref().map(|a| json!({
                "layers": a.layers, "hidden": a.hidden, "heads": a.heads, "mel_bins": a.mel_bins,
            })),
            "tokenizer": self.tokenizer,
            "template": self.template,
            "problem": self.problem,
            "loads": self.audit.loads(),
            "tensors": {
                "missing": tensors(&self.audit.missing),
                "misshaped": self.audit.misshaped.iter()
                    .map(|t| json!({"name": t.name, "shape": t.shape, "needed": t.wanted})).collect::<Vec<_>>(),
                "unreadable": self.audit.unreadable.iter()
                    .map(|t| json!({"name": t.name, "type": t.dtype})).collect::<Vec<_>>(),
                "unexpected": tensors(&self.audit.unexpected),
            },
            "notes": self.audit.notes,
            "parameters": self.parameters(),
            "parts": self.parts.iter().map(|(k, p)| ((*k).to_owned(), json!(p))).collect::<serde_json::Map<_, _>>(),
            "skipped_tensors": self.skipped,
            "dtypes": json!(self.dtypes),
            "packed": self.config.held.scheme.as_ref().map(|s| json!({
                "by": s.name(), "parameters": self.packed.parameters, "bytes": self.packed.bytes,
                "bits_a_weight": self.packed.bits(),
            })),
            "shards": shards,
            "special_tokens": self.special().into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect::<serde_json::Map<_, _>>(),
            "memory": {
                "weights": self.weight_bytes(),
                "weights_f32": self.parameters().saturating_mul(4),
                "cache_per_token": need.cache_per_token,
                "cache_per_token_by": KvType::ALL.into_iter()
                    .map(|kv| (kv.name().to_owned(), json!(cache_per_token(t, kv)))).collect::<serde_json::Map<_, _>>(),
                "prefill_per_token": need.work_per_token,
                "at_10000_tokens": self.typical(),
            },
        })
    }

    fn special(&self) -> Vec<(&'static str, Option<u32>)> {
        let s = &self.config.tokens;
        vec![
            ("audio", s.audio),
            ("audio_start", s.audio_start),
            ("audio_end", s.audio_end),
            ("image", s.image),
            ("video", s.video),
            ("vision_start", s.vision_start),
            ("vision_end", s.vision_end),
        ]
    }

    /// For a reader.
    pub(crate) fn text(&self) -> String {
        let (c, t) = (&self.config, &self.config.text);
        let need = need(c);
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "checkpoint   {}", self.dir.display());
        let _ = writeln!(out, "family       {}", c.model_type);
        let _ = writeln!(
            out,
            "decoder      {} layers, hidden {}, {} heads, {} key/value heads of {}, {}, vocabulary {}, up to {} tokens, {} output head",
            t.layers,
            t.hidden,
            t.heads,
            t.kv_heads,
            t.head_dim,
            mlp(t),
            thousands(t.vocab as u64),
            thousands(t.max_positions as u64),
            if t.tied { "tied" } else { "untied" },
        );
        match &c.vision {
            Some(v) => {
                let _ = writeln!(
                    out,
                    "vision       {} blocks, hidden {}, {} heads, patch {}, merge {}",
                    v.depth, v.hidden, v.heads, v.patch, v.merge
                );
            }
            None => out.push_str("vision       none\n"),
        }
        match &c.audio {
            Some(a) => {
                let _ = writeln!(
                    out,
                    "audio        {} layers, hidden {}, {} heads, {} mel bins",
                    a.layers, a.hidden, a.heads, a.mel_bins
                );
            }
            None => out.push_str("audio        none\n"),
        }
        let none = "none: prepared inputs only (outro trace)";
        let read = |what: &Option<String>, none: &str| match (&self.problem, what) {
            (Some(_), _) => "see problem".to_owned(),
            (None, what) => what.as_deref().unwrap_or(none).to_owned(),
        };
        let _ = writeln!(out, "tokenizer    {}", read(&self.tokenizer, none));
        let _ = writeln!(out, "template     {}", read(&self.template, "none: plain ChatML"));
        let _ = writeln!(out, "parameters   {}", thousands(self.parameters()));
        for (name, p) in &self.parts {
            let _ = writeln!(
                out,
                "  {name:<12} {} in {} tensors, {}, {:.1} bits each",
                thousands(p.parameters),
                p.tensors,
                bytes(p.bytes),
                p.bits(),
            );
        }
        if self.skipped > 0 {
            let _ = writeln!(out, "  never read   {} tensors (speech output)", self.skipped);
        }
        let types: Vec<String> = self
            .dtypes
            .iter()
            .map(|(k, n)| format!("{k} {}", thousands(*n)))
            .collect();
        let _ = writeln!(out, "types        {}", types.join(", "));
        if let Some(packed) = self.packed() {
            let _ = writeln!(out, "packed       {packed}");
        }
        for (kind, list) in self.tensors() {
            for (i, tensor) in list.iter().take(SHOWN).enumerate() {
                let _ = writeln!(out, "{:<12} {tensor}", if i == 0 { kind } else { "" });
            }
            if list.len() > SHOWN {
                let _ = writeln!(
                    out,
                    "{:<12} and {} more (--json lists them)",
                    "",
                    list.len() - SHOWN
                );
            }
        }
        for s in &self.shards {
            let _ = writeln!(
                out,
                "shard        {}: {}, {} tensors",
                s.file,
                bytes(s.bytes),
                s.tensors
            );
        }
        let special: Vec<String> = self
            .special()
            .iter()
            .filter_map(|(k, v)| v.map(|v| format!("{k} {v}")))
            .collect();
        let special = if special.is_empty() {
            "none for media".to_owned()
        } else {
            special.join(", ")
        };
        let _ = writeln!(out, "tokens       {special}");
        let small = KvType::ALL.into_iter().filter(|kv| *kv != KvType::F32);
        let small: Vec<String> = small
            .map(|kv| format!("{} {}", kv.name(), bytes(cache_per_token(t, kv))))
            .collect();
        let _ = writeln!(
            out,
            "memory       weights {} as stored ({} in f32); a prompt token {} of cache ({}) and {} of work; about {} for {} tokens",
            bytes(self.weight_bytes()),
            bytes(self.parameters().saturating_mul(4)),
            bytes(need.cache_per_token),
            small.join(", "),
            bytes(need.work_per_token),
            bytes(self.typical()),
            thousands(TYPICAL_PROMPT),
        );
        for note in &self.audit.notes {
            let _ = writeln!(out, "note         {note}");
        }
        if let Some(problem) = &self.problem {
            let _ = writeln!(out, "problem      {problem}");
        }
        out
    }
}

fn tensors(list: &[outro::checkpoint::Tensor]) -> Vec<Value> {
    list.iter()
        .map(|t| json!({"name": t.name, "shape": t.shape}))
        .collect()
}
