//! Clients that send picture after picture, and how they are answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use occlude_preprocess::decode;
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use crate::config::Limits;
use crate::inference::bulk::submit;
use crate::inference::encode::{EncodeError, Wants};
use crate::inference::model::Model;

/// How a candidate did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// Pictures per second.
    pub rate: f64,
    /// Time that half of the pictures took, decoding and waiting included, in milliseconds.
    pub p50: f64,
    /// Time that 99 of 100 pictures stayed under, in milliseconds.
    pub p99: f64,
    /// Pictures that were measured.
    pub pictures: usize,
}

impl Measured {
    /// From the times of all pictures, in seconds, that were answered in so many seconds.
    fn new(mut times: Vec<f64>, seconds: f64) -> Self {
        times.sort_by(f64::total_cmp);
        // The nearest rank: the least time that so large a share does not exceed.
        let quantile = |share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).map_or(f64::NAN, |t| 1e3 * t)
        };
        let rate = times.len() as f64 / seconds.max(1e-9);
        Self { rate, p50: quantile(0.5), p99: quantile(0.99), pictures: times.len() }
    }
}

/// What the clients share.
pub(super) struct Client<'a> {
    pub(super) model: &'a Model,
    /// Files that can be decoded.
    pub(super) pictures: &'a [Vec<u8>],
    pub(super) limits: &'a Limits,
}

impl Client<'_> {
    /// Lets so many clients send for a quarter of the time without counting, and then for the time. Every client is
    /// measured by at least one picture, however long it takes.
    pub(super) fn measure(&self, clients: usize, time: Duration) -> Result<Measured, EncodeError> {
        let next = AtomicUsize::new(0);
        let decoders = Decoders { free: Mutex::new(self.limits.decode_threads), changed: Condvar::new() };
        let begin = Instant::now() + time / 4;
        let times = std::thread::scope(|scope| {
            let client = || {
                let mut times = Vec::new();
                while begin.elapsed() < time || times.is_empty() {
                    let sent = Instant::now();
                    self.send(next.fetch_add(1, Ordering::Relaxed), &decoders)?;
                    if sent >= begin {
                        times.push(sent.elapsed().as_secs_f64());
                    }
                }
                Ok(times)
            };
            let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<f64>, EncodeError>>| {
                thread.join().map_err(|_| EncodeError::Panicked)?
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(Measured::new(times.concat(), begin.elapsed().as_secs_f64()))
    }

    /// Sends a picture and waits for its answer, as a request does.
    fn send(&self, i: usize, decoders: &Decoders) -> Result<(), EncodeError> {
        let Some(bytes) = self.pictures.get(i % self.pictures.len().max(1)) else { return Ok(()) };
        let Model { batcher, info, .. } = self.model;
        let (announced, pixels) = decoders.run(|| {
            let announced = batcher.announce();
            // All could be decoded when they were read.
            let decoded = decode(bytes, &self.limits.decode()).ok();
            (announced, decoded.map(|decoded| info.contract.pixels(&decoded.image)))
        });
        let Some(pixels) = pixels else { return Ok(()) };
        let reply = submit(batcher, announced, &pixels, Wants::default());
        let gone = |_| EncodeError::Runtime("the worker has stopped".to_owned());
        reply.blocking_recv().map_err(gone).and_then(|answer| answer).map(drop)
    }
}

/// As many decode at once as `--decode-threads` says, as in the server.
struct Decoders {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Decoders {
    fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut free = self.free.lock();
        self.changed.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        drop(free);
        let done = work();
        *self.free.lock() += 1;
        self.changed.notify_one();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times = (1..=200).rev().map(|ms| f64::from(ms) / 1e3).collect();
        let measured = Measured::new(times, 2.0);
        assert_eq!((measured.rate, measured.pictures), (100.0, 200));
        assert!((measured.p50 - 100.0).abs() < 1e-9 && (measured.p99 - 198.0).abs() < 1e-9, "{measured:?}");
        let one = Measured::new(vec![0.004], 1.0);
        assert!((one.p50 - 4.0).abs() < 1e-9 && (one.p99 - 4.0).abs() < 1e-9);
    }
}
