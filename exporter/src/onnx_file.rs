//! Reading an ONNX file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use occlude_contract::{Golden, InputKind, key};
use occlude_preprocess::Preprocess;
use occlude_saliency::Making;
use prost::Message;

use crate::Error;
use crate::onnx::{OutputKind, Pool};
use crate::proto::read::{self, Model, Value};

/// A parsed ONNX file.
pub struct OnnxFile {
    path: PathBuf,
    bytes: Vec<u8>,
    proto: Model,
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Element type: `float`, `uint8`.
    pub element: String,
    /// Sides: numbers, names of dynamic ones, `?`.
    pub shape: Vec<String>,
}

impl OnnxFile {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::NotOnnx`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(|reason| Error::Read { path: path.to_owned(), reason })?;
        let not_onnx = |reason: String| Error::NotOnnx { path: path.to_owned(), reason };
        let proto = Model::decode(bytes.as_slice()).map_err(|e| not_onnx(e.to_string()))?;
        // Any short file parses as some message; a model has a graph and says its opset.
        if proto.graph.is_none() || proto.opset_import.is_empty() {
            return Err(not_onnx("no graph or no operator set in it".to_owned()));
        }
        Ok(Self { path: path.to_owned(), bytes, proto })
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The parsed model.
    pub(crate) fn proto(&self) -> &Model {
        &self.proto
    }

    /// The graph's inputs (without those that are initialisers) and outputs.
    pub fn ports(&self) -> (Vec<Port>, Vec<Port>) {
        let Some(graph) = &self.proto.graph else { return (vec![], vec![]) };
        let given = |name: &str| graph.initializer.iter().any(|i| i.name == name);
        let inputs = graph.input.iter().filter(|v| !given(&v.name)).map(port).collect();
        (inputs, graph.output.iter().map(port).collect())
    }

    /// `metadata_props`.
    pub fn metadata(&self) -> BTreeMap<&str, &str> {
        self.proto.metadata_props.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect()
    }

    /// A property that every model of ours has.
    ///
    /// # Errors
    /// [`Error::Foreign`] where it is missing.
    pub fn property(&self, key: &'static str) -> Result<&str, Error> {
        self.metadata().get(key).copied().ok_or_else(|| self.foreign(key))
    }

    /// The preprocessing contract in the metadata.
    ///
    /// # Errors
    /// [`Error::Foreign`] where there is none, [`Error::Contract`] where it is invalid.
    pub fn contract(&self) -> Result<Preprocess, Error> {
        Preprocess::from_json(self.property(key::PREPROCESS)?).map_err(|reason| Error::Contract {
            origin: format!("contract in `{}`", self.path.display()),
            reason,
        })
    }

    /// The golden data in the metadata, `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Golden`] where it is broken.
    pub fn golden(&self) -> Result<Option<Golden>, Error> {
        let metadata = self.metadata();
        Golden::read(|key| metadata.get(key).map(|&v| v.to_owned()))
            .map_err(|reason| Error::Golden { path: self.path.clone(), reason })
    }

    /// Which of our inputs the model takes.
    ///
    /// # Errors
    /// [`Error::Foreign`] where it takes something else.
    pub fn input(&self) -> Result<InputKind, Error> {
        let (inputs, _) = self.ports();
        InputKind::ALL
            .into_iter()
            .find(|kind| inputs.len() == 1 && inputs.iter().any(|i| i.name == kind.name()))
            .ok_or_else(|| self.foreign("input `pixel_values` or `images`"))
    }

    /// The outputs, all of which are ours.
    ///
    /// # Errors
    /// [`Error::Foreign`] where one is something else.
    pub fn outputs(&self) -> Result<Vec<OutputKind>, Error> {
        let (_, outputs) = self.ports();
        let kind = |port: &Port| port.name.parse().map_err(|_| self.foreign("known set of outputs"));
        outputs.iter().map(kind).collect()
    }

    /// How the map is made; files of the first versions say nothing and have the sum.
    ///
    /// # Errors
    /// [`Error::Foreign`] where it is made otherwise than by this version's rules.
    pub fn saliency(&self) -> Result<Making, Error> {
        let metadata = self.metadata();
        let Some(text) = metadata.get(key::SALIENCY) else { return Ok(Making::SUM) };
        let known = serde_json::from_str::<Making>(text).ok().filter(|m| (2..=5).contains(&m.stage));
        known.ok_or_else(|| self.foreign("known rule for its saliency map"))
    }

    /// What of a vision transformer's tokens the embedding is; files of others say nothing.
    ///
    /// # Errors
    /// [`Error::Foreign`] where it is something else than this version knows.
    pub fn pool(&self) -> Result<Pool, Error> {
        let metadata = self.metadata();
        let Some(name) = metadata.get(key::POOL) else { return Ok(Pool::default()) };
        let known = Pool::ALL.into_iter().find(|pool| pool.name() == *name);
        known.ok_or_else(|| self.foreign("known pooling for its embedding"))
    }

    /// `fp32`, `fp16` or `int8`; files of the first versions say nothing and are `fp32`.
    pub fn precision(&self) -> &str {
        self.metadata().get(key::PRECISION).copied().unwrap_or("fp32")
    }

    /// Whether tight tolerances make sense.
    pub fn is_single_precision(&self) -> bool {
        self.precision() == "fp32"
    }

    pub(crate) fn foreign(&self, what: &'static str) -> Error {
        Error::Foreign { path: self.path.clone(), what }
    }
}

fn port(value: &Value) -> Port {
    let tensor = value.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
    let sides = tensor.and_then(|t| t.shape.as_ref()).map(|s| s.sides.as_slice()).unwrap_or_default();
    let shape = sides.iter().map(|side| match (side.number, &side.name) {
        (Some(n), _) => n.to_string(),
        (None, Some(name)) => name.clone(),
        (None, None) => "?".to_owned(),
    });
    Port {
        name: value.name.clone(),
        element: tensor.map_or("?", |t| read::element_name(t.element)).to_owned(),
        shape: shape.collect(),
    }
}
