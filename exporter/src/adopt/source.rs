//! A model of another project, as it lies in its files.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use occlude_contract::external;
use prost::Message;
use sha2::{Digest, Sha256};

use super::wire::{self, Field};
use crate::Error;
use crate::proto::read::{BFLOAT16, Entry, FLOAT16, Opset, Value};
use crate::refusal::Refusal;

/// Fields of `ModelProto`, `GraphProto` and `TensorProto` that are of interest (onnx.proto of ONNX 1.18).
pub(super) mod number {
    pub(in crate::adopt) const GRAPH: u64 = 7;
    pub(in crate::adopt) const OPSET: u64 = 8;
    pub(in crate::adopt) const METADATA: u64 = 14;
    pub(in crate::adopt) const TRAINING: u64 = 20;
    pub(in crate::adopt) const FUNCTION: u64 = 25;
    pub(in crate::adopt) const NODE: u64 = 1;
    pub(in crate::adopt) const INITIALIZER: u64 = 5;
    pub(in crate::adopt) const INPUT: u64 = 11;
    pub(in crate::adopt) const OUTPUT: u64 = 12;
    pub(in crate::adopt) const VALUE_INFO: u64 = 13;
    pub(in crate::adopt) const SPARSE: u64 = 15;
    pub(in crate::adopt) const EXTERNAL_DATA: u64 = 13;
    pub(in crate::adopt) const DATA_LOCATION: u64 = 14;
}

/// `TensorProto.DataLocation.EXTERNAL`.
pub(super) const EXTERNAL: u64 = 1;

/// Operations by which a model that computes with integers is known.
const INTEGERS: [&str; 6] = [
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "MatMulNBits",
];

/// The files, mapped: weights are never held in memory.
pub(super) struct Files {
    path: PathBuf,
    model: Mmap,
    /// Files of weights, by the names that the model has for them.
    data: Vec<(String, Mmap)>,
}

/// What the model says, with places in its files.
pub(super) struct Source<'f> {
    /// Fields of the model and of its graph.
    pub(super) model: Vec<Field<'f>>,
    pub(super) graph: Vec<Field<'f>>,
    pub(super) opset: i64,
    pub(super) metadata: Vec<(String, String)>,
    /// Inputs that no initialiser gives.
    pub(super) inputs: Vec<Value>,
    pub(super) outputs: Vec<Value>,
    /// Names of all values that operations give.
    pub(super) values: BTreeSet<String>,
    /// `fp32`, `fp16` or `int8`.
    pub(super) precision: &'static str,
    /// Weights that lie in other files, in the order of the initialisers.
    pub(super) external: Vec<External<'f>>,
}

/// An initialiser with its values in another file.
#[derive(Clone, Copy)]
pub(super) struct External<'f> {
    /// Its message.
    pub(super) tensor: &'f [u8],
    pub(super) values: &'f [u8],
}

fn map(path: &Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the mapping is private to this process and read-only. Somebody who truncates the file meanwhile ends the
    // process (SIGBUS) rather than corrupting anything.
    unsafe { Mmap::map(&file) }
}

impl Files {
    /// Maps the model and the files that its initialisers name.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::NotOnnx`], and [`Error::Adopt`] for weights that are not there.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let model = map(path).map_err(|reason| Error::Read { path: path.to_owned(), reason })?;
        let mut data: Vec<(String, Mmap)> = Vec::new();
        for field in parts(path, &model)?.1.iter().filter(|f| f.number == number::INITIALIZER) {
            let tensor = Head::of(field.content).ok_or_else(|| broken(path))?;
            if !tensor.external {
                continue;
            }
            let Some(location) = tensor.entry("location") else {
                let reason = format!("`{}` names no file", tensor.name);
                return Err(Error::refused(path, Refusal::Weights(reason)));
            };
            if data.iter().any(|(name, _)| name == location) {
                continue;
            }
            let missing = |reason: String| {
                let (tensor, file) = (tensor.name.clone(), path.with_file_name(location));
                Error::refused(path, Refusal::External { tensor, file, reason })
            };
            let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
            if !Path::new(location).components().all(plain) {
                return Err(missing("expected a file in the model's folder".to_owned()));
            }
            let mapped = map(&path.with_file_name(location)).map_err(|e| missing(e.to_string()))?;
            data.push((location.to_owned(), mapped));
        }
        Ok(Self { path: path.to_owned(), model, data })
    }

    /// Every file that is read.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let data = self.data.iter().map(|(name, _)| self.path.with_file_name(name));
        std::iter::once(self.path.clone()).chain(data).collect()
    }

    /// What the model says.
    ///
    /// # Errors
    /// [`Error::NotOnnx`], and [`Error::Adopt`] for weights that are not there or in a place that cannot be moved.
    pub(super) fn read(&self) -> Result<Source<'_>, Error> {
        let (model, graph) = parts(&self.path, &self.model)?;
        let opset = |f: &Field<'_>| Opset::decode(f.content).ok();
        let opsets = model.iter().filter(|f| f.number == number::OPSET).filter_map(opset);
        let own = |set: &Opset| set.domain.is_empty() || set.domain == "ai.onnx";
        let opset = opsets.filter(own).map(|set| set.version).max().unwrap_or_default();
        let all = |fields: &[Field<'_>], number| self.decoded::<Value>(fields, number);
        let (inputs, outputs) = (all(&graph, number::INPUT)?, all(&graph, number::OUTPUT)?);
        let metadata = self.decoded::<Entry>(&model, number::METADATA)?;
        let mut source = Source {
            opset,
            metadata: metadata.into_iter().map(|p| (p.key, p.value)).collect(),
            inputs,
            outputs,
            values: BTreeSet::new(),
            precision: "fp32",
            external: Vec::new(),
            model,
            graph,
        };
        self.tensors(&mut source)?;
        self.operations(&mut source)?;
        Ok(source)
    }

    fn decoded<M: Message + Default>(&self, fields: &[Field<'_>], number: u64) -> Result<Vec<M>, Error> {
        let found = fields.iter().filter(|f| f.number == number);
        let broken =
            |e: prost::DecodeError| Error::NotOnnx { path: self.path.clone(), reason: e.to_string() };
        found.map(|f| M::decode(f.content).map_err(broken)).collect()
    }

    /// Initialisers: which inputs they give, in which numbers they are, and where they lie.
    fn tensors<'f>(&'f self, source: &mut Source<'f>) -> Result<(), Error> {
        let mut given = BTreeSet::new();
        for field in source.graph.iter().filter(|f| f.number == number::INITIALIZER) {
            let head = Head::of(field.content).ok_or_else(|| broken(&self.path))?;
            if [FLOAT16, BFLOAT16].contains(&head.element) {
                source.precision = "fp16";
            }
            if head.external {
                let values = self.values(&head)?;
                source.external.push(External { tensor: field.content, values });
            }
            given.insert(head.name);
        }
        let away = |f: &Field<'_>| {
            f.number == number::SPARSE
                && holds_external(f.content, external::Message::Sparse, external::DEPTH)
        };
        if source.graph.iter().any(away) {
            let reason = "sparse weights are in another file".to_owned();
            return Err(Error::refused(&self.path, Refusal::Weights(reason)));
        }
        source.inputs.retain(|input| !given.contains(&input.name));
        source.values.extend(given);
        Ok(())
    }

    fn operations(&self, source: &mut Source<'_>) -> Result<(), Error> {
        const OUTPUT: u64 = 2;
        const NAME: u64 = 3;
        const OPERATION: u64 = 4;
        // functions and what belongs to training are outside of the graph, and no place is kept for their values
        let away = |f: &Field<'_>| {
            [number::TRAINING, number::FUNCTION].contains(&f.number)
                && external::child(external::Message::Model, f.number)
                    .is_some_and(|kind| holds_external(f.content, kind, external::DEPTH))
        };
        if source.model.iter().any(away) {
            let reason = "values of a function are in another file".to_owned();
            return Err(Error::refused(&self.path, Refusal::Weights(reason)));
        }
        for field in source.graph.iter().filter(|f| f.number == number::NODE) {
            let node = wire::fields(field.content).map_err(|_| broken(&self.path))?;
            let texts = |number| node.iter().filter(move |f| f.number == number).map(|f| text(f.content));
            if holds_external(field.content, external::Message::Node, external::DEPTH) {
                let name = texts(NAME).next().unwrap_or_default();
                let reason = format!("values of the operation `{name}` are in another file");
                return Err(Error::refused(&self.path, Refusal::Weights(reason)));
            }
            let operation = texts(OPERATION).next().unwrap_or_default();
            if INTEGERS.contains(&operation.as_str()) || operation.starts_with("QLinear") {
                source.precision = "int8";
            }
            source.values.extend(texts(OUTPUT));
        }
        Ok(())
    }

    /// The bytes of an initialiser in its file.
    fn values(&self, tensor: &Head) -> Result<&[u8], Error> {
        let location = tensor.entry("location").unwrap_or_default();
        let file = self.data.iter().find(|(name, _)| name == location).map_or(&[][..], |(_, data)| &data[..]);
        let number = |key: &str| match tensor.entry(key) {
            None => Some(None),
            Some(text) => text.parse::<usize>().ok().map(Some),
        };
        let found = || {
            let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
            let rest = file.get(offset..)?;
            length.map_or(Some(rest), |length| rest.get(..length))
        };
        found().ok_or_else(|| {
            let said = |key| tensor.entry(key).unwrap_or("none");
            let reason = format!(
                "it has {} bytes, and the model asks for {} from {} on",
                file.len(),
                said("length"),
                said("offset")
            );
            let (name, file) = (tensor.name.clone(), self.path.with_file_name(location));
            Error::refused(&self.path, Refusal::External { tensor: name, file, reason })
        })
    }

    /// Adds the model to a hash, with the weights that lie beside it.
    pub(super) fn hash(&self, source: &Source<'_>, hash: &mut Sha256) {
        hash.update((self.model.len() as u64).to_le_bytes());
        hash.update(&self.model);
        for External { tensor, values } in &source.external {
            hash.update((tensor.len() as u64).to_le_bytes());
            hash.update(tensor);
            hash.update((values.len() as u64).to_le_bytes());
            hash.update(values);
        }
    }
}

/// The fields of model and graph.
type Parts<'f> = (Vec<Field<'f>>, Vec<Field<'f>>);

fn parts<'f>(path: &Path, bytes: &'f [u8]) -> Result<Parts<'f>, Error> {
    let refuse = |reason: &str| Error::NotOnnx { path: path.to_owned(), reason: reason.to_owned() };
    let cut = |_| refuse("it is no message of protocol buffers, or ends in the middle");
    let model = wire::fields(bytes).map_err(cut)?;
    let graphs: Vec<_> = model.iter().filter(|f| f.number == number::GRAPH).collect();
    // Any short file parses as some message; a model has a graph and says its opset.
    let [graph] = graphs.as_slice() else { return Err(refuse("no graph or no operator set in it")) };
    let graph = wire::fields(graph.content).map_err(cut)?;
    if !model.iter().any(|f| f.number == number::OPSET) {
        return Err(refuse("no graph or no operator set in it"));
    }
    Ok((model, graph))
}

fn broken(path: &Path) -> Error {
    Error::NotOnnx { path: path.to_owned(), reason: "a message in it ends in the middle".to_owned() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An initialiser without its values, which may be large.
struct Head {
    name: String,
    element: i32,
    /// Whether its values lie in another file.
    external: bool,
    /// Where they lie.
    entries: Vec<Entry>,
}

impl Head {
    /// `None` where the message ends in the middle.
    fn of(tensor: &[u8]) -> Option<Self> {
        const ELEMENT: u64 = 2;
        const NAME: u64 = 8;
        let mut head = Self { name: String::new(), element: 0, external: false, entries: vec![] };
        for field in wire::fields(tensor).ok()? {
            match field.number {
                ELEMENT => head.element = field.value as i32,
                NAME => head.name = text(field.content),
                number::EXTERNAL_DATA => head.entries.push(Entry::decode(field.content).ok()?),
                number::DATA_LOCATION => head.external = field.value == EXTERNAL,
                _ => {}
            }
        }
        Some(head)
    }

    fn entry(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|e| e.key == key).map(|e| e.value.as_str())
    }
}

/// Whether a message has values in another file; what is too deep to see counts as having some.
fn holds_external(message: &[u8], kind: external::Message, depth: usize) -> bool {
    let below = |field: &Field<'_>| {
        external::child(kind, field.number)
            .is_some_and(|child| depth == 0 || holds_external(field.content, child, depth - 1))
    };
    let own = |field: &Field<'_>| {
        kind == external::Message::Tensor && field.number == number::DATA_LOCATION && field.value == EXTERNAL
    };
    wire::fields(message).unwrap_or_default().iter().any(|field| own(field) || below(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], path: &Path) -> Result<usize, String> {
        std::fs::write(path, bytes).expect("written");
        let files = Files::open(path).map_err(|e| e.to_string())?;
        files.read().map(|source| source.values.len()).map_err(|e| e.to_string())
    }

    /// Whatever a byte is changed to, and wherever the file ends, reading gives a model or an error.
    #[test]
    fn broken_files_are_errors_or_models() {
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adopt/dinov2/onnx/model.onnx");
        let bytes = std::fs::read(whole).expect("there");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.onnx");
        let missing = read(&bytes, &path).expect_err("its weights are elsewhere");
        assert!(missing.contains("model.onnx_data"), "{missing}");
        let mut place = 1usize;
        for _ in 0..400 {
            place = (place * 7919 + 13) % bytes.len();
            let mut changed = bytes.clone();
            changed[place] = changed[place].wrapping_add(1 + (place % 255) as u8);
            let _ = read(&changed, &path);
            let _ = read(&bytes[..place], &path);
        }
    }

    /// No place is kept for what a function (field 25 of the model) has in another file.
    #[test]
    fn values_of_functions_may_not_be_elsewhere() {
        let field = |number: u64, inside: &[u8]| {
            let mut out = vec![(number << 3 | 2) as u8];
            if number > 15 {
                out = vec![(number << 3 | 2) as u8 | 0x80, (number >> 4) as u8];
            }
            out.push(inside.len() as u8);
            out.extend_from_slice(inside);
            out
        };
        let tensor = vec![14 << 3, 1];
        let constant = field(5, &field(5, &tensor));
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adopt/clip/model.onnx");
        let bytes = std::fs::read(whole).expect("there");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.onnx");
        assert!(read(&bytes, &path).is_ok());
        let function = field(25, &field(7, &constant));
        let error = read(&[bytes, function].concat(), &path).expect_err("elsewhere");
        assert!(error.contains("values of a function"), "{error}");
    }

    /// Weights may not lie outside of the model's folder.
    #[test]
    fn paths_lead_nowhere_else() {
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adopt/dinov2/onnx/model.onnx");
        let mut bytes = std::fs::read(whole).expect("there");
        let name = b"model.onnx_data";
        let places: Vec<usize> =
            bytes.windows(name.len()).enumerate().filter(|(_, w)| w == name).map(|(at, _)| at).collect();
        for at in places {
            bytes[at..at + name.len()].copy_from_slice(b"../../../../etc");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let error = read(&bytes, &folder.path().join("model.onnx")).expect_err("outside");
        assert!(error.contains("expected a file in the model's folder"), "{error}");
    }
}
