//! `generation_config.json`: how a checkpoint's tokens are chosen, in transformers' names and with its meaning.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::weights::json::Json;
use crate::weights::json::read_json;

/// The file's name.
pub const FILE: &str = "generation_config.json";

/// Below this, logits divided by a temperature could leave the numbers; it counts as 0.
const COLD: f32 = 1e-30;

/// Fields that change what `generate` of transformers chooses and that are not supported, with the number that changes
/// nothing. `null`, `false` and empty lists change nothing either.
const UNSUPPORTED: [(&str, f64); 30] = [
    ("num_beams", 1.0),
    ("num_beam_groups", 1.0),
    ("num_return_sequences", 1.0),
    ("diversity_penalty", 0.0),
    ("constraints", 0.0),
    ("force_words_ids", 0.0),
    ("penalty_alpha", 0.0),
    ("dola_layers", f64::NAN),
    ("typical_p", 1.0),
    ("top_h", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("bad_words_ids", 0.0),
    ("sequence_bias", 0.0),
    ("suppress_tokens", 0.0),
    ("begin_suppress_tokens", 0.0),
    ("forced_bos_token_id", f64::NAN),
    ("forced_eos_token_id", f64::NAN),
    ("exponential_decay_length_penalty", 0.0),
    ("guidance_scale", 1.0),
    ("watermarking_config", 0.0),
    ("token_healing", 0.0),
    ("stop_strings", 0.0),
    ("max_length", 20.0),
    ("max_time", f64::NAN),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
];

/// How tokens are chosen, as far as somebody says it: a file, or a command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Whether tokens are drawn; else the likeliest is taken.
    pub do_sample: Option<bool>,
    /// What logits are divided by; 0 takes the likeliest.
    pub temperature: Option<f32>,
    /// How many of the likeliest tokens can be drawn; 0 is all.
    pub top_k: Option<usize>,
    /// The smallest set of tokens with this probability can be drawn.
    pub top_p: Option<f32>,
    /// Tokens with at least this share of the likeliest one's probability can be drawn.
    pub min_p: Option<f32>,
    /// What logits of tokens of the prompt and the answer are divided by, multiplied where they are negative.
    pub repetition_penalty: Option<f32>,
    /// Most tokens of an answer.
    pub max_new_tokens: Option<usize>,
    /// What else the file says that would change answers and is not supported, as `num_beams 4`.
    pub unsupported: Vec<String>,
}

/// How tokens are chosen. The default takes the likeliest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// Whether tokens are drawn; else the likeliest is taken, and only `repetition_penalty` of what follows acts.
    pub do_sample: bool,
    /// What logits are divided by.
    pub temperature: f32,
    /// How many of the likeliest tokens can be drawn; 0 is all.
    pub top_k: usize,
    /// The smallest set of tokens with this probability can be drawn.
    pub top_p: f32,
    /// Tokens with at least this share of the likeliest one's probability can be drawn.
    pub min_p: f32,
    /// What logits of tokens of the prompt and the answer are divided by, multiplied where they are negative.
    pub repetition_penalty: f32,
    /// What is taken from the logits of tokens that the answer has.
    #[serde(skip_serializing_if = "is_zero")]
    pub presence_penalty: f32,
    /// The same, times how often the answer has them.
    #[serde(skip_serializing_if = "is_zero")]
    pub frequency_penalty: f32,
    /// What is added to the logits of single tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same choices.
    pub seed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(x: &f32) -> bool {
    *x == 0.0
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// `generation_config.json` as it was read; who chooses tokens and who looks for ends of an answer share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct GenerationFile {
    path: PathBuf,
    value: Option<Value>,
}

impl GenerationFile {
    /// Reads it from a checkpoint directory; a GGUF file has none beside it.
    ///
    /// # Errors
    /// A file that is not JSON.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let value = if dir.is_dir() { read_json(&path)? } else { None };
        Ok(Self { path, value })
    }

    /// What stands in it, if it is there.
    pub(crate) fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }

    /// How it says that tokens are chosen.
    ///
    /// # Errors
    /// A contradictory value, by field.
    pub(crate) fn config(&self) -> Result<GenerationConfig> {
        GenerationConfig::of(self)
    }
}

impl GenerationConfig {
    /// Reads `generation_config.json` of a checkpoint directory; without one, and for a GGUF file, nothing is said.
    /// Omni checkpoints may say it of their thinker, as `thinker_temperature` or inside `thinker_config`.
    ///
    /// # Errors
    /// A file that is not JSON; a contradictory value, by field.
    pub fn load(dir: &Path) -> Result<Self> {
        GenerationFile::read(dir)?.config()
    }

    fn of(file: &GenerationFile) -> Result<Self> {
        let Some(value) = file.value() else {
            return Ok(Self::default());
        };
        let file = Json::new(&file.path, value);
        let place = |key: &str| {
            let of_thinker = [
                file.at(&format!("thinker_{key}")),
                file.at("thinker_config").at(key),
            ];
            let found = of_thinker.into_iter().find(Json::present);
            found.unwrap_or_else(|| file.at(key))
        };
        let said = |key: &str| Some(place(key)).filter(Json::present);
        let number = |key: &'static str| -> Result<Option<f32>> {
            let Some(at) = said(key) else { return Ok(None) };
            let x = at.number()? as f32;
            // transformers takes 0 and keeps one token.
            let x = if key == "top_p" && x == 0.0 {
                f32::MIN_POSITIVE
            } else {
                x
            };
            match wrong(key, x) {
                Some(must) => Err(at.error(format!("is {x}, must be {must}"))),
                None => Ok(Some(x)),
            }
        };
        let unsupported = |(key, neutral): &(&str, f64)| {
            let value = value.get(*key).filter(|v| acts(v, *neutral))?;
            Some(match value {
                Value::Number(n) => format!("{key} {n}"),
                _ => (*key).to_owned(),
            })
        };
        Ok(Self {
            do_sample: said("do_sample").map(|at| at.bool_or(false)).transpose()?,
            temperature: number("temperature")?,
            top_k: said("top_k").map(|at| at.count()).transpose()?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            max_new_tokens: said("max_new_tokens").map(|at| at.size()).transpose()?,
            unsupported: UNSUPPORTED.iter().filter_map(unsupported).collect(),
        })
    }

    /// What this says, and where it says nothing, what `other` says.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            do_sample: self.do_sample.or(other.do_sample),
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            max_new_tokens: self.max_new_tokens.or(other.max_new_tokens),
            unsupported: [&self.unsupported[..], &other.unsupported[..]].concat(),
        }
    }

    /// The first contradictory value: its field, and what is wrong with it.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let numbers = [
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("min_p", self.min_p),
            ("repetition_penalty", self.repetition_penalty),
        ];
        let mut wrong = numbers.into_iter().filter_map(|(field, x)| {
            let x = x?;
            Some((field, format!("is {x}, must be {}", wrong(field, x)?)))
        });
        wrong.next()
    }

    /// The settings, with transformers' value for what nobody says: `top_k` is 50 where tokens are drawn.
    ///
    /// # Errors
    /// A contradictory value.
    pub fn sampling(&self, seed: u64) -> Result<Sampling> {
        if let Some((key, problem)) = self.problem() {
            let key = key.into();
            return Err(Error::Setting { key, problem });
        }
        let plain = Sampling {
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            ..Sampling::default()
        };
        let temperature = self.temperature.unwrap_or(1.0);
        if !self.do_sample.unwrap_or(false) || temperature < COLD {
            return Ok(plain);
        }
        Ok(Sampling {
            do_sample: true,
            temperature,
            top_k: self.top_k.unwrap_or(50),
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            seed,
            ..plain
        })
    }
}

impl Sampling {
    /// What acts, in words: `temperature 0.7, top_k 20, top_p 0.8, seed 0`; `None` where the likeliest token is taken.
    pub fn words(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.do_sample {
            parts.push(format!("temperature {}", self.temperature));
            parts.extend((self.top_k > 0).then(|| format!("top_k {}", self.top_k)));
            parts.extend((self.top_p < 1.0).then(|| format!("top_p {}", self.top_p)));
            parts.extend((self.min_p > 0.0).then(|| format!("min_p {}", self.min_p)));
        }
        parts.extend(
            (self.repetition_penalty != 1.0)
                .then(|| format!("repetition_penalty {}", self.repetition_penalty)),
        );
        parts.extend(self.do_sample.then(|| format!("seed {}", self.seed)));
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// What the number of a field must be, where it is not.
fn wrong(field: &str, x: f32) -> Option<&'static str> {
    let (good, must) = match field {
        "temperature" => (x >= 0.0, "0 (the likeliest token) or above"),
        "top_p" => (x > 0.0 && x <= 1.0, "above 0 and at most 1"),
        "min_p" => ((0.0..=1.0).contains(&x), "from 0 to 1"),
        _ => (x > 0.0, "above 0; 1 changes nothing"),
    };
    (!good || !x.is_finite()).then_some(must)
}

/// Whether a value of an unsupported field would change anything.
fn acts(value: &Value, neutral: f64) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Number(n) => n.as_f64() != Some(neutral),
        Value::Bool(true) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str) -> Result<GenerationConfig> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), json).unwrap();
        GenerationConfig::load(dir.path())
    }

    #[test]
    fn published_files_mean_what_transformers_makes_of_them() {
        let qwen3 = r#"{"bos_token_id": 1, "do_sample": true, "eos_token_id": [2, 1], "top_k": 20, "top_p": 0.8,
            "repetition_penalty": 1.0, "temperature": 0.7, "transformers_version": "4.56.0"}"#;
        let words = |json| load(json).unwrap().sampling(0).unwrap().words();
        assert_eq!(
            words(qwen3).unwrap(),
            "temperature 0.7, top_k 20, top_p 0.8, seed 0"
        );
        let qwen2_5 = r#"{"do_sample": true, "repetition_penalty": 1.05, "temperature": 0.000001}"#;
        assert_eq!(
            words(qwen2_5).unwrap(),
            "temperature 0.000001, top_k 50, repetition_penalty 1.05, seed 0"
        );
        let omni = r#"{"_from_model_config": true, "transformers_version": "4.50.0.dev0"}"#;
        assert_eq!(words(omni), None);
        assert_eq!(
            words(r#"{"do_sample": false, "temperature": 0.7, "top_p": 0.5}"#),
            None
        );
        assert_eq!(words(r#"{"do_sample": true, "temperature": 0}"#), None);
        assert_eq!(
            words(r#"{"repetition_penalty": 1.1}"#).unwrap(),
            "repetition_penalty 1.1"
        );
        assert_eq!(
            words(r#"{"do_sample": true, "top_k": 0, "top_p": 1}"#).unwrap(),
            "temperature 1, seed 0"
        );
        assert!(
            load(r#"{"do_sample": true, "top_p": 0}"#)
                .unwrap()
                .sampling(0)
                .unwrap()
                .top_p
                > 0.0
        );
    }

    #[test]
    fn a_thinker_is_spoken_of_by_name_and_a_talker_is_not_ours() {
        let file = r#"{"thinker_do_sample": true, "temperature": 0.4, "thinker_config": {"top_k": 7, "temperature": 0.5},
            "thinker_max_new_tokens": 99, "talker_temperature": 0.9, "talker_top_k": 40}"#;
        let got = load(file).unwrap();
        assert_eq!(got.max_new_tokens, Some(99));
        assert_eq!(
            got.sampling(3).unwrap().words().unwrap(),
            "temperature 0.5, top_k 7, seed 3"
        );
    }

    #[test]
    fn what_is_said_first_wins_field_by_field() {
        let file = load(r#"{"do_sample": true, "top_k": 20, "top_p": 0.8, "max_new_tokens": 10}"#).unwrap();
        let typed = GenerationConfig {
            top_p: Some(0.5),
            temperature: Some(0.3),
            ..GenerationConfig::default()
        };
        let both = typed.or(&file);
        assert_eq!(
            both.sampling(1).unwrap().words().unwrap(),
            "temperature 0.3, top_k 20, top_p 0.5, seed 1"
        );
        assert_eq!(both.max_new_tokens, Some(10));
    }

    #[test]
    fn what_is_not_supported_is_named_where_it_would_act() {
        let silent = r#"{"num_beams": 1, "no_repeat_ngram_size": 0, "bad_words_ids": null, "suppress_tokens": [], "guidance_scale": 1.0,
            "typical_p": 1.0, "min_length": 0, "early_stopping": false, "stop_strings": null, "max_length": 20}"#;
        assert_eq!(load(silent).unwrap().unsupported, [""; 0]);
        let loud = r#"{"num_beams": 4, "no_repeat_ngram_size": 3, "dola_layers": "high", "suppress_tokens": [5], "forced_eos_token_id": 0}"#;
        assert_eq!(
            load(loud).unwrap().unsupported,
            [
                "num_beams 4",
                "dola_layers",
                "no_repeat_ngram_size 3",
                "suppress_tokens",
                "forced_eos_token_id 0"
            ]
        );
    }

    #[test]
    fn impossible_values_are_refused_by_file_and_field() {
        for (json, field) in [
            (r#"{"temperature": -1}"#, "temperature"),
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"top_k": -5}"#, "top_k"),
            (r#"{"top_k": 2.5}"#, "top_k"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"min_p": -0.1}"#, "min_p"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
            (
                r#"{"thinker_repetition_penalty": -2}"#,
                "thinker_repetition_penalty",
            ),
            (r#"{"do_sample": "yes"}"#, "do_sample"),
            (r#"{"max_new_tokens": 0}"#, "max_new_tokens"),
            ("[", ""),
        ] {
            let error = load(json).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains(field), "{json}: {error}");
        }
        let typed = GenerationConfig {
            repetition_penalty: Some(f32::NAN),
            ..GenerationConfig::default()
        };
        assert!(typed.sampling(0).is_err());
    }

    #[test]
    fn where_there_is_no_file_nothing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            GenerationConfig::load(dir.path()).unwrap(),
            GenerationConfig::default()
        );
        assert_eq!(
            GenerationConfig::default().sampling(9).unwrap(),
            Sampling::default()
        );
        let gguf = dir.path().join("model.gguf");
        std::fs::write(&gguf, "GGUF").unwrap();
        assert_eq!(
            GenerationConfig::load(&gguf).unwrap(),
            GenerationConfig::default()
        );
    }
}
