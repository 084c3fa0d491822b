//! What this processor can.

/// Flags of an int8 model for this processor: products of 8 bits overflow where it has no VNNI.
pub fn weight_bits() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if !is_x86_feature_detected!("avx512vnni") && !is_x86_feature_detected!("avxvnni") {
        return " --reduce-range";
    }
    ""
}
