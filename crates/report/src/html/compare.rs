//! The page that compares runs.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::chart::{Axis, Chart, Series};
use super::metric::{self, ACCURACY, LOSS, Metric, RATE, SPEED, SPREAD};
use super::number::{duration, fixed, short};
use super::{badge, best_knn, section, shell, table};
use crate::run::Run;

/// The page.
pub(super) fn page(runs: &[Run]) -> Markup {
    let names = labels(runs);
    let header = html! {
        h1 { "Runs compared" }
        p.about { (runs.len()) @if runs.len() == 1 { " run" } @else { " runs" } }
    };
    let body = html! {
        (section("Results", &results(runs, &names)))
        (section("Curves", &curves(runs, &names)))
        @if let Some(differences) = differences(runs, &names) { (section("What differs", &differences)) }
    };
    shell("Occlude: runs compared", &header, &body)
}

/// Names that tell runs apart: equal folder names are numbered.
fn labels(runs: &[Run]) -> Vec<String> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let number = |run: &Run| runs.iter().filter(|other| other.name == run.name).count() > 1;
    let mut out = Vec::new();
    for run in runs {
        let count = seen.entry(&run.name).or_default();
        *count += 1;
        out.push(if number(run) { format!("{} ({count})", run.name) } else { run.name.clone() });
    }
    out
}

fn results(runs: &[Run], names: &[String]) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="Results" {
            table.figures {
                thead {
                    tr {
                        @for title in ["Run", "State", "Recipe", "Epochs", "Loss", "Accuracy", "Best kNN", "Spread", "Images/s", "Time"] {
                            th scope="col" { (title) }
                        }
                    }
                }
                tbody { @for (i, (run, name)) in runs.iter().zip(names).enumerate() { (row(run, name, i)) } }
            }
        }
    }
}

fn row(run: &Run, name: &str, colour: usize) -> Markup {
    let rows = if run.log.epochs.is_empty() { &run.log.steps } else { &run.log.epochs };
    let figure = |metric: Metric| metric.last(rows).map(|v| short(v) + metric.unit().1).unwrap_or_default();
    let of = run.epochs().map(|epochs| format!(" of {epochs}")).unwrap_or_default();
    html! {
        tr {
            th scope="row" { span class=(format!("key c{}", colour % 8)) { (name) } }
            td { (badge(run.state)) }
            td { (run.setting("recipe").unwrap_or_default()) }
            td { (run.epochs_done()) (of) }
            td { (figure(LOSS)) }
            td { (figure(ACCURACY)) }
            td {
                @if let Some((name, share, _)) = best_knn(run) { (format!("{:.1} %", 100.0 * share)) " " span.where { (name) } }
            }
            td { (figure(SPREAD)) }
            td { (SPEED.last(rows).map(|v| fixed(v, 0)).unwrap_or_default()) }
            td { (duration(run.seconds())) }
        }
    }
}

fn curves(runs: &[Run], names: &[String]) -> Markup {
    let axis = Ruler::of(runs);
    let overlay = |metric: &Metric| {
        let curves = runs.iter().map(|run| {
            // a curve through fewer than two epochs is none
            metric.points(if run.log.epochs.len() > 1 { &run.log.epochs } else { &run.log.steps })
        });
        Chart {
            title: metric.title.into(),
            note: metric.note,
            unit: metric.unit().1,
            fit: metric.fit,
            ..axis.chart(names, curves)
        }
    };
    let mut charts: Vec<_> = [LOSS, ACCURACY, SPREAD, SPEED, RATE].iter().map(overlay).collect();
    charts.insert(1, neighbours(runs, names, &axis));
    super::charts(charts)
}

/// The common axis: epochs where the epochs of every run have a known length, for a step is not the same
/// everywhere; steps otherwise.
struct Ruler {
    axis: Axis,
    /// What to multiply the steps of each run with.
    factors: Vec<f64>,
}

impl Ruler {
    fn of(runs: &[Run]) -> Self {
        let epochs = |run: &Run| {
            let (&steps, row) = run.log.epochs.last_key_value()?;
            Some((row.epoch? as f64 + 1.0) / steps.max(1) as f64)
        };
        match runs.iter().map(epochs).collect() {
            Some(factors) => Self { axis: Axis::Epochs, factors },
            None => Self { axis: Axis::Steps, factors: vec![1.0; runs.len()] },
        }
    }

    /// A chart of a curve per run.
    fn chart(&self, names: &[String], curves: impl Iterator<Item = Vec<(f64, f64)>>) -> Chart {
        // sums of thirds are to meet those of halves
        let round = |x: f64| (x * 1e4).round() / 1e4;
        let series = names.iter().zip(&self.factors).zip(curves).enumerate();
        let series = series.map(|(colour, ((name, factor), points))| Series {
            name: name.clone(),
            points: points.into_iter().map(|(step, value)| (round(step * factor), value)).collect(),
            colour,
            faint: false,
        });
        Chart { axis: self.axis, series: series.collect(), ..Chart::default() }
    }
}

/// The number of neighbours at which every run is compared: that of the best value among those that most runs have.
fn neighbours(runs: &[Run], names: &[String], axis: &Ruler) -> Chart {
    let mut counts: BTreeMap<&String, (usize, f64)> = BTreeMap::new();
    for run in runs {
        let own: BTreeSet<_> = run.log.knn.values().flat_map(|row| row.numbers.keys()).collect();
        for name in own {
            let best = run.log.knn.values().filter_map(|row| row.get(name)).fold(0.0, f64::max);
            let count = counts.entry(name).or_default();
            *count = (count.0 + 1, count.1.max(best));
        }
    }
    let order = |a: &(usize, f64), b: &(usize, f64)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
    let Some((k, _)) = counts.into_iter().max_by(|a, b| order(&a.1, &b.1)) else { return Chart::default() };
    Chart {
        title: format!("kNN accuracy, {k}"),
        note: "top-1 on the validation folder",
        unit: " %",
        ..axis.chart(names, runs.iter().map(|run| metric::points(&run.log.knn, k, 100.0)))
    }
}

/// A setting for a table.
fn value<'a>(config: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    config.get(key).map_or("–", String::as_str)
}

/// Settings that are not the same everywhere.
fn differences(runs: &[Run], names: &[String]) -> Option<Markup> {
    let configs: Vec<BTreeMap<_, _>> = runs
        .iter()
        .map(|run| run.config.as_ref().map(table::flatten).unwrap_or_default().into_iter().collect())
        .collect();
    let keys: BTreeSet<&String> = configs.iter().flat_map(BTreeMap::keys).collect();
    let differ = |key: &&&String| configs.windows(2).any(|two| value(&two[0], key) != value(&two[1], key));
    let keys: Vec<_> = keys.iter().filter(differ).collect();
    (!keys.is_empty()).then(|| {
        html! {
            div.scroll tabindex="0" role="group" aria-label="Settings that differ" {
                table.figures {
                    thead { tr { th scope="col" { "Setting" } @for name in names { th scope="col" { (name) } } } }
                    tbody {
                        @for key in keys {
                            tr {
                                th scope="row" { (table::breakable(key)) }
                                @for config in &configs { td { (value(config, key)) } }
                            }
                        }
                    }
                }
            }
        }
    })
}
