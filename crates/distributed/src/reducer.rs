//! Gradients, averaged over the ranks while the backward pass goes on.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use tch::Tensor;

use super::ffi::{self, check};
use super::{Result, World};

/// How gradients travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// Rounded to float16: half the bytes. Numbers below 6e-8 vanish, and beyond 65,504 they are infinite.
    Fp16,
    /// Rounded to bfloat16: half the bytes, the range of float32, 8 bits of precision.
    Bf16,
}

/// What gradients are like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gradients {
    /// How they travel.
    pub compression: Compression,
    /// Whether parameters may be without one: each pass then costs a walk through its graph, to find them. Where this is not said,
    /// such a parameter is an error.
    pub some_missing: bool,
}

/// DistributedDataParallel's reducer over some parameters: each backward pass that [`Self::backward`] announces leaves the mean
/// of the ranks' gradients.
pub struct Reducer {
    raw: *mut c_void,
    world: World,
}

impl Reducer {
    /// Over `params`, the same ones in the same order on every rank; none where the process is alone.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn new(world: &World, params: &[Tensor], gradients: Gradients) -> Result<Option<Self>> {
        let Some(group) = world.group() else { return Ok(None) };
        let params: Vec<ffi::Raw> = params.iter().map(Tensor::as_ptr).collect();
        let mut raw = null_mut();
        let hook: c_int = match gradients.compression {
            Compression::None => 0,
            Compression::Fp16 => 1,
            Compression::Bf16 => 2,
        };
        let unused = c_int::from(gradients.some_missing);
        // SAFETY: the group lives, and the array holds that many live tensors.
        let made = check(unsafe {
            ffi::occlude_dist_reducer_new(&raw mut raw, group, params.as_ptr(), params.len(), hook, unused)
        });
        made.map_err(|message| world.failed("preparing gradients", message))?;
        Ok(Some(Self { raw, world: world.clone() }))
    }

    /// To be called before each forward pass whose gradients are to be averaged.
    ///
    /// # Errors
    /// Where a parameter got no gradient last time, or the ranks cannot agree on buckets.
    pub fn forward(&self) -> Result<()> {
        // SAFETY: made by `new`, freed by `drop` alone.
        let told = check(unsafe { ffi::occlude_dist_reducer_forward(self.raw) });
        told.map_err(|message| self.world.failed("arranging gradients", message))
    }

    /// To be called between the forward pass and `loss.backward()`; left out for all but the last of several passes whose
    /// gradients add up.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn backward(&self, loss: &Tensor) -> Result<()> {
        // SAFETY: as above, and the tensor lives.
        let told = check(unsafe { ffi::occlude_dist_reducer_backward(self.raw, loss.as_ptr()) });
        told.map_err(|message| self.world.failed("preparing the mean of gradients", message))
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed once. What it cannot do is of no interest any more.
        let _ = check(unsafe { ffi::occlude_dist_reducer_free(self.raw) });
    }
}
