//! Routes, keys, streams of events.

mod answer;
mod body;
mod guard;
mod listen;
mod openapi;
mod page;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use outro::Cancel;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::api::ApiError;
use crate::work::{InUse, Metrics, Models, Preparing};
pub(crate) use listen::listen;

/// SHA-256 of each key.
pub(crate) fn digests(keys: &[String]) -> Vec<[u8; 32]> {
    keys.iter().map(|k| guard::digest(k)).collect()
}

type Reply = Result<Response, ApiError>;

/// What handlers share.
pub(crate) struct App {
    pub(crate) models: Models,
    pub(crate) preparing: Preparing,
    pub(crate) metrics: Arc<Metrics>,
    /// Media of so many requests are prepared at a time.
    pub(crate) desks: Arc<Semaphore>,
    /// Bytes of bodies that are being read.
    pub(crate) body_bytes: AtomicUsize,
    /// Requests that were taken in and are not over.
    pub(crate) taken: AtomicUsize,
    /// Most of them.
    pub(crate) most_taken: usize,
    pub(crate) stopping: AtomicBool,
    pub(crate) keys: Vec<[u8; 32]>,
    pub(crate) origins: Vec<String>,
    pub(crate) max_body: usize,
    pub(crate) max_model_len: Option<usize>,
    pub(crate) max_num_seqs: usize,
    pub(crate) started: u64,
    pub(crate) log: Arc<dyn Fn(&str) + Send + Sync>,
}

/// A request's place; it is free when this is dropped.
pub(crate) struct Place {
    app: Arc<App>,
    /// The model that it keeps loaded.
    model: Option<InUse>,
}

impl Place {
    fn with(mut self, model: InUse) -> Self {
        self.model = Some(model);
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.model.take());
        self.app.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Sets a `Cancel` when it is dropped before its work is over: the client went away.
pub(crate) struct Gone {
    pub(crate) cancel: Cancel,
    app: Arc<App>,
    over: bool,
}

impl Gone {
    pub(crate) fn over(&mut self) {
        self.over = true;
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        if !self.over {
            self.app.metrics.cancelled.add(1);
        }
        self.cancel.set();
    }
}

impl App {
    /// Takes a request in.
    fn admit(self: &Arc<Self>) -> Result<(Place, Gone), ApiError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(ApiError::busy("the server is stopping"));
        }
        if self.taken.fetch_add(1, Ordering::AcqRel) >= self.most_taken {
            self.taken.fetch_sub(1, Ordering::AcqRel);
            self.metrics.rejections.add(1);
            return Err(ApiError::busy(format!(
                "{} requests are in work, which is the most; try again in a moment",
                self.most_taken
            )));
        }
        let gone = Gone {
            cancel: Cancel::default(),
            app: Arc::clone(self),
            over: false,
        };
        let place = Place {
            app: Arc::clone(self),
            model: None,
        };
        Ok((place, gone))
    }

    /// Work that waits for disks and processors, a few requests at a time.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let stopped = || ApiError::busy("the server is stopping");
        let desk = Arc::clone(&self.desks)
            .acquire_owned()
            .await
            .map_err(|_| stopped())?;
        self.metrics.preparing.set(self.desks_taken());
        let app = Arc::clone(self);
        let done = spawn_blocking(move || {
            let done = work(&app);
            // Not before the work is over, also where nobody waits for it any more.
            drop(desk);
            app.metrics.preparing.set(app.desks_taken());
            done
        })
        .await;
        let defect = |_| ApiError::new(500, "internal error: a defect of the server; please report it");
        done.map_err(defect)?
    }

    fn desks_taken(&self) -> usize {
        DESKS.saturating_sub(self.desks.available_permits())
    }
}

/// Requests whose media are prepared at a time.
pub(crate) const DESKS: usize = 4;

/// Every route, with what it is for. Uploads have their own.
pub(crate) const ROUTES: [(&str, &str, &str); 19] = [
    ("get", "/", "A page to ask on"),
    (
        "post",
        "/v1/chat/completions",
        "Answer a conversation with text, pictures, videos and sound",
    ),
    (
        "post",
        "/v1/chat/completions/input_tokens",
        "Count a conversation's tokens, media included, without answering",
    ),
    ("post", "/v1/completions", "Go on with a plain prompt"),
    ("get", "/v1/models", "List the models"),
    ("get", "/v1/models/{id}", "One model"),
    (
        "post",
        "/tokenize",
        "Tokens of a text, or of a conversation with media",
    ),
    ("post", "/detokenize", "Text of tokens"),
    ("get", "/health", "Whether the server is there"),
    ("get", "/ping", "The same"),
    ("get", "/version", "The server's version"),
    ("get", "/props", "What llama.cpp's page asks for"),
    ("get", "/metrics", "Counters for Prometheus"),
    ("get", "/openapi.json", "This document"),
    (
        "post",
        "/v1/files",
        "Upload a file, to name it in content parts by its id",
    ),
    ("get", "/v1/files", "List uploads"),
    ("get", "/v1/files/{id}", "One upload"),
    ("delete", "/v1/files/{id}", "Delete an upload"),
    ("get", "/v1/files/{id}/content", "The bytes of an upload"),
];

/// All routes, those of uploads included.
pub(crate) fn router(app: &Arc<App>, uploads: Router) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/v1/chat/completions", post(answer::chat))
        .route("/v1/chat/completions/input_tokens", post(tokens::input_tokens))
        .route("/v1/completions", post(answer::completion))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/health", get(health))
        .route("/ping", get(health))
        .route("/version", get(version))
        .route("/props", get(props))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi::document))
        .fallback(nothing)
        .method_not_allowed_fallback(other_method)
        .with_state(Arc::clone(app))
        .merge(uploads)
        .layer(middleware::from_fn_with_state(Arc::clone(app), guard::guard))
}

async fn nothing() -> ApiError {
    ApiError::new(404, "there is nothing here; /openapi.json lists what there is")
}

async fn other_method() -> ApiError {
    ApiError::new(
        405,
        "this path has another method; /openapi.json lists what there is",
    )
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

fn described(app: &App, name: &str) -> Value {
    let loaded = app.models.loaded(name);
    let length = loaded.as_ref().map(|l| {
        let own = l.engine.model().config().text.max_positions;
        app.max_model_len.map_or(own, |most| most.min(own))
    });
    json!({
        "id": name,
        "object": "model",
        "created": app.started,
        "owned_by": "outro",
        "root": name,
        "parent": null,
        "max_model_len": length,
        "loaded": loaded.is_some(),
    })
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let all: Vec<Value> = app.models.names().map(|name| described(&app, name)).collect();
    Json(json!({"object": "list", "data": all}))
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Reply {
    if app.models.names().any(|name| name == id) {
        return Ok(Json(described(&app, &id)).into_response());
    }
    let shown: String = id.chars().take(200).collect();
    Err(ApiError::new(404, format!("the model `{shown}` does not exist")))
}

async fn health(State(app): State<Arc<App>>) -> Reply {
    if app.stopping.load(Ordering::Acquire) {
        return Err(ApiError::busy("the server is stopping"));
    }
    Ok(Json(json!({"status": "ok"})).into_response())
}

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let head = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    (head, app.metrics.text()).into_response()
}

async fn props(State(app): State<Arc<App>>) -> Reply {
    let name = app.models.names().next().unwrap_or_default().to_owned();
    let loaded = app.blocking(|app| app.models.get(None)).await?;
    let config = loaded.engine.model().config();
    let sampling = loaded.engine.sampling().map_err(ApiError::from)?;
    let length = config.text.max_positions;
    Ok(Json(json!({
        "model_alias": name,
        "model_path": name,
        "modalities": {
            "vision": config.vision.is_some(),
            "video": config.vision.is_some(),
            "audio": config.audio.is_some(),
        },
        "media_marker": "<__media__>",
        "total_slots": app.max_num_seqs,
        "chat_template": loaded.engine.preparer().template_file().unwrap_or_default(),
        "build_info": concat!("outro ", env!("CARGO_PKG_VERSION")),
        "default_generation_settings": {
            "n_ctx": app.max_model_len.map_or(length, |most| most.min(length)),
            "params": sampling,
        },
    }))
    .into_response())
}
