//! A pickle held against what Detectron2's checkpointer asks for, without Python.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use occlude_checkpoint::{
    BadValue, Checkpoint, Dtype, Error as CheckpointError, Format, Tensor, check_values,
};
use occlude_encoder::{Arch, Graph, ParamKind, detectron};
use occlude_pickle::{Limits, Node, Pickle, decode};

use crate::error::Error;
use crate::names::Named;
use crate::recipe::detectrons;

/// What a pickle of arrays may refer to; Detectron2 calls whatever it refers to.
const ARRAY_GLOBALS: [(&str, &str); 7] = [
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
];

/// What a pickle looks like.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Structure {
    /// The architecture that its names and shapes show.
    #[serde(serialize_with = "arch_name")]
    pub arch: Arch,
    /// Arrays in it.
    pub arrays: usize,
    /// What `__author__` says.
    pub author: Option<String>,
    /// Arrays of a projection head (`stem.fc.*`), which Detectron2 leaves alone.
    pub head: Vec<String>,
    /// What is wrong, in words; empty when nothing is.
    pub problems: Vec<String>,
    /// Why Detectron2 must not or cannot be asked to load it; `None` where it can.
    pub unloadable: Option<&'static str>,
}

fn arch_name<S: serde::Serializer>(arch: &Arch, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&arch.name())
}

/// Reads a pickle and lists everything that Detectron2 would stumble over or silently leave out: the outer
/// dictionary, names, shapes and types of the arrays, values that are no numbers.
///
/// # Errors
/// [`Error`] where the file cannot be read or is no pickle of arrays.
pub fn structure(path: &Path, arch: Option<Arch>) -> Result<Structure, Error> {
    let bytes = fs::read(path).map_err(|reason| Error::Read { path: path.to_owned(), reason })?;
    let (mut problems, unloadable) = match decode(&bytes, &Limits::default()) {
        Ok(pickle) => outside(&pickle),
        // The checkpoint reader has better words for what else the file may be.
        Err(_) => (vec![], None),
    };
    let checkpoint = Checkpoint::from_bytes(path, bytes)?;
    if checkpoint.format() != Format::NumpyPickle {
        return Err(Error::NoPickle { path: path.to_owned(), format: checkpoint.format() });
    }
    let named = Named::of(&checkpoint)?;
    let (arch, head) = arrays(path, &named, arch, &mut problems)?;
    Ok(Structure {
        arch,
        arrays: checkpoint.names().count(),
        author: checkpoint.metadata().get("__author__").cloned(),
        head,
        problems,
        unloadable,
    })
}

/// What is wrong around the arrays, and whether that keeps Detectron2 from loading them.
fn outside(pickle: &Pickle<'_>) -> (Vec<String>, Option<&'static str>) {
    let mut problems = outer_dictionary(pickle);
    let foreign = foreign_globals(pickle);
    let unloadable = match (foreign.is_empty(), problems.is_empty()) {
        (false, _) => Some("the pickle refers to more than arrays, and Python would execute it"),
        (true, false) => Some("the outer dictionary is invalid"),
        (true, true) => None,
    };
    problems.extend(foreign.into_iter().map(|global| {
        format!("it refers to `{global}`, which arrays do not need and which Detectron2 would call")
    }));
    (problems, unloadable)
}

/// The outer dictionary: `model` and the two keys beside it.
fn outer_dictionary(pickle: &Pickle<'_>) -> Vec<String> {
    let root = pickle.root();
    let mut problems = Vec::new();
    if root.get("model").and_then(Node::entries).is_none() {
        problems.push("it has no dictionary `model`: Detectron2 takes the file for a Caffe2 one".to_owned());
    }
    if root.get("__author__").and_then(Node::as_str).is_none() {
        problems.push("it has no text `__author__`: Detectron2 takes the file for a Caffe2 one".to_owned());
    }
    if root.get("matching_heuristics").and_then(Node::as_bool) != Some(true) {
        problems.push(
            "`matching_heuristics` is not True: Detectron2 does not match bare names to a detector's"
                .to_owned(),
        );
    }
    problems
}

fn foreign_globals(pickle: &Pickle<'_>) -> Vec<String> {
    let globals: BTreeSet<(&str, &str)> =
        pickle.nodes().filter_map(Node::global).map(|g| (&*g.module, &*g.name)).collect();
    globals
        .into_iter()
        .filter(|global| !ARRAY_GLOBALS.contains(global))
        .map(|(module, name)| format!("{module}.{name}"))
        .collect()
}

/// Names, shapes, types and values; the architecture and the projection head.
fn arrays(
    path: &Path,
    named: &Named<'_>,
    arch: Option<Arch>,
    problems: &mut Vec<String>,
) -> Result<(Arch, Vec<String>), Error> {
    arch.map(detectrons).transpose()?;
    let matched = named.against(arch);
    let theirs = |name: &str| detectron::from_torchvision(name).unwrap_or_else(|| name.to_owned());
    problems.extend(matched.report.missing.iter().map(|name| format!("`{}` is missing", theirs(name))));
    problems.extend(
        matched
            .report
            .mis_shaped
            .iter()
            .map(|m| format!("`{}`: expected the shape {:?}, got {:?}", theirs(&m.name), m.expected, m.got)),
    );
    problems.extend(
        matched
            .report
            .unused
            .iter()
            .map(|name| format!("`{}` is not part of {}", theirs(name), matched.arch)),
    );
    for param in Graph::new(matched.arch).params() {
        let Some(tensor) = named.encoder.get(&param.name) else { continue };
        // Names of a detector are long already, and the heuristics look for short ones inside of long ones.
        if theirs(&param.name) != tensor.name {
            problems.push(format!("`{}` should be named `{}`", tensor.name, theirs(&param.name)));
        }
        problems.extend(value_problem(path, param.kind, tensor)?);
    }
    let (head, others): (Vec<_>, Vec<_>) = named.others.iter().partition(|name| name.starts_with("stem.fc."));
    problems.extend(others.iter().map(|name| format!("`{name}` is not a name of an encoder")));
    Ok((matched.arch, head.into_iter().map(str::to_owned).collect()))
}

fn value_problem(path: &Path, kind: ParamKind, tensor: &Tensor<'_>) -> Result<Option<String>, Error> {
    let expected = if kind == ParamKind::BnCount { Dtype::I64 } else { Dtype::F32 };
    let name = tensor.name;
    if tensor.dtype != expected {
        return Ok(Some(format!("`{name}`: expected the type {expected}, got {}", tensor.dtype)));
    }
    if kind == ParamKind::BnCount {
        return Ok(None);
    }
    Ok(match check_values(path, kind, tensor) {
        Ok(()) => None,
        Err(CheckpointError::Value { value, count, reason: BadValue::NotFinite, .. }) => {
            Some(format!("`{name}` holds values that are not finite ({count}, the first is {value})"))
        }
        Err(CheckpointError::Value { value, count, .. }) => {
            Some(format!("`{name}` holds negative variances ({count}, the first is {value})"))
        }
        Err(other) => return Err(other.into()),
    })
}
