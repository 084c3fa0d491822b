//! Boxes without labels: what a model's saliency map shows of each picture of a folder, as annotations in COCO's format.
//!
//! The model sees the whole picture, squashed. Every connected part of the map's foreground is an object: its box, its mask
//! as a run-length encoding, and as its score how salient it is.

mod coco;
mod model;

use std::path::{Path, PathBuf};

use occlude_preprocess::files::{self, Sample};
use occlude_preprocess::{
    Broken, CropBox, Interpolation, Limits, Preprocess, Rgb, load, names, resize_crop, whole,
};
use occlude_saliency::{
    Map, Placement, Rect, foreground_above, guide_size, threshold_at, with_edges, without_texture,
};
use rayon::prelude::*;

use self::coco::{Document, Found};
use self::model::{Grid, Model};
use crate::error::Error;

/// Pictures that are decoded side by side and given to the model at once.
const BATCH: usize = 16;

/// After so many pictures a line tells how far it is.
const REPORT: usize = 1000;

/// What the boxes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Boxes {
    /// Around what the map shows.
    #[default]
    Map,
    /// As many and as large as those, in the middle of each picture: the baseline that maps have to beat.
    Centre,
}

/// Which pictures, which model, and what counts as an object.
#[derive(Clone, Debug, PartialEq)]
pub struct PseudoOptions {
    /// Folder of pictures.
    pub data: PathBuf,
    /// ONNX file with an output `saliency`.
    pub model: PathBuf,
    /// The JSON to write.
    pub out: PathBuf,
    /// Threshold of the foreground, in standard deviations from the map's mean; default: the model's.
    pub threshold: Option<f64>,
    /// Least share of the picture that a part covers, 0 to 1.
    pub min_area: f64,
    /// What the boxes are.
    pub boxes: Boxes,
    /// Refine maps by the pictures' edges.
    pub refine: bool,
    /// Replace an existing file.
    pub force: bool,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PseudoBoxes {
    /// Pictures in the file.
    pub pictures: usize,
    /// Of these, without a box.
    pub empty: usize,
    /// Boxes.
    pub boxes: usize,
    /// Pictures that could not be used.
    pub skipped: usize,
}

/// Runs the model on every picture and writes the annotations, whole or not at all. `tell` gets lines for people.
///
/// # Errors
/// [`Error::Output`] for a file that must not be written, [`Error::List`] for a folder without pictures,
/// [`Error::Model`] and [`Error::Runtime`] for a model that is none of ours or does not run, [`Error::AllBroken`] where not
/// one picture can be used, [`Error::Write`].
pub fn pseudo_boxes(options: &PseudoOptions, tell: &mut dyn FnMut(&str)) -> Result<PseudoBoxes, Error> {
    check_output(options, &[])?;
    let listing = files::list(&options.data)?;
    if !listing.left_out.is_empty() {
        tell(&format!("note: `{}`: {}", names::of_path(&options.data), listing.left_out));
    }
    if options.force && options.out.exists() {
        check_output(options, &listing.samples)?;
    }
    let mut model = Model::open(&options.model)?;
    let mut document = Document::new(options, &model.about);
    let (mut broken, mut done) = (Broken::default(), 0);
    for chunk in listing.samples.chunks(BATCH) {
        let seen = chunk.par_iter().map(|sample| look(options, &model.contract, sample));
        let mut usable = Vec::with_capacity(chunk.len());
        for seen in seen.collect::<Vec<_>>() {
            match seen {
                Ok(seen) => usable.push(seen),
                Err(reason) => {
                    broken.add(&reason).into_iter().for_each(|line| tell(&format!("warning: {line}")));
                }
            }
        }
        let inputs: Vec<&Rgb> = usable.iter().map(|seen| &seen.pixels).collect();
        for (seen, grid) in usable.iter().zip(model.maps(&inputs)?) {
            document.add(&seen.name, &seen.place, found(options, &model, seen, &grid)?);
        }
        if (done + chunk.len()) / REPORT > done / REPORT {
            tell(&format!("{} of {} pictures", done + chunk.len(), listing.samples.len()));
        }
        done += chunk.len();
    }
    broken.not_all(listing.samples.len(), Some(options.data.clone()))?;
    document.write(&options.out)?;
    Ok(PseudoBoxes { skipped: broken.count(), ..document.counts() })
}

/// Refuses a file that exists, and one that is the model or a picture.
fn check_output(options: &PseudoOptions, pictures: &[Sample]) -> Result<(), Error> {
    // Large models have their weights beside themselves.
    let weights = options.model.with_added_extension("data");
    let mut inputs: Vec<&Path> = vec![&options.model, &weights];
    inputs.extend(pictures.iter().map(|sample| sample.path.as_path()));
    Ok(occlude_output::check(&[&options.out], &inputs, options.force)?)
}

/// A picture as the model takes it.
struct Seen {
    /// Below the folder, as the JSON has it.
    name: String,
    pixels: Rgb,
    place: Placement,
    /// The same part of the picture in its own proportions, where maps are refined by it.
    guide: Option<Rgb>,
}

/// Reads a picture; the reason, with its name, where it cannot be used.
fn look(options: &PseudoOptions, contract: &Preprocess, sample: &Sample) -> Result<Seen, String> {
    let below = sample.path.strip_prefix(&options.data).unwrap_or(&sample.path);
    let Some(name) = below.to_str() else {
        return Err(format!(
            "`{}`: its name is not UTF-8, which JSON cannot hold; hint: rename it",
            names::of_path(&sample.path)
        ));
    };
    let image = load(&sample.path, &Limits::default()).map_err(|error| error.to_string())?.image;
    let part = whole(image.width, image.height);
    let CropBox { left, top, width, height } = part;
    let crop = Rect { left, top, width, height };
    let place = Placement { width: image.width, height: image.height, crop };
    let (across, down) = guide_size(width, height);
    let guide = options.refine.then(|| resize_crop(&image, part, across, down, Interpolation::Bilinear));
    Ok(Seen { name: name.to_owned(), pixels: contract.whole(&image), place, guide })
}

/// The objects of a picture.
fn found(options: &PseudoOptions, model: &Model, seen: &Seen, grid: &Grid) -> Result<Vec<Found>, Error> {
    let failed = |reason: occlude_saliency::Error| Error::Map { picture: seen.name.clone(), reason };
    let deviations = options.threshold.unwrap_or(model.about.saliency.deviations);
    let refined = seen.guide.as_ref().map(|guide| refined(grid, guide)).transpose().map_err(failed)?;
    let shown = refined.as_ref().unwrap_or(grid);
    let map = Map::new(shown.height, shown.width, &shown.values).map_err(failed)?;
    let mask = without_texture(&foreground_above(map, threshold_at(map, deviations)).map_err(failed)?);
    let found = coco::objects(map, &mask, &seen.place, options.min_area).map_err(failed)?;
    Ok(match options.boxes {
        Boxes::Map => found,
        Boxes::Centre => found.iter().map(|object| object.centred(&seen.place)).collect(),
    })
}

/// A map at the size of a picture, with its edges.
fn refined(grid: &Grid, guide: &Rgb) -> Result<Grid, occlude_saliency::Error> {
    let (height, width) = (guide.height as usize, guide.width as usize);
    let map = Map::new(grid.height, grid.width, &grid.values)?;
    let values = with_edges(map, &guide.data, (height, width))?;
    Ok(Grid { height, width, values })
}
