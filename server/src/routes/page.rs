//! The page at `/`: one file, nothing from elsewhere.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

const PAGE: &str = include_str!("../page/index.html");

/// Scripts and styles of the page itself only; pictures of this server, of the page and of the clipboard.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page to try pictures on
#[utoipa::path(get, path = "/", operation_id = "page", tag = "server", responses(
    (status = 200, body = String, content_type = "text/html"),
))]
pub(super) async fn index() -> Response {
    let headers = [(header::CONTENT_SECURITY_POLICY, POLICY), (header::CACHE_CONTROL, "no-cache")];
    (headers, Html(PAGE)).into_response()
}
