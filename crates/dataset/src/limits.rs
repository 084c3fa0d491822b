//! The most that is read.

/// Largest file that is read as a picture.
pub const MAX_PICTURE_BYTES: u64 = 512 << 20;

/// Numbers of classes beyond this are taken for a mistake: memory for their names is taken.
pub(crate) const MAX_CLASSES: u32 = 1 << 18;

/// A number of bytes with a unit: decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB).
///
/// # Errors
/// What is wrong with it, in words.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => {
            return Err(format!(
                "unknown unit `{unit}`; expected a number with B, kB, MB, GB, TB, KiB, MiB, GiB or TiB"
            ));
        }
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    bytes.filter(|&n| n > 0).ok_or_else(|| format!("`{text}` is not a valid size"))
}
