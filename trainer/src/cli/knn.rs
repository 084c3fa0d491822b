//! `knn`: nearest neighbours, beside floors that are treated alike.

use std::cell::RefCell;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use occlude_checkpoint::{Checkpoint, Whitening};
use occlude_preprocess::Preprocess;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::evaluate::{Common, PerPictureArgs, cells, open};
use super::together::{Here, together};
use crate::eval::{
    self, Extractor, FeatureSet, Folder, How, Identity, Moments, PerPicture, Scores, Splits, Votes, Whitener,
    mean_cosine,
};
use crate::model::Encoder;
use crate::ranks::agreed;
use crate::signals::Interrupt;

/// Numbers of neighbours in the papers, and one.
const KS: [i64; 5] = [1, 10, 20, 100, 200];
/// What the features of the checkpoint's encoder are called.
const CHECKPOINT: &str = "checkpoint";

#[derive(Args, Debug)]
pub(super) struct KnnArgs {
    #[command(flatten)]
    common: Common,
    /// Numbers of neighbours; default: 1,10,20,100,200, up to the number of training pictures
    #[arg(long, value_delimiter = ',')]
    k: Vec<i64>,
    /// Every neighbour has one vote; default: exp(cosine / 0.07) votes
    #[arg(long)]
    unweighted: bool,
    /// Leave out the floors (an untrained encoder, raw pixels)
    #[arg(long)]
    no_floors: bool,
    #[command(flatten)]
    written: PerPictureArgs,
    /// Also whiten the features of the encoder and of the floors to that many numbers, fitted on the training
    /// pictures without labels; without it, a checkpoint that is whitened is measured whitened, and so are the floors
    #[arg(long, value_name = "DIM", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    whiten: Option<u64>,
}

/// Accuracies by nearest neighbours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    features: String,
    k: i64,
    #[serde(flatten)]
    scores: Scores,
    /// Of different validation pictures; absent in folders of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mean_cosine: Option<f64>,
    /// Pictures that could not be read and are not counted; absent in folders of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unreadable: Option<Unreadable>,
}

/// Numbers of pictures that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Unreadable {
    train: usize,
    val: usize,
}

/// What is measured of every kind of features.
struct Measure<'a> {
    args: &'a KnnArgs,
    here: &'a Here,
    splits: &'a Splits,
    folder: Option<Folder>,
    /// What whitening does, where there is one.
    how: Option<How>,
    /// The checkpoint's own.
    own: Option<&'a Whitening>,
    /// What is classified rightly, where that is asked for.
    per_picture: RefCell<Option<PerPicture>>,
}

/// `occlude-train knn`.
pub(super) fn knn(args: &KnnArgs) -> Result<ExitCode> {
    together(&args.common.machine, &args.common.ranks, |here| measured(args, here))
}

fn measured(args: &KnnArgs, here: &Here) -> Result<ExitCode> {
    let (common, world) = (&args.common, &here.world);
    agreed(world, args.check(), "the flags")?;
    let splits = common.splits(here)?;
    let checkpoint = Checkpoint::open(&common.checkpoint).map_err(anyhow::Error::from);
    let checkpoint = agreed(world, checkpoint, "the checkpoint")?;
    let (weights, contract) = agreed(world, open(&checkpoint, &common.weights), "the checkpoint")?;
    let how = args.how(weights.whitening.as_ref(), weights.arch.feature_dim());
    let how = agreed(world, how, "the whitening")?;
    let fingerprint = weights.fingerprint(&contract.to_json());
    let data = agreed(world, splits.identity(), "the data")?;
    let question = args.question(&fingerprint, &data);
    here.same("what is asked", &format!("{question}, no floors: {}", args.no_floors))?;
    let out = common.out.as_deref().filter(|_| world.is_main());
    let folder = out.map(|out| Folder::open(out, &question)).transpose();
    let folder = agreed(world, folder, "the folder")?;
    let own = weights.whitening.as_ref();
    let measure = Measure { args, here, splits: &splits, folder, how, own, per_picture: RefCell::new(None) };
    let _interrupt = Interrupt::register()?;
    let trained = Encoder::from_checkpoint(&weights, here.device)?;
    let untrained = Encoder::new(weights.arch, 0, here.device);
    let mut rows = Vec::new();
    for (name, extractor) in kinds(args, (&trained, &untrained), &contract) {
        rows.extend(measure.rows(name, &extractor)?);
    }
    if !world.is_main() {
        return Ok(ExitCode::SUCCESS);
    }
    rows.sort_by_key(|row| row.features.ends_with(WHITENED));
    // every kind of features is of the same pictures
    let unreadable = rows.iter_mut().map(|row| row.unreadable.take()).fold(None, Option::or);
    let mut answer = json!({
        "task": "knn", "checkpoint": common.checkpoint.to_string_lossy(), "fingerprint": fingerprint, "votes": args.votes().1,
        "train": data.train, "val": data.val, "classes": data.classes, "results": rows,
    });
    if let Some(how) = how {
        answer["whitening"] = told(how, own);
    }
    if let Some(unreadable) = unreadable {
        answer["unreadable"] = json!(unreadable);
    }
    if let Some(folder) = &measure.folder {
        folder.finish(&answer)?;
    }
    if let (Some(path), Some(per_picture)) =
        (&args.written.per_picture, measure.per_picture.borrow().as_ref())
    {
        per_picture.write(path)?;
    }
    if common.json {
        answer!("{answer}");
    } else {
        print(&rows);
        if let Some(Unreadable { train, val }) = unreadable.filter(|u| u.train + u.val > 0) {
            answer!("unreadable: {train} training and {val} validation pictures, not counted");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the names of whitened features end in.
const WHITENED: &str = "-whitened";

/// What is told of the whitening.
fn told(how: How, own: Option<&Whitening>) -> Value {
    let dim = match (how, own) {
        (How::Pca(dim), _) => Some(dim),
        (How::Center, own) => own.map(Whitening::outputs),
    };
    let fitted_on = if own.is_some() { CHECKPOINT } else { "train" };
    json!({ "dim": dim, "center_only": how == How::Center, "fitted_on": fitted_on })
}

/// The features that are looked at, by name.
fn kinds<'a>(
    args: &KnnArgs,
    (trained, untrained): (&'a Encoder, &'a Encoder),
    contract: &'a Preprocess,
) -> Vec<(&'static str, Extractor<'a>)> {
    let mut kinds = vec![(CHECKPOINT, Extractor::Encoder(trained, contract))];
    if !args.no_floors {
        kinds.push(("untrained", Extractor::Encoder(untrained, contract)));
        kinds.push(("pixels", Extractor::Pixels(contract)));
    }
    kinds
}

fn print(rows: &[Row]) {
    let wide = rows.iter().map(|row| row.features.len()).max().unwrap_or(0).max(12);
    answer!(
        "{:<wide$} {:>4} {:>24} {:>24} {:>24} {:>12}",
        "features",
        "k",
        "top-1 %",
        "top-5 %",
        "mean per class %",
        "mean cosine"
    );
    for row in rows {
        let [top1, top5, mean] = cells(&row.scores);
        let cosine = row.mean_cosine.map_or("-".to_owned(), |c| format!("{c:.3}"));
        answer!("{:<wide$} {:>4} {top1:>24} {top5:>24} {mean:>24} {cosine:>12}", row.features, row.k);
    }
}

impl KnnArgs {
    fn check(&self) -> Result<()> {
        ensure!(self.k.iter().all(|&k| k > 0), "`--k` takes numbers above 0, like `1,10,20`");
        self.written.check(&self.common)
    }

    /// What whitening does, where there is to be one.
    fn how(&self, own: Option<&Whitening>, numbers: usize) -> Result<Option<How>> {
        let checkpoint = self.common.checkpoint.display();
        match (self.whiten, own) {
            (Some(_), Some(own)) => {
                bail!("`{checkpoint}` is already whitened ({own}); hint: leave out `--whiten`")
            }
            (Some(dim), None) => {
                ensure!(
                    dim as usize <= numbers,
                    "`--whiten {dim}` is more than the {numbers} numbers of this encoder's embeddings; hint: `--whiten {}`",
                    numbers.min(128)
                );
                Ok(Some(How::Pca(dim as usize)))
            }
            (None, own) => Ok(own.map(|own| match own.weight() {
                Some(_) => How::Pca(own.outputs()),
                None => How::Center,
            })),
        }
    }

    fn votes(&self) -> (Votes, &'static str) {
        if self.unweighted { (Votes::Equal, "equal") } else { (Votes::Weighted, "weighted") }
    }

    fn question(&self, fingerprint: &str, data: &Identity) -> Value {
        let mut question = json!({
            "task": "knn", "fingerprint": fingerprint, "data": data, "k": self.k, "votes": self.votes().1,
        });
        if let Some(dim) = self.whiten {
            question["whiten"] = dim.into();
        }
        question
    }
}

impl Measure<'_> {
    /// Accuracies of one kind of features, and of the same whitened; what the folder has is not measured again.
    fn rows(&self, name: &str, extractor: &Extractor<'_>) -> Result<Vec<Row>> {
        let mut names = vec![name.to_owned()];
        names.extend(self.how.map(|_| format!("{name}{WHITENED}")));
        let Here { world, workers, .. } = self.here;
        let known = names.iter().map(|name| self.known(name)).collect::<Result<Option<Vec<_>>>>();
        let known = agreed(world, known, "the folder")?;
        if world.any(known.is_some(), "what the folder has")? {
            return Ok(known.unwrap_or_default().concat());
        }
        let Splits { train, val } = self.splits;
        let train = extractor.run_together(&train.data, &train.which, *workers, world)?;
        let val = extractor.run_together(&val.data, &val.which, *workers, world)?;
        let mut rows = self.scored(&names[0], &train, &val)?;
        if let (Some(how), Some(whitened)) = (self.how, names.get(1)) {
            let (train, val) = self.whitened(name, how, train, val)?;
            rows.extend(self.scored(whitened, &train, &val)?);
        }
        Ok(rows)
    }

    fn known(&self, name: &str) -> Result<Option<Vec<Row>>> {
        let known = self.folder.as_ref().map(|folder| folder.read(&format!("{name}.json")));
        Ok(known.transpose()?.flatten())
    }

    fn scored(&self, name: &str, train: &FeatureSet, val: &FeatureSet) -> Result<Vec<Row>> {
        let ks = neighbours(&self.args.k, train.samples.len());
        let world = &self.here.world;
        let ranks = eval::knn_ranks_together(train, val, (&ks, self.args.votes().0), world)?;
        if !world.is_main() {
            return Ok(Vec::new());
        }
        let labels = Vec::<i64>::try_from(&val.labels)?;
        let mean_cosine = mean_cosine(&val.features);
        let splits = self.splits;
        let unreadable = Some(Unreadable {
            train: splits.train.len() - train.samples.len(),
            val: splits.val.len() - val.samples.len(),
        });
        // every kind of features is of the same pictures: those that can be read
        let mut told = self.per_picture.borrow_mut();
        let told = told.get_or_insert_with(|| PerPicture::new(&self.splits.val, &val.samples));
        let mut rows = Vec::new();
        for (k, ranks) in ranks {
            told.add(name, Some(k), &ranks);
            let scores = Scores::new(&ranks, &labels);
            rows.push(Row { features: name.into(), k, scores, mean_cosine, unreadable });
        }
        if let Some(folder) = &self.folder {
            folder.write(&format!("{name}.json"), &rows)?;
        }
        Ok(rows)
    }

    /// Both sets whitened: the checkpoint's features by its own whitening, all others by one that is fitted on `train`.
    fn whitened(
        &self,
        name: &str,
        how: How,
        train: FeatureSet,
        val: FeatureSet,
    ) -> Result<(FeatureSet, FeatureSet)> {
        let whitener = match self.own.filter(|_| name == CHECKPOINT) {
            Some(own) => Whitener::new(own),
            None => {
                let moments = Moments::of(&train.features);
                let fitted = moments.fit(self.like(name, how, &moments), "");
                let fitted = fitted.with_context(|| format!("cannot whiten the features `{name}`"));
                let world = &self.here.world;
                let whitener = Whitener::new(&agreed(world, fitted, "the whitening")?);
                // to the bit, wherever each was fitted
                world.broadcast(&whitener.tensors(), "the whitening")?;
                whitener
            }
        };
        let apply = |set: FeatureSet| FeatureSet { features: whitener.apply(&set.features), ..set };
        Ok((apply(train), apply(val)))
    }

    /// Floors have as many numbers as the encoder, as far as they have that many directions.
    fn like(&self, name: &str, how: How, moments: &Moments) -> How {
        match how {
            How::Pca(dim) if name != CHECKPOINT && dim > moments.components() => {
                let most = moments.components();
                tell!("note: `{name}` has only {most} directions, and is whitened to these instead of {dim}");
                How::Pca(most)
            }
            _ => how,
        }
    }
}

/// The numbers of neighbours that were asked for; where none were, those of the papers that `n` pictures allow.
fn neighbours(asked: &[i64], n: usize) -> Vec<i64> {
    match asked {
        [] => KS.into_iter().filter(|&k| k <= n as i64).collect(),
        given => given.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_neighbours_fit_the_pictures_unless_named() {
        assert_eq!(neighbours(&[], 150), [1, 10, 20, 100]);
        assert_eq!(neighbours(&[], 1), [1]);
        assert_eq!(neighbours(&[5, 999], 10), [5, 999], "what is named and too large is an error later");
    }

    /// A folder of an earlier version, whose rows know nothing of cosines.
    #[test]
    fn rows_of_earlier_versions_are_read() {
        let row = json!({
            "features": "pixels", "k": 1, "top1": 0.5, "top1_ci": [0.0, 1.0], "top5": 1.0, "top5_ci": [0.0, 1.0],
            "mean_per_class": 0.5, "mean_per_class_ci": [0.0, 1.0],
        });
        let read: Row = serde_json::from_value(row.clone()).expect("a row");
        assert_eq!((read.mean_cosine, read.unreadable), (None, None));
        assert_eq!(serde_json::to_value(read).expect("JSON"), row);
    }
}
