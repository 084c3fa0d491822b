//! Values of initialisers, made while they are written.

use std::borrow::Cow;
use std::io::{self, Write};

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Element, Stream};

/// Floats that are read or computed each time they are needed.
pub(crate) type Floats<'a> = Box<dyn Fn() -> Cow<'a, [f32]> + 'a>;

/// Values of an initialiser.
pub(crate) struct Weights<'a> {
    element: Element,
    len: usize,
    source: Source<'a>,
}

enum Source<'a> {
    /// Written as floats or as halves.
    Floats(Floats<'a>),
    /// Quantised on the way.
    Int8(Box<dyn Fn() -> Vec<i8> + 'a>),
    /// Small ones, little-endian.
    Bytes(Vec<u8>),
}

impl<'a> Weights<'a> {
    /// `len` floats, read when they are written.
    pub(crate) fn floats(len: usize, make: impl Fn() -> Cow<'a, [f32]> + 'a) -> Self {
        Self { element: Element::Float, len, source: Source::Floats(Box::new(make)) }
    }

    /// A few floats.
    pub(crate) fn few(values: Vec<f32>) -> Self {
        Self::floats(values.len(), move || Cow::Owned(values.clone()))
    }

    /// `len` signed bytes, computed when they are written.
    pub(crate) fn int8(len: usize, make: impl Fn() -> Vec<i8> + 'a) -> Self {
        Self { element: Element::Int8, len, source: Source::Int8(Box::new(make)) }
    }

    /// Axes and pads.
    pub(crate) fn int64(values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { element: Element::Int64, len: values.len(), source: Source::Bytes(bytes) }
    }

    /// Biases of quantised convolutions.
    pub(crate) fn int32(values: &[i32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { element: Element::Int32, len: values.len(), source: Source::Bytes(bytes) }
    }

    /// A zero point of activations.
    pub(crate) fn uint8(value: u8) -> Self {
        Self { element: Element::Uint8, len: 1, source: Source::Bytes(vec![value]) }
    }

    /// The same floats in half precision; other types stay as they are.
    pub(crate) fn half(mut self) -> Self {
        if self.element == Element::Float {
            self.element = Element::Float16;
        }
        self
    }

    pub(crate) fn element(&self) -> Element {
        self.element
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A wrong length would shift everything behind it.
    fn check(&self, got: usize) -> io::Result<()> {
        let message = || format!("a tensor of {} values had {got} when it was written", self.len);
        if got == self.len { Ok(()) } else { Err(io::Error::other(message())) }
    }
}

impl Weights<'_> {
    /// Writes the values; `look` sees the floats first, as they are before they become halves.
    pub(crate) fn write_seen(&self, out: &mut dyn Write, look: &mut dyn FnMut(&[f32])) -> io::Result<()> {
        match &self.source {
            Source::Bytes(bytes) => out.write_all(bytes),
            Source::Int8(make) => {
                let values = make();
                self.check(values.len())?;
                write_chunks(out, &values, |v, b: &mut [u8; 1]| *b = v.to_le_bytes())
            }
            Source::Floats(make) => {
                let values = make();
                self.check(values.len())?;
                look(&values);
                match self.element {
                    Element::Float16 => write_halves(out, &values),
                    _ => write_chunks(out, &values, |v: &f32, b| *b = v.to_le_bytes()),
                }
            }
        }
    }
}

impl Stream for Weights<'_> {
    fn byte_len(&self) -> u64 {
        self.len as u64 * self.element.size()
    }

    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_seen(out, &mut |_| ())
    }
}

/// Bytes of a buffer that stays in the cache.
const BUFFER: usize = 1 << 14;

/// Little-endian values of `N` bytes.
fn write_chunks<T, const N: usize>(
    out: &mut dyn Write,
    values: &[T],
    encode: impl Fn(&T, &mut [u8; N]),
) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    for chunk in values.chunks(BUFFER / N) {
        let bytes = &mut buffer[..chunk.len() * N];
        bytes.as_chunks_mut().0.iter_mut().zip(chunk).for_each(|(b, v)| encode(v, b));
        out.write_all(bytes)?;
    }
    Ok(())
}

fn write_halves(out: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    let mut halves = [f16::ZERO; BUFFER / 2];
    for chunk in values.chunks(halves.len()) {
        let halves = &mut halves[..chunk.len()];
        halves.convert_from_f32_slice(chunk);
        write_chunks(out, halves, |v: &f16, b| *b = v.to_le_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(weights: &Weights<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        weights.write_to(&mut out).expect("memory");
        assert_eq!(out.len() as u64, weights.byte_len());
        out
    }

    #[test]
    fn every_type_is_little_endian() {
        assert_eq!(written(&Weights::few(vec![1.0, -2.0])), [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        assert_eq!(written(&Weights::few(vec![1.0, -2.0]).half()), [0, 0x3c, 0, 0xc0]);
        assert_eq!(written(&Weights::int8(2, || vec![1, -1])), [1, 0xff]);
        assert_eq!(written(&Weights::int32(&[-2])), [0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(written(&Weights::int64(&[1])), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(written(&Weights::uint8(7).half()), [7]);
    }

    #[test]
    fn long_tensors_pass_through_the_buffer() {
        let values: Vec<f32> = (0..40_000).map(|i| i as f32).collect();
        let bytes = written(&Weights::few(values.clone()));
        assert_eq!(bytes[4 * 39_999..], 39_999f32.to_le_bytes());
        let halves = written(&Weights::few(values.iter().map(|v| v / 32.0).collect()).half());
        assert_eq!(halves[2 * 39_968..][..2], f16::from_f32(1249.0).to_le_bytes());
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        let error = Weights::int8(3, || vec![1]).write_to(&mut Vec::new()).expect_err("short");
        assert!(error.to_string().contains("3 values had 1"), "{error}");
    }
}
