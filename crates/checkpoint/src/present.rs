//! What a file has of an encoder.

use std::collections::{BTreeMap, HashMap};

use occlude_encoder::layout::Layout;

use crate::tensor::Tensor;

/// Queries, keys and values.
const PARTS: usize = 3;

/// A parameter in a file.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The tensors that it is, one below the other.
    pub(crate) keys: Vec<String>,
    /// Of all together.
    pub(crate) shape: Vec<usize>,
}

/// By torchvision's names.
pub(crate) type Present = HashMap<String, Found>;

/// What the file has of an encoder, by torchvision's names. What lies apart in it and is one parameter here is joined, if
/// it is all there.
pub(crate) fn present<'c>(tensors: impl Iterator<Item = Tensor<'c>>, layout: &Layout) -> Present {
    let mut present = Present::new();
    let mut apart: BTreeMap<String, BTreeMap<usize, (String, Vec<usize>)>> = BTreeMap::new();
    for tensor in tensors {
        let Some(name) = layout.to_torchvision(tensor.name) else { continue };
        let (key, shape) = (tensor.name.to_owned(), tensor.shape.to_vec());
        if let Some(part) = layout.part(tensor.name) {
            apart.entry(name).or_default().insert(part, (key, shape));
        } else {
            present.insert(name, Found { keys: vec![key], shape });
        }
    }
    for (name, parts) in apart.into_iter().filter(|(_, parts)| parts.len() == PARTS) {
        let (keys, shapes): (Vec<String>, Vec<Vec<usize>>) = parts.into_values().unzip();
        present.insert(name, Found { keys, shape: below_each_other(&shapes) });
    }
    present
}

/// The shape of tensors one below the other; none where their rows differ.
fn below_each_other(shapes: &[Vec<usize>]) -> Vec<usize> {
    let row = |shape: &Vec<usize>| shape.get(1..).map(<[usize]>::to_vec);
    let Some(first) = shapes.first().and_then(row) else { return vec![] };
    if !shapes.iter().all(|shape| row(shape).as_ref() == Some(&first)) {
        return vec![];
    }
    let rows =
        shapes.iter().filter_map(|shape| shape.first()).fold(0, |sum: usize, n| sum.saturating_add(*n));
    std::iter::once(rows).chain(first).collect()
}
