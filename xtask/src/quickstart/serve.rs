//! The serving step: indexes the training images and asks about validation images.

use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::images::Images;
use crate::client::Client;
use crate::server::Server;
use crate::sh;

/// Neighbours asked for per image.
const NEIGHBOURS: usize = 6;

/// What the server said about one image.
pub(super) struct Answer {
    pub(super) image: PathBuf,
    pub(super) overlay: Vec<u8>,
    /// Nearest gallery images and their cosine similarities.
    pub(super) neighbours: Vec<(PathBuf, f64)>,
}

/// What the server said altogether.
pub(super) struct Served {
    pub(super) provider: String,
    pub(super) dimension: usize,
    pub(super) answers: Vec<Answer>,
    /// Median time of an embedding request, one at a time.
    pub(super) latency: Duration,
    /// Share of the neighbours that lie in the query's own class folder, in per cent.
    pub(super) agreement: f64,
}

impl Served {
    /// The lines under the step's heading.
    pub(super) fn summary(&self) -> String {
        format!(
            "{:17}{} answered {} images: {} numbers each, {} a request; {:.0} % of the neighbours share the class",
            "",
            self.provider,
            self.answers.len(),
            self.dimension,
            sh::seconds(self.latency),
            self.agreement
        )
    }
}

/// Starts the server and asks it for the embedding, the saliency and the neighbours of `count` images.
pub(super) fn ask(model: &Path, images: &Images, count: usize, log: &Path) -> Result<(Server, Served)> {
    let server = Server::start(model, Some(&images.train), &[], log)?;
    let client = server.client();
    let ready = client.get("/readyz")?;
    let mut answers = Vec::new();
    let mut times = Vec::new();
    let mut dimension = 0;
    for image in images.samples(count)? {
        let bytes = fs::read(&image)?;
        let start = Instant::now();
        let embedding = client.post("/v1/embed", &bytes)?;
        times.push(start.elapsed());
        dimension =
            embedding.pointer("/embedding").and_then(Value::as_array).context("no `embedding`")?.len();
        answers.push(answer(&client, image, &bytes, &images.train)?);
    }
    times.sort_unstable();
    let latency = times.get(times.len() / 2).copied().unwrap_or_default();
    let provider = ready.pointer("/models/0/provider").and_then(Value::as_str);
    let provider = provider.context("`/readyz` names no provider")?.to_owned();
    let agreement = agreement(&answers);
    Ok((server, Served { provider, dimension, answers, latency, agreement }))
}

fn answer(client: &Client, image: PathBuf, bytes: &[u8], gallery: &Path) -> Result<Answer> {
    let overlay = client.draw("/v1/saliency?view=overlay&window=whole&refine=true", bytes)?;
    let found = client.post(&format!("/v1/search?k={NEIGHBOURS}"), bytes)?;
    let neighbours = found.get("neighbours").and_then(Value::as_array).context("no `neighbours`")?;
    let neighbour =
        |row: &Value| Some((gallery.join(row.get("path")?.as_str()?), row.get("cosine")?.as_f64()?));
    Ok(Answer { image, overlay, neighbours: neighbours.iter().filter_map(neighbour).collect() })
}

fn agreement(answers: &[Answer]) -> f64 {
    let class = |path: &Path| path.parent().and_then(Path::file_name).map(std::ffi::OsStr::to_owned);
    let pairs: Vec<bool> = answers
        .iter()
        .flat_map(|a| a.neighbours.iter().map(|(path, _)| class(path) == class(&a.image)))
        .collect();
    100.0 * pairs.iter().filter(|same| **same).count() as f64 / pairs.len().max(1) as f64
}
