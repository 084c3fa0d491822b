//! The orientation that a file's metadata tells, as Pillow reads it.

use image::metadata::Orientation;

/// Tag of the orientation in the first directory of an EXIF block (EXIF 2.3, 4.6.4).
const ORIENTATION: u64 = 0x0112;

/// The orientation in an EXIF block, with or without its `Exif` heading: a TIFF header in either byte order and its
/// first directory. `None` where the block is broken, or says nothing.
pub(crate) fn orientation(block: &[u8]) -> Option<Orientation> {
    let mut block = block;
    // some writers put the heading twice
    for _ in 0..2 {
        block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    }
    let little = match block.get(..4)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return None,
    };
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = block.get(at..at.checked_add(size)?)?;
        let add = |sum: u64, &b: &u8| sum << 8 | u64::from(b);
        Some(if little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) })
    };
    let directory = usize::try_from(number(4, 4)?).ok()?;
    let entries = number(directory, 2)? as usize;
    for entry in 0..entries {
        let at = directory.checked_add(2 + 12 * entry)?;
        // a directory that is cut off still counts as far as it goes
        let Some(tag) = number(at, 2) else { break };
        if tag != ORIENTATION {
            continue;
        }
        let (kind, count) = (number(at + 2, 2)?, number(at + 4, 4)?);
        // SHORT is what the standard says; LONG and their signed relatives are written, too
        let size = match kind {
            3 | 8 => 2,
            4 | 9 => 4,
            6 => 1,
            _ => return None,
        };
        let inside = count.checked_mul(size as u64).is_some_and(|bytes| bytes <= 4);
        let place = if inside { at + 8 } else { usize::try_from(number(at + 8, 4)?).ok()? };
        // of several entries, and of several values, the first one counts
        let whole =
            inside || block.len().checked_sub(place).is_some_and(|left| left as u64 / size as u64 >= count);
        let value = number(place, size).filter(|_| count > 0 && whole)?;
        return u8::try_from(value).ok().and_then(Orientation::from_exif);
    }
    None
}

/// The orientation in an XMP packet, which counts where there is no EXIF one: the first `tiff:Orientation`, as an
/// attribute or an element.
pub(crate) fn xmp_orientation(packet: &[u8]) -> Option<Orientation> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut rest = packet;
    loop {
        let at = rest.windows(NAME.len()).position(|w| w == NAME)?;
        rest = rest.get(at + NAME.len()..)?;
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"));
        if let Some(&digit @ b'0'..=b'9') = value.and_then(<[u8]>::first) {
            return Orientation::from_exif(digit - b'0');
        }
    }
}

/// The orientation of an EXIF block where it has one, else of an XMP packet.
pub(crate) fn either(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Option<Orientation> {
    exif.and_then(orientation).or_else(|| xmp.and_then(xmp_orientation))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An EXIF block with one entry of a type and count; `value` are the four bytes of its value.
    fn block(little: bool, kind: u16, count: u32, value: [u8; 4]) -> Vec<u8> {
        let short = |v: u16, l| if l { v.to_le_bytes() } else { v.to_be_bytes() };
        let long = |v: u32, l| if l { v.to_le_bytes() } else { v.to_be_bytes() };
        let magic: &[u8] = if little { b"II\x2a\0" } else { b"MM\0\x2a" };
        let mut out = magic.to_vec();
        out.extend(long(8, little));
        out.extend(short(2, little));
        out.extend([short(0x010f, little), short(2, little)].concat());
        out.extend([long(2, little), *b"x\0\0\0"].concat());
        out.extend([short(0x0112, little), short(kind, little)].concat());
        out.extend([long(count, little), value].concat());
        out.extend(long(0, little));
        out
    }

    #[test]
    fn shorts_and_longs_in_both_orders() {
        let six = Some(Orientation::Rotate90);
        assert_eq!(orientation(&block(true, 3, 1, [6, 0, 0, 0])), six);
        assert_eq!(orientation(&block(false, 3, 1, [0, 6, 0, 0])), six);
        assert_eq!(orientation(&block(true, 4, 1, [6, 0, 0, 0])), six);
        assert_eq!(orientation(&block(false, 4, 1, [0, 0, 0, 6])), six);
        let headed = [b"Exif\0\0".as_slice(), &block(false, 3, 1, [0, 6, 0, 0])].concat();
        assert_eq!(orientation(&headed), six);
        assert_eq!(orientation(&[b"Exif\0\0".as_slice(), &headed].concat()), six);
    }

    #[test]
    fn what_is_no_orientation() {
        for value in [0u8, 9, 255] {
            assert_eq!(orientation(&block(true, 3, 1, [value, 0, 0, 0])), None);
        }
        assert_eq!(orientation(&block(true, 2, 1, [6, 0, 0, 0])), None, "text");
        assert_eq!(orientation(&block(true, 3, u32::MAX, [6, 0, 0, 0])), None, "values outside the block");
        let whole = block(true, 3, 1, [6, 0, 0, 0]);
        for cut in 0..whole.len() {
            let _ = orientation(&whole[..cut]);
        }
        assert_eq!(orientation(b"II\x2a\0\xff\xff\xff\xff"), None);
        assert_eq!(orientation(b""), None);
    }

    #[test]
    fn xmp_says_it_as_an_attribute_or_an_element() {
        let three = Some(Orientation::Rotate180);
        assert_eq!(xmp_orientation(b"<rdf tiff:Orientation=\"3\">"), three);
        assert_eq!(xmp_orientation(b"<tiff:Orientation>3</tiff:Orientation>"), three);
        assert_eq!(xmp_orientation(b"tiff:Orientation tiff:Orientation=\"3\""), three);
        assert_eq!(xmp_orientation(b"tiff:Orientation=\""), None);
        assert_eq!(either(Some(b"broken"), Some(b"tiff:Orientation=\"3\"")), three);
    }
}
