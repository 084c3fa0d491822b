//! The writer: streams values, holds none of them.

use std::collections::HashMap;
use std::io::{self, Write};

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

/// Writes one pickle of protocol 4, which every Python 3 reads.
///
/// Values are written in the order of the calls; containers are opened and closed by the caller:
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let mut pickle = occlude_pickle::Encoder::new(Vec::new())?;
/// pickle.dict_start()?;
/// pickle.str("epoch")?;
/// pickle.int(199)?;
/// pickle.dict_end()?;
/// let bytes = pickle.finish()?;
/// # assert!(bytes.ends_with(b"u."));
/// # Ok(())
/// # }
/// ```
///
/// No frames are written: they are optional, and without them Python reads a large array straight
/// into its final place.
#[derive(Debug)]
pub struct Encoder<W: Write> {
    out: W,
    globals: HashMap<(&'static str, &'static str), u32>,
    dtypes: HashMap<ArrayType, u32>,
    memo_len: u32,
}

impl<W: Write> Encoder<W> {
    /// Starts a pickle.
    ///
    /// # Errors
    /// As `out` reports them; so for every method below.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&[op::PROTO, 4])?;
        Ok(Self { out, globals: HashMap::new(), dtypes: HashMap::new(), memo_len: 0 })
    }

    /// Ends the pickle and gives the writer back, not flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.op(op::STOP)?;
        Ok(self.out)
    }

    /// `None`.
    pub fn none(&mut self) -> io::Result<()> {
        self.op(op::NONE)
    }

    /// `True` or `False`.
    pub fn bool(&mut self, value: bool) -> io::Result<()> {
        self.op(if value { op::NEWTRUE } else { op::NEWFALSE })
    }

    /// An integer.
    pub fn int(&mut self, value: i64) -> io::Result<()> {
        if let Ok(byte) = u8::try_from(value) {
            self.out.write_all(&[op::BININT1, byte])
        } else if let Ok(value) = i32::try_from(value) {
            self.op_with(op::BININT, &value.to_le_bytes())
        } else {
            self.op_with(op::LONG1, &[8])?;
            self.out.write_all(&value.to_le_bytes())
        }
    }

    /// A float.
    pub fn float(&mut self, value: f64) -> io::Result<()> {
        self.op_with(op::BINFLOAT, &value.to_be_bytes())
    }

    /// A string.
    pub fn str(&mut self, value: &str) -> io::Result<()> {
        self.sized([op::SHORT_BINUNICODE, op::BINUNICODE, op::BINUNICODE8], value.as_bytes())
    }

    /// Bytes.
    pub fn bytes(&mut self, value: &[u8]) -> io::Result<()> {
        self.sized([op::SHORT_BINBYTES, op::BINBYTES, op::BINBYTES8], value)
    }

    /// Opens a dictionary; keys and values follow in turn, then [`Self::dict_end`].
    pub fn dict_start(&mut self) -> io::Result<()> {
        self.out.write_all(&[op::EMPTY_DICT, op::MARK])
    }

    /// Closes the dictionary that was opened last.
    pub fn dict_end(&mut self) -> io::Result<()> {
        self.op(op::SETITEMS)
    }

    /// Opens a list; items follow, then [`Self::list_end`].
    pub fn list_start(&mut self) -> io::Result<()> {
        self.out.write_all(&[op::EMPTY_LIST, op::MARK])
    }

    /// Closes the list that was opened last.
    pub fn list_end(&mut self) -> io::Result<()> {
        self.op(op::APPENDS)
    }

    /// Opens a tuple; items follow, then [`Self::tuple_end`].
    pub fn tuple_start(&mut self) -> io::Result<()> {
        self.op(op::MARK)
    }

    /// Closes the tuple that was opened last.
    pub fn tuple_end(&mut self) -> io::Result<()> {
        self.op(op::TUPLE)
    }

    /// A reference to a class or function; later uses of the same one cost two bytes.
    pub fn global(&mut self, module: &'static str, name: &'static str) -> io::Result<()> {
        if let Some(&slot) = self.globals.get(&(module, name)) {
            return self.recall(slot);
        }
        self.str(module)?;
        self.str(name)?;
        self.op(op::STACK_GLOBAL)?;
        let slot = self.memoize()?;
        self.globals.insert((module, name), slot);
        Ok(())
    }

    /// Calls the last value but one (a global) with the last one (a tuple of arguments).
    pub fn reduce(&mut self) -> io::Result<()> {
        self.op(op::REDUCE)
    }

    /// Sets the state of the last value but one to the last one.
    pub fn build(&mut self) -> io::Result<()> {
        self.op(op::BUILD)
    }

    /// A persistent id: what the reader resolves by means outside of the pickle.
    pub fn persistent(&mut self) -> io::Result<()> {
        self.op(op::BINPERSID)
    }

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
        self.shape(shape)?;
        self.dtype(dtype)?;
        self.bool(false)?;
        self.bytes(data)?;
        self.tuple_end()?;
        self.build()
    }

    /// A tuple of sizes.
    fn shape(&mut self, shape: &[usize]) -> io::Result<()> {
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

    fn op(&mut self, op: u8) -> io::Result<()> {
        self.out.write_all(&[op])
    }

    fn op_with(&mut self, op: u8, argument: &[u8]) -> io::Result<()> {
        self.op(op)?;
        self.out.write_all(argument)
    }

    /// Writes `data` behind its length, with the opcode for lengths of one, four or eight bytes.
    fn sized(&mut self, ops: [u8; 3], data: &[u8]) -> io::Result<()> {
        let [short, long, longest] = ops;
        if let Ok(len) = u8::try_from(data.len()) {
            self.op_with(short, &[len])?;
        } else if let Ok(len) = u32::try_from(data.len()) {
            self.op_with(long, &len.to_le_bytes())?;
        } else {
            self.op_with(longest, &(data.len() as u64).to_le_bytes())?;
        }
        self.out.write_all(data)
    }

    fn memoize(&mut self) -> io::Result<u32> {
        self.op(op::MEMOIZE)?;
        self.memo_len += 1;
        Ok(self.memo_len - 1)
    }

    fn recall(&mut self, slot: u32) -> io::Result<()> {
        match u8::try_from(slot) {
            Ok(slot) => self.op_with(op::BINGET, &[slot]),
            Err(_) => self.op_with(op::LONG_BINGET, &slot.to_le_bytes()),
        }
    }
}
