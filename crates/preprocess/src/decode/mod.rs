//! Bytes of a picture file -> upright 8-bit RGB.

mod chunks;
mod error;
mod jpeg;
mod markers;
mod orient;
mod raster;
mod scans;

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;

pub use error::{DecodeError, LoadError};

use crate::Rgb;

/// How large a picture may be. Checked against the header, before memory for pixels is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels (width times height); default 100 million.
    pub max_pixels: u64,
    /// Longest side in pixels; default 32768.
    pub max_side: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 100_000_000, max_side: 32_768 }
    }
}

impl Limits {
    /// Holds a size from a header against the limits.
    ///
    /// # Errors
    /// [`DecodeError`] for a picture past them.
    pub fn check(&self, width: u32, height: u32) -> Result<(), DecodeError> {
        if width == 0 || height == 0 {
            return Err(DecodeError::ZeroSize { width, height });
        }
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.max_pixels || width.max(height) > self.max_side {
            return Err(DecodeError::TooLarge { width, height, limits: *self });
        }
        Ok(())
    }
}

/// File formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Baseline or progressive JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// WebP, lossy or lossless.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// GIF, its first frame.
    Gif,
    /// TIFF, its first page.
    Tiff,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Jpeg, Self::Png, Self::WebP, Self::Bmp, Self::Gif, Self::Tiff];

    /// All of them by name, as messages, hints and pages list them.
    pub const LISTED: &'static str = "JPEG, PNG, WebP, BMP, GIF (first frame) or TIFF";

    /// As people write it: `JPEG`, `WebP`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
            Self::Tiff => "TIFF",
        }
    }

    /// The registered media type: `image/jpeg`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
            Self::Bmp => "image/bmp",
            Self::Gif => "image/gif",
            Self::Tiff => "image/tiff",
        }
    }

    /// The format by content, never by file name.
    fn of(bytes: &[u8]) -> Result<Self, DecodeError> {
        let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|b| b.starts_with(magic));
        const KNOWN: [(&[u8], Format); 7] = [
            (&[0xff, 0xd8, 0xff], Format::Jpeg),
            (b"\x89PNG\r\n\x1a\n", Format::Png),
            (b"GIF87a", Format::Gif),
            (b"GIF89a", Format::Gif),
            (b"BM", Format::Bmp),
            (b"II*\0", Format::Tiff),
            (b"MM\0*", Format::Tiff),
        ];
        if let Some((_, format)) = KNOWN.iter().find(|(magic, _)| at(0, magic)) {
            return Ok(*format);
        }
        if at(0, b"RIFF") && at(8, b"WEBP") {
            return Ok(Self::WebP);
        }
        const OTHERS: [(usize, &[u8], &str); 10] = [
            (4, b"ftypavif", "AVIF"),
            (4, b"ftypavis", "AVIF"),
            (4, b"ftyphei", "HEIC"),
            (4, b"ftyphev", "HEIC"),
            (4, b"ftypmif1", "HEIF"),
            (4, b"ftypmsf1", "HEIF"),
            (0, b"\xff\x0a", "JPEG XL"),
            (4, b"JXL ", "JPEG XL"),
            (4, b"jP  ", "JPEG 2000"),
            (0, b"8BPS", "Photoshop"),
        ];
        match OTHERS.iter().find(|(offset, magic, _)| at(*offset, magic)) {
            Some((_, _, name)) => Err(DecodeError::OtherFormat { name }),
            None if bytes.is_empty() => Err(DecodeError::Empty),
            None => Err(DecodeError::UnknownFormat { start: bytes.iter().take(8).copied().collect() }),
        }
    }
}

/// Something about the file that the pixels no longer tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// The file has an ICC profile, which was not applied.
    IccIgnored,
    /// Transparent pixels were laid over white.
    AlphaOnWhite,
    /// The picture was turned or mirrored as its EXIF orientation says.
    ExifRotated,
    /// 16-bit samples, cut to their high bytes.
    SixteenBit,
    /// CMYK or YCCK, converted to RGB without a profile.
    Cmyk,
    /// Grey, repeated over the three channels.
    Grey,
    /// An animation; the first frame was taken.
    Animated,
}

impl Note {
    /// The note as answers and reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IccIgnored => "icc_ignored",
            Self::AlphaOnWhite => "alpha_on_white",
            Self::ExifRotated => "exif_rotated",
            Self::SixteenBit => "sixteen_bit",
            Self::Cmyk => "cmyk",
            Self::Grey => "grey",
            Self::Animated => "animated_first_frame",
        }
    }
}

/// A decoded picture.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// Upright RGB pixels.
    pub image: Rgb,
    /// What the file was.
    pub format: Format,
    /// What was changed on the way, without repetitions.
    pub notes: Vec<Note>,
}

/// Decodes a picture of any [`Format`], told apart by content.
///
/// The EXIF orientation, or XMP's where there is none, is applied; grey, palette, CMYK, 16-bit and transparent pictures (over
/// white) become 8-bit RGB; ICC profiles are ignored but noted.
///
/// # Errors
/// [`DecodeError`]; a file that is truncated, or lacks coded data that its header promises, is one, never a half-grey
/// picture.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    let format = Format::of(bytes)?;
    let raw = guarded(format, || match format {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Png => raster::decode_png(bytes, limits),
        Format::WebP => raster::decode_webp(bytes, limits),
        Format::Bmp => raster::decode_bmp(bytes, limits),
        Format::Gif => raster::decode_gif(bytes, limits),
        Format::Tiff => raster::decode_tiff(bytes, limits),
    })?;
    let mut notes = raw.notes;
    let orientation = raw.orientation.unwrap_or(Orientation::NoTransforms);
    if orientation != Orientation::NoTransforms {
        notes.push(Note::ExifRotated);
    }
    Ok(Decoded { image: orient::apply(raw.image, orientation), format, notes })
}

/// Width and height as the file stores them (before the EXIF orientation), from its header alone: no memory is taken
/// for pixels.
///
/// # Errors
/// [`DecodeError`] where [`decode()`] would not even begin; a file that passes can still be broken further on.
pub fn dimensions(bytes: &[u8], limits: &Limits) -> Result<(u32, u32), DecodeError> {
    let format = Format::of(bytes)?;
    let (width, height) = guarded(format, || match format {
        Format::Jpeg => jpeg::dimensions(bytes),
        Format::Png => raster::png_dimensions(bytes),
        Format::WebP => raster::webp_dimensions(bytes),
        Format::Bmp => raster::bmp_dimensions(bytes),
        Format::Gif => raster::gif_dimensions(bytes),
        Format::Tiff => raster::tiff_dimensions(bytes),
    })?;
    limits.check(width, height)?;
    Ok((width, height))
}

/// Reads and decodes a file.
///
/// # Errors
/// [`LoadError`], which names the file.
pub fn load(path: &Path, limits: &Limits) -> Result<Decoded, LoadError> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        crate::files::open(path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|reason| LoadError::Read { path: path.to_owned(), reason })?;
    decode(&bytes, limits).map_err(|reason| LoadError::Decode { path: path.to_owned(), reason })
}

/// What a format's decoder hands back.
struct Raw {
    image: Rgb,
    orientation: Option<Orientation>,
    notes: Vec<Note>,
}

/// Runs a foreign decoder; a panic inside it is an error of the file, not of the process.
fn guarded<T>(format: Format, f: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        Err(DecodeError::Corrupt { format, reason: "the decoder gave up on it".to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_decoder_is_an_error() {
        let result = guarded::<()>(Format::WebP, || panic!("as some decoders do on hostile files"));
        assert!(matches!(result, Err(DecodeError::Corrupt { format: Format::WebP, .. })));
    }

    #[test]
    fn the_list_of_formats_has_every_one() {
        for format in Format::ALL {
            assert!(Format::LISTED.contains(format.name()), "{format:?}");
            assert_eq!(format.media_type(), format!("image/{}", format.name().to_lowercase()));
        }
        assert_eq!(Format::LISTED.split([',', '(']).count(), Format::ALL.len(), "{}", Format::LISTED);
        for told in
            [DecodeError::UnknownFormat { start: vec![b'x'] }, DecodeError::OtherFormat { name: "AVIF" }]
        {
            assert!(told.to_string().contains(Format::LISTED), "{told}");
        }
    }

    #[test]
    fn dimensions_are_those_that_decoding_finds() {
        let pixels = [7u8; 5 * 3 * 3];
        let image = image::RgbImage::from_raw(5, 3, pixels.to_vec()).unwrap();
        use image::ImageFormat as F;
        for format in [F::Jpeg, F::Png, F::WebP, F::Bmp, F::Gif, F::Tiff] {
            let mut bytes = std::io::Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).unwrap();
            let bytes = bytes.into_inner();
            assert_eq!(dimensions(&bytes, &Limits::default()).unwrap(), (5, 3), "{format:?}");
            let small = Limits { max_pixels: 14, ..Limits::default() };
            assert!(matches!(dimensions(&bytes, &small), Err(DecodeError::TooLarge { .. })), "{format:?}");
            assert!(dimensions(&bytes[..9], &Limits::default()).is_err(), "{format:?}");
        }
        let avif = dimensions(b"\0\0\0\x1cftypavif", &Limits::default());
        assert!(matches!(avif, Err(DecodeError::OtherFormat { name: "AVIF" })));
    }

    #[test]
    fn limits_hold_sides_and_area() {
        let limits = Limits { max_pixels: 100, max_side: 20 };
        assert!(limits.check(10, 10).is_ok());
        assert!(matches!(limits.check(21, 1), Err(DecodeError::TooLarge { width: 21, .. })));
        assert!(matches!(limits.check(11, 10), Err(DecodeError::TooLarge { .. })));
        assert!(matches!(limits.check(0, 10), Err(DecodeError::ZeroSize { .. })));
    }
}
