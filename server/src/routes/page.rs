//! The page at `/`: one file, nothing from elsewhere.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use occlude_preprocess::Format;
use sha2::{Digest, Sha256};

/// The page, with the formats that are read in the places for them.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let types = Format::ALL.map(Format::media_type).join(",");
    include_str!("../page/index.html").replace("{formats}", Format::LISTED).replace("{media-types}", &types)
});

/// The page's own script and style, known by their hashes, and no other; pictures of this server, of the page and of
/// the clipboard; requests to this server; no text becomes markup.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (script, style) = (hash("script"), hash("style"));
    format!(
        "default-src 'none'; script-src {script}; style-src {style}; img-src 'self' blob: data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    )
});

/// What is between the tags of the page's only element of this name, as a source of a policy.
fn hash(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inside = PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    let text = inside.map_or("", |(text, _)| text);
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

/// The page to try pictures on
#[utoipa::path(get, path = "/", operation_id = "page", tag = "server", responses(
    (status = 200, body = String, content_type = "text/html"),
))]
pub(super) async fn index() -> Response {
    let headers = [(header::CONTENT_SECURITY_POLICY, POLICY.as_str()), (header::CACHE_CONTROL, "no-cache")];
    (headers, Html(PAGE.as_str())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_and_offers_what_is_read() {
        assert!(PAGE.contains(&format!("<p>{}; they go to", Format::LISTED)));
        let accepted =
            PAGE.split_once("accept=\"").and_then(|(_, rest)| rest.split_once('"')).map(|(list, _)| list);
        let accepted: Vec<_> = accepted.into_iter().flat_map(|list| list.split(',')).collect();
        assert_eq!(accepted, Format::ALL.map(Format::media_type));
    }

    #[test]
    fn there_is_one_script_and_one_style_and_none_in_attributes() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert_ne!(hash(element), hash("nothing"), "{element}");
        }
        // The policy would drop them without a word.
        for inline in [" style=\"", " onclick=", "javascript:", "innerHTML"] {
            assert!(!PAGE.contains(inline), "{inline}");
        }
        assert!(!POLICY.contains("unsafe"));
    }
}
