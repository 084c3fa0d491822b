//! What an ONNX file takes.

/// How a model in an ONNX file takes pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputKind {
    /// `pixel_values`, float32 (N, 3, H, W), already normalised: what most tools feed. A high-pass filter is inside the
    /// graph.
    #[default]
    Float,
    /// `images`, uint8 (N, H, W, 3), resized and cropped RGB: a quarter of the bytes, normalised inside the graph.
    Uint8,
}

impl InputKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Float, Self::Uint8];

    /// The input's name in the graph.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "pixel_values",
            Self::Uint8 => "images",
        }
    }

    /// As flags and answers have it: `float`, `uint8`.
    pub fn element(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Uint8 => "uint8",
        }
    }

    /// The kind whose input has that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The sides of a batch of `n` square pictures.
    pub fn shape<T>(self, n: T, side: T) -> [T; 4]
    where
        T: Copy + From<u8>,
    {
        let channels = T::from(3);
        match self {
            Self::Float => [n, channels, side, side],
            Self::Uint8 => [n, side, side, channels],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_shapes_follow_the_layout() {
        for kind in InputKind::ALL {
            assert_eq!(InputKind::named(kind.name()), Some(kind));
        }
        assert_eq!(InputKind::named("input"), None);
        assert_eq!(InputKind::Float.shape(2usize, 64), [2, 3, 64, 64]);
        assert_eq!(InputKind::Uint8.shape(-1i64, 64), [-1, 64, 64, 3]);
    }
}
