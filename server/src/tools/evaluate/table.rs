//! The figures, as text and as JSON.

use std::fmt;

use serde::Serialize;

use super::metrics::Figure;
use crate::inference::model::ModelInfo;

/// What `occlude-serve evaluate` found. Figures are means over queries in per cent, each with half of its 95 % interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Name of the model.
    model: String,
    /// Its identity: of all that changes its numbers.
    identity: String,
    /// Numbers of an embedding.
    dim: usize,
    /// Pictures to search by.
    queries: usize,
    /// Of these, how many could be read and have something to find.
    pub(super) judged: usize,
    /// Pictures to be found.
    gallery: usize,
    /// Numbers of hits of the columns of recall.
    k: Vec<usize>,
    /// The embedding as the server gives it, every picture compared.
    pub(super) exact: Row,
    /// The same with `pool=foreground`, where the model has a feature map.
    pub(super) foreground: Option<Row>,
    /// By an approximate index, where that was asked for.
    pub(super) approximate: Option<Approximate>,
}

/// Figures of one way to search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    /// For each k the share of queries with a relevant picture among the first k.
    pub(super) recall: Vec<Figure>,
    /// Mean average precision over the whole ranking.
    pub(super) map: Option<Figure>,
}

/// Figures of an index that does not compare all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Approximate {
    pub(super) recall: Vec<Figure>,
    /// Share of the ten nearest that are found.
    pub(super) neighbours: Figure,
}

impl Evaluation {
    pub(super) fn new(model: &ModelInfo, k: &[usize], queries: usize, gallery: usize) -> Self {
        Self {
            model: model.name.clone(),
            identity: model.identity.clone(),
            dim: model.dim,
            queries,
            judged: 0,
            gallery,
            k: k.to_vec(),
            exact: Row { recall: Vec::new(), map: None },
            foreground: None,
            approximate: None,
        }
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, dim, queries, judged, gallery, .. } = self;
        writeln!(
            f,
            "{judged} of {queries} queries, {gallery} pictures in the gallery; model {model}, {dim} numbers"
        )?;
        let heads = self.k.iter().map(|k| format!("R@{k}")).chain(["mAP".to_owned()]);
        writeln!(f, "{:24}{}", "", heads.map(|head| format!("{head:>14}")).collect::<String>())?;
        row(f, "whole picture", &self.exact.recall, self.exact.map)?;
        match &self.foreground {
            Some(foreground) => row(f, "foreground", &foreground.recall, foreground.map)?,
            None => writeln!(
                f,
                "{:24}the model has no feature map; hint: `occlude-export onnx --outputs embedding,saliency,res5`",
                "foreground"
            )?,
        }
        if let Some(approximate) = &self.approximate {
            row(f, "approximate index", &approximate.recall, None)?;
            writeln!(f, "{:24}{} of the ten nearest found", "", cell(approximate.neighbours).trim())?;
        }
        write!(f, "Per cent of the queries, with half of the 95 % interval over them.")
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, recall: &[Figure], map: Option<Figure>) -> fmt::Result {
    let map = map.map_or_else(|| format!("{:>14}", "-"), cell);
    writeln!(f, "{name:24}{}{map}", recall.iter().map(|r| cell(*r)).collect::<String>())
}

fn cell(figure: Figure) -> String {
    format!("{:>14}", format!("{:.1} ±{:.1}", figure.percent, figure.interval))
}
