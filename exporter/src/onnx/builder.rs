//! Collects nodes and initialisers.

use std::borrow::Cow;

use occlude_checkpoint::Encoder;
use occlude_encoder::Param;

use crate::Error;
use crate::proto::{Attribute, Element, Initializer, Node, Weights};

pub(super) struct Builder<'a> {
    encoder: &'a Encoder<'a>,
    /// Whether the encoder computes in half precision.
    half: bool,
    nodes: Vec<Node>,
    initializers: Vec<Initializer<'a>>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(encoder: &'a Encoder<'a>) -> Self {
        Self { encoder, half: false, nodes: Vec::new(), initializers: Vec::new() }
    }

    /// From here on floats are added in half precision, or again in single.
    pub(super) fn set_half(&mut self, half: bool) {
        self.half = half;
    }

    pub(super) fn finish(self) -> (Vec<Node>, Vec<Initializer<'a>>) {
        (self.nodes, self.initializers)
    }

    pub(super) fn encoder(&self) -> &'a Encoder<'a> {
        self.encoder
    }

    /// Adds an operation; its output is named like itself.
    pub(super) fn node(
        &mut self,
        op: &'static str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<Attribute>,
    ) -> String {
        self.node_as(op, name, inputs, name, attributes)
    }

    /// Adds an operation whose output has a name of its own.
    pub(super) fn node_as(
        &mut self,
        op: &'static str,
        name: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<Attribute>,
    ) -> String {
        let inputs = inputs.iter().map(|&i| i.to_owned()).collect();
        self.nodes.push(Node { op, name: name.to_owned(), inputs, output: output.to_owned(), attributes });
        output.to_owned()
    }

    /// Whether there is an operation of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.nodes.iter().any(|n| n.name == name)
    }

    /// Whether there is a constant of that name.
    pub(super) fn has_initializer(&self, name: &str) -> bool {
        self.initializers.iter().any(|i| i.name == name)
    }

    /// The value in another element type; asked for twice, it is one operation.
    pub(super) fn cast(&mut self, value: &str, to: Element) -> String {
        let name = format!("{value}.{to:?}").to_lowercase();
        if self.has(&name) {
            return name;
        }
        self.node("Cast", &name, &[value], vec![Attribute::Int("to", to as i64)])
    }

    /// Values of a parameter of the encoder.
    pub(super) fn parameter(&self, name: &str) -> Result<Cow<'a, [f32]>, Error> {
        self.encoder.f32(name).ok_or_else(|| Error::MissingWeight { name: name.to_owned() })
    }

    /// Adds a parameter under its own name; it is read again when it is written.
    pub(super) fn add_param(&mut self, param: &Param) -> Result<String, Error> {
        let (encoder, key, len) = (self.encoder, param.name.clone(), self.parameter(&param.name)?.len());
        let weights = Weights::floats(len, move || encoder.f32(&key).unwrap_or_default());
        Ok(self.add(&param.name, &param.shape, weights))
    }

    pub(super) fn add(&mut self, name: &str, dims: &[usize], weights: Weights<'a>) -> String {
        debug_assert_eq!(dims.iter().product::<usize>(), weights.len(), "{name}");
        let weights = if self.half { weights.half() } else { weights };
        self.initializers.push(Initializer { name: name.to_owned(), dims: dims.to_vec(), weights });
        name.to_owned()
    }

    pub(super) fn floats(&mut self, name: &str, dims: &[usize], values: Vec<f32>) -> String {
        self.add(name, dims, Weights::few(values))
    }

    /// One integer, a scalar.
    pub(super) fn int(&mut self, value: i64) -> String {
        let name = format!("int.{value}");
        if !self.has_initializer(&name) {
            self.add(&name, &[], Weights::int64(&[value]));
        }
        name
    }

    /// A list of integers (axes, pads); equal lists are one initialiser.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        let text: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = format!("ints.{}", text.join("_"));
        if !self.initializers.iter().any(|i| i.name == name) {
            self.add(&name, &[values.len()], Weights::int64(values));
        }
        name
    }
}
