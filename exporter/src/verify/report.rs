//! The differences that were found, as a table and as JSON.

use std::fmt;
use std::path::PathBuf;

use occlude_contract::Golden;
use occlude_preprocess::names;
use serde_json::{Value, json};

use super::Agreement;
use crate::onnx::OutputKind;
use crate::runtime::Outputs;

/// Pictures that the table lists.
const SHOWN: usize = 32;

/// How far the outputs of one picture are from another computation of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Largest absolute difference of a value of the embedding (and the projection).
    pub embedding: f64,
    /// Least cosine between the embeddings (and the projections).
    pub cosine: f64,
    /// Largest absolute difference within the saliency map (and the stages), as a share of the map's largest value.
    pub maps: f64,
}

/// One picture.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureResult {
    /// The file.
    pub path: PathBuf,
    /// ONNX Runtime against tract, for models in single precision.
    pub tract: Option<Difference>,
    /// ONNX Runtime against the checkpoint's encoder, or against the model in single precision.
    pub reference: Difference,
    /// The map of ONNX Runtime and of that reference, row-major; empty where the model has no output `saliency`.
    pub saliency: [Vec<f32>; 2],
}

/// What [`crate::verify()`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// `fp32`, `fp16`, `int8`.
    pub precision: String,
    /// Whether the reference is the ONNX file of another project that the model was taken over from.
    pub adopted: bool,
    /// Whether the embeddings are whitened.
    pub whitened: bool,
    /// One entry per picture.
    pub results: Vec<PictureResult>,
    /// Neighbours, for models in lower precision.
    pub agreement: Option<Agreement>,
    /// ONNX Runtime against the golden answer in the file, `None` where it has none.
    pub golden: Option<Difference>,
    /// In the ONNX file, and of the checkpoint with the file's contract.
    pub fingerprint: (String, String),
    /// Pictures that could not be used.
    pub skipped: usize,
    /// Lines for people about the pictures: what was left out, what is broken.
    pub notes: Vec<String>,
    /// Milliseconds per picture; for single precision with the time of loading.
    pub times: Vec<(&'static str, f64)>,
}

impl Difference {
    const NONE: Self = Self { embedding: 0.0, cosine: 1.0, maps: 0.0 };

    /// The difference of `a` from `b`; infinite where shapes or numbers make no sense.
    pub(super) fn of(a: &Outputs, b: &Outputs) -> Self {
        if !a.keys().eq(b.keys()) {
            return Self { embedding: f64::INFINITY, cosine: -1.0, maps: f64::INFINITY };
        }
        a.iter()
            .zip(b.values())
            .map(|((name, a), b)| Self::of_output(name, a, b))
            .fold(Self::NONE, Self::worst)
    }

    fn of_output(name: &str, a: &[f32], b: &[f32]) -> Self {
        let difference = max_difference(a, b);
        match name.parse() {
            Ok(OutputKind::Embedding | OutputKind::Projection) => {
                Self { embedding: difference, cosine: cosine(a, b), ..Self::NONE }
            }
            // Where both are infinite, a share of the largest would be no number.
            _ if difference.is_infinite() => Self { maps: difference, ..Self::NONE },
            _ => Self { maps: difference / largest(b).max(f64::MIN_POSITIVE), ..Self::NONE },
        }
    }

    /// The worse of both in every respect.
    fn worst(self, other: Self) -> Self {
        Self {
            embedding: self.embedding.max(other.embedding),
            cosine: self.cosine.min(other.cosine),
            maps: self.maps.max(other.maps),
        }
    }

    fn json(self) -> Value {
        json!({ "max_abs_error": self.embedding, "cosine": self.cosine, "map_error": self.maps })
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

    /// Whether tight tolerances make sense.
    pub fn is_single_precision(&self) -> bool {
        self.precision == "fp32"
    }

    /// The tolerance of the file's precision. Whitening takes away what all embeddings have in common, so that the same
    /// rounding of the encoder is a larger part of what is left.
    pub fn usual_tolerance(&self) -> f64 {
        match self.precision.as_str() {
            "int8" if self.whitened => 5e-2,
            "int8" => 1e-2,
            _ => 1e-4,
        }
    }

    /// Whether the fingerprint is the checkpoint's, the golden answer is right and nothing differs by more than
    /// `tolerance`. In single precision that is an embedding's value, a map's value as a share of its largest, and the
    /// cosine from 1; in lower precision the cosine. What is no number never passes.
    pub fn passes(&self, tolerance: f64) -> bool {
        let close = |d: Difference| {
            let exact = d.embedding <= tolerance && d.maps <= tolerance;
            let numbers = d.embedding.is_finite() && d.maps.is_finite();
            d.cosine >= 1.0 - tolerance && numbers && (exact || !self.is_single_precision())
        };
        let good = |r: &PictureResult| r.tract.is_none_or(close) && close(r.reference);
        self.same_fingerprint()
            && self.answers_golden()
            && !self.results.is_empty()
            && self.results.iter().all(good)
    }

    /// Whether the golden answer is as near as a server wants it, or there is none.
    pub fn answers_golden(&self) -> bool {
        self.golden.is_none_or(|d| d.cosine >= Golden::least_cosine(&self.precision))
    }

    /// The worst over all pictures: against tract, and against the reference.
    pub fn worst(&self) -> (Option<Difference>, Difference) {
        let reference = self.results.iter().map(|r| r.reference).fold(Difference::NONE, Difference::worst);
        (self.results.iter().filter_map(|r| r.tract).reduce(Difference::worst), reference)
    }

    /// Mean cosine between the embeddings of model and reference.
    pub fn mean_cosine(&self) -> f64 {
        self.results.iter().map(|r| r.reference.cosine).sum::<f64>() / self.results.len().max(1) as f64
    }

    fn reference(&self) -> &'static str {
        match self.adopted {
            true => "original",
            false if self.is_single_precision() => "checkpoint",
            false => "fp32",
        }
    }

    /// The whole result.
    pub fn json(&self, tolerance: f64) -> Value {
        let (tract, reference) = self.worst();
        let both = |tract: Option<Difference>, reference: Difference| {
            let mut object = json!({ self.reference(): reference.json() });
            if let Some(tract) = tract {
                object["tract"] = tract.json();
            }
            object
        };
        let results = self.results.iter().map(|r| {
            let mut object = both(r.tract, r.reference);
            object["path"] = names::of_path(&r.path).into();
            object
        });
        json!({
            "passed": self.passes(tolerance),
            "precision": self.precision,
            "tolerance": tolerance,
            "fingerprint": { "file": self.fingerprint.0, "checkpoint": self.fingerprint.1 },
            "golden": self.golden.map(Difference::json),
            "worst": both(tract, reference),
            "mean_cosine": self.mean_cosine(),
            "neighbours": self.agreement.map(Agreement::json),
            "skipped": self.skipped,
            "ms_per_picture": self.times.iter().map(|(n, t)| ((*n).to_owned(), json!(t))).collect::<serde_json::Map<_, _>>(),
            "pictures": results.collect::<Vec<_>>(),
        })
    }

    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.results.iter().map(|r| names::of_path(&r.path)).collect();
        let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0).clamp(8, 48);
        let (worst_tract, worst) = self.worst();
        let headings: Vec<String> = worst_tract
            .iter()
            .map(|_| "ONNX Runtime - tract".to_owned())
            .chain([format!("ONNX Runtime - {}", self.reference())])
            .collect();
        let cells = |cells: Vec<String>| cells.iter().map(|c| format!("  {c:^30}")).collect::<String>();
        writeln!(f, "{:width$}{}", "", cells(headings.clone()))?;
        writeln!(
            f,
            "{:width$}{}",
            "picture",
            cells(vec!["max error     cosine      maps".into(); headings.len()])
        )?;
        let row = |d: Option<Difference>, r: Difference| {
            cells(d.iter().chain([&r]).map(Difference::to_string).collect())
        };
        for (name, result) in names.iter().zip(&self.results).take(SHOWN) {
            // The end of a long path tells more than its beginning.
            let skip = name.chars().count().saturating_sub(width);
            let name: String = name.chars().skip(skip).collect();
            writeln!(f, "{name:width$}{}", row(result.tract, result.reference))?;
        }
        if let Some(more) = names.len().checked_sub(SHOWN + 1) {
            writeln!(f, "... and {} more; `--json` has them all", more + 1)?;
        }
        writeln!(f, "{:width$}{}", "worst", row(worst_tract, worst))
    }
}

/// Error, cosine and maps columns.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.1e} {:>10.7} {:>9.1e}", self.embedding, self.cosine, self.maps)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table(f)?;
        match self.golden {
            Some(d) => writeln!(f, "golden picture: cosine {:.7}, max error {:.1e}", d.cosine, d.embedding)?,
            None => writeln!(f, "golden picture: none in the file")?,
        }
        if let Some(agreement) = self.agreement {
            writeln!(f, "{agreement}")?;
        }
        let times: Vec<String> = self.times.iter().map(|(name, time)| format!("{name} {time:.0}")).collect();
        writeln!(f, "milliseconds per picture: {}", times.join(", "))?;
        let (file, other) = &self.fingerprint;
        let of = if self.adopted { "original" } else { "checkpoint" };
        if self.same_fingerprint() {
            write!(f, "fingerprint {file}: the {of}'s")
        } else {
            write!(f, "fingerprint {file}: the {of} has {other}")
        }
    }
}

impl Agreement {
    fn json(self) -> Value {
        json!({
            "pictures": self.pictures,
            "k": self.k,
            "overlap": self.overlap,
            "nearest": self.nearest,
            "top1": self.top1.map(|t| t.0),
            "top1_fp32": self.top1.map(|t| t.1),
        })
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let (nearest, overlap) = (percent(self.nearest), percent(self.overlap));
        write!(f, "neighbours of {} pictures: the nearest is fp32's for {nearest}, ", self.pictures)?;
        write!(f, "of the {} nearest {overlap} are", self.k)?;
        let Some((ours, theirs)) = self.top1 else { return Ok(()) };
        write!(f, "; weighted kNN by folders: {}, fp32 {}", percent(ours), percent(theirs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(embedding: &[f32], saliency: &[f32]) -> Outputs {
        Outputs::from([
            ("embedding".to_owned(), embedding.to_vec()),
            ("saliency".to_owned(), saliency.to_vec()),
        ])
    }

    fn comparison(a: &Outputs, b: &Outputs) -> Comparison {
        let difference = Difference::of(a, b);
        Comparison {
            whitened: false,
            adopted: false,
            precision: "fp32".to_owned(),
            results: vec![PictureResult {
                path: "a.jpg".into(),
                tract: Some(difference),
                reference: difference,
                saliency: Default::default(),
            }],
            agreement: None,
            golden: Some(difference),
            fingerprint: ("f".to_owned(), "f".to_owned()),
            skipped: 0,
            notes: Vec::new(),
            times: vec![("tract", 1.0)],
        }
    }

    #[test]
    fn differences_are_measured() {
        let d = Difference::of(&outputs(&[0.6, 0.8], &[50.0, 99.0]), &outputs(&[0.8, 0.6], &[50.0, 100.0]));
        assert!(
            (d.embedding - 0.2).abs() < 1e-6
                && (d.cosine - 0.96).abs() < 1e-6
                && (d.maps - 0.01).abs() < 1e-6
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
        let lower = |a: &Outputs| Comparison { precision: "fp16".to_owned(), ..comparison(a, a) };
        for value in [f32::NAN, f32::INFINITY] {
            let same = outputs(&[0.6, 0.8], &[value]);
            assert!(!comparison(&same, &same).passes(1e-4), "{value}");
            assert!(!lower(&same).passes(1e-4), "{value}: in lower precision, too");
        }
        let half_turned = Difference { cosine: 0.99, ..Difference::NONE };
        let strange = Comparison { golden: Some(half_turned), ..passed.clone() };
        assert!(!strange.answers_golden() && !strange.passes(1.0));
        assert!(Comparison { golden: None, ..passed.clone() }.passes(1e-4), "older files have none");
        let quantized =
            |other: &Outputs| Comparison { precision: "int8".to_owned(), ..comparison(other, &good) };
        assert!(quantized(&outputs(&[0.61, 0.79], &[1.5])).passes(1e-2), "only the cosine counts");
        assert!(!quantized(&outputs(&[0.9, 0.1], &[1.0])).passes(1e-2));
        let adopted = Comparison { adopted: true, ..passed.clone() };
        assert!(adopted.to_string().contains("the original's"), "{adopted}");
        assert!(adopted.json(1e-4)["worst"]["original"].is_object());
        assert!(passed.to_string().contains("a.jpg") && passed.to_string().contains("fingerprint f"));
        assert_eq!(passed.json(1e-4)["passed"], true);
    }
}
