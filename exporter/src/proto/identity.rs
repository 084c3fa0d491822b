//! What a model computes, as a number of 256 bits.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::{Initializer, Message, Model, Stream, Value};

/// Told apart from other hashes, and from later definitions of this one.
const DOMAIN: &str = "occlude.identity 1";

/// Digest of one part.
type Part = [u8; 32];

impl Model<'_> {
    /// Lower-case hexadecimal SHA-256 over all that decides the numbers: `contract`, operations, initialisers, and the
    /// names and types of inputs and outputs.
    ///
    /// Left out is what changes none: the version of the operator set, whether the weights have a file of their own,
    /// whether sizes are free, the order of the outputs, and the rest of the metadata. `look` sees the floats of every
    /// initialiser on the way.
    ///
    /// # Errors
    /// Values that cannot be read.
    pub(crate) fn identity(
        &self,
        contract: &str,
        look: &mut dyn FnMut(&Initializer<'_>, &[f32]),
    ) -> io::Result<String> {
        let mut parts = vec![part("contract", &Message::default().text(1, contract))?];
        if let Some(form) = &self.form {
            parts.push(part("form", &Message::default().text(1, &form.of).text(2, &form.what))?);
        }
        for node in self.nodes.iter().filter(|node| !self.is_form(&node.name)) {
            parts.push(part("node", &node.message())?);
        }
        for (kind, values) in [("input", &self.inputs), ("output", &self.outputs)] {
            for value in values {
                parts.push(part(kind, &port(value))?);
            }
        }
        for initializer in &self.initializers {
            let weights = weights(initializer, look)?;
            if !self.is_form(&initializer.name) {
                parts.push(weights);
            }
        }
        // Operations have names, so that their order says nothing that these do not.
        parts.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        parts.iter().for_each(|part| hash.update(part));
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Model<'_> {
    /// Whether something of that name belongs to the form. Lists of integers do, too: their names say what is in them, and
    /// operations have these names.
    fn is_form(&self, name: &str) -> bool {
        let Some(form) = &self.form else { return false };
        let below = name.strip_prefix(form.of.as_str());
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            || name.starts_with("ints.")
            || name.starts_with("int.")
    }
}

/// Name and element type; sides follow from the contract and the operations.
fn port(value: &Value) -> Message<'_> {
    Message::default().text(1, &value.name).int(2, value.element as i64)
}

fn part(kind: &str, message: &Message<'_>) -> io::Result<Part> {
    let mut hash = Sha256::new_with_prefix(kind);
    message.write_to(&mut hash)?;
    Ok(hash.finalize().into())
}

fn weights(
    initializer: &Initializer<'_>,
    look: &mut dyn FnMut(&Initializer<'_>, &[f32]),
) -> io::Result<Part> {
    let Initializer { name, dims, weights } = initializer;
    let head = Message::default()
        .text(1, name)
        .int(2, weights.element() as i64)
        .each(dims, |m, &d| m.int(3, d as i64))
        .int(4, weights.byte_len() as i64);
    let mut hash = Sha256::new_with_prefix("initializer");
    head.write_to(&mut hash)?;
    weights.write_seen(&mut hash, &mut |values| look(initializer, values))?;
    hash.flush()?;
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::super::{Attribute, Dim, Element, Form, Node, Weights};
    use super::*;

    fn model(scale: f32) -> Model<'static> {
        let node = |name: &str, input: &str| Node {
            op: "Mul",
            name: name.to_owned(),
            inputs: vec![input.to_owned(), "scale".to_owned()],
            output: name.to_owned(),
            attributes: vec![Attribute::Int("axis", 1)],
        };
        let value = |name: &str| Value {
            name: name.to_owned(),
            element: Element::Float,
            dims: vec![Dim::Named("batch".to_owned())],
        };
        let weights = Weights::few(vec![scale]);
        Model {
            opset: 17,
            name: "a".to_owned(),
            nodes: vec![node("x", "in"), node("y", "in")],
            initializers: vec![Initializer { name: "scale".to_owned(), dims: vec![1], weights }],
            inputs: vec![value("in")],
            outputs: vec![value("x"), value("y")],
            metadata: vec![],
            form: None,
        }
    }

    fn identity(model: &Model<'_>) -> String {
        model.identity("contract", &mut |_, _| ()).expect("memory")
    }

    /// A change of the definition has to be one on purpose: files keep what they were given.
    #[test]
    fn the_definition_is_pinned() {
        let found = identity(&model(2.0));
        assert_eq!(found, "f4b99e957dd8b9e90f77a269a062f107eb5bebf9bbce70005eeb069bd6fcfe35", "{found}");
    }

    #[test]
    fn what_changes_no_number_does_not_count() {
        let plain = identity(&model(2.0));
        let mut other = model(2.0);
        other.opset = 22;
        other.name = "b".to_owned();
        other.metadata = vec![("checkpoint".to_owned(), "b.pth".to_owned())];
        other.nodes.reverse();
        other.outputs.reverse();
        other.inputs[0].dims = vec![Dim::Fixed(3)];
        assert_eq!(identity(&other), plain);
    }

    #[test]
    fn of_a_form_it_counts_what_it_computes() {
        let with = |what: &str, op: &'static str| {
            let mut model = model(2.0);
            model.nodes[0].name = "x.step".to_owned();
            model.nodes[0].op = op;
            model.form = Some(Form { of: "x".to_owned(), what: what.to_owned() });
            identity(&model)
        };
        assert_eq!(with("map", "Mul"), with("map", "Add"));
        assert_ne!(with("map", "Mul"), with("another map", "Mul"));
        let mut other = model(2.0);
        other.form = Some(Form { of: "x".to_owned(), what: "map".to_owned() });
        let before = identity(&other);
        other.nodes[1].op = "Add";
        assert_ne!(identity(&other), before, "what does not belong to it counts as ever");
    }

    #[test]
    fn everything_else_counts() {
        let plain = identity(&model(2.0));
        assert_ne!(model(2.0).identity("another", &mut |_, _| ()).expect("memory"), plain);
        assert_ne!(identity(&model(2.0f32.next_up())), plain);
        let changes: [fn(&mut Model<'_>); 7] = [
            |m| m.nodes[0].op = "Add",
            |m| m.nodes[1].inputs[0] = "x".to_owned(),
            |m| m.nodes[0].attributes = vec![Attribute::Int("axis", 2)],
            |m| m.outputs.truncate(1),
            |m| m.inputs[0].element = Element::Uint8,
            |m| m.initializers[0].dims = vec![1, 1],
            |m| m.initializers[0].weights = Weights::few(vec![2.0]).half(),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut other = model(2.0);
            change(&mut other);
            assert_ne!(identity(&other), plain, "change {i}");
        }
    }

    #[test]
    fn floats_are_seen_on_the_way() {
        let mut seen = Vec::new();
        let look = &mut |i: &Initializer<'_>, values: &[f32]| seen.push((i.name.clone(), values.to_vec()));
        model(2.0).identity("contract", look).expect("memory");
        assert_eq!(seen, [("scale".to_owned(), vec![2.0])]);
    }
}
