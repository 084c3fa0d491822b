//! Do two models see the same pictures as alike?

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayView1, Axis};

use crate::onnx::OutputKind;
use crate::runtime::Outputs;

/// Neighbours that are compared, and that vote.
const NEIGHBOURS: usize = 20;

/// Temperature of the votes, as in `occlude-train knn`: <https://arxiv.org/abs/1805.01978>, section 3.4.
const TEMPERATURE: f32 = 0.07;

/// Embeddings of the same pictures by the verified model and by its reference.
#[derive(Default)]
pub(super) struct Embedded {
    paths: Vec<PathBuf>,
    ours: Vec<Vec<f32>>,
    theirs: Vec<Vec<f32>>,
}

impl Embedded {
    /// Adds a picture; nothing where the model gives no embedding.
    pub(super) fn add(&mut self, path: &Path, ours: &Outputs, theirs: &Outputs) {
        let embedding = OutputKind::Embedding.to_string();
        if let (Some(ours), Some(theirs)) = (ours.get(&embedding), theirs.get(&embedding)) {
            self.paths.push(path.to_owned());
            self.ours.push(normalized(ours));
            self.theirs.push(normalized(theirs));
        }
    }

    /// The folder of each picture: its class, where folders are classes.
    fn classes(&self) -> Vec<Option<&Path>> {
        self.paths.iter().map(|p| p.parent()).collect()
    }
}

fn normalized(values: &[f32]) -> Vec<f32> {
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    let length = if length < 1e-12 { 1e-12 } else { length };
    values.iter().map(|v| v / length).collect()
}

/// How alike the neighbourhoods of two models are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Pictures whose neighbours were looked for.
    pub pictures: usize,
    /// How many neighbours of each.
    pub k: usize,
    /// Share of neighbours that both models find.
    pub overlap: f64,
    /// Share of pictures whose nearest neighbour is the same.
    pub nearest: f64,
    /// Accuracy of the neighbours' weighted vote, of the verified model and of its reference, where the
    /// pictures lie in two or more folders.
    pub top1: Option<(f64, f64)>,
}

impl Agreement {
    /// Each query's neighbours among the gallery, or among the other queries. `None` where there are too
    /// few pictures.
    pub(super) fn of(queries: &Embedded, gallery: Option<&Embedded>) -> Option<Self> {
        let bank = gallery.unwrap_or(queries);
        let available = if gallery.is_some() { bank.paths.len() } else { bank.paths.len().checked_sub(1)? };
        let k = NEIGHBOURS.min(available);
        if k == 0 || queries.paths.is_empty() {
            return None;
        }
        let own = gallery.is_none();
        let ours = neighbours(&queries.ours, &bank.ours, k, own);
        let theirs = neighbours(&queries.theirs, &bank.theirs, k, own);
        let pairs = || ours.iter().zip(&theirs);
        let common = |(a, b): (&Near, &Near)| a.iter().filter(|(i, _)| b.iter().any(|(j, _)| i == j)).count();
        let count = queries.paths.len();
        let overlap = pairs().map(common).sum::<usize>() as f64 / (count * k) as f64;
        let same = |(a, b): &(&Near, &Near)| a.first().map(|n| n.0) == b.first().map(|n| n.0);
        let nearest = pairs().filter(same).count() as f64 / count as f64;
        Some(Self { pictures: count, k, overlap, nearest, top1: accuracies(queries, bank, &ours, &theirs) })
    }
}

/// Positions in the bank and similarities, nearest first.
type Near = Vec<(usize, f32)>;

fn neighbours(queries: &[Vec<f32>], bank: &[Vec<f32>], k: usize, own: bool) -> Vec<Near> {
    let bank = matrix(bank);
    // In blocks, so that the similarities of many pictures do not fill the memory.
    let blocks = queries.chunks(256).enumerate().flat_map(|(block, rows)| {
        let similarities = matrix(rows).dot(&bank.t());
        let near = |(i, row): (usize, ArrayView1<'_, f32>)| nearest(&row, k, own.then_some(block * 256 + i));
        similarities.axis_iter(Axis(0)).enumerate().map(near).collect::<Vec<_>>()
    });
    blocks.collect()
}

fn nearest(similarities: &ArrayView1<'_, f32>, k: usize, but: Option<usize>) -> Near {
    let mut all: Near = similarities.iter().copied().enumerate().filter(|(i, _)| Some(*i) != but).collect();
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if k < all.len() {
        all.select_nth_unstable_by(k, order);
        all.truncate(k);
    }
    all.sort_by(order);
    all
}

fn matrix(rows: &[Vec<f32>]) -> Array2<f32> {
    let columns = rows.first().map_or(0, Vec::len);
    let values = rows.iter().flatten().copied().collect();
    // Embeddings of one model are equally long.
    Array2::from_shape_vec((rows.len(), columns), values).unwrap_or_default()
}

fn accuracies(queries: &Embedded, bank: &Embedded, ours: &[Near], theirs: &[Near]) -> Option<(f64, f64)> {
    // A gallery beside the queries has folders of the same names.
    let name = |folder: Option<&Path>| folder.and_then(Path::file_name).map(ToOwned::to_owned);
    let classes: Vec<_> = bank.classes().into_iter().map(name).collect();
    let truth: Vec<_> = queries.classes().into_iter().map(name).collect();
    let several = classes.iter().any(|c| c != &classes[0]);
    // Among the pictures themselves a class needs a second one to be found.
    let least = if std::ptr::eq(queries, bank) { 2 } else { 1 };
    let known = truth.iter().all(|t| classes.iter().filter(|c| *c == t).count() >= least);
    let accuracy = |near: &[Near]| {
        let vote = |near: &Near| {
            let weight = |class: &Option<OsString>| {
                let of_class = near.iter().filter(|(i, _)| classes[*i] == *class);
                of_class.map(|(_, s)| (s / TEMPERATURE).exp()).sum::<f32>()
            };
            let candidates = near.iter().map(|(i, _)| &classes[*i]);
            candidates.max_by(|a, b| weight(a).total_cmp(&weight(b))).cloned().flatten()
        };
        let right = near.iter().zip(&truth).filter(|(near, truth)| vote(near) == **truth).count();
        right as f64 / truth.len() as f64
    };
    (several && known).then(|| (accuracy(ours), accuracy(theirs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded(rows: &[(&str, [f32; 2], [f32; 2])]) -> Embedded {
        let mut all = Embedded::default();
        for (path, ours, theirs) in rows {
            let outputs = |v: &[f32; 2]| Outputs::from([("embedding".to_owned(), v.to_vec())]);
            all.add(Path::new(path), &outputs(ours), &outputs(theirs));
        }
        all
    }

    #[test]
    fn equal_models_agree() {
        let (x, y) = ([1.0, 0.1], [0.1, 1.0]);
        let (x2, y2) = ([2.0, 0.3], [0.1, 0.5]);
        let all = embedded(&[("a/1", x, x), ("a/2", x2, x2), ("b/1", y, y), ("b/2", y2, y2)]);
        let agreement = Agreement::of(&all, None).expect("enough pictures");
        assert_eq!((agreement.pictures, agreement.k), (4, 3));
        assert_eq!((agreement.overlap, agreement.nearest), (1.0, 1.0));
        assert_eq!(agreement.top1, Some((1.0, 1.0)));
    }

    #[test]
    fn another_neighbour_is_noticed() {
        let (x, y) = ([1.0, 0.0], [0.0, 1.0]);
        let bank = embedded(&[("a/1", x, x), ("b/1", y, y)]);
        let queries = embedded(&[("a/9", y, x), ("b/9", y, y)]);
        let agreement = Agreement::of(&queries, Some(&bank)).expect("enough pictures");
        assert_eq!((agreement.overlap, agreement.nearest), (1.0, 0.5));
        assert_eq!(agreement.top1, Some((0.5, 1.0)));
    }

    #[test]
    fn too_few_pictures_say_nothing() {
        assert_eq!(Agreement::of(&embedded(&[("a/1", [1.0, 0.0], [1.0, 0.0])]), None), None);
        assert_eq!(Agreement::of(&Embedded::default(), None), None);
        let one_class = embedded(&[("a/1", [1.0, 0.0], [1.0, 0.0]), ("a/2", [1.0, 0.0], [1.0, 0.0])]);
        assert_eq!(Agreement::of(&one_class, None).expect("two").top1, None);
        let lonely = embedded(&[("a/1", [1.0, 0.0], [1.0, 0.0]), ("b/1", [1.0, 0.0], [1.0, 0.0])]);
        assert_eq!(Agreement::of(&lonely, None).expect("two").top1, None);
    }
}
