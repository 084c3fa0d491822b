//! Convolutions that are fast on small maps, too.

use std::ffi::c_char;
use std::ptr::null_mut;

use tch::Tensor;

use crate::{Error, Raw, check, owned};

// SAFETY: the signature is that of conv.cpp.
unsafe extern "C" {
    fn occlude_conv2d(
        x: Raw,
        weight: Raw,
        stride: i64,
        padding: i64,
        out: *mut *mut torch_sys::C_tensor,
    ) -> *mut c_char;
}

/// A convolution of `x`, `(N, I, H, W)`, by `weight`, `(O, I, h, w)`, without bias, groups or dilation; stride and padding
/// are those of both sides.
///
/// The same numbers as libtorch's `conv2d` but for rounding, with gradients of first order. On the CPU, for 32 pictures and more where the output has
/// at most 4 cells, it computes by matrix products, which takes a fraction of the time of oneDNN's kernels; up to 16 cells it
/// so computes the weight's gradient. The last bits then depend on the number of pictures. Autocast applies as to `conv2d`.
///
/// # Errors
/// Where libtorch refuses the shapes or types.
pub fn conv2d(x: &Tensor, weight: &Tensor, stride: i64, padding: i64) -> Result<Tensor, Error> {
    let mut out = null_mut();
    // SAFETY: live tensors, and a place for a pointer.
    check(unsafe { occlude_conv2d(x.as_ptr(), weight.as_ptr(), stride, padding, &raw mut out) })?;
    owned(out)
}
