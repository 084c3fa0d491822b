//! How much processor time views take: what `cargo xtask bench loader` runs on our side.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use occlude_dataset::Dataset;
use tch::Device;

use super::{Loader, LoaderSpec, Store, ViewSpec};
use crate::augment::Augmenters;
use crate::config::{Config, Recipe};
use crate::share::Share;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Side of the views in pixels.
    pub size: usize,
    /// Pictures a batch.
    pub batch_size: usize,
    /// Whether the colours are changed and normalised, too, on the CPU.
    pub colours: bool,
    /// Share of the foreground that crops have to hold.
    pub crop_foreground: f64,
    /// How long to measure, at least, in processor time.
    pub time: Duration,
}

impl Speed {
    /// Samples (a picture with both of its views, as `moco-v2` draws them) a second of processor time, by one
    /// loader thread without a cache over the pictures in `folder`, epoch after epoch.
    ///
    /// # Errors
    /// A folder without pictures, or with fewer than a batch; none that can be read.
    pub fn measure(&self, folder: &Path) -> Result<f64> {
        let dataset = Dataset::open(folder, &super::options())?;
        let n = dataset.len();
        ensure!(n >= self.batch_size, "`{}` has {n} pictures, fewer than a batch", folder.display());
        let store = Arc::new(Store::new(dataset, 0));
        let config = Config { image_size: self.size, ..Config::new(Recipe::MocoV2) };
        let mut views = ViewSpec::of(&config);
        views.iter_mut().for_each(|view| view.augment.crop_foreground = self.crop_foreground);
        let colours = Augmenters::new(&config.preprocess(), &views, Device::Cpu);
        let spec = LoaderSpec {
            batch_size: self.batch_size,
            share: Share::ALL,
            views,
            keep_last: false,
            seed: 0,
            workers: 1,
        };
        // the first epoch reads the files into the system's cache
        let (mut samples, mut began) = (0, processor_time());
        for epoch in 0.. {
            for batch in Loader::start(&store, &spec, epoch, 0) {
                let batch = batch.context("no picture can be read")?;
                if self.colours {
                    drop(tch::no_grad(|| colours.apply(&batch.views, None)));
                }
                samples += self.batch_size;
            }
            if epoch == 0 {
                (samples, began) = (0, processor_time());
            } else if processor_time() - began >= self.time {
                break;
            }
        }
        Ok(samples as f64 / (processor_time() - began).as_secs_f64())
    }
}

/// Processor time of this process, all of its threads together.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills the structure that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_measured_and_an_empty_one_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let speed =
            |colours| Speed { size: 16, batch_size: 2, colours, crop_foreground: 0.0, time: Duration::ZERO };
        assert!(speed(false).measure(dir.path()).is_err());
        for i in 0..3u8 {
            let picture = image::RgbImage::from_pixel(20, 30, image::Rgb([i, 2, 3]));
            picture.save(dir.path().join(format!("{i}.png"))).expect("written");
        }
        for colours in [false, true] {
            assert!(speed(colours).measure(dir.path()).expect("measured") > 0.0);
        }
    }
}
