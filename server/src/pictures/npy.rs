//! Arrays as NumPy's NPY files.

use std::fmt::Write;

/// Where the values begin is a multiple of this, so that they can be mapped.
const ALIGN: usize = 64;

/// An NPY 1.0 file of little-endian float32 in C order; `numpy.load` and `numpy.lib.format` read it.
/// `values` fill `shape`, row-major. (Format: numpy.lib.format, version 1.0.)
pub(crate) fn float32(shape: &[usize], values: impl ExactSizeIterator<Item = f32>) -> Vec<u8> {
    debug_assert_eq!(shape.iter().product::<usize>(), values.len());
    let mut header = String::from("{'descr': '<f4', 'fortran_order': False, 'shape': (");
    for side in shape {
        let _ = write!(header, "{side}, ");
    }
    header.push_str("), }");
    // Magic, version and length are 10 bytes; the header ends in a newline.
    let filled = (10 + header.len() + 1).next_multiple_of(ALIGN);
    header.extend(std::iter::repeat_n(' ', filled - 10 - header.len() - 1));
    header.push('\n');
    let mut out = Vec::with_capacity(filled + 4 * values.len());
    out.extend_from_slice(b"\x93NUMPY\x01\x00");
    // A shape of a few sides is far below the 65535 bytes that version 1.0 has room for.
    out.extend_from_slice(&(header.len() as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend(values.flat_map(f32::to_le_bytes));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_padded_and_the_values_follow() {
        let file = float32(&[2, 3], [1.0f32, -2.5, 0.0, 4.0, 5.0, 6.0].into_iter());
        assert_eq!(&file[..8], b"\x93NUMPY\x01\x00");
        let length = usize::from(u16::from_le_bytes([file[8], file[9]]));
        assert_eq!((10 + length) % ALIGN, 0);
        let header = std::str::from_utf8(&file[10..10 + length]).unwrap();
        assert!(
            header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, ), }"),
            "{header}"
        );
        assert!(header.ends_with(" \n"));
        let values = file[10 + length..].chunks_exact(4);
        let values: Vec<f32> = values.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(values, [1.0, -2.5, 0.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn one_axis_is_a_tuple_too() {
        let file = float32(&[0], std::iter::empty::<f32>().collect::<Vec<_>>().into_iter());
        assert!(file.windows(6).any(|w| w == b"(0, ),"));
    }
}
