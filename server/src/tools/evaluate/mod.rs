//! `occlude-serve evaluate`: how well the served model finds what belongs together.

mod metrics;
mod table;
mod truth;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use occlude_preprocess::AllBroken;
use occlude_preprocess::files::{Listing, Sample, list};
use occlude_retrieval::{Engine, Options, Point, Query, Store, Vectors, With};
use parking_lot::Mutex;

use super::{EncoderArgs, ToolError};
use crate::config::cores;
use crate::inference::bulk::{Report, Run, tell_left_out};
use crate::inference::encode::Encoded;
use crate::inference::model::Model;
use crate::pictures::pooling::{Pool, Pooling};
use metrics::{Figure, Judged, judge};
use truth::Truth;

pub use table::Evaluation;
pub use truth::TruthError;

/// Points of one transaction.
const BATCH: usize = 1000;
/// Neighbours that approximate and exact search are compared by.
const COMPARED: usize = 10;

/// Flags of `occlude-serve evaluate`.
#[derive(Debug, Clone, Args)]
pub struct EvaluateArgs {
    /// Folder of pictures to search by, with one sub-folder for each class, product or place
    pub queries: PathBuf,
    /// Folder of pictures to be found, with sub-folders of the same names. A picture that is in both folders does not
    /// find itself: give one folder twice to search it by each of its pictures
    pub gallery: PathBuf,
    /// CSV file with the columns `query` and `match`, paths below QUERIES and GALLERY, that says what belongs together
    /// in place of sub-folders
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    /// Numbers of hits for recall
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "1,5,10", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub k: Vec<u16>,
    /// Search the gallery by an approximate index, too, as the server does with large collections
    #[arg(long)]
    pub approximate: bool,
    /// Print the figures as JSON
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub encoder: EncoderArgs,
}

/// A folder and the pictures below it.
struct Folder<'a> {
    path: &'a Path,
    listing: Listing,
}

impl<'a> Folder<'a> {
    fn open(path: &'a Path) -> Result<Self, ToolError> {
        let listing = list(path)?;
        tell_left_out(path, &listing);
        Ok(Self { path, listing })
    }

    fn samples(&self) -> &[Sample] {
        &self.listing.samples
    }

    fn parts(&self) -> (&Path, &Listing) {
        (self.path, &self.listing)
    }
}

/// Embeddings of a folder's pictures: `None` for those that could not be read.
struct Embedded {
    whole: Vec<Option<Vec<f32>>>,
    /// Pooled from the foreground; empty where the model has no feature map.
    foreground: Vec<Option<Vec<f32>>>,
}

/// Embeds queries and gallery with the served model and searches the one by the other: recall at k (the share of queries
/// with a relevant picture among the first k) and mean average precision over the whole ranking.
///
/// # Errors
/// Folders that cannot be listed or have nothing in common, a model that cannot be loaded or fails, pictures of which not
/// one can be read.
pub fn evaluate(args: &EvaluateArgs) -> Result<Evaluation, ToolError> {
    let (queries, gallery) = (Folder::open(&args.queries)?, Folder::open(&args.gallery)?);
    let truth = match &args.pairs {
        Some(file) => truth::of_pairs(file, queries.parts(), gallery.parts())?,
        None => truth::of_classes(queries.parts(), gallery.parts())?,
    };
    let model = args.encoder.open()?;
    let pooling = Pooling { pool: Pool::Foreground, deviations: model.info.rule.deviations };
    let pooling = pooling.wants(&model.info).is_ok().then_some(pooling);
    let found = embed(args, &gallery, &model, pooling)?;
    let same = same_files(&queries, &gallery);
    let asked =
        if same.iter().enumerate().all(|(at, other)| *other == Some(at)) && same.len() == found.whole.len() {
            None
        } else {
            Some(embed(args, &queries, &model, pooling)?)
        };
    let asked = asked.as_ref().unwrap_or(&found);
    let task = Task { k: ks(args), truth: &truth, same: &same };
    let mut evaluation =
        Evaluation::new(&model.info, &task.k, queries.samples().len(), gallery.samples().len());
    let (row, judged) = task.exact(&asked.whole, &found.whole);
    if judged == 0 {
        let example = "; those that do could not be read, or find but themselves".to_owned();
        return Err(truth::apart(queries.path, gallery.path, example).into());
    }
    evaluation.judged = judged;
    evaluation.exact = row;
    if pooling.is_some() {
        evaluation.foreground = Some(task.exact(&asked.foreground, &found.foreground).0);
    }
    if args.approximate {
        evaluation.approximate = Some(task.approximate(&asked.whole, &found.whole, &model)?);
    }
    Ok(evaluation)
}

/// Ascending, each once.
fn ks(args: &EvaluateArgs) -> Vec<usize> {
    let mut k: Vec<usize> = args.k.iter().map(|&k| usize::from(k)).collect();
    k.sort_unstable();
    k.dedup();
    k
}

/// For each query its place in the gallery, where it is one of its files.
fn same_files(queries: &Folder<'_>, gallery: &Folder<'_>) -> Vec<Option<usize>> {
    let real = |sample: &Sample| std::fs::canonicalize(&sample.path).ok();
    let places: std::collections::HashMap<PathBuf, usize> =
        gallery.samples().iter().enumerate().filter_map(|(at, sample)| Some((real(sample)?, at))).collect();
    queries.samples().iter().map(|sample| places.get(&real(sample)?).copied()).collect()
}

fn embed(
    args: &EvaluateArgs,
    folder: &Folder<'_>,
    model: &Model,
    pooling: Option<Pooling>,
) -> Result<Embedded, ToolError> {
    let samples = folder.samples();
    let report = Report::new("embedding");
    let limits = args.encoder.limits();
    let wants = pooling.map(|p| p.wants(&model.info)).and_then(Result::ok).unwrap_or_default();
    let run = Run { samples, model, limits: &limits, wants, progress: &report };
    let empty = || vec![None; samples.len()];
    let mut embedded =
        Embedded { whole: empty(), foreground: if pooling.is_some() { empty() } else { Vec::new() } };
    let outcome = run.encode(&mut |at: usize, encoded: Encoded| -> Result<(), ToolError> {
        if let (Some(pooling), Some(slot)) = (pooling, embedded.foreground.get_mut(at)) {
            // A map without foreground has no embedding of it, and finds nothing.
            *slot = pooling.embedding(&encoded).ok();
        }
        if let Some(slot) = embedded.whole.get_mut(at) {
            *slot = Some(encoded.embedding);
        }
        Ok(())
    })?;
    report.end(&format!("`{}`", folder.path.display()), outcome.done, outcome.skipped);
    if outcome.done == 0 {
        let (path, first) = (Some(folder.path.to_owned()), outcome.first_error.unwrap_or_default());
        return Err(AllBroken { folder: path, count: samples.len(), first }.into());
    }
    Ok(embedded)
}

/// What is judged, and how.
struct Task<'a> {
    k: Vec<usize>,
    truth: &'a Truth,
    /// For each query its own place in the gallery.
    same: &'a [Option<usize>],
}

impl Task<'_> {
    /// Every gallery picture compared with every query. Returns how many queries there were something to find for, too.
    fn exact(&self, queries: &[Option<Vec<f32>>], gallery: &[Option<Vec<f32>>]) -> (table::Row, usize) {
        let (places, vectors) = searchable(gallery);
        let judged: Vec<Judged> = in_parallel(queries.len(), |at| {
            let query = queries.get(at)?.as_ref()?;
            let place = |of: usize| places.binary_search(&of).ok();
            let relevant: Vec<usize> = self.truth.get(at)?.iter().filter_map(|&of| place(of)).collect();
            let except = self.same.get(at).copied().flatten().and_then(place);
            judge(&vectors.cosines(query), &relevant, except)
        });
        let recall = |&k: &usize| Figure::of(judged.iter().map(|j| f64::from(u8::from(j.first <= k))));
        let row = table::Row {
            recall: self.k.iter().map(recall).collect(),
            map: Some(Figure::of(judged.iter().map(|j| j.precision))),
        };
        (row, judged.len())
    }

    /// By the approximate index of a collection, beside what exact search of that collection finds.
    fn approximate(
        &self,
        queries: &[Option<Vec<f32>>],
        gallery: &[Option<Vec<f32>>],
        model: &Model,
    ) -> Result<table::Approximate, ToolError> {
        let folder = tempfile::tempdir().map_err(super::file_error(&std::env::temp_dir()))?;
        let options = Options { exact_numbers: 0, threads: cores(), ..Options::default() };
        let store = Store::open(folder.path(), &options)?;
        fill(&store, model, gallery)?;
        let most = self.k.last().copied().unwrap_or_default().max(COMPARED);
        // One more: the query itself may be among them.
        let search = |vector: &[f32], exact: bool| {
            let with = With { vector: false, payload: false };
            let query = Query { exact, with, ..Query::vector(vector.to_vec(), most + 1) };
            store.search(NAME, &model.info.identity, &query)
        };
        let found: Vec<Result<(Option<usize>, f64), occlude_retrieval::Error>> =
            in_parallel(queries.len(), |at| {
                let query = queries.get(at)?.as_ref()?;
                let same = self.same.get(at).copied().flatten();
                let relevant = self.truth.get(at)?;
                let findable =
                    |of: &usize| Some(*of) != same && gallery.get(*of).is_some_and(Option::is_some);
                relevant.iter().any(findable).then(|| {
                    let [near, exact] =
                        [search(query, false)?, search(query, true)?].map(|hits| numbers(&hits, same));
                    let first = near.iter().position(|of| relevant.binary_search(of).is_ok());
                    let exact = &exact[..exact.len().min(COMPARED)];
                    let common = near.iter().take(COMPARED).filter(|of| exact.contains(of)).count();
                    Ok((first, common as f64 / exact.len().max(1) as f64))
                })
            });
        let found: Vec<(Option<usize>, f64)> = found.into_iter().collect::<Result<_, _>>()?;
        let recall = |&k: &usize| {
            Figure::of(found.iter().map(|(first, _)| f64::from(u8::from(first.is_some_and(|at| at < k)))))
        };
        Ok(table::Approximate {
            recall: self.k.iter().map(recall).collect(),
            neighbours: Figure::of(found.iter().map(|(_, common)| *common)),
        })
    }
}

/// The collection that is made for the sake of its index.
const NAME: &str = "gallery";

fn fill(store: &Store, model: &Model, gallery: &[Option<Vec<f32>>]) -> Result<(), ToolError> {
    store.create_collection(NAME, &model.info.spec())?;
    let points = |(at, vector): (usize, &Option<Vec<f32>>)| {
        let point = |vector: &Vec<f32>| Point {
            id: at.to_string(),
            vector: vector.clone(),
            payload: serde_json::Map::new(),
        };
        vector.as_ref().filter(|v| v.iter().any(|x| *x != 0.0)).map(point)
    };
    let points: Vec<Point> = gallery.iter().enumerate().filter_map(points).collect();
    for batch in points.chunks(BATCH) {
        store.upsert(NAME, &model.info.identity, batch)?;
    }
    store.maintain(&|| true)?;
    Ok(())
}

/// Places in the gallery of what was found, the query itself left out.
fn numbers(hits: &[occlude_retrieval::Hit], same: Option<usize>) -> Vec<usize> {
    hits.iter().filter_map(|hit| hit.id.parse().ok()).filter(|at| Some(*at) != same).collect()
}

/// Places of the pictures that have an embedding, and the embeddings.
fn searchable(gallery: &[Option<Vec<f32>>]) -> (Vec<usize>, Vectors) {
    let there = || gallery.iter().enumerate().filter_map(|(at, vector)| Some((at, vector.as_ref()?)));
    (there().map(|(at, _)| at).collect(), Vectors::new(there().map(|(_, vector)| vector.clone())))
}

/// Results of 0..n that are there, in their order, computed on all cores.
fn in_parallel<T: Send>(n: usize, compute: impl Fn(usize) -> Option<T> + Sync) -> Vec<T> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..cores().min(n) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= n {
                        return;
                    }
                    if let Some(result) = compute(at) {
                        results.lock().push((at, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner();
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
