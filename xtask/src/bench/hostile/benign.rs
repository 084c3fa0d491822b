//! Ordinary requests, and whether their answers are those of the pictures alone.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

use super::dice::Dice;
use crate::bench::wire::{Reply, Wire, form, form_type, request};

/// Largest difference of an embedding from that of the picture alone.
const CLOSE: f64 = 1e-6;
/// Likewise of a saliency, whose values are sums over channels; relative.
const CLOSE_SALIENCY: f64 = 1e-4;

/// A picture and what the server says about it when nothing else happens.
pub(super) struct Picture {
    pub(super) file: Vec<u8>,
    embedding: Vec<f64>,
    saliency: Vec<f64>,
}

/// Asks an idle server about every picture of a folder.
pub(super) fn pictures(folder: &Path, url: &str) -> Result<Vec<Picture>> {
    let mut files: Vec<_> = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut wire = Wire::new(url)?;
    let mut ask = |path: &std::path::PathBuf| -> Result<Picture> {
        let file = fs::read(path)?;
        let reply = wire.ask(&request("/v1/analyze", &[], &file))?;
        let answer: Value = serde_json::from_slice(&reply.body)?;
        let (embedding, saliency) = (floats(&answer, 0, EMBEDDING), floats(&answer, 0, SALIENCY));
        ensure!(!embedding.is_empty() && !saliency.is_empty(), "`{}`: {answer}", path.display());
        Ok(Picture { file, embedding, saliency })
    };
    files.iter().map(&mut ask).collect()
}

const EMBEDDING: &str = "embedding";
const SALIENCY: &str = "saliency/grid/values";

fn floats(answer: &Value, index: usize, of: &str) -> Vec<f64> {
    let values = answer.pointer(&format!("/results/{index}/{of}")).and_then(Value::as_array);
    values.into_iter().flatten().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

/// A request, and the numbers of the pictures that it is about.
pub(super) struct Benign {
    pub(super) bytes: Vec<u8>,
    about: Vec<usize>,
    embedding: bool,
    saliency: bool,
}

impl Benign {
    /// Some pictures in one of the ways that the server takes.
    pub(super) fn throw(dice: &mut Dice, pictures: &[Picture]) -> Self {
        let (path, embedding, saliency) = *dice.pick(&[
            ("/v1/embed", true, false),
            ("/v1/embed", true, false),
            ("/v1/analyze", true, true),
            ("/v1/saliency", false, true),
        ]);
        let way = dice.below(4);
        let count = if way < 2 { 1 } else { 1 + dice.below(3) };
        let about: Vec<usize> = (0..count).map(|_| dice.below(pictures.len())).collect();
        let files: Vec<&[u8]> = about.iter().map(|i| &*pictures[*i].file).collect();
        let bytes = match way {
            0 | 1 => request(path, &[("content-type", "image/jpeg")], files[0]),
            2 => {
                let named: Vec<_> = files.iter().map(|file| ("../../a\u{1f4f7}.jpg", *file)).collect();
                request(path, &[("content-type", &form_type())], &form(&named))
            }
            _ => {
                let text: Vec<_> = files.iter().map(|file| STANDARD.encode(file)).collect();
                let body = json!({ "images": text }).to_string();
                request(path, &[("content-type", "application/json")], body.as_bytes())
            }
        };
        Self { bytes, about, embedding, saliency }
    }

    /// The largest difference from the pictures alone; an error where it is too large or anything is missing.
    pub(super) fn check(&self, reply: &Reply, pictures: &[Picture]) -> Result<f64> {
        let text = || String::from_utf8_lossy(&reply.body).chars().take(300).collect::<String>();
        ensure!(reply.status == 200, "answered {}: {}", reply.status, text());
        let answer: Value = serde_json::from_slice(&reply.body).with_context(text)?;
        let results = answer["results"].as_array().map_or(0, Vec::len);
        ensure!(results == self.about.len(), "{results} results for {} pictures", self.about.len());
        let mut most = 0.0f64;
        for (place, picture) in self.about.iter().map(|i| &pictures[*i]).enumerate() {
            if self.embedding {
                let off = distance(&floats(&answer, place, EMBEDDING), &picture.embedding);
                ensure!(off <= CLOSE, "an embedding is off by {off:e}");
                most = most.max(off);
            }
            if self.saliency {
                let scale = picture.saliency.iter().fold(f64::MIN_POSITIVE, |a, b| a.max(b.abs()));
                let off = distance(&floats(&answer, place, SALIENCY), &picture.saliency) / scale;
                ensure!(off <= CLOSE_SALIENCY, "a saliency is off by {off:e}");
            }
        }
        Ok(most)
    }
}

/// Largest difference; infinite where the lengths differ or something is no number.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let off = |(x, y): (&f64, &f64)| if (x - y).is_nan() { f64::INFINITY } else { (x - y).abs() };
    a.iter().zip(b).map(off).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(embedding: &Value) -> Result<f64> {
        let picture = Picture { file: vec![1], embedding: vec![0.5, 0.25], saliency: vec![] };
        let benign = Benign { bytes: vec![], about: vec![0], embedding: true, saliency: false };
        let body = json!({"results": [{"embedding": embedding}]}).to_string().into_bytes();
        benign.check(&Reply { status: 200, head: String::new(), body }, &[picture])
    }

    #[test]
    fn wrong_embeddings_are_found() {
        assert_eq!(asked(&json!([0.5, 0.25])).unwrap(), 0.0);
        assert!(asked(&json!([0.5, 0.250_000_5])).unwrap() > 0.0);
        for wrong in [json!([0.5, 0.2501]), json!([0.5]), json!([0.5, null]), json!(null)] {
            assert!(asked(&wrong).is_err(), "{wrong}");
        }
    }
}
