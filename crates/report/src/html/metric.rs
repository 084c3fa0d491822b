//! What is known of metrics by name.

use super::scale::Fit;
use crate::run::Rows;

/// How a metric is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    /// Its name in `metrics.jsonl`.
    pub(super) name: &'static str,
    /// Its name for people.
    pub(super) title: &'static str,
    /// What it means.
    pub(super) note: &'static str,
    /// Whether it is a share, shown in per cent.
    pub(super) share: bool,
    /// Its axis.
    pub(super) fit: Fit,
}

const FREE: Fit = Fit { from_zero: false, at_least: 0.0 };
const ZERO: Fit = Fit { from_zero: true, at_least: 0.0 };

/// The loss.
pub(super) const LOSS: Metric = Metric { name: "loss", title: "Loss", note: "", share: false, fit: FREE };
/// How often the own positive wins.
pub(super) const ACCURACY: Metric = Metric {
    name: "acc1",
    title: "Contrastive accuracy",
    note: "how often the other view beats every negative",
    share: true,
    fit: ZERO,
};
/// The collapse's telltale.
pub(super) const SPREAD: Metric = Metric {
    name: "feature_std",
    title: "Feature spread",
    note: "1: every direction alike; 0: collapsed",
    share: false,
    fit: ZERO,
};
/// The learning rate.
pub(super) const RATE: Metric =
    Metric { name: "lr", title: "Learning rate", note: "", share: false, fit: ZERO };
/// Speed.
pub(super) const SPEED: Metric =
    Metric { name: "images_per_s", title: "Images per second", note: "", share: false, fit: ZERO };
/// The loader's share of the time.
pub(super) const WAIT: Metric = Metric {
    name: "data_wait",
    title: "Waiting for pictures",
    note: "share of the time in which the device idles",
    share: true,
    fit: Fit { from_zero: true, at_least: 5.0 },
};
const SIMILARITY: Metric = Metric {
    name: "positive_similarity",
    title: "Similarity of positives",
    note: "cosine of two views of a picture",
    share: false,
    fit: FREE,
};

const KEPT: Metric = Metric {
    name: "neighbours_kept",
    title: "Neighbours kept",
    note: "share of the nearest neighbours that were those of the encoder at the start",
    share: true,
    fit: ZERO,
};

/// In the order in which they are shown.
pub(super) const KNOWN: [Metric; 8] = [LOSS, ACCURACY, SPREAD, SIMILARITY, KEPT, RATE, SPEED, WAIT];

/// Numbers of a line that are no curve.
const COUNTS: [&str; 2] = ["seconds", "broken_files"];

impl Metric {
    /// What values are multiplied with, and what follows them.
    pub(super) fn unit(&self) -> (f64, &'static str) {
        if self.share { (100.0, " %") } else { (1.0, "") }
    }

    /// The curve in `rows`.
    pub(super) fn points(&self, rows: &Rows) -> Vec<(f64, f64)> {
        points(rows, self.name, self.unit().0)
    }

    /// The newest value in `rows`, in per cent where it is a share.
    pub(super) fn last(&self, rows: &Rows) -> Option<f64> {
        rows.values().rev().find_map(|row| row.get(self.name)).map(|value| self.unit().0 * value)
    }
}

/// The curve of any number.
pub(super) fn points(rows: &Rows, name: &str, factor: f64) -> Vec<(f64, f64)> {
    rows.iter().filter_map(|(&step, row)| Some((step as f64, factor * row.get(name)?))).collect()
}

/// The names of everything else, in order.
pub(super) fn others(rows: &Rows) -> Vec<String> {
    let names = rows.values().flat_map(|row| row.numbers.keys());
    let unknown =
        |name: &&String| KNOWN.iter().all(|known| known.name != **name) && !COUNTS.contains(&name.as_str());
    let set: std::collections::BTreeSet<_> = names.filter(unknown).collect();
    set.into_iter().cloned().collect()
}
