//! `/v1/files`: uploads that content parts name by their ids, in the form of OpenAI's API.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{DefaultBodyLimit, Multipart, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_core::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::files::{Coming, Upload};
use super::spool::{Room, Spool, Spooled};
use super::{Door, Refused};

/// A sender that sends nothing for this long is gone.
const STALL: Duration = Duration::from_mins(1);
/// Most bytes of a field beside the file.
const FIELD: usize = 1024;
/// Most characters of a file's name.
const NAME: usize = 255;
/// Most files of a page of the list, and how many it has where nobody asks.
const PAGE: usize = 10_000;

/// The endpoints of uploads. Keys are checked by who mounts them.
pub(crate) fn routes(door: Arc<Door>) -> Router {
    Router::new()
        .route("/v1/files", get(list).post(create))
        .route("/v1/files/{id}", get(one).delete(remove))
        .route("/v1/files/{id}/content", get(content))
        // Counted as it comes.
        .layer(DefaultBodyLimit::disable())
        .with_state(door)
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let kind = match self.status {
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let error = json!({"message": self.message, "type": kind, "param": null, "code": self.status});
        // 499 is known to no client: who cancelled does not listen.
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(json!({"error": error}))).into_response()
    }
}

/// What a form says beside the file.
#[derive(Default)]
struct Form {
    file: Option<(Spooled, Coming, String)>,
    purpose: Option<String>,
    age: Option<Duration>,
}

async fn create(
    State(door): State<Arc<Door>>,
    multipart: Result<Multipart, MultipartRejection>,
) -> Result<Json<Value>, Refused> {
    let mut parts = multipart.map_err(|e| Refused::new(400, format!("is no form with a file: {e}")))?;
    let mut form = Form::default();
    while let Some(field) = in_time(parts.next_field()).await? {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "file" if form.file.is_some() => return Err(Refused::new(400, "`file` is there twice")),
            "file" => form.file = Some(receive(&door, field).await?),
            "purpose" => form.purpose = Some(text(field, "purpose").await?),
            "expires_after[anchor]" => {
                if text(field, &name).await? != "created_at" {
                    return Err(Refused::new(400, "`expires_after[anchor]` must be `created_at`"));
                }
            }
            "expires_after[seconds]" => {
                let seconds = text(field, &name).await?.parse().ok().filter(|s| *s > 0);
                let bad = || Refused::new(400, "`expires_after[seconds]` must be a whole number above 0");
                form.age = Some(Duration::from_secs(seconds.ok_or_else(bad)?));
            }
            _ => {
                let shown: String = name.chars().take(50).collect();
                return Err(Refused::new(400, format!("`{shown}` is no field of an upload")));
            }
        }
    }
    let missing = || {
        Refused::new(
            400,
            "`file` is missing: an upload is a form (multipart/form-data) with a file",
        )
    };
    let (content, coming, name) = form.file.ok_or_else(missing)?;
    let purpose = form.purpose.unwrap_or_else(|| "user_data".into());
    let upload = door.files.keep(content, name, purpose, form.age)?;
    // Counted with those that are kept from here on.
    drop(coming);
    Ok(Json(upload.json()))
}

async fn in_time<T>(next: impl Future<Output = Result<T, MultipartError>>) -> Result<T, Refused> {
    match timeout(STALL, next).await {
        Ok(Ok(got)) => Ok(got),
        Ok(Err(e)) => {
            let status = if e.status() == StatusCode::PAYLOAD_TOO_LARGE {
                413
            } else {
                400
            };
            Err(Refused::new(
                status,
                format!("the form cannot be read: {}", e.body_text()),
            ))
        }
        Err(_) => Err(Refused::new(
            408,
            format!("nothing came for {} s", STALL.as_secs()),
        )),
    }
}

/// A file, piece by piece onto the disk.
async fn receive(door: &Arc<Door>, mut field: Field<'_>) -> Result<(Spooled, Coming, String), Refused> {
    let name = field.file_name().unwrap_or("file").chars().take(NAME).collect();
    let room = Room {
        medium: door.rules.bytes,
        request: u64::MAX,
        taken: 0,
    };
    let (directory, coming) = (door.directory()?, door.files.coming());
    let mut state = (Spool::new(&directory, "file-", room)?, coming);
    while let Some(piece) = in_time(field.chunk()).await? {
        state = off_thread(move || {
            let (mut spool, mut coming) = state;
            coming.grow(piece.len() as u64)?;
            spool.write(&piece)?;
            Ok((spool, coming))
        })
        .await?;
    }
    let (spool, coming) = state;
    Ok((spool.finish(), coming, name))
}

/// Work that waits for the disk.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let stopped = |_| Refused::new(500, "the server is stopping");
    spawn_blocking(work).await.map_err(stopped)?
}

async fn text(mut field: Field<'_>, name: &str) -> Result<String, Refused> {
    let mut all = Vec::new();
    while let Some(piece) = in_time(field.chunk()).await? {
        all.extend_from_slice(&piece);
        if all.len() > FIELD {
            return Err(Refused::new(400, format!("`{name}` has more than {FIELD} bytes")));
        }
    }
    String::from_utf8(all).map_err(|_| Refused::new(400, format!("`{name}` is no text")))
}

/// What a list may ask for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    purpose: Option<String>,
    limit: Option<usize>,
    order: Option<String>,
    after: Option<String>,
}

async fn list(
    State(door): State<Arc<Door>>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Refused> {
    let Query(asked) = asked.map_err(|e| Refused::new(400, e.body_text()))?;
    let mut all = door.files.list();
    match asked.order.as_deref() {
        None | Some("desc") => all.reverse(),
        Some("asc") => {}
        Some(_) => return Err(Refused::new(400, "`order` must be `asc` or `desc`")),
    }
    all.retain(|f| asked.purpose.as_ref().is_none_or(|p| *p == f.purpose));
    let limit = asked.limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        return Err(Refused::new(400, format!("`limit` must be 1 to {PAGE}")));
    }
    let from = match &asked.after {
        None => 0,
        Some(id) => match all.iter().position(|f| f.id == *id) {
            Some(place) => place + 1,
            None => return Err(Refused::new(400, "`after` names no file of this list")),
        },
    };
    let page: Vec<&Upload> = all.iter().skip(from).take(limit).collect();
    Ok(Json(json!({
        "object": "list",
        "data": page.iter().map(|f| f.json()).collect::<Vec<_>>(),
        "first_id": page.first().map(|f| &f.id),
        "last_id": page.last().map(|f| &f.id),
        "has_more": from + page.len() < all.len(),
    })))
}

async fn one(State(door): State<Arc<Door>>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    door.files.get(&id).map(|f| Json(f.json()))
}

async fn remove(State(door): State<Arc<Door>>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    door.files.remove(&id)?;
    Ok(Json(json!({"id": id, "object": "file", "deleted": true})))
}

async fn content(State(door): State<Arc<Door>>, Path(id): Path<String>) -> Result<Response, Refused> {
    let upload = door.files.get(&id)?;
    let length = upload.content.bytes;
    let (send, receive) = mpsc::channel(4);
    spawn_blocking(move || {
        let opened = std::fs::File::open(upload.content.path());
        let mut piece = vec![0; 1 << 16];
        let mut read = || -> std::io::Result<Option<Bytes>> {
            let n = opened.as_ref().map_err(std::io::Error::kind)?.read(&mut piece)?;
            Ok((n > 0).then(|| Bytes::copy_from_slice(&piece[..n])))
        };
        while let Some(next) = read().transpose() {
            let last = next.is_err();
            if send.blocking_send(next).is_err() || last {
                break;
            }
        }
        // The file is there until it is read.
        drop(upload);
    });
    // What strangers uploaded is never shown as a page of this server.
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, "attachment".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((head, Body::from_stream(Pieces(receive))).into_response())
}

struct Pieces(mpsc::Receiver<std::io::Result<Bytes>>);

impl Stream for Pieces {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

#[cfg(test)]
mod tests;
