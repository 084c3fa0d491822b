//! JPEG by `zune-jpeg`.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::{DecodeError, Format, Limits, Note, Raw, exif_orientation, markers};
use crate::Rgb;

/// A progressive file needs some ten scans; each costs a pass over the picture, so a small file
/// with thousands of them is an attack.
const MAX_SCANS: usize = 500;

type Decoder<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raw, DecodeError> {
    let decoder = open(bytes)?;
    let (width, height) = size(&decoder)?;
    limits.check(width, height)?;
    let found = markers::walk(bytes);
    if !found.complete {
        return Err(DecodeError::Truncated { format: Format::Jpeg });
    }
    if found.scans > MAX_SCANS {
        return Err(corrupt(format!("{} scans, where {MAX_SCANS} are allowed", found.scans)));
    }
    let mut notes = Vec::new();
    if decoder.icc_profile().is_some() {
        notes.push(Note::IccIgnored);
    }
    let orientation = decoder.exif().and_then(|exif| exif_orientation(exif));
    let colours = decoder.input_colorspace().unwrap_or(ColorSpace::YCbCr);
    let data = match colours {
        ColorSpace::CMYK if !found.adobe => {
            notes.push(Note::Cmyk);
            cmyk_to_rgb(&samples(decoder, ColorSpace::CMYK, (width, height))?)
        }
        _ => {
            notes.extend(match colours {
                ColorSpace::CMYK | ColorSpace::YCCK => Some(Note::Cmyk),
                ColorSpace::Luma => Some(Note::Grey),
                _ => None,
            });
            samples(decoder, ColorSpace::RGB, (width, height))?
        }
    };
    Ok(Raw { image: Rgb { width, height, data }, orientation, notes })
}

/// A decoder that has read the headers, up to the first scan.
fn open(bytes: &[u8]) -> Result<Decoder<'_>, DecodeError> {
    // Not strict: files with stray bytes between segments are common, and other decoders read
    // them. The sides are checked against the caller's limits.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(error)?;
    Ok(decoder)
}

fn size(decoder: &Decoder<'_>) -> Result<(u32, u32), DecodeError> {
    let info = decoder.info().ok_or_else(|| corrupt("no frame header".to_owned()))?;
    Ok((u32::from(info.width), u32::from(info.height)))
}

/// Decodes into interleaved samples of `colours`.
fn samples(
    mut decoder: Decoder<'_>,
    colours: ColorSpace,
    (width, height): (u32, u32),
) -> Result<Vec<u8>, DecodeError> {
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(colours));
    let expected = Rgb::byte_len(width, height) / 3 * colours.num_components();
    // A file whose components contradict its colour space would be written past the picture.
    if decoder.output_buffer_size() != Some(expected) {
        return Err(DecodeError::Unsupported {
            format: Format::Jpeg,
            feature: format!("components read as {:?}", decoder.input_colorspace()),
        });
    }
    let mut data = vec![0; expected];
    decoder.decode_into(&mut data).map_err(error)?;
    Ok(data)
}

/// Plain CMYK (0 is no ink) to RGB without a profile, as Pillow does it.
fn cmyk_to_rgb(cmyk: &[u8]) -> Vec<u8> {
    let ink = |colour: u8, key: u8| {
        let white = 255 - u32::from(key);
        let product = u32::from(colour) * white + 128;
        (white - (((product >> 8) + product) >> 8)) as u8
    };
    cmyk.chunks_exact(4).flat_map(|p| [ink(p[0], p[3]), ink(p[1], p[3]), ink(p[2], p[3])]).collect()
}

fn error(error: DecodeErrors) -> DecodeError {
    let format = Format::Jpeg;
    match error {
        DecodeErrors::Unsupported(scheme) => {
            DecodeError::Unsupported { format, feature: format!("{scheme:?}") }
        }
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => DecodeError::Truncated { format },
        DecodeErrors::ZeroError => DecodeError::ZeroSize { width: 0, height: 0 },
        other => corrupt(format!("{other}").to_lowercase()),
    }
}

fn corrupt(reason: String) -> DecodeError {
    DecodeError::Corrupt { format: Format::Jpeg, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cmyk_by_hand() {
        let cmyk = [0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 255, 0, 128, 255, 51];
        let rgb = cmyk_to_rgb(&cmyk);
        assert_eq!(rgb[..9], [255, 255, 255, 0, 255, 255, 0, 0, 0]);
        assert_eq!(rgb[9..], [204, 102, 0]);
    }
}
