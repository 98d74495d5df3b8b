//! LoRA adapters (peft), merged into the matrices that they change as these are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use outro_kernels::{Weight, linear};
use regex_lite::Regex;

use super::matrix::{Data, convert};
use super::{Checkpoint, Dtype, Matrix, Reading, files};
use crate::error::{Error, Result};
use crate::weights::json::{Json, read_json};

/// An adapter to be merged into a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The directory that holds `adapter_config.json` and `adapter_model.safetensors`.
    pub dir: PathBuf,
    /// What its changes are multiplied with; 1 as it was trained.
    pub weight: f32,
}

impl Adapter {
    /// The adapter in a directory, as it was trained.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            weight: 1.0,
        }
    }
}

/// The model that an adapter changes (`base_model_name_or_path`: a directory or a hub id), where `dir` holds an adapter and no
/// whole model.
///
/// # Errors
/// An `adapter_config.json` that cannot be read or does not say it.
pub fn adapter_base(dir: &Path) -> Result<Option<String>> {
    // Some training scripts save the model's config.json beside the adapter.
    let whole = [files::SINGLE, files::INDEX]
        .iter()
        .any(|f| dir.join(f).is_file());
    if whole { Ok(None) } else { base_of(dir) }
}

/// The model that the adapter in a directory changes, if there is one.
pub(crate) fn base_of(dir: &Path) -> Result<Option<String>> {
    let path = dir.join(files::ADAPTER);
    if !path.is_file() {
        return Ok(None);
    }
    let value = read_json(&path)?.unwrap_or_default();
    let base = Json::new(&path, &value).at("base_model_name_or_path");
    Ok(Some(base.str()?.to_owned()))
}

/// An opened adapter.
pub(super) struct Opened {
    pub(super) weights: Checkpoint,
    pub(super) weight: f32,
    /// What is done to a tensor of the model, by its name.
    changes: BTreeMap<String, Change>,
}

enum Change {
    /// `scale * B A` is added; the name of the module in the adapter's file, and the rank.
    Add { module: String, rank: usize, scale: f32 },
    /// A tensor of the adapter's file takes its place.
    Replace(String),
}

/// `alpha`, and whether it is divided by the root of the rank.
struct Scaling {
    alpha: f64,
    /// First match wins.
    patterns: Vec<(Regex, f64)>,
    root: bool,
}

impl Scaling {
    fn read(json: &Json) -> Result<Self> {
        let patterns = json.at("alpha_pattern");
        let compiled = patterns.fields().map(|(key, _)| {
            // As peft matches: the key is a module's name, or its end.
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"));
            let regex = regex.map_err(|e| patterns.at(key).error(format!("is no pattern: {e}")))?;
            Ok((regex, patterns.at(key).number()?))
        });
        Ok(Self {
            alpha: json.at("lora_alpha").number()?,
            patterns: compiled.collect::<Result<_>>()?,
            root: json.at("use_rslora").bool_or(false)?,
        })
    }

    fn of(&self, module: &str, rank: usize) -> f32 {
        let own = self.patterns.iter().find(|(regex, _)| regex.is_match(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        (alpha / if self.root { rank.sqrt() } else { rank }) as f32
    }
}

/// Fields that make other changes than `scale * B A`, with the values that are none.
const REFUSED: [(&str, &str); 12] = [
    (
        "use_dora",
        "is true: DoRA scales columns by magnitudes of their own",
    ),
    ("use_qalora", "is true: QA-LoRA groups inputs"),
    ("lora_bias", "is true: the second matrix has a bias"),
    (
        "fan_in_fan_out",
        "is true: weights are stored the other way round",
    ),
    ("layer_replication", "repeats layers of the model"),
    ("megatron_config", "is of a model in parts"),
    (
        "alora_invocation_tokens",
        "is given: an activated LoRA acts only behind these tokens",
    ),
    (
        "arrow_config",
        "is given: Arrow chooses among adapters token by token",
    ),
    ("kasa_config", "is given: KaSA has singular values of its own"),
    ("monteclora_config", "is given: MonteCLoRA samples its matrices"),
    ("use_bdlora", "is true: BD-LoRA's matrices are block-diagonal"),
    (
        "target_parameters",
        "is given: it changes stacks of matrices (experts)",
    ),
];

/// Ways to begin the training that change the model's own weights, so that the adapter is none of the published model's.
const CHANGED_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Refuses what is not merged.
fn check(json: &Json) -> Result<()> {
    let kind = json.at("peft_type");
    if kind.str()? != "LORA" {
        return Err(kind.unsupported(format!("is {}; only LORA is merged", kind.shown())));
    }
    for (key, is) in REFUSED {
        let field = json.at(key);
        if !field.says(&[0.0]) {
            let problem = format!(
                "{is}, which is not merged here; merge it with peft (merge_and_unload) and give the result"
            );
            return Err(field.unsupported(problem));
        }
    }
    let begin = json.at("init_lora_weights");
    if let Ok(name) = begin.str()
        && CHANGED_BASE.iter().any(|c| name.to_lowercase().starts_with(c))
    {
        let problem = format!(
            "is {name}: the training changed the model's own weights too; merge it with peft and give the result"
        );
        return Err(begin.unsupported(problem));
    }
    Ok(())
}

impl Opened {
    fn open(adapter: &Adapter, model: &Checkpoint, reading: &Reading) -> Result<Self> {
        let (config, path) = (
            adapter.dir.join(files::ADAPTER),
            adapter.dir.join(files::ADAPTER_WEIGHTS),
        );
        let Some(value) = read_json(&config)? else {
            let problem = "is not there; an adapter has it, beside adapter_model.safetensors";
            return Err(Error::missing(config, problem));
        };
        let json = Json::new(&config, &value);
        check(&json)?;
        let scaling = Scaling::read(&json)?;
        if !path.is_file() {
            let problem = "is not there; adapters are read from safetensors, adapter_model.bin is not: save it anew with peft";
            return Err(Error::missing(path, problem));
        }
        let mut weights = Checkpoint::empty(&adapter.dir);
        weights.add_shard(&path, |_| true, &|name| plain(name))?;
        let mut changes = BTreeMap::new();
        let mut left = 0;
        for (name, info) in weights.tensors() {
            let wrong =
                |problem: &str| Error::unsupported(&path, "", format!("tensor `{}` {problem}", info.name));
            if name.contains(".lora_magnitude_vector") || name.contains(".lora_embedding_") {
                return Err(wrong(
                    "is of a kind of adapter that is not merged; merge it with peft (merge_and_unload)",
                ));
            }
            if name.ends_with(".lora_B.weight") {
                continue;
            }
            let (module, target) = match name.strip_suffix(".lora_A.weight") {
                Some(module) => (module, format!("{module}.weight")),
                None => (name.as_str(), name.clone()),
            };
            let Some(target) = found(model, reading, &target) else {
                if reading.skip.iter().any(|s| target.starts_with(s)) {
                    left += 1;
                    continue;
                }
                return Err(wrong(
                    "changes a part that the model does not have; it is an adapter of another model",
                ));
            };
            let change = if name.ends_with(".lora_A.weight") {
                let rank = info.shape.first().copied().filter(|r| *r > 0);
                let rank = rank.ok_or_else(|| wrong("has no rows"))?;
                if !weights.holds(&format!("{module}.lora_B.weight")) {
                    return Err(wrong("has no lora_B beside it; the file is incomplete"));
                }
                Change::Add {
                    module: module.to_owned(),
                    rank,
                    scale: scaling.of(module, rank),
                }
            } else if adapter.weight == 1.0 {
                Change::Replace(name.clone())
            } else {
                return Err(wrong(&format!(
                    "takes the place of the model's (modules_to_save), which has no part of {}; give the adapter without a weight",
                    adapter.weight
                )));
            };
            if changes.insert(target, change).is_some() {
                return Err(wrong("changes what another tensor changes, too"));
            }
        }
        if changes.is_empty() {
            let problem = if left > 0 {
                "changes nothing but the part that makes speech"
            } else {
                "holds no LoRA matrices"
            };
            return Err(Error::checkpoint(path, problem));
        }
        Ok(Self {
            weights,
            weight: adapter.weight,
            changes,
        })
    }

    /// Adds what this adapter changes of a tensor `[rows, cols]`.
    fn merge(&self, name: &str, shape: &[usize], values: &mut Vec<f32>) -> Result<()> {
        match self.changes.get(name) {
            None => Ok(()),
            Some(Change::Replace(own)) => {
                *values = self.weights.table(own, shape)?;
                Ok(())
            }
            Some(Change::Add { module, rank, scale }) => {
                let (rows, cols) = (shape[0], shape[1..].iter().product::<usize>());
                // A convolution's first matrix has the kernel's shape, its second is one of 1 x 1.
                let first = [&[*rank], &shape[1..]].concat();
                let a = self.weights.table(&format!("{module}.lora_A.weight"), &first)?;
                let second = [&[rows, *rank][..], &vec![1; shape.len() - 2]].concat();
                let mut b = self.weights.table(&format!("{module}.lora_B.weight"), &second)?;
                let scale = scale * self.weight;
                for x in &mut b {
                    *x *= scale;
                }
                let mut turned = vec![0f32; a.len()];
                for (r, row) in a.chunks_exact(cols.max(1)).enumerate() {
                    for (c, x) in row.iter().enumerate() {
                        turned[c * rank + r] = *x;
                    }
                }
                let mut change = vec![0f32; rows * cols];
                linear(&b, rows, *rank, Weight::F32(&turned), cols, None, &mut change);
                for (value, change) in values.iter_mut().zip(&change) {
                    *value += change;
                }
                Ok(())
            }
        }
    }
}

/// The module's or tensor's name: without the wrappers that peft puts around the model, and the adapter's own name.
fn plain(name: &str) -> String {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let mut name = name
        .replace(".base_layer.", ".")
        .replace(".modules_to_save.", ".");
    for part in [
        ".lora_A.",
        ".lora_B.",
        ".lora_magnitude_vector.",
        ".lora_embedding_A.",
        ".lora_embedding_B.",
    ] {
        if let Some((module, rest)) = name.split_once(part)
            && let Some((_, kind)) = rest.split_once('.')
        {
            // `lora_A.default.weight`, as a model that was not saved by peft has it.
            name = format!("{module}{part}{kind}");
        }
    }
    name.strip_suffix(".default").map_or(name.clone(), str::to_owned)
}

/// The model's tensor by any of the names that releases of transformers gave it.
fn found(model: &Checkpoint, reading: &Reading, name: &str) -> Option<String> {
    let thinker = name.strip_prefix("thinker.").map(str::to_owned);
    let longer = [format!("thinker.{name}"), format!("model.{name}")];
    // Before transformers 4.52 the decoder stood below `model`, and now below `model.language_model`.
    let deeper = name
        .strip_prefix("model.")
        .map(|rest| format!("model.language_model.{rest}"));
    let all = std::iter::once(name.to_owned())
        .chain(thinker)
        .chain(longer)
        .chain(deeper);
    let mut all = all.map(|n| super::key(&n, reading.renamed));
    all.find(|n| model.holds(n))
}

impl Checkpoint {
    /// Opens the adapters.
    pub(super) fn adapted(mut self, reading: &Reading) -> Result<Self> {
        for adapter in reading.adapters {
            let opened = Opened::open(adapter, &self, reading)?;
            let replaced =
                |o: &Opened, name: &String| matches!(o.changes.get(name), Some(Change::Replace(_)));
            let both = opened
                .changes
                .keys()
                .find(|n| replaced(&opened, n) && self.adapters.iter().any(|other| replaced(other, n)));
            if let Some(name) = both {
                let problem =
                    format!("takes the place of `{name}`, as an earlier adapter does; give one of the two");
                return Err(Error::unsupported(
                    adapter.dir.join(files::ADAPTER_WEIGHTS),
                    "",
                    problem,
                ));
            }
            self.adapters.push(opened);
        }
        Ok(self)
    }

    /// A tensor with what adapters change of it, in the type in which it is stored where nobody asks for another, as peft merges it;
    /// bf16 where that is one of blocks. `None` where none changes it.
    pub(super) fn merged(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<Option<Matrix>> {
        if !self.adapters.iter().any(|a| a.changes.contains_key(name)) {
            return Ok(None);
        }
        let base = self.base(name, shape, Dtype::Auto)?;
        let mut values = vec![0f32; base.rows() * base.cols()];
        base.all(&mut values);
        for adapter in &self.adapters {
            adapter.merge(name, shape, &mut values)?;
        }
        let dtype = match dtype {
            Dtype::Auto => base.stored().dtype().unwrap_or(Dtype::Bf16),
            other => other,
        };
        let data: Data = convert(values, dtype).ok_or_else(|| Error::Narrow {
            path: self.dir.clone(),
            tensor: base.name().to_owned(),
            dtype: "f16",
        })?;
        Ok(Some(Matrix {
            data,
            order: None,
            ..base
        }))
    }
}
