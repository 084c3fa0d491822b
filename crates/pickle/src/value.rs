//! What a decoded pickle consists of.

use std::borrow::Cow;

/// A value of a [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub(crate) u32);

/// One value. Containers refer to their members by [`Id`]: values may be shared, and a list may
/// even contain itself, so walk them with a budget.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer of up to 64 bits.
    Int(i64),
    /// A larger integer: two's complement, little-endian.
    Long(Cow<'a, [u8]>),
    /// A float.
    Float(f64),
    /// Text; lone surrogates, which Python allows, are replaced.
    Str(Cow<'a, str>),
    /// Python 3's `bytes` or `bytearray`.
    Bytes(Cow<'a, [u8]>),
    /// Python 2's `str`: text or bytes, the file does not say.
    RawStr(Cow<'a, [u8]>),
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A set or frozenset.
    Set(Vec<Id>),
    /// A dictionary, in the order of insertion; a repeated key appears twice, the last one counts.
    Dict(Vec<(Id, Id)>),
    /// A class or function, by name.
    Global(Box<Global<'a>>),
    /// A call that Python would make here, and what would be done to its result.
    Call(Box<Call>),
    /// A persistent id: resolved by whoever knows where the data lies.
    Persistent(Id),
}

/// A class or function, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global<'a> {
    /// Its module: `torch._utils`.
    pub module: Cow<'a, str>,
    /// Its name there: `_rebuild_tensor_v2`.
    pub name: Cow<'a, str>,
}

/// A call that Python would make: `callable(*args, **kwargs)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// A [`Value::Global`] in every sensible file.
    pub callable: Id,
    /// A [`Value::Tuple`] in every sensible file.
    pub args: Id,
    /// Keyword arguments.
    pub kwargs: Option<Id>,
    /// What the result's `__setstate__` would be given, or its attributes.
    pub state: Option<Id>,
    /// What would be appended to the result.
    pub items: Vec<Id>,
    /// What would be set by key in the result.
    pub entries: Vec<(Id, Id)>,
}

impl Value<'_> {
    /// The kind, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) | Self::Long(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Str(_) | Self::RawStr(_) => "a string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Set(_) => "a set",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a class or function",
            Self::Call(_) => "an object",
            Self::Persistent(_) => "a persistent id",
        }
    }
}

/// A decoded pickle. Strings and bytes are borrowed from the input where it holds them as they are.
#[derive(Clone, Debug)]
pub struct Pickle<'a> {
    pub(crate) values: Vec<Value<'a>>,
    pub(crate) root: Id,
    pub(crate) consumed: usize,
}

impl<'a> Pickle<'a> {
    /// The value itself; an id of another pickle may give `None`.
    pub fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id.0 as usize).unwrap_or(&Value::None)
    }

    /// Bytes of the input that the pickle took; what follows it is not looked at.
    pub fn consumed(&self) -> usize {
        self.consumed
    }
}
