//! Worker threads that decode and crop batches ahead of the training loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use occlude_preprocess::{Interpolation, Rgb, resize_crop};

use super::crop::{Photometric, ViewSpec};
use super::store::Store;
use crate::rng::{Domain, permutation, stream};

/// One view of every picture of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// `(B, 3, S, S)`, 0 to 255.
    pub pixels: Vec<u8>,
    /// What is still to be done to each.
    pub photometric: Vec<Photometric>,
}

/// The views of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of the step in its epoch.
    pub step: usize,
    /// [`LoaderSpec::views`] of them; for pretraining the query and the key view.
    pub views: Vec<View>,
    /// Of every picture, its index in the store: of the one that was read, where a broken one was replaced.
    pub indices: Vec<usize>,
    /// Side of the views in pixels.
    pub size: usize,
}

/// What a loader produces.
#[derive(Clone, Debug)]
pub struct LoaderSpec {
    /// Pictures a batch.
    pub batch_size: usize,
    /// Views of each picture.
    pub views: usize,
    /// Whether an incomplete last batch is kept; where not, its pictures wait for the next epoch.
    pub keep_last: bool,
    /// The views.
    pub view: ViewSpec,
    /// Seed of the run.
    pub seed: u64,
    /// Threads that decode.
    pub workers: usize,
}

impl LoaderSpec {
    /// Batches an epoch over `pictures` pictures.
    pub fn steps(&self, pictures: usize) -> usize {
        if self.keep_last { pictures.div_ceil(self.batch_size) } else { pictures / self.batch_size }
    }
}

/// One epoch of batches, in order, decoded ahead by worker threads.
pub struct Loader {
    receiver: Option<Receiver<(usize, Option<Batch>)>>,
    waiting: BTreeMap<usize, Option<Batch>>,
    next: usize,
    steps: usize,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts the threads of `epoch` at step `first`.
    pub fn start(store: &Arc<Store>, spec: &LoaderSpec, epoch: u64, first: usize) -> Self {
        let steps = spec.steps(store.len());
        let order = Arc::new(permutation(store.len(), &mut stream(spec.seed, Domain::Order, epoch, 0)));
        let workers = spec.workers.max(1);
        // every worker may have one batch finished and one in the making
        let (sender, receiver) = sync_channel(workers);
        let counter = Arc::new(AtomicUsize::new(first));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..workers)
            .map(|_| {
                let job = Job {
                    store: Arc::clone(store),
                    spec: spec.clone(),
                    order: Arc::clone(&order),
                    epoch,
                    steps,
                };
                let (counter, stop, sender) = (Arc::clone(&counter), Arc::clone(&stop), sender.clone());
                thread::spawn(move || job.run(&counter, &stop, &sender))
            })
            .collect();
        Self { receiver: Some(receiver), waiting: BTreeMap::new(), next: first, steps, stop, threads }
    }
}

impl Iterator for Loader {
    /// `None` inside where no picture of the data set can be read any more.
    type Item = Option<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.steps {
            return None;
        }
        // workers finish out of order
        while !self.waiting.contains_key(&self.next) {
            let (step, batch) = self.receiver.as_ref()?.recv().ok()?;
            self.waiting.insert(step, batch);
        }
        let batch = self.waiting.remove(&self.next);
        self.next += 1;
        batch
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // a worker blocked on a full channel wakes with an error once the receiver is gone
        self.receiver = None;
        for thread in self.threads.drain(..) {
            // a worker that panicked has nothing more to tell
            let _ = thread.join();
        }
    }
}

struct Job {
    store: Arc<Store>,
    spec: LoaderSpec,
    order: Arc<Vec<i64>>,
    epoch: u64,
    steps: usize,
}

impl Job {
    fn run(&self, counter: &AtomicUsize, stop: &AtomicBool, sender: &SyncSender<(usize, Option<Batch>)>) {
        while !stop.load(Ordering::Relaxed) {
            let step = counter.fetch_add(1, Ordering::Relaxed);
            if step >= self.steps || sender.send((step, self.batch(step, stop))).is_err() {
                return;
            }
        }
    }

    fn batch(&self, step: usize, stop: &AtomicBool) -> Option<Batch> {
        let (first, size) = (step * self.spec.batch_size, self.spec.view.size);
        let n = self.spec.batch_size.min(self.order.len() - first);
        let plane = 3 * size * size;
        let empty = || View { pixels: vec![0; n * plane], photometric: Vec::with_capacity(n) };
        let mut views: Vec<View> = (0..self.spec.views).map(|_| empty()).collect();
        let mut indices = Vec::with_capacity(n);
        for i in 0..n {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let index = self.order[first + i] as usize;
            let (used, image) = self.store.get_or_next(index)?;
            indices.push(used);
            for (v, view) in views.iter_mut().enumerate() {
                // the sample and the view name the stream, so no draw depends on the batch
                let coordinate = (index as u64) << 1 | v as u64;
                let mut rng = stream(self.spec.seed, Domain::View, self.epoch, coordinate);
                let (geometry, photometric) = self.spec.view.draw(image.width, image.height, &mut rng);
                let side = size as u32;
                let cut = resize_crop(&image, geometry.crop, side, side, Interpolation::Bilinear);
                planar(&cut, geometry.flip, &mut view.pixels[i * plane..(i + 1) * plane]);
                view.photometric.push(photometric);
            }
        }
        Some(Batch { step, views, indices, size })
    }
}

/// Interleaved to planar, mirrored on request: colour changes read whole planes.
fn planar(image: &Rgb, flip: bool, out: &mut [u8]) {
    let (w, h) = (image.width as usize, image.height as usize);
    let (r, rest) = out.split_at_mut(w * h);
    let (g, b) = rest.split_at_mut(w * h);
    for (y, row) in image.data.chunks_exact(3 * w).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let at = y * w + if flip { w - 1 - x } else { x };
            (r[at], g[at], b[at]) = (pixel[0], pixel[1], pixel[2]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Recipe};
    use occlude_preprocess::files;

    fn folder(broken: usize, good: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for i in 0..good {
            let picture =
                image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, i as u8 * 16]));
            picture.save(dir.path().join(format!("{i:02}.png"))).expect("written");
        }
        for i in 0..broken {
            std::fs::write(dir.path().join(format!("x{i}.jpg")), b"not a jpeg").expect("written");
        }
        dir
    }

    fn spec(workers: usize) -> LoaderSpec {
        let view = ViewSpec { size: 32, augment: Config::new(Recipe::MocoV2).augment };
        LoaderSpec { batch_size: 4, views: 2, keep_last: false, view, seed: 3, workers }
    }

    fn load(dir: &tempfile::TempDir, spec: &LoaderSpec, first: usize) -> Vec<Option<Batch>> {
        let store = Arc::new(Store::new(files::list(dir.path()).expect("listed"), 1 << 20));
        Loader::start(&store, spec, 5, first).collect()
    }

    fn batches(dir: &tempfile::TempDir, workers: usize, first: usize) -> Vec<Option<Batch>> {
        load(dir, &spec(workers), first)
    }

    #[test]
    fn batches_do_not_depend_on_threads_or_on_where_one_starts() {
        let dir = folder(2, 10);
        let one = batches(&dir, 1, 0);
        assert_eq!(one.len(), 3);
        assert_eq!(one, batches(&dir, 3, 0));
        assert_eq!(one[1..], batches(&dir, 2, 1));
        let pixels: Vec<_> = one.iter().flatten().map(|b| &b.views[0].pixels).collect();
        assert!(pixels.windows(2).all(|p| p[0] != p[1]));
    }

    #[test]
    fn broken_files_are_replaced_and_counted_and_only_broken_files_end_it() {
        let dir = folder(1, 7);
        let store = Arc::new(Store::new(files::list(dir.path()).expect("listed"), 0));
        assert!((0..8).all(|i| store.get_or_next(i).is_some()));
        assert_eq!(store.broken(), 1);
        assert!(batches(&folder(8, 0), 2, 0).iter().all(Option::is_none));
    }

    /// The blue of a picture says which file it is: 16 times its number.
    #[test]
    fn indices_are_of_the_pictures_that_were_read() {
        let dir = folder(2, 9);
        let single = LoaderSpec { views: 1, keep_last: true, ..spec(2) };
        let all: Vec<Batch> = load(&dir, &single, 0).into_iter().flatten().collect();
        assert_eq!(all.iter().map(|b| b.indices.len()).collect::<Vec<_>>(), [4, 4, 3]);
        assert_eq!(load(&dir, &LoaderSpec { keep_last: false, ..single }, 0).len(), 2);
        let mut seen: Vec<usize> = all.iter().flat_map(|b| b.indices.clone()).collect();
        for batch in &all {
            assert_eq!(batch.views.len(), 1);
            for (&index, pixels) in batch.indices.iter().zip(batch.views[0].pixels.chunks(3 * 32 * 32)) {
                assert!(pixels[2 * 32 * 32..].iter().all(|&blue| usize::from(blue) == 16 * index), "{index}");
            }
        }
        seen.sort_unstable();
        // the two broken files lie behind the others and are replaced by the first
        assert_eq!(seen, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn planes_and_mirror() {
        let image = Rgb { width: 2, height: 1, data: vec![1, 2, 3, 4, 5, 6] };
        let mut out = [0; 6];
        planar(&image, false, &mut out);
        assert_eq!(out, [1, 4, 2, 5, 3, 6]);
        planar(&image, true, &mut out);
        assert_eq!(out, [4, 1, 5, 2, 6, 3]);
    }
}
