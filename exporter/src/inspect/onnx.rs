//! ONNX models.

use std::collections::BTreeMap;

use occlude_contract::{Golden, key};
use occlude_preprocess::Rgb;
use serde_json::{Value, json};

use super::{Inspection, Lines, size};
use crate::onnx_file::Port;
use crate::proto::read::{Tensor, element_name};
use crate::{Error, OnnxFile};

pub(super) fn look(file: &OnnxFile) -> Inspection {
    let (inputs, outputs) = file.ports();
    let mut lines = Lines::default();
    lines.add("file", format!("{} ({}, ONNX)", file.path().display(), size(file.bytes().len() as u64)));
    let proto = file.proto();
    lines.add("producer", format!("{} {}", proto.producer_name, proto.producer_version));
    lines.add(
        "opset",
        opsets(file).into_iter().map(|(domain, v)| format!("{domain} {v}")).collect::<Vec<_>>().join(", "),
    );
    for (label, ports) in [("input", &inputs), ("output", &outputs)] {
        for port in ports {
            lines.add(label, format!("{} {} ({})", port.name, port.element, port.shape.join(", ")));
        }
    }
    let identity = file.metadata().get(key::IDENTITY).copied();
    lines.add("identity", identity.unwrap_or("none: a server identifies this model by the file's content"));
    lines.add("golden", golden_text(file));
    for (key, value) in metadata(file).into_iter().filter(|(key, _)| *key != key::IDENTITY) {
        lines.add_cut("metadata", &format!("{key} = {value}"));
    }
    let operations: Vec<String> = operations(file).into_iter().map(|(op, n)| format!("{op} {n}")).collect();
    lines.add("operations", operations.join(", "));
    let tensors = initializers(file);
    lines.add("initialisers", tensors.len());
    let row = |t: &&Tensor| {
        [t.name.clone(), element_name(t.element).to_owned(), format!("{:?}", t.dims).replace(['[', ']'], "")]
    };
    let rows: Vec<_> =
        tensors.iter().map(row).map(|[name, kind, dims]| [name, kind, format!("({dims})")]).collect();
    lines.table(["name", "type", "shape"], &rows);
    Inspection { text: lines.0, json: json(file, &inputs, &outputs) }
}

/// The metadata without golden data, which is for machines.
fn metadata(file: &OnnxFile) -> BTreeMap<&str, &str> {
    let golden = [key::GOLDEN_IMAGE, key::GOLDEN_EMBEDDING, key::GOLDEN_SALIENCY, key::GOLDEN_SOURCE];
    file.metadata().into_iter().filter(|(key, _)| !golden.contains(key)).collect()
}

/// What there is of golden data, and its picture.
fn golden(file: &OnnxFile) -> Result<Option<(Golden, Rgb)>, Error> {
    let Some(golden) = file.golden()? else { return Ok(None) };
    let picture = golden.picture();
    let picture = picture.map_err(|reason| Error::Golden { path: file.path().to_owned(), reason })?;
    Ok(Some((golden, picture)))
}

fn golden_text(file: &OnnxFile) -> String {
    match golden(file) {
        Ok(Some((golden, picture))) => format!(
            "picture of {}x{} ({}), embedding of {}, saliency of {} values, computed by {}",
            picture.width,
            picture.height,
            size(golden.image.len() as u64),
            golden.embedding.len(),
            golden.saliency.len(),
            golden.source
        ),
        Ok(None) => "none: a server cannot check this model's outputs".to_owned(),
        Err(error) => format!("broken: {error}"),
    }
}

fn golden_json(file: &OnnxFile) -> Value {
    match golden(file) {
        Ok(Some((golden, picture))) => json!({
            "width": picture.width,
            "height": picture.height,
            "bytes": golden.image.len(),
            "embedding": golden.embedding.len(),
            "saliency": golden.saliency.len(),
            "source": golden.source,
        }),
        Ok(None) => Value::Null,
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// Version by domain; ONNX's own has an empty name.
fn opsets(file: &OnnxFile) -> BTreeMap<&str, i64> {
    file.proto()
        .opset_import
        .iter()
        .map(|o| (if o.domain.is_empty() { "ai.onnx" } else { o.domain.as_str() }, o.version))
        .collect()
}

fn operations(file: &OnnxFile) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for node in file.proto().graph.iter().flat_map(|g| &g.node) {
        *counts.entry(node.op_type.as_str()).or_default() += 1;
    }
    counts
}

fn initializers(file: &OnnxFile) -> Vec<&Tensor> {
    file.proto().graph.iter().flat_map(|g| &g.initializer).collect()
}

fn json(file: &OnnxFile, inputs: &[Port], outputs: &[Port]) -> Value {
    let port = |p: &Port| json!({ "name": p.name, "type": p.element, "shape": p.shape });
    let tensor = |t: &&Tensor| json!({ "name": t.name, "type": element_name(t.element), "shape": t.dims });
    json!({
        "kind": "onnx",
        "path": file.path().display().to_string(),
        "bytes": file.bytes().len(),
        "producer": file.proto().producer_name,
        "producer_version": file.proto().producer_version,
        "ir_version": file.proto().ir_version,
        "opset": opsets(file),
        "inputs": inputs.iter().map(port).collect::<Vec<_>>(),
        "outputs": outputs.iter().map(port).collect::<Vec<_>>(),
        "identity": file.metadata().get(key::IDENTITY),
        "golden": golden_json(file),
        "metadata": metadata(file),
        "operations": operations(file),
        "initializers": initializers(file).iter().map(tensor).collect::<Vec<_>>(),
    })
}
