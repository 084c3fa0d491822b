//! The bounded queue and the workers that encode from it in batches.
//!
//! Workers are plain threads, each with an encoder of its own (ONNX Runtime sessions run on one thread at a time).
//! A worker takes a batch as soon as it is full, its oldest picture has waited `max_delay`, or nobody is preparing a
//! picture that could still join: a lone client never waits for company that cannot come.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::inference::encode::{Crop, Encode, EncodeError, Encoded, Wants};
use crate::observe::metrics::{ModelMetrics, Stage};

/// The queue has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub(crate) struct QueueFull;

/// What a submitted picture's owner waits on.
pub(crate) type Reply = oneshot::Receiver<Result<Encoded, EncodeError>>;

struct Job {
    image: Crop,
    wants: Wants,
    reply: oneshot::Sender<Result<Encoded, EncodeError>>,
    since: Instant,
    /// After which it is not encoded any more.
    due: Option<Instant>,
}

impl Job {
    fn is_late(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due < now)
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Pictures announced and not yet submitted.
    preparing: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
    max_batch: usize,
    max_delay: Duration,
    max_wait: Option<Duration>,
    metrics: ModelMetrics,
}

/// The queue, and its workers until it is dropped.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// How a [`Batcher`] batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batching {
    /// Pictures that may wait.
    pub(crate) capacity: usize,
    /// Pictures of one batch.
    pub(crate) max_batch: usize,
    /// Longest wait for a batch to fill.
    pub(crate) max_delay: Duration,
    /// Longest time from the announcement of a request's picture until it is encoded.
    pub(crate) max_wait: Option<Duration>,
}

impl Batcher {
    /// Starts one worker for each encoder.
    pub(crate) fn start(encoders: Vec<Box<dyn Encode>>, how: Batching, metrics: ModelMetrics) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity: how.capacity,
            max_batch: how.max_batch.max(1),
            max_delay: how.max_delay,
            max_wait: how.max_wait,
            metrics,
        });
        let spawn = |encoder| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || work(&shared, encoder))
        };
        Self { workers: encoders.into_iter().map(spawn).collect(), shared }
    }

    /// Says that a picture will be submitted soon, so that a batch may wait for it.
    pub(crate) fn announce(&self) -> Announced {
        self.shared.state.lock().preparing += 1;
        Announced { shared: Arc::clone(&self.shared), open: true, due: None }
    }

    /// The same for a picture of a request, whose client does not wait for ever.
    pub(crate) fn announce_request(&self) -> Announced {
        let due = self.shared.max_wait.and_then(|wait| Instant::now().checked_add(wait));
        let mut announced = self.announce();
        announced.due = due;
        announced
    }

    /// Pictures that wait.
    pub(crate) fn depth(&self) -> usize {
        self.shared.state.lock().queue.len()
    }
}

impl Drop for Batcher {
    /// Encodes what is queued, then ends the workers. Who drops it waits for that, but not on a thread of the async
    /// runtime: the last request of a model that was replaced must not hold up the others.
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_all();
        if tokio::runtime::Handle::try_current().is_ok() {
            // They end by themselves.
            return;
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its encoder; there is nothing else to report.
            let _ = worker.join();
        }
    }
}

/// A picture on its way; dropping it takes the announcement back.
pub(crate) struct Announced {
    shared: Arc<Shared>,
    open: bool,
    due: Option<Instant>,
}

impl Announced {
    /// When it is too late to decode or encode it, if ever.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Queues the picture. Dropping the reply withdraws it: a picture that nobody waits for is not encoded.
    pub(crate) fn submit(self, image: impl Into<Crop>) -> Result<Reply, QueueFull> {
        self.submit_wanting(image, Wants::default())
    }

    /// [`Self::submit`] for those who want more than embedding and saliency.
    pub(crate) fn submit_wanting(self, image: impl Into<Crop>, wants: Wants) -> Result<Reply, QueueFull> {
        self.submit_together(vec![image.into()], wants)?.pop().ok_or(QueueFull)
    }

    /// Queues what belongs to one picture one behind the other, so that it is encoded in one batch if that has room;
    /// all of it or nothing.
    pub(crate) fn submit_together(
        mut self,
        images: Vec<Crop>,
        wants: Wants,
    ) -> Result<Vec<Reply>, QueueFull> {
        let mut state = self.shared.state.lock();
        state.preparing -= 1;
        self.open = false;
        // Those who left, or have waited too long, make room before anybody is turned away.
        if state.queue.len() + images.len() > self.shared.capacity {
            state.queue.retain(|job| !job.reply.is_closed());
            refuse_late(&mut state.queue);
        }
        let full = state.queue.len() + images.len() > self.shared.capacity;
        let mut replies = Vec::with_capacity(images.len());
        for image in images.into_iter().filter(|_| !full) {
            let (reply, receiver) = oneshot::channel();
            state.queue.push_back(Job { image, wants, reply, since: Instant::now(), due: self.due });
            replies.push(receiver);
        }
        drop(state);
        self.shared.changed.notify_one();
        if full { Err(QueueFull) } else { Ok(replies) }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if self.open {
            self.shared.state.lock().preparing -= 1;
            self.shared.changed.notify_one();
        }
    }
}

fn work(shared: &Shared, mut encoder: Box<dyn Encode>) {
    while let Some(batch) = next_batch(shared) {
        encode(shared, encoder.as_mut(), batch);
    }
}

/// Blocks until a batch is due; `None` when the queue is closed and empty.
fn next_batch(shared: &Shared) -> Option<Vec<Job>> {
    let mut state = shared.state.lock();
    loop {
        state.queue.retain(|job| !job.reply.is_closed());
        refuse_late(&mut state.queue);
        let Some(oldest) = state.queue.front() else {
            if state.closed {
                return None;
            }
            shared.changed.wait(&mut state);
            continue;
        };
        let left = shared.max_delay.saturating_sub(oldest.since.elapsed());
        let full = state.queue.len() >= shared.max_batch;
        if full || left.is_zero() || state.preparing == 0 || state.closed {
            let count = state.queue.len().min(shared.max_batch);
            return Some(state.queue.drain(..count).collect());
        }
        shared.changed.wait_for(&mut state, left);
    }
}

/// Answers those that have waited too long.
fn refuse_late(queue: &mut VecDeque<Job>) {
    let now = Instant::now();
    if queue.iter().any(|job| job.is_late(now)) {
        let (late, rest) = queue.drain(..).partition(|job| job.is_late(now));
        *queue = rest;
        answer(VecDeque::into_iter(late).map(|job| job.reply).collect(), Err(EncodeError::Late));
    }
}

fn encode(shared: &Shared, encoder: &mut dyn Encode, batch: Vec<Job>) {
    let started = Instant::now();
    let (mut images, mut replies) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    // One picture that wants more makes the whole batch compute it.
    let wants = batch.iter().fold(Wants::default(), |all, job| all.or(job.wants));
    for job in batch {
        shared.metrics.observe(Stage::Queue, started - job.since);
        images.push(job.image);
        replies.push(job.reply);
    }
    let result = catch_unwind(AssertUnwindSafe(|| encoder.encode(&images, wants)));
    shared.metrics.observe_batch(images.len(), started.elapsed());
    let result = match result {
        Ok(Ok(rows)) if rows.len() != images.len() => Err(EncodeError::Output {
            output: "embedding",
            got: vec![rows.len() as i64],
            expected: format!("{} rows", images.len()),
        }),
        Ok(result) => result,
        Err(_) => Err(EncodeError::Panicked),
    };
    answer(replies, result);
}

/// A receiver that has gone away is no error: its client left.
fn answer(
    replies: Vec<oneshot::Sender<Result<Encoded, EncodeError>>>,
    result: Result<Vec<Encoded>, EncodeError>,
) {
    match result {
        Ok(rows) => {
            for (reply, row) in replies.into_iter().zip(rows) {
                let _ = reply.send(Ok(row));
            }
        }
        Err(error) => {
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Gate};
    use crate::observe::metrics::Metrics;
    use occlude_preprocess::Rgb;

    fn picture(value: u8) -> Rgb {
        Rgb::filled(2, 2, [value; 3])
    }

    fn batcher(fake: Fake, capacity: usize, max_batch: usize, delay_ms: u64) -> (Batcher, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        let how =
            Batching { capacity, max_batch, max_delay: Duration::from_millis(delay_ms), max_wait: None };
        (Batcher::start(vec![Box::new(fake)], how, metrics.of_model("fake")), metrics)
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn everyone_gets_their_own_row() {
        let (batcher, _) = batcher(Fake::default(), 64, 8, 5);
        let replies: Vec<_> = (0..40).map(|i| batcher.announce().submit(picture(i)).unwrap()).collect();
        for (i, reply) in replies.into_iter().enumerate() {
            let encoded = reply.blocking_recv().unwrap().unwrap();
            assert_eq!(encoded, Fake::answer(&picture(i as u8)));
        }
    }

    #[test]
    fn what_piles_up_is_batched_to_the_limit() {
        let gate = Gate::default();
        let (batcher, metrics) = batcher(Fake::gated(&gate), 64, 4, 0);
        let first = batcher.announce().submit(picture(0)).unwrap();
        until("the worker takes the first", || batcher.depth() == 0);
        let rest: Vec<_> = (0..10).map(|i| batcher.announce().submit(picture(i)).unwrap()).collect();
        gate.open();
        for reply in std::iter::once(first).chain(rest) {
            reply.blocking_recv().unwrap().unwrap();
        }
        until("all are counted", || metrics.batches() == [(1, 1), (2, 1), (4, 2)]);
    }

    #[test]
    fn a_batch_waits_for_announced_pictures_only() {
        let (batcher, metrics) = batcher(Fake::default(), 64, 8, 60_000);
        // Nobody else is coming: at once, despite the minute of delay.
        batcher.announce().submit(picture(1)).unwrap().blocking_recv().unwrap().unwrap();
        // Somebody is: the first waits and both share a batch.
        let (a, b) = (batcher.announce(), batcher.announce());
        let a = a.submit(picture(2)).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(batcher.depth(), 1);
        let b = b.submit(picture(3)).unwrap();
        for reply in [a, b] {
            reply.blocking_recv().unwrap().unwrap();
        }
        assert_eq!(metrics.batches(), [(1, 1), (2, 1)]);
        // Somebody was, but gave up (a broken picture): the other goes on.
        let (a, b) = (batcher.announce(), batcher.announce());
        let a = a.submit(picture(4)).unwrap();
        drop(b);
        a.blocking_recv().unwrap().unwrap();
    }

    #[test]
    fn a_batch_does_not_wait_longer_than_its_delay() {
        let (batcher, _) = batcher(Fake::default(), 64, 8, 20);
        let never = batcher.announce();
        let start = Instant::now();
        batcher.announce().submit(picture(1)).unwrap().blocking_recv().unwrap().unwrap();
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(20) && waited < Duration::from_secs(5), "{waited:?}");
        drop(never);
    }

    #[test]
    fn a_full_queue_refuses_and_those_who_left_make_room() {
        let gate = Gate::default();
        let (batcher, metrics) = batcher(Fake::gated(&gate), 2, 1, 0);
        let running = batcher.announce().submit(picture(0)).unwrap();
        until("the worker takes the first", || batcher.depth() == 0);
        let kept = batcher.announce().submit(picture(1)).unwrap();
        let left = batcher.announce().submit(picture(2)).unwrap();
        assert_eq!(batcher.announce().submit(picture(3)).err(), Some(QueueFull));
        drop(left);
        let late = batcher.announce().submit(picture(4)).unwrap();
        gate.open();
        for reply in [running, kept, late] {
            reply.blocking_recv().unwrap().unwrap();
        }
        until("the one who left was not encoded", || metrics.batches() == [(1, 3)]);
    }

    #[test]
    fn what_waits_too_long_is_refused_and_not_encoded() {
        let gate = Gate::default();
        let metrics = Arc::new(Metrics::default());
        let how = Batching {
            capacity: 9,
            max_batch: 1,
            max_delay: Duration::ZERO,
            max_wait: Some(Duration::from_millis(300)),
        };
        let batcher = Batcher::start(vec![Box::new(Fake::gated(&gate))], how, metrics.of_model("fake"));
        let running = batcher.announce_request().submit(picture(0)).unwrap();
        until("the worker takes the first", || batcher.depth() == 0);
        let late = batcher.announce_request().submit(picture(1)).unwrap();
        // bulk work has nobody who waits
        let patient = batcher.announce().submit(picture(2)).unwrap();
        std::thread::sleep(Duration::from_millis(350));
        let fresh = batcher.announce_request().submit(picture(3)).unwrap();
        gate.open();
        assert_eq!(late.blocking_recv().unwrap(), Err(EncodeError::Late));
        for reply in [running, patient, fresh] {
            reply.blocking_recv().unwrap().unwrap();
        }
        assert_eq!(metrics.batches(), [(1, 3)], "the late one was not encoded");
    }

    #[test]
    fn what_belongs_together_shares_a_batch_or_is_refused_together() {
        let (batcher, metrics) = batcher(Fake::default(), 3, 4, 0);
        let two = |value| vec![picture(value).into(), picture(value + 1).into()];
        let replies = batcher.announce().submit_together(two(4), Wants::default()).unwrap();
        for (i, reply) in replies.into_iter().enumerate() {
            assert_eq!(reply.blocking_recv().unwrap().unwrap(), Fake::answer(&picture(4 + i as u8)));
        }
        until("both are in one batch", || metrics.batches() == [(2, 1)]);
        let four = [two(0), two(2)].concat();
        assert_eq!(batcher.announce().submit_together(four, Wants::default()).err(), Some(QueueFull));
        assert_eq!(batcher.depth(), 0, "none of the four waits");
    }

    #[test]
    fn a_failing_and_a_panicking_encoder_answer_with_errors() {
        let (batcher, _) = batcher(Fake::default(), 8, 1, 0);
        let encode = |value| batcher.announce().submit(picture(value)).unwrap().blocking_recv().unwrap();
        assert_eq!(encode(Fake::FAILS), Err(EncodeError::Runtime("as told".to_owned())));
        assert_eq!(encode(Fake::PANICS), Err(EncodeError::Panicked));
        assert!(matches!(encode(Fake::FORGETS), Err(EncodeError::Output { output: "embedding", .. })));
        assert!(encode(1).is_ok(), "the worker survives");
    }

    #[tokio::test]
    async fn dropping_the_batcher_does_not_wait_on_an_async_thread() {
        let gate = Gate::default();
        let (batcher, _) = batcher(Fake::gated(&gate), 8, 2, 0);
        let reply = batcher.announce().submit(picture(1)).unwrap();
        // Waiting would never end: the gate is opened behind it.
        drop(batcher);
        gate.open();
        assert!(reply.await.unwrap().is_ok());
    }

    #[test]
    fn dropping_the_batcher_answers_what_is_queued() {
        let gate = Gate::default();
        let (batcher, _) = batcher(Fake::gated(&gate), 8, 2, 60_000);
        let replies: Vec<_> = (0..5).map(|i| batcher.announce().submit(picture(i)).unwrap()).collect();
        gate.open();
        drop(batcher);
        for reply in replies {
            assert!(reply.blocking_recv().unwrap().is_ok());
        }
    }
}
