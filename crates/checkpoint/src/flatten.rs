//! From the nested objects of a pickle to a flat list of named tensors.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use occlude_pickle::{Node, Pickle, Value};

use crate::checkpoint::{Index, Skipped};
use crate::dtype::Dtype;
use crate::error::{FormatError, StateError};
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

/// Values looked at. A few shared dictionaries can be walked in exponentially many ways.
const MAX_VISITS: usize = 1 << 20;
/// Dictionaries inside of dictionaries. Optimiser states have five, modules of modules about ten.
const MAX_DEPTH: usize = 64;
/// Bytes of one name, and of all together.
const MAX_NAME: usize = 1 << 10;
const MAX_NAMES: usize = 64 << 20;
/// Entries of the metadata, and bytes of one.
const MAX_METADATA: usize = 1 << 12;
const MAX_VALUE: usize = 1 << 16;

/// Keys of the outermost dictionaries that hold the model; the first of them leaves no trace in the
/// names.
const WRAPPERS: [&str; 6] = ["state_dict", "model_state_dict", "model_state", "model", "net", "blobs"];

/// Attributes by which `torch.nn.Module` holds its parts; none appears in a state dict.
const MODULE_PARTS: [&str; 3] = ["_parameters", "_buffers", "_modules"];

/// Collects the tensors of a pickle under the names of a state dict, and the scalars of its outermost
/// dictionary as metadata.
pub(crate) fn flatten(pickle: &Pickle<'_>, read: &Read<'_>) -> Result<Index, FormatError> {
    let mut walk = Walk { read, index: Index::default(), visits: 0, name_bytes: 0 };
    let root = pickle.root();
    walk.metadata(root);
    walk.node(root, &mut Vec::new(), true)?;
    let index = keep_last(walk.index);
    if index.entries.is_empty() && index.skipped.is_empty() {
        return Err(StateError::NoTensors { holds: root.value().kind(), globals: globals(pickle) }.into());
    }
    Ok(index)
}

struct Walk<'r> {
    read: &'r Read<'r>,
    index: Index,
    visits: usize,
    name_bytes: usize,
}

impl Walk<'_> {
    /// `outer`: nothing has been added to the path yet, so that a wrapper may be left out of it.
    fn node(&mut self, node: Node<'_, '_>, path: &mut Vec<String>, outer: bool) -> Result<(), FormatError> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(StateError::TooLarge { what: "values", limit: MAX_VISITS }.into());
        }
        if path.len() > MAX_DEPTH {
            return Err(StateError::TooLarge { what: "levels", limit: MAX_DEPTH }.into());
        }
        if let Some(found) = (self.read)(node)? {
            return self.add(path, found);
        }
        if let Some(entries) = node.entries() {
            return self.mapping(entries, path, outer);
        }
        match node.value() {
            Value::List(_) | Value::Tuple(_) => {
                for (i, item) in node.items().into_iter().flatten().enumerate() {
                    self.child(i.to_string(), item, path)?;
                }
                Ok(())
            }
            Value::Call(_) => self.object(node, path, outer),
            _ => Ok(()),
        }
    }

    fn child(&mut self, key: String, node: Node<'_, '_>, path: &mut Vec<String>) -> Result<(), FormatError> {
        path.push(key);
        let result = self.node(node, path, false);
        path.pop();
        result
    }

    fn mapping(
        &mut self,
        entries: Vec<(Node<'_, '_>, Node<'_, '_>)>,
        path: &mut Vec<String>,
        outer: bool,
    ) -> Result<(), FormatError> {
        let wrapper = if outer { wrapper(&entries) } else { None };
        for (key, value) in entries {
            let Some(key) = key_text(key) else { continue };
            if Some(key.as_str()) == wrapper {
                self.node(value, path, true)?;
            } else {
                self.child(key, value, path)?;
            }
        }
        Ok(())
    }

    /// An object is walked through its attributes; a module's parts carry its names.
    fn object(&mut self, node: Node<'_, '_>, path: &mut Vec<String>, outer: bool) -> Result<(), FormatError> {
        for (key, value) in attributes(node) {
            let Some(key) = key_text(key) else { continue };
            if MODULE_PARTS.contains(&key.as_str()) {
                self.node(value, path, outer)?;
            } else {
                self.child(key, value, path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &[String], found: Found) -> Result<(), FormatError> {
        let name = path.join(".");
        self.name_bytes += name.len();
        if name.len() > MAX_NAME {
            return Err(StateError::TooLarge { what: "bytes in a tensor's name", limit: MAX_NAME }.into());
        }
        if self.name_bytes > MAX_NAMES {
            return Err(StateError::TooLarge { what: "bytes of names", limit: MAX_NAMES }.into());
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
    /// (`args.lr`).
    fn metadata(&mut self, root: Node<'_, '_>) {
        for (key, value) in root.entries().unwrap_or_default() {
            let Some(key) = key_text(key) else { continue };
            if insert_scalar(&mut self.index.metadata, &key, value) || WRAPPERS.contains(&key.as_str()) {
                continue;
            }
            let inner = value.entries().unwrap_or_else(|| attributes(value));
            for (inner_key, value) in inner.into_iter().take(MAX_METADATA) {
                if let Some(inner_key) = key_text(inner_key) {
                    insert_scalar(&mut self.index.metadata, &format!("{key}.{inner_key}"), value);
                }
            }
        }
    }
}

/// The first wrapper that holds a dictionary or an object.
fn wrapper(entries: &[(Node<'_, '_>, Node<'_, '_>)]) -> Option<&'static str> {
    WRAPPERS.into_iter().find(|wrapper| {
        entries.iter().any(|(key, value)| {
            key.as_str() == Some(wrapper) && (value.entries().is_some() || !attributes(*value).is_empty())
        })
    })
}

/// What an object of an unknown class holds by name: the attributes that its state sets (with slots
/// the state is a pair of attributes and slots), and the entries of a class derived from `dict`.
fn attributes<'p, 'a>(node: Node<'p, 'a>) -> Vec<(Node<'p, 'a>, Node<'p, 'a>)> {
    let Value::Call(call) = node.value() else { return vec![] };
    let state = call.state.map(|id| node.sibling(id));
    let first = state.and_then(Node::items).and_then(|mut items| items.next());
    let mut all = state.and_then(Node::entries).or_else(|| first?.entries()).unwrap_or_default();
    all.extend(call.entries.iter().map(|&(k, v)| (node.sibling(k), node.sibling(v))));
    all
}

/// A key as a part of a name. Optimisers number their parameters.
fn key_text(key: Node<'_, '_>) -> Option<String> {
    match key.value() {
        Value::Int(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        // Longer than any name may be: kept just long enough to be refused where it matters.
        _ => key.as_str().map(|s| s.chars().take(MAX_NAME + 1).collect()),
    }
}

fn insert_scalar(metadata: &mut BTreeMap<String, String>, key: &str, value: Node<'_, '_>) -> bool {
    let text = match value.value() {
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        _ => match value.as_str() {
            Some(text) if text.len() <= MAX_VALUE => text.to_owned(),
            _ => return false,
        },
    };
    if metadata.len() < MAX_METADATA && key.len() <= MAX_NAME {
        metadata.insert(key.to_owned(), text);
    }
    true
}

/// Of tensors with one name (a repeated key) the last counts, as in Python; the others are reported.
fn keep_last(mut index: Index) -> Index {
    let last: HashMap<String, usize> =
        index.entries.iter().enumerate().map(|(i, entry)| (entry.name.clone(), i)).collect();
    if last.len() == index.entries.len() {
        return index;
    }
    let (kept, dropped): (Vec<_>, Vec<_>) =
        index.entries.into_iter().enumerate().partition(|(i, entry)| last.get(&entry.name) == Some(i));
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
