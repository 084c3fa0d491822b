//! Bytes, lengths and lines of the input, all checked.

use crate::error::Error;

/// A position in the input.
pub(crate) struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    /// Bytes taken so far.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.input.len().saturating_sub(self.at)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(len).ok_or(Error::Truncated { at: self.at })?;
        let bytes = self.input.get(self.at..end).ok_or(Error::Truncated { at: self.input.len() })?;
        self.at = end;
        Ok(bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let at = self.at;
        self.take(N)?.first_chunk().copied().ok_or(Error::Truncated { at })
    }

    /// A length of one byte, then that many bytes.
    pub(crate) fn sized1(&mut self) -> Result<&'a [u8], Error> {
        let len = self.byte()?;
        self.take(usize::from(len))
    }

    /// A length of four bytes, then that many bytes.
    pub(crate) fn sized4(&mut self) -> Result<&'a [u8], Error> {
        let len = u32::from_le_bytes(self.array()?);
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// A length of eight bytes, then that many bytes.
    pub(crate) fn sized8(&mut self) -> Result<&'a [u8], Error> {
        let len = u64::from_le_bytes(self.array()?);
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Up to the next line feed, which is taken and not returned.
    pub(crate) fn line(&mut self) -> Result<&'a [u8], Error> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&b| b == b'\n').ok_or(Error::Truncated { at: self.input.len() })?;
        self.at += len + 1;
        Ok(rest.get(..len).unwrap_or_default())
    }
}
