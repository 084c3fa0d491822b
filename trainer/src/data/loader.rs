//! Worker threads that decode and crop batches ahead of the training loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use occlude_views::Cut;
use tch::Tensor;

use super::crop::{Geometry, Photometric, Placed, ViewSpec};
use super::store::Store;
use super::views::{Cutter, Whole};
use crate::rng::{Domain, permutation, stream, view_stream};
use crate::share::Share;

/// One view of every picture of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Side in pixels.
    pub size: usize,
    /// `(B, 3, S, S)`, 0 to 255.
    pub pixels: Vec<u8>,
    /// Where each is on its picture.
    pub placed: Vec<Placed>,
    /// What is still to be done to each.
    pub photometric: Vec<Photometric>,
}

impl View {
    /// The pixels of a picture of the batch.
    fn place(&mut self, i: usize) -> &mut [u8] {
        let length = 3 * self.size * self.size;
        &mut self.pixels[i * length..(i + 1) * length]
    }

    /// The pixels as `(B, 3, S, S)`.
    pub fn tensor(&self) -> Tensor {
        let side = self.size as i64;
        Tensor::from_slice(&self.pixels).view([-1, 3, side, side])
    }
}

/// The views of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of the step in its epoch.
    pub step: usize,
    /// One for each of [`LoaderSpec::views`].
    pub views: Vec<View>,
    /// Of every picture, its index in the store: of the one that was read, where a broken one was replaced.
    pub indices: Vec<usize>,
}

/// What a loader produces.
#[derive(Clone, Debug)]
pub struct LoaderSpec {
    /// Pictures a batch, over all ranks.
    pub batch_size: usize,
    /// Which of them are read here.
    pub share: Share,
    /// The views of each picture, all cut from one decoding of it.
    pub views: Vec<ViewSpec>,
    /// Whether an incomplete last batch is kept; where not, its pictures wait for the next epoch.
    pub keep_last: bool,
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

/// How often a wait for a batch looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);
/// How long a batch is still waited for after a signal: one that is under way arrives within it, and one whose file never
/// gives an answer (a pipe, a file system that hangs) does not hold up the end.
const GRACE: Duration = Duration::from_secs(3);
/// How long threads are waited for that are told to stop; after it they are left behind, asleep in a system call.
const LEAVE: Duration = Duration::from_secs(2);

/// One epoch of batches, in order, decoded ahead by worker threads. It ends early where a signal arrives while no batch does,
/// or where a worker panicked.
pub struct Loader {
    receiver: Option<Receiver<(usize, Option<Batch>)>>,
    waiting: BTreeMap<usize, Option<Batch>>,
    next: usize,
    steps: usize,
    stop: Arc<AtomicBool>,
    signal: Option<Arc<AtomicUsize>>,
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
        Self {
            receiver: Some(receiver),
            waiting: BTreeMap::new(),
            next: first,
            steps,
            stop,
            signal: None,
            threads,
        }
    }

    /// Ends the wait for a batch, some seconds later, when `signal` is not 0 any more.
    #[must_use]
    pub fn heeding(mut self, signal: Option<Arc<AtomicUsize>>) -> Self {
        self.signal = signal;
        self
    }

    /// What makes the loader and its threads stop when it becomes true.
    pub(super) fn stopper(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The next batch of any worker; `None` where there will be none, or it is not wanted any more.
    fn receive(&self) -> Option<(usize, Option<Batch>)> {
        let receiver = self.receiver.as_ref()?;
        let mut told: Option<Instant> = None;
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(found) => return Some(found),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if self.signal.as_ref().is_some_and(|s| s.load(Ordering::SeqCst) != 0)
                && told.get_or_insert_with(Instant::now).elapsed() >= GRACE
            {
                return None;
            }
        }
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
            let (step, batch) = self.receive()?;
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
        leave(self.threads.drain(..));
    }
}

/// Waits for threads that were told to stop, but not for ever.
pub(super) fn leave(threads: impl Iterator<Item = JoinHandle<()>>) {
    let began = Instant::now();
    for thread in threads {
        while !thread.is_finished() && began.elapsed() < LEAVE {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
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
        let mut cutter = Cutter::new(&self.store, &self.spec.views);
        while !stop.load(Ordering::Relaxed) {
            let step = counter.fetch_add(1, Ordering::Relaxed);
            if step >= self.steps || sender.send((step, self.batch(step, stop, &mut cutter))).is_err() {
                return;
            }
        }
    }

    fn batch(&self, step: usize, stop: &AtomicBool, cutter: &mut Cutter<'_>) -> Option<Batch> {
        let first = step * self.spec.batch_size;
        let own = self.spec.share.range(self.spec.batch_size.min(self.order.len() - first));
        let (first, n) = (first + own.start, own.len());
        let empty = |spec: &ViewSpec| View {
            size: spec.size,
            pixels: vec![0; n * 3 * spec.size * spec.size],
            placed: Vec::with_capacity(n),
            photometric: Vec::with_capacity(n),
        };
        let mut views: Vec<View> = self.spec.views.iter().map(empty).collect();
        let mut indices = Vec::with_capacity(n);
        for i in 0..n {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let index = self.order[first + i] as usize;
            let mut outs: Vec<&mut [u8]> = views.iter_mut().map(|view| view.place(i)).collect();
            let mut drawn = Vec::new();
            let draw = |whole: &Whole, cuts: &mut Vec<Cut>| {
                drawn.clear();
                for (v, spec) in (0..).zip(&self.spec.views) {
                    let (geometry, colours) = self.draw(index, (v, spec), whole);
                    cuts.push(Cut { crop: geometry.crop, flip: geometry.flip });
                    drawn.push((Placed { geometry, picture: (whole.width, whole.height) }, colours));
                }
            };
            indices.push(cutter.views(index, draw, &mut outs)?);
            for (view, (placed, colours)) in views.iter_mut().zip(drawn) {
                view.placed.push(placed);
                view.photometric.push(colours);
            }
        }
        Some(Batch { step, views, indices })
    }

    /// View `v` of the sample at `index`.
    fn draw(&self, index: usize, (v, spec): (u32, &ViewSpec), whole: &Whole) -> (Geometry, Photometric) {
        // the sample and the view name the stream, so no draw depends on the batch
        let rng = |domain| view_stream(self.spec.seed, domain, self.epoch, index as u64, v);
        let &Whole { width, height, foreground } = whole;
        let (Geometry { mut crop, flip }, photometric) = spec.draw(width, height, &mut rng(Domain::View));
        if let Some(foreground) = foreground.filter(|_| spec.holds_foreground()) {
            // further crops have a stream of their own: the rest of a view stays what it is without them
            crop = spec.constrain(crop, (width, height), &foreground, &mut rng(Domain::Crop));
        }
        (Geometry { crop, flip }, photometric)
    }
}

#[cfg(test)]
mod constrained;
#[cfg(test)]
mod parts;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Recipe};
    use occlude_dataset::{Dataset, Options};

    pub(super) fn folder(broken: usize, good: usize) -> tempfile::TempDir {
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

    fn store(dir: &tempfile::TempDir, cache_bytes: u64) -> Arc<Store> {
        let dataset = Dataset::open(dir.path(), &Options::default()).expect("listed");
        Arc::new(Store::new(dataset, cache_bytes))
    }

    pub(super) fn spec(workers: usize) -> LoaderSpec {
        let view = ViewSpec { size: 32, augment: Config::new(Recipe::MocoV2).views.remove(0).augment };
        LoaderSpec {
            batch_size: 4,
            share: Share::ALL,
            views: vec![view; 2],
            keep_last: false,
            seed: 3,
            workers,
        }
    }

    pub(super) fn load(dir: &tempfile::TempDir, spec: &LoaderSpec, first: usize) -> Vec<Option<Batch>> {
        Loader::start(&store(dir, 1 << 20), spec, 5, first).collect()
    }

    pub(super) fn batches(dir: &tempfile::TempDir, workers: usize, first: usize) -> Vec<Option<Batch>> {
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
        let store = store(&dir, 0);
        let all: Vec<_> = Loader::start(&store, &spec(1), 0, 0).collect();
        assert!(all.len() == 2 && all.iter().all(Option::is_some));
        let mut views = all.iter().flatten().flat_map(|b| &b.views);
        assert!(views.all(|v| v.placed.len() == 4 && v.placed.iter().all(|p| p.picture == (40, 30))));
        assert_eq!(store.broken(), 1);
        assert!(batches(&folder(8, 0), 2, 0).iter().all(Option::is_none));
    }

    /// A loader whose only worker never answers.
    fn stuck() -> (Loader, impl Sized) {
        let (sender, receiver) = sync_channel(1);
        let (asleep, never) = sync_channel::<()>(0);
        let thread = thread::spawn(move || {
            let _sender = sender;
            let _ = never.recv();
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (receiver, waiting) = (Some(receiver), BTreeMap::new());
        (Loader { receiver, waiting, next: 0, steps: 3, stop, signal: None, threads: vec![thread] }, asleep)
    }

    #[test]
    fn a_signal_or_a_stop_ends_the_wait_for_a_worker_that_never_answers() {
        let began = Instant::now();
        let (loader, _asleep) = stuck();
        let signal = Arc::new(AtomicUsize::new(0));
        let mut loader = loader.heeding(Some(Arc::clone(&signal)));
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            signal.store(15, Ordering::SeqCst);
        });
        assert!(loader.next().is_none());
        drop(loader);
        late.join().expect("no panic");
        let (mut loader, _asleep) = stuck();
        loader.stopper().store(true, Ordering::SeqCst);
        assert!(loader.next().is_none());
        drop(loader);
        let bound = GRACE + 2 * LEAVE + Duration::from_secs(2);
        assert!(began.elapsed() < bound, "{:?}", began.elapsed());
    }

    /// The blue of a picture says which file it is: 16 times its number.
    #[test]
    fn indices_are_of_the_pictures_that_were_read() {
        let dir = folder(2, 9);
        let single = LoaderSpec { views: spec(2).views[..1].to_vec(), keep_last: true, ..spec(2) };
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

    /// JPEG photos, one of them with something broken near its end: the same batches without a cache, with one that
    /// holds some of the pictures, and with one that holds all; of two views and a smaller one.
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
        let run = |cache: u64, crop_foreground: f64| -> Vec<_> {
            let (store, mut spec) = (store(&dir, cache), spec(2));
            spec.views.push(ViewSpec { size: 20, ..spec.views[1].clone() });
            spec.views.iter_mut().for_each(|view| view.augment.crop_foreground = crop_foreground);
            (0..3).flat_map(|epoch| Loader::start(&store, &spec, epoch, 0).collect::<Vec<_>>()).collect()
        };
        let plain = run(0, 0.0);
        assert!(plain.len() == 6 && plain.iter().all(Option::is_some));
        assert!(plain == run(70_000, 0.0) && plain == run(1 << 20, 0.0));
        let constrained = run(0, 0.9);
        assert!(constrained == run(70_000, 0.9) && constrained == run(1 << 20, 0.9));
        assert!(constrained != plain, "some crops hold less than nine tenths");
        let colours = |batches: &[Option<Batch>]| -> Vec<_> {
            let views = batches.iter().flatten().flat_map(|b| &b.views);
            views.flat_map(|view| view.photometric.clone()).collect()
        };
        assert!(colours(&plain) == colours(&constrained), "the rest of a view is drawn as without");
    }

    /// A list and shards hold the pictures of the folder that they were made of, in its order: a run does not depend
    /// on which of them it is given.
    #[test]
    fn folders_lists_and_shards_give_the_same_batches() {
        use occlude_dataset::prepare;
        let dir = folder(1, 9);
        let open = |path: &std::path::Path| Dataset::open(path, &Options::default()).expect("opened");
        let other = tempfile::tempdir().expect("a folder");
        let (list, shards) = (other.path().join("list.txt"), other.path().join("shards"));
        let data = open(dir.path());
        prepare::write_list(&data, &(0..data.len()).collect::<Vec<_>>(), &list).expect("written");
        prepare::pack(&data, &shards, &prepare::PackOptions { size: 4096, shuffle: None }, &())
            .expect("packed");
        let all = |path: &std::path::Path| -> Vec<Option<Batch>> {
            let store = Arc::new(Store::new(open(path), 0));
            let batches = Loader::start(&store, &spec(2), 1, 0).collect();
            assert_eq!(store.broken(), 1);
            batches
        };
        let expected = all(dir.path());
        assert!(expected.len() == 2 && expected.iter().all(Option::is_some));
        assert!(all(&list) == expected && all(&shards) == expected);
    }
}
