//! What the application segments of a JPEG in front of its first scan say about its pixels.

use std::borrow::Cow;

use image::metadata::Orientation;

use crate::exif;

/// What the components of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// One component.
    Grey,
    /// ITU-R 601, full range, as JFIF says.
    YCbCr,
    /// No transform.
    Rgb,
    /// Four inks.
    Cmyk,
    /// Three inks as YCbCr, and black.
    Ycck,
}

const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const ICC: &[u8] = b"ICC_PROFILE\0";

/// The segments that matter, collected in their order.
#[derive(Clone, Debug, Default)]
pub struct Segments<'a> {
    /// A JFIF segment was there.
    jfif: bool,
    /// The colour transform that Adobe's segment tells.
    adobe: Option<u8>,
    /// Whether there was any APP14 segment.
    pub app14: bool,
    /// A block that does not fit into one segment goes on in the next ones.
    exif: Option<Cow<'a, [u8]>>,
    xmp: Option<&'a [u8]>,
    /// How many parts of a colour profile there are, and how many there should be.
    profile: (usize, u8),
}

impl<'a> Segments<'a> {
    /// Takes the body of a segment.
    pub fn take(&mut self, marker: u8, body: &'a [u8]) {
        match marker {
            0xe0 => self.jfif |= body.len() >= 14 && body.starts_with(b"JFIF\0"),
            0xe1 if body.starts_with(b"Exif\0\0") => match &mut self.exif {
                None => self.exif = Some(Cow::Borrowed(body)),
                Some(block) => block.to_mut().extend_from_slice(body.get(6..).unwrap_or_default()),
            },
            0xe1 if body.starts_with(XMP) => self.xmp = body.get(XMP.len()..),
            0xe2 if body.starts_with(ICC) => {
                self.profile = (self.profile.0 + 1, body.get(ICC.len() + 1).copied().unwrap_or(0));
            }
            0xee => {
                self.app14 = true;
                if body.starts_with(b"Adobe") {
                    self.adobe = body.get(11).copied().or(self.adobe);
                }
            }
            _ => {}
        }
    }

    /// The EXIF orientation, else XMP's.
    pub fn orientation(&self) -> Option<Orientation> {
        exif::either(self.exif.as_deref(), self.xmp)
    }

    /// Whether a whole colour profile is there.
    pub fn has_profile(&self) -> bool {
        self.profile.0 > 0 && self.profile.0 == usize::from(self.profile.1)
    }

    /// What components with these ids are, by the rules that libjpeg made common: JFIF means YCbCr whatever else is
    /// said; then Adobe's segment counts, then the ids. `None` for other numbers of components.
    pub fn colour(&self, ids: &[u8]) -> Option<Colour> {
        Some(match (ids, self.adobe) {
            ([_], _) => Colour::Grey,
            ([_, _, _], _) if self.jfif => Colour::YCbCr,
            ([_, _, _], Some(0)) => Colour::Rgb,
            ([_, _, _], Some(_)) => Colour::YCbCr,
            (b"RGB", None) => Colour::Rgb,
            ([_, _, _], None) => Colour::YCbCr,
            ([_, _, _, _], None | Some(0)) => Colour::Cmyk,
            ([_, _, _, _], Some(_)) => Colour::Ycck,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adobe(transform: u8) -> Vec<u8> {
        [b"Adobe\0\x64\0\0\0\0".as_slice(), &[transform]].concat()
    }

    #[test]
    fn jfif_counts_before_adobe_and_adobe_before_ids() {
        let jfif = b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0".as_slice();
        for (with_jfif, transform, ids, colour) in [
            (true, Some(0), b"\x01\x02\x03".as_slice(), Colour::YCbCr),
            (true, None, b"RGB", Colour::YCbCr),
            (false, Some(0), b"\x01\x02\x03", Colour::Rgb),
            (false, Some(1), b"RGB", Colour::YCbCr),
            (false, Some(7), b"RGB", Colour::YCbCr),
            (false, None, b"RGB", Colour::Rgb),
            (false, None, b"rgb", Colour::YCbCr),
            (true, Some(2), b"CMYK", Colour::Ycck),
            (true, None, b"CMYK", Colour::Cmyk),
            (false, Some(0), b"CMYK", Colour::Cmyk),
            (false, Some(1), b"CMYK", Colour::Ycck),
            (false, Some(0), b"x", Colour::Grey),
        ] {
            let adobe = transform.map(adobe);
            let mut segments = Segments::default();
            if with_jfif {
                segments.take(0xe0, jfif);
            }
            if let Some(body) = &adobe {
                segments.take(0xee, body);
            }
            assert_eq!(segments.colour(ids), Some(colour), "{with_jfif} {transform:?} {ids:?}");
        }
        assert_eq!(Segments::default().colour(b"ab"), None);
        let mut short = Segments::default();
        short.take(0xee, b"Adobe\0\x64\0\0\0");
        short.take(0xe0, b"JFIF\0");
        assert_eq!(short.colour(b"RGB"), Some(Colour::Rgb), "segments that are too short say nothing");
    }

    #[test]
    fn a_profile_is_one_when_all_its_parts_are_there() {
        let part = |number: u8, of: u8| [ICC, &[number, of, 9, 9]].concat();
        let (first, second) = (part(1, 2), part(2, 2));
        let mut segments = Segments::default();
        assert!(!segments.has_profile());
        segments.take(0xe2, &second);
        assert!(!segments.has_profile());
        segments.take(0xe2, &first);
        assert!(segments.has_profile());
    }
}
