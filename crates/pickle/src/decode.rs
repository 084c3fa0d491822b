//! The stack machine: runs every instruction but calls nothing.

mod object;

use std::borrow::Cow;

use crate::error::Error;
use crate::limits::Limits;
use crate::op;
use crate::reader::Reader;
use crate::stack::{Place, Stack};
use crate::text;
use crate::value::{Id, Pickle, Value};

/// Decodes the pickle that `input` begins with; what follows its last instruction is not looked at.
///
/// # Errors
/// [`Error`] for damaged data, for more than `limits` allows and for globals that could run code.
pub fn decode<'a>(input: &'a [u8], limits: &Limits) -> Result<Pickle<'a>, Error> {
    let mut machine = Machine { reader: Reader::new(input), stack: Stack::new(limits) };
    for _ in 0..limits.ops {
        let at = machine.reader.at();
        let place = Place { at, op: machine.reader.byte()? };
        if place.op == op::STOP {
            let root = machine.stack.pop(place)?;
            return Ok(Pickle { values: machine.stack.values, root, consumed: machine.reader.at() });
        }
        machine.step(place)?;
    }
    Err(Error::Limit { at: machine.reader.at(), what: "instructions", limit: limits.ops })
}

/// A way to take a string off the input.
type Read<'a> = fn(&mut Reader<'a>) -> Result<&'a [u8], Error>;

struct Machine<'a> {
    reader: Reader<'a>,
    stack: Stack<'a>,
}

impl<'a> Machine<'a> {
    /// Executes one instruction. Each family returns false for instructions that are not its own.
    fn step(&mut self, place: Place) -> Result<(), Error> {
        if self.scalar(place)?
            || self.string(place)?
            || self.container(place)?
            || self.memo(place)?
            || self.object(place)?
        {
            return Ok(());
        }
        match place.op {
            op::PROTO => match self.reader.byte()? {
                0..=5 => Ok(()),
                got => Err(Error::Protocol { at: place.at, got }),
            },
            op::FRAME => {
                let len = u64::from_le_bytes(self.reader.array()?);
                let whole = len <= self.reader.remaining() as u64;
                if whole { Ok(()) } else { Err(Error::Truncated { at: place.at }) }
            }
            op::EXT1 | op::EXT2 | op::EXT4 => {
                Err(Error::External { at: place.at, op: place.op(), what: "Python's extension registry" })
            }
            op::NEXT_BUFFER | op::READONLY_BUFFER => {
                Err(Error::External { at: place.at, op: place.op(), what: "out-of-band buffers" })
            }
            op => Err(Error::UnknownOp { at: place.at, op }),
        }
    }

    fn scalar(&mut self, place: Place) -> Result<bool, Error> {
        let number = |expected| Error::Text { at: place.at, op: place.op(), expected };
        let value = match place.op {
            op::NONE => Value::None,
            op::NEWTRUE => Value::Bool(true),
            op::NEWFALSE => Value::Bool(false),
            op::BININT => Value::Int(i32::from_le_bytes(self.reader.array()?).into()),
            op::BININT1 => Value::Int(self.reader.byte()?.into()),
            op::BININT2 => Value::Int(u16::from_le_bytes(self.reader.array()?).into()),
            op::LONG1 => text::binary_long(self.reader.sized1()?),
            op::LONG4 => text::binary_long(self.reader.sized4()?),
            op::BINFLOAT => Value::Float(f64::from_be_bytes(self.reader.array()?)),
            op::INT => text::int(self.reader.line()?).ok_or_else(|| number("a decimal number"))?,
            op::LONG => {
                text::long(self.reader.line()?).ok_or_else(|| number("a decimal number of up to 128 bits"))?
            }
            op::FLOAT => Value::Float(text::float(self.reader.line()?).ok_or_else(|| number("a number"))?),
            _ => return Ok(false),
        };
        self.stack.create(place, value)?;
        Ok(true)
    }

    fn string(&mut self, place: Place) -> Result<bool, Error> {
        let bad = |expected| Error::Text { at: place.at, op: place.op(), expected };
        let value = match place.op {
            op::BINUNICODE => self.unicode(place, Reader::sized4)?,
            op::SHORT_BINUNICODE => self.unicode(place, Reader::sized1)?,
            op::BINUNICODE8 => self.unicode(place, Reader::sized8)?,
            op::BINBYTES => Value::Bytes(Cow::Borrowed(self.reader.sized4()?)),
            op::SHORT_BINBYTES => Value::Bytes(Cow::Borrowed(self.reader.sized1()?)),
            op::BINBYTES8 | op::BYTEARRAY8 => Value::Bytes(Cow::Borrowed(self.reader.sized8()?)),
            op::BINSTRING => Value::RawStr(Cow::Borrowed(self.reader.sized4()?)),
            op::SHORT_BINSTRING => Value::RawStr(Cow::Borrowed(self.reader.sized1()?)),
            op::STRING => {
                let line = self.decodable(place, Reader::line)?;
                Value::RawStr(text::quoted(line).ok_or_else(|| bad("a quoted string"))?)
            }
            op::UNICODE => {
                let line = self.decodable(place, Reader::line)?;
                Value::Str(text::raw_unicode(line).ok_or_else(|| bad("text with \\u escapes"))?)
            }
            _ => return Ok(false),
        };
        match &value {
            Value::Str(Cow::Owned(text)) => self.stack.count_decoded(place, text.len())?,
            Value::RawStr(Cow::Owned(bytes)) => self.stack.count_decoded(place, bytes.len())?,
            _ => {}
        }
        self.stack.create(place, value)?;
        Ok(true)
    }

    /// UTF-8; a Python string may hold lone surrogates, which are replaced.
    fn unicode(&mut self, place: Place, read: Read<'a>) -> Result<Value<'a>, Error> {
        let bytes = read(&mut self.reader)?;
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Ok(Value::Str(Cow::Borrowed(text)));
        }
        // A byte that is no UTF-8 becomes a character of three.
        self.stack.room_for(place, bytes.len().saturating_mul(3))?;
        Ok(Value::Str(String::from_utf8_lossy(bytes)))
    }

    /// Text that may have to be decoded, and therefore is held against the cap before it is.
    fn decodable(&mut self, place: Place, read: Read<'a>) -> Result<&'a [u8], Error> {
        let line = read(&mut self.reader)?;
        // Latin-1 takes up to two bytes for one.
        self.stack.room_for(place, line.len().saturating_mul(2))?;
        Ok(line)
    }

    fn container(&mut self, place: Place) -> Result<bool, Error> {
        match place.op {
            op::MARK => self.stack.mark(place)?,
            op::POP => {
                if !self.stack.pop_empty_mark() {
                    self.stack.pop(place)?;
                }
            }
            op::POP_MARK => drop(self.stack.pop_mark(place)?),
            op::EMPTY_LIST => self.stack.create(place, Value::List(vec![]))?,
            op::EMPTY_TUPLE => self.stack.create(place, Value::Tuple(vec![]))?,
            op::EMPTY_DICT => self.stack.create(place, Value::Dict(vec![]))?,
            op::EMPTY_SET => self.stack.create(place, Value::Set(vec![]))?,
            op::LIST => self.collect(place, Value::List)?,
            op::TUPLE => self.collect(place, Value::Tuple)?,
            op::FROZENSET => self.collect(place, Value::Set)?,
            op::TUPLE1 => self.short_tuple(place, 1)?,
            op::TUPLE2 => self.short_tuple(place, 2)?,
            op::TUPLE3 => self.short_tuple(place, 3)?,
            op::DICT => {
                let members = self.stack.pop_mark(place)?;
                let entries = self.pairs(place, &members)?;
                self.stack.create(place, Value::Dict(entries))?;
            }
            op::APPEND => {
                let item = self.stack.pop(place)?;
                self.extend(place, &[item])?;
            }
            op::APPENDS | op::ADDITEMS => {
                let items = self.stack.pop_mark(place)?;
                self.extend(place, &items)?;
            }
            op::SETITEM => {
                let value = self.stack.pop(place)?;
                let key = self.stack.pop(place)?;
                self.set_items(place, &[key, value])?;
            }
            op::SETITEMS => {
                let members = self.stack.pop_mark(place)?;
                self.set_items(place, &members)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn memo(&mut self, place: Place) -> Result<bool, Error> {
        match place.op {
            op::DUP => {
                let top = self.stack.top(place)?;
                self.stack.push(place, top)?;
            }
            op::BINPUT => {
                let slot = self.reader.byte()?.into();
                self.stack.memo_put(place, slot)?;
            }
            op::LONG_BINPUT => {
                let slot = u32::from_le_bytes(self.reader.array()?).into();
                self.stack.memo_put(place, slot)?;
            }
            op::PUT => {
                let slot = self.slot(place)?;
                self.stack.memo_put(place, slot)?;
            }
            op::MEMOIZE => self.stack.memo_append(place)?,
            op::BINGET => {
                let slot = self.reader.byte()?.into();
                self.stack.memo_get(place, slot)?;
            }
            op::LONG_BINGET => {
                let slot = u32::from_le_bytes(self.reader.array()?).into();
                self.stack.memo_get(place, slot)?;
            }
            op::GET => {
                let slot = self.slot(place)?;
                self.stack.memo_get(place, slot)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What lies above the mark becomes one container.
    fn collect(&mut self, place: Place, make: impl FnOnce(Vec<Id>) -> Value<'a>) -> Result<(), Error> {
        let members = self.stack.pop_mark(place)?;
        self.stack.count_members(place, members.len())?;
        self.stack.create(place, make(members))
    }

    fn short_tuple(&mut self, place: Place, len: usize) -> Result<(), Error> {
        let mut members = Vec::with_capacity(len);
        for _ in 0..len {
            members.push(self.stack.pop(place)?);
        }
        members.reverse();
        self.stack.count_members(place, len)?;
        self.stack.create(place, Value::Tuple(members))
    }

    fn pairs(&mut self, place: Place, members: &[Id]) -> Result<Vec<(Id, Id)>, Error> {
        self.stack.count_members(place, members.len())?;
        let (pairs, rest) = members.as_chunks::<2>();
        if !rest.is_empty() {
            let (expected, got) = ("keys and values in turn", "a key without a value");
            return Err(Error::Operand { at: place.at, op: place.op(), expected, got });
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    /// Adds to the list, the set or the object on top of the stack.
    fn extend(&mut self, place: Place, items: &[Id]) -> Result<(), Error> {
        self.stack.count_members(place, items.len())?;
        let target = self.stack.top(place)?;
        match self.stack.value_mut(target) {
            Some(Value::List(members) | Value::Set(members)) => members.extend_from_slice(items),
            Some(Value::Call(call)) => call.items.extend_from_slice(items),
            other => return Err(operand(place, "a list or a set", other.as_deref())),
        }
        Ok(())
    }

    /// Adds to the dictionary or the object on top of the stack.
    fn set_items(&mut self, place: Place, members: &[Id]) -> Result<(), Error> {
        let pairs = self.pairs(place, members)?;
        let target = self.stack.top(place)?;
        match self.stack.value_mut(target) {
            Some(Value::Dict(entries)) => entries.extend(pairs),
            Some(Value::Call(call)) => call.entries.extend(pairs),
            other => return Err(operand(place, "a dictionary", other.as_deref())),
        }
        Ok(())
    }

    /// A memo slot in decimal.
    fn slot(&mut self, place: Place) -> Result<u64, Error> {
        let line = self.reader.line()?;
        let slot = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
        slot.ok_or(Error::Text { at: place.at, op: place.op(), expected: "a memo slot" })
    }
}

fn operand(place: Place, expected: &'static str, got: Option<&Value<'_>>) -> Error {
    let got = got.map_or("nothing", Value::kind);
    Error::Operand { at: place.at, op: place.op(), expected, got }
}
