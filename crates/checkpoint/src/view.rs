//! Bytes of a tensor inside its storage: byte order and strides.

use std::borrow::Cow;
use std::ops::Range;

/// Where the bytes of a storage lie in the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Storage {
    /// As they are, at this range of the file.
    Raw(Range<usize>),
    /// One UTF-8 encoded code point (0..=255) per byte: how pickles of protocol 2 written by
    /// Python 3 hold bytes.
    Latin1 {
        /// Of the encoded bytes, in the file.
        range: Range<usize>,
        /// Bytes it decodes to.
        len: usize,
    },
    /// Decoded while parsing: the escaped strings of protocol 0.
    Owned(std::sync::Arc<[u8]>),
}

/// Which elements of the storage a tensor takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Layout {
    /// All of one range, row-major; in bytes.
    Contiguous {
        /// First byte within the storage.
        offset: usize,
    },
    /// Element `i` lies at `offset + sum(i * strides)`; in elements.
    Strided {
        /// First element within the storage.
        offset: usize,
        /// Elements between neighbours along each dimension.
        strides: Vec<usize>,
    },
}

/// The bytes of a storage; `None` when the file does not hold them.
pub(crate) fn storage_bytes<'a>(file: &'a [u8], storage: &'a Storage) -> Option<Cow<'a, [u8]>> {
    match storage {
        Storage::Raw(range) => file.get(range.clone()).map(Cow::Borrowed),
        Storage::Latin1 { range, len } => decode_latin1(file.get(range.clone())?, *len).map(Cow::Owned),
        Storage::Owned(bytes) => Some(Cow::Borrowed(bytes)),
    }
}

/// The code points of a UTF-8 string as bytes; `None` unless they are `len` of at most 255 each.
fn decode_latin1(utf8: &[u8], len: usize) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(utf8).ok()?;
    let mut bytes = Vec::with_capacity(len);
    for c in text.chars() {
        bytes.push(u8::try_from(u32::from(c)).ok()?);
    }
    (bytes.len() == len).then_some(bytes)
}

/// Row-major bytes of a strided view; `None` when it reaches past the storage.
///
/// Sides of length one and dimensions that continue each other are merged first, so that the inner
/// loop is as long as the strides allow.
pub(crate) fn gather(
    bytes: &[u8],
    size: usize,
    shape: &[usize],
    offset: usize,
    strides: &[usize],
) -> Option<Vec<u8>> {
    let count = crate::dtype::elements(shape)?;
    let mut out = Vec::with_capacity(count.checked_mul(size)?);
    if count == 0 {
        return Some(out);
    }
    let dims = merge(shape, strides);
    let (&(inner, stride), outer) = dims.split_last().unwrap_or((&(1, 1), &[]));
    let mut index = vec![0usize; outer.len()];
    loop {
        let at = index
            .iter()
            .zip(outer)
            .try_fold(offset, |at, (&i, &(_, s))| at.checked_add(i.checked_mul(s)?))?;
        append_row(&mut out, bytes, size, (at, inner, stride))?;
        if !advance(&mut index, outer) {
            return Some(out);
        }
    }
}

/// Appends `count` elements from element `start` on, `stride` apart.
fn append_row(out: &mut Vec<u8>, bytes: &[u8], size: usize, row: (usize, usize, usize)) -> Option<()> {
    let (start, count, stride) = row;
    if stride == 1 {
        let first = start.checked_mul(size)?;
        out.extend_from_slice(bytes.get(first..first.checked_add(count.checked_mul(size)?)?)?);
        return Some(());
    }
    let last = start.checked_add(count.checked_sub(1)?.checked_mul(stride)?)?;
    // The whole row is checked once; the elements below it are in bounds.
    bytes.get(..last.checked_add(1)?.checked_mul(size)?)?;
    for i in 0..count {
        let first = (start + i * stride) * size;
        out.extend_from_slice(bytes.get(first..first + size)?);
    }
    Some(())
}

/// Steps a multi-index, last dimension fastest; false after the last one.
fn advance(index: &mut [usize], dims: &[(usize, usize)]) -> bool {
    for (i, &(len, _)) in index.iter_mut().zip(dims).rev() {
        *i += 1;
        if *i < len {
            return true;
        }
        *i = 0;
    }
    false
}

/// (length, stride) of each dimension without those of length one, neighbours merged where the outer
/// one continues the inner one.
fn merge(shape: &[usize], strides: &[usize]) -> Vec<(usize, usize)> {
    let mut dims: Vec<(usize, usize)> = Vec::with_capacity(shape.len());
    for (&len, &stride) in shape.iter().zip(strides).filter(|(len, _)| **len != 1) {
        match dims.last_mut() {
            Some(outer) if Some(outer.1) == stride.checked_mul(len) => {
                *outer = (outer.0.saturating_mul(len), stride);
            }
            _ => dims.push((len, stride)),
        }
    }
    dims
}

/// Row-major strides of a shape, in elements.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    let mut next = 1usize;
    for (stride, &len) in strides.iter_mut().zip(shape).rev() {
        *stride = next;
        next = next.saturating_mul(len.max(1));
    }
    strides
}

/// Whether these strides are row-major; the stride of a side of length one does not matter.
pub(crate) fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    row_major(shape).iter().zip(strides).zip(shape).all(|((a, b), &len)| a == b || len == 1)
}

/// Elements of the storage that a view needs: one more than the last index it touches.
pub(crate) fn extent(shape: &[usize], offset: usize, strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(offset, |at, (&len, &stride)| at.checked_add(len.checked_sub(1)?.checked_mul(stride)?))?;
    last.checked_add(1)
}

/// Reverses the bytes of every element.
pub(crate) fn swap(bytes: &mut [u8], size: usize) {
    for element in bytes.chunks_exact_mut(size.max(1)) {
        element.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element by element, without any of the short cuts.
    fn naive(bytes: &[u8], shape: &[usize], offset: usize, strides: &[usize]) -> Vec<u8> {
        let count: usize = shape.iter().product();
        (0..count)
            .map(|mut flat| {
                let mut at = offset;
                for (len, stride) in shape.iter().zip(strides).rev() {
                    at += flat % len * stride;
                    flat /= len;
                }
                bytes[at]
            })
            .collect()
    }

    #[test]
    fn gather_equals_the_naive_loop() {
        let bytes: Vec<u8> = (0..=255).collect();
        let cases: [(&[usize], usize, &[usize]); 7] = [
            (&[2, 3, 4], 5, &[12, 4, 1]),
            (&[3, 4], 0, &[1, 3]),
            (&[4, 1, 5], 7, &[5, 99, 1]),
            (&[2, 3, 4], 1, &[1, 2, 6]),
            (&[3, 2], 9, &[0, 0]),
            (&[], 3, &[]),
            (&[2, 2, 3, 3], 0, &[18, 1, 6, 2]),
        ];
        for (shape, offset, strides) in cases {
            let got = gather(&bytes, 1, shape, offset, strides).expect("in bounds");
            assert_eq!(got, naive(&bytes, shape, offset, strides), "{shape:?} {strides:?}");
        }
    }

    #[test]
    fn gather_past_the_end_is_refused() {
        assert_eq!(gather(&[0; 8], 4, &[3], 0, &[1]), None);
        assert_eq!(gather(&[0; 8], 4, &[2], 1, &[1]), None);
        assert_eq!(gather(&[0; 8], 4, &[2], 0, &[usize::MAX]), None);
        assert_eq!(gather(&[0; 8], 4, &[0, 5], 100, &[1, 1]), Some(vec![]));
    }

    #[test]
    fn extents() {
        assert_eq!(extent(&[2, 3], 4, &[3, 1]), Some(10));
        assert_eq!(extent(&[2, 0], 4, &[3, 1]), Some(0));
        assert_eq!(extent(&[2], 0, &[usize::MAX]), None);
        assert_eq!(extent(&[3], 0, &[usize::MAX]), None);
    }

    #[test]
    fn latin1_is_held_to_its_length() {
        let text = "aé\u{ff}";
        assert_eq!(decode_latin1(text.as_bytes(), 3), Some(vec![b'a', 0xe9, 0xff]));
        assert_eq!(decode_latin1(text.as_bytes(), 4), None);
        assert_eq!(decode_latin1("\u{100}".as_bytes(), 1), None);
    }

    #[test]
    fn swaps_elements() {
        let mut bytes = [1, 2, 3, 4];
        swap(&mut bytes, 2);
        assert_eq!(bytes, [2, 1, 4, 3]);
    }
}
