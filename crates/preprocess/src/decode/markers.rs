//! A walk over the markers of a JPEG, without decoding: is it all there, and what is it?
//!
//! The decoder fills up what is missing from a truncated file with grey; a training set must not
//! contain such pictures silently. ITU-T T.81, annex B, has the marker syntax.

/// What the walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Markers {
    /// The end-of-image marker was reached after at least one scan.
    pub(super) complete: bool,
    /// Scans (more than one in a progressive file).
    pub(super) scans: usize,
    /// The first start-of-frame marker, 0xc0..=0xcf: the coding process.
    pub(super) frame: Option<u8>,
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
                let Some(after) = skip_segment(after) else { return found };
                found.scans += usize::from(marker == 0xda);
                // Huffman tables, JPG extension and arithmetic conditioning lie in the same range.
                if (0xc0..=0xcf).contains(&marker) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
                    found.frame = found.frame.or(Some(marker));
                }
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

/// What follows a segment; its length includes the two bytes that tell it.
fn skip_segment(bytes: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes(*bytes.first_chunk()?);
    bytes.get(usize::from(length.max(2))..)
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
        let bytes = jpeg(&[
            &[0xff, 0xc4, 0, 2, 0xff, 0xc2, 0, 3, 8],
            &SOS,
            &[0xff, 0, 0xff, 0xd3, 7],
            &[0xff, 0xff, 0xd9],
        ]);
        assert_eq!(walk(&bytes), Markers { complete: true, scans: 1, frame: Some(0xc2) });
    }

    #[test]
    fn an_end_marker_inside_a_segment_does_not_count() {
        let thumbnail = [0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9];
        assert_eq!(walk(&jpeg(&[&thumbnail, &SOS])), Markers { complete: false, scans: 1, frame: None });
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
