//! The part of ONNX's messages that an encoder needs. Field numbers:
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use std::io::{self, Read, Write};

use super::{Element, Message, Stream, Weights};

/// `TensorProto`.
pub(crate) struct Initializer<'a> {
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    pub(crate) weights: Weights<'a>,
}

/// Tensors shorter than this stay in the model's own file, also where the others have one of theirs.
const INLINE: u64 = 1024;

/// Offsets in a data file are multiples of this, so that runtimes can map tensors.
const ALIGNMENT: u64 = 4096;

impl Initializer<'_> {
    fn is_external(&self) -> bool {
        self.weights.byte_len() >= INLINE
    }

    pub(crate) fn message(&self, external: Option<(&str, u64)>) -> Message<'_> {
        let tensor = Message::default()
            .each(&self.dims, |m, &d| m.int(1, d as i64))
            .int(2, self.weights.element() as i64)
            .text(8, &self.name);
        let Some((file, offset)) = external.filter(|_| self.is_external()) else {
            return tensor.stream(9, &self.weights);
        };
        let entry = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
        tensor
            .message(13, entry("location", file))
            .message(13, entry("offset", &offset.to_string()))
            .message(13, entry("length", &self.weights.byte_len().to_string()))
            .int(14, 1)
    }
}

/// `AttributeProto`.
#[derive(Clone)]
pub(crate) enum Attribute {
    Int(&'static str, i64),
    Ints(&'static str, Vec<i64>),
    Float(&'static str, f32),
    Text(&'static str, &'static str),
}

impl Attribute {
    fn message(&self) -> Message<'_> {
        let named = |name| Message::default().text(1, name);
        match self {
            Self::Int(name, value) => named(name).int(3, *value).int(20, 2),
            Self::Ints(name, values) => named(name).each(values, |m, &v| m.int(8, v)).int(20, 7),
            Self::Float(name, value) => named(name).float(2, *value).int(20, 1),
            Self::Text(name, value) => named(name).text(4, value).int(20, 3),
        }
    }
}

/// `NodeProto`.
pub(crate) struct Node {
    pub(crate) op: &'static str,
    pub(crate) name: String,
    pub(crate) inputs: Vec<String>,
    /// Every operation here has one output.
    pub(crate) output: String,
    pub(crate) attributes: Vec<Attribute>,
}

impl Node {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::default()
            .each(&self.inputs, |m, name| m.text(1, name))
            .text(2, &self.output)
            .text(3, &self.name)
            .text(4, self.op)
            .each(&self.attributes, |m, a| m.message(5, a.message()))
    }
}

/// One side of a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dim {
    Fixed(usize),
    Named(String),
}

/// `ValueInfoProto` of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) element: Element,
    /// Empty where runtimes shall find it out.
    pub(crate) dims: Vec<Dim>,
}

impl Value {
    pub(crate) fn message(&self) -> Message<'_> {
        let shape = Message::default().each(&self.dims, |m, dim| {
            let side = match dim {
                Dim::Fixed(n) => Message::default().int(1, *n as i64),
                Dim::Named(name) => Message::default().text(2, name),
            };
            m.message(1, side)
        });
        let tensor = Message::default().int(1, self.element as i64);
        let tensor = if self.dims.is_empty() { tensor } else { tensor.message(2, shape) };
        Message::default().text(1, &self.name).message(2, Message::default().message(1, tensor))
    }
}

/// `ModelProto` with its graph.
pub(crate) struct Model<'a> {
    pub(crate) opset: u32,
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) initializers: Vec<Initializer<'a>>,
    pub(crate) inputs: Vec<Value>,
    pub(crate) outputs: Vec<Value>,
    /// `metadata_props`, in this order.
    pub(crate) metadata: Vec<(String, String)>,
    /// What of it says the same in several ways.
    pub(crate) form: Option<Form>,
}

/// A part of a model that has several forms, all of the same numbers: an output, and what its operations and constants
/// are named below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// The output.
    pub(crate) of: String,
    /// What it computes, which counts in place of how.
    pub(crate) what: String,
}

impl Model<'_> {
    /// The model; with the name of a data file, large tensors are only named, and belong into that
    /// file as [`Self::write_data`] writes it.
    pub(crate) fn message(&self, data: Option<&str>) -> Message<'_> {
        let graph = Message::default()
            .each(&self.nodes, |m, n| m.message(1, n.message()))
            .text(2, &self.name)
            .each(self.placed(), |m, (i, offset)| m.message(5, i.message(data.map(|file| (file, offset)))))
            .each(&self.inputs, |m, v| m.message(11, v.message()))
            .each(&self.outputs, |m, v| m.message(12, v.message()));
        Message::default()
            .int(1, ir_version(self.opset))
            .text(2, "occlude")
            .text(3, env!("CARGO_PKG_VERSION"))
            .int(5, 1)
            .message(7, graph)
            // The empty domain is ONNX's own.
            .message(8, Message::default().text(1, "").int(2, i64::from(self.opset)))
            .each(&self.metadata, |m, (key, value)| {
                m.message(14, Message::default().text(1, key).text(2, value))
            })
    }
}

impl<'a> Model<'a> {
    /// Every initialiser and where it begins in a data file.
    fn placed(&self) -> impl Iterator<Item = (&Initializer<'a>, u64)> {
        self.initializers.iter().scan(0u64, |end, initializer| {
            let offset = end.next_multiple_of(ALIGNMENT);
            if initializer.is_external() {
                *end = offset + initializer.weights.byte_len();
            }
            Some((initializer, offset))
        })
    }

    /// Writes the data file.
    pub(crate) fn write_data(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut at = 0;
        for (initializer, offset) in self.placed().filter(|(i, _)| i.is_external()) {
            io::copy(&mut io::repeat(0).take(offset - at), out)?;
            initializer.weights.write_to(out)?;
            at = offset + initializer.weights.byte_len();
        }
        Ok(())
    }
}

/// The oldest IR version that knows an opset, so that old readers take the file:
/// <https://github.com/onnx/onnx/blob/main/docs/Versioning.md#released-versions>.
fn ir_version(opset: u32) -> i64 {
    match opset {
        ..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        _ => 11,
    }
}
