//! PNG and WebP by `image`.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder, ImageError};

use super::{DecodeError, Format, Limits, Note, Raw, exif_orientation};
use crate::Rgb;

/// Bytes that a PNG may make its decoder allocate for anything but pixels (text, profiles).
const MAX_METADATA: u64 = 32 << 20;

pub(super) fn decode_png(bytes: &[u8], limits: &Limits) -> Result<Raw, DecodeError> {
    // The first chunk has a fixed place: the size is known before the decoder allocates.
    let (width, height) = png_dimensions(bytes)?;
    limits.check(width, height)?;
    let mut inner = image::Limits::no_limits();
    inner.max_alloc = Some(limits.max_pixels.saturating_mul(8).saturating_add(MAX_METADATA));
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), inner).map_err(|e| error(Format::Png, &e))?;
    let animated = decoder.is_apng().unwrap_or(false);
    finish(decoder, Format::Png, animated, limits)
}

pub(super) fn decode_webp(bytes: &[u8], limits: &Limits) -> Result<Raw, DecodeError> {
    // The decoder takes the end of the file for broken data; the container knows better.
    let declared = bytes.get(4..).and_then(|b| b.first_chunk()).map(|&b| u64::from(u32::from_le_bytes(b)));
    if declared.is_none_or(|size| (bytes.len() as u64) < size + 8) {
        return Err(DecodeError::Truncated { format: Format::WebP });
    }
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| error(Format::WebP, &e))?;
    let animated = decoder.has_animation();
    finish(decoder, Format::WebP, animated, limits)
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

fn finish(
    mut decoder: impl ImageDecoder,
    format: Format,
    animated: bool,
    limits: &Limits,
) -> Result<Raw, DecodeError> {
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
    let orientation = decoder.exif_metadata().ok().flatten().and_then(|exif| exif_orientation(&exif));
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
