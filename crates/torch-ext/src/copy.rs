//! Copies to a CUDA device that the host does not wait for.
//!
//! libtorch copies ordinary memory by waiting until the device has done everything queued before. Pinned memory
//! is copied behind the host's back, and on a stream of its own beside what the device computes.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{NonNull, null_mut};

use tch::{Device, Tensor};

use crate::{Error, Raw, check, owned};

// SAFETY: the signatures are those of shim.cpp.
unsafe extern "C" {
    fn occlude_upload(host: Raw, device: c_int, out: *mut *mut torch_sys::C_tensor) -> *mut c_char;
    fn occlude_stream_new(device: c_int, out: *mut *mut c_void) -> *mut c_char;
    fn occlude_stream_free(stream: *mut c_void);
    fn occlude_copy_start(stream: *const c_void, host: Raw, out: *mut *mut c_void) -> *mut c_char;
    fn occlude_copy_finish(copying: *const c_void, out: *mut *mut torch_sys::C_tensor) -> *mut c_char;
    fn occlude_copy_free(copying: *mut c_void);
}

/// `host` on `device`, in the order of what this thread queues there. For CUDA the copy goes through pinned memory;
/// the host goes on at once, and may change `host`. On other devices it is [`Tensor::to_device`].
///
/// # Errors
/// Where libtorch cannot pin or take the memory.
pub fn upload(host: &Tensor, device: Device) -> Result<Tensor, Error> {
    let Device::Cuda(number) = device else { return plain(host, device) };
    let mut out = null_mut();
    // SAFETY: `host` is a live tensor, `out` a place for a pointer.
    check(unsafe { occlude_upload(host.as_ptr(), number as c_int, &raw mut out) })?;
    owned(out)
}

fn plain(host: &Tensor, device: Device) -> Result<Tensor, Error> {
    if host.device() == device {
        return Ok(host.shallow_clone());
    }
    host.f_to_device(device).map_err(|e| Error(e.to_string()))
}

/// Copies on a stream of their own, beside what the device computes.
#[derive(Debug)]
pub struct Copier {
    device: Device,
    /// A `c10::Stream`; none for devices without streams.
    stream: Option<NonNull<c_void>>,
}

// SAFETY: a `c10::Stream` is three numbers that nobody changes; queueing on a CUDA stream is thread-safe.
unsafe impl Send for Copier {}
// SAFETY: as above.
unsafe impl Sync for Copier {}

impl Copier {
    /// Takes a stream of `device` from libtorch's pool.
    ///
    /// # Errors
    /// Where the device cannot be used.
    pub fn new(device: Device) -> Result<Self, Error> {
        let Device::Cuda(number) = device else { return Ok(Self { device, stream: None }) };
        let mut stream = null_mut();
        // SAFETY: a place for a pointer.
        check(unsafe { occlude_stream_new(number as c_int, &raw mut stream) })?;
        Ok(Self { device, stream: NonNull::new(stream) })
    }

    /// Starts to copy; the host goes on at once, and may change `host`.
    ///
    /// # Errors
    /// Where libtorch cannot pin or take the memory.
    pub fn start(&self, host: &Tensor) -> Result<Copying, Error> {
        let Some(stream) = self.stream else { return Ok(Copying(State::Done(plain(host, self.device)?))) };
        let mut copying = null_mut();
        // SAFETY: a live stream and tensor, and a place for a pointer.
        check(unsafe { occlude_copy_start(stream.as_ptr(), host.as_ptr(), &raw mut copying) })?;
        let copying = NonNull::new(copying).ok_or_else(|| Error("a copy without a tensor".to_owned()))?;
        Ok(Copying(State::Running(copying)))
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        if let Some(stream) = self.stream {
            // SAFETY: from `occlude_stream_new`, once. The stream itself stays in libtorch's pool.
            unsafe { occlude_stream_free(stream.as_ptr()) }
        }
    }
}

/// A tensor on its way to a device.
#[derive(Debug)]
pub struct Copying(State);

#[derive(Debug)]
enum State {
    Done(Tensor),
    /// The shim's `Copying`.
    Running(NonNull<c_void>),
}

// SAFETY: the shim's value has one owner; a tensor and an event may be used by another thread than made them.
unsafe impl Send for Copying {}

impl Copying {
    /// A tensor that is where it is needed already.
    pub fn done(tensor: Tensor) -> Self {
        Self(State::Done(tensor))
    }

    /// The tensor. What this thread queues on the device from now on comes after the copy; the host does not wait.
    ///
    /// # Errors
    /// Where libtorch refuses.
    pub fn finish(self) -> Result<Tensor, Error> {
        match &self.0 {
            State::Done(tensor) => Ok(tensor.shallow_clone()),
            State::Running(copying) => {
                let mut out = null_mut();
                // SAFETY: live until `self` is dropped at the end of this call; a place for a pointer.
                check(unsafe { occlude_copy_finish(copying.as_ptr(), &raw mut out) })?;
                owned(out)
            }
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        if let State::Running(copying) = self.0 {
            // SAFETY: from `occlude_copy_start`, once.
            unsafe { occlude_copy_free(copying.as_ptr()) }
        }
    }
}
