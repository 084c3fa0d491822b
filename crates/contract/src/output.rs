//! Names of what an ONNX file gives. All are float32, the first side is the batch.

/// `(N, D)`: the embedding.
pub const EMBEDDING: &str = "embedding";
/// `(N, h, w)`: the saliency map that [`SALIENCY`](crate::key::SALIENCY) says how it is made.
pub const SALIENCY: &str = "saliency";
/// `(N, h, w)`: the channel sum of the last feature map.
pub const SALIENCY_SUM: &str = "saliency_sum";
/// `(N, P)`: output of the projection head.
pub const PROJECTION: &str = "projection";
/// `(N, h, w)`: mean of the alignment maps, of a method that makes them.
pub const ALIGNMENT: &str = "alignment";
/// `(N, T, D)`: a vision transformer's normalised tokens: class token, registers, patches.
pub const TOKENS: &str = "tokens";
/// `(N, C, h, w)`: output of a ResNet's last stage, of which foregrounds can be pooled.
pub const FEATURES: &str = "res5";

/// `(N, C, h, w)`: output of a ResNet's stage, 2 to 5.
pub fn stage(number: u8) -> String {
    format!("res{number}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn features_are_those_of_the_last_stage() {
        assert_eq!(super::stage(5), super::FEATURES);
    }
}
