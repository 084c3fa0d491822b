//! The page of one run.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};

use super::chart::{Chart, Series};
use super::metric::{self, ACCURACY, KNOWN, LOSS, Metric, SPEED, SPREAD, WAIT};
use super::number::{duration, fixed, short};
use super::scale::Fit;
use super::{badge, best_knn, date, message, section, shell, table};
use crate::run::{Event, Picture, Run, State};

/// Curves besides the known ones.
const OTHERS: usize = 24;
/// Rows of the table of epochs, and of what happened.
const ROWS: usize = 500;
/// Share of the time at which waiting for pictures is worth a word, per cent.
const MUCH_WAITING: f64 = 20.0;

/// The page.
pub(super) fn page(run: &Run) -> Markup {
    let header = html! {
        h1 { (run.name) " " (badge(run.state)) }
        p.about { (about(run)) }
    };
    let body = html! {
        (summary(run))
        @if let Some(notes) = notes(run) { (section("What happened", &notes)) }
        (section("Curves", &curves(run)))
        @if !run.pictures.is_empty() {
            (section("Pictures", &html! { div.pictures { @for picture in &run.pictures { (show(run, picture)) } } }))
        }
        @if !run.log.epochs.is_empty() { (section("Epochs", &epochs(run))) }
        @if let Some(config) = &run.config { (section("Configuration", &table::tables(config, "run"))) }
        @if let Some(environment) = &run.environment {
            (section("Environment", &table::tables(environment, "environment")))
        }
    };
    shell(&format!("{}: Occlude run", run.name), &header, &body)
}

/// What is trained, on a line.
fn about(run: &Run) -> String {
    let mut parts: Vec<String> =
        ["recipe", "arch"].into_iter().filter_map(|name| run.setting(name)).collect();
    parts.extend(run.setting("image_size").map(|size| format!("{size} px")));
    parts.extend(run.setting("batch_size").map(|size| format!("batch {size}")));
    parts.extend(run.setting("seed").map(|seed| format!("seed {seed}")));
    parts.extend(run.touched.map(|at| format!("last logged {}", date(at))));
    parts.join(" · ")
}

/// The figures that one wants first.
fn summary(run: &Run) -> Markup {
    let rows = if run.log.epochs.is_empty() { &run.log.steps } else { &run.log.epochs };
    let of = run.epochs().map(|epochs| format!(" of {epochs}")).unwrap_or_default();
    let share = run.epochs().map(|epochs| 100.0 * run.epochs_done() as f64 / epochs.max(1) as f64);
    let figure = |metric: Metric| metric.last(rows).map(|value| short(value) + metric.unit().1);
    let knn = best_knn(run).map(|(name, share, epoch)| {
        let epoch = epoch.map(|epoch| format!(", epoch {}", epoch.saturating_add(1))).unwrap_or_default();
        (format!("{:.1} %", 100.0 * share), format!("{name}{epoch}"))
    });
    let mean = if run.log.epochs.is_empty() { "last steps" } else { "last epoch" };
    html! {
        dl.tiles {
            div.tile {
                dt { "Epochs done" }
                dd { (run.epochs_done()) (of) }
                @if let Some(share) = share {
                    dd.bar aria-hidden="true" { span style=(format!("width:{:.1}%", share.min(100.0))) {} }
                }
                dd.small { "step " (fixed(run.steps_done() as f64, 0)) }
            }
            (tile("Loss", figure(LOSS), mean))
            @if let Some((value, what)) = knn { (tile("Best kNN", Some(value), &what)) }
            (tile("Accuracy", figure(ACCURACY), &format!("contrastive, {mean}")))
            (tile(SPREAD.title, figure(SPREAD), "0: collapsed"))
            (tile("Images/s", SPEED.last(rows).map(|v| fixed(v, if v < 100.0 { 1 } else { 0 })), mean))
            (tile("Time spent", Some(duration(run.seconds())), &left(run)))
            (tile("Data wait", WAIT.last(rows).map(|v| format!("{v:.1} %")), &format!("of the time, {mean}")))
        }
    }
}

fn tile(name: &str, value: Option<String>, small: &str) -> Markup {
    html! {
        @if let Some(value) = value {
            div.tile { dt { (name) } dd { (value) } @if !small.is_empty() { dd.small { (small) } } }
        }
    }
}

/// How long a run that goes will go on.
fn left(run: &Run) -> String {
    let (Some(all), done) = (run.epochs(), run.epochs_done()) else { return String::new() };
    let last = run.log.epochs.values().next_back().and_then(|row| row.get("seconds"));
    match (run.state, last) {
        (State::Running, Some(seconds)) => {
            format!("about {} left", duration(seconds * all.saturating_sub(done) as f64))
        }
        _ => "training alone".into(),
    }
}

/// Events, and what the figures say to whoever knows them.
fn notes(run: &Run) -> Option<Markup> {
    let about_pictures = |event: &&Event| !run.pictures.iter().any(|picture| picture.name == event.name);
    let events: Vec<_> = run.log.events.iter().filter(about_pictures).collect();
    let mut advice = run.trouble.clone();
    let broken = run.log.epochs.values().next_back().and_then(|row| row.get("broken_files"));
    if let Some(broken) = broken.filter(|&n| n > 0.0) {
        advice.push(format!("{} pictures could not be read and were skipped", fixed(broken, 0)));
    }
    if let Some(wait) = WAIT.last(&run.log.epochs).filter(|&share| share > MUCH_WAITING) {
        advice.push(format!(
            "{wait:.0} % of the last epoch was spent waiting for pictures; hint: more `--workers`, or a larger `--cache`"
        ));
    }
    (!events.is_empty() || !advice.is_empty()).then(|| {
        html! {
            ul.notes {
                @for line in &advice { li.warning { (message(line)) } }
                @if events.len() > ROWS { li { (events.len() - ROWS) " earlier events are left out" } }
                @for event in events.iter().skip(events.len().saturating_sub(ROWS)) { (note(event)) }
            }
        }
    })
}

fn note(event: &Event) -> Markup {
    let calm = ["resum", "finish", "saved", "start"].iter().any(|word| event.name.starts_with(word));
    html! {
        li.warning[!calm] {
            strong { (event.name.replace('_', " ")) }
            span.where {
                @if let Some(epoch) = event.epoch { " · epoch " (epoch.saturating_add(1)) }
                @if let Some(step) = event.step { " · step " (fixed(step as f64, 0)) }
            }
            @if !event.message.is_empty() { span.message { (message(&event.message)) } }
        }
    }
}

fn curves(run: &Run) -> Markup {
    let mut charts: Vec<Chart> = KNOWN.iter().map(|metric| curve(run, metric)).collect();
    charts.insert(1, neighbours(run));
    let names: BTreeSet<_> = [&run.log.steps, &run.log.epochs].into_iter().flat_map(metric::others).collect();
    charts.extend(names.iter().take(OTHERS).map(|name| Chart {
        title: name.replace(['_', '.'], " "),
        series: pair(metric::points(&run.log.steps, name, 1.0), metric::points(&run.log.epochs, name, 1.0)),
        ..Chart::default()
    }));
    let marks: Vec<f64> =
        run.log.events.iter().filter_map(|event| event.step).map(|step| step as f64).collect();
    super::charts(charts.into_iter().map(|chart| Chart { marks: marks.clone(), ..chart }).collect())
}

fn curve(run: &Run, metric: &Metric) -> Chart {
    Chart {
        title: metric.title.into(),
        note: metric.note,
        unit: metric.unit().1,
        fit: metric.fit,
        series: pair(metric.points(&run.log.steps), metric.points(&run.log.epochs)),
        ..Chart::default()
    }
}

/// Steps behind, means of epochs before them once there are some.
fn pair(steps: Vec<(f64, f64)>, epochs: Vec<(f64, f64)>) -> Vec<Series> {
    let faint = epochs.len() > 1;
    let steps = Series { name: "steps".into(), points: steps, colour: 0, faint };
    if !faint && !steps.points.is_empty() {
        return vec![steps];
    }
    vec![steps, Series { name: "mean of the epoch".into(), points: epochs, colour: 0, faint: false }]
}

/// One curve per number of neighbours.
fn neighbours(run: &Run) -> Chart {
    let names: BTreeSet<_> = run.log.knn.values().flat_map(|row| row.numbers.keys()).collect();
    let series = names.into_iter().enumerate().map(|(colour, name)| Series {
        name: name.clone(),
        points: metric::points(&run.log.knn, name, 100.0),
        colour,
        faint: false,
    });
    Chart {
        title: "kNN accuracy".into(),
        note: "top-1 on the validation folder",
        unit: " %",
        fit: Fit::default(),
        series: series.collect(),
        ..Chart::default()
    }
}

fn title(picture: &Picture) -> &'static str {
    match picture.name {
        "first_batch" => "First batch",
        _ => "Nearest neighbours",
    }
}

fn show(run: &Run, picture: &Picture) -> Markup {
    let told =
        run.log.events.iter().rev().find(|event| event.name == picture.name && !event.message.is_empty());
    let caption = told.map(|event| event.message.as_str()).unwrap_or(match picture.name {
        "first_batch" => {
            "A row for each picture: its views, what of them counts as foreground (the rest darkened), and what the encoder gets once masked."
        }
        _ => "A row for each query: the picture, then the training pictures that the encoder finds most alike.",
    });
    html! {
        figure.picture {
            h3 { (title(picture)) }
            // half as large again as it is: the tiles are as small as the network's input
            img src=(format!("data:image/png;base64,{}", STANDARD.encode(&picture.png)))
                width=(u64::from(picture.width) * 3 / 2) height=(u64::from(picture.height) * 3 / 2) alt=(caption);
            figcaption { (message(caption)) }
        }
    }
}

/// The figures of every epoch.
fn epochs(run: &Run) -> Markup {
    let rows = &run.log.epochs;
    let shown: Vec<_> = KNOWN.iter().filter(|metric| metric.last(rows).is_some()).collect();
    let knn: BTreeSet<_> = run.log.knn.values().flat_map(|row| row.numbers.keys()).collect();
    html! {
        details {
            summary { "Figures of every epoch" }
            div.scroll tabindex="0" role="group" aria-label="Figures of every epoch" {
                table.figures {
                    thead {
                        tr {
                            th scope="col" { "Epoch" }
                            th scope="col" { "Step" }
                            @for metric in &shown { th scope="col" { (metric.title) } }
                            @for name in &knn { th scope="col" { "kNN " (name) } }
                        }
                    }
                    tbody {
                        @for (step, row) in rows.iter().rev().take(ROWS) {
                            tr {
                                th scope="row" {
                                    @if let Some(epoch) = row.epoch { (epoch.saturating_add(1)) }
                                }
                                td { (fixed(*step as f64, 0)) }
                                @for metric in &shown {
                                    td { (cell(row.get(metric.name), metric.unit())) }
                                }
                                @for name in &knn {
                                    td { (cell(run.log.knn.get(step).and_then(|row| row.get(name)), (100.0, " %"))) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cell(value: Option<f64>, (factor, unit): (f64, &str)) -> String {
    value.map(|value| short(factor * value) + unit).unwrap_or_default()
}
