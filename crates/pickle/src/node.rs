//! Looking at decoded values without matching on each.

use crate::value::{Call, Global, Id, Pickle, Value};

/// The longest list of arguments that [`Node::call`] takes apart.
const MAX_ARGS: usize = 32;

/// A value together with its pickle.
#[derive(Clone, Copy, Debug)]
pub struct Node<'p, 'a> {
    pickle: &'p Pickle<'a>,
    id: Id,
}

/// A call of a known global; see [`Node::call`].
#[derive(Clone, Debug)]
pub struct CallNode<'p, 'a> {
    /// What would be called.
    pub global: &'p Global<'a>,
    /// With what.
    pub args: Vec<Node<'p, 'a>>,
    /// The state that its result would be given.
    pub state: Option<Node<'p, 'a>>,
}

impl<'a> Pickle<'a> {
    /// The result of the program.
    pub fn root(&self) -> Node<'_, 'a> {
        self.node(self.root)
    }

    /// Any value.
    pub fn node(&self, id: Id) -> Node<'_, 'a> {
        Node::new(self, id)
    }

    /// Every value, in the order of creation, also those that the result does not refer to.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        // `decode` holds the number of values below 2^32.
        (0..self.values.len()).map(|i| self.node(Id(i as u32)))
    }
}

impl<'p, 'a> Node<'p, 'a> {
    pub(crate) fn new(pickle: &'p Pickle<'a>, id: Id) -> Self {
        Self { pickle, id }
    }

    /// Identity: two nodes of one pickle with the same id are the same Python object.
    pub fn id(self) -> Id {
        self.id
    }

    /// Another value of the same pickle.
    pub fn sibling(self, id: Id) -> Self {
        Self { id, ..self }
    }

    /// The value.
    pub fn value(self) -> &'p Value<'a> {
        self.pickle.get(self.id)
    }

    /// Text, also Python 2's where it is UTF-8.
    pub fn as_str(self) -> Option<&'p str> {
        match self.value() {
            Value::Str(s) => Some(s),
            Value::RawStr(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Bytes, also Python 2's strings.
    pub fn as_bytes(self) -> Option<&'p [u8]> {
        match self.value() {
            Value::Bytes(bytes) | Value::RawStr(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// An integer of up to 64 bits.
    pub fn as_i64(self) -> Option<i64> {
        match self.value() {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// An integer that is a size or an index.
    pub fn as_usize(self) -> Option<usize> {
        usize::try_from(self.as_i64()?).ok()
    }

    /// A truth value; Python 2 wrote them as the integers 0 and 1.
    pub fn as_bool(self) -> Option<bool> {
        match self.value() {
            Value::Bool(b) => Some(*b),
            Value::Int(n @ (0 | 1)) => Some(*n == 1),
            _ => None,
        }
    }

    /// Whether it is `None`.
    pub fn is_none(self) -> bool {
        matches!(self.value(), Value::None)
    }

    /// The members of a list, tuple or set, and of a call of `torch.Size`.
    pub fn items(self) -> Option<impl ExactSizeIterator<Item = Node<'p, 'a>>> {
        let ids = match self.value() {
            Value::List(ids) | Value::Tuple(ids) | Value::Set(ids) => ids,
            Value::Call(call) if self.calls(call, "torch", "Size") => match self.pickle.get(call.args) {
                Value::Tuple(args) => match args.first().map(|&id| self.pickle.get(id)) {
                    Some(Value::List(ids) | Value::Tuple(ids)) => ids,
                    _ => return None,
                },
                _ => return None,
            },
            _ => return None,
        };
        Some(ids.iter().map(move |&id| Node::new(self.pickle, id)))
    }

    /// The entries of a dictionary, an `OrderedDict` or a `defaultdict`, in the order of insertion.
    pub fn entries(self) -> Option<Vec<(Node<'p, 'a>, Node<'p, 'a>)>> {
        let node = |id| Node::new(self.pickle, id);
        let pairs =
            |entries: &[(Id, Id)]| -> Vec<_> { entries.iter().map(|&(k, v)| (node(k), node(v))).collect() };
        match self.value() {
            Value::Dict(entries) => Some(pairs(entries)),
            Value::Call(call) if self.calls_mapping(call) => {
                // Python 2 gives the constructor a list of pairs, Python 3 sets them afterwards.
                let given = self.given(call).into_iter().filter_map(Node::items).flatten();
                let mut all: Vec<_> = given.map_while(Node::pair).collect();
                all.extend(pairs(&call.entries));
                Some(all)
            }
            _ => None,
        }
    }

    /// Whether [`Self::entries`] gives some; found without looking at them.
    pub fn is_mapping(self) -> bool {
        match self.value() {
            Value::Dict(_) => true,
            Value::Call(call) => self.calls_mapping(call),
            _ => false,
        }
    }

    /// How many members it has, about: what [`Self::items`] and [`Self::entries`] cost. Found without
    /// looking at them, so that a walk can be held to a budget.
    pub fn size(self) -> usize {
        match self.value() {
            Value::List(ids) | Value::Tuple(ids) | Value::Set(ids) => ids.len(),
            Value::Dict(entries) => entries.len(),
            Value::Call(call) => {
                let given: usize =
                    self.given(call).into_iter().filter_map(Node::items).map(|i| i.len()).sum();
                given.saturating_add(call.items.len()).saturating_add(call.entries.len())
            }
            _ => 0,
        }
    }

    /// The first arguments of a call: those that may hold the members of a mapping (`defaultdict` has
    /// its factory before them).
    fn given(self, call: &Call) -> Vec<Self> {
        match self.pickle.get(call.args) {
            Value::Tuple(args) => args.iter().take(2).map(|&id| self.sibling(id)).collect(),
            _ => vec![],
        }
    }

    /// The value of a string key; of a repeated key, the last one.
    pub fn get(self, key: &str) -> Option<Node<'p, 'a>> {
        self.entries()?.into_iter().rev().find(|(k, _)| k.as_str() == Some(key)).map(|(_, v)| v)
    }

    /// A class or function, by name.
    pub fn global(self) -> Option<&'p Global<'a>> {
        match self.value() {
            Value::Global(global) => Some(global),
            _ => None,
        }
    }

    /// A call of a global with a tuple of arguments; `None` also for more arguments than any function
    /// of a checkpoint takes.
    pub fn call(self) -> Option<CallNode<'p, 'a>> {
        let Value::Call(call) = self.value() else { return None };
        let node = |id| Node::new(self.pickle, id);
        Some(CallNode {
            global: node(call.callable).global()?,
            args: node(call.args).items().filter(|args| args.len() <= MAX_ARGS)?.collect(),
            state: call.state.map(node),
        })
    }

    /// The persistent id.
    pub fn persistent(self) -> Option<Node<'p, 'a>> {
        match self.value() {
            Value::Persistent(id) => Some(Node::new(self.pickle, *id)),
            _ => None,
        }
    }

    fn pair(self) -> Option<(Self, Self)> {
        let mut items = self.items()?;
        let pair = (items.next()?, items.next()?);
        items.next().is_none().then_some(pair)
    }

    fn calls(self, call: &Call, module: &str, name: &str) -> bool {
        match self.pickle.get(call.callable) {
            Value::Global(global) => global.module == module && global.name == name,
            _ => false,
        }
    }

    fn calls_mapping(self, call: &Call) -> bool {
        [
            ("collections", "OrderedDict"),
            ("collections", "defaultdict"),
            ("builtins", "dict"),
            ("__builtin__", "dict"),
        ]
        .iter()
        .any(|(module, name)| self.calls(call, module, name))
    }
}
