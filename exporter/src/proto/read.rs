//! What is read of ONNX files: the messages of <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto> with the fields that
//! something looks at. Readers of protocol buffers pass over fields that they do not know.

use prost::Message;

/// `ModelProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Model {
    #[prost(int64, tag = "1")]
    pub(crate) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(crate) producer_name: String,
    #[prost(string, tag = "3")]
    pub(crate) producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<Opset>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) metadata_props: Vec<Entry>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Opset {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(int64, tag = "2")]
    pub(crate) version: i64,
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<Value>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
}

/// `TensorProto`, without its values.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub(crate) dims: Vec<i64>,
    /// `data_type`.
    #[prost(int32, tag = "2")]
    pub(crate) element: i32,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// `type`.
    #[prost(message, optional, tag = "2")]
    pub(crate) kind: Option<Kind>,
}

/// `TypeProto`; sequences, maps and optional values are nothing that models of pictures take or give.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Kind {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor: Option<TensorKind>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorKind {
    /// `elem_type`.
    #[prost(int32, tag = "1")]
    pub(crate) element: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sides: Vec<Side>,
}

/// `TensorShapeProto.Dimension`: a number, a name, or neither.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Side {
    #[prost(int64, optional, tag = "1")]
    pub(crate) number: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(crate) name: Option<String>,
}

/// The names of `TensorProto.DataType`, by their numbers.
const ELEMENTS: [&str; 24] = [
    "undefined",
    "float",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "string",
    "bool",
    "float16",
    "double",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
    "bfloat16",
    "float8e4m3fn",
    "float8e4m3fnuz",
    "float8e5m2",
    "float8e5m2fnuz",
    "uint4",
    "int4",
    "float4e2m1",
];

/// The name of an element type, `?` for one of a later version.
pub(crate) fn element_name(element: i32) -> &'static str {
    usize::try_from(element).ok().and_then(|at| ELEMENTS.get(at)).unwrap_or(&"?")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields as the wire has them, unknown ones among them, against the specification's numbers.
    #[test]
    fn a_model_is_read_from_its_bytes() {
        fn field(tag: u8, content: &[u8]) -> Vec<u8> {
            [&[(tag << 3) | 2, content.len() as u8][..], content].concat()
        }
        let number = |tag: u8, value: u8| vec![tag << 3, value];
        let sides = [field(1, &number(1, 7)), field(1, &field(2, b"N")), field(1, b"")].concat();
        let kind = field(1, &[number(1, 2), field(2, &sides)].concat());
        let input = [field(1, b"images"), field(2, &kind), field(3, b"a remark")].concat();
        let weight = [number(1, 3), number(1, 4), number(2, 1), field(8, b"w"), field(9, b"bytes")].concat();
        let graph = [field(1, &field(4, b"Conv")), field(5, &weight), field(11, &input)].concat();
        let bytes = [number(1, 8), field(2, b"occlude"), field(7, &graph), field(8, &number(2, 17))].concat();
        let model = Model::decode(bytes.as_slice()).expect("a model");
        assert_eq!((model.ir_version, model.producer_name.as_str()), (8, "occlude"));
        assert_eq!((model.opset_import[0].domain.as_str(), model.opset_import[0].version), ("", 17));
        let graph = model.graph.expect("a graph");
        assert_eq!((graph.node[0].op_type.as_str(), graph.initializer[0].name.as_str()), ("Conv", "w"));
        assert_eq!((graph.initializer[0].dims.as_slice(), graph.initializer[0].element), (&[3, 4][..], 1));
        let tensor = graph.input[0].kind.clone().and_then(|kind| kind.tensor).expect("a tensor");
        let sides = tensor.shape.expect("a shape").sides;
        let read: Vec<_> = sides.iter().map(|side| (side.number, side.name.as_deref())).collect();
        assert_eq!(read, [(Some(7), None), (None, Some("N")), (None, None)]);
        assert_eq!(element_name(tensor.element), "uint8");
    }

    #[test]
    fn element_types_have_names() {
        assert_eq!([1, 10, 16, 22].map(element_name), ["float", "float16", "bfloat16", "int4"]);
        assert_eq!([-1, 99].map(element_name), ["?"; 2]);
    }
}
