//! An OpenAI-compatible server as an answerer: what is sent, what comes back, and whose fault it is when nothing does.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use base64::Engine as _;
use outro_lab::run::{Refusal, RemoteMedia, Reply};
use outro_lab::task::Sample;
use serde_json::{Value, json};
use ureq::http::HeaderValue;
use ureq::http::header::{AUTHORIZATION, RETRY_AFTER};

use crate::args::eval::Endpoint;
use crate::fault::Fault;
use crate::hub;

/// The environment variable of the key, which no flag, log or message ever shows.
const KEY: &str = "OUTRO_API_KEY";
/// The first pause between two attempts; it doubles, up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Most bytes of an answer.
const ANSWER: u64 = 16 << 20;
/// Where nobody answers, the connection need not take as long as an answer may.
const CONNECT: Duration = Duration::from_secs(20);
/// Questions in a row over which a server may stumble before it counts as ill.
const STUMBLES: u32 = 3;

/// A server that can be asked.
pub(super) struct Client<'a> {
    endpoint: &'a Endpoint,
    key: Option<String>,
    max_new_tokens: usize,
    http: ureq::Agent,
    stumbles: AtomicU32,
}

/// What went wrong with one attempt.
enum Trouble {
    /// The server refuses this question.
    Question(String),
    /// The server refuses all questions, now and later.
    Refused(String),
    /// Too many requests; it may say how long to wait.
    Busy(String, Option<Duration>),
    /// An error of the server's own, or no answer in time: this question may be the reason.
    Ill(String),
    /// Nobody answers there.
    Away(String),
}

impl<'a> Client<'a> {
    pub(super) fn new(endpoint: &'a Endpoint, max_new_tokens: usize) -> anyhow::Result<Self> {
        let key = std::env::var(KEY).ok().filter(|k| !k.is_empty());
        if key.as_ref().is_some_and(|k| HeaderValue::from_str(k).is_err()) {
            return Err(Fault::usage(format!("{KEY} holds characters that no key has"))
                .hint("look for a line end at its end")
                .into());
        }
        let http = outro_hub::http::client(&endpoint.url)
            .map_err(|e| hub::fault(&e))?
            .timeout_global(Some(endpoint.timeout))
            .timeout_resolve(Some(endpoint.timeout.min(CONNECT)))
            .timeout_connect(Some(endpoint.timeout.min(CONNECT)))
            .build()
            .new_agent();
        Ok(Self {
            endpoint,
            key,
            max_new_tokens,
            http,
            stumbles: AtomicU32::new(0),
        })
    }

    /// Puts a question until it is answered or it is clear why it is not.
    pub(super) fn send(&self, sample: &Sample, shown: &RemoteMedia) -> Result<Reply, Refusal> {
        let content = if self.endpoint.videos {
            file(sample)?
        } else {
            pieces(shown)
        };
        let mut body = request(&self.endpoint.model, &sample.prompt, content, self.max_new_tokens);
        if let Some((start, end)) = sample.clip.filter(|_| self.endpoint.videos) {
            body["mm_processor_kwargs"] = json!({"start": start, "end": end});
        }
        let url = format!("{}/chat/completions", self.endpoint.url);
        let mut pause = PAUSE;
        for attempt in 1.. {
            let trouble = match self.exchange(&url, Some(&body)).and_then(|a| reply(&a)) {
                Ok(said) => {
                    self.stumbles.store(0, Ordering::Relaxed);
                    return Ok(said);
                }
                Err(trouble) => trouble,
            };
            let last = attempt >= self.endpoint.attempts;
            match trouble {
                Trouble::Question(why) => return Err(Refusal::Question(why)),
                Trouble::Refused(why) => return Err(self.stop(&why)),
                Trouble::Ill(why) if last => return Err(self.blame(why)),
                Trouble::Busy(why, _) | Trouble::Away(why) if last => return Err(self.stop(&why)),
                Trouble::Busy(_, Some(wait)) => sleep(wait.min(LONGEST_PAUSE)),
                Trouble::Busy(..) | Trouble::Ill(_) | Trouble::Away(_) => sleep(pause),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(self.stop("no attempt was allowed"))
    }

    /// A server that still says which models it has is well: it stumbled over this question. If it stumbles over one after
    /// the other, it is ill all the same.
    fn blame(&self, why: String) -> Refusal {
        let models = format!("{}/models", self.endpoint.url);
        let well = match self.exchange(&models, None) {
            Ok(_) | Err(Trouble::Question(_) | Trouble::Refused(_) | Trouble::Busy(..)) => true,
            Err(Trouble::Ill(_) | Trouble::Away(_)) => false,
        };
        if well && self.stumbles.fetch_add(1, Ordering::Relaxed) + 1 < STUMBLES {
            Refusal::Question(why)
        } else {
            self.stop(&why)
        }
    }

    fn stop(&self, why: &str) -> Refusal {
        Refusal::Stop(format!("{}: {why}", self.endpoint.url))
    }

    /// A POST of `body`, or a GET.
    fn exchange(&self, url: &str, body: Option<&Value>) -> Result<Value, Trouble> {
        let key = self.key.iter().filter_map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let response = match body {
            Some(body) => key
                .fold(self.http.post(url), |r, key| r.header(AUTHORIZATION, key))
                .content_type("application/json")
                .send(body.to_string()),
            None => key
                .fold(self.http.get(url), |r, key| r.header(AUTHORIZATION, key))
                .call(),
        };
        let response = response.map_err(|e| self.broken(&e))?;
        let status = response.status();
        let header = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
        let wait = header
            .and_then(|s| s.trim().parse().ok())
            .map(Duration::from_secs);
        let bytes = response
            .into_body()
            .into_with_config()
            .limit(ANSWER)
            .read_to_vec();
        let bytes = bytes.map_err(|e| self.broken(&e))?;
        let text = String::from_utf8_lossy(&bytes);
        let value = serde_json::from_str::<Value>(&text).ok();
        if status.is_success() {
            return value.ok_or_else(|| Trouble::Refused("answers something that is not JSON".into()));
        }
        let why = format!(
            "answers {}: {}",
            status.as_u16(),
            self.complaint(value.as_ref(), &text)
        );
        Err(match status.as_u16() {
            429 => Trouble::Busy(why, wait),
            // A full queue.
            503 if wait.is_some() => Trouble::Busy(why, wait),
            // Bad request, too large, of an unknown type, not to be processed.
            400 | 413 | 415 | 422 => Trouble::Question(why),
            // Timed out there, or an error of the server's own.
            408 | 500..=599 => Trouble::Ill(why),
            _ => Trouble::Refused(why),
        })
    }

    /// What a server says about an error, without the key, which some repeat.
    fn complaint(&self, value: Option<&Value>, text: &str) -> String {
        let fields = ["/error/message", "/error", "/message", "/detail"];
        let named = value.and_then(|v| fields.iter().find_map(|f| v.pointer(f)?.as_str()));
        let said: String = named.unwrap_or(text).chars().take(300).collect();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        match &self.key {
            Some(key) => said.replace(key.as_str(), "***"),
            None => said,
        }
    }

    fn broken(&self, error: &ureq::Error) -> Trouble {
        use std::io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
        use ureq::{Error, Timeout};
        match error {
            Error::BodyExceedsLimit(_) => {
                Trouble::Question(format!("the answer is longer than {ANSWER} bytes"))
            }
            Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                Trouble::Away("cannot be reached: no connection in time".into())
            }
            Error::Timeout(_) => Trouble::Ill(format!(
                "no answer within {} s; --request-timeout gives it longer",
                self.endpoint.timeout.as_secs_f64()
            )),
            Error::Io(e)
                if !matches!(
                    e.kind(),
                    AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkUnreachable
                ) =>
            {
                Trouble::Ill(format!("the connection broke: {e}"))
            }
            Error::Protocol(_) => Trouble::Ill(format!("the connection broke: {error}")),
            Error::Io(e) => Trouble::Away(format!("cannot be reached: {e}")),
            // Names, proxies, certificates.
            e => Trouble::Away(format!("cannot be reached: {e}")),
        }
    }
}

/// Frames in their order, and the sound.
fn pieces(shown: &RemoteMedia) -> Vec<Value> {
    let mut content: Vec<Value> = shown
        .frames
        .iter()
        .map(|url| json!({"type": "image_url", "image_url": {"url": url}}))
        .collect();
    if !shown.wav.is_empty() {
        content.push(json!({"type": "input_audio", "input_audio": {"data": shown.wav, "format": "wav"}}));
    }
    content
}

/// The video as it is.
fn file(sample: &Sample) -> Result<Vec<Value>, Refusal> {
    let bytes = std::fs::read(&sample.video)
        .map_err(|e| Refusal::Question(format!("{}: {e}", sample.video.display())))?;
    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
    let url = format!("data:video/mp4;base64,{data}");
    Ok(vec![json!({"type": "video_url", "video_url": {"url": url}})])
}

/// A chat completion: media, then the words; greedy.
fn request(model: &str, prompt: &str, mut content: Vec<Value>, max_new_tokens: usize) -> Value {
    content.push(json!({"type": "text", "text": prompt}));
    json!({
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_new_tokens,
        "temperature": 0,
    })
}

/// The reply in an answer; words that are null are an empty reply.
fn reply(answer: &Value) -> Result<Reply, Trouble> {
    let message = answer
        .pointer("/choices/0/message")
        .filter(|m| m.is_object())
        .ok_or_else(|| Trouble::Refused("answers something that is not a chat completion".into()))?;
    let reply = match &message["content"] {
        Value::String(text) => text.clone(),
        // Some give parts.
        Value::Array(parts) => parts.iter().filter_map(|p| p["text"].as_str()).collect(),
        _ => String::new(),
    };
    let tokens = answer.pointer("/usage/prompt_tokens").and_then(Value::as_u64);
    Ok(Reply {
        reply,
        prompt_tokens: tokens.unwrap_or(0) as usize,
    })
}
