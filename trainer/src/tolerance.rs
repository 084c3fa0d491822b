//! How far two computations of the same thing may lie apart, by name.

/// The same operations in another grouping, float32.
pub const SAME_MATH: f64 = 2e-4;
/// Features or gradients in float32 on two devices, relative to their largest value.
pub const DEVICE_FP32: f64 = 1e-3;
/// Cosine of bfloat16 features with float32 ones, at least.
pub const BF16_COSINE: f64 = 0.995;
/// Loss after a few bfloat16 steps against float32, relative: the first steps of AdamW follow the sign of each gradient,
/// so that rounding near zero moves weights by the whole learning rate.
pub const BF16_LOSS: f64 = 0.1;
/// Gradients in float32 on two devices, relative to the largest.
pub const DEVICE_GRADIENT: f64 = 5e-3;
/// Loss after a few float32 steps on two devices, relative.
pub const DEVICE_LOSS: f64 = 1e-3;
/// Cosine of float16 features with float32 ones, at least: three bits more than bfloat16.
pub const FP16_COSINE: f64 = 0.999;
/// Cosine of features whose products were rounded to TF32's 10 bits, which are float16's.
pub const TF32_COSINE: f64 = 0.999;
/// Gradients with products in TF32 against float32 ones, relative to the largest.
pub const TF32_GRADIENT: f64 = 5e-2;
/// Loss after a few steps with products in TF32, relative: AdamW again follows signs.
pub const TF32_LOSS: f64 = 5e-2;
/// Cosine of the golden picture's features in float32 on two devices, at least; what a served model must reach, too.
pub const GOLDEN_COSINE: f64 = 0.9999;
/// Loss of a few steps whose masks and noise were drawn by another generator, relative.
pub const OTHER_DRAWS: f64 = 0.2;
/// Values of a normalised view in the CPU's loops and in tensor operators: a hue turns on the largest of three channels, so
/// that it amplifies rounding.
pub const COLOURS: f64 = 1e-4;
/// Share of saliency cells that rounding may put on the other side of the threshold.
pub const MASK_CELLS: f64 = 1e-3;
/// What several processes compute together in float32 against one, relative to the largest: sums in another order.
pub const RANKS: f64 = 2e-5;
/// Gradients that travel in float16, relative to the largest: ten bits.
pub const RANKS_FP16: f64 = 2e-3;
/// Gradients that travel in bfloat16: seven bits.
pub const RANKS_BF16: f64 = 1.6e-2;
/// Weights of a resumed run on a device whose sums have no fixed order, relative.
pub const DEVICE_RESUME: f64 = 5e-2;
