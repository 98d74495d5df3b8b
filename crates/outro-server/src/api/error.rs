//! Errors in OpenAI's form.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use outro::ErrorKind;
use serde_json::{Value, json};

use crate::door::Refused;

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) message: String,
    /// The field that is wrong.
    pub(crate) param: Option<String>,
    /// Seconds after which to try again.
    pub(crate) retry: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            retry: None,
        }
    }

    /// A field of the request that is wrong.
    pub(crate) fn field(param: &str, problem: impl AsRef<str>) -> Self {
        Self {
            param: Some(param.to_owned()),
            ..Self::new(400, format!("`{param}` {}", problem.as_ref()))
        }
    }

    /// There is no room now.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self {
            retry: Some(2),
            ..Self::new(503, message)
        }
    }

    /// OpenAI's word for the kind.
    fn kind(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            501 => "not_supported_error",
            503 => "unavailable_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.status,
        }})
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self {
            param: Some("messages".into()),
            ..Self::new(refused.status, refused.message)
        }
    }
}

impl From<outro::Error> for ApiError {
    fn from(error: outro::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => 404,
            ErrorKind::Invalid => 400,
            ErrorKind::Unsupported => 415,
            ErrorKind::TooLong => 413,
            ErrorKind::Damaged => 422,
            ErrorKind::Cancelled => 499,
            _ => 500,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.json())).into_response();
        if let Some(seconds) = self.retry {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
