//! The OpenAPI document, from the table of routes.

use axum::Json;
use serde_json::{Value, json};

use super::ROUTES;

/// Fields of a chat request, for readers: name, type, what it is.
const CHAT: [(&str, &str, &str); 24] = [
    (
        "model",
        "string",
        "A name of /v1/models; the first model without one",
    ),
    (
        "messages",
        "array",
        "Messages of system (or developer), user and assistant; content is text or parts",
    ),
    (
        "max_completion_tokens",
        "integer",
        "Most tokens of the answer; `max_tokens` too",
    ),
    ("stream", "boolean", "Server-sent events"),
    (
        "stream_options",
        "object",
        "include_usage, continuous_usage_stats",
    ),
    ("temperature", "number", "0 takes the likeliest token"),
    ("top_p", "number", "Nucleus"),
    ("top_k", "integer", "-1 or 0 is all"),
    ("min_p", "number", "Share of the likeliest token's probability"),
    ("repetition_penalty", "number", "1 changes nothing"),
    ("presence_penalty", "number", "-2 to 2"),
    ("frequency_penalty", "number", "-2 to 2"),
    ("logit_bias", "object", "Token id to a number from -100 to 100"),
    ("seed", "integer", "The same seed gives the same answer"),
    (
        "n",
        "integer",
        "1 to 16 answers, with seeds that follow each other",
    ),
    (
        "stop",
        "array",
        "A string or a list; the answer ends before the first",
    ),
    ("stop_token_ids", "array", "Tokens that end it"),
    ("ignore_eos", "boolean", "The model's end tokens do not end it"),
    ("min_tokens", "integer", "It does not end before so many"),
    ("logprobs", "boolean", "With top_logprobs 0 to 20"),
    (
        "guided_choice",
        "array",
        "The answer is one of these; response_format {type: choice, choice: [...]} too",
    ),
    ("use_audio_in_video", "boolean", "On unless false"),
    (
        "mm_processor_kwargs",
        "object",
        "use_audio_in_video, fps, num_frames, max_pixels, max_video_tokens, start, end",
    ),
    (
        "outro",
        "object",
        "strategy (outro:gamma=2, baseline, vcd+outro, ...), compare, explain",
    ),
];

/// `GET /openapi.json`.
pub(super) async fn document() -> Json<Value> {
    Json(made())
}

fn made() -> Value {
    let mut paths = json!({});
    for (method, path, summary) in ROUTES {
        let mut operation = json!({
            "summary": summary,
            "responses": {
                "200": {"description": "done"},
                "default": {"description": "an error", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
            },
        });
        if path.contains('{') {
            operation["parameters"] =
                json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]);
        }
        if path.starts_with("/v1/chat/completions") {
            operation["requestBody"] = json!({"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}}});
        }
        paths[path][method] = operation;
    }
    let fields: serde_json::Map<String, Value> = CHAT
        .iter()
        .map(|(name, kind, help)| {
            let mut schema = json!({"type": kind, "description": help});
            if *kind == "array" {
                schema["items"] = json!({});
            }
            ((*name).to_owned(), schema)
        })
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {"title": "outro serve", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": {
                "ChatRequest": {"type": "object", "required": ["messages"], "properties": fields},
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "object", "properties": {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": "integer"},
                    }}},
                },
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_field_that_it_names_is_read() {
        for (name, kind, _) in super::CHAT {
            let mut body = serde_json::json!({"messages": [{"role": "user", "content": "x"}]});
            if name != "messages" {
                // Of another type than any field has.
                body[name] = serde_json::json!({"no such field": 1});
            }
            if name != "messages" {
                let error = crate::api::ChatRequest::read(&body).unwrap_err();
                assert!(
                    !error.message.contains("is not known here; known are") || kind == "object",
                    "{name}: {}",
                    error.message
                );
            }
        }
        assert_eq!(super::made()["paths"].as_object().unwrap().len(), 17);
    }
}
