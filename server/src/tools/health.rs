//! `occlude-serve health`: what a container's health check asks, in an image without curl.

use std::net::IpAddr;
use std::time::Duration;

use ureq::tls::TlsConfig;

use super::ToolError;
use crate::config::host::with_port;

/// Longest wait for the answer: a server that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a server says of itself at `/readyz`; an error unless it is ready. `asked` is a web address, `HOST:PORT`, a host
/// or a port; what it leaves out is where a server of this configuration listens, with TLS or without.
pub fn health(asked: Option<&str>, (host, port, tls): (&str, u16, bool)) -> Result<String, ToolError> {
    let asked = asked.unwrap_or_default().trim();
    let url = address(asked, (host, port), tls);
    let failed = |why: String| ToolError::Health { url: url.clone(), why };
    let config =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).proxy(None).http_status_as_error(false);
    // The certificate of the server itself is for the name that its clients use, and may be signed by anybody.
    let itself = tls && asked.is_empty();
    let config = config.tls_config(TlsConfig::builder().disable_verification(itself).build());
    let agent: ureq::Agent = config.build().into();
    let answer = agent.get(format!("{url}/readyz")).call();
    let mut answer = answer.map_err(|e| failed(e.to_string()))?;
    let text = answer.body_mut().read_to_string().map_err(|e| failed(e.to_string()))?;
    let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let status = body.get("status").and_then(|s| s.as_str()).unwrap_or("not an occlude server").to_owned();
    if !answer.status().is_success() {
        return Err(failed(status));
    }
    Ok(match body.pointer("/collections/problem").and_then(|p| p.as_str()) {
        Some(problem) => format!("{status}, but nothing can be added to collections: {problem}"),
        None => status,
    })
}

/// The server's address without a slash at its end.
fn address(asked: &str, (host, port): (&str, u16), tls: bool) -> String {
    let asked = asked.trim_end_matches('/');
    let asked = asked.strip_suffix("/readyz").unwrap_or(asked);
    let host = match host {
        // What a server listens on for everybody, nobody can be asked at.
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    if asked.contains("://") {
        return asked.to_owned();
    }
    let (place, path) =
        asked.split_once('/').map_or((asked, String::new()), |(p, rest)| (p, format!("/{rest}")));
    let bare = place.strip_prefix('[').and_then(|p| p.strip_suffix(']')).unwrap_or(place);
    let place = if place.is_empty() {
        with_port(host, port)
    } else if let Ok(port) = place.strip_prefix(':').unwrap_or(place).parse::<u16>() {
        with_port(host, port)
    } else if bare.parse::<IpAddr>().is_ok() || !place.contains(':') {
        with_port(bare, port)
    } else {
        place.to_owned()
    };
    format!("{}://{place}{path}", if tls { "https" } else { "http" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_where_the_server_listens() {
        for (asked, expected) in [
            ("", "http://127.0.0.1:9000"),
            ("http://a.example", "http://a.example"),
            ("https://a.example/occ/", "https://a.example/occ"),
            ("http://a.example:80/readyz", "http://a.example:80"),
            ("a.example:81", "http://a.example:81"),
            ("a.example:81/occ", "http://a.example:81/occ"),
            ("localhost", "http://localhost:9000"),
            ("10.0.0.1", "http://10.0.0.1:9000"),
            ("8081", "http://127.0.0.1:8081"),
            (":8081", "http://127.0.0.1:8081"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("[::1]", "http://[::1]:9000"),
            ("::1", "http://[::1]:9000"),
        ] {
            assert_eq!(address(asked, ("0.0.0.0", 9000), false), expected, "{asked}");
        }
        assert_eq!(address("", ("::", 1), false), "http://[::1]:1");
        assert_eq!(address("", ("localhost", 1), true), "https://localhost:1");
    }
}
