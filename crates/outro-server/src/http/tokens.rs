//! Tokens without answers.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use outro::prepare::Preparer;
use serde_json::{Value, json};

use super::{App, Reply, body};
use crate::api::{ApiError, ChatRequest, Fields};
use crate::work::Loaded;

/// `POST /v1/chat/completions/input_tokens`.
pub(super) async fn input_tokens(State(app): State<Arc<App>>, body: Body) -> Reply {
    let value = body::json(body, &app).await?;
    let request = ChatRequest::read(&value)?;
    let (_place, mut gone) = app.admit()?;
    let cancel = gone.cancel.clone();
    let counted = app
        .blocking(move |app| {
            let model = app.models.get(request.common.model.as_deref())?;
            let plan = app.preparing.plan(&model, &request, &cancel)?.plan;
            Ok(json!({
                "object": "response.input_tokens",
                "input_tokens": plan.prompt_tokens,
                "input_tokens_details": {
                    "text": plan.text_tokens,
                    "image": plan.image_tokens,
                    "video": plan.video_tokens,
                    "audio": plan.audio_tokens,
                },
            }))
        })
        .await;
    gone.over();
    Ok(Json(counted?).into_response())
}

/// `POST /tokenize`: vLLM's `prompt` or `messages`, llama.cpp's `content`.
pub(super) async fn tokenize(State(app): State<Arc<App>>, body: Body) -> Reply {
    let value = body::json(body, &app).await?;
    let (_place, mut gone) = app.admit()?;
    let cancel = gone.cancel.clone();
    let made = app
        .blocking(move |app| {
            let f = Fields::new("", &value)?;
            let model = f.text("model")?.map(str::to_owned);
            if f.get("messages").is_some() {
                // Beside messages are the fields of a chat request, and these.
                let Value::Object(mut chat) = value.clone() else {
                    return Err(ApiError::new(400, "no object"));
                };
                let strings = chat.remove("return_token_strs").is_some_and(|v| v == true);
                for key in [
                    "add_generation_prompt",
                    "add_special_tokens",
                    "continue_final_message",
                ] {
                    chat.remove(key);
                }
                let request = ChatRequest::read(&Value::Object(chat))?;
                let model = app.models.get(request.common.model.as_deref())?;
                let planned = app.preparing.plan(&model, &request, &cancel)?;
                let chunks: Vec<_> = planned.plan.items.iter().map(|i| i.chunk.clone()).collect();
                let ids = model.engine.preparer().ids(&planned.conversation, &chunks)?;
                return Ok(listed(app, &model, &ids, strings));
            }
            f.idle(&["add_special_tokens", "add_special", "parse_special"]);
            let (prompt, content) = (f.text("prompt")?, f.text("content")?);
            let pieces = f.flag("with_pieces")?.unwrap_or(false);
            let strings = f.flag("return_token_strs")?.unwrap_or(false);
            let text = prompt
                .or(content)
                .ok_or_else(|| f.wrong("prompt", "or `messages` is missing"))?;
            f.end()?;
            let model = app.models.get(model.as_deref())?;
            let ids = model.engine.tokenizer()?.encode(text)?;
            if content.is_some() && pieces {
                let name = |id: &u32| json!({"id": id, "piece": piece(model.engine.preparer(), *id)});
                return Ok(json!({"tokens": ids.iter().map(name).collect::<Vec<_>>()}));
            }
            Ok(listed(app, &model, &ids, strings))
        })
        .await;
    gone.over();
    Ok(Json(made?).into_response())
}

fn piece(preparer: &Preparer, id: u32) -> String {
    preparer.tokenizer().map(|t| t.token(id)).unwrap_or_default()
}

fn listed(app: &App, model: &Loaded, ids: &[u32], strings: bool) -> Value {
    let own = model.engine.model().config().text.max_positions;
    let strings = strings.then(|| {
        ids.iter()
            .map(|id| piece(model.engine.preparer(), *id))
            .collect::<Vec<_>>()
    });
    json!({
        "count": ids.len(),
        "max_model_len": app.max_model_len.map_or(own, |most| most.min(own)),
        "tokens": ids,
        "token_strs": strings,
    })
}

/// `POST /detokenize`.
pub(super) async fn detokenize(State(app): State<Arc<App>>, body: Body) -> Reply {
    let value = body::json(body, &app).await?;
    let made = app
        .blocking(move |app| {
            let f = Fields::new("", &value)?;
            let (model, ids) = (f.text("model")?, f.ids("tokens")?);
            f.get("tokens").ok_or_else(|| f.wrong("tokens", "is missing"))?;
            f.end()?;
            let model = app.models.get(model)?;
            let tokenizer = model.engine.tokenizer()?;
            let vocab = model.engine.model().config().text.vocab;
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
                return Err(ApiError::field(
                    "tokens",
                    format!("has {id}, and the vocabulary has {vocab}"),
                ));
            }
            let text = tokenizer.decode(&ids)?;
            // vLLM's name and llama.cpp's.
            Ok(json!({"prompt": text, "content": text}))
        })
        .await?;
    Ok(Json(made).into_response())
}
