//! A client of `occlude-serve`: the requests of the quick start and of the benchmarks.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::Duration;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps its connections open between requests.
pub struct Client {
    agent: ureq::Agent,
    url: String,
}

impl Client {
    /// `url`: `http://host:port`.
    pub fn new(url: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        Self { agent: config.build().into(), url: url.to_owned() }
    }

    /// A JSON answer.
    pub fn get(&self, path: &str) -> Result<Value> {
        let answer = self.agent.get(format!("{}{path}", self.url)).call();
        json(path, answer)
    }

    /// An answer as it is.
    pub fn text(&self, path: &str) -> Result<String> {
        let answer = self.agent.get(format!("{}{path}", self.url)).call();
        let mut answer = answer.with_context(|| format!("no answer from `{path}`"))?;
        answer.body_mut().read_to_string().with_context(|| format!("the answer of `{path}` was cut off"))
    }

    /// Posts image bytes; the `results` entry of the one image.
    pub fn post(&self, path: &str, image: &[u8]) -> Result<Value> {
        let mut answer = json(path, self.send(path, "application/json", image))?;
        match answer.pointer_mut("/results/0") {
            Some(result) => Ok(result.take()),
            None => bail!("`{path}` answered without a result: {answer}"),
        }
    }

    /// Posts image bytes; a PNG.
    pub fn draw(&self, path: &str, image: &[u8]) -> Result<Vec<u8>> {
        let mut answer =
            self.send(path, "image/png", image).with_context(|| format!("no answer from `{path}`"))?;
        if !answer.status().is_success() {
            bail!("`{path}` answered {}", answer.status());
        }
        answer.body_mut().read_to_vec().with_context(|| format!("the answer of `{path}` was cut off"))
    }

    fn send(&self, path: &str, accept: &str, image: &[u8]) -> Answer {
        let request = self.agent.post(format!("{}{path}", self.url)).header("accept", accept);
        request.header("content-type", "application/octet-stream").send(image)
    }
}

type Answer = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

fn json(path: &str, answer: Answer) -> Result<Value> {
    let mut answer = answer.with_context(|| format!("no answer from `{path}`"))?;
    let text =
        answer.body_mut().read_to_string().with_context(|| format!("the answer of `{path}` was cut off"))?;
    if !answer.status().is_success() {
        bail!("`{path}` answered {}: {}", answer.status(), text.trim());
    }
    serde_json::from_str(&text).with_context(|| format!("the answer of `{path}` is not JSON"))
}
