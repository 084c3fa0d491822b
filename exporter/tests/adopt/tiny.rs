//! Models of a few operations, and changes to others.

use std::fs;
use std::path::PathBuf;

use occlude_export::adopt::AdoptOptions;
use occlude_preprocess::Preprocess;
use prost::Message;
use tract_onnx::pb::{
    self, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto,
    tensor_proto::DataType, tensor_shape_proto::dimension, type_proto,
};

use crate::place::Place;

pub(crate) fn graph(model: &mut ModelProto) -> &mut pb::GraphProto {
    model.graph.as_mut().expect("a graph")
}

pub(crate) fn rename(model: &mut ModelProto, from: &str, to: &str) {
    let graph = graph(model);
    let names = graph.node.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output));
    let names = names.chain(graph.output.iter_mut().map(|o| &mut o.name));
    names.filter(|name| *name == from).for_each(|name| to.clone_into(name));
}

pub(crate) fn port(name: &str, element: DataType, sides: &[Option<i64>]) -> ValueInfoProto {
    let dim = |side: &Option<i64>| pb::tensor_shape_proto::Dimension {
        value: Some(match side {
            Some(n) => dimension::Value::DimValue(*n),
            None => dimension::Value::DimParam("batch".to_owned()),
        }),
        ..Default::default()
    };
    let shape = pb::TensorShapeProto { dim: sides.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: element as i32, shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(pb::TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

pub(crate) fn node(op: &str, inputs: &[&str], output: &str, axis: Option<i64>) -> NodeProto {
    let attribute = |i| pb::AttributeProto { name: "axis".to_owned(), i, r#type: 2, ..Default::default() };
    NodeProto {
        op_type: op.to_owned(),
        name: output.to_owned(),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: axis.map(attribute).into_iter().collect(),
        ..Default::default()
    }
}

pub(crate) fn tensor(name: &str, element: DataType, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    let (name, dims) = (name.to_owned(), dims.to_vec());
    TensorProto { name, dims, data_type: element as i32, raw_data, ..Default::default() }
}

pub(crate) fn int64(name: &str, values: &[i64]) -> TensorProto {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(name, DataType::Int64, &[values.len() as i64], bytes)
}

pub(crate) fn float(name: &str, value: f32) -> TensorProto {
    tensor(name, DataType::Float, &[1], value.to_le_bytes().to_vec())
}

/// A model of pictures of 8 pixels.
pub(crate) fn tiny(batch: Option<i64>, nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let graph = pb::GraphProto {
        name: "tiny".to_owned(),
        node: nodes,
        initializer,
        input: vec![port("pixel_values", DataType::Float, &[batch, Some(3), Some(8), Some(8)])],
        output: vec![port("output", DataType::Float, &[batch, Some(192)])],
        ..Default::default()
    };
    ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { version: 17, ..Default::default() }],
        metadata_props: vec![StringStringEntryProto { key: "kept".to_owned(), value: "as it is".to_owned() }],
        ..Default::default()
    }
}

pub(crate) fn written(place: &Place, model: &ModelProto) -> PathBuf {
    let path = place.at("tiny.onnx");
    fs::write(&path, model.encode_to_vec()).expect("written");
    path
}

pub(crate) fn tiny_options() -> AdoptOptions {
    let file = std::env::temp_dir().join(format!("occlude-adopt-{}.json", std::process::id()));
    fs::write(&file, Preprocess::imagenet(8).to_json()).expect("written");
    AdoptOptions { contract: Some(file.display().to_string()), ..AdoptOptions::default() }
}
