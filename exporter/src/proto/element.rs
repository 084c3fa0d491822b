//! Types of values.

/// `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Int32 = 6,
    Int64 = 7,
    Float16 = 10,
}

impl Element {
    /// Bytes of one value.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Uint8 | Self::Int8 => 1,
            Self::Float16 => 2,
            Self::Float | Self::Int32 => 4,
            Self::Int64 => 8,
        }
    }
}
