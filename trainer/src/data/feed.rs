//! Batches on their way to the device, ahead of the training loop.
//!
//! For CUDA a thread of its own takes what the loader decoded, writes it into pinned memory and copies it on a stream
//! of its own: neither the training loop nor the device waits for the pixels of the next batch.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use anyhow::Result;
use occlude_torch_ext::{Copier, Copying};
use rand::RngCore;
use tch::{Device, Tensor};

use super::loader::leave;
use super::{Batch, Loader, LoaderSpec, Photometric, Placed, View, ViewSpec};
use crate::augment::Augmenters;
use crate::phase::{Phase, within};
use crate::rng::{Domain, view_stream};

/// Batches that may lie on the device before they are used; one more is being copied.
const AHEAD: usize = 1;

/// A batch for the device.
#[derive(Debug)]
pub struct Fed {
    /// The batch; its pixels are taken out where they are on their way to the device.
    batch: Batch,
    /// Those pixels, a view each.
    pixels: Option<Vec<Copying>>,
}

impl Fed {
    /// Number of the step in its epoch.
    pub fn step(&self) -> usize {
        self.batch.step
    }

    /// Of every picture, its index in the store.
    pub fn indices(&self) -> &[usize] {
        &self.batch.indices
    }

    /// Where each view is on each picture.
    pub fn placed(&self) -> Vec<Vec<Placed>> {
        self.batch.views.iter().map(|view| view.placed.clone()).collect()
    }

    /// The views as network input, `(B, 3, S, S)` each.
    ///
    /// # Errors
    /// Where a copy to the device failed, or `augmenters` were made for other views.
    pub fn views(self, augmenters: &Augmenters) -> Result<Vec<Tensor>> {
        let Self { batch, pixels } = self;
        let pixels = {
            let _copy = within(Phase::Copy);
            pixels.map(|all| all.into_iter().map(Copying::finish).collect::<Result<Vec<_>, _>>())
        };
        let _augment = within(Phase::Augment);
        augmenters.apply(&batch.views, pixels.transpose()?.as_deref())
    }
}

/// The batches of a loader, each fed to a device.
pub struct Feed {
    source: Source,
}

enum Source {
    /// The CPU: the pixels are where they are needed.
    Direct(Loader),
    Synthetic(Synthetic),
    Ahead {
        receiver: Option<Receiver<Result<Option<Fed>>>>,
        thread: Option<JoinHandle<()>>,
        /// Stops the loader, which the thread may be waiting for.
        stop: Arc<AtomicBool>,
    },
}

impl Feed {
    /// Feeds `device`.
    ///
    /// # Errors
    /// Where the device cannot be used.
    pub fn start(loader: Loader, device: Device) -> Result<Self> {
        if device == Device::Cpu {
            return Ok(Self { source: Source::Direct(loader) });
        }
        Ok(Self::ahead(loader, Copier::new(device)?))
    }

    /// Feeds the same batch of random pixels at every of `steps`; on a device, where it lies.
    pub fn synthetic(spec: &LoaderSpec, steps: Range<usize>, device: Device) -> Self {
        let mut batch = random(spec);
        let there = (device != Device::Cpu)
            .then(|| batch.views.iter_mut().map(|view| taken(view).to(device)).collect());
        Self { source: Source::Synthetic(Synthetic { batch, there, steps }) }
    }

    fn ahead(loader: Loader, copier: Copier) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let stop = loader.stopper();
        let thread = std::thread::spawn(move || {
            for batch in loader {
                let fed = batch.map(|batch| upload(batch, &copier)).transpose();
                let over = fed.is_err();
                // nobody receives any more: the epoch was left
                if sender.send(fed).is_err() || over {
                    return;
                }
            }
        });
        Self { source: Source::Ahead { receiver: Some(receiver), thread: Some(thread), stop } }
    }
}

/// One batch, again and again.
struct Synthetic {
    batch: Batch,
    /// Its pixels, where they do not lie in the batch.
    there: Option<Vec<Tensor>>,
    steps: Range<usize>,
}

impl Synthetic {
    fn next(&mut self) -> Option<Fed> {
        let batch = Batch { step: self.steps.next()?, ..self.batch.clone() };
        let copied = |views: &Vec<Tensor>| views.iter().map(|v| Copying::done(v.shallow_clone())).collect();
        Some(Fed { batch, pixels: self.there.as_ref().map(copied) })
    }
}

/// A batch of random pixels, with colour changes as the recipe draws them.
fn random(spec: &LoaderSpec) -> Batch {
    let view = |(v, &ViewSpec { size, .. }): (u32, &ViewSpec)| {
        let mut rng = view_stream(spec.seed, Domain::View, 0, 0, v);
        let mut pixels = vec![0; spec.batch_size * 3 * size * size];
        rng.fill_bytes(&mut pixels);
        let side = size as u32;
        let drawn = &spec.views[v as usize];
        let one = |_| {
            let (geometry, colours) = drawn.draw(side, side, &mut rng);
            (Placed { geometry, picture: (side, side) }, colours)
        };
        let (placed, photometric): (Vec<Placed>, Vec<Photometric>) = (0..spec.batch_size).map(one).unzip();
        View { size, pixels, placed, photometric }
    };
    let views = (0..).zip(&spec.views).map(view).collect();
    Batch { step: 0, views, indices: (0..spec.batch_size).collect() }
}

/// Pixels of a view as `(B, 3, S, S)`, which then has none.
fn taken(view: &mut View) -> Tensor {
    let pixels = view.tensor();
    view.pixels = Vec::new();
    pixels
}

/// Starts the copies of a batch.
fn upload(mut batch: Batch, copier: &Copier) -> Result<Fed> {
    let copy = |view: &mut View| Ok(copier.start(&taken(view))?);
    let pixels = batch.views.iter_mut().map(copy).collect::<Result<Vec<_>>>()?;
    Ok(Fed { batch, pixels: Some(pixels) })
}

impl Iterator for Feed {
    /// `None` inside where no picture of the data set can be read any more.
    type Item = Result<Option<Fed>>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Direct(loader) => {
                let batch = loader.next()?;
                Some(Ok(batch.map(|batch| Fed { batch, pixels: None })))
            }
            Source::Synthetic(synthetic) => synthetic.next().map(|fed| Ok(Some(fed))),
            Source::Ahead { receiver, .. } => receiver.as_ref()?.recv().ok(),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Source::Ahead { receiver, thread, stop } = &mut self.source {
            stop.store(true, Ordering::Relaxed);
            // a thread blocked on a full channel wakes with an error once the receiver is gone
            *receiver = None;
            leave(thread.take().into_iter());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Recipe, ViewGroup};
    use crate::data::{LoaderSpec, Store};
    use crate::share::Share;
    use occlude_dataset::{Dataset, Options};
    use std::sync::Arc;

    /// Two views of 32 px and three smaller ones.
    fn config() -> Config {
        let mut config = Config { image_size: 32, ..Config::new(Recipe::MocoV2) };
        let mut small = ViewGroup { count: 3, size: Some(20), ..config.views[0].clone() };
        small.augment.blur_p = 0.0;
        config.views.push(small);
        config
    }

    fn loader(dir: &tempfile::TempDir) -> Loader {
        let config = config();
        let views = ViewSpec::of(&config);
        let spec =
            LoaderSpec { batch_size: 3, share: Share::ALL, views, keep_last: false, seed: 3, workers: 2 };
        let dataset = Dataset::open(dir.path(), &Options::default()).expect("listed");
        Loader::start(&Arc::new(Store::new(dataset, 0)), &spec, 0, 0)
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for i in 0..15u8 {
            let picture =
                image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, i * 16]));
            picture.save(dir.path().join(format!("{i:02}.png"))).expect("written");
        }
        dir
    }

    /// The thread's way, with copies that are the tensors themselves, gives the batches of the direct way.
    #[test]
    fn both_ways_give_the_same_batches_and_the_thread_may_be_left() {
        let dir = folder();
        let config = config();
        let augmenters = Augmenters::new(&config.preprocess(), &ViewSpec::of(&config), Device::Cpu);
        let all = |feed: Feed| -> Vec<(usize, Vec<usize>, Vec<Tensor>)> {
            let fed = |fed: Result<Option<Fed>>| fed.expect("copied").expect("readable");
            feed.map(fed)
                .map(|f| (f.step(), f.indices().to_vec(), f.views(&augmenters).expect("views")))
                .collect()
        };
        let ahead = || Feed::ahead(loader(&dir), Copier::new(Device::Cpu).expect("no stream is needed"));
        let direct = all(Feed::start(loader(&dir), Device::Cpu).expect("started"));
        let threaded = all(ahead());
        assert!(direct.len() == 5 && threaded.len() == 5);
        for ((step, indices, views), (other_step, other_indices, other_views)) in direct.iter().zip(&threaded)
        {
            assert_eq!((step, indices), (other_step, other_indices));
            assert!(views.len() == 5 && other_views.len() == 5);
            for ((a, b), side) in views.iter().zip(other_views).zip([32, 32, 20, 20, 20]) {
                // colours are changed by one way of computing on the host and another on devices
                let worst = (a - b).abs().max().double_value(&[]);
                assert!(a.size() == [3, 3, side, side] && worst < 2e-3, "{worst}");
            }
        }
        let mut left = ahead();
        assert!(left.next().is_some());
    }
}
