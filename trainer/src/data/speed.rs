//! How fast one processor makes views: what `cargo xtask bench loader` runs on our side.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use occlude_preprocess::files;
use tch::Device;

use super::{Loader, LoaderSpec, Store, ViewSpec};
use crate::augment::Augmenter;
use crate::config::{Config, Recipe};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Side of the views in pixels.
    pub size: usize,
    /// Pictures a batch.
    pub batch_size: usize,
    /// Whether the colours are changed and normalised, too, on the CPU.
    pub colours: bool,
    /// How long to measure, at least.
    pub time: Duration,
}

impl Speed {
    /// Samples (a picture with both of its views, as `moco-v2` draws them) a second of one processor, by one
    /// loader thread without a cache over the pictures in `folder`, epoch after epoch.
    ///
    /// # Errors
    /// A folder without pictures, or with fewer than a batch; none that can be read.
    pub fn measure(&self, folder: &Path) -> Result<f64> {
        one_processor();
        tch::set_num_threads(1);
        let listing = files::list(folder)?;
        let n = listing.samples.len();
        ensure!(n >= self.batch_size, "`{}` has {n} pictures, fewer than a batch", folder.display());
        let store = Arc::new(Store::new(listing, 0));
        let config = Config { image_size: self.size, ..Config::new(Recipe::MocoV2) };
        let colours =
            Augmenter::new(&config.preprocess(), self.size, config.augment.blur_sigma[1], Device::Cpu);
        let view = ViewSpec { size: self.size, augment: config.augment };
        let spec = LoaderSpec { batch_size: self.batch_size, view, seed: 0, workers: 1 };
        // the first epoch reads the files into the system's cache
        let (mut samples, mut began) = (0, Instant::now());
        for epoch in 0.. {
            for batch in Loader::start(&store, &spec, epoch, 0) {
                let batch = batch.context("no picture can be read")?;
                if self.colours {
                    let views = tch::no_grad(|| batch.views.each_ref().map(|v| colours.apply(v, batch.size)));
                    drop(views);
                }
                samples += self.batch_size;
            }
            if epoch == 0 {
                (samples, began) = (0, Instant::now());
            } else if began.elapsed() >= self.time {
                break;
            }
        }
        Ok(samples as f64 / began.elapsed().as_secs_f64())
    }
}

/// Keeps this process and the threads it will start on one processor, where the system allows it.
fn one_processor() {
    #[cfg(target_os = "linux")]
    // SAFETY: the sets are plain bit masks of the size that is passed along.
    unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &raw mut allowed) != 0 {
            return;
        }
        let last = (0..libc::CPU_SETSIZE as usize).rev().find(|&cpu| libc::CPU_ISSET(cpu, &allowed));
        if let Some(cpu) = last {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut one);
            libc::sched_setaffinity(0, size, &raw const one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_measured_and_an_empty_one_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let speed = |colours| Speed { size: 16, batch_size: 2, colours, time: Duration::ZERO };
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
