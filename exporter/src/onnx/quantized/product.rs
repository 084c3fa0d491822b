//! The products of vision transformers in 8-bit integers: tokens by a matrix, between `DequantizeLinear` and a sum in
//! floating point, which ONNX Runtime computes as `MatMulIntegerToFloat`.

use super::{activation, quantize_weight, weight_scales};
use crate::onnx::builder::Builder;
use crate::onnx::matrix::{Matrix, transposed};
use crate::proto::{Attribute, Weights};
use crate::ranges::Range;

/// Adds `x` (N, T, in) times a matrix, (N, T, out): `x` in unsigned bytes for `range`, the matrix in signed bytes of at most
/// `largest` with one scale for each output channel.
pub(in crate::onnx) fn product<'a>(
    builder: &mut Builder<'a>,
    name: &str,
    (x, range): (&str, Range),
    matrix: Matrix<'a>,
    largest: f32,
) -> String {
    let (scale, zero) = activation(range);
    let scale_name = builder.floats(&format!("{name}.input.scale"), &[], vec![scale]);
    let zero = builder.add(&format!("{name}.input.zero_point"), &[], Weights::uint8(zero));
    let codes =
        builder.node("QuantizeLinear", &format!("{name}.input.quantized"), &[x, &scale_name, &zero], vec![]);
    let x = builder.node(
        "DequantizeLinear",
        &format!("{name}.input.dequantized"),
        &[&codes, &scale_name, &zero],
        vec![],
    );
    let weight = weights(builder, matrix, largest);
    builder.node("MatMul", &format!("{name}.product"), &[&x, &weight], vec![])
}

/// The matrix as the second factor, (in, out), with a scale for each column.
fn weights<'a>(builder: &mut Builder<'a>, matrix: Matrix<'a>, largest: f32) -> String {
    let [inputs, outputs] = matrix.sides;
    let name = matrix.name.clone();
    // the bias is added in floating point: no scale has to make room for it
    let scales = weight_scales(&matrix.values(), &vec![0.0; outputs], 1.0, largest);
    let scale = builder.floats(&format!("{name}.scale"), &[outputs], scales.clone());
    let zero = Weights::int8(outputs, move || vec![0; outputs]);
    let zero = builder.add(&format!("{name}.zero_point"), &[outputs], zero);
    // quantised again when it is written: nothing is kept
    let codes = move || transposed(&quantize_weight(&matrix.values(), inputs, &scales), inputs);
    let codes = builder.add(&name, &[inputs, outputs], Weights::int8(inputs * outputs, codes));
    let axis = vec![Attribute::Int("axis", 1)];
    builder.node("DequantizeLinear", &format!("{name}.dequantized"), &[&codes, &scale, &zero], axis)
}
