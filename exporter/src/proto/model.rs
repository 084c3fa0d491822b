//! The part of ONNX's messages that an encoder needs. Field numbers:
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use std::io::{self, Write};

use super::Message;

/// `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Float = 1,
    Uint8 = 2,
    Int64 = 7,
}

/// Values of an initialiser.
pub(crate) enum Weights<'a> {
    /// As they lie in the encoder.
    Borrowed(&'a [f32]),
    /// Small ones.
    Floats(Vec<f32>),
    /// Axes, pads.
    Ints(Vec<i64>),
    /// Computed while the file is written: how many, and how.
    Computed(usize, Box<dyn Fn() -> Vec<f32> + 'a>),
}

impl Weights<'_> {
    fn element(&self) -> Element {
        match self {
            Self::Ints(_) => Element::Int64,
            _ => Element::Float,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Borrowed(v) => v.len(),
            Self::Floats(v) => v.len(),
            Self::Ints(v) => v.len(),
            Self::Computed(len, _) => *len,
        }
    }

    pub(crate) fn byte_len(&self) -> u64 {
        self.len() as u64 * if matches!(self, Self::Ints(_)) { 8 } else { 4 }
    }

    pub(crate) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Borrowed(v) => write_floats(out, v),
            Self::Floats(v) => write_floats(out, v),
            Self::Ints(v) => v.iter().try_for_each(|i| out.write_all(&i.to_le_bytes())),
            Self::Computed(len, make) => {
                let values = make();
                // A wrong length would shift everything behind it.
                debug_assert_eq!(values.len(), *len);
                write_floats(out, &values)
            }
        }
    }
}

/// Little-endian floats, through a buffer that stays in the cache.
fn write_floats(out: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    let mut buffer = [0; 1 << 14];
    for chunk in values.chunks(buffer.len() / 4) {
        let bytes = &mut buffer[..chunk.len() * 4];
        bytes.as_chunks_mut().0.iter_mut().zip(chunk).for_each(|(b, v)| *b = v.to_le_bytes());
        out.write_all(bytes)?;
    }
    Ok(())
}

/// `TensorProto`.
pub(crate) struct Initializer<'a> {
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    pub(crate) weights: Weights<'a>,
}

impl Initializer<'_> {
    fn message(&self) -> Message<'_> {
        Message::default()
            .each(&self.dims, |m, &d| m.int(1, d as i64))
            .int(2, self.weights.element() as i64)
            .text(8, &self.name)
            .weights(9, &self.weights)
    }
}

/// `AttributeProto`.
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
    fn message(&self) -> Message<'_> {
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
    Named(&'static str),
}

/// `ValueInfoProto` of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) element: Element,
    pub(crate) dims: Vec<Dim>,
}

impl Value {
    fn message(&self) -> Message<'_> {
        let shape = Message::default().each(&self.dims, |m, dim| {
            let side = match dim {
                Dim::Fixed(n) => Message::default().int(1, *n as i64),
                Dim::Named(name) => Message::default().text(2, name),
            };
            m.message(1, side)
        });
        let tensor = Message::default().int(1, self.element as i64).message(2, shape);
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
}

impl Model<'_> {
    pub(crate) fn message(&self) -> Message<'_> {
        let graph = Message::default()
            .each(&self.nodes, |m, n| m.message(1, n.message()))
            .text(2, &self.name)
            .each(&self.initializers, |m, i| m.message(5, i.message()))
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
