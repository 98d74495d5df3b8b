//! Requests for answers: conversations with media, and plain prompts.

use outro::chat::{Conversation, Part, Role, Turn};
use serde_json::Value;

use super::{ApiError, Choosing, Fields};
use crate::door::{Kind, Reference};

type Result<T> = std::result::Result<T, ApiError>;

/// Fields of OpenAI's API that change nothing here, and llama.cpp's of its cache and its clock.
const IDLE: [&str; 17] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "reasoning_effort",
    "verbosity",
    "cache_prompt",
    "timings_per_token",
    "return_progress",
    "reasoning_format",
    "id_slot",
    "samplers",
    "backend_sampling",
];
/// Fields that ask for what is not done.
const REFUSED: [&str; 14] = [
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "audio",
    "web_search_options",
    "prediction",
    "prompt_logprobs",
    "allowed_token_ids",
    "bad_words",
    "use_beam_search",
    "guided_json",
    "guided_regex",
    "guided_grammar",
];
/// Samplers of llama.cpp that are not done, with the number that switches each off.
const OFF: [(&str, f64); 7] = [
    ("xtc_probability", 0.0),
    ("typ_p", 1.0),
    ("typical_p", 1.0),
    ("dynatemp_range", 0.0),
    ("mirostat", 0.0),
    ("dry_multiplier", 0.0),
    ("length_penalty", 1.0),
];
/// Settings of those.
const OF_OFF: [&str; 9] = [
    "xtc_threshold",
    "dynatemp_exponent",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "repeat_last_n",
    "mirostat_tau",
    "mirostat_eta",
];

/// `outro`: what this server has beyond others.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutroFields {
    pub(crate) strategy: Option<String>,
    pub(crate) compare: bool,
    pub(crate) explain: bool,
}

impl OutroFields {
    fn read(f: &Fields) -> Result<Self> {
        let Some(own) = f.object("outro")? else {
            return Ok(Self::default());
        };
        let this = Self {
            strategy: own.text("strategy")?.map(str::to_owned),
            compare: own.flag("compare")?.unwrap_or(false),
            explain: own.flag("explain")?.unwrap_or(false),
        };
        own.end()?;
        Ok(this)
    }
}

/// How media are looked at; what is absent is the checkpoint's.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Looking {
    pub(crate) sound: Option<bool>,
    pub(crate) fps: Option<f64>,
    pub(crate) frames: Option<usize>,
    pub(crate) max_pixels: Option<usize>,
    pub(crate) max_video_tokens: Option<usize>,
    pub(crate) start: Option<f64>,
    pub(crate) end: Option<f64>,
}

impl Looking {
    fn read(f: &Fields) -> Result<Self> {
        let mut this = Self {
            sound: f.flag("use_audio_in_video")?,
            ..Self::default()
        };
        if let Some(own) = f.object("mm_processor_kwargs")? {
            this.sound = own.flag("use_audio_in_video")?.or(this.sound);
            this.fps = own.number("fps", 0.001, 1000.0)?.map(f64::from);
            this.frames = own.count("num_frames")?;
            this.max_pixels = own.count("max_pixels")?;
            this.max_video_tokens = own.count("max_video_tokens")?;
            this.start = own.number("start", 0.0, 1e9)?.map(f64::from);
            this.end = own.number("end", 0.0, 1e9)?.map(f64::from);
            own.end()?;
        }
        if let Some(io) = f.object("media_io_kwargs")? {
            if let Some(own) = io.object("video")? {
                // -1 is vLLM's word for every frame.
                let all = own.get("num_frames").and_then(Value::as_i64) == Some(-1);
                this.frames = if all {
                    None
                } else {
                    own.count("num_frames")?.or(this.frames)
                };
                this.fps = own.number("fps", 0.001, 1000.0)?.map(f64::from).or(this.fps);
                own.end()?;
            }
            io.end()?;
        }
        for (name, n) in [("num_frames", this.frames), ("max_pixels", this.max_pixels)] {
            if n == Some(0) {
                return Err(ApiError::field(name, "must be above 0"));
            }
        }
        Ok(this)
    }
}

/// A conversation whose media are still to be fetched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns {
    system: Option<String>,
    said: Vec<(Role, Vec<Piece>)>,
    /// The media of all turns, in their order, with the kind that each part's name says.
    pub(crate) media: Vec<(Option<Kind>, Reference)>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    /// By its number among the media.
    Medium(usize),
}

impl Turns {
    /// With the media that came, or those of an earlier request with the same content.
    pub(crate) fn with(&self, media: &[Part]) -> Conversation {
        let parts = |pieces: &[Piece]| -> Vec<Part> {
            let part = |piece: &Piece| match piece {
                Piece::Text(text) => Some(Part::Text(text.clone())),
                Piece::Medium(i) => media.get(*i).cloned(),
            };
            pieces.iter().filter_map(part).collect()
        };
        let mut history: Vec<Turn> = self
            .said
            .iter()
            .map(|(role, pieces)| Turn {
                role: *role,
                content: parts(pieces),
            })
            .collect();
        let user = history.pop().map(|t| t.content).unwrap_or_default();
        Conversation {
            system: self.system.clone(),
            history,
            user,
        }
    }
}

/// `messages`.
pub(crate) fn turns(f: &Fields) -> Result<Turns> {
    let list = f.list("messages")?.unwrap_or_default();
    let mut out = Turns::default();
    for (i, value) in list.iter().enumerate() {
        let m = Fields::new(&format!("messages[{i}]"), value)?;
        m.idle(&["name", "refusal", "annotations", "reasoning_content"]);
        m.refuse(&["tool_calls", "function_call", "tool_call_id", "audio"], "")?;
        let role = m.text("role")?.ok_or_else(|| m.wrong("role", "is missing"))?;
        let pieces = content(&m, &mut out.media)?;
        match role {
            "system" | "developer" => {
                let mut words = Vec::new();
                for piece in pieces {
                    match piece {
                        Piece::Text(text) => words.push(text),
                        Piece::Medium(_) => {
                            return Err(m.wrong("content", "of a system message must be text"));
                        }
                    }
                }
                let words = words.join("\n");
                out.system = Some(match out.system.take() {
                    Some(before) => format!("{before}\n{words}"),
                    None => words,
                });
            }
            "user" => out.said.push((Role::User, pieces)),
            "assistant" => out.said.push((Role::Assistant, pieces)),
            _ => return Err(m.wrong("role", "must be system, developer, user or assistant")),
        }
        m.end()?;
    }
    match out.said.last() {
        Some((Role::User, pieces)) if !pieces.is_empty() => Ok(out),
        Some((Role::User, _)) => Err(ApiError::field("messages", "ends with a message without content")),
        Some(_) => Err(ApiError::field("messages", "must end with a message of the user")),
        None => Err(ApiError::field("messages", "must have a message of the user")),
    }
}

fn content(m: &Fields, media: &mut Vec<(Option<Kind>, Reference)>) -> Result<Vec<Piece>> {
    let parts = match m.get("content") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![Piece::Text(text.clone())]),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(m.wrong("content", "must be a string or a list of parts")),
    };
    let mut out = Vec::new();
    for (i, value) in parts.iter().enumerate() {
        let p = Fields::new(&m.name(&format!("content[{i}]")), value)?;
        p.idle(&["uuid", "cache_control"]);
        let kind = match value {
            Value::Object(map) => ["image_url", "video_url", "audio_url"]
                .into_iter()
                .find(|k| map.contains_key(*k)),
            _ => None,
        };
        // vLLM's short form has no type.
        let kind = p
            .text("type")?
            .or(kind)
            .ok_or_else(|| p.wrong("type", "is missing"))?;
        let medium = match kind {
            "text" | "input_text" => {
                let text = p.text("text")?.ok_or_else(|| p.wrong("text", "is missing"))?;
                out.push(Piece::Text(text.to_owned()));
                p.end()?;
                continue;
            }
            "image_url" | "input_image" => (Some(Kind::Image), url(&p, "image_url")?),
            "video_url" => (Some(Kind::Video), url(&p, "video_url")?),
            "audio_url" => (Some(Kind::Audio), url(&p, "audio_url")?),
            "input_audio" => (Some(Kind::Audio), data(&p, "input_audio")?),
            "input_video" => (Some(Kind::Video), data(&p, "input_video")?),
            "file" | "input_file" => (None, file(&p)?),
            _ => {
                return Err(p.wrong(
                    "type",
                    "must be text, image_url, video_url, audio_url, input_audio, input_video or file",
                ));
            }
        };
        p.end()?;
        out.push(Piece::Medium(media.len()));
        media.push(medium);
    }
    Ok(out)
}

/// Where a medium is: a URL, or the id of an upload.
fn reference(url: &str) -> Reference {
    let id = url.starts_with("file-") && url.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if id {
        Reference::File(url.to_owned())
    } else {
        Reference::Url(url.to_owned())
    }
}

fn url(p: &Fields, key: &'static str) -> Result<Reference> {
    if let Some(Value::String(url)) = p.get(key) {
        return Ok(reference(url));
    }
    let own = p.object(key)?.ok_or_else(|| p.wrong(key, "is missing"))?;
    own.idle(&["detail"]);
    let url = own.text("url")?.ok_or_else(|| own.wrong("url", "is missing"))?;
    let found = reference(url);
    own.end()?;
    Ok(found)
}

fn data(p: &Fields, key: &'static str) -> Result<Reference> {
    let own = p.object(key)?.ok_or_else(|| p.wrong(key, "is missing"))?;
    let (data, url, format) = (own.text("data")?, own.text("url")?, own.text("format")?);
    let found = match (data, url) {
        // Some clients put a whole data URL there.
        (Some(data), None) if data.starts_with("data:") => Reference::Url(data.to_owned()),
        (Some(data), None) => Reference::Base64 {
            data: data.to_owned(),
            format: format.map(str::to_owned),
        },
        (None, Some(url)) => reference(url),
        _ => return Err(own.wrong("data", "or `url` must be there, and one of them")),
    };
    own.end()?;
    Ok(found)
}

fn file(p: &Fields) -> Result<Reference> {
    let own = p.object("file")?.ok_or_else(|| p.wrong("file", "is missing"))?;
    own.idle(&["filename"]);
    let found = match (own.text("file_id")?, own.text("file_data")?) {
        (Some(id), None) => Reference::File(id.to_owned()),
        (None, Some(data)) => Reference::Url(data.to_owned()),
        _ => {
            return Err(own.wrong(
                "file_id",
                "or `file_data` (a data URL) must be there, and one of them",
            ));
        }
    };
    own.end()?;
    Ok(found)
}

/// What both forms of request have.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    pub(crate) usage: bool,
    pub(crate) usage_with_each: bool,
    pub(crate) choosing: Choosing,
    pub(crate) outro: OutroFields,
}

impl Common {
    fn read(f: &Fields) -> Result<Self> {
        f.idle(&IDLE);
        f.idle(&OF_OFF);
        f.refuse(&REFUSED, "")?;
        for (key, off) in OFF {
            if f.get(key).is_some_and(|v| v.as_f64() != Some(off)) {
                return Err(f.wrong(key, format!("is not supported; {off} is off")));
            }
        }
        let stream = f.flag("stream")?.unwrap_or(false);
        let (mut usage, mut usage_with_each) = (false, false);
        if let Some(own) = f.object("stream_options")? {
            own.idle(&["include_obfuscation"]);
            usage = own.flag("include_usage")?.unwrap_or(false);
            usage_with_each = own.flag("continuous_usage_stats")?.unwrap_or(false);
            own.end()?;
        }
        Ok(Self {
            model: f.text("model")?.map(str::to_owned),
            stream,
            usage,
            usage_with_each,
            choosing: Choosing::read(f)?,
            outro: OutroFields::read(f)?,
        })
    }
}

/// `POST /v1/chat/completions`.
#[derive(Clone, Debug)]
pub(crate) struct ChatRequest {
    pub(crate) common: Common,
    pub(crate) turns: Turns,
    pub(crate) looking: Looking,
}

impl ChatRequest {
    pub(crate) fn read(body: &Value) -> Result<Self> {
        let f = Fields::new("", body)?;
        let mut common = Common::read(&f)?;
        common.choosing = common.choosing.with_chat_logprobs(&f)?;
        let modalities = f.texts("modalities")?;
        if modalities.iter().any(|m| m != "text") {
            return Err(f.wrong("modalities", "must be [\"text\"]; answers are words"));
        }
        if f.object("chat_template_kwargs")?
            .is_some_and(|k| k.end().is_err())
        {
            return Err(f.wrong(
                "chat_template_kwargs",
                "is not supported; the checkpoint's template has no settings here",
            ));
        }
        let this = Self {
            common,
            turns: turns(&f)?,
            looking: Looking::read(&f)?,
        };
        f.end()?;
        Ok(this)
    }
}

/// A plain prompt.
#[derive(Clone, Debug)]
pub(crate) enum PromptText {
    Text(String),
    Ids(Vec<u32>),
}

/// `POST /v1/completions`.
#[derive(Clone, Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) common: Common,
    pub(crate) prompts: Vec<PromptText>,
}

impl CompletionRequest {
    pub(crate) fn read(body: &Value) -> Result<Self> {
        let f = Fields::new("", body)?;
        let mut common = Common::read(&f)?;
        common.choosing = common.choosing.with_logprobs(&f)?;
        f.refuse(&["echo", "suffix"], "")?;
        if f.count("best_of")?.is_some_and(|n| n != common.choosing.n) {
            return Err(f.wrong("best_of", "must be `n`"));
        }
        let prompts = prompts(&f)?;
        if common.outro.compare || common.outro.explain {
            return Err(ApiError::field(
                "outro",
                "has `compare` and `explain` for /v1/chat/completions alone",
            ));
        }
        f.end()?;
        Ok(Self { common, prompts })
    }
}

fn prompts(f: &Fields) -> Result<Vec<PromptText>> {
    let must = "must be a string, a list of token ids, or a list of either";
    let ids = |list: &[Value]| -> Option<Vec<u32>> {
        list.iter().map(|n| u32::try_from(n.as_u64()?).ok()).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => Some(PromptText::Text(text.clone())),
        Value::Array(list) => Some(PromptText::Ids(ids(list).filter(|l| !l.is_empty())?)),
        _ => None,
    };
    let value = f.get("prompt").ok_or_else(|| f.wrong("prompt", "is missing"))?;
    let all = match value {
        Value::Array(list) if !list.iter().all(Value::is_number) => list.iter().map(one).collect(),
        value => one(value).map(|p| vec![p]),
    };
    all.filter(|p: &Vec<_>| (1..=16).contains(&p.len()))
        .ok_or_else(|| f.wrong("prompt", must))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(content: &Value) -> Result<ChatRequest> {
        ChatRequest::read(&json!({"model": "m", "messages": [{"role": "user", "content": content}]}))
    }

    /// Parts as LibreChat, vLLM's clients, llama.cpp's page, Dify and OpenAI's clients send them.
    #[test]
    fn parts_of_other_programs() {
        let read = chat(&json!([
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "auto"}},
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA=="}},
            {"video_url": "https://a.example/b.mp4"},
            {"type": "input_video", "input_video": {"data": "AA=="}},
            {"type": "audio_url", "audio_url": {"url": "file-123"}},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "image_url", "image_url": {"url": "data:video/mp4;base64,AA=="}},
            {"type": "file", "file": {"file_id": "file-9", "filename": "a.mp4"}},
            {"type": "text", "text": "What?"}
        ]))
        .unwrap();
        assert_eq!(read.turns.media.len(), 8);
        assert!(matches!(&read.turns.media[4].1, Reference::File(id) if id == "file-123"));
        assert!(matches!(&read.turns.media[5].1, Reference::Base64 { format: Some(f), .. } if f == "wav"));
    }

    #[test]
    fn what_is_not_done_is_a_400_that_names_the_field() {
        let base = json!({"messages": [{"role": "user", "content": "hi"}]});
        let with = |key: &str, value: Value| {
            let mut body = base.clone();
            body[key] = value;
            ChatRequest::read(&body)
        };
        for (key, value, param) in [
            ("tools", json!([{"type": "function"}]), "tools"),
            (
                "response_format",
                json!({"type": "json_schema"}),
                "response_format.type",
            ),
            (
                "mm_processor_kwargs",
                json!({"min_pixels": 4}),
                "mm_processor_kwargs.min_pixels",
            ),
            (
                "media_io_kwargs",
                json!({"video": {"x": 4}}),
                "media_io_kwargs.video.x",
            ),
            ("outro", json!({"stratgy": "x"}), "outro.stratgy"),
            ("modalities", json!(["text", "audio"]), "modalities"),
            ("xtc_probability", json!(0.5), "xtc_probability"),
            ("nonsense", json!(1), "nonsense"),
            ("messages", json!([]), "messages"),
            (
                "messages",
                json!([{"role": "assistant", "content": "x"}]),
                "messages",
            ),
            (
                "messages",
                json!([{"role": "tool", "content": "x"}]),
                "messages[0].role",
            ),
            ("top_logprobs", json!(3), "top_logprobs"),
        ] {
            let error = with(key, value).unwrap_err();
            assert_eq!(
                (error.status, error.param.as_deref()),
                (400, Some(param)),
                "{}",
                error.message
            );
        }
        for (key, value) in [
            ("tools", json!([])),
            ("tool_choice", json!("none")),
            ("user", json!("me")),
            ("xtc_probability", json!(0)),
            ("seed", json!(-1)),
            ("stop", Value::Null),
        ] {
            assert!(with(key, value).is_ok(), "{key}");
        }
    }
}
