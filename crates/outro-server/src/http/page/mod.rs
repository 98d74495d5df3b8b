//! The page at `/`: one document without requests to anywhere else.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};

static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("index.html")
        .replace("/*STYLE*/", include_str!("style.css"))
        .replace("/*SCRIPT*/", include_str!("page.js"))
});

/// Nothing from elsewhere; what stands in the page itself may run.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; \
    media-src blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// `GET /`.
pub(super) async fn page() -> Response {
    let head = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (head, PAGE.as_str()).into_response()
}
