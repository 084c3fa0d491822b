//! The writer: streams values, holds none of them.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::op;

mod array;

pub use array::ArrayType;

/// Which readers a pickle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// What `torch.save` writes, and all that `torch.load(weights_only=True)` reads.
    Two,
    /// What every Python 3 reads; bytes and long strings are written as they are.
    Four,
}

/// Writes one pickle: of protocol 4, which every Python 3 reads, or of protocol 2, which PyTorch asks
/// for.
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
    protocol: Protocol,
    globals: HashMap<(&'static str, &'static str), u32>,
    dtypes: HashMap<ArrayType, u32>,
    memo_len: u32,
}

impl<W: Write> Encoder<W> {
    /// Starts a pickle of protocol 4.
    ///
    /// # Errors
    /// As `out` reports them; so for every method below.
    pub fn new(out: W) -> io::Result<Self> {
        Self::start(out, Protocol::Four, 4)
    }

    /// Starts a pickle of protocol 2, which has neither bytes nor strings beyond 4 GiB.
    ///
    /// # Errors
    /// As `out` reports them.
    pub fn protocol2(out: W) -> io::Result<Self> {
        Self::start(out, Protocol::Two, 2)
    }

    fn start(mut out: W, protocol: Protocol, number: u8) -> io::Result<Self> {
        out.write_all(&[op::PROTO, number])?;
        Ok(Self { out, protocol, globals: HashMap::new(), dtypes: HashMap::new(), memo_len: 0 })
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
    ///
    /// # Errors
    /// `InvalidInput` for one beyond 4 GiB in protocol 2, otherwise as the writer reports.
    pub fn str(&mut self, value: &str) -> io::Result<()> {
        if self.protocol == Protocol::Four {
            return self.sized([op::SHORT_BINUNICODE, op::BINUNICODE, op::BINUNICODE8], value.as_bytes());
        }
        let len = u32::try_from(value.len()).map_err(|_| unavailable("strings beyond 4 GiB"))?;
        self.op_with(op::BINUNICODE, &len.to_le_bytes())?;
        self.out.write_all(value.as_bytes())
    }

    /// Bytes.
    ///
    /// # Errors
    /// `InvalidInput` in protocol 2, otherwise as the writer reports.
    pub fn bytes(&mut self, value: &[u8]) -> io::Result<()> {
        if self.protocol == Protocol::Two {
            return Err(unavailable("bytes"));
        }
        self.sized([op::SHORT_BINBYTES, op::BINBYTES, op::BINBYTES8], value)
    }

    /// Opens a dictionary; keys and values follow in turn, then [`Self::dict_end`].
    pub fn dict_start(&mut self) -> io::Result<()> {
        self.out.write_all(&[op::EMPTY_DICT, op::MARK])
    }

    /// Opens the entries of the object that was written last, such as an `OrderedDict`; keys and values
    /// follow in turn, then [`Self::dict_end`].
    pub fn entries_start(&mut self) -> io::Result<()> {
        self.op(op::MARK)
    }

    /// Closes the dictionary or the entries that were opened last.
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
        if self.protocol == Protocol::Four {
            self.str(module)?;
            self.str(name)?;
            self.op(op::STACK_GLOBAL)?;
        } else {
            self.op(op::GLOBAL)?;
            writeln!(self.out, "{module}\n{name}")?;
        }
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
        let slot = self.memo_len;
        match (self.protocol, u8::try_from(slot)) {
            (Protocol::Four, _) => self.op(op::MEMOIZE)?,
            (Protocol::Two, Ok(slot)) => self.op_with(op::BINPUT, &[slot])?,
            (Protocol::Two, Err(_)) => self.op_with(op::LONG_BINPUT, &slot.to_le_bytes())?,
        }
        self.memo_len += 1;
        Ok(slot)
    }

    fn recall(&mut self, slot: u32) -> io::Result<()> {
        match u8::try_from(slot) {
            Ok(slot) => self.op_with(op::BINGET, &[slot]),
            Err(_) => self.op_with(op::LONG_BINGET, &slot.to_le_bytes()),
        }
    }
}

fn unavailable(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("pickles of protocol 2 cannot hold {what}"))
}
