//! Worker threads that decode and crop batches ahead of the training loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use occlude_preprocess::Cut;

use super::crop::{Photometric, ViewSpec};
use super::store::Store;
use super::views::Cutter;
use crate::rng::{Domain, permutation, stream};

/// One view of every picture of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// `(B, 3, S, S)`, 0 to 255.
    pub pixels: Vec<u8>,
    /// What is still to be done to each.
    pub photometric: Vec<Photometric>,
}

/// The two views of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of the step in its epoch.
    pub step: usize,
    /// Query and key view.
    pub views: [View; 2],
    /// Side of the views in pixels.
    pub size: usize,
}

/// What a loader produces.
#[derive(Clone, Debug)]
pub struct LoaderSpec {
    /// Pictures a batch.
    pub batch_size: usize,
    /// The views.
    pub view: ViewSpec,
    /// Seed of the run.
    pub seed: u64,
    /// Threads that decode.
    pub workers: usize,
}

/// One epoch of batches, in order, decoded ahead by worker threads; the incomplete last one is dropped.
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
        let steps = store.len() / spec.batch_size;
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
        let mut cutter = Cutter::new(&self.store, &self.spec.view);
        while !stop.load(Ordering::Relaxed) {
            let step = counter.fetch_add(1, Ordering::Relaxed);
            if step >= self.steps || sender.send((step, self.batch(step, stop, &mut cutter))).is_err() {
                return;
            }
        }
    }

    fn batch(&self, step: usize, stop: &AtomicBool, cutter: &mut Cutter<'_>) -> Option<Batch> {
        let (n, size) = (self.spec.batch_size, self.spec.view.size);
        let plane = 3 * size * size;
        let empty = || View { pixels: vec![0; n * plane], photometric: Vec::with_capacity(n) };
        let mut views = [empty(), empty()];
        for i in 0..n {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let index = self.order[step * n + i] as usize;
            let mut outs = views.each_mut().map(|view| &mut view.pixels[i * plane..(i + 1) * plane]);
            let mut photometric = Vec::new();
            let draw = |width, height| {
                photometric.clear();
                let both = [0, 1].map(|v| self.draw(index, v, width, height));
                both.map(|(cut, colours)| {
                    photometric.push(colours);
                    cut
                })
            };
            cutter.views(index, draw, &mut outs)?;
            for (view, colours) in views.iter_mut().zip(photometric) {
                view.photometric.push(colours);
            }
        }
        Some(Batch { step, views, size })
    }

    /// View `v` of the sample at `index`, a picture of the given size.
    fn draw(&self, index: usize, v: usize, width: u32, height: u32) -> (Cut, Photometric) {
        // the sample and the view name the stream, so no draw depends on the batch
        let coordinate = (index as u64) << 1 | v as u64;
        let mut rng = stream(self.spec.seed, Domain::View, self.epoch, coordinate);
        let (geometry, photometric) = self.spec.view.draw(width, height, &mut rng);
        (Cut { crop: geometry.crop, flip: geometry.flip }, photometric)
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
        LoaderSpec { batch_size: 4, view, seed: 3, workers }
    }

    fn batches(dir: &tempfile::TempDir, workers: usize, first: usize) -> Vec<Option<Batch>> {
        let store = Arc::new(Store::new(files::list(dir.path()).expect("listed"), 1 << 20));
        Loader::start(&store, &spec(workers), 5, first).collect()
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
        let all: Vec<_> = Loader::start(&store, &spec(1), 0, 0).collect();
        assert!(all.len() == 2 && all.iter().all(Option::is_some));
        assert_eq!(store.broken(), 1);
        assert!(batches(&folder(8, 0), 2, 0).iter().all(Option::is_none));
    }

    /// JPEG photos, one of them with something broken near its end: the same batches without a cache, with one that
    /// holds some of the pictures, and with one that holds all.
    #[test]
    fn a_cache_changes_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        for i in 0..8u8 {
            let picture = image::RgbImage::from_fn(90, 120, |x, y| {
                image::Rgb([x as u8 * 2, (y as u8 * 2) ^ i, (x * y / 7) as u8])
            });
            picture.save(dir.path().join(format!("{i}.jpg"))).expect("written");
        }
        let path = dir.path().join("3.jpg");
        let mut bytes = std::fs::read(&path).expect("read");
        let near_end = bytes.len() - 30;
        bytes[near_end..near_end + 20].fill(0x7f);
        std::fs::write(&path, bytes).expect("written");
        let run = |cache: u64| -> Vec<_> {
            let store = Arc::new(Store::new(files::list(dir.path()).expect("listed"), cache));
            (0..3).flat_map(|epoch| Loader::start(&store, &spec(2), epoch, 0).collect::<Vec<_>>()).collect()
        };
        let plain = run(0);
        assert!(plain.len() == 6 && plain.iter().all(Option::is_some));
        assert!(plain == run(70_000) && plain == run(1 << 20));
    }
}
