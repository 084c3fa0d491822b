//! Swagger UI at `/docs/`, which shows `/openapi.json`; nothing of it comes from elsewhere.

use std::sync::{Arc, LazyLock};

use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use utoipa_swagger_ui::{Config, serve};

use super::negotiate::Segment;
use crate::error::{ApiError, Kind};

/// Files of this server only; Swagger UI draws its icons from data URLs and sets styles of elements.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The way to the page of this document
#[utoipa::path(
    get, path = "/docs", operation_id = "docs", tag = "server",
    responses((status = 308, description = "To `docs/`"))
)]
pub(super) async fn redirect() -> Redirect {
    Redirect::permanent("docs/")
}

/// The page of this document
#[utoipa::path(get, path = "/docs/", operation_id = "docs_page", tag = "server", responses(
    (status = 200, body = String, content_type = "text/html"),
))]
pub(super) async fn index() -> Result<Response, ApiError> {
    asset("index.html")
}

/// Scripts and styles of the page.
pub(super) async fn file(Segment(path): Segment) -> Result<Response, ApiError> {
    asset(&path)
}

/// Swagger UI's page with this server's name and colours, and a way back.
fn ours(page: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(page)
        .replace("<title>Swagger UI</title>", "<title>Occlude: every route</title>")
        .replace("</head>", "<link rel=\"stylesheet\" href=\"../page/docs.css\"></head>")
        .replace("<body>", "<body><p class=\"back\"><a href=\"../\">Occlude</a> / every route</p>")
        .into_bytes()
}

fn asset(name: &str) -> Result<Response, ApiError> {
    static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
        // Relative, so that a proxy may put the server below a path of its own.
        Arc::new(Config::from("../openapi.json").try_it_out_enabled(true))
    });
    let missing = || ApiError::new(Kind::NotFound, format!("there is nothing at `/docs/{name}`"));
    let broken = |e: Box<dyn std::error::Error>| ApiError::new(Kind::Internal, e.to_string());
    let file = serve(name, Arc::clone(&CONFIG)).map_err(broken)?.ok_or_else(missing)?;
    let headers = [
        (header::CONTENT_TYPE, file.content_type.as_str()),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let bytes = if name == "index.html" { ours(&file.bytes) } else { file.bytes.into_owned() };
    Ok((headers, bytes).into_response())
}
