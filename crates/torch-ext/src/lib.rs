//! The C++ shim over libtorch for what tch lacks within a process: autocast to bfloat16 and float16 on CPU and CUDA, steps over
//! many tensors in one call, convolutions of small maps, copies to CUDA that the host does not wait for, and counts of what libtorch is asked to do.
//! Wrapped safely, with nothing else in it.
//!
//! Shapes are libtorch's business; an argument it refuses comes back as [`Error`].

mod conv;
mod copy;
mod observe;

use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;

pub use conv::conv2d;
pub use copy::{Copier, Copying, upload};
pub use observe::{Counts, Mark, Observer, PeakMemory};
use tch::{Device, Tensor};

type Raw = *const torch_sys::C_tensor;

// SAFETY: the signatures are those of shim.cpp.
unsafe extern "C" {
    fn occlude_torch_version() -> *const c_char;
    fn occlude_free(s: *mut c_char);
    fn occlude_autocast_get(cuda: c_int) -> c_int;
    fn occlude_autocast_set(cuda: c_int, state: c_int);
    fn occlude_half_scalar_type(bf16: c_int) -> c_int;
    fn occlude_autocast_enter();
    fn occlude_autocast_leave();
    fn occlude_foreach_lerp(this: *const Raw, other: *const Raw, n: usize, weight: f64) -> *mut c_char;
    fn occlude_fused_sgd(
        params: *const Raw,
        grads: *const Raw,
        momenta: *const Raw,
        n: usize,
        weight_decay: f64,
        momentum: f64,
        lr: f64,
        first: c_int,
    ) -> *mut c_char;
    fn occlude_lars(
        params: *const Raw,
        grads: *const Raw,
        momenta: *const Raw,
        n: usize,
        weight_decay: f64,
        momentum: f64,
        lr: f64,
        eta: f64,
        adapt: c_int,
    ) -> *mut c_char;
    fn occlude_clip(grads: *const Raw, n: usize, norm: f64) -> *mut c_char;
    fn occlude_clip_each(grads: *const Raw, n: usize, norm: f64) -> *mut c_char;
    fn occlude_deterministic();
    fn occlude_tf32_get() -> c_int;
    fn occlude_tf32_set(allowed: c_int);
    fn occlude_forget_grads(params: *const Raw, n: usize);
    fn occlude_foreach_count(steps: *const Raw, n: usize) -> *mut c_char;
    fn occlude_fused_adamw(
        params: *const Raw,
        grads: *const Raw,
        means: *const Raw,
        squares: *const Raw,
        steps: *const Raw,
        n: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> *mut c_char;
}

/// What libtorch said when it refused a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "libtorch: {}", self.0)
    }
}

impl std::error::Error for Error {}

/// The version of the libtorch headers that this was compiled against: `2.11.0`.
pub fn torch_version() -> &'static str {
    // SAFETY: a string literal of the shim.
    unsafe { CStr::from_ptr(occlude_torch_version()) }.to_str().unwrap_or("unknown")
}

/// While it lives, convolutions and matrix products on `device` compute in half precision (or, where it
/// was built with `enabled` false, in the type of their inputs). Per thread, restored on drop.
#[derive(Debug)]
pub struct Autocast {
    cuda: c_int,
    before: c_int,
    /// The state belongs to the thread it was set on.
    not_send: PhantomData<*const ()>,
}

impl Autocast {
    /// Switches bfloat16 autocast on or off for the devices of `device`'s kind.
    pub fn bf16(device: Device, enabled: bool) -> Self {
        Self::half(device, enabled, true)
    }

    /// Switches float16 autocast on or off for the devices of `device`'s kind.
    pub fn fp16(device: Device, enabled: bool) -> Self {
        Self::half(device, enabled, false)
    }

    fn half(device: Device, enabled: bool, bf16: bool) -> Self {
        let cuda = c_int::from(device.is_cuda());
        // SAFETY: plain setters of thread-local state.
        unsafe {
            let before = occlude_autocast_get(cuda);
            occlude_autocast_enter();
            let kind = occlude_half_scalar_type(c_int::from(bf16));
            occlude_autocast_set(cuda, (kind << 1) | c_int::from(enabled));
            Self { cuda, before, not_send: PhantomData }
        }
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: as in `half`; the value came from `occlude_autocast_get`.
        unsafe {
            occlude_autocast_leave();
            occlude_autocast_set(self.cuda, self.before);
        }
    }
}

/// `this[i] += weight * (other[i] - this[i])` for every pair, in one call and without gradient.
///
/// # Errors
/// Where the lists differ in length, or a pair in shape or device.
pub fn lerp(this: &[Tensor], other: &[Tensor], weight: f64) -> Result<(), Error> {
    same_length(&[this.len(), other.len()])?;
    if this.is_empty() {
        return Ok(());
    }
    let (this, other) = (raw(this), raw(other));
    // SAFETY: both arrays hold `this.len()` live tensors.
    check(unsafe { occlude_foreach_lerp(this.as_ptr(), other.as_ptr(), this.len(), weight) })
}

/// Constants of one step of stochastic gradient descent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Momentum; PyTorch's form, `v = momentum * v + g`, `p -= lr * v`.
    pub momentum: f64,
    /// L2 penalty added to the gradient.
    pub weight_decay: f64,
    /// Whether the momentum buffers hold nothing yet.
    pub first: bool,
}

/// One step of SGD over all parameters, in one call.
///
/// # Errors
/// Where the lists differ in length, or the tensors of one position in shape, type or device.
pub fn sgd(params: &[Tensor], grads: &[Tensor], momenta: &[Tensor], step: Sgd) -> Result<(), Error> {
    same_length(&[params.len(), grads.len(), momenta.len()])?;
    if params.is_empty() {
        return Ok(());
    }
    let (params, grads, momenta) = (raw(params), raw(grads), raw(momenta));
    // SAFETY: the three arrays hold `params.len()` live tensors each.
    check(unsafe {
        occlude_fused_sgd(
            params.as_ptr(),
            grads.as_ptr(),
            momenta.as_ptr(),
            params.len(),
            step.weight_decay,
            step.momentum,
            step.lr,
            c_int::from(step.first),
        )
    })
}

/// Constants of one step of LARS (arXiv 1708.03888).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lars {
    /// Learning rate.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// L2 penalty added to the gradient, before the norms are taken.
    pub weight_decay: f64,
    /// Trust coefficient; `None`: every layer at the same rate, for biases and normalisations.
    pub eta: Option<f64>,
}

/// One step of LARS over all parameters: `d = g + wd p`, `v = momentum v + eta |p| / |d| d`, `p -= lr v`. A parameter or
/// update of norm zero is not scaled. Momenta start at zero.
///
/// # Errors
/// Where the lists differ in length, or the tensors of one position in shape, type or device.
pub fn lars(params: &[Tensor], grads: &[Tensor], momenta: &[Tensor], step: Lars) -> Result<(), Error> {
    same_length(&[params.len(), grads.len(), momenta.len()])?;
    if params.is_empty() {
        return Ok(());
    }
    let (params, grads, momenta) = (raw(params), raw(grads), raw(momenta));
    // SAFETY: the three arrays hold `params.len()` live tensors each.
    check(unsafe {
        occlude_lars(
            params.as_ptr(),
            grads.as_ptr(),
            momenta.as_ptr(),
            params.len(),
            step.weight_decay,
            step.momentum,
            step.lr,
            step.eta.unwrap_or(1.0),
            c_int::from(step.eta.is_some()),
        )
    })
}

/// Scales all gradients down together so that their Euclidean norm is at most `norm`, without waiting for the device.
///
/// # Errors
/// Where they are on different devices.
pub fn clip_grad_norm(grads: &[Tensor], norm: f64) -> Result<(), Error> {
    if grads.is_empty() {
        return Ok(());
    }
    let grads = raw(grads);
    // SAFETY: the array holds `grads.len()` live tensors.
    check(unsafe { occlude_clip(grads.as_ptr(), grads.len(), norm) })
}

/// Scales each gradient down by itself so that its Euclidean norm is at most `norm`, without waiting for the device.
///
/// # Errors
/// Where they are on different devices.
pub fn clip_each_grad(grads: &[Tensor], norm: f64) -> Result<(), Error> {
    if grads.is_empty() {
        return Ok(());
    }
    let grads = raw(grads);
    // SAFETY: the array holds `grads.len()` live tensors.
    check(unsafe { occlude_clip_each(grads.as_ptr(), grads.len(), norm) })
}

/// From now on libtorch computes with deterministic algorithms only, and refuses what has none. CUDA's matrix
/// products also want `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the environment before the first of them.
pub fn deterministic() {
    // SAFETY: plain setters of libtorch's global settings.
    unsafe { occlude_deterministic() }
}

/// While it lives, matrix products and convolutions of float32 on CUDA may (or may not) round their inputs to TF32's 10 bits
/// of fraction. Of the whole process, restored on drop.
#[derive(Debug)]
pub struct Tf32 {
    before: c_int,
}

impl Tf32 {
    /// Allows or forbids it.
    pub fn allow(allowed: bool) -> Self {
        // SAFETY: plain getters and setters of libtorch's global settings.
        unsafe {
            let before = occlude_tf32_get();
            let both = c_int::from(allowed);
            occlude_tf32_set(both | both << 1);
            Self { before }
        }
    }
}

impl Drop for Tf32 {
    fn drop(&mut self) {
        // SAFETY: as in `allow`.
        unsafe { occlude_tf32_set(self.before) }
    }
}

/// Takes the gradients away: the next backward pass stores its own instead of adding to zeros.
pub fn forget_grads(params: &[Tensor]) {
    let params = raw(params);
    // SAFETY: the array holds `params.len()` live tensors.
    unsafe { occlude_forget_grads(params.as_ptr(), params.len()) }
}

/// Constants of one AdamW step (arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// The state of AdamW: first and second moments, and the step counters (float32 scalars).
#[derive(Debug, Clone, Copy)]
pub struct Moments<'a> {
    /// First moments.
    pub means: &'a [Tensor],
    /// Second moments.
    pub squares: &'a [Tensor],
    /// Steps taken, one a parameter.
    pub steps: &'a [Tensor],
}

/// One step of AdamW over all parameters, in one call. The counters start at 0 and are
/// counted up here.
///
/// # Errors
/// Where the lists differ in length, or the tensors of one position in shape, type or device.
pub fn adamw(params: &[Tensor], grads: &[Tensor], state: Moments<'_>, step: AdamW) -> Result<(), Error> {
    same_length(&[params.len(), grads.len(), state.means.len(), state.squares.len(), state.steps.len()])?;
    if params.is_empty() {
        return Ok(());
    }
    let [params, grads, means, squares, steps] =
        [params, grads, state.means, state.squares, state.steps].map(raw);
    // as PyTorch's optimiser does before the fused kernel
    // SAFETY: the array holds `steps.len()` live tensors.
    check(unsafe { occlude_foreach_count(steps.as_ptr(), steps.len()) })?;
    // SAFETY: the five arrays hold `params.len()` live tensors each.
    check(unsafe {
        occlude_fused_adamw(
            params.as_ptr(),
            grads.as_ptr(),
            means.as_ptr(),
            squares.as_ptr(),
            steps.as_ptr(),
            params.len(),
            step.lr,
            step.betas.0,
            step.betas.1,
            step.weight_decay,
            step.eps,
        )
    })
}

fn raw(tensors: &[Tensor]) -> Vec<Raw> {
    tensors.iter().map(Tensor::as_ptr).collect()
}

fn owned(tensor: *mut torch_sys::C_tensor) -> Result<Tensor, Error> {
    if tensor.is_null() {
        return Err(Error("an answer without a tensor".to_owned()));
    }
    // SAFETY: the shim made this tensor for its caller, who frees it with `Tensor`.
    Ok(unsafe { Tensor::from_ptr(tensor) })
}

fn same_length(lengths: &[usize]) -> Result<(), Error> {
    if lengths.windows(2).all(|w| w[0] == w[1]) {
        Ok(())
    } else {
        Err(Error(format!("expected lists of one length, got {lengths:?}")))
    }
}

fn check(message: *mut c_char) -> Result<(), Error> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null answer is a C string from strdup, which is ours to free, once.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        occlude_free(message);
        // the first line says it; the rest is a C++ stack trace
        Err(Error(text.lines().next().unwrap_or_default().to_owned()))
    }
}
