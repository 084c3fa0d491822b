//! How well an encoder's saliency maps find what is known to be in pictures, beside an untrained encoder and maps that no
//! network makes.

mod png_mask;
mod sheet;
mod truth;
mod window;

use anyhow::{Context, Result, ensure};
use occlude_dataset::Dataset;
use occlude_preprocess::{Broken, Limits, Preprocess, Rgb, resize_crop};
use occlude_saliency::score::{Figures, Means, Score, score};
use occlude_saliency::{Map, Rect, normalise, prior, spread};
use tch::{Device, Tensor};

use super::features::network_input;
use crate::maps::{MapRule, Pictures, fine_maps};
use crate::model::{Encoder, Mode};
use crate::parallel;

pub use sheet::Sheet;
pub use truth::{Boxes, Truths};
pub use window::{Window, resized};

use truth::Truth;
use window::Region;

/// Pictures a forward pass.
const BATCH: usize = 32;
/// Longest side at which colours are compared, pixels.
const COLOUR_SIDE: f64 = 256.0;

/// A map that is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// The encoder's.
    Encoder,
    /// That of the same architecture with random weights, by the same rule.
    Untrained,
    /// A blob in the middle.
    Centre,
    /// The distance of colours from those of the border, times the blob.
    BorderColour,
    /// The encoder's times the one before.
    Product,
}

impl Row {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] =
        [Self::Encoder, Self::Untrained, Self::Centre, Self::BorderColour, Self::Product];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Untrained => "untrained",
            Self::Centre => "centre",
            Self::BorderColour => "border-colour",
            Self::Product => "encoder-x-border-colour",
        }
    }
}

/// How maps are made.
#[derive(Debug)]
pub struct Making {
    /// What makes a map of features.
    pub rule: MapRule,
    /// Which features: `res2` to `res5` of a ResNet, `block11` or `attention11` of a vision transformer.
    pub tap: String,
    /// The contract at each size of the input; maps of several are averaged.
    pub contracts: Vec<Preprocess>,
    /// What the encoder sees.
    pub window: Window,
    /// Whether the map of the mirrored picture, mirrored back, is averaged with the map.
    pub mirror: bool,
}

/// Judges maps.
pub struct Localiser<'a> {
    /// How they are made.
    pub making: &'a Making,
    /// The encoder.
    pub encoder: &'a Encoder,
    /// One that has learnt nothing, where it is to be judged.
    pub untrained: Option<&'a Encoder>,
    /// The pictures.
    pub data: &'a Dataset,
    /// What is known of them.
    pub truths: &'a Truths,
    /// Threads.
    pub workers: usize,
}

/// The figures of one picture, of each row.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Its number in the data set.
    pub index: usize,
    /// In the order of [`Outcome::rows`].
    pub figures: Vec<Figures>,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was judged, with the averages.
    pub rows: Vec<(Row, Means)>,
    /// Every picture that was, in the order of the data set.
    pub pictures: Vec<Judged>,
    /// Pictures that could not be read.
    pub unreadable: usize,
    /// Pictures in which there is nothing to find: the truth is empty, or lies outside of what is seen.
    pub without_object: usize,
}

/// A picture as it is seen, and what is to be found.
struct Seen {
    index: usize,
    /// For each size of the input, before normalisation.
    inputs: Vec<Rgb>,
    /// What is seen, small.
    small: Rgb,
    /// Where that lies in the pixels that are judged.
    place: Rect,
    truth: Truth,
}

enum Read {
    Seen(Box<Seen>),
    Broken(occlude_dataset::Error),
}

/// A map of a network, or of colours.
#[derive(Clone, Debug, PartialEq)]
struct Grid {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl Grid {
    fn map(&self) -> Result<Map<'_>, occlude_saliency::Error> {
        Map::new(self.height, self.width, &self.values)
    }
}

impl Localiser<'_> {
    /// Judges the maps of the pictures at `which`.
    ///
    /// # Errors
    /// Where what is known of a picture cannot be used, where no picture can be read, and where there is nothing to find
    /// in any of them.
    pub fn run(&self, which: &[usize]) -> Result<Outcome> {
        let rows: Vec<Row> =
            Row::ALL.into_iter().filter(|row| *row != Row::Untrained || self.untrained.is_some()).collect();
        let mut means: Vec<Means> = rows.iter().map(|_| Means::default()).collect();
        let (mut pictures, mut broken, mut without_object) = (Vec::new(), Broken::default(), 0);
        for chunk in which.chunks(BATCH) {
            let seen = self.read(chunk, &mut broken)?;
            let (seen, empty): (Vec<Seen>, Vec<Seen>) =
                seen.into_iter().partition(|seen| seen.truth.mask.count() > 0);
            without_object += empty.len();
            for (seen, scores) in seen.iter().zip(self.scores(&rows, &seen)?) {
                means.iter_mut().zip(&scores).for_each(|(means, score)| means.add(score));
                let figures = scores.iter().map(|score| score.figures).collect();
                pictures.push(Judged { index: seen.index, figures });
            }
        }
        broken.not_all(which.len(), Some(self.data.root().to_owned()))?;
        ensure!(
            !pictures.is_empty(),
            "there is nothing to find in any picture: every {} is empty",
            self.noun()
        );
        let unreadable = broken.count();
        Ok(Outcome { rows: rows.into_iter().zip(means).collect(), pictures, unreadable, without_object })
    }

    fn noun(&self) -> &'static str {
        match self.truths {
            Truths::Masks(_) => "mask",
            Truths::Boxes(_) => "list of boxes",
        }
    }

    /// The pictures of a chunk that can be read, in order.
    fn read(&self, chunk: &[usize], broken: &mut Broken) -> Result<Vec<Seen>> {
        // no thread touches the encoder, which has no business on several
        let (making, data, truths) = (self.making, self.data, self.truths);
        let mut seen = Vec::with_capacity(chunk.len());
        for read in parallel::map(chunk, self.workers, |&i| read_one(making, data, truths, i)) {
            match read? {
                Read::Seen(picture) => seen.push(*picture),
                Read::Broken(error) => {
                    broken.add(&error).iter().for_each(|line| tell!("warning: {line}"));
                }
            }
        }
        Ok(seen)
    }

    /// The scores of each picture, in the order of `rows`.
    fn scores(&self, rows: &[Row], seen: &[Seen]) -> Result<Vec<Vec<Score>>> {
        if seen.is_empty() {
            return Ok(Vec::new());
        }
        let trained = self.making.maps(self.encoder, seen)?;
        let untrained = self.untrained.map(|encoder| self.making.maps(encoder, seen)).transpose()?;
        let numbers: Vec<usize> = (0..seen.len()).collect();
        let judge = |&i: &usize| -> Result<Vec<Score>> {
            let colours = colours(&seen[i].small)?;
            let network = [Some(&trained[i]), untrained.as_ref().map(|maps| &maps[i])];
            let judge = |row: &Row| {
                let values = seen[i].values(*row, network, &colours)?;
                let (height, width) = seen[i].size();
                Ok(score(Map::new(height, width, &values)?, &seen[i].truth.mask, &seen[i].truth.boxes)?)
            };
            let scores: Result<Vec<Score>> = rows.iter().map(judge).collect();
            scores.with_context(|| format!("cannot judge the map of `{}`", self.data.name(seen[i].index)))
        };
        parallel::map(&numbers, self.workers, judge).into_iter().collect()
    }
}

/// Picture `index` of `data` as it is seen.
fn read_one(making: &Making, data: &Dataset, truths: &Truths, index: usize) -> Result<Read> {
    let image = match data.decode(index, &Limits::default(), &mut Vec::new()) {
        Ok(decoded) => decoded.image,
        Err(error @ occlude_dataset::Error::Store { .. }) => return Err(error.into()),
        Err(error) => return Ok(Read::Broken(error)),
    };
    let contract = making.contracts.first().context("no size of the input")?;
    let known = truths.read(index, &data.name(index), (image.width, image.height))?;
    let shown = making.window.shown(contract, image.width, image.height);
    let region = Region::of(&shown, image.width, image.height);
    let truth = known.within(&region)?;
    let scale = (COLOUR_SIDE / shown.width.max(shown.height)).min(1.0);
    let side = |length: f64| ((length * scale).round() as u32).max(1);
    let (w, h) = (side(shown.width), side(shown.height));
    let seen = Seen {
        index,
        inputs: making.contracts.iter().map(|c| making.window.pixels(c, &image)).collect(),
        small: resize_crop(&image, shown, w, h, contract.interpolation),
        place: region.place(&shown),
        truth,
    };
    Ok(Read::Seen(Box::new(seen)))
}

/// The border-colour prior of a picture.
fn colours(small: &Rgb) -> Result<Grid> {
    let (height, width) = (small.height as usize, small.width as usize);
    Ok(Grid { height, width, values: prior::border_colour(&small.data, (height, width))? })
}

impl Seen {
    /// Rows and columns that are judged.
    fn size(&self) -> (usize, usize) {
        (self.truth.mask.height(), self.truth.mask.width())
    }

    /// The map of a row in the pixels that are judged, 0..1. `network` has the map of the encoder and of the untrained one.
    fn values(&self, row: Row, network: [Option<&Grid>; 2], colours: &Grid) -> Result<Vec<f32>> {
        let (height, width) = self.size();
        let spread = |grid: &Grid| Ok::<_, anyhow::Error>(spread(grid.map()?, &self.place, height, width));
        let [trained, untrained] = network;
        let trained = || spread(trained.context("no map of the encoder")?);
        let raw = match row {
            Row::Encoder => trained()?,
            Row::Untrained => spread(untrained.context("no map of the untrained encoder")?)?,
            Row::Centre => prior::centre(height, width),
            Row::BorderColour => spread(colours)?,
            Row::Product => {
                let (ours, colours) = (trained()?, spread(colours)?);
                prior::product(Map::new(height, width, &ours)?, Map::new(height, width, &colours)?)?
            }
        };
        Ok(normalise(Map::new(height, width, &raw)?))
    }
}

/// Pictures of one size as a network gets them.
struct Input {
    /// Behind the contract's filter, `(B, 3, S, S)`.
    filtered: Tensor,
    /// Before it.
    plain: Tensor,
}

impl Input {
    fn mirrored(&self) -> Self {
        Self { filtered: self.filtered.flip([3]), plain: self.plain.flip([3]) }
    }
}

impl Making {
    /// The maps of pictures, one for each.
    fn maps(&self, encoder: &Encoder, seen: &[Seen]) -> Result<Vec<Grid>> {
        let inputs: Vec<Input> = (0..self.contracts.len())
            .map(|k| {
                let images: Vec<&Rgb> = seen.iter().map(|seen| &seen.inputs[k]).collect();
                let contract = &self.contracts[k];
                let input = network_input(&images, contract, encoder.device());
                let plain = match contract.high_pass {
                    Some(_) => {
                        let unfiltered = Preprocess { high_pass: None, ..contract.clone() };
                        network_input(&images, &unfiltered, encoder.device())
                    }
                    None => input.shallow_clone(),
                };
                Input { filtered: input, plain }
            })
            .collect();
        let maps = self.of_inputs(encoder, &inputs)?;
        let (n, height, width) = maps.size3().context("maps are (B, h, w)")?;
        let values: Vec<f32> = Vec::try_from(maps.contiguous().flatten(0, -1))?;
        let (height, width) = (height as usize, width as usize);
        debug_assert_eq!(n as usize, seen.len());
        let grid = |values: &[f32]| Grid { height, width, values: values.to_vec() };
        Ok(values.chunks_exact(height * width).map(grid).collect())
    }

    /// The maps of network inputs `(B, 3, S, S)` of several sizes, averaged on the finest of their grids: `(B, h, w)` on the
    /// CPU.
    fn of_inputs(&self, encoder: &Encoder, inputs: &[Input]) -> Result<Tensor> {
        let std = self.contracts.first().map_or([1.0; 3], |c| c.std);
        let tap = encoder.graph().tap(&self.tap);
        let tap = tap.with_context(|| format!("{} has no `{}`", encoder.arch(), self.tap))?;
        let map = |x: &Input| {
            let value = encoder.forward(&x.filtered, Mode::Eval, &[tap]).tap();
            let (size, pictures) = (x.plain.size(), Pictures { pixels: &x.plain, std });
            fine_maps(self.rule, &encoder.map(tap, &value, [size[2], size[3]]), pictures)
        };
        let both = |x: &Input| match self.mirror {
            true => (map(x) + map(&x.mirrored()).flip([2])) / 2.0,
            false => map(x),
        };
        let maps: Vec<Tensor> = tch::no_grad(|| inputs.iter().map(both).collect());
        let sides = |at: usize| maps.iter().map(|m| m.size()[at]).max().unwrap_or(1);
        let (h, w) = (sides(1), sides(2));
        let same =
            |map: &Tensor| map.unsqueeze(1).upsample_bilinear2d([h, w], false, None, None).squeeze_dim(1);
        let all: Vec<Tensor> = maps.iter().map(same).collect();
        let mean = Tensor::stack(&all, 0).mean_dim([0i64].as_slice(), false, tch::Kind::Float);
        Ok(mean.to_device(Device::Cpu))
    }
}

#[cfg(test)]
mod tests;
