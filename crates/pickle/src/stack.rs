//! The machine's state: values, stack with marks, memo; every growth is counted.

use crate::error::Error;
use crate::limits::Limits;
use crate::op;
use crate::value::{Id, Value};

/// An instruction and where it stands, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) at: usize,
    pub(crate) op: u8,
}

impl Place {
    pub(crate) fn op(self) -> &'static str {
        op::name(self.op).unwrap_or("?")
    }
}

pub(crate) struct Stack<'a> {
    pub(crate) values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    /// `None`: never written.
    memo: Vec<Option<Id>>,
    members: usize,
    globals: usize,
    decoded: usize,
    limits: Limits,
}

impl<'a> Stack<'a> {
    pub(crate) fn new(limits: &Limits) -> Self {
        // Ids have 32 bits.
        let values = limits.values.min(u32::MAX as usize);
        Self {
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            members: 0,
            globals: 0,
            decoded: 0,
            limits: Limits { values, ..limits.clone() },
        }
    }

    /// Creates a value and puts it on the stack.
    pub(crate) fn create(&mut self, place: Place, value: Value<'a>) -> Result<(), Error> {
        if self.values.len() >= self.limits.values {
            return Err(Error::Limit { at: place.at, what: "values", limit: self.limits.values });
        }
        // Held below 2^32 by `new`.
        let id = Id(self.values.len() as u32);
        self.values.push(value);
        self.push(place, id)
    }

    pub(crate) fn push(&mut self, place: Place, id: Id) -> Result<(), Error> {
        if self.stack.len() >= self.limits.values {
            return Err(Error::Limit {
                at: place.at,
                what: "values on the stack",
                limit: self.limits.values,
            });
        }
        self.stack.push(id);
        Ok(())
    }

    /// Takes the top value; never one below the last mark.
    pub(crate) fn pop(&mut self, place: Place) -> Result<Id, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(Error::StackUnderflow { at: place.at, op: place.op() });
        }
        self.stack.pop().ok_or(Error::StackUnderflow { at: place.at, op: place.op() })
    }

    /// The top value, left where it is.
    pub(crate) fn top(&self, place: Place) -> Result<Id, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let underflow = Error::StackUnderflow { at: place.at, op: place.op() };
        self.stack.get(floor..).and_then(<[Id]>::last).copied().ok_or(underflow)
    }

    pub(crate) fn mark(&mut self, place: Place) -> Result<(), Error> {
        if self.marks.len() >= self.limits.nesting {
            return Err(Error::Limit {
                at: place.at,
                what: "containers open at a time",
                limit: self.limits.nesting,
            });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// The values above the last mark, which is removed with them.
    pub(crate) fn pop_mark(&mut self, place: Place) -> Result<Vec<Id>, Error> {
        let height = self.marks.pop().ok_or(Error::NoMark { at: place.at, op: place.op() })?;
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    /// Whether an open mark is directly below the top: `POP` then removes the mark.
    pub(crate) fn pop_empty_mark(&mut self) -> bool {
        let empty = self.marks.last() == Some(&self.stack.len());
        if empty {
            self.marks.pop();
        }
        empty
    }

    /// Counts members that a container is about to take.
    pub(crate) fn count_members(&mut self, place: Place, more: usize) -> Result<(), Error> {
        self.members = self.members.saturating_add(more);
        if self.members > self.limits.members {
            return Err(Error::Limit {
                at: place.at,
                what: "members of containers",
                limit: self.limits.members,
            });
        }
        Ok(())
    }

    /// Counts a mention of a class or function.
    pub(crate) fn count_global(&mut self, place: Place) -> Result<(), Error> {
        self.globals += 1;
        if self.globals > self.limits.globals {
            let (what, limit) = ("mentions of classes and functions", self.limits.globals);
            return Err(Error::Limit { at: place.at, what, limit });
        }
        Ok(())
    }

    /// Counts bytes that a decoded string takes.
    pub(crate) fn count_decoded(&mut self, place: Place, more: usize) -> Result<(), Error> {
        self.room_for(place, more)?;
        self.decoded += more;
        Ok(())
    }

    /// Whether that many bytes could still be decoded.
    pub(crate) fn room_for(&self, place: Place, bytes: usize) -> Result<(), Error> {
        let limit = self.limits.decoded_bytes;
        if bytes > limit.saturating_sub(self.decoded) {
            return Err(Error::Limit { at: place.at, what: "bytes of escaped strings", limit });
        }
        Ok(())
    }

    pub(crate) fn memo_put(&mut self, place: Place, slot: u64) -> Result<(), Error> {
        let top = self.top(place)?;
        let limit = self.limits.values;
        let index = usize::try_from(slot).ok().filter(|&slot| slot < limit);
        let index = index.ok_or(Error::Limit { at: place.at, what: "memo slots", limit })?;
        if index >= self.memo.len() {
            self.memo.resize(index + 1, None);
        }
        if let Some(entry) = self.memo.get_mut(index) {
            *entry = Some(top);
        }
        Ok(())
    }

    /// `MEMOIZE`: the next slot.
    pub(crate) fn memo_append(&mut self, place: Place) -> Result<(), Error> {
        self.memo_put(place, self.memo.len() as u64)
    }

    pub(crate) fn memo_get(&mut self, place: Place, slot: u64) -> Result<(), Error> {
        let found = usize::try_from(slot).ok().and_then(|slot| self.memo.get(slot).copied().flatten());
        let id = found.ok_or(Error::MemoMissing { at: place.at, slot })?;
        self.push(place, id)
    }

    pub(crate) fn value(&self, id: Id) -> &Value<'a> {
        self.values.get(id.0 as usize).unwrap_or(&Value::None)
    }

    pub(crate) fn value_mut(&mut self, id: Id) -> Option<&mut Value<'a>> {
        self.values.get_mut(id.0 as usize)
    }
}
