//! What the runs say, for people and for programs.

use serde_json::{Map, Value, json};
use std::fmt::Write;

use super::arms::Arm;
use super::experiment::{Experiment, Run};
use super::figures::{DECIDING, Difference, Figures, MEASURES, Measure};
use super::pairing::Pairing;
use super::stats::summary;

/// Seeds from which on differences get an interval over seeds, and a claim may be made.
const ENOUGH: usize = 3;

/// Floors: what stands in the table, the arm whose runs have it, the features.
const FLOORS: [(&str, &str, &str); 3] = [
    ("untrained encoder", "plain", "untrained"),
    ("untrained encoder behind the high-pass filter", "hp", "untrained"),
    ("raw pixels, 16x16", "plain", "pixels"),
];

/// What may be said of an arm.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Claim {
    /// It has nothing to be held against.
    None,
    /// Something is missing.
    Open(String),
    /// Every interval of every deciding figure is above 0.
    Ahead,
    /// Every one is below 0.
    Behind,
    /// Neither.
    NotShown,
}

impl Claim {
    /// By all of what the arm is held against, in all deciding figures.
    pub(super) fn of(arm: &Arm, figures: &Figures<'_>) -> Self {
        if arm.against.is_empty() {
            return Self::None;
        }
        let mut signs = Vec::new();
        for other in &arm.against {
            for measure in DECIDING {
                match figures.difference(&arm.name, other, measure) {
                    None => return Self::Open(format!("`{other}` has not been run")),
                    Some(d) if d.seeds < ENOUGH => {
                        return Self::Open(format!("{} of {ENOUGH} seeds", d.seeds));
                    }
                    Some(d) => signs.push(d.over_seeds.map_or(0, sign)),
                }
            }
        }
        match signs {
            signs if signs.iter().all(|&s| s > 0) => Self::Ahead,
            signs if signs.iter().all(|&s| s < 0) => Self::Behind,
            _ => Self::NotShown,
        }
    }

    fn say(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Open(why) => format!("open: {why}"),
            Self::Ahead => "ahead".into(),
            Self::Behind => "behind".into(),
            Self::NotShown => "not shown".into(),
        }
    }
}

/// 1 above 0, -1 below, 0 where the interval holds it.
fn sign([low, high]: [f64; 2]) -> i32 {
    i32::from(low > 0.0) - i32::from(high < 0.0)
}

/// The tables of all data sets.
pub(super) fn markdown(experiment: &Experiment, all: &[Figures<'_>]) -> String {
    all.iter().map(|figures| of_data(experiment, figures)).collect::<Vec<_>>().join("\n")
}

fn of_data(experiment: &Experiment, figures: &Figures<'_>) -> String {
    let measures: Vec<Measure> = MEASURES
        .into_iter()
        .filter(|m| figures.found.iter().any(|found| found.figure(*m).is_some()))
        .collect();
    let mut out = format!("## {}\n\n", figures.data.name);
    if measures.is_empty() {
        return out + "No run has ended yet.\n";
    }
    let names: Vec<String> = measures.iter().map(|m| m.name()).collect();
    let _ = writeln!(out, "| | {} | seeds |", names.join(" | "));
    let _ = writeln!(out, "|---|{}---:|", "---:|".repeat(measures.len()));
    for arm in &experiment.arms {
        let cells: Vec<String> = measures.iter().map(|m| cell(&figures.values(&arm.name, *m))).collect();
        let seeds = figures.of(&arm.name).filter(|found| found.finished()).count();
        let _ = writeln!(out, "| {} (`{}`) | {} | {seeds} |", arm.about, arm.name, cells.join(" | "));
    }
    for (about, arm, features) in FLOORS {
        let floors = |m: &Measure| figures.of(arm).find_map(|found| found.floor(*m, features));
        if floors(&Measure::Knn(10)).is_some() {
            let cells: Vec<String> =
                measures.iter().map(|m| floors(m).map_or(String::new(), |v| format!("{v:.1}"))).collect();
            let _ = writeln!(out, "| {about} | {} | |", cells.join(" | "));
        }
    }
    out += "\n";
    out += &differences(experiment, figures);
    let _ = writeln!(out, "{}\n", Pairing::of(figures).say());
    for arm in &experiment.arms {
        if let Ok(flags) = experiment.flags(Run { arm, data: figures.data, seed: 0 }) {
            let _ = writeln!(out, "- `{}`: `{flags}`", arm.name);
        }
    }
    out
}

/// Every arm beside what it is held against.
fn differences(experiment: &Experiment, figures: &Figures<'_>) -> String {
    let mut rows = String::new();
    let mut marked = false;
    for arm in &experiment.arms {
        let mut claim = Claim::of(arm, figures).say();
        for other in &arm.against {
            let found = DECIDING.map(|m| figures.difference(&arm.name, other, m));
            if found.iter().all(Option::is_none) {
                continue;
            }
            marked |= found.iter().flatten().any(|d| d.seeds < ENOUGH && d.over_pictures.is_some());
            let [knn, linear] = found.map(|d| d.map_or(String::new(), |d| points(&d)));
            let _ = writeln!(rows, "| `{}` | `{other}` | {knn} | {linear} | {claim} |", arm.name);
            claim.clear();
        }
    }
    if rows.is_empty() {
        return rows;
    }
    let [knn, linear] = DECIDING.map(Measure::name);
    let mut out = format!("| arm | less | {knn} | {linear} | claim |\n|---|---|---:|---:|---|\n{rows}\n");
    if marked {
        out += &format!(
            "\\* fewer than {ENOUGH} seeds: the interval is that of the test pictures for these encoders, and says nothing about another seed.\n\n"
        );
    }
    out
}

/// `+1.2 [0.3, 2.1]`.
fn points(difference: &Difference) -> String {
    let (interval, mark) = match difference.seeds {
        n if n >= ENOUGH => (difference.over_seeds, ""),
        _ => (difference.over_pictures, "*"),
    };
    let interval = interval.map_or(String::new(), |[low, high]| format!(" [{low:.1}, {high:.1}]{mark}"));
    format!("{:+.1}{interval}", difference.mean)
}

/// `45.1 ± 0.4`: the mean and the standard deviation over the seeds.
fn cell(values: &[f64]) -> String {
    summary(values).map_or(String::new(), |s| match s.deviation {
        Some(deviation) => format!("{:.1} ± {deviation:.1}", s.mean),
        None => format!("{:.1}", s.mean),
    })
}

/// Everything, for programs.
pub(super) fn json(experiment: &Experiment, all: &[Figures<'_>]) -> Value {
    let data: Vec<Value> = all.iter().map(|figures| of_data_json(experiment, figures)).collect();
    json!({ "experiment": experiment.describe(), "results": data })
}

fn of_data_json(experiment: &Experiment, figures: &Figures<'_>) -> Value {
    let arms: Vec<Value> = experiment.arms.iter().map(|arm| of_arm(experiment, figures, arm)).collect();
    let mut floors = Map::new();
    for (about, arm, features) in FLOORS {
        let found: Map<String, Value> = MEASURES
            .iter()
            .filter_map(|m| Some((m.key(), figures.of(arm).find_map(|f| f.floor(*m, features))?.into())))
            .collect();
        if !found.is_empty() {
            floors.insert(about.into(), Value::Object(found));
        }
    }
    json!({ "data": figures.data.name, "pairing": Pairing::of(figures).json(), "floors": floors, "arms": arms })
}

fn of_arm(experiment: &Experiment, figures: &Figures<'_>, arm: &Arm) -> Value {
    let flags = experiment.flags(Run { arm, data: figures.data, seed: 0 }).map(|f| f.to_string());
    let seeds: Map<String, Value> = figures
        .of(&arm.name)
        .filter(|found| found.finished())
        .map(|found| (found.seed.to_string(), found.json()))
        .collect();
    let means: Map<String, Value> = MEASURES
        .iter()
        .filter_map(|m| {
            let s = summary(&figures.values(&arm.name, *m))?;
            Some((m.key(), json!({ "mean": s.mean, "deviation": s.deviation, "seeds": s.count })))
        })
        .collect();
    let differences: Map<String, Value> = arm
        .against
        .iter()
        .map(|other| {
            let found = MEASURES.iter().filter_map(|m| {
                let d = figures.difference(&arm.name, other, *m)?;
                let value = json!({ "mean": d.mean, "seeds": d.seeds, "over_seeds": d.over_seeds, "over_pictures": d.over_pictures });
                Some((m.key(), value))
            });
            (other.clone(), Value::Object(found.collect()))
        })
        .collect();
    json!({
        "arm": arm.name, "about": arm.about, "flags": flags.unwrap_or_default(), "seeds": seeds, "means": means,
        "differences": differences, "claim": Claim::of(arm, figures).say(),
    })
}
