//! Classes, calls and persistent ids: described, never carried out.

use std::borrow::Cow;

use super::{Machine, operand};
use crate::error::Error;
use crate::globals::is_dangerous;
use crate::op;
use crate::stack::Place;
use crate::value::{Call, Global, Id, Value};

/// Longer than any module path; keeps the judgement of names cheap.
const MAX_NAME: usize = 1 << 10;
/// Deeper than classes are nested.
const MAX_DOTS: usize = 16;

impl<'a> Machine<'a> {
    pub(super) fn object(&mut self, place: Place) -> Result<bool, Error> {
        match place.op {
            op::GLOBAL => {
                let (module, name) = (self.name(place)?, self.name(place)?);
                self.global(place, module.into(), name.into())?;
            }
            op::STACK_GLOBAL => {
                let name = self.pop_str(place)?;
                let module = self.pop_str(place)?;
                self.global(place, module, name)?;
            }
            op::REDUCE | op::NEWOBJ => {
                let args = self.stack.pop(place)?;
                let callable = self.stack.pop(place)?;
                self.call(place, callable, args, None)?;
            }
            op::NEWOBJ_EX => {
                let kwargs = self.stack.pop(place)?;
                let args = self.stack.pop(place)?;
                let callable = self.stack.pop(place)?;
                self.call(place, callable, args, Some(kwargs))?;
            }
            op::INST => {
                let (module, name) = (self.name(place)?, self.name(place)?);
                let args = self.stack.pop_mark(place)?;
                self.global(place, module.into(), name.into())?;
                self.call_with(place, args)?;
            }
            op::OBJ => {
                let mut args = self.stack.pop_mark(place)?;
                if args.is_empty() {
                    return Err(Error::StackUnderflow { at: place.at, op: place.op() });
                }
                let callable = args.remove(0);
                self.stack.push(place, callable)?;
                self.call_with(place, args)?;
            }
            op::BUILD => self.build(place)?,
            op::PERSID => {
                let id = self.name(place)?;
                self.stack.create(place, Value::Str(Cow::Borrowed(id)))?;
                self.persistent(place)?;
            }
            op::BINPERSID => self.persistent(place)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn build(&mut self, place: Place) -> Result<(), Error> {
        let state = self.stack.pop(place)?;
        let target = self.stack.top(place)?;
        match self.stack.value_mut(target) {
            Some(Value::Call(call)) => call.state = Some(state),
            other => return Err(operand(place, "an object", other.as_deref())),
        }
        Ok(())
    }

    fn global(&mut self, place: Place, module: Cow<'a, str>, name: Cow<'a, str>) -> Result<(), Error> {
        self.stack.count_global(place)?;
        if name.bytes().filter(|&b| b == b'.').count() > MAX_DOTS {
            return Err(Error::Text { at: place.at, op: place.op(), expected: "a name" });
        }
        if is_dangerous(&module, &name) {
            let (module, name) = (module.into_owned(), name.into_owned());
            return Err(Error::Dangerous { at: place.at, module, name });
        }
        for text in [&module, &name] {
            if let Cow::Owned(text) = text {
                self.stack.count_decoded(place, text.len())?;
            }
        }
        self.stack.create(place, Value::Global(Box::new(Global { module, name })))
    }

    fn call(&mut self, place: Place, callable: Id, args: Id, kwargs: Option<Id>) -> Result<(), Error> {
        let call = Call { callable, args, kwargs, state: None, items: vec![], entries: vec![] };
        self.stack.create(place, Value::Call(Box::new(call)))
    }

    /// Calls what is on top of the stack.
    fn call_with(&mut self, place: Place, args: Vec<Id>) -> Result<(), Error> {
        let callable = self.stack.pop(place)?;
        self.stack.count_members(place, args.len())?;
        self.stack.create(place, Value::Tuple(args))?;
        let args = self.stack.pop(place)?;
        self.call(place, callable, args, None)
    }

    fn persistent(&mut self, place: Place) -> Result<(), Error> {
        let id = self.stack.pop(place)?;
        self.stack.create(place, Value::Persistent(id))
    }

    fn pop_str(&mut self, place: Place) -> Result<Cow<'a, str>, Error> {
        let id = self.stack.pop(place)?;
        match self.stack.value(id) {
            Value::Str(text) if text.len() <= MAX_NAME => Ok(text.clone()),
            // Python 3 takes the strings of Python 2 for text.
            Value::RawStr(bytes) if bytes.len() <= MAX_NAME => {
                let text = String::from_utf8(bytes.to_vec()).map(Cow::Owned);
                text.map_err(|_| operand(place, "a name", Some(self.stack.value(id))))
            }
            other => Err(operand(place, "a name", Some(other))),
        }
    }

    /// A line of text that names something.
    fn name(&mut self, place: Place) -> Result<&'a str, Error> {
        let line = self.reader.line()?;
        let text = std::str::from_utf8(line).ok().filter(|text| text.len() <= MAX_NAME);
        text.ok_or(Error::Text { at: place.at, op: place.op(), expected: "a name" })
    }
}
