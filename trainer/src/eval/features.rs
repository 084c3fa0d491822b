//! Features of labelled pictures: by an encoder and its contract, or of the pixels themselves.

use std::sync::Mutex;

use anyhow::{Result, bail};
use occlude_dataset::{Dataset, Error};
use occlude_distributed::World;
use occlude_preprocess::{AllBroken, Broken, Interpolation, Limits, Preprocess, Rgb};
use tch::{Device, Kind, Tensor};

use crate::augment::HighPassFilter;
use crate::model::{Encoder, Mode};
use crate::ranks::agreed;
use crate::{parallel, terminal};

/// Pictures a forward pass.
pub(crate) const BATCH: usize = 64;
/// Side of the pictures whose raw pixels are compared.
const PIXEL_SIDE: u32 = 16;

/// Features and labels of the pictures that could be read.
#[derive(Debug)]
pub struct FeatureSet {
    /// `(N, D)` float32, on the CPU.
    pub features: Tensor,
    /// `(N)` int64; -1 where a picture has no class.
    pub labels: Tensor,
    /// Their positions in the data set, ascending.
    pub samples: Vec<usize>,
}

/// Turns pictures into features.
pub enum Extractor<'a> {
    /// An encoder in evaluation mode, float32, with its contract.
    Encoder(&'a Encoder, &'a Preprocess),
    /// The pixels of the contract's crop at 16x16, normalised: the floor that an encoder must beat.
    Pixels(&'a Preprocess),
}

impl Extractor<'_> {
    /// Features of a data set, decoded on `workers` threads; unreadable files are reported on stderr and left out.
    ///
    /// # Errors
    /// Where none of them can be read.
    pub fn run(&self, data: &Dataset, workers: usize) -> Result<FeatureSet> {
        self.run_some(data, &(0..data.len()).collect::<Vec<_>>(), workers)
    }

    /// The same of the pictures at `which`, ascending positions.
    ///
    /// # Errors
    /// Where none of them can be read.
    pub fn run_some(&self, data: &Dataset, which: &[usize], workers: usize) -> Result<FeatureSet> {
        self.run_together(data, which, workers, &World::single())
    }

    /// The same; `None` where none of them can be read.
    ///
    /// # Errors
    /// Where the data cannot be reached.
    pub fn run_readable(
        &self,
        data: &Dataset,
        which: &[usize],
        workers: usize,
    ) -> Result<Option<FeatureSet>> {
        match self.run_some(data, which, workers) {
            Ok(set) => Ok(Some(set)),
            Err(error) if error.is::<AllBroken>() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same, of which each rank computes a part: all of it on every rank, to the bit what one process computes, since the
    /// pictures of a forward pass are the same ones.
    ///
    /// # Errors
    /// Where none of them can be read, on every rank alike; where the ranks cannot be reached.
    pub fn run_together(
        &self,
        data: &Dataset,
        which: &[usize],
        workers: usize,
        world: &World,
    ) -> Result<FeatureSet> {
        self.views(data, which, workers, (&[false], world)).map(|(set, _)| set)
    }

    /// As [`Self::run_together`], and the features of the same pictures mirrored left to right, `(N, D)`.
    ///
    /// # Errors
    /// As [`Self::run_together`].
    pub fn run_mirrored(
        &self,
        data: &Dataset,
        which: &[usize],
        workers: usize,
        world: &World,
    ) -> Result<(FeatureSet, Tensor)> {
        self.views(data, which, workers, (&[false, true], world))
    }

    /// The features of the first of `mirror`, and of the last. Ranks take turns with the chunks and gather after each turn, so
    /// that none is ahead of the others by more than a chunk.
    fn views(
        &self,
        data: &Dataset,
        which: &[usize],
        workers: usize,
        (mirror, world): (&[bool], &World),
    ) -> Result<(FeatureSet, Tensor)> {
        let mut parts: Vec<Vec<Tensor>> = mirror.iter().map(|_| Vec::new()).collect();
        let mut samples = Vec::new();
        let broken = Mutex::new(Broken::default());
        let chunks: Vec<&[usize]> = which.chunks(BATCH).collect();
        let (turns, aloud) = (chunks.len().div_ceil(world.size()), !world.is_single());
        for (turn, round) in (1..).zip(chunks.chunks(world.size())) {
            let what = format!("features of pictures, turn {turn} of {turns}");
            let chunk = round.get(world.rank()).copied().unwrap_or_default();
            let read = read(data, chunk, self.contract(), workers, &|error| skip(&broken, error, aloud));
            let images: Vec<&Rgb> = read.iter().map(|(_, image)| image).collect();
            let own: Vec<i64> = read.iter().map(|(i, _)| *i as i64).collect();
            let found = world.gather_uneven(&Tensor::from_slice(&own), &what)?;
            let found = Vec::<i64>::try_from(found)?;
            if found.is_empty() {
                continue;
            }
            for (part, &mirror) in parts.iter_mut().zip(mirror) {
                part.push(world.gather_uneven(&self.features(&images, mirror), &what)?);
            }
            samples.extend(found.into_iter().map(|i| i as usize));
        }
        let some = not_all(&broken.into_inner().unwrap_or_default(), which.len(), world);
        let some = some.and_then(|()| if samples.is_empty() { bail!("no pictures") } else { Ok(()) });
        agreed(world, some, "features of pictures")?;
        let labels: Vec<i64> = samples.iter().map(|&i| data.class(i).map_or(-1, i64::from)).collect();
        let mut views = parts.iter().map(|part| Tensor::cat(part, 0));
        let features = views.next().unwrap_or_default();
        let last = views.next_back().unwrap_or_else(|| features.shallow_clone());
        Ok((FeatureSet { features, labels: Tensor::from_slice(&labels), samples }, last))
    }

    /// Numbers of a picture's features.
    fn dim(&self) -> i64 {
        match self {
            Self::Encoder(encoder, _) => encoder.arch().feature_dim() as i64,
            Self::Pixels(_) => i64::from(3 * PIXEL_SIDE * PIXEL_SIDE),
        }
    }

    fn contract(&self) -> &Preprocess {
        match self {
            Self::Encoder(_, contract) | Self::Pixels(contract) => contract,
        }
    }

    fn features(&self, images: &[&Rgb], mirror: bool) -> Tensor {
        let contract = self.contract();
        if images.is_empty() {
            return Tensor::zeros([0, self.dim()], (Kind::Float, Device::Cpu));
        }
        match self {
            Self::Encoder(encoder, _) => {
                let x = mirrored(network_input(images, contract, encoder.device()), mirror);
                let out = tch::no_grad(|| encoder.forward(&x, Mode::Eval, &[]).embedding);
                out.to_device(Device::Cpu)
            }
            Self::Pixels(_) => {
                let small: Vec<Rgb> = images
                    .iter()
                    .map(|i| occlude_preprocess::resize(i, PIXEL_SIDE, PIXEL_SIDE, Interpolation::Bilinear))
                    .collect();
                let plain = Preprocess { high_pass: None, ..contract.clone() };
                let x = network_input(&small.iter().collect::<Vec<_>>(), &plain, Device::Cpu);
                mirrored(x, mirror).flatten(1, -1)
            }
        }
    }
}

/// `(N, 3, H, W)`, left and right exchanged on request. The high-pass filter is symmetric, so that mirrored before or
/// after it is the same.
fn mirrored(x: Tensor, mirror: bool) -> Tensor {
    if mirror { x.flip([3]) } else { x }
}

/// Counts a picture that cannot be read, and says so: `aloud` even where another process speaks, because of several ranks only
/// one reads it.
fn skip(broken: &Mutex<Broken>, error: &Error, aloud: bool) {
    let line = broken.lock().ok().and_then(|mut broken| broken.add(error));
    match line {
        Some(line) if aloud => terminal::say(format_args!("warning: {line}")),
        Some(line) => tell!("warning: {line}"),
        None => {}
    }
}

/// # Errors
/// Where all of `count` pictures of all ranks are broken; the same on every rank.
fn not_all(broken: &Broken, count: usize, world: &World) -> Result<()> {
    if world.is_single() {
        return Ok(broken.not_all(count, None)?);
    }
    let all = world.sum(&Tensor::from_slice(&[broken.count() as i64]), "broken pictures")?.int64_value(&[0]);
    if count == 0 || (all as usize) < count {
        return Ok(());
    }
    let first = world.texts(broken.first(), "broken pictures")?;
    let first = first.into_iter().find(|first| !first.is_empty()).unwrap_or_default();
    Err(AllBroken { folder: None, count, first }.into())
}

/// The pictures of a chunk that can be read, resized and cropped as `contract` says, in order.
pub(crate) fn decode(
    data: &Dataset,
    chunk: &[usize],
    contract: &Preprocess,
    (workers, broken): (usize, &Mutex<Broken>),
) -> Vec<(usize, Rgb)> {
    read(data, chunk, contract, workers, &|error| skip(broken, error, false))
}

fn read(
    data: &Dataset,
    chunk: &[usize],
    contract: &Preprocess,
    workers: usize,
    skip: &(dyn Fn(&Error) + Sync),
) -> Vec<(usize, Rgb)> {
    let read = |bytes: &mut Vec<u8>, &i: &usize| match data.decode(i, &Limits::default(), bytes) {
        Ok(decoded) => Some((i, contract.pixels(&decoded.image))),
        Err(error @ Error::Store { .. }) => terminal::leave(&error),
        Err(error) => {
            skip(&error);
            None
        }
    };
    parallel::map_with(chunk, workers, Vec::new, read).into_iter().flatten().collect()
}

/// `(N, 3, H, W)`: what the contract makes of cropped pictures of one size, on `device`.
pub(crate) fn network_input(images: &[&Rgb], contract: &Preprocess, device: Device) -> Tensor {
    let (h, w) = images.first().map_or((0, 0), |i| (i64::from(i.height), i64::from(i.width)));
    let pixels: Vec<u8> = images.iter().flat_map(|i| i.data.iter().copied()).collect();
    let x = Tensor::from_slice(&pixels).view([-1, h, w, 3]).to(device).permute([0, 3, 1, 2]);
    let channel = |v: [f32; 3]| Tensor::from_slice(&v).view([1, 3, 1, 1]).to(device);
    let x = (x.to_kind(Kind::Float) / 255.0 - channel(contract.mean)) / channel(contract.std);
    match &contract.high_pass {
        Some(filter) => HighPassFilter::new(h as usize, filter, device).apply(&x),
        None => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_preprocess::HighPass;

    /// Batched on the device or picture by picture in the contract crate: the same numbers.
    #[test]
    fn network_input_is_the_contracts() {
        let _alone = crate::rng::alone();
        let filter = HighPass { kernel: 11, sigma: 5.0 };
        for high_pass in [None, Some(filter)] {
            let contract = Preprocess { high_pass, ..Preprocess::imagenet(32) };
            let data: Vec<u8> = (0..3 * 32 * 32).map(|i| (i * 29 % 255) as u8).collect();
            let image = Rgb { width: 32, height: 32, data };
            let ours = network_input(&[&image], &contract, Device::Cpu);
            let theirs = Tensor::from_slice(&contract.tensor(&image)).view([1, 3, 32, 32]);
            assert!((ours - theirs).abs().max().double_value(&[]) < 1e-4);
        }
    }

    #[test]
    fn mirrored_features_are_of_the_mirrored_picture() {
        let _alone = crate::rng::alone();
        let dir = tempfile::tempdir().expect("a folder");
        let picture =
            image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, (x * y) as u8]));
        picture.save(dir.path().join("a.png")).expect("written");
        image::imageops::flip_horizontal(&picture).save(dir.path().join("b.png")).expect("written");
        let data = Dataset::open(dir.path(), &occlude_dataset::Options::default()).expect("listed");
        let encoder = Encoder::new(occlude_encoder::Arch::ResNet18, 0, Device::Cpu);
        let contract = Preprocess {
            high_pass: Some(HighPass { kernel: 11, sigma: 5.0 }),
            resize: 32,
            ..Preprocess::imagenet(32)
        };
        let (set, mirrored) = Extractor::Encoder(&encoder, &contract)
            .run_mirrored(&data, &[0, 1], 1, &World::single())
            .expect("features");
        let distance = |a: Tensor, b: Tensor| (a - b).abs().max().double_value(&[]);
        assert!(distance(set.features.get(1), mirrored.get(0)) < 1e-4);
        assert!(distance(set.features.get(0), mirrored.get(0)) > 1e-3);
    }
}
