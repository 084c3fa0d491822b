//! The weights under the names, and in the shapes, of the project that reads them.

use std::borrow::Cow;

use occlude_checkpoint::{Dtype, Encoder, TensorOut};
use occlude_encoder::{Vit, transformers::from_ours};
use occlude_preprocess::Preprocess;

use crate::{Error, positions};

/// The name of positions, in timm and here.
const POSITIONS: &str = "pos_embed";
/// The name of the class token.
const CLASS: &str = "cls_token";

/// The state dict of transformers' model.
pub(super) fn transformers<'e>(
    encoder: &'e Encoder<'_>,
    contract: &Preprocess,
) -> Result<Vec<TensorOut<'e>>, Error> {
    let vit = encoder.arch.vit();
    let mut all = Vec::new();
    for tensor in encoder.tensors_out("")? {
        let tensor = match vit.filter(|_| tensor.name == POSITIONS) {
            Some(vit) => resized(encoder, vit, contract, true)?,
            None => tensor,
        };
        let names = from_ours(&tensor.name, vit.is_some_and(|vit| vit.gated));
        match names.as_slice() {
            [name] => all.push(TensorOut { name: name.clone(), ..tensor }),
            names => all.extend(parts(&tensor, names)),
        }
    }
    if let Some(vit) = vit {
        all.extend(beside(vit));
    }
    Ok(all)
}

/// Whether timm's network has a position of the class token: beside registers it then has one of each of them, too, so
/// that such a position becomes a part of the token.
pub(super) fn has_class_position(vit: Vit) -> bool {
    vit.class_position && vit.registers == 0
}

/// The state dict of timm's model: ours, with positions for the pictures that the model will see.
pub(super) fn timm<'e>(encoder: &'e Encoder<'_>, contract: &Preprocess) -> Result<Vec<TensorOut<'e>>, Error> {
    let mut all = encoder.tensors_out("")?;
    if let Some(vit) = encoder.arch.vit() {
        let apart = vit.class_position && !has_class_position(vit);
        for tensor in &mut all {
            match tensor.name.as_str() {
                POSITIONS => *tensor = resized(encoder, vit, contract, has_class_position(vit))?,
                CLASS if apart => *tensor = placed(encoder, vit)?,
                _ => {}
            }
        }
    }
    Ok(all)
}

/// Equal parts along the first axis.
fn parts(tensor: &TensorOut<'_>, names: &[String]) -> Vec<TensorOut<'static>> {
    let count = names.len().max(1);
    let mut shape = tensor.shape.clone();
    shape.iter_mut().take(1).for_each(|rows| *rows /= count);
    let bytes = (tensor.data.len() / count).max(1);
    let part = |(name, data): (&String, &[u8])| TensorOut {
        name: name.clone(),
        dtype: tensor.dtype,
        shape: shape.clone(),
        data: data.to_vec().into(),
    };
    names.iter().zip(tensor.data.chunks(bytes)).map(part).collect()
}

fn floats(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> TensorOut<'static> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorOut { name: name.into(), dtype: Dtype::F32, shape, data: data.into() }
}

fn learnt<'e>(encoder: &'e Encoder<'_>, name: &str) -> Result<Cow<'e, [f32]>, Error> {
    encoder.f32(name).ok_or_else(|| Error::MissingWeight { name: name.to_owned() })
}

/// The class token at its position.
fn placed(encoder: &Encoder<'_>, vit: Vit) -> Result<TensorOut<'static>, Error> {
    let (token, positions) = (learnt(encoder, CLASS)?, learnt(encoder, POSITIONS)?);
    let sum: Vec<f32> = token.iter().zip(positions.iter()).map(|(a, b)| a + b).collect();
    Ok(floats(CLASS, vec![1, 1, vit.width], &sum))
}

/// Positions for the contract's pictures, that of the class token before them if there is to be one: zeros where it has
/// none.
fn resized(
    encoder: &Encoder<'_>,
    vit: Vit,
    contract: &Preprocess,
    class: bool,
) -> Result<TensorOut<'static>, Error> {
    let mut values =
        positions::resized(vit, &learnt(encoder, POSITIONS)?, contract.crop as usize / vit.patch);
    match (class, vit.class_position) {
        (true, false) => values = [vec![0.0; vit.width], values].concat(),
        (false, true) => values = values.split_off(vit.width.min(values.len())),
        (true, true) | (false, false) => {}
    }
    Ok(floats(POSITIONS, vec![1, values.len() / vit.width, vit.width], &values))
}

/// What transformers' model has and ours does not: scales, which are one, and beside registers a token that nothing reads
/// without masks.
fn beside(vit: Vit) -> Vec<TensorOut<'static>> {
    let ones = vec![1.0; vit.width];
    let scale = |block: usize, i: usize| {
        floats(format!("encoder.layer.{block}.layer_scale{i}.lambda1"), vec![vit.width], &ones)
    };
    let blocks = 0..if vit.layer_scale { 0 } else { vit.depth };
    let mut all: Vec<_> = blocks.flat_map(|block| [scale(block, 1), scale(block, 2)]).collect();
    if vit.registers > 0 {
        all.push(floats("embeddings.mask_token", vec![1, vit.width], &vec![0.0; vit.width]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rows() {
        let whole = floats("a", vec![6, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let names = ["q", "k", "v"].map(str::to_owned);
        let parts = parts(&whole, &names);
        assert_eq!(parts.iter().map(|part| part.shape.clone()).collect::<Vec<_>>(), vec![vec![2, 1]; 3]);
        assert_eq!(parts[1].data, floats("k", vec![2, 1], &[3.0, 4.0]).data);
    }
}
