//! What every request passes: keys, origins, the log.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::App;
use crate::api::ApiError;

/// Paths that need no key: they tell nothing of models and requests.
const OPEN: [&str; 5] = ["/", "/health", "/ping", "/version", "/openapi.json"];

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let origin = allowed(&app, request.headers());
    let mut response = if method == Method::OPTIONS && origin.is_some() {
        StatusCode::NO_CONTENT.into_response()
    } else if OPEN.contains(&path.as_str()) || has_key(&app, request.headers()) {
        next.run(request).await
    } else {
        ApiError::new(
            401,
            "the key is missing or wrong; send it as `Authorization: Bearer KEY`",
        )
        .into_response()
    };
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, DELETE, OPTIONS"),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type"),
        );
    }
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        app.metrics.errors.add(1);
    }
    // Paths are ours or cut; no query, no header, no body.
    let shown: String = path.chars().filter(|c| !c.is_control()).take(80).collect();
    let seconds = since.elapsed().as_secs_f64();
    (app.log)(&format!("{method} {shown} {} {seconds:.3} s", status.as_u16()));
    response
}

/// The origin, where it was named as one that may ask.
fn allowed(app: &App, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let named = |o: &String| o == "*" || o.as_bytes() == origin.as_bytes();
    app.origins.iter().any(named).then(|| origin.clone())
}

/// SHA-256 of a key.
pub(crate) fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Compares digests, all of them and every byte, so that time tells nothing.
fn has_key(app: &App, headers: &HeaderMap) -> bool {
    if app.keys.is_empty() {
        return true;
    }
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer ").or_else(|| v.strip_prefix("bearer ")));
    let given = digest(given.unwrap_or_default().trim());
    let differs = |key: &[u8; 32]| key.iter().zip(&given).fold(0, |d, (a, b)| d | (a ^ b));
    app.keys
        .iter()
        .fold(false, |found, key| found | (differs(key) == 0))
}
