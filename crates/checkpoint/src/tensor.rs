//! A tensor as a view into the mapped file.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;

use crate::dtype::Dtype;
use crate::error::Error;
use crate::out::TensorOut;
use crate::view::{self, Layout, Storage};

/// What the index of a checkpoint knows of one tensor.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) storage: Storage,
    pub(crate) layout: Layout,
    /// Whether the storage is big-endian.
    pub(crate) swapped: bool,
}

/// A tensor of an open checkpoint; nothing is read before it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Its name in the checkpoint.
    pub name: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its sides; empty for a scalar.
    pub shape: &'a [usize],
    entry: &'a Entry,
    file: &'a [u8],
}

impl<'a> Tensor<'a> {
    pub(crate) fn new(entry: &'a Entry, file: &'a [u8]) -> Self {
        Self { name: &entry.name, dtype: entry.dtype, shape: &entry.shape, entry, file }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // Held against the file when it was opened, so it does not overflow.
        crate::dtype::elements(self.shape).unwrap_or(0)
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that [`Self::to_bytes`] gives.
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Whether both are the same bytes of the file, seen in the same way.
    pub(crate) fn is_same_data(&self, other: &Self) -> bool {
        let in_file = matches!(self.entry.storage, Storage::Raw(_));
        in_file
            && (self.dtype, self.shape) == (other.dtype, other.shape)
            && (&self.entry.storage, &self.entry.layout) == (&other.entry.storage, &other.entry.layout)
    }

    /// The elements, row-major and little-endian; borrowed where the file holds them so.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the file's bytes cannot be decoded.
    pub fn to_bytes(&self) -> Result<Cow<'a, [u8]>, Error> {
        // Where nothing begins does not matter: an empty view may lie behind the end of its storage.
        if self.is_empty() {
            return Ok(Cow::Borrowed(&[]));
        }
        let fail = |reason| Error::Tensor { name: self.name.to_owned(), reason };
        let bytes = view::storage_bytes(self.file, &self.entry.storage)
            .ok_or_else(|| fail("its storage cannot be decoded"))?;
        let size = self.dtype.size();
        let mut bytes = match &self.entry.layout {
            Layout::Contiguous { offset } => slice(bytes, *offset, self.byte_len()),
            Layout::Strided { offset, strides } => {
                view::gather(&bytes, size, self.shape, *offset, strides).map(Cow::Owned)
            }
        }
        .ok_or_else(|| fail("it reaches past the end of its storage"))?;
        if self.entry.swapped && size > 1 {
            view::swap(bytes.to_mut(), size);
        }
        Ok(bytes)
    }

    /// The elements as they lie in the file, if that is how single-precision floats lie in memory.
    pub fn as_f32(&self) -> Option<&'a [f32]> {
        let plain = self.dtype == Dtype::F32 && cfg!(target_endian = "little");
        let Cow::Borrowed(bytes) = (if plain { self.to_bytes().ok()? } else { return None }) else {
            return None;
        };
        bytemuck::try_cast_slice(bytes).ok()
    }

    /// Whether [`Self::to_bytes`] will succeed. Storages that lie in the file as they are were held
    /// against it when it was opened; the rest is decoded once.
    ///
    /// # Errors
    /// As [`Self::to_bytes`].
    pub fn check(&self) -> Result<(), Error> {
        if matches!(self.entry.storage, Storage::Raw(_)) { Ok(()) } else { self.to_bytes().map(drop) }
    }

    /// The elements as single-precision floats, row-major, whatever their type.
    ///
    /// # Errors
    /// As [`Self::to_bytes`].
    pub fn to_f32(&self) -> Result<Vec<f32>, Error> {
        let bytes = self.to_bytes()?;
        Ok(match self.dtype {
            Dtype::F32 => elements(&bytes, f32::from_le_bytes),
            #[expect(clippy::cast_possible_truncation, reason = "that is what narrowing means")]
            Dtype::F64 => elements(&bytes, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => halves(&elements(&bytes, half::f16::from_le_bytes)),
            Dtype::BF16 => halves(&elements(&bytes, half::bf16::from_le_bytes)),
            #[expect(clippy::cast_precision_loss, reason = "floats were asked for")]
            Dtype::I64 => elements(&bytes, |b| i64::from_le_bytes(b) as f32),
            #[expect(clippy::cast_precision_loss, reason = "floats were asked for")]
            Dtype::I32 => elements(&bytes, |b| i32::from_le_bytes(b) as f32),
            Dtype::I16 => elements(&bytes, |b| f32::from(i16::from_le_bytes(b))),
            Dtype::I8 => elements(&bytes, |b| f32::from(i8::from_le_bytes(b))),
            Dtype::U8 => elements(&bytes, |[b]: [u8; 1]| f32::from(b)),
            Dtype::Bool => elements(&bytes, |[b]: [u8; 1]| f32::from(u8::from(b != 0))),
        })
    }

    /// The elements as single-precision floats on their way into a file; borrowed where this one
    /// holds them so, whatever their alignment.
    pub(crate) fn f32_out(&self, name: String) -> Result<TensorOut<'a>, Error> {
        let data = match self.dtype {
            Dtype::F32 => self.to_bytes()?,
            _ => self.to_f32()?.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into(),
        };
        Ok(TensorOut { name, dtype: Dtype::F32, shape: self.shape.to_vec(), data })
    }

    /// The elements as 64-bit integers; floats are cut towards zero.
    ///
    /// # Errors
    /// As [`Self::to_bytes`].
    pub fn to_i64(&self) -> Result<Vec<i64>, Error> {
        if self.dtype == Dtype::I64 {
            return Ok(elements(&self.to_bytes()?, i64::from_le_bytes));
        }
        if self.dtype == Dtype::I32 {
            return Ok(elements(&self.to_bytes()?, |b| i64::from(i32::from_le_bytes(b))));
        }
        #[expect(clippy::cast_possible_truncation, reason = "documented")]
        Ok(self.to_f32()?.into_iter().map(|x| x as i64).collect())
    }
}

impl<'a> TensorOut<'a> {
    /// A tensor of an open checkpoint under another name, without a copy where the file allows.
    ///
    /// # Errors
    /// As [`Tensor::to_bytes`].
    pub fn of(name: impl Into<String>, tensor: &Tensor<'a>) -> Result<Self, crate::Error> {
        Ok(Self {
            name: name.into(),
            dtype: tensor.dtype,
            shape: tensor.shape.to_vec(),
            data: tensor.to_bytes()?,
        })
    }
}

/// `len` bytes from `offset` on, keeping the kind of the `Cow`.
fn slice(bytes: Cow<'_, [u8]>, offset: usize, len: usize) -> Option<Cow<'_, [u8]>> {
    let range = offset..offset.checked_add(len)?;
    match bytes {
        Cow::Borrowed(bytes) => bytes.get(range).map(Cow::Borrowed),
        Cow::Owned(bytes) if range == (0..bytes.len()) => Some(Cow::Owned(bytes)),
        Cow::Owned(bytes) => bytes.get(range).map(|b| Cow::Owned(b.to_vec())),
    }
}

/// Decodes elements of `N` bytes; the file need not be aligned.
fn elements<const N: usize, T>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| decode(chunk)).collect()
}

/// Widens halves with the processor's instructions where it has them.
fn halves<T>(values: &[T]) -> Vec<f32>
where
    [T]: HalfFloatSliceExt,
{
    let mut out = vec![0.0; values.len()];
    values.convert_to_f32_slice(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dtype: Dtype, len: usize, swapped: bool) -> Entry {
        Entry {
            name: "x".into(),
            dtype,
            shape: vec![len],
            storage: Storage::Raw(0..len * dtype.size()),
            layout: Layout::Contiguous { offset: 0 },
            swapped,
        }
    }

    #[test]
    fn every_type_becomes_floats() {
        let cases: [(Dtype, Vec<u8>); 10] = [
            (Dtype::F64, [1f64, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Dtype::F32, [1f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Dtype::F16, [1f32, -2.0].iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect()),
            (Dtype::BF16, [1f32, -2.0].iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect()),
            (Dtype::I64, [1i64, -2].iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Dtype::I32, [1i32, -2].iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Dtype::I16, [1i16, -2].iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Dtype::I8, [1i8, -2].iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Dtype::U8, vec![1, 254]),
            (Dtype::Bool, vec![1, 0]),
        ];
        for (dtype, mut bytes) in cases {
            let expected = match dtype {
                Dtype::U8 => [1.0, 254.0],
                Dtype::Bool => [1.0, 0.0],
                _ => [1.0, -2.0],
            };
            for swapped in [false, true] {
                let entry = entry(dtype, 2, swapped);
                assert_eq!(Tensor::new(&entry, &bytes).to_f32().expect("decodes"), expected, "{dtype}");
                view::swap(&mut bytes, dtype.size());
            }
        }
    }

    #[test]
    fn counts_are_exact_beyond_floats() {
        let value = (1i64 << 60) + 1;
        let bytes = value.to_le_bytes();
        let entry = entry(Dtype::I64, 1, false);
        assert_eq!(Tensor::new(&entry, &bytes).to_i64().expect("decodes"), [value]);
    }

    #[test]
    fn an_empty_view_has_no_place() {
        let mut entry = entry(Dtype::F32, 0, false);
        entry.layout = Layout::Contiguous { offset: 16 };
        assert!(Tensor::new(&entry, &[0; 4]).to_bytes().expect("empty").is_empty());
    }

    #[test]
    fn a_view_past_the_file_is_an_error() {
        let entry = entry(Dtype::F32, 2, false);
        let err = Tensor::new(&entry, &[0; 7]).to_bytes().expect_err("short");
        assert!(matches!(err, Error::Tensor { .. }), "{err}");
    }
}
