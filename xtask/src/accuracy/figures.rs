//! Figures of finished runs, arm by arm and seed by seed.

use anyhow::Result;
use serde_json::Value;
use std::path::Path;

use super::experiment::{Data, Experiment, Run, read};
use super::job::{KNN, LINEAR};
use super::stats::{bootstrap, mean, t_interval};

/// Something that is measured of every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Top-1 of that many nearest neighbours.
    Knn(u64),
    /// The same in whitened features.
    Whitened(u64),
    /// Top-1 of a linear classifier, or its mean over classes.
    Linear,
    LinearPerClass,
}

/// What the tables show; the claims rest on the first and the third.
pub(super) const MEASURES: [Measure; 4] =
    [Measure::Knn(10), Measure::Whitened(10), Measure::Linear, Measure::LinearPerClass];
/// What a claim rests on.
pub(super) const DECIDING: [Measure; 2] = [Measure::Knn(10), Measure::Linear];
/// Everything that is kept of a run.
const KEPT: [Measure; 8] = [
    Measure::Knn(1),
    Measure::Knn(10),
    Measure::Knn(20),
    Measure::Whitened(1),
    Measure::Whitened(10),
    Measure::Whitened(20),
    Measure::Linear,
    Measure::LinearPerClass,
];

impl Measure {
    pub(super) fn name(self) -> String {
        match self {
            Self::Knn(k) => format!("kNN, k={k}"),
            Self::Whitened(k) => format!("whitened, k={k}"),
            Self::Linear => "linear".into(),
            Self::LinearPerClass => "per class".into(),
        }
    }

    /// As a key of JSON.
    pub(super) fn key(self) -> String {
        match self {
            Self::Knn(k) => format!("knn{k}"),
            Self::Whitened(k) => format!("knn{k}_whitened"),
            Self::Linear => "linear".into(),
            Self::LinearPerClass => "linear_per_class".into(),
        }
    }

    /// In per cent; none where it was not measured. `features` is `checkpoint`, or a floor.
    fn of(self, knn: Option<&Value>, linear: Option<&Value>, features: &str) -> Option<f64> {
        let neighbours = |features: &str, k: u64| {
            let row =
                knn?["results"].as_array()?.iter().find(|r| r["k"] == k && r["features"] == features)?;
            row["top1"].as_f64()
        };
        let classifier = |key| linear.filter(|_| features == "checkpoint")?[key].as_f64();
        let value = match self {
            Self::Knn(k) => neighbours(features, k),
            Self::Whitened(k) => neighbours(&format!("{features}-whitened"), k),
            Self::Linear => classifier("top1"),
            Self::LinearPerClass => classifier("mean_per_class"),
        };
        value.map(|share| 100.0 * share)
    }
}

/// What a finished run says.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) arm: String,
    pub(super) seed: u32,
    knn: Option<Value>,
    linear: Option<Value>,
    /// What it began with: hashes of the encoder, of the order and of the views.
    pub(super) start: Option<Value>,
    /// Of every test picture whether it was right, by the nearest neighbours and by the classifier.
    pictures: [Option<Value>; 2],
}

impl Found {
    /// # Errors
    /// Where a file is broken.
    fn read(run: Run<'_>, out: &Path) -> Result<Self> {
        let folder = run.folder(out);
        let file = |name: &str| read(&folder.join(name));
        Ok(Self {
            arm: run.arm.name.clone(),
            seed: run.seed,
            knn: file(KNN)?,
            linear: file(LINEAR)?,
            start: file("start.json")?,
            pictures: [file("knn-pictures.json")?, file("linear-pictures.json")?],
        })
    }

    /// Whether there is anything.
    pub(super) fn finished(&self) -> bool {
        self.knn.is_some() && self.linear.is_some()
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.arm, self.seed)
    }

    /// The figure, in per cent.
    pub(super) fn figure(&self, measure: Measure) -> Option<f64> {
        self.floor(measure, "checkpoint")
    }

    /// The figure of other features than the encoder's.
    pub(super) fn floor(&self, measure: Measure, features: &str) -> Option<f64> {
        measure.of(self.knn.as_ref(), self.linear.as_ref(), features)
    }

    /// All figures as JSON.
    pub(super) fn json(&self) -> Value {
        let figures = KEPT.iter().filter_map(|m| Some((m.key(), Value::from(self.figure(*m)?))));
        Value::Object(figures.collect())
    }

    /// Of every test picture, by its name, whether it was right.
    fn right(&self, measure: Measure) -> Option<(&Value, Vec<bool>)> {
        let (file, features, k) = match measure {
            Measure::Knn(k) => (0, "checkpoint", Some(k)),
            Measure::Whitened(k) => (0, "checkpoint-whitened", Some(k)),
            Measure::Linear => (1, "checkpoint", None),
            Measure::LinearPerClass => return None,
        };
        let answer = self.pictures[file].as_ref()?;
        let mut rows = answer["rows"].as_array()?.iter();
        let row = rows.find(|r| r["features"] == features && r["k"].as_u64() == k)?;
        Some((&answer["pictures"], row["right"].as_str()?.bytes().map(|b| b == b'1').collect()))
    }
}

/// What the runs of one data set say.
pub(super) struct Figures<'a> {
    pub(super) data: &'a Data,
    pub(super) found: Vec<Found>,
}

/// A difference of two arms, in points.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) mean: f64,
    /// Seeds that both have.
    pub(super) seeds: usize,
    /// Student's interval over the seeds; from two on.
    pub(super) over_seeds: Option<[f64; 2]>,
    /// The bootstrap's over the test pictures, of these encoders alone.
    pub(super) over_pictures: Option<[f64; 2]>,
}

impl<'a> Figures<'a> {
    /// # Errors
    /// Where a file of a run is broken.
    pub(super) fn read(experiment: &'a Experiment, data: &'a Data) -> Result<Self> {
        let runs = experiment.runs().into_iter().filter(|run| run.data == data);
        let found = runs.map(|run| Found::read(run, &experiment.out)).collect::<Result<_>>()?;
        Ok(Self { data, found })
    }

    /// The runs of an arm, in the order of the seeds.
    pub(super) fn of<'b>(&'b self, arm: &'b str) -> impl Iterator<Item = &'b Found> {
        self.found.iter().filter(move |found| found.arm == arm)
    }

    /// The figures of the seeds that have one.
    pub(super) fn values(&self, arm: &str, measure: Measure) -> Vec<f64> {
        self.of(arm).filter_map(|found| found.figure(measure)).collect()
    }

    /// `arm` less `other`, seed by seed; none where no seed has both.
    pub(super) fn difference(&self, arm: &str, other: &str, measure: Measure) -> Option<Difference> {
        let pairs: Vec<(&Found, &Found)> =
            self.of(arm).filter_map(|a| Some((a, self.of(other).find(|b| b.seed == a.seed)?))).collect();
        let points: Vec<f64> =
            pairs.iter().filter_map(|(a, b)| Some(a.figure(measure)? - b.figure(measure)?)).collect();
        Some(Difference {
            mean: mean(&points)?,
            seeds: points.len(),
            over_seeds: t_interval(&points),
            over_pictures: by_picture(&pairs, measure).and_then(|values| bootstrap(&values)),
        })
    }
}

/// In points, of every test picture the mean over the seeds of: right in the first, less right in the second. None where a
/// pair lacks it, or saw other pictures.
fn by_picture(pairs: &[(&Found, &Found)], measure: Measure) -> Option<Vec<f64>> {
    let mut names: Option<&Value> = None;
    let mut sums: Vec<f64> = Vec::new();
    let mut count = 0.0;
    for (a, b) in pairs.iter().filter(|(a, b)| a.figure(measure).is_some() && b.figure(measure).is_some()) {
        let ((of_a, a), (of_b, b)) = (a.right(measure)?, b.right(measure)?);
        if of_a != of_b || *names.get_or_insert(of_a) != of_a || a.len() != b.len() {
            return None;
        }
        sums.resize(a.len(), 0.0);
        sums.iter_mut().zip(a.iter().zip(&b)).for_each(|(sum, (&a, &b))| *sum += f64::from(a) - f64::from(b));
        count += 1.0;
    }
    Some(sums.into_iter().map(|sum| 100.0 * sum / count).collect())
}
