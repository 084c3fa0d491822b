//! Formats other than JPEG, by `image`.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError};

use super::chunks;
use super::{DecodeError, Format, Limits, Note, Raw};
use crate::Rgb;
use crate::exif;

/// Bytes that a file may make its decoder allocate for anything but pixels (text, profiles).
const MAX_METADATA: u64 = 32 << 20;

pub(super) fn decode_png(bytes: &[u8], limits: &Limits) -> Result<Raw, DecodeError> {
    // The first chunk has a fixed place: the size is known before the decoder allocates.
    let (width, height) = png_dimensions(bytes)?;
    limits.check(width, height)?;
    let decoder =
        PngDecoder::with_limits(Cursor::new(bytes), inner(limits)).map_err(|e| error(Format::Png, &e))?;
    let animated = decoder.is_apng().unwrap_or(false);
    let told = Told { format: Format::Png, animated, orientation: chunks::png(bytes).orientation() };
    finish(decoder, told, limits)
}

pub(super) fn decode_webp(bytes: &[u8], limits: &Limits) -> Result<Raw, DecodeError> {
    // The decoder takes the end of the file for broken data; the container knows better.
    let declared = bytes.get(4..).and_then(|b| b.first_chunk()).map(|&b| u64::from(u32::from_le_bytes(b)));
    if declared.is_none_or(|size| (bytes.len() as u64) < size + 8) {
        return Err(DecodeError::Truncated { format: Format::WebP });
    }
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| error(Format::WebP, &e))?;
    let animated = decoder.has_animation();
    let told = Told { format: Format::WebP, animated, orientation: chunks::webp(bytes).orientation() };
    finish(decoder, told, limits)
}

pub(super) fn decode_bmp(bytes: &[u8], limits: &Limits) -> Result<Raw, DecodeError> {
    let format = Format::Bmp;
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|e| error(format, &e))?;
    finish(decoder, Told { format, animated: false, orientation: None }, limits)
}

/// The first page.
pub(super) fn decode_tiff(bytes: &[u8], limits: &Limits) -> Result<Raw, DecodeError> {
    let format = Format::Tiff;
    let mut decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(|e| error(format, &e))?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    decoder.set_limits(inner(limits)).map_err(|e| error(format, &e))?;
    // a TIFF file begins as an EXIF block does
    finish(decoder, Told { format, animated: false, orientation: exif::orientation(bytes) }, limits)
}

/// The first frame on its canvas.
pub(super) fn decode_gif(bytes: &[u8], limits: &Limits) -> Result<Raw, DecodeError> {
    let format = Format::Gif;
    let (width, height) = gif_dimensions(bytes)?;
    limits.check(width, height)?;
    // The decoder takes a frame without its last rows for a whole one.
    let frames = chunks::gif_frames(bytes);
    if frames == 0 {
        return Err(DecodeError::Truncated { format });
    }
    let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(|e| error(format, &e))?;
    // a frame may claim to be larger than its canvas
    decoder.set_limits(inner(limits)).map_err(|e| error(format, &e))?;
    finish(decoder, Told { format, animated: frames > 1, orientation: None }, limits)
}

/// What the decoder of `image` may take.
fn inner(limits: &Limits) -> image::Limits {
    let mut inner = image::Limits::no_limits();
    inner.max_alloc = Some(limits.max_pixels.saturating_mul(8).saturating_add(MAX_METADATA));
    inner
}

/// Width and height from the header.
pub(super) fn bmp_dimensions(bytes: &[u8]) -> Result<(u32, u32), DecodeError> {
    BmpDecoder::new(Cursor::new(bytes)).map(|d| d.dimensions()).map_err(|e| error(Format::Bmp, &e))
}

/// Width and height of the first page.
pub(super) fn tiff_dimensions(bytes: &[u8]) -> Result<(u32, u32), DecodeError> {
    TiffDecoder::new(Cursor::new(bytes)).map(|d| d.dimensions()).map_err(|e| error(Format::Tiff, &e))
}

/// Width and height of the canvas.
pub(super) fn gif_dimensions(bytes: &[u8]) -> Result<(u32, u32), DecodeError> {
    let side = |at: usize| Some(u32::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?)));
    let sides = side(6).zip(side(8));
    sides.ok_or(DecodeError::Truncated { format: Format::Gif })
}

/// What is known of a file besides what its decoder tells.
#[derive(Clone, Copy)]
struct Told {
    format: Format,
    animated: bool,
    orientation: Option<Orientation>,
}

/// Width and height from the IHDR chunk.
pub(super) fn png_dimensions(bytes: &[u8]) -> Result<(u32, u32), DecodeError> {
    png_size(bytes).ok_or(DecodeError::Truncated { format: Format::Png })
}

/// Width and height from the container.
pub(super) fn webp_dimensions(bytes: &[u8]) -> Result<(u32, u32), DecodeError> {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| error(Format::WebP, &e))?;
    Ok(decoder.dimensions())
}

fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    Some((word(16)?, word(20)?))
}

fn finish(mut decoder: impl ImageDecoder, told: Told, limits: &Limits) -> Result<Raw, DecodeError> {
    let Told { format, animated, orientation } = told;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    let mut notes = Vec::new();
    if animated {
        notes.push(Note::Animated);
    }
    // Metadata that cannot be read does not make the pixels worse.
    if decoder.icc_profile().ok().flatten().is_some() {
        notes.push(Note::IccIgnored);
    }
    let colours = decoder.color_type();
    let mut samples = vec![0; usize::from(colours.bytes_per_pixel()) * width as usize * height as usize];
    decoder.read_image(&mut samples).map_err(|e| error(format, &e))?;
    let data = to_rgb(samples, colours, &mut notes)
        .ok_or_else(|| DecodeError::Unsupported { format, feature: format!("{colours:?}") })?;
    Ok(Raw { image: Rgb { width, height, data }, orientation, notes })
}

/// Any sample layout to 8-bit RGB on white; `None` for one that these formats do not have.
fn to_rgb(samples: Vec<u8>, colours: ColorType, notes: &mut Vec<Note>) -> Option<Vec<u8>> {
    use ColorType as C;
    let sixteen = matches!(colours, C::L16 | C::La16 | C::Rgb16 | C::Rgba16);
    let samples = if sixteen {
        notes.push(Note::SixteenBit);
        high_bytes(&samples)
    } else {
        samples
    };
    if matches!(colours, C::L8 | C::L16 | C::La8 | C::La16) {
        notes.push(Note::Grey);
    }
    match colours {
        C::L8 | C::L16 => Some(samples.iter().flat_map(|&v| [v; 3]).collect()),
        C::Rgb8 | C::Rgb16 => Some(samples),
        C::La8 | C::La16 => {
            Some(on_white(samples.as_chunks::<2>().0.iter().map(|&[v, a]| ([v; 3], a)), notes))
        }
        C::Rgba8 | C::Rgba16 => {
            Some(on_white(samples.as_chunks::<4>().0.iter().map(|&[r, g, b, a]| ([r, g, b], a)), notes))
        }
        _ => None,
    }
}

/// The high byte of each 16-bit sample: what libpng's `strip_16` and Pillow take.
fn high_bytes(samples: &[u8]) -> Vec<u8> {
    samples.as_chunks::<2>().0.iter().map(|&pair| (u16::from_ne_bytes(pair) >> 8) as u8).collect()
}

/// Lays pixels over white by their alpha, rounding to nearest.
fn on_white(pixels: impl Iterator<Item = ([u8; 3], u8)>, notes: &mut Vec<Note>) -> Vec<u8> {
    let mut transparent = false;
    let data = pixels
        .flat_map(|(colour, alpha)| {
            transparent |= alpha != 255;
            let alpha = u32::from(alpha);
            colour.map(|c| ((u32::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
        })
        .collect();
    if transparent {
        notes.push(Note::AlphaOnWhite);
    }
    data
}

fn error(format: Format, error: &ImageError) -> DecodeError {
    let reason = error.to_string().to_lowercase();
    match error {
        ImageError::Unsupported(_) => DecodeError::Unsupported { format, feature: reason },
        ImageError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format }
        }
        // The decoders wrap the end of the file in errors of their own.
        _ if ["unexpected end", "unexpected eof", "failed to fill whole buffer"]
            .iter()
            .any(|words| reason.contains(words)) =>
        {
            DecodeError::Truncated { format }
        }
        _ => DecodeError::Corrupt { format, reason },
    }
}
