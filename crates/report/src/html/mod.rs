//! Pages about runs: one file each that needs nothing beside it, no network and no server.

mod chart;
mod compare;
mod metric;
mod number;
mod scale;
mod single;
mod table;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::Error;
use crate::run::{Run, State};
use chart::{Axis, Chart};

/// The icon of the tools' pages.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' fill='%23c2410c'/%3E%3Crect x='3' y='3' width='4' height='4' fill='%23fff'/%3E%3Crect x='9' y='3' width='4' height='4' fill='%23fff' opacity='.35'/%3E%3Crect x='3' y='9' width='4' height='4' fill='%23fff' opacity='.35'/%3E%3Crect x='9' y='9' width='4' height='4' fill='%23fff'/%3E%3C/svg%3E";

/// Writes `report.html` into a run's folder and returns its path.
///
/// # Errors
/// Where `run` holds no run, its metrics cannot be read, or the page cannot be written.
pub fn write(run: &Path) -> Result<PathBuf, Error> {
    let out = run.join("report.html");
    save(&out, &render(run)?)?;
    Ok(out)
}

/// Writes the page of a run to `out`.
///
/// # Errors
/// As [`write()`].
pub fn write_to(run: &Path, out: &Path) -> Result<(), Error> {
    save(out, &render(run)?)
}

/// Writes a page to `out` that lays the curves of `runs` over each other and tells what differs between them.
///
/// # Errors
/// Where `runs` is empty, and as [`write()`].
pub fn compare(runs: &[impl AsRef<Path>], out: &Path) -> Result<(), Error> {
    save(out, &render_comparison(runs)?)
}

/// The page of a run.
///
/// # Errors
/// Where `run` holds no run, or its metrics cannot be read.
pub fn render(run: &Path) -> Result<String, Error> {
    Ok(single::page(&Run::read(run)?).into_string())
}

/// The page that compares runs.
///
/// # Errors
/// Where `runs` is empty or one of them holds no run, or its metrics cannot be read.
pub fn render_comparison(runs: &[impl AsRef<Path>]) -> Result<String, Error> {
    let runs = runs.iter().map(|run| Run::read(run.as_ref())).collect::<Result<Vec<_>, _>>()?;
    if runs.is_empty() {
        return Err(Error::Nothing);
    }
    Ok(compare::page(&runs).into_string())
}

fn save(path: &Path, page: &str) -> Result<(), Error> {
    occlude_output::write(path, |out| out.write_all(page.as_bytes())).map_err(Error::io("write", path))
}

/// What every page is wrapped in.
fn shell(title: &str, header: &Markup, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="icon" href=(ICON);
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                header { (header) }
                main { (body) }
                footer { p { "Written by occlude-train " (env!("CARGO_PKG_VERSION")) ", " (date(SystemTime::now())) "." } }
                script { (PreEscaped(include_str!("page.js"))) }
            }
        }
    }
}

/// In UTC.
fn date(at: SystemTime) -> String {
    httpdate::fmt_http_date(at)
}

/// A heading and what belongs to it.
fn section(title: &str, body: &Markup) -> Markup {
    html! { section { h2 { (title) } (body) } }
}

/// A message whose parts in backticks are code.
fn message(text: &str) -> Markup {
    let parts = text.split('`').enumerate();
    // an odd backtick at the end opens nothing
    let last = text.matches('`').count();
    html! {
        @for (i, part) in parts {
            @if i % 2 == 0 { (part) } @else if i == last { "`" (part) } @else { code { (part) } }
        }
    }
}

/// Whether a run still goes, as a coloured word.
fn badge(state: State) -> Markup {
    let (class, word) = match state {
        State::Starting => ("running", "starting"),
        State::Running => ("running", "running"),
        State::Finished => ("finished", "finished"),
        State::Stopped => ("stopped", "stopped"),
    };
    html! { span.badge.(class) { (word) } }
}

/// Charts, and how to read them.
fn charts(charts: Vec<Chart>) -> Markup {
    let axis = if charts.iter().any(|chart| chart.axis == Axis::Epochs) { "epochs" } else { "steps" };
    let charts: Vec<_> = charts.into_iter().filter_map(Chart::render).collect();
    html! {
        @if charts.is_empty() { p.note { "Nothing was logged yet." } }
        @else {
            div.charts { @for chart in &charts { (chart) } }
            p.note {
                "Along the bottom: " (axis) " done. Point at a chart, or focus it and use the arrow keys, to read values."
            }
        }
    }
}

/// The best accuracy by nearest neighbours: its name, its share, and its epoch.
fn best_knn(run: &Run) -> Option<(&str, f64, Option<u64>)> {
    let all = run.log.knn.values();
    let all = all.flat_map(|row| row.numbers.iter().map(|(name, &share)| (name.as_str(), share, row.epoch)));
    all.max_by(|a, b| a.1.total_cmp(&b.1))
}
