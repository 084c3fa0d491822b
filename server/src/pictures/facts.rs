//! What is known of a picture besides its pixels.

use occlude_preprocess::{Decoded, Note};

/// What is known of a picture besides its pixels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) format: &'static str,
    pub(crate) notes: Vec<&'static str>,
}

impl From<&Decoded> for Facts {
    fn from(decoded: &Decoded) -> Self {
        Self {
            width: decoded.image.width,
            height: decoded.image.height,
            format: decoded.format.name(),
            notes: decoded.notes.iter().copied().map(Note::name).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_have_names_of_their_own() {
        let all = [
            Note::IccIgnored,
            Note::AlphaOnWhite,
            Note::ExifRotated,
            Note::SixteenBit,
            Note::Cmyk,
            Note::Grey,
            Note::Animated,
        ];
        let names: std::collections::BTreeSet<_> = all.into_iter().map(Note::name).collect();
        assert_eq!(names.len(), all.len());
    }
}
