//! Batches to train a classifier on: views of pictures, or features that were computed once.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Result, ensure};
use occlude_distributed::World;
use occlude_preprocess::Preprocess;
use rand::Rng;
use tch::{Device, Tensor};

use super::protocol::{Protocol, augment};
use super::split::Part;
use crate::augment::{Augmenters, HighPassFilter};
use crate::data::{Fed, Feed, Loader, LoaderSpec, Store, ViewSpec};
use crate::device::upload;
use crate::rng::{Domain, permutation, stream};
use crate::share::Share;

/// A batch.
#[derive(Debug)]
pub(super) struct Examples {
    /// Network input `(B, 3, S, S)` or features `(B, D)`, on the device.
    pub x: Tensor,
    /// Classes `(B)`, int64, on the device.
    pub labels: Tensor,
    /// Pictures of this batch on all ranks.
    pub total: usize,
}

/// Batches of an epoch, in order.
pub(super) type Epoch<'a> = Box<dyn Iterator<Item = Result<Examples>> + 'a>;

/// Where batches come from; the same epoch always has the same ones.
pub(super) trait Source {
    /// Batches an epoch.
    fn steps(&self) -> usize;

    /// Those of `epoch` from step `first` on.
    fn epoch(&self, epoch: u64, first: usize) -> Epoch<'_>;
}

/// Features of each picture and of its mirror image; each epoch takes one of the two.
#[derive(Debug)]
pub(super) struct Cached {
    /// `(2 N, D)`: the pictures, then their mirror images.
    features: Tensor,
    /// `(N)`
    labels: Tensor,
    batch_size: usize,
    seed: u64,
    device: Device,
}

impl Cached {
    /// From `(N, D)` twice and the classes `(N)`.
    pub(super) fn new(
        features: &Tensor,
        mirrored: &Tensor,
        labels: &Tensor,
        protocol: &Protocol,
        device: Device,
    ) -> Self {
        Self {
            features: Tensor::cat(&[features, mirrored], 0),
            labels: labels.shallow_clone(),
            batch_size: protocol.batch_size,
            seed: protocol.seed,
            device,
        }
    }

    fn len(&self) -> usize {
        self.labels.size()[0] as usize
    }
}

impl Source for Cached {
    fn steps(&self) -> usize {
        self.len().div_ceil(self.batch_size)
    }

    fn epoch(&self, epoch: u64, first: usize) -> Epoch<'_> {
        let n = self.len() as i64;
        let order = permutation(self.len(), &mut stream(self.seed, Domain::Order, epoch, 0));
        let batches: Vec<Vec<i64>> = order.chunks(self.batch_size).skip(first).map(<[i64]>::to_vec).collect();
        Box::new(batches.into_iter().map(move |batch| {
            let flipped = |i: i64| stream(self.seed, Domain::View, epoch, (i as u64) << 1).random_bool(0.5);
            let rows: Vec<i64> = batch.iter().map(|&i| if flipped(i) { n + i } else { i }).collect();
            let pick = |from: &Tensor, at: &[i64]| {
                upload(&from.index_select(0, &Tensor::from_slice(at)), self.device)
            };
            let (x, labels) = (pick(&self.features, &rows), pick(&self.labels, &batch));
            Ok(Examples { x, labels, total: batch.len() })
        }))
    }
}

/// Random crops and mirror images of pictures, as the contract of an encoder wants its input.
pub(super) struct Fresh {
    store: Arc<Store>,
    labels: Vec<i64>,
    spec: LoaderSpec,
    augmenters: Augmenters,
    high_pass: Option<HighPassFilter>,
    device: Device,
    signal: Option<Arc<AtomicUsize>>,
}

/// How pictures are read; it changes nothing that is computed.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Threads that decode.
    pub workers: usize,
    /// Bytes of decoded pictures to keep in memory.
    pub cache_bytes: u64,
}

impl Fresh {
    /// Views of the pictures of `part`.
    pub(super) fn new(
        part: &Part,
        contract: &Preprocess,
        protocol: &Protocol,
        reading: Reading,
        device: Device,
    ) -> Self {
        let view = ViewSpec { size: contract.crop as usize, augment: augment() };
        let n = part.len();
        let spec = LoaderSpec {
            batch_size: protocol.batch_size,
            share: Share::ALL,
            // a last batch of one picture may leave a normalisation one value a channel, which has no variance
            keep_last: n % protocol.batch_size != 1 || n == 1,
            views: vec![view],
            seed: protocol.seed,
            workers: reading.workers,
        };
        let filter = contract.high_pass.as_ref();
        Self {
            labels: part.labels(),
            store: Arc::new(Store::some(Arc::clone(&part.data), part.which.clone(), reading.cache_bytes)),
            augmenters: Augmenters::new(contract, &spec.views, device),
            high_pass: filter.map(|filter| HighPassFilter::new(contract.crop as usize, filter, device)),
            spec,
            device,
            signal: None,
        }
    }

    /// Does not wait for pictures that do not come when `signal` is not 0 any more.
    pub(super) fn heeding(self, signal: Arc<AtomicUsize>) -> Self {
        Self { signal: Some(signal), ..self }
    }

    /// Reads this rank's part of every batch alone.
    ///
    /// # Errors
    /// Where a batch has fewer pictures than there are ranks.
    pub(super) fn shared(mut self, world: &World) -> Result<Self> {
        let (n, size, batch) = (self.store.len(), world.size(), self.spec.batch_size);
        let last = if self.spec.keep_last { n % batch } else { 0 };
        let smallest = if last == 0 { batch.min(n) } else { last };
        ensure!(
            smallest >= size,
            "a batch of {smallest} of the {n} training pictures (`--batch-size {batch}`) cannot be divided among {size} processes; hint: another `--batch-size`, or fewer processes"
        );
        self.spec.share = Share::of(world);
        Ok(self)
    }

    /// The first view of each picture as the encoder wants it, and the labels.
    fn examples(&self, batch: Fed) -> Result<Examples> {
        let total = self.spec.batch_size.min(self.store.len() - batch.step() * self.spec.batch_size);
        let labels: Vec<i64> = batch.indices().iter().map(|&i| self.labels[i]).collect();
        let x = tch::no_grad(|| {
            let view = &batch.views(&self.augmenters)?[0];
            Ok::<_, anyhow::Error>(self.high_pass.as_ref().map_or(view.shallow_clone(), |f| f.apply(view)))
        })?;
        Ok(Examples { x, labels: upload(&Tensor::from_slice(&labels), self.device), total })
    }
}

impl Source for Fresh {
    fn steps(&self) -> usize {
        self.spec.steps(self.store.len())
    }

    fn epoch(&self, epoch: u64, first: usize) -> Epoch<'_> {
        let loader = Loader::start(&self.store, &self.spec, epoch, first).heeding(self.signal.clone());
        let feed = match Feed::start(loader, self.device) {
            Ok(feed) => feed,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        Box::new(feed.map(|batch| match batch? {
            Some(batch) => self.examples(batch),
            None => Err(self.store.nothing()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::protocol::{LinearPreset, Overrides};
    use occlude_dataset::{Dataset, Options};
    use occlude_preprocess::HighPass;
    use tch::Kind;

    fn protocol(batch_size: usize) -> Protocol {
        let flags = Overrides { batch_size: Some(batch_size), seed: 5, ..Overrides::default() };
        LinearPreset::Moco.resolve(&flags).expect("valid")
    }

    /// Row i is (i, 0) and its mirror image (i, 1).
    #[test]
    fn cached_batches_hold_every_picture_once_as_itself_or_mirrored() {
        let _alone = crate::rng::alone();
        let column = |second: f64| {
            let i = Tensor::arange(10, (Kind::Float, Device::Cpu));
            Tensor::stack(&[i.shallow_clone(), i.full_like(second)], 1)
        };
        let labels = Tensor::arange(10, (Kind::Int64, Device::Cpu));
        let source = Cached::new(&column(0.0), &column(1.0), &labels, &protocol(4), Device::Cpu);
        assert_eq!(source.steps(), 3);
        let read = |epoch, first| -> Vec<Vec<f64>> {
            let row = |e: Examples| {
                assert_eq!(
                    e.x.select(1, 0),
                    e.labels.to_kind(Kind::Float),
                    "labels stay with their features"
                );
                (0..e.labels.size()[0])
                    .map(|i| 10.0 * e.x.double_value(&[i, 1]) + e.x.double_value(&[i, 0]))
                    .collect()
            };
            source.epoch(epoch, first).map(|e| row(e.expect("a batch"))).collect()
        };
        let all = read(0, 0);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut seen: Vec<i64> = all.concat().iter().map(|&v| v as i64 % 10).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        assert!(all.concat().iter().any(|&v| v >= 10.0) && all.concat().iter().any(|&v| v < 10.0));
        assert_ne!(all, read(1, 0));
        assert_eq!(all[1..], read(0, 1), "an epoch can be entered anywhere");
    }

    /// Grey pictures: whatever the crop, the input is the normalised grey, and nothing where a high-pass filter is asked.
    #[test]
    fn fresh_views_obey_the_contract_and_have_their_classes() {
        let _alone = crate::rng::alone();
        let dir = tempfile::tempdir().expect("a folder");
        for class in 0..3u8 {
            let folder = dir.path().join(class.to_string());
            std::fs::create_dir(&folder).expect("a folder");
            for i in 0..3 {
                let picture = image::RgbImage::from_pixel(30 + i, 40, image::Rgb([class * 100; 3]));
                picture.save(folder.join(format!("{i}.png"))).expect("written");
            }
        }
        std::fs::write(dir.path().join("1/1.png"), b"broken").expect("written");
        let data = Arc::new(Dataset::open(dir.path(), &Options::default()).expect("listed"));
        let part = Part { which: (0..data.len()).collect(), data };
        let read = |high_pass| {
            let contract = Preprocess { high_pass, ..Preprocess::imagenet(32) };
            let reading = Reading { workers: 2, cache_bytes: 0 };
            let source = Fresh::new(&part, &contract, &protocol(4), reading, Device::Cpu);
            assert_eq!(source.steps(), 2, "a last batch of one is left out");
            source.epoch(0, 0).map(|e| e.expect("a batch")).collect::<Vec<_>>()
        };
        for batch in read(None) {
            let red = batch.x.select(1, 0).mean_dim([1i64, 2].as_slice(), false, Kind::Float);
            let expected = (batch.labels.to_kind(Kind::Float) * (100.0 / 255.0) - 0.485) / 0.229;
            assert!((red - expected).abs().max().double_value(&[]) < 1e-4);
        }
        for batch in read(Some(HighPass { kernel: 11, sigma: 5.0 })) {
            assert!(batch.x.abs().max().double_value(&[]) < 1e-4);
        }
    }
}
