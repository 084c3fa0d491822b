//! The result page: one HTML file that needs nothing beside it.

use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::html::{escape, frame, knn_html, picture, picture_file, rows, verdict};
use super::serve::Answer;
use super::train::ACCURACIES;
use super::{Results, Run};
use crate::sh;

/// What the encoder learnt from.
const TAUGHT: &str = "<p>The encoder is a student: from a crop of an image it learnt to say what a published network, \
    the teacher, says of the whole image. The teacher was trained on ImageNet with labels, the student on these images \
    without any; what the teacher says was whitened first, so that the student's embeddings need no whitening. \
    <code>--recipe saliency-moco-small</code> trains without a teacher.</p>";

/// What the kNN table is.
const FLOORS: &str = "<p>Every held-back image is given the class of the training images whose embeddings are nearest \
    to its own. Their labels were not used before. Two floors tell what that is worth: <em>untrained encoder</em> is \
    the same network with random weights, <em>raw pixels</em> are the images themselves at 16 by 16. Whitening, fitted \
    on the training images without labels, gives every direction of the embeddings the same weight; the floors get \
    it, too. What does not beat them has learnt nothing of use.</p>";

/// What a row of neighbours is.
const FOUND: &str = "<p>Each row: a held-back image, what the encoder takes for its object, and its nearest training \
    images with their cosine similarity, as <code>occlude-serve</code> answered.</p>";

/// Writes `index.html` into the run's folder; returns its path.
pub(super) fn write(run: &Run, results: &Results) -> Result<PathBuf> {
    let mut page = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    let _ = write!(
        page,
        "<meta name=\"viewport\" content=\"width=device-width\"><title>Occlude quick start</title><style>{}</style>\
         <h1>Occlude quick start</h1><p>{}</p>",
        include_str!("page.css"),
        escape(&results.origin)
    );
    section(&mut page, "What it has learnt", &knn(results));
    let asked: String = results.served.answers.iter().map(query).collect();
    section(&mut page, "What it finds", &format!("{FOUND}{asked}"));
    section(&mut page, "Training", &training(results)?);
    section(
        &mut page,
        "Verification of the ONNX file",
        &format!("<pre>{}</pre>", escape(results.verify.trim())),
    );
    section(&mut page, "Times", &times(run, results));
    let path = run.file("index.html");
    fs::write(&path, page).with_context(|| format!("could not write `{}`", path.display()))?;
    Ok(path)
}

fn knn(results: &Results) -> String {
    let verdict = escape(&verdict(&results.knn, !results.taught));
    let taught = if results.taught { TAUGHT } else { "" };
    format!("<p class=\"verdict\">{verdict}.</p>{}{taught}{FLOORS}", knn_html(&results.knn))
}

fn section(page: &mut String, title: &str, body: &str) {
    let _ = write!(page, "<h2>{}</h2>{body}", escape(title));
}

/// The figures of the last epoch, and the page that the trainer wrote: curves, first batch, neighbours, configuration.
fn training(results: &Results) -> Result<String> {
    let report = &results.trained.report;
    let page =
        fs::read_to_string(report).with_context(|| format!("could not read `{}`", report.display()))?;
    let last = results.trained.epochs.last();
    let figure = |key: &str| last.and_then(|row| row.get(key)).and_then(Value::as_f64);
    let mut figures = vec![("epochs".to_owned(), results.trained.epochs.len().to_string())];
    let shares = ACCURACIES.map(|(key, name)| (key, format!("{name} %"), 100.0));
    let plain = |key, name: &str| (key, name.to_owned(), 1.0);
    let all =
        [plain("loss", "last loss")].into_iter().chain(shares).chain([plain("images_per_s", "images/s")]);
    for (key, name, unit) in all {
        figures.extend(figure(key).map(|value| (name, format!("{:.2}", unit * value))));
    }
    Ok(rows(&figures) + &frame(&page, "the trainer's page about the run"))
}

fn query(answer: &Answer) -> String {
    let name = |path: &Path| {
        let class =
            path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        escape(&class)
    };
    let own = name(&answer.image);
    let mut row = format!(
        "<div class=\"query\"><figure>{}<figcaption>{own}</figcaption></figure><figure>{}<figcaption>saliency\
         </figcaption></figure><div class=\"gap\"></div>",
        picture_file(&answer.image, &own),
        picture(&answer.overlay, "saliency overlay")
    );
    for (path, score) in &answer.neighbours {
        let class = name(path);
        let kind = if class == own { "same" } else { "other" };
        let _ = write!(
            row,
            "<figure class=\"{kind}\">{}<figcaption>{class}<br>{score:.3}</figcaption></figure>",
            picture_file(path, &class)
        );
    }
    row + "</div>"
}

fn times(run: &Run, results: &Results) -> String {
    let mut table: Vec<(String, String)> =
        run.times.iter().map(|(name, time)| ((*name).to_owned(), sh::seconds(*time))).collect();
    table.push(("of it, training alone".to_owned(), format!("{:.1} s", results.trained.seconds)));
    table.push(("an embedding request (median)".to_owned(), sh::seconds(results.served.latency)));
    table.push(("execution provider".to_owned(), results.served.provider.clone()));
    rows(&table)
}
