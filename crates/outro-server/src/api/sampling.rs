//! How tokens are chosen, as a request says it.

use outro::engine::Ends;
use outro::generate::{GenerationConfig, Sampling};
use serde_json::Value;

use super::{ApiError, Fields};

/// What a request says about choosing tokens; what it leaves out is the checkpoint's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choosing {
    said: GenerationConfig,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: Vec<(u32, f32)>,
    seed: u64,
    /// Most tokens.
    pub(crate) max_tokens: Option<usize>,
    /// Answers wanted.
    pub(crate) n: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) ends: Ends,
    /// The answer is one of these.
    pub(crate) choices: Vec<String>,
    /// Log-probabilities with so many of the likeliest tokens.
    pub(crate) logprobs: Option<usize>,
}

/// Most answers to one request.
const MOST: usize = 16;
/// Most of the likeliest tokens whose log-probabilities are told.
const TOP: usize = 20;

impl Choosing {
    pub(crate) fn read(f: &Fields) -> Result<Self, ApiError> {
        let temperature = f.number("temperature", 0.0, 100.0)?;
        let top_p = f.number("top_p", 0.0, 1.0)?;
        let top_k = match f.get("top_k").and_then(Value::as_i64) {
            // vLLM's word for all.
            Some(-1) => Some(0),
            _ => f.count("top_k")?,
        };
        let n = f.count("n")?.unwrap_or(1);
        if !(1..=MOST).contains(&n) {
            return Err(f.wrong("n", format!("must be from 1 to {MOST}")));
        }
        let said = GenerationConfig {
            // Who says a temperature wants tokens drawn.
            do_sample: temperature
                .map(|t| t > 0.0)
                .or((top_p.is_some() || top_k.is_some()).then_some(true)),
            temperature,
            top_k,
            top_p: top_p.map(|p| p.max(f32::MIN_POSITIVE)),
            min_p: f.number("min_p", 0.0, 1.0)?,
            repetition_penalty: f.number("repetition_penalty", 0.01, 100.0)?,
            ..GenerationConfig::default()
        };
        let choices = choices(f)?;
        let max_tokens = f.count("max_completion_tokens")?.or(f.count("max_tokens")?);
        if max_tokens == Some(0) {
            return Err(f.wrong("max_tokens", "must be above 0"));
        }
        Ok(Self {
            said,
            presence_penalty: f.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            frequency_penalty: f.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            logit_bias: bias(f)?,
            seed: f.get("seed").map_or(Ok(0), |v| {
                let seed = v.as_u64().or(v.as_i64().map(i64::cast_unsigned));
                seed.ok_or_else(|| f.wrong("seed", "must be a whole number"))
            })?,
            max_tokens,
            n,
            stop: f.texts("stop")?,
            ends: Ends {
                tokens: f.ids("stop_token_ids")?,
                ignore: f.flag("ignore_eos")?.unwrap_or(false),
                min_tokens: f.count("min_tokens")?.unwrap_or(0),
            },
            choices,
            logprobs: None,
        })
    }

    /// The chat form's log-probabilities.
    pub(crate) fn with_chat_logprobs(mut self, f: &Fields) -> Result<Self, ApiError> {
        let (wanted, top) = (f.flag("logprobs")?.unwrap_or(false), f.count("top_logprobs")?);
        if top.is_some_and(|t| t > TOP) {
            return Err(f.wrong("top_logprobs", format!("must be at most {TOP}")));
        }
        if top.is_some_and(|t| t > 0) && !wanted {
            return Err(f.wrong("top_logprobs", "needs `logprobs`: true"));
        }
        self.logprobs = wanted.then(|| top.unwrap_or(0));
        Ok(self)
    }

    /// The older form's.
    pub(crate) fn with_logprobs(mut self, f: &Fields) -> Result<Self, ApiError> {
        self.logprobs = f.count("logprobs")?;
        if self.logprobs.is_some_and(|t| t > TOP) {
            return Err(f.wrong("logprobs", format!("must be at most {TOP}")));
        }
        Ok(self)
    }

    /// The settings of answer `i`, where the checkpoint says `file`.
    pub(crate) fn sampling(&self, file: &GenerationConfig, i: usize) -> Result<Sampling, ApiError> {
        let sampling = self.said.or(file).sampling(self.seed.wrapping_add(i as u64))?;
        Ok(Sampling {
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            ..sampling
        })
    }
}

fn bias(f: &Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let must = "must be an object from token ids to numbers from -100 to 100";
    let Some(value) = f.get("logit_bias") else {
        return Ok(Vec::new());
    };
    let of = |(id, by): (&String, &Value)| {
        let by = by.as_f64().filter(|b| b.abs() <= 100.0)?;
        Some((id.parse().ok()?, by as f32))
    };
    let all = value.as_object().and_then(|map| map.iter().map(of).collect());
    all.ok_or_else(|| f.wrong("logit_bias", must))
}

/// vLLM's `guided_choice` and `structured_outputs`, and what of `response_format` is done.
fn choices(f: &Fields) -> Result<Vec<String>, ApiError> {
    let mut choices = f.texts("guided_choice")?;
    if let Some(outputs) = f.object("structured_outputs")? {
        choices.extend(outputs.texts("choice")?);
        outputs.end()?;
    }
    if let Some(format) = f.object("response_format")? {
        match format.text("type")? {
            Some("text") => {}
            Some("choice") => choices.extend(format.texts("choice")?),
            _ => {
                return Err(format.wrong(
                    "type",
                    "must be `text` or `choice` (with a list of texts as `choice`); JSON and grammars are not supported",
                ));
            }
        }
        format.end()?;
    }
    if choices.iter().any(String::is_empty) {
        return Err(f.wrong("guided_choice", "has an empty choice"));
    }
    Ok(choices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<Choosing, ApiError> {
        Choosing::read(&Fields::new("", value).unwrap())
    }

    #[test]
    fn what_is_said_counts_and_the_rest_is_the_checkpoints() {
        let file = GenerationConfig {
            do_sample: Some(true),
            top_k: Some(20),
            ..GenerationConfig::default()
        };
        let drawn = |value| read(&value).unwrap().sampling(&file, 0).unwrap();
        assert!(drawn(json!({})).do_sample);
        assert!(!drawn(json!({"temperature": 0})).do_sample, "0 is greedy");
        assert_eq!(drawn(json!({"temperature": 0.5})).top_k, 20);
        assert_eq!(drawn(json!({"top_k": -1})).top_k, 0);
        let of = read(&json!({"seed": 5, "n": 2})).unwrap();
        assert_eq!(of.sampling(&file, 1).unwrap().seed, 6);
    }

    #[test]
    fn wrong_values_are_named() {
        for (value, param) in [
            (json!({"n": 0}), "n"),
            (json!({"temperature": -1}), "temperature"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias"),
            (
                json!({"response_format": {"type": "json_object"}}),
                "response_format.type",
            ),
            (json!({"guided_choice": [""]}), "guided_choice"),
            (json!({"max_tokens": 0}), "max_tokens"),
        ] {
            assert_eq!(read(&value).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
