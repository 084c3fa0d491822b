//! JPEG by `zune-jpeg`.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::markers::{self, Markers, is_frame, next_marker, segment};
use super::{DecodeError, Format, Limits, Note, Raw, scans};
use crate::Rgb;
use crate::jpeg::segments::Colour;

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
    let rewritten = plain(bytes, &found);
    let decoder = open(rewritten.as_deref().unwrap_or(bytes))?;
    let (width, height) = size(&decoder)?;
    limits.check(width, height)?;
    if !found.complete {
        return Err(DecodeError::Truncated { format: Format::Jpeg });
    }
    if found.scans > MAX_SCANS {
        return Err(corrupt(format!("{} scans, but at most {MAX_SCANS} are allowed", found.scans)));
    }
    scans::check(bytes).map_err(|missing| DecodeError::Incomplete { format: Format::Jpeg, missing })?;
    let mut notes = Vec::new();
    if found.segments.has_profile() {
        notes.push(Note::IccIgnored);
    }
    notes.extend(match decoder.input_colorspace() {
        // Taken as inverted, with or without an Adobe segment: so do Pillow and the cameras.
        Some(ColorSpace::CMYK | ColorSpace::YCCK) => Some(Note::Cmyk),
        Some(ColorSpace::Luma) => Some(Note::Grey),
        _ => None,
    });
    let orientation = found.segments.orientation();
    let data = pixels(decoder, width, height)?;
    Ok(Raw { image: Rgb { width, height, data }, orientation, notes })
}

/// The file with its header made plain where the decoder would take the components for something else than
/// [`Colour`] says: application segments gone, components numbered, and the colour transform told once.
fn plain(bytes: &[u8], found: &Markers<'_>) -> Option<Vec<u8>> {
    if !found.segments.app14 && found.ids != b"RGB" {
        return None;
    }
    let transform = match found.segments.colour(&found.ids)? {
        Colour::Grey => None,
        Colour::Rgb | Colour::Cmyk => Some(0),
        Colour::YCbCr => Some(1),
        Colour::Ycck => Some(2),
    };
    let mut out = Vec::with_capacity(bytes.len() + 32);
    out.extend([0xff, 0xd8]);
    if let Some(transform) = transform {
        out.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
        out.push(transform);
    }
    let number = |id: u8| found.ids.iter().position(|&known| known == id).map_or(id, |at| at as u8 + 1);
    let mut rest = bytes.get(2..)?;
    while let Some((marker, after)) = next_marker(rest) {
        let passed = rest.len() - after.len();
        if matches!(marker, 0x01 | 0xd0..=0xd9) {
            out.extend_from_slice(rest.get(..passed)?);
            rest = after;
            // what follows the end is another picture
            if marker == 0xd9 {
                return Some(out);
            }
            continue;
        }
        // coded data in front of the marker
        out.extend_from_slice(rest.get(..passed.checked_sub(2)?)?);
        let (body, behind) = segment(after)?;
        rest = behind;
        // MJPEG's segment says that tables are the usual ones
        if matches!(marker, 0xe1..=0xef | 0xfe) || (marker == 0xe0 && !body.starts_with(b"AVI1")) {
            continue;
        }
        out.extend([0xff, marker]);
        out.extend_from_slice(after.get(..2)?);
        let start = out.len();
        out.extend_from_slice(body);
        let renumber = out.get_mut(start..)?;
        if is_frame(marker) {
            let components = renumber.get_mut(6..)?.as_chunks_mut::<3>().0;
            components.iter_mut().for_each(|[id, ..]| *id = number(*id));
        } else if marker == 0xda {
            let n = usize::from(*renumber.first()?);
            let components = renumber.get_mut(1..1 + 2 * n)?.as_chunks_mut::<2>().0;
            components.iter_mut().for_each(|[id, _]| *id = number(*id));
        }
    }
    out.extend_from_slice(rest);
    Some(out)
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
