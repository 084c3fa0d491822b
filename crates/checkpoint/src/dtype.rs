//! Element types.

use std::fmt;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16: the upper half of a single.
    BF16,
    /// Signed, 8 bytes.
    I64,
    /// Signed, 4 bytes.
    I32,
    /// Signed, 2 bytes.
    I16,
    /// Signed, 1 byte.
    I8,
    /// Unsigned, 1 byte.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

/// (type, size in bytes, safetensors' name)
const ROWS: [(Dtype, usize, &str); 10] = [
    (Dtype::F64, 8, "F64"),
    (Dtype::F32, 4, "F32"),
    (Dtype::F16, 2, "F16"),
    (Dtype::BF16, 2, "BF16"),
    (Dtype::I64, 8, "I64"),
    (Dtype::I32, 4, "I32"),
    (Dtype::I16, 2, "I16"),
    (Dtype::I8, 1, "I8"),
    (Dtype::U8, 1, "U8"),
    (Dtype::Bool, 1, "BOOL"),
];

impl Dtype {
    /// Every type.
    pub const ALL: [Self; 10] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U8,
        Self::Bool,
    ];

    fn row(self) -> (usize, &'static str) {
        // One row per variant, in their order; `rows_match_variants` holds it.
        let (_, size, name) = ROWS[self as usize];
        (size, name)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        self.row().0
    }

    /// The name that safetensors files use: `BF16`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The type of that safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        ROWS.iter().find(|r| r.2 == name).map(|r| r.0)
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of a tensor of `shape`, or `None` where that overflows.
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        elements(shape)?.checked_mul(self.size())
    }
}

/// Elements of a tensor of `shape`; `None` on overflow. An empty tensor has none, however large its
/// other sides are.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_match_variants() {
        for dtype in Dtype::ALL {
            assert_eq!(ROWS[dtype as usize].0, dtype);
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(Dtype::from_name("F8_E4M3"), None);
    }

    #[test]
    fn sizes_do_not_overflow() {
        assert_eq!(Dtype::F32.bytes_of(&[2, 3]), Some(24));
        assert_eq!(Dtype::F32.bytes_of(&[]), Some(4));
        assert_eq!(Dtype::F32.bytes_of(&[usize::MAX, 2]), None);
        assert_eq!(Dtype::F32.bytes_of(&[usize::MAX, 2, 0]), Some(0));
    }
}
