//! A walk over the markers of a JPEG, without decoding: is it all there, and what is it?
//!
//! The decoder fills up what is missing from a truncated file with grey; a training set must not
//! contain such pictures silently. ITU-T T.81, annex B, has the marker syntax.

use crate::jpeg::segments::Segments;

/// What the walk found.
#[derive(Clone, Debug, Default)]
pub(super) struct Markers<'a> {
    /// The end-of-image marker was reached after at least one scan.
    pub(super) complete: bool,
    /// Scans (more than one in a progressive file).
    pub(super) scans: usize,
    /// The first start-of-frame marker, 0xc0..=0xcf: the coding process.
    pub(super) frame: Option<u8>,
    /// Ids of the frame's components.
    pub(super) ids: Vec<u8>,
    /// The application segments in front of the first scan.
    pub(super) segments: Segments<'a>,
}

/// Walks the segments of `bytes`, which starts with the start-of-image marker.
pub(super) fn walk(bytes: &[u8]) -> Markers<'_> {
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
                let Some((body, after)) = segment(after) else { return found };
                found.scans += usize::from(marker == 0xda);
                if is_frame(marker) && found.frame.is_none() {
                    found.frame = Some(marker);
                    let components = body.get(6..).unwrap_or_default();
                    found.ids = components.chunks_exact(3).filter_map(|c| c.first().copied()).collect();
                }
                if found.scans == 0 {
                    found.segments.take(marker, body);
                }
                rest = after;
            }
        }
    }
    found
}

/// The next marker and what follows it; entropy-coded data, stuffing and fill bytes are passed over.
pub(super) fn next_marker(mut bytes: &[u8]) -> Option<(u8, &[u8])> {
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

/// The body of a segment and what follows it; its length includes the two bytes that tell it.
pub(super) fn segment(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u16::from_be_bytes(*bytes.first_chunk()?);
    let (whole, after) = bytes.split_at_checked(usize::from(length.max(2)))?;
    Some((whole.get(2..).unwrap_or_default(), after))
}

/// Whether a marker starts a frame: Huffman tables, JPG extension and arithmetic conditioning lie in the same range.
pub(super) fn is_frame(marker: u8) -> bool {
    (0xc0..=0xcf).contains(&marker) && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
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
        let found = walk(&bytes);
        assert_eq!((found.complete, found.scans, found.frame), (true, 1, Some(0xc2)));
    }

    #[test]
    fn an_end_marker_inside_a_segment_does_not_count() {
        let thumbnail = [0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9];
        let bytes = jpeg(&[&thumbnail, &SOS]);
        let found = walk(&bytes);
        assert_eq!((found.complete, found.scans, found.frame), (false, 1, None));
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
