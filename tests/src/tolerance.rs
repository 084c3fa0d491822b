//! Every tolerance of the end-to-end tests, with its reason.

/// Smallest cosine between the trainer's embedding and the server's of the same file: decoding, resizing and
/// normalising are one implementation, so that only the order of float sums differs.
pub const SERVED_COSINE: f64 = 0.9999;

/// Smallest cosine between the trainer's embedding and that of Pillow, torchvision's transforms and a torchvision
/// model with the same weights: decoding and resizing may differ by 1/255 per pixel on average, of which an encoder after
/// two epochs on drawn shapes makes much more than a trained one on photos (1 - 7e-6 at worst, docs/benchmarks.md).
pub const TORCHVISION_COSINE: f64 = 0.9995;

/// Smallest cosine between embeddings after a resumed and after an uninterrupted run. Resuming is exact; threads may
/// add up gradients in another order.
pub const RESUMED_COSINE: f64 = 0.999;

/// Largest difference of an ONNX model's output from torchvision's, for maps as a share of their largest value: folding
/// and fused kernels round differently.
pub const ONNX_ERROR: f64 = 1e-4;

/// Smallest cosine of a model in half precision with torchvision: eleven bits of a float remain.
pub const HALF_COSINE: f64 = 0.9999;

/// Smallest cosine of a model in 8-bit integers with torchvision, on noise that it was not calibrated for.
pub const INT8_COSINE: f64 = 0.98;

/// Largest difference of whitened embeddings' cosines, and of the matrix as a share of its largest number, from numpy's:
/// both compute in double precision and round once.
pub const WHITENED: f64 = 1e-5;

/// Largest difference of the mean of a map scaled to 0..1: sums of floats in another order, in batches and one by one.
pub const MAP_SCORE: f64 = 1e-4;

/// Largest difference of a map's area under the ROC curve in fp16 or int8 from that in fp32: what docs/maps.md promises.
pub const MAP_AUROC: f64 = 0.01;

/// Largest difference of a cosine similarity from 1 where an image meets itself in the gallery.
pub const SELF_SIMILARITY: f64 = 1e-3;

/// Cosine of two vectors; 0 where one has no length.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of different length");
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let length = (dot(a, a) * dot(b, b)).sqrt();
    if length > 0.0 { dot(a, b) / length } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_of_parallel_orthogonal_and_empty_vectors() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
        assert!(cosine(&[1.0, 0.0], &[0.0, 1.0]).abs() < 1e-12);
        assert!(cosine(&[0.0], &[1.0]).abs() < 1e-12);
    }
}
