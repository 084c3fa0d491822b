//! Collects nodes and initialisers.

use occlude_checkpoint::Encoder;

use crate::Error;
use crate::proto::{Attribute, Initializer, Node, Weights};

pub(super) struct Builder<'a> {
    encoder: &'a Encoder,
    nodes: Vec<Node>,
    initializers: Vec<Initializer<'a>>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(encoder: &'a Encoder) -> Self {
        Self { encoder, nodes: Vec::new(), initializers: Vec::new() }
    }

    pub(super) fn finish(self) -> (Vec<Node>, Vec<Initializer<'a>>) {
        (self.nodes, self.initializers)
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

    /// Values of a parameter of the encoder.
    pub(super) fn parameter(&self, name: &str) -> Result<&'a [f32], Error> {
        self.encoder.f32(name).ok_or_else(|| Error::MissingWeight { name: name.to_owned() })
    }

    /// Adds a parameter under its own name.
    pub(super) fn add_parameter(&mut self, name: &str, dims: &[usize]) -> Result<String, Error> {
        let weights = Weights::Borrowed(self.parameter(name)?);
        Ok(self.add(name, dims, weights))
    }

    pub(super) fn add(&mut self, name: &str, dims: &[usize], weights: Weights<'a>) -> String {
        debug_assert_eq!(dims.iter().product::<usize>(), weights.len(), "{name}");
        self.initializers.push(Initializer { name: name.to_owned(), dims: dims.to_vec(), weights });
        name.to_owned()
    }

    pub(super) fn floats(&mut self, name: &str, dims: &[usize], values: Vec<f32>) -> String {
        self.add(name, dims, Weights::Floats(values))
    }

    /// A list of integers (axes, pads); equal lists are one initialiser.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        let text: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = format!("ints.{}", text.join("_"));
        if !self.initializers.iter().any(|i| i.name == name) {
            self.add(&name, &[values.len()], Weights::Ints(values.to_vec()));
        }
        name
    }
}
