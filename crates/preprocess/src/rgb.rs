//! The picture type.

/// An 8-bit RGB picture: `data` is `(height, width, 3)`, row-major.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `width * height * 3` bytes, rows from the top, red first.
    pub data: Vec<u8>,
}

impl Rgb {
    /// A picture of one colour.
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        let data = colour.repeat(width as usize * height as usize);
        Self { width, height, data }
    }

    /// Bytes that a picture of this size holds.
    pub(crate) fn byte_len(width: u32, height: u32) -> usize {
        width as usize * height as usize * 3
    }

    /// # Panics
    /// When `data` does not fit `width` and `height`: the picture was put together wrongly.
    pub(crate) fn check(&self) {
        assert_eq!(self.data.len(), Self::byte_len(self.width, self.height), "{self:?} holds other data");
    }
}

impl std::fmt::Debug for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb({}x{}, {} bytes)", self.width, self.height, self.data.len())
    }
}
