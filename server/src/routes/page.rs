//! The page at `/` and its parts at `/page/..`: all in the program, nothing from elsewhere.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use occlude_preprocess::Format;
use sha2::{Digest, Sha256};

use super::negotiate::Segment;
use crate::error::{ApiError, Kind};

/// The files of `src/page/` that the page fetches, each with its text.
macro_rules! texts {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../page/", $name)))),*]
    };
}

/// Scripts and styles of the page.
static FILES: &[(&str, &str)] = &texts![
    "api.js",
    "base.css",
    "browse.js",
    "commands.js",
    "compare.js",
    "controls.js",
    "docs.css",
    "dom.js",
    "draw.js",
    "edit.js",
    "examples.js",
    "filters.js",
    "keys.js",
    "look.js",
    "main.js",
    "map.js",
    "parts.css",
    "payload.js",
    "pictures.js",
    "plot.js",
    "project.js",
    "region.js",
    "results.js",
    "saliency.js",
    "sample.js",
    "samples.js",
    "saves.js",
    "search.js",
    "send.js",
    "server.js",
    "state.js",
    "vendor/LICENCES.txt",
    "vendor/umap-js.min.js",
];

/// The page, with the formats that are read in the places for them.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let types = Format::ALL.map(Format::media_type).join(",");
    include_str!("../page/index.html").replace("{formats}", Format::LISTED).replace("{media-types}", &types)
});

/// Scripts and styles of this server, and the page's one inline script by its hash; pictures of this server, of the
/// page and of the clipboard; requests to this server; no text becomes markup, and workers are made of the addresses
/// that the policy `occlude` lets pass.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src 'self' {}; worker-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types occlude",
        hash("script")
    )
});

/// What is between the tags of the page's only element of this name without attributes, as a source of a policy.
fn hash(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inside = PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    let text = inside.map_or("", |(text, _)| text);
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

/// A file as it is sent.
struct File {
    kind: &'static str,
    text: &'static str,
    /// Its entity tag, a hash of the text.
    tag: String,
}

impl File {
    fn new(name: &str, text: &'static str) -> Self {
        let kind = match name.rsplit_once('.') {
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "html")) => "text/html; charset=utf-8",
            _ => "text/plain; charset=utf-8",
        };
        Self { kind, text, tag: format!("\"{}\"", STANDARD.encode(Sha256::digest(text))) }
    }

    /// The file, or 304 where the client has it. A worker obeys the policy that its script came with.
    fn answer(&self, asked: &HeaderMap) -> Response {
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
        let mut tags = known.flat_map(|v| v.split(',')).map(str::trim);
        let has = tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.tag);
        let common = [
            (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
            (header::CACHE_CONTROL, "no-cache"),
            (header::ETAG, self.tag.as_str()),
        ];
        if has {
            return (StatusCode::NOT_MODIFIED, common, Body::empty()).into_response();
        }
        (common, [(header::CONTENT_TYPE, self.kind)], self.text).into_response()
    }
}

static INDEX: LazyLock<File> = LazyLock::new(|| File::new("index.html", PAGE.as_str()));

static PARTS: LazyLock<BTreeMap<&'static str, File>> =
    LazyLock::new(|| FILES.iter().map(|&(name, text)| (name, File::new(name, text))).collect());

/// The page to try pictures on
#[utoipa::path(get, path = "/", operation_id = "page", tag = "server", responses(
    (status = 200, body = String, content_type = "text/html"),
    (status = 304, description = "The client has it, by its `If-None-Match`"),
))]
pub(super) async fn index(asked: HeaderMap) -> Response {
    INDEX.answer(&asked)
}

/// Scripts and styles of the page.
pub(super) async fn file(Segment(name): Segment, asked: HeaderMap) -> Result<Response, ApiError> {
    let missing = || ApiError::new(Kind::NotFound, format!("there is nothing at `/page/{name}`"));
    PARTS.get(name.as_str()).map(|file| file.answer(&asked)).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What stands in `text` between `before` and the next quote, at each place.
    fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn the_page_names_and_offers_what_is_read() {
        assert!(PAGE.contains(&format!("<p>{}; they go to", Format::LISTED)));
        let accepted: Vec<_> = quoted(&PAGE, "accept=\"").into_iter().flat_map(|l| l.split(',')).collect();
        assert_eq!(accepted, Format::ALL.map(Format::media_type));
    }

    #[test]
    fn there_is_one_inline_script_and_nothing_in_attributes() {
        assert_eq!(PAGE.matches("<script>").count(), 1);
        assert_eq!(PAGE.matches("<style").count(), 0);
        assert_ne!(hash("script"), hash("nothing"));
        let own = FILES.iter().filter(|(name, _)| !name.starts_with("vendor/"));
        // The policy would drop them without a word.
        for (name, text) in own.copied().chain([("index.html", PAGE.as_str())]) {
            for inline in [" style=\"", " onclick=", "javascript:", "innerHTML", "insertAdjacentHTML"] {
                assert!(!text.contains(inline), "{name}: {inline}");
            }
            assert!(text.lines().count() < 440, "{name} is long: cut it");
        }
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn every_part_that_is_asked_for_is_there_and_every_part_is_asked_for() {
        let mut asked: BTreeSet<String> = ["vendor/LICENCES.txt", "docs.css"].map(str::to_owned).into();
        asked.extend(quoted(&PAGE, "=\"page/").into_iter().map(str::to_owned));
        for (_, text) in FILES {
            asked.extend(quoted(text, " from \"./").into_iter().map(str::to_owned));
            asked.extend(quoted(text, "createScriptURL(\"").into_iter().map(|n| n.replace("page/", "")));
        }
        let there: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(asked, there);
    }

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        let file = &PARTS["main.js"];
        let asked = |value: &str| {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, value.parse().unwrap())]);
            file.answer(&headers).status()
        };
        assert_eq!(file.answer(&HeaderMap::new()).status(), StatusCode::OK);
        for has in [file.tag.clone(), format!("\"other\", W/{}", file.tag), "*".to_owned()] {
            assert_eq!(asked(&has), StatusCode::NOT_MODIFIED, "{has}");
        }
        assert_eq!(asked("\"other\""), StatusCode::OK);
    }
}
