//! The differences that were found, as a table and as JSON.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::runtime::Outputs;

/// How far the outputs of one picture are from another computation of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Largest absolute difference of the embedding.
    pub embedding: f64,
    /// Cosine between the embeddings.
    pub cosine: f64,
    /// Largest absolute difference of the saliency map, as a share of its largest value.
    pub saliency: f64,
}

/// One picture.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureResult {
    /// The file.
    pub path: PathBuf,
    /// ONNX Runtime against tract.
    pub tract: Difference,
    /// ONNX Runtime against the checkpoint's encoder.
    pub checkpoint: Difference,
}

/// What [`crate::verify()`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// One entry per picture.
    pub results: Vec<PictureResult>,
    /// In the ONNX file, and of the checkpoint with the file's contract.
    pub fingerprint: (String, String),
    /// Milliseconds per picture, loading included: ONNX Runtime, tract, plain computation.
    pub times: [f64; 3],
}

impl Difference {
    /// The difference of `a` from `b`; infinite where shapes or numbers make no sense.
    pub(super) fn of(a: &Outputs, b: &Outputs) -> Self {
        let scale = largest(&b.saliency).max(f64::MIN_POSITIVE);
        Self {
            embedding: max_difference(&a.embedding, &b.embedding),
            cosine: cosine(&a.embedding, &b.embedding),
            saliency: max_difference(&a.saliency, &b.saliency) / scale,
        }
    }

    /// The worse of both in every respect.
    fn worst(self, other: Self) -> Self {
        Self {
            embedding: self.embedding.max(other.embedding),
            cosine: self.cosine.min(other.cosine),
            saliency: self.saliency.max(other.saliency),
        }
    }

    fn within(self, tolerance: f64) -> bool {
        self.embedding <= tolerance && self.saliency <= tolerance && self.cosine >= 1.0 - tolerance
    }

    fn json(self) -> Value {
        json!({ "max_abs_error": self.embedding, "cosine": self.cosine, "saliency_error": self.saliency })
    }
}

fn largest(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).abs()).fold(0.0, f64::max)
}

fn max_difference(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).abs());
    // `max` passes over NaN, which is the worst of all.
    let step = |worst: f64, d: f64| if d.is_nan() { f64::INFINITY } else { worst.max(d) };
    if a.len() == b.len() { pairs.fold(0.0, step) } else { f64::INFINITY }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(&p, &q)| f64::from(p) * f64::from(q)).sum() };
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if cosine.is_nan() { -1.0 } else { cosine }
}

impl Comparison {
    /// Whether file and checkpoint have the same weights and contract.
    pub fn same_fingerprint(&self) -> bool {
        self.fingerprint.0 == self.fingerprint.1
    }

    /// Whether the fingerprint is the checkpoint's and nothing differs by more than `tolerance`:
    /// neither an embedding's value, nor a saliency value as a share of the map's largest, nor the
    /// cosine from 1.
    pub fn passes(&self, tolerance: f64) -> bool {
        let close = |r: &PictureResult| r.tract.within(tolerance) && r.checkpoint.within(tolerance);
        self.same_fingerprint() && !self.results.is_empty() && self.results.iter().all(close)
    }

    /// The worst over all pictures, against tract and against the checkpoint.
    pub fn worst(&self) -> (Difference, Difference) {
        let none = Difference { embedding: 0.0, cosine: 1.0, saliency: 0.0 };
        let fold = |pick: fn(&PictureResult) -> Difference| {
            self.results.iter().map(pick).fold(none, Difference::worst)
        };
        (fold(|r| r.tract), fold(|r| r.checkpoint))
    }

    /// The whole result.
    pub fn json(&self, tolerance: f64) -> Value {
        let (tract, checkpoint) = self.worst();
        let results = self.results.iter().map(|r| {
            json!({ "path": r.path.display().to_string(), "tract": r.tract.json(), "checkpoint": r.checkpoint.json() })
        });
        json!({
            "passed": self.passes(tolerance),
            "tolerance": tolerance,
            "fingerprint": { "file": self.fingerprint.0, "checkpoint": self.fingerprint.1 },
            "worst": { "tract": tract.json(), "checkpoint": checkpoint.json() },
            "ms_per_picture": { "onnxruntime": self.times[0], "tract": self.times[1], "plain": self.times[2] },
            "pictures": results.collect::<Vec<_>>(),
        })
    }
}

/// Error, cosine and saliency columns.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.1e} {:>10.7} {:>9.1e}", self.embedding, self.cosine, self.saliency)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.results.iter().map(|r| r.path.display().to_string()).collect();
        let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0).clamp(8, 48);
        let columns = "max error     cosine  saliency";
        writeln!(f, "{:width$}  {:^30}  {:^30}", "", "ONNX Runtime - tract", "ONNX Runtime - checkpoint")?;
        writeln!(f, "{:width$}  {columns}  {columns}", "picture")?;
        for (name, result) in names.iter().zip(&self.results) {
            // The end of a long path tells more than its beginning.
            let skip = name.chars().count().saturating_sub(width);
            let name: String = name.chars().skip(skip).collect();
            writeln!(f, "{name:width$}  {}  {}", result.tract, result.checkpoint)?;
        }
        let (tract, checkpoint) = self.worst();
        writeln!(f, "{:width$}  {tract}  {checkpoint}", "worst")?;
        let [ort, tract, plain] = self.times;
        writeln!(
            f,
            "milliseconds per picture, loading included: ONNX Runtime {ort:.0}, tract {tract:.0}, plain {plain:.0}"
        )?;
        let (file, checkpoint) = &self.fingerprint;
        if self.same_fingerprint() {
            write!(f, "fingerprint {file}: the checkpoint's")
        } else {
            write!(f, "fingerprint {file}: the checkpoint has {checkpoint}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(embedding: &[f32], saliency: &[f32]) -> Outputs {
        Outputs { embedding: embedding.to_vec(), saliency: saliency.to_vec() }
    }

    fn comparison(a: &Outputs, b: &Outputs) -> Comparison {
        let difference = Difference::of(a, b);
        Comparison {
            results: vec![PictureResult { path: "a.jpg".into(), tract: difference, checkpoint: difference }],
            fingerprint: ("f".to_owned(), "f".to_owned()),
            times: [1.0; 3],
        }
    }

    #[test]
    fn differences_are_measured() {
        let d = Difference::of(&outputs(&[0.6, 0.8], &[50.0, 99.0]), &outputs(&[0.8, 0.6], &[50.0, 100.0]));
        assert!(
            (d.embedding - 0.2).abs() < 1e-6
                && (d.cosine - 0.96).abs() < 1e-6
                && (d.saliency - 0.01).abs() < 1e-6
        );
    }

    #[test]
    fn passing_needs_everything() {
        let good = outputs(&[0.6, 0.8], &[1.0]);
        let passed = comparison(&good, &good);
        assert!(passed.passes(1e-4));
        assert!(!Comparison { results: vec![], ..passed.clone() }.passes(1e-4));
        assert!(!Comparison { fingerprint: ("f".into(), "g".into()), ..passed.clone() }.passes(1e-4));
        for bad in [
            outputs(&[0.6, 0.8], &[1.1]),
            outputs(&[0.5, 0.8], &[1.0]),
            outputs(&[f32::NAN, 0.8], &[1.0]),
            outputs(&[0.6], &[1.0]),
        ] {
            assert!(!comparison(&bad, &good).passes(1e-4), "{bad:?}");
            assert!(!comparison(&good, &bad).passes(1e-4), "{bad:?}");
        }
        assert!(passed.to_string().contains("a.jpg") && passed.to_string().contains("fingerprint f"));
        assert_eq!(passed.json(1e-4)["passed"], true);
    }
}
