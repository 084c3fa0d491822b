//! Does an ONNX file compute what the checkpoint says, in two runtimes, on real pictures?

mod adopted;
mod neighbours;
mod report;
mod run;
mod sheet;

use std::path::{Path, PathBuf};
use std::time::Duration;

use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};
use occlude_contract::{InputKind, key};
use occlude_saliency::{Making, MapRule};

pub use neighbours::Agreement;
pub use report::{Comparison, Difference, PictureResult};

use crate::onnx::{self, ModelInfo, Network, OnnxOptions, OutputKind, Pool, Projection};
use crate::pictures::{Inputs, Pictures};
use crate::plain::Answering;
#[cfg(feature = "tract")]
use crate::runtime::TractModel;
use crate::runtime::{Outputs, Session};
use crate::{Error, OnnxFile, plain};
use neighbours::Embedded;
use run::{BATCH, measure, per_picture, reproduced};

/// What `--maps` needs.
const MAPS: &str = "output `saliency`, which `--maps` shows";

/// How to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Which encoder of the checkpoint.
    pub load: LoadOptions,
    /// Most pictures taken from each folder; `None` takes all.
    pub limit: Option<usize>,
    /// Pictures to look for neighbours in; without, the other pictures are.
    pub gallery: Vec<PathBuf>,
    /// A PNG to write, with each picture (64 at most) beside its map and the reference's.
    pub maps: Option<PathBuf>,
}

/// Holds a model against the checkpoint that it was written from (or the ONNX file that it was taken over from), on pictures (files or folders), by the
/// contract in the file's metadata; its golden answer and the fingerprint as well.
///
/// A model in single precision is run in ONNX Runtime (in batches) and in tract (one by one), and held
/// against the checkpoint's encoder computed plainly. One in fp16 or int8 is held against the model
/// in single precision in ONNX Runtime, and its nearest neighbours against that one's.
///
/// # Errors
/// [`Error`] where a file cannot be read or a runtime fails. Differences are no errors: see
/// [`Comparison::passes`].
pub fn verify(
    model: &Path,
    checkpoint: &Path,
    pictures: &[PathBuf],
    options: &VerifyOptions,
) -> Result<Comparison, Error> {
    let file = OnnxFile::open(model)?;
    if let Some(choice) = adopted::choice(&file)? {
        if options.maps.is_some() {
            return Err(file.foreign(MAPS));
        }
        return adopted::verify(&file, &choice, (checkpoint, pictures, options.limit));
    }
    let contract = file.contract()?;
    let checkpoint = Checkpoint::open(checkpoint)?;
    let encoder = load_encoder(&checkpoint, &options.load)?;
    let computed = encoder.fingerprint(&contract.to_json());
    let outputs = file.outputs()?;
    let aligned = file.saliency()?.rule == MapRule::Alignment || outputs.contains(&OutputKind::Alignment);
    let projection = match aligned || outputs.contains(&OutputKind::Projection) {
        true => Some(Projection::find(&checkpoint, &encoder)?),
        false => None,
    };
    let network = Network { encoder: &encoder, contract: &contract, projection: projection.as_ref() };
    let (input, saliency, pool) = (file.input()?, file.saliency()?, file.pool()?);
    let subject = Subject { file: &file, network, outputs, input, saliency, pool };
    if options.maps.is_some() && !subject.outputs.contains(&OutputKind::Saliency) {
        return Err(file.foreign(MAPS));
    }
    let mut pictures = Pictures::expand(pictures, options.limit)?;
    let mut gallery = Pictures::default();
    let mut comparison = match file.is_single_precision() {
        true => subject.against_checkpoint(&mut pictures)?,
        false => {
            gallery = Pictures::expand(&options.gallery, None)?;
            subject.against_single(&mut pictures, &mut gallery)?
        }
    };
    if let Some(path) = &options.maps {
        sheet::write(path, &comparison.results, &contract)?;
    }
    comparison.skipped = pictures.skipped() + gallery.skipped();
    comparison.notes = [pictures.notes, gallery.notes].concat();
    comparison.golden = reproduced(&file, &contract, input)?;
    comparison.fingerprint = (file.property("fingerprint")?.to_owned(), computed);
    Ok(comparison)
}

/// What is verified.
struct Subject<'a> {
    file: &'a OnnxFile,
    network: Network<'a>,
    outputs: Vec<OutputKind>,
    input: InputKind,
    saliency: Making,
    pool: Pool,
}

impl Subject<'_> {
    fn normalized(&self) -> bool {
        self.file.metadata().get(key::NORMALIZED) != Some(&"false")
    }

    fn names(&self) -> Vec<String> {
        self.outputs.iter().map(OutputKind::to_string).collect()
    }

    /// A model in single precision: two runtimes and the plain computation.
    fn against_checkpoint(&self, pictures: &mut Pictures) -> Result<Comparison, Error> {
        let (inputs, paths) = pictures.load(0..pictures.paths.len(), self.network.contract, self.input);
        pictures.not_all_broken()?;
        let names = self.names();
        let (ort, ort_time) = measure(|| {
            let mut session = Session::from_file(self.file.path())?;
            let starts = (0..paths.len()).step_by(BATCH);
            let batch = |at: usize| session.rows(&inputs.batch(at..paths.len().min(at + BATCH)), &names);
            Ok(starts.map(batch).collect::<Result<Vec<_>, Error>>()?.concat())
        })?;
        let tract = self.in_tract(&inputs)?;
        let (plain, plain_time) = measure(|| {
            let how = Answering { normalize: self.normalized(), saliency: self.saliency, pool: self.pool };
            let plain = |pixels| plain::outputs(self.network, &self.outputs, how, pixels);
            inputs.pixels().iter().map(plain).collect::<Result<Vec<_>, _>>()
        })?;
        let results = paths.iter().enumerate().map(|(i, path)| PictureResult {
            path: path.clone(),
            tract: tract.as_ref().map(|(rows, _)| Difference::of(&ort[i], &rows[i])),
            reference: Difference::of(&ort[i], &plain[i]),
            saliency: saliency(&ort[i], &plain[i]),
        });
        let tract_time = tract.as_ref().map(|(_, time)| ("tract", *time));
        let times = [Some(("ONNX Runtime", ort_time)), tract_time, Some(("plain", plain_time))];
        Ok(Comparison {
            precision: self.file.precision().to_owned(),
            adopted: false,
            whitened: self.network.encoder.whitening.is_some(),
            results: results.collect(),
            agreement: None,
            golden: None,
            fingerprint: Default::default(),
            skipped: 0,
            notes: Vec::new(),
            times: times
                .iter()
                .flatten()
                .map(|&(name, time)| (name, per_picture(time, paths.len())))
                .collect(),
        })
    }

    /// The outputs for each picture in tract, and how long it took; `None` in a build without it.
    #[cfg(feature = "tract")]
    fn in_tract(&self, inputs: &Inputs) -> Result<Option<(Vec<Outputs>, Duration)>, Error> {
        measure(|| {
            let model = TractModel::load(self.file, self.network.contract.crop as usize)?;
            (0..inputs.len()).map(|i| model.run(&inputs.batch(i..i + 1))).collect::<Result<Vec<_>, _>>()
        })
        .map(Some)
    }

    #[cfg(not(feature = "tract"))]
    fn in_tract(&self, _: &Inputs) -> Result<Option<(Vec<Outputs>, Duration)>, Error> {
        Ok(None)
    }

    /// A model in lower precision: the one in single precision, and neighbours.
    fn against_single(&self, pictures: &mut Pictures, gallery: &mut Pictures) -> Result<Comparison, Error> {
        let mut session = Session::from_file(self.file.path())?;
        let mut single = self.single()?;
        let mut pair =
            Pair { subject: self, session: &mut session, single: &mut single, times: [Duration::ZERO; 2] };
        let mut results = Vec::new();
        let queries = pair.run(pictures, &mut |path, ours, theirs| {
            let reference = Difference::of(ours, theirs);
            let saliency = saliency(ours, theirs);
            results.push(PictureResult { path: path.to_owned(), tract: None, reference, saliency });
        })?;
        let times = pair.times;
        let gallery =
            if gallery.paths.is_empty() { None } else { Some(pair.run(gallery, &mut |_, _, _| {})?) };
        let names = ["ONNX Runtime", "in fp32"];
        let times = names
            .into_iter()
            .zip(times)
            .map(|(name, time)| (name, per_picture(time, results.len())))
            .collect();
        Ok(Comparison {
            precision: self.file.precision().to_owned(),
            adopted: false,
            whitened: self.network.encoder.whitening.is_some(),
            agreement: Agreement::of(&queries, gallery.as_ref()),
            results,
            golden: None,
            fingerprint: Default::default(),
            skipped: 0,
            notes: Vec::new(),
            times,
        })
    }

    /// The same model in single precision.
    fn single(&self) -> Result<Session, Error> {
        let options = OnnxOptions {
            input: self.input,
            outputs: self.outputs.clone(),
            normalize: self.normalized(),
            saliency: self.saliency,
            pool: self.pool,
            ..OnnxOptions::default()
        };
        let model = onnx::model(self.network, &options, &ModelInfo::default())?;
        let mut bytes = Vec::new();
        model.write_to(&mut bytes).map_err(|reason| Error::Write { path: "memory".into(), reason })?;
        Session::from_bytes(&bytes)
    }
}

/// The verified model beside its reference.
struct Pair<'p> {
    subject: &'p Subject<'p>,
    session: &'p mut Session,
    single: &'p mut Session,
    times: [Duration; 2],
}

impl Pair<'_> {
    /// Runs pictures through both, a batch in memory at a time.
    fn run(
        &mut self,
        pictures: &mut Pictures,
        each: &mut dyn FnMut(&Path, &Outputs, &Outputs),
    ) -> Result<Embedded, Error> {
        let names = self.subject.names();
        let mut embedded = Embedded::default();
        let all = pictures.paths.len();
        for start in (0..all).step_by(BATCH) {
            let range = start..all.min(start + BATCH);
            let (inputs, paths) = pictures.load(range, self.subject.network.contract, self.subject.input);
            if paths.is_empty() {
                continue;
            }
            let batch = inputs.batch(0..paths.len());
            let (ours, time) = measure(|| self.session.rows(&batch, &names))?;
            self.times[0] += time;
            let (theirs, time) = measure(|| self.single.rows(&batch, &names))?;
            self.times[1] += time;
            for (path, (ours, theirs)) in paths.iter().zip(ours.iter().zip(&theirs)) {
                each(path, ours, theirs);
                embedded.add(path, ours, theirs);
            }
        }
        pictures.not_all_broken()?;
        Ok(embedded)
    }
}

/// The maps of both.
fn saliency(ours: &Outputs, theirs: &Outputs) -> [Vec<f32>; 2] {
    let name = OutputKind::Saliency.to_string();
    [ours, theirs].map(|outputs| outputs.get(&name).cloned().unwrap_or_default())
}
