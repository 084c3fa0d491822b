//! `occlude-serve health`: what a container's health check asks, in an image without curl.

use std::time::Duration;

use super::ToolError;

/// Longest wait for the answer: a server that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a server says of itself at `/readyz`; an error unless it is ready.
pub fn health(url: &str) -> Result<String, ToolError> {
    let failed = |why: String| ToolError::Health { url: url.to_owned(), why };
    let config =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).proxy(None).http_status_as_error(false);
    let agent: ureq::Agent = config.build().into();
    let answer = agent.get(format!("{}/readyz", url.trim_end_matches('/'))).call();
    let mut answer = answer.map_err(|e| failed(e.to_string()))?;
    let text = answer.body_mut().read_to_string().map_err(|e| failed(e.to_string()))?;
    let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let status = body.get("status").and_then(|s| s.as_str()).unwrap_or("no server of this kind").to_owned();
    if answer.status().is_success() { Ok(status) } else { Err(failed(status)) }
}
