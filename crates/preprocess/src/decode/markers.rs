//! A walk over the markers of a JPEG, without decoding: is it all there, and what is it?
//!
//! The decoder fills up what is missing from a truncated file with grey; a training set must not
//! contain such pictures silently. ITU-T T.81, annex B, has the marker syntax.

/// What the walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Markers {
    /// The end-of-image marker was reached after at least one scan.
    pub(super) complete: bool,
    /// There is an Adobe segment: its CMYK values are stored inverted.
    pub(super) adobe: bool,
    /// Scans (more than one in a progressive file).
    pub(super) scans: usize,
}

/// Walks the segments of `bytes`, which starts with the start-of-image marker.
pub(super) fn walk(bytes: &[u8]) -> Markers {
    let mut found = Markers::default();
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let Some((marker, after)) = next_marker(rest) {
        match marker {
            // End of image.
            0xd9 => {
                found.complete = found.scans > 0;
                return found;
            }
            // Restart markers and others without a length.
            0x01 | 0xd0..=0xd8 => rest = after,
            _ => {
                let Some((segment, after)) = split_segment(after) else { return found };
                found.scans += usize::from(marker == 0xda);
                found.adobe |= marker == 0xee && segment.starts_with(b"Adobe");
                rest = after;
            }
        }
    }
    found
}

/// The next marker and what follows it; entropy-coded data, stuffing and fill bytes are passed over.
fn next_marker(mut bytes: &[u8]) -> Option<(u8, &[u8])> {
    loop {
        let at = bytes.iter().position(|&b| b == 0xff)?;
        bytes = bytes.get(at + 1..)?;
        match *bytes.first()? {
            0x00 => {}
            // A fill byte: the next 0xff may begin the marker.
            0xff => {}
            marker => return Some((marker, bytes.get(1..)?)),
        }
    }
}

/// A segment's payload (its two length bytes taken off), and what follows the segment.
fn split_segment(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)).checked_sub(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOS: [u8; 8] = [0xff, 0xda, 0, 4, 9, 9, 0x12, 0x34];

    fn jpeg(parts: &[&[u8]]) -> Vec<u8> {
        [&[0xff, 0xd8][..]].iter().chain(parts).copied().flatten().copied().collect()
    }

    #[test]
    fn a_whole_file() {
        let bytes = jpeg(&[b"\xff\xee\0\x08Adobe\0", &SOS, &[0xff, 0, 0xff, 0xd3, 7], &[0xff, 0xff, 0xd9]]);
        assert_eq!(walk(&bytes), Markers { complete: true, adobe: true, scans: 1 });
    }

    #[test]
    fn an_end_marker_inside_a_segment_does_not_count() {
        let thumbnail = [0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9];
        assert_eq!(walk(&jpeg(&[&thumbnail, &SOS])), Markers { complete: false, adobe: false, scans: 1 });
    }

    #[test]
    fn any_cut_is_incomplete() {
        let bytes = jpeg(&[&SOS, &[1, 2, 3], &SOS, &[0xff, 0xd9]]);
        assert!(walk(&bytes).complete);
        assert_eq!(walk(&bytes).scans, 2);
        for cut in 0..bytes.len() {
            assert!(!walk(&bytes[..cut]).complete, "{cut}");
        }
    }
}
