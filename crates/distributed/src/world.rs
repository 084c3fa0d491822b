//! The processes that train together, as a value.

use std::cell::Cell;
use std::ffi::{CString, c_int, c_void};
use std::fmt::Display;
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::time::Duration;

use tch::{Device, Tensor};

use super::ffi::{self, check};
use super::{Error, Place, Result};

/// The processes that train together, or one alone. Cheap to clone; of the thread that made it.
///
/// Collectives must be called by all ranks in the same order. Tensors of all ranks have one shape and type, and may be of any
/// layout: what travels is copied to a dense one where it is not.
#[derive(Clone)]
pub struct World(Rc<Inner>);

struct Inner {
    place: Option<Place>,
    group: *mut c_void,
    step: Cell<u64>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.group.is_null() {
            // SAFETY: made by `occlude_dist_open`, and freed once.
            unsafe { ffi::occlude_dist_close(self.group) }
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World {{ rank: {}, size: {} }}", self.rank(), self.size())
    }
}

/// Parameters and running statistics of a normalisation; `(C)` each.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm<'a> {
    /// Factor and offset.
    pub affine: Option<[&'a Tensor; 2]>,
    /// Mean and variance, which are updated.
    pub running: Option<[&'a Tensor; 2]>,
    /// Share of the new statistics in the running ones.
    pub momentum: f64,
    /// Added to the variance.
    pub eps: f64,
}

impl World {
    /// A process that is alone.
    pub fn single() -> Self {
        Self(Rc::new(Inner { place: None, group: null_mut(), step: Cell::new(0) }))
    }

    /// Joins the others; waits for them and for every collective at most `timeout`. With a CUDA device tensors on it travel over
    /// NCCL.
    ///
    /// # Errors
    /// Where they do not come, or the port is taken.
    pub fn join(place: Place, timeout: Duration, device: Device) -> Result<Self> {
        let join = |message: String| Error::Join {
            rank: place.rank,
            size: place.size,
            address: format!("{}:{}", place.host, place.port),
            message,
        };
        let host = CString::new(place.host.as_str()).map_err(|e| join(e.to_string()))?;
        // without a name of its own, a restart would find the addresses of the attempt before
        let prefix =
            CString::new(format!("occlude/attempt_{}", place.attempt)).map_err(|e| join(e.to_string()))?;
        let cuda = match device {
            Device::Cuda(n) => n as c_int,
            _ => -1,
        };
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let mut group = null_mut();
        let (rank, size) = (place.rank as c_int, place.size as c_int);
        // SAFETY: the strings live through the call.
        check(unsafe {
            ffi::occlude_dist_open(
                &raw mut group,
                host.as_ptr(),
                place.port,
                c_int::from(place.agent),
                prefix.as_ptr(),
                rank,
                size,
                timeout_ms,
                cuda,
            )
        })
        .map_err(join)?;
        let world = Self(Rc::new(Inner { place: Some(place), group, step: Cell::new(0) }));
        // Gloo connects when it is first used
        world.barrier("joining")?;
        Ok(world)
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.0.place.as_ref().map_or(0, |p| p.rank)
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.0.place.as_ref().map_or(1, |p| p.size)
    }

    /// Number of this process on its machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.0.place.as_ref().map_or(0, |p| p.local_rank)
    }

    /// Whether this process is alone.
    pub fn is_single(&self) -> bool {
        self.0.group.is_null()
    }

    /// Whether this is the process that writes and speaks.
    pub fn is_main(&self) -> bool {
        self.rank() == 0
    }

    /// From now on errors name that step.
    pub fn at_step(&self, step: u64) {
        self.0.step.set(step);
    }

    pub(crate) fn group(&self) -> Option<*mut c_void> {
        (!self.is_single()).then_some(self.0.group)
    }

    /// The error of an operation that all do together, of which libtorch said `message`.
    pub fn failed(&self, operation: impl Display, message: impl Display) -> Error {
        let message = message.to_string();
        let message = message.lines().next().unwrap_or_default();
        Error::Collective {
            rank: self.rank(),
            size: self.size(),
            step: self.0.step.get(),
            operation: operation.to_string(),
            hint: hint(message),
            message: message.to_owned(),
        }
    }

    fn reduced(&self, x: &Tensor, maximum: bool, operation: &str) -> Result<Tensor> {
        let x = x.detach().contiguous().copy();
        // SAFETY: the group and the tensor live.
        let told = check(unsafe { ffi::occlude_dist_reduce(self.0.group, x.as_ptr(), c_int::from(maximum)) });
        told.map_err(|message| self.failed(operation, message))?;
        Ok(x)
    }

    /// The sum over the ranks, without a gradient; `x` itself where the process is alone. `operation` is what errors call it.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn sum(&self, x: &Tensor, operation: &str) -> Result<Tensor> {
        if self.is_single() { Ok(x.shallow_clone()) } else { self.reduced(x, false, operation) }
    }

    /// The mean over the ranks, without a gradient; `x` itself where the process is alone.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn mean(&self, x: &Tensor, operation: &str) -> Result<Tensor> {
        if self.is_single() {
            return Ok(x.shallow_clone());
        }
        Ok(self.reduced(x, false, operation)? / self.size() as f64)
    }

    /// The rows of all ranks, in the order of ranks, without a gradient: `(N, ..)` to `(size N, ..)`; `x` itself where the
    /// process is alone.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn gather(&self, x: &Tensor, operation: &str) -> Result<Tensor> {
        if self.is_single() {
            return Ok(x.shallow_clone());
        }
        let x = x.detach().contiguous();
        let mut shape = x.size();
        if let Some(rows) = shape.first_mut() {
            *rows *= self.size() as i64;
        }
        let out = Tensor::empty(shape.as_slice(), (x.kind(), x.device()));
        // SAFETY: the group and the tensors live.
        let told = check(unsafe { ffi::occlude_dist_gather(self.0.group, x.as_ptr(), out.as_ptr()) });
        told.map_err(|message| self.failed(operation, message))?;
        Ok(out)
    }

    /// As [`Self::gather`], where ranks may have different numbers of rows, or none: `(N of this rank, ..)` to `(N of all, ..)`.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn gather_uneven(&self, x: &Tensor, operation: &str) -> Result<Tensor> {
        if self.is_single() {
            return Ok(x.shallow_clone());
        }
        let mut missing = x.size();
        let rows = missing.first().copied().unwrap_or_default();
        let counts = self.gather(&Tensor::from_slice(&[rows]), operation)?;
        let counts: Vec<i64> = (0..self.size() as i64).map(|rank| counts.int64_value(&[rank])).collect();
        let most = counts.iter().copied().max().unwrap_or_default();
        if counts.iter().all(|&n| n == most) {
            return self.gather(x, operation);
        }
        missing[0] = most - rows;
        let filled = Tensor::cat(&[x, &Tensor::zeros(missing.as_slice(), (x.kind(), x.device()))], 0);
        let all = self.gather(&filled, operation)?;
        let parts = (0i64..).zip(&counts).map(|(rank, &n)| all.narrow(0, rank * most, n));
        Ok(Tensor::cat(&parts.collect::<Vec<_>>(), 0))
    }

    /// The rows of all ranks, where those of this rank have their gradient, times the number of ranks. A loss of all rows, which
    /// every rank computes, then has the gradient that one process would find when the ranks' gradients are averaged.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn gather_live(&self, x: &Tensor, operation: &str) -> Result<Tensor> {
        if self.is_single() {
            return Ok(x.shallow_clone());
        }
        let all = self.gather(x, operation)?;
        let (rank, rows, size) = (self.rank() as i64, x.size()[0], self.size() as i64);
        // the numbers are those of `x` to the bit: what is added is zero
        let live = x.detach() + (x - x.detach()) * size as f64;
        let before = all.narrow(0, 0, rank * rows);
        let behind = all.narrow(0, (rank + 1) * rows, (size - rank - 1) * rows);
        Ok(Tensor::cat(&[before, live, behind], 0))
    }

    /// The rows of this rank among those of all.
    pub fn own(&self, all: &Tensor) -> Tensor {
        if self.is_single() {
            return all.shallow_clone();
        }
        let rows = all.size()[0] / self.size() as i64;
        all.narrow(0, self.rank() as i64 * rows, rows)
    }

    /// Copies the tensors of rank 0 over those of the others; of any types and layouts.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn broadcast(&self, tensors: &[Tensor], operation: &str) -> Result<()> {
        if self.is_single() || tensors.is_empty() {
            return Ok(());
        }
        let raw: Vec<ffi::Raw> = tensors.iter().map(Tensor::as_ptr).collect();
        // SAFETY: the group lives, and the array holds that many live tensors.
        let told = check(unsafe { ffi::occlude_dist_broadcast(self.0.group, raw.as_ptr(), raw.len()) });
        told.map_err(|message| self.failed(operation, message))
    }

    /// The largest of the ranks' numbers, of every position.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn max<const N: usize>(&self, numbers: [i64; N], operation: &str) -> Result<[i64; N]> {
        if self.is_single() {
            return Ok(numbers);
        }
        let found = self.reduced(&Tensor::from_slice(&numbers), true, operation)?;
        Ok(std::array::from_fn(|i| found.int64_value(&[i as i64])))
    }

    /// Whether it is so on any rank.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn any(&self, here: bool, operation: &str) -> Result<bool> {
        Ok(self.max([i64::from(here)], operation)? != [0])
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn barrier(&self, operation: &str) -> Result<()> {
        self.max([0], operation).map(drop)
    }

    /// The texts of all ranks.
    ///
    /// # Errors
    /// As [`Error::Collective`] says.
    pub fn texts(&self, text: &str, operation: &str) -> Result<Vec<String>> {
        if self.is_single() {
            return Ok(vec![text.to_owned()]);
        }
        let lengths = self.gather(&Tensor::from_slice(&[text.len() as i64]), operation)?;
        let lengths: Vec<usize> =
            (0..self.size() as i64).map(|i| lengths.int64_value(&[i]) as usize).collect();
        let room = lengths.iter().copied().max().unwrap_or(0).max(1);
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(room, 0);
        let all = self.gather(&Tensor::from_slice(&bytes), operation)?.contiguous();
        let mut read = vec![0u8; room * self.size()];
        let length = read.len();
        all.copy_data_u8(&mut read, length);
        let texts = read.chunks(room).zip(lengths);
        Ok(texts.map(|(text, n)| String::from_utf8_lossy(&text[..n]).into_owned()).collect())
    }

    /// Makes sure that all ranks have the same text.
    ///
    /// # Errors
    /// On every rank alike, with what each has.
    pub fn same(&self, what: &str, text: &str) -> Result<()> {
        let found = self.texts(text, what)?;
        if found.iter().all(|other| *other == found[0]) {
            return Ok(());
        }
        Err(Error::Differs { what: what.to_owned(), found })
    }

    /// Goes on where all ranks can: `outcome` where it is good everywhere; where not, its own error on ranks that have one, and
    /// on the others that of the first of these.
    ///
    /// # Errors
    /// The rank's own, or another's.
    pub fn agreed<T, E: Display + From<Error>>(
        &self,
        outcome: std::result::Result<T, E>,
        operation: &str,
    ) -> std::result::Result<T, E> {
        if self.is_single() {
            return outcome;
        }
        // a message is never empty, so an empty one says that all is well
        let own = outcome.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        let all = self.texts(&own, operation)?;
        let value = outcome?;
        match all.into_iter().enumerate().find(|(_, message)| !message.is_empty()) {
            None => Ok(value),
            Some((rank, message)) => Err(Error::Elsewhere { rank, message }.into()),
        }
    }

    /// Batch normalisation with the statistics of the batches of all ranks, `(N, C, ..)`; with its gradient.
    ///
    /// # Errors
    /// As [`Error::Collective`] says; where the process is alone and has no group for it.
    pub fn batch_norm(&self, x: &Tensor, norm: BatchNorm<'_>) -> Result<Tensor> {
        let mut out = null_mut();
        let [weight, bias] = pointers(norm.affine);
        let [mean, var] = pointers(norm.running);
        let (momentum, eps) = (norm.momentum, norm.eps);
        let Some(group) = self.group() else { return Err(self.failed("batch normalisation", "no group")) };
        // SAFETY: the group and the tensors live; null stands for an absent one.
        let told = check(unsafe {
            ffi::occlude_dist_batch_norm(
                group,
                &raw mut out,
                x.as_ptr(),
                weight,
                bias,
                mean,
                var,
                momentum,
                eps,
            )
        });
        told.map_err(|message| self.failed("batch normalisation", message))?;
        // SAFETY: a fresh tensor that is ours.
        Ok(unsafe { Tensor::from_ptr(out) })
    }
}

fn pointers(tensors: Option<[&Tensor; 2]>) -> [ffi::Raw; 2] {
    tensors.map_or([null(); 2], |both| both.map(Tensor::as_ptr))
}

/// What may be the reason of a message of libtorch.
fn hint(message: &str) -> &'static str {
    let lower = message.to_lowercase();
    if lower.contains("timed out") || lower.contains("timeout") {
        "; hint: another rank stalled, or needs longer than `--dist-timeout`; `--resume` continues from the last checkpoint"
    } else if lower.contains("closed") || lower.contains("reset by peer") || lower.contains("connection") {
        "; hint: another rank ended, its own message says why; `--resume` continues from the last checkpoint"
    } else {
        ""
    }
}

/// Ends the process at once, without the destructors of a group, which wait for work that may never end after an error.
pub fn leave(code: i32) -> ! {
    // SAFETY: ends the process, and nothing else.
    unsafe { libc::_exit(code) }
}
