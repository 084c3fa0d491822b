//! From the nested objects of a pickle to a flat list of named tensors.

use std::collections::{BTreeSet, HashMap, HashSet};

use occlude_pickle::{Global, Id, Leading, Node, Pickle, Value};

use crate::dtype::Dtype;
use crate::error::{FormatError, StateError};
use crate::index::{Index, Skipped};
use crate::tensor::Entry;
use crate::view::{Layout, Storage};

/// Where a tensor lies.
#[derive(Debug)]
pub(crate) struct TensorSpec {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) storage: Storage,
    pub(crate) layout: Layout,
    pub(crate) swapped: bool,
}

/// What a node turned out to be.
#[derive(Debug)]
pub(crate) enum Found {
    Tensor(TensorSpec),
    /// A tensor that is not read here, and why.
    Skipped(String),
}

/// Reads a node as a tensor; `None` when it is something else.
pub(crate) type Read<'r> = dyn Fn(Node<'_, '_>) -> Result<Option<Found>, FormatError> + 'r;

/// Values looked at, members of containers included: once on the way to the state dict, where a few shared dictionaries
/// can be walked in exponentially many ways, and once beside it.
const MAX_WORK: usize = 1 << 20;
/// Tensors, read or skipped; the index of one takes a few hundred bytes.
const MAX_TENSORS: usize = 1 << 17;
/// Dictionaries inside of dictionaries. Optimiser states have five, modules of modules about ten.
const MAX_DEPTH: usize = 64;
/// Bytes of one name, and of all together.
const MAX_NAME: usize = 1 << 10;
const MAX_NAMES: usize = 16 << 20;
/// Entries of the metadata, bytes of one, and of all together.
const MAX_METADATA: usize = 1 << 12;
const MAX_VALUE: usize = 1 << 16;
const MAX_METADATA_BYTES: usize = 4 << 20;

/// Keys of the outermost dictionaries that hold the model; the first of them leaves no trace in the
/// names.
const WRAPPERS: [&str; 6] = ["state_dict", "model_state_dict", "model_state", "model", "net", "blobs"];

/// Keys of the outermost dictionary under which training scripts and libraries keep what is no model, even where it
/// refers to one: Lightning's hyper-parameters and loops, configurations, whole trainers.
pub(crate) const BESIDE: [&str; 22] = [
    "args",
    "callbacks",
    "cfg",
    "config",
    "datamodule",
    "datamodule_hyper_parameters",
    "hparams",
    "hyper_parameters",
    "loops",
    "lr_scheduler",
    "lr_schedulers",
    "meta",
    "optim",
    "optimizer",
    "optimizer_state_dict",
    "optimizer_states",
    "optimizers",
    "opt",
    "rng",
    "scheduler",
    "scheduler_state_dict",
    "trainer",
];

/// Attributes by which `torch.nn.Module` holds its parts; none appears in a state dict.
const MODULE_PARTS: [&str; 3] = ["_parameters", "_buffers", "_modules"];

/// Collects the tensors of a pickle under the names of a state dict, and the scalars of its outermost
/// dictionary as metadata.
///
/// Only what leads to tensors is walked. On the way to the state dict every limit is an error; beside it (a trainer,
/// hyper-parameters, a data set: graphs with cycles, of any size) what is too large is left out and named.
pub(crate) fn flatten(pickle: &Pickle<'_>, read: &Read<'_>) -> Result<Index, FormatError> {
    let root = pickle.root();
    let mut walk = Walk::new(pickle, read);
    walk.metadata(root);
    walk.node(root, At { outer: true, beside: false })?;
    walk.later()?;
    let Walk { index, too_large, .. } = walk;
    let index = keep_last(index);
    match too_large {
        Some(error) if index.entries.is_empty() => return Err(error.into()),
        _ if index.entries.is_empty() && index.skipped.is_empty() => {}
        _ => return Ok(index),
    }
    Err(StateError::NoTensors { holds: root.value().kind(), globals: globals(pickle) }.into())
}

/// Where a walk stands.
#[derive(Clone, Copy)]
struct At {
    /// Nothing has been added to the path yet, so that a wrapper may be left out of it.
    outer: bool,
    /// Beside the state dict.
    beside: bool,
}

struct Walk<'r, 'p, 'a> {
    read: &'r Read<'r>,
    /// What leads to tensors.
    leading: Leading,
    /// Names of what the walk is in.
    path: Vec<String>,
    /// The values that the walk is in: one that comes up again is in itself.
    within: Vec<Id>,
    /// What lies beside the state dict, for later: (path, value).
    beside: Vec<(Vec<String>, Node<'p, 'a>)>,
    /// Bytes of all these paths.
    beside_bytes: usize,
    /// Containers beside the state dict that have been walked.
    visited: HashSet<Id>,
    /// The first limit that was met beside the state dict.
    too_large: Option<StateError>,
    index: Index,
    work: usize,
    name_bytes: usize,
    metadata_bytes: usize,
}

impl<'r, 'p, 'a> Walk<'r, 'p, 'a> {
    fn new(pickle: &'p Pickle<'a>, read: &'r Read<'r>) -> Self {
        Self {
            read,
            leading: pickle.leading_to(|node| node.global().is_some_and(makes_tensors)),
            path: Vec::new(),
            within: Vec::new(),
            beside: Vec::new(),
            beside_bytes: 0,
            visited: HashSet::new(),
            too_large: None,
            index: Index::default(),
            work: 0,
            name_bytes: 0,
            metadata_bytes: 0,
        }
    }

    /// Walks what lies beside the state dict; what is too large is named and left.
    fn later(&mut self) -> Result<(), FormatError> {
        self.work = 0;
        for (path, node) in std::mem::take(&mut self.beside) {
            self.path.clone_from(&path);
            match self.node(node, At { outer: false, beside: true }) {
                Err(FormatError::State(error @ StateError::TooLarge { .. })) => {
                    self.within.clear();
                    let (mut name, reason) = (path.join("."), format!("it was skipped: {error}"));
                    name.truncate(name.floor_char_boundary(MAX_NAME));
                    if self.index.skipped.len() < MAX_TENSORS {
                        self.index.skipped.push(Skipped { name, reason });
                    }
                    self.too_large.get_or_insert(error);
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn node(&mut self, node: Node<'p, 'a>, at: At) -> Result<(), FormatError> {
        if !self.leading.contains(node) || self.within.contains(&node.id()) {
            return Ok(());
        }
        self.spend(node)?;
        if self.within.len() > MAX_DEPTH {
            return Err(StateError::TooLarge { what: "levels", limit: MAX_DEPTH }.into());
        }
        if let Some(found) = (self.read)(node)? {
            return self.add(found);
        }
        if at.beside && !self.visited.insert(node.id()) {
            return Ok(());
        }
        self.within.push(node.id());
        self.members(node, at)?;
        self.within.pop();
        Ok(())
    }

    fn members(&mut self, node: Node<'p, 'a>, at: At) -> Result<(), FormatError> {
        if let Some(entries) = node.entries() {
            return self.mapping(entries, at);
        }
        match node.value() {
            Value::List(_) | Value::Tuple(_) => {
                for (i, item) in node.items().into_iter().flatten().enumerate() {
                    self.child(i.to_string(), item, at.beside)?;
                }
                Ok(())
            }
            Value::Call(_) => self.object(node, at),
            _ => Ok(()),
        }
    }

    /// Counts a value and its members before anything looks at them.
    fn spend(&mut self, node: Node<'_, '_>) -> Result<(), StateError> {
        let size = |node: Option<Node<'_, '_>>| node.map_or(0, Node::size);
        let state = state(node);
        self.work += 1 + node.size() + size(state) + size(state.and_then(first));
        if self.work > MAX_WORK {
            return Err(StateError::TooLarge { what: "values", limit: MAX_WORK });
        }
        Ok(())
    }

    fn child(&mut self, key: String, node: Node<'p, 'a>, beside: bool) -> Result<(), FormatError> {
        self.path.push(key);
        let result = self.node(node, At { outer: false, beside });
        self.path.pop();
        result
    }

    /// Puts what lies beside the state dict off, so that no limit that it meets can keep anybody from the latter.
    fn put_off(&mut self, key: String, node: Node<'p, 'a>) {
        if !self.leading.contains(node) {
            return;
        }
        let mut path = self.path.clone();
        path.push(key);
        self.beside_bytes += path.iter().map(|part| part.len() + size_of::<String>()).sum::<usize>();
        if self.beside_bytes > MAX_NAMES {
            self.too_large.get_or_insert(StateError::TooLarge { what: "bytes of names", limit: MAX_NAMES });
            return;
        }
        self.beside.push((path, node));
    }

    fn mapping(&mut self, entries: Vec<(Node<'p, 'a>, Node<'p, 'a>)>, at: At) -> Result<(), FormatError> {
        let wrapper = if at.outer { wrapper(&entries) } else { None };
        for (key, value) in entries {
            let Some(key) = key_text(key) else { continue };
            if Some(key.as_str()) == wrapper {
                self.node(value, at)?;
            } else if at.beside {
                self.child(key, value, true)?;
            } else if wrapper.is_some() || (at.outer && is_no_model(&key)) {
                self.put_off(key, value);
            } else {
                self.child(key, value, false)?;
            }
        }
        Ok(())
    }

    /// An object is walked through its attributes; a module's parts carry its names.
    fn object(&mut self, node: Node<'p, 'a>, at: At) -> Result<(), FormatError> {
        for (key, value) in attributes(node) {
            let Some(key) = key_text(key) else { continue };
            if MODULE_PARTS.contains(&key.as_str()) {
                self.node(value, at)?;
            } else if at.beside {
                self.child(key, value, true)?;
            } else {
                self.put_off(key, value);
            }
        }
        Ok(())
    }

    fn add(&mut self, found: Found) -> Result<(), FormatError> {
        let name = self.path.join(".");
        self.name_bytes += name.len();
        if name.len() > MAX_NAME {
            return Err(StateError::TooLarge { what: "bytes in a tensor's name", limit: MAX_NAME }.into());
        }
        if self.name_bytes > MAX_NAMES {
            return Err(StateError::TooLarge { what: "bytes of names", limit: MAX_NAMES }.into());
        }
        if self.index.entries.len() + self.index.skipped.len() >= MAX_TENSORS {
            return Err(StateError::TooLarge { what: "tensors", limit: MAX_TENSORS }.into());
        }
        match found {
            Found::Tensor(TensorSpec { dtype, shape, storage, layout, swapped }) => {
                self.index.entries.push(Entry { name, dtype, shape, storage, layout, swapped });
            }
            Found::Skipped(reason) => self.index.skipped.push(Skipped { name, reason }),
        }
        Ok(())
    }

    /// Numbers and strings of the outermost dictionary, and of dictionaries and objects in it
    /// (`args.lr`), as many as there is work left for.
    fn metadata(&mut self, root: Node<'_, '_>) {
        if self.spend(root).is_err() {
            return;
        }
        for (key, value) in root.entries().unwrap_or_default() {
            let Some(key) = key_text(key) else { continue };
            if self.scalar(&key, value) || WRAPPERS.contains(&key.as_str()) {
                continue;
            }
            if self.spend(value).is_err() {
                break;
            }
            let inner = value.entries().unwrap_or_else(|| attributes(value));
            for (inner_key, value) in inner.into_iter().take(MAX_METADATA) {
                if let Some(inner_key) = key_text(inner_key) {
                    self.scalar(&format!("{key}.{inner_key}"), value);
                }
            }
        }
        self.work = 0;
    }

    /// Keeps a number or a string as metadata, as long as there is room; false for other values.
    fn scalar(&mut self, key: &str, value: Node<'_, '_>) -> bool {
        let Some(text) = scalar_text(value) else { return false };
        let bytes = self.metadata_bytes + key.len() + text.len();
        let room = self.index.metadata.len() < MAX_METADATA && bytes <= MAX_METADATA_BYTES;
        if room && key.len() <= MAX_NAME {
            self.metadata_bytes = bytes;
            self.index.metadata.insert(key.to_owned(), text);
        }
        true
    }
}

/// The functions by which torch and numpy put tensors and arrays together, whether or not they are read here.
fn makes_tensors(global: &Global<'_>) -> bool {
    let Global { module, name } = global;
    match &**module {
        "torch._utils" | "torch._tensor" => name.starts_with("_rebuild"),
        "torch.nn.parameter" => matches!(&**name, "Parameter" | "Buffer"),
        "torch.storage" => name == "_load_from_bytes",
        "numpy.core.multiarray" | "numpy._core.multiarray" => name == "_reconstruct",
        "numpy.core.numeric" | "numpy._core.numeric" => name == "_frombuffer",
        _ => false,
    }
}

/// Whether the outermost dictionary keeps under this key what is no model, also where no wrapper says what is one.
fn is_no_model(key: &str) -> bool {
    BESIDE.contains(&key)
}

/// The first wrapper that holds a dictionary or an object.
fn wrapper(entries: &[(Node<'_, '_>, Node<'_, '_>)]) -> Option<&'static str> {
    WRAPPERS.into_iter().find(|wrapper| {
        entries.iter().any(|(key, value)| key.as_str() == Some(wrapper) && holds_names(*value))
    })
}

/// Whether something in it goes by a name.
fn holds_names(node: Node<'_, '_>) -> bool {
    let state = state(node);
    let has_entries = matches!(node.value(), Value::Call(call) if !call.entries.is_empty());
    let has_attributes = [state, state.and_then(first)].into_iter().flatten().any(Node::is_mapping);
    node.is_mapping() || has_entries || has_attributes
}

/// What an object of an unknown class holds by name: the attributes that its state sets (with slots
/// the state is a pair of attributes and slots), and the entries of a class derived from `dict`.
fn attributes<'p, 'a>(node: Node<'p, 'a>) -> Vec<(Node<'p, 'a>, Node<'p, 'a>)> {
    let Value::Call(call) = node.value() else { return vec![] };
    let state = state(node);
    let mut all = state.and_then(Node::entries).or_else(|| first(state?)?.entries()).unwrap_or_default();
    all.extend(call.entries.iter().map(|&(k, v)| (node.sibling(k), node.sibling(v))));
    all
}

/// What an object's `__setstate__` would be given.
fn state<'p, 'a>(node: Node<'p, 'a>) -> Option<Node<'p, 'a>> {
    match node.value() {
        Value::Call(call) => call.state.map(|id| node.sibling(id)),
        _ => None,
    }
}

fn first<'p, 'a>(node: Node<'p, 'a>) -> Option<Node<'p, 'a>> {
    node.items()?.next()
}

/// A key as a part of a name. Optimisers number their parameters.
fn key_text(key: Node<'_, '_>) -> Option<String> {
    match key.value() {
        Value::Int(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        // Longer than any name may be: kept just long enough to be refused where it matters.
        _ => {
            key.as_str().map(|s| s.get(..s.floor_char_boundary(MAX_NAME + 4)).unwrap_or_default().to_owned())
        }
    }
}

/// A number or a short string.
fn scalar_text(value: Node<'_, '_>) -> Option<String> {
    match value.value() {
        Value::Bool(b) => Some(b.to_string()),
        Value::Int(n) => Some(n.to_string()),
        Value::Float(x) => Some(x.to_string()),
        _ => value.as_str().filter(|text| text.len() <= MAX_VALUE).map(str::to_owned),
    }
}

/// Of tensors with one name (a repeated key) the last counts, as in Python; the others are reported.
fn keep_last(mut index: Index) -> Index {
    let last: HashMap<&str, usize> =
        index.entries.iter().enumerate().map(|(i, entry)| (entry.name.as_str(), i)).collect();
    if last.len() == index.entries.len() {
        return index;
    }
    let keep: HashSet<usize> = last.into_values().collect();
    let (kept, dropped): (Vec<_>, Vec<_>) =
        index.entries.into_iter().enumerate().partition(|(i, _)| keep.contains(i));
    index.entries = kept.into_iter().map(|(_, entry)| entry).collect();
    index.skipped.extend(
        dropped.into_iter().map(|(_, entry)| Skipped {
            name: entry.name,
            reason: "a later tensor has the same name".into(),
        }),
    );
    index
}

/// What the pickle refers to, for the message about a file without tensors.
fn globals(pickle: &Pickle<'_>) -> Vec<String> {
    const SHOWN: usize = 8;
    let names: BTreeSet<String> = pickle
        .nodes()
        .filter_map(Node::global)
        .take(1000)
        .map(|g| format!("{}.{}", g.module, g.name))
        .collect();
    names.into_iter().take(SHOWN).collect()
}
