//! A request's body: bounded, in time, as JSON.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures_core::Stream;
use serde_json::Value;
use tokio::time::timeout;

use super::App;
use crate::api::ApiError;

/// A sender that sends nothing for this long is gone.
const STALL: Duration = Duration::from_secs(30);

/// Bytes that count among those of all bodies until they are read.
struct Counted<'a> {
    all: &'a AtomicUsize,
    own: usize,
}

impl Counted<'_> {
    /// # Errors
    /// Where all bodies together would have more than twice the most of one.
    fn grow(&mut self, by: usize, most: usize) -> Result<(), ApiError> {
        self.own += by;
        if self.all.fetch_add(by, Ordering::AcqRel).saturating_add(by) > most.saturating_mul(2) {
            return Err(ApiError::busy("too many large requests come at once; try again"));
        }
        Ok(())
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::AcqRel);
    }
}

/// Reads a body as JSON.
pub(crate) async fn json(body: Body, app: &App) -> Result<Value, ApiError> {
    let most = app.max_body;
    let mut counted = Counted {
        all: &app.body_bytes,
        own: 0,
    };
    let mut stream = pin!(body.into_data_stream());
    let mut bytes = Vec::new();
    loop {
        let next = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx));
        let Ok(next) = timeout(STALL, next).await else {
            let text = format!(
                "nothing came for {} s before the body was complete",
                STALL.as_secs()
            );
            return Err(ApiError::new(408, text));
        };
        match next {
            None => break,
            Some(Err(e)) => return Err(ApiError::new(400, format!("the body cannot be read: {e}"))),
            Some(Ok(piece)) if bytes.len() + piece.len() > most => {
                let text = format!(
                    "the body has more than {most} bytes; send large media as uploads (POST /v1/files)"
                );
                return Err(ApiError::new(413, text));
            }
            Some(Ok(piece)) => {
                counted.grow(piece.len(), most)?;
                bytes.extend_from_slice(&piece);
            }
        }
    }
    if bytes.is_empty() {
        return Err(ApiError::new(400, "the body is empty; it must be JSON"));
    }
    // The message of the parser has line and column, and no part of the body.
    serde_json::from_slice(&bytes).map_err(|e| ApiError::new(400, format!("the body is no JSON: {e}")))
}
