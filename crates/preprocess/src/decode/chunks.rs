//! Metadata between the chunks of PNG, WebP and GIF files, which their decoders keep to themselves, or find only in
//! front of the pixels.

use image::metadata::Orientation;

use crate::exif;

/// What a file says about its picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata<'a> {
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

impl Metadata<'_> {
    /// The EXIF orientation, else XMP's.
    pub(super) fn orientation(&self) -> Option<Orientation> {
        exif::either(self.exif, self.xmp)
    }
}

/// Those of a PNG: `eXIf`, before or behind the pixels, and XMP in an uncompressed `iTXt`.
pub(super) fn png(bytes: &[u8]) -> Metadata<'_> {
    let mut found = Metadata::default();
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((kind, after)) = after.split_first_chunk::<4>() else { break };
        // a checksum follows
        let Some((body, after)) = after.split_at_checked(length) else { break };
        match kind {
            b"eXIf" => found.exif = Some(body),
            b"iTXt" => found.xmp = found.xmp.or_else(|| png_xmp(body)),
            b"IEND" => break,
            _ => {}
        }
        rest = after.get(4..).unwrap_or_default();
    }
    found
}

/// The text of an XMP `iTXt`: keyword, flag and method of compression, language, keyword translated, text.
fn png_xmp(body: &[u8]) -> Option<&[u8]> {
    let rest = body.strip_prefix(b"XML:com.adobe.xmp\0\0")?.get(1..)?;
    let mut parts = rest.splitn(3, |&b| b == 0);
    parts.nth(2)
}

/// Those of a WebP: its chunks `EXIF` and `XMP `.
pub(super) fn webp(bytes: &[u8]) -> Metadata<'_> {
    let mut found = Metadata::default();
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((kind, after)) = rest.split_first_chunk::<4>() {
        let Some((length, after)) = after.split_first_chunk::<4>() else { break };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((body, after)) = after.split_at_checked(length) else { break };
        match kind {
            b"EXIF" => found.exif = found.exif.or(Some(body)),
            b"XMP " => found.xmp = found.xmp.or(Some(body)),
            _ => {}
        }
        // chunks have an even length
        rest = after.get(length % 2..).unwrap_or_default();
    }
    found
}

/// How many frames of a GIF are there to their end.
pub(super) fn gif_frames(bytes: &[u8]) -> usize {
    let mut frames = 0;
    let mut rest = bytes.get(10..).unwrap_or_default();
    let table = |packed: u8| if packed & 0x80 == 0 { 0 } else { 3usize << ((packed & 7) + 1) };
    let Some(&packed) = rest.first() else { return 0 };
    rest = rest.get(3 + table(packed)..).unwrap_or_default();
    while let Some((&kind, after)) = rest.split_first() {
        let blocks = match kind {
            // an extension: its label
            0x21 => after.get(1..),
            // a frame: place and size, colours, and the width of the first codes
            0x2c => after.get(8).and_then(|&packed| after.get(10 + table(packed)..)),
            _ => return frames,
        };
        let Some(behind) = blocks.and_then(skip_blocks) else { return frames };
        frames += usize::from(kind == 0x2c);
        rest = behind;
    }
    frames
}

/// What follows blocks of data, the last of which is empty.
fn skip_blocks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (&length, after) = rest.split_first()?;
        rest = after.get(usize::from(length)..)?;
        if length == 0 {
            return Some(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[..], kind, body, &[0; 4]].concat()
    }

    #[test]
    fn a_png_tells_before_and_behind_its_pixels() {
        let xmp = [b"XML:com.adobe.xmp\0\0\0en\0\0".as_slice(), b"<x/>"].concat();
        let bytes = [
            vec![0; 8],
            chunk(b"iTXt", b"other\0\0\0\0\0text"),
            chunk(b"iTXt", &xmp),
            chunk(b"IDAT", b"pixels"),
            chunk(b"eXIf", b"block"),
            chunk(b"IEND", b""),
            chunk(b"eXIf", b"behind the end"),
        ]
        .concat();
        assert_eq!(png(&bytes), Metadata { exif: Some(b"block"), xmp: Some(b"<x/>") });
        for cut in 0..bytes.len() {
            let _ = png(&bytes[..cut]);
        }
    }

    #[test]
    fn a_webp_tells_in_even_chunks() {
        let chunk =
            |kind: &[u8; 4], body: &[u8]| [kind, &(body.len() as u32).to_le_bytes()[..], body].concat();
        let bytes =
            [vec![0; 12], chunk(b"VP8L", b"odd"), vec![0], chunk(b"EXIF", b"ab"), chunk(b"XMP ", b"cd")]
                .concat();
        assert_eq!(webp(&bytes), Metadata { exif: Some(b"ab"), xmp: Some(b"cd") });
        for cut in 0..bytes.len() {
            let _ = webp(&bytes[..cut]);
        }
    }

    #[test]
    fn frames_of_a_gif_are_counted_when_they_end() {
        let frame = [&[0x2c][..], &[0; 8], &[0, 2, 3, 9, 9, 9, 0]].concat();
        let bytes = [
            &b"GIF89a"[..],
            &[1, 0, 1, 0, 0x80, 0, 0],
            &[7; 6],
            &[0x21, 0xf9, 1, 0, 0],
            &frame,
            &frame,
            b";",
        ]
        .concat();
        assert_eq!(gif_frames(&bytes), 2);
        assert_eq!(gif_frames(&bytes[..bytes.len() - 3]), 1);
        assert_eq!(gif_frames(&bytes[..30]), 0);
    }
}
