//! Replies in OpenAI's form.

use outro::PromptTokens;
use outro::engine::{Candidate, Finish};
use serde_json::{Value, json};

/// What a request has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: PromptTokens,
    pub(crate) completion: usize,
    /// Prompt tokens whose media were encoded before.
    pub(crate) cached: usize,
}

impl Usage {
    pub(crate) fn json(&self) -> Value {
        let p = self.prompt;
        json!({
            "prompt_tokens": p.total,
            "completion_tokens": self.completion,
            "total_tokens": p.total + self.completion,
            "prompt_tokens_details": {
                "cached_tokens": self.cached,
                "audio_tokens": p.audio,
                "image_tokens": p.image,
                "video_tokens": p.video,
                "multimodal_tokens": {"image": p.image, "audio": p.audio, "video": p.video},
            },
            "completion_tokens_details": {"reasoning_tokens": 0},
        })
    }
}

pub(crate) fn finish(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// A token with its log-probability and what could have come.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) token: String,
    pub(crate) logprob: f64,
    pub(crate) top: Vec<Candidate>,
}

fn entry(token: &str, logprob: f64) -> Value {
    // JSON has no infinity.
    json!({"token": token, "logprob": logprob.max(-9999.0), "bytes": token.as_bytes()})
}

/// `choices[].logprobs` of the chat form.
pub(crate) fn chat_logprobs(told: &[Told]) -> Value {
    let content = told.iter().map(|t| {
        let mut own = entry(&t.token, t.logprob);
        own["top_logprobs"] = t.top.iter().map(|c| entry(&c.text, c.probability.ln())).collect();
        own
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// `choices[].logprobs` of the older form; offsets are in characters of these tokens.
pub(crate) fn logprobs(told: &[Told]) -> Value {
    let mut at = 0;
    let mut offsets = Vec::new();
    for t in told {
        offsets.push(at);
        at += t.token.chars().count();
    }
    let top = |t: &Told| -> Value {
        let all = t
            .top
            .iter()
            .map(|c| (c.text.clone(), json!(c.probability.ln().max(-9999.0))));
        Value::Object(all.collect())
    };
    json!({
        "tokens": told.iter().map(|t| &t.token).collect::<Vec<_>>(),
        "token_logprobs": told.iter().map(|t| t.logprob.max(-9999.0)).collect::<Vec<_>>(),
        "top_logprobs": told.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
