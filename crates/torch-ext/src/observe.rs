//! What libtorch is asked to do, and what it costs: operators, reads that the host waits for, time and memory.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tch::Device;

use crate::{Error, check};

// SAFETY: the signatures are those of observe.cpp.
unsafe extern "C" {
    fn occlude_observe_start() -> *mut c_char;
    fn occlude_observe_stop();
    fn occlude_observe_counts(calls: *mut u64, kernels: *mut u64, reads: *mut u64);
    fn occlude_observe_rows() -> *mut c_char;
    fn occlude_free(s: *mut c_char);
    fn occlude_mark_new(device: c_int, out: *mut *mut c_void) -> *mut c_char;
    fn occlude_mark_elapsed(from: *const c_void, to: *const c_void, out: *mut f64) -> *mut c_char;
    fn occlude_mark_free(event: *mut c_void);
    fn occlude_memory_reset(device: c_int) -> *mut c_char;
    fn occlude_memory_peak(device: c_int, taken: *mut i64, reserved: *mut i64) -> *mut c_char;
}

/// How often something was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operators, those inside others included. What an operator over lists of tensors (`_foreach_`, `_fused_`) asks
    /// for is not counted: on CUDA it asks for nothing.
    pub calls: u64,
    /// Operators that compute something and ask for no other: about as many launches on CUDA.
    pub kernels: u64,
    /// Reads that the host waits for: numbers, positions of non-zeros, copies to the host.
    pub reads: u64,
}

impl std::ops::Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            calls: self.calls - before.calls,
            kernels: self.kernels - before.kernels,
            reads: self.reads - before.reads,
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.calls += more.calls;
        self.kernels += more.kernels;
        self.reads += more.reads;
    }
}

/// One observes at a time: libtorch's callbacks carry no value of their own.
static ONE: Mutex<()> = Mutex::new(());

/// While it lives, every operator that this thread asks for is counted, and those of the threads that compute its
/// gradients; they cost a few microseconds more.
#[derive(Debug)]
pub struct Observer {
    /// Others wait until this one is dropped; a guard stays on its thread, as libtorch's callback does.
    _one: MutexGuard<'static, ()>,
}

impl Observer {
    /// Starts to count from zero.
    ///
    /// # Errors
    /// Where libtorch refuses.
    pub fn start() -> Result<Self, Error> {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: no other observer lives, as the guard says.
        check(unsafe { occlude_observe_start() })?;
        Ok(Self { _one: one })
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let mut c = Counts::default();
        // SAFETY: three places for numbers.
        unsafe { occlude_observe_counts(&raw mut c.calls, &raw mut c.kernels, &raw mut c.reads) }
        c
    }

    /// The same by the operators' names.
    pub fn by_name(&self) -> Vec<(String, Counts)> {
        // SAFETY: the answer is a C string from strdup, which is ours to free, once.
        let text = unsafe {
            let text = occlude_observe_rows();
            let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
            occlude_free(text);
            owned
        };
        text.lines().filter_map(row).collect()
    }
}

fn row(line: &str) -> Option<(String, Counts)> {
    let mut fields = line.split('\t');
    let name = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse().ok();
    Some((name, Counts { calls: number()?, kernels: number()?, reads: number()? }))
}

impl Drop for Observer {
    fn drop(&mut self) {
        // SAFETY: this observer was started, on this thread.
        unsafe { occlude_observe_stop() }
    }
}

/// A point in time: on CUDA in what this thread has queued there, elsewhere on the host's clock.
#[derive(Debug)]
pub struct Mark(Point);

#[derive(Debug)]
enum Point {
    Host(Instant),
    /// A `c10::Event` with time.
    Device(NonNull<c_void>),
}

impl Mark {
    /// Marks this point; the host does not wait.
    ///
    /// # Errors
    /// Where the device cannot be used.
    pub fn now(device: Device) -> Result<Self, Error> {
        let Device::Cuda(number) = device else { return Ok(Self(Point::Host(Instant::now()))) };
        let mut event = null_mut();
        // SAFETY: a place for a pointer.
        check(unsafe { occlude_mark_new(number as c_int, &raw mut event) })?;
        let event = NonNull::new(event).ok_or_else(|| Error("an event that is none".to_owned()))?;
        Ok(Self(Point::Device(event)))
    }

    /// Milliseconds from here to `later`, a mark of the same device; waits until the device has come there.
    ///
    /// # Errors
    /// Where the marks are of different devices.
    pub fn until(&self, later: &Self) -> Result<f64, Error> {
        match (&self.0, &later.0) {
            (Point::Host(from), Point::Host(to)) => Ok(to.duration_since(*from).as_secs_f64() * 1e3),
            (Point::Device(from), Point::Device(to)) => {
                let mut out = 0.0;
                // SAFETY: two live events and a place for a number.
                check(unsafe { occlude_mark_elapsed(from.as_ptr(), to.as_ptr(), &raw mut out) })?;
                Ok(out)
            }
            _ => Err(Error("marks of different devices".to_owned())),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Point::Device(event) = self.0 {
            // SAFETY: from `occlude_mark_new`, once.
            unsafe { occlude_mark_free(event.as_ptr()) }
        }
    }
}

/// The most memory that was in use at one time, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeakMemory {
    /// By tensors on the device; on the CPU by the process.
    pub used: u64,
    /// What libtorch took from the device for them; on the CPU the same as `used`.
    pub reserved: u64,
}

impl PeakMemory {
    /// Forgets the peaks so far.
    ///
    /// # Errors
    /// Where the device cannot be used.
    pub fn reset(device: Device) -> Result<(), Error> {
        match device {
            // SAFETY: plain numbers.
            Device::Cuda(number) => check(unsafe { occlude_memory_reset(number as c_int) }),
            // a kernel without this keeps the older peak, which is still a bound
            _ => {
                let _ = std::fs::write("/proc/self/clear_refs", "5");
                Ok(())
            }
        }
    }

    /// The peaks since the last reset.
    ///
    /// # Errors
    /// Where the device, or the system, does not tell.
    pub fn read(device: Device) -> Result<Self, Error> {
        let Device::Cuda(number) = device else { return Self::of_process() };
        let (mut used, mut reserved) = (0, 0);
        // SAFETY: two places for numbers.
        check(unsafe { occlude_memory_peak(number as c_int, &raw mut used, &raw mut reserved) })?;
        Ok(Self { used: used.unsigned_abs(), reserved: reserved.unsigned_abs() })
    }

    fn of_process() -> Result<Self, Error> {
        let status = std::fs::read_to_string("/proc/self/status").map_err(|e| Error(e.to_string()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        let used = kilobytes.ok_or_else(|| Error("no VmHWM in /proc/self/status".to_owned()))? << 10;
        Ok(Self { used, reserved: used })
    }
}
