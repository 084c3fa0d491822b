//! Through which messages of an ONNX file the data can be reached that it keeps in other files (onnx.proto of ONNX 1.18), and
//! which files these are.

mod files;

pub use files::files;

/// Messages on the way to a tensor, and what a tensor says of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// `ModelProto`
    Model,
    /// `TrainingInfoProto`
    Training,
    /// `FunctionProto`
    Function,
    /// `GraphProto`
    Graph,
    /// `NodeProto`
    Node,
    /// `AttributeProto`
    Attribute,
    /// `SparseTensorProto`
    Sparse,
    /// `TensorProto`
    Tensor,
    /// `StringStringEntryProto` of a tensor's `external_data`
    Entry,
}

/// How deep messages may lie in each other: graphs of attributes have nodes with attributes.
pub const DEPTH: usize = 64;

const FIELDS: [(Message, u64, Message); 20] = [
    (Message::Model, 7, Message::Graph),
    (Message::Model, 20, Message::Training),
    (Message::Model, 25, Message::Function),
    (Message::Training, 1, Message::Graph),
    (Message::Training, 2, Message::Graph),
    (Message::Function, 7, Message::Node),
    (Message::Function, 11, Message::Attribute),
    (Message::Graph, 1, Message::Node),
    (Message::Graph, 5, Message::Tensor),
    (Message::Graph, 15, Message::Sparse),
    (Message::Node, 5, Message::Attribute),
    (Message::Attribute, 5, Message::Tensor),
    (Message::Attribute, 6, Message::Graph),
    (Message::Attribute, 10, Message::Tensor),
    (Message::Attribute, 11, Message::Graph),
    (Message::Attribute, 22, Message::Sparse),
    (Message::Attribute, 23, Message::Sparse),
    (Message::Sparse, 1, Message::Tensor),
    (Message::Sparse, 2, Message::Tensor),
    (Message::Tensor, 13, Message::Entry),
];

/// What the field `number` of a message holds, if data in other files can be reached through it.
pub fn child(of: Message, number: u64) -> Option<Message> {
    FIELDS.iter().find(|(parent, field, _)| (*parent, *field) == (of, number)).map(|(.., child)| *child)
}
