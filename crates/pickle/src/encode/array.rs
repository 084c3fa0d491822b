//! numpy arrays.

use std::io::{self, Write};

use super::Encoder;
use crate::op;

/// Element type of a numpy array, always written little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArrayType {
    /// `float64`.
    F64,
    /// `float32`.
    F32,
    /// `float16`.
    F16,
    /// `int64`.
    I64,
    /// `int32`.
    I32,
    /// `int16`.
    I16,
    /// `int8`.
    I8,
    /// `uint8`.
    U8,
    /// `bool`.
    Bool,
}

impl ArrayType {
    /// numpy's type string without the byte order: `f4`.
    pub fn numpy(self) -> &'static str {
        match self {
            Self::F64 => "f8",
            Self::F32 => "f4",
            Self::F16 => "f2",
            Self::I64 => "i8",
            Self::I32 => "i4",
            Self::I16 => "i2",
            Self::I8 => "i1",
            Self::U8 => "u1",
            Self::Bool => "b1",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    fn byte_order(self) -> &'static str {
        if self.size() == 1 { "|" } else { "<" }
    }
}

impl<W: Write> Encoder<W> {
    /// A C-contiguous numpy array that numpy 1 and 2 read; `data` is little-endian and row-major.
    ///
    /// The reconstructor's path is numpy 1's, which numpy 2 keeps for old pickles.
    ///
    /// # Errors
    /// `InvalidInput` when `data` is not as long as `shape` asks, otherwise as the writer reports.
    pub fn ndarray(&mut self, dtype: ArrayType, shape: &[usize], data: &[u8]) -> io::Result<()> {
        let expected = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d));
        if expected != Some(data.len()) {
            let message = format!(
                "an array of shape {shape:?} and type {} cannot have {} bytes",
                dtype.numpy(),
                data.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.global("numpy.core.multiarray", "_reconstruct")?;
        self.global("numpy", "ndarray")?;
        self.int(0)?;
        self.op(op::TUPLE1)?;
        self.bytes(b"b")?;
        self.op(op::TUPLE3)?;
        self.reduce()?;
        // The state that `ndarray.__setstate__` takes: version, shape, type, Fortran order, data.
        self.tuple_start()?;
        self.int(1)?;
        self.sizes(shape)?;
        self.dtype(dtype)?;
        self.bool(false)?;
        self.bytes(data)?;
        self.tuple_end()?;
        self.build()
    }

    /// A tuple of sizes: a shape or strides.
    ///
    /// # Errors
    /// For sizes beyond 63 bits, otherwise as the writer reports.
    pub fn sizes(&mut self, shape: &[usize]) -> io::Result<()> {
        self.tuple_start()?;
        for &size in shape {
            self.int(i64::try_from(size).map_err(io::Error::other)?)?;
        }
        self.tuple_end()
    }

    /// A `numpy.dtype`; one object for all arrays of that type.
    fn dtype(&mut self, dtype: ArrayType) -> io::Result<()> {
        if let Some(&slot) = self.dtypes.get(&dtype) {
            return self.recall(slot);
        }
        self.global("numpy", "dtype")?;
        self.str(dtype.numpy())?;
        self.bool(false)?;
        self.bool(true)?;
        self.op(op::TUPLE3)?;
        self.reduce()?;
        self.tuple_start()?;
        self.int(3)?;
        self.str(dtype.byte_order())?;
        for _ in 0..3 {
            self.none()?;
        }
        self.int(-1)?;
        self.int(-1)?;
        self.int(0)?;
        self.tuple_end()?;
        self.build()?;
        let slot = self.memoize()?;
        self.dtypes.insert(dtype, slot);
        Ok(())
    }
}
