//! Whether the runs of one seed are pairs: they begin with the same encoder and see the same pictures, in the same order,
//! in the same views, so that what differs between them is what differs between the arms.

use serde_json::{Value, json};

use super::figures::{Figures, Found};

/// What the runs' `start.json` say of a data set.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Pairing {
    /// Runs that do not say what they began with.
    silent: Vec<String>,
    /// Runs that began with another encoder than their seed's first, or saw another order.
    unpaired: Vec<String>,
    /// Arms whose first batch had other views: their flags change the augmentation.
    other_views: Vec<String>,
    /// Seeds that have something to compare.
    seeds: usize,
}

impl Pairing {
    /// Compares every run with the first one of its seed.
    pub(super) fn of(figures: &Figures<'_>) -> Self {
        let mut out = Self::default();
        let mut seeds: Vec<u32> = figures.found.iter().map(|f| f.seed).collect();
        seeds.dedup();
        for seed in seeds {
            let runs: Vec<&Found> = figures.found.iter().filter(|f| f.seed == seed && f.finished()).collect();
            out.silent.extend(runs.iter().filter(|f| f.start.is_none()).map(|f| f.name()));
            let mut told = runs.iter().filter_map(|f| Some((*f, f.start.as_ref()?)));
            let Some((_, first)) = told.next() else { continue };
            let before = out.seeds;
            for (run, start) in told {
                out.seeds = before + 1;
                if ["encoder", "order"].iter().any(|key| start[key] != first[key]) {
                    out.unpaired.push(run.name());
                } else if start["views"] != first["views"] && !out.other_views.contains(&run.arm) {
                    out.other_views.push(run.arm.clone());
                }
            }
        }
        out
    }

    /// A sentence or two.
    pub(super) fn say(&self) -> String {
        let list = |names: &[String]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let mut said = Vec::new();
        if self.seeds > 0 && self.unpaired.is_empty() {
            said.push("The runs of a seed began with the same encoder and saw the same pictures in the same order (compared in every run).".to_owned());
        }
        if !self.unpaired.is_empty() {
            said.push(format!(
                "Not paired: {} began with another encoder than the first arm of that seed, or saw another order.",
                list(&self.unpaired)
            ));
        }
        match self.other_views.as_slice() {
            [] if self.seeds > 0 => said.push("Their first views were the same, too.".to_owned()),
            [] => {}
            arms => said.push(format!(
                "Their first views were the same, too, but for {}, whose flags change the views.",
                list(arms)
            )),
        }
        if !self.silent.is_empty() {
            said.push(format!(
                "Not checked, because they do not say what they began with: {}.",
                list(&self.silent)
            ));
        }
        said.join(" ")
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "seeds_compared": self.seeds, "not_checked": self.silent, "not_paired": self.unpaired, "other_views": self.other_views,
        })
    }
}
