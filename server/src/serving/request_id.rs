//! The id of a request: a layer around everything that answers.
//!
//! The layer of `tower-http` keeps whatever a client sends, which then stands in logs and answers; here only plain words are
//! taken over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a client.
const MAX_ID: usize = 64;

/// The id of the request that is being answered.
#[derive(Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Gives the request its id before anybody answers it, and the answer the same one.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
    // The application has this layer, and so has what is put around it; the outer one decides.
    if request.extensions().get::<RequestId>().is_some() {
        return next.run(request).await;
    }
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The client's own id where it is a plain word, else a new one: time of start and a number.
fn request_id(headers: &HeaderMap) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let plain = |v: &str| {
        (1..=MAX_ID).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let given = headers.get(&REQUEST_ID).and_then(|v| v.to_str().ok()).filter(|v| plain(v));
    given.map_or_else(
        || format!("{:08x}-{:06x}", started(), NEXT.fetch_add(1, Ordering::Relaxed)),
        ToOwned::to_owned,
    )
}

fn started() -> u32 {
    static STARTED: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *STARTED.get_or_init(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // The low bits change with every start; the high ones say nothing new.
        since.map_or(0, |d| d.as_nanos() as u32 ^ d.as_secs() as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(id: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static(id));
        request_id(&headers)
    }

    #[test]
    fn plain_ids_are_kept_and_others_replaced() {
        assert_eq!(with("abc-1_2.3"), "abc-1_2.3");
        for odd in ["", "has space", "<script>", "a\"b"] {
            assert_ne!(with(odd), odd);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
