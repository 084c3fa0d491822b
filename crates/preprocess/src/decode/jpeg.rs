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
    let found = markers::walk(bytes);
    // The decoder passes over frames that it does not know.
    if let Some(process) = found.frame.filter(|process| !(0xc0..=0xc2).contains(process)) {
        let coding = if process >= 0xc9 { "arithmetic coding" } else { "lossless or hierarchical coding" };
        return Err(DecodeError::Unsupported { format: Format::Jpeg, feature: coding.to_owned() });
    }
    let decoder = open(bytes)?;
    let (width, height) = size(&decoder)?;
    limits.check(width, height)?;
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
    notes.extend(match decoder.input_colorspace() {
        // Taken as inverted, with or without an Adobe segment: so do Pillow and the cameras.
        Some(ColorSpace::CMYK | ColorSpace::YCCK) => Some(Note::Cmyk),
        Some(ColorSpace::Luma) => Some(Note::Grey),
        _ => None,
    });
    let data = pixels(decoder, width, height)?;
    Ok(Raw { image: Rgb { width, height, data }, orientation, notes })
}

/// Width and height from the frame header.
pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), DecodeError> {
    size(&open(bytes)?)
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

fn pixels(mut decoder: Decoder<'_>, width: u32, height: u32) -> Result<Vec<u8>, DecodeError> {
    let expected = Rgb::byte_len(width, height);
    // A file whose components contradict its colour space would not come out as RGB.
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
