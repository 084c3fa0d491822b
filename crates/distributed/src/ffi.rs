//! The shim's functions.

use std::ffi::{CStr, c_char, c_int, c_void};

pub(crate) type Raw = *const torch_sys::C_tensor;
pub(crate) type RawMut = *mut torch_sys::C_tensor;

// SAFETY: the signatures are those of the .cpp files beside this one.
unsafe extern "C" {
    fn occlude_dist_free(s: *mut c_char);
    pub(crate) fn occlude_dist_open(
        out: *mut *mut c_void,
        host: *const c_char,
        port: u16,
        agent: c_int,
        prefix: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        cuda: c_int,
    ) -> *mut c_char;
    pub(crate) fn occlude_dist_close(group: *mut c_void);
    pub(crate) fn occlude_dist_reduce(group: *mut c_void, tensor: Raw, maximum: c_int) -> *mut c_char;
    pub(crate) fn occlude_dist_gather(group: *mut c_void, tensor: Raw, out: Raw) -> *mut c_char;
    pub(crate) fn occlude_dist_broadcast(group: *mut c_void, tensors: *const Raw, n: usize) -> *mut c_char;
    pub(crate) fn occlude_dist_batch_norm(
        group: *mut c_void,
        out: *mut RawMut,
        x: Raw,
        weight: Raw,
        bias: Raw,
        running_mean: Raw,
        running_var: Raw,
        momentum: f64,
        eps: f64,
    ) -> *mut c_char;
    pub(crate) fn occlude_dist_reducer_new(
        out: *mut *mut c_void,
        group: *mut c_void,
        params: *const Raw,
        n: usize,
        hook: c_int,
        unused: c_int,
    ) -> *mut c_char;
    pub(crate) fn occlude_dist_reducer_forward(reducer: *mut c_void) -> *mut c_char;
    pub(crate) fn occlude_dist_reducer_backward(reducer: *mut c_void, loss: Raw) -> *mut c_char;
    pub(crate) fn occlude_dist_reducer_free(reducer: *mut c_void) -> *mut c_char;
}

/// What the shim answered; the first line of a message says it, the rest is a C++ stack trace.
pub(crate) fn check(message: *mut c_char) -> Result<(), String> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null answer is a C string from strdup, which is ours to free, once.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        occlude_dist_free(message);
        Err(text.lines().next().unwrap_or_default().to_owned())
    }
}
