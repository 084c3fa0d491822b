//! The segments before the one scan of a sequential JPEG (ITU-T T.81, annex B).
//!
//! Only what the fast path decodes is understood; everything else is `None` and left to [`occlude_preprocess::decode()`],
//! which also finds the words for what is wrong with a file.

use image::metadata::Orientation;

use occlude_preprocess::jpeg::entropy::Codes;
use occlude_preprocess::jpeg::segments::{Colour, Segments};

/// One component of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Component {
    id: u8,
    /// Blocks of a minimum coded unit along x and y, 1 or 2.
    pub(super) h: usize,
    /// See `h`.
    pub(super) v: usize,
    /// Quantisation table.
    pub(super) quant: usize,
    /// Huffman table of DC differences.
    pub(super) dc: usize,
    /// Huffman table of the others.
    pub(super) ac: usize,
}

/// What the scan needs. Tables are where they were named.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) height: usize,
    /// One (grey) or three (YCbCr).
    pub(super) components: Vec<Component>,
    /// In zigzag order.
    pub(super) quants: [Option<[u16; 64]>; 4],
    /// DC, then AC.
    pub(super) codes: [[Option<Codes>; 4]; 2],
    /// Coded units between restarts; 0 for none.
    pub(super) restart: usize,
    pub(super) orientation: Option<Orientation>,
    /// Where the coded data begins.
    pub(super) data: usize,
}

impl Header {
    /// Reads up to the first scan; `None` for everything that is not baseline or extended sequential, 8 bits, grey or
    /// YCbCr with all components in one scan and none subsampled by more than two.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut header = Self {
            width: 0,
            height: 0,
            components: Vec::new(),
            quants: [None; 4],
            codes: Default::default(),
            restart: 0,
            orientation: None,
            data: 0,
        };
        let mut at = 2;
        let mut segments = Segments::default();
        loop {
            // fill bytes may precede a marker, other bytes may not
            while *bytes.get(at)? == 0xff && *bytes.get(at + 1)? == 0xff {
                at += 1;
            }
            let [0xff, marker] = *bytes.get(at..)?.first_chunk()? else { return None };
            let length = usize::from(u16::from_be_bytes(*bytes.get(at + 2..)?.first_chunk()?));
            let body = bytes.get(at + 4..at + 2 + length)?;
            at += 2 + length;
            match marker {
                0xc0 | 0xc1 => header.frame(body)?,
                0xc4 => header.huffman(body)?,
                0xdb => header.quantisation(body)?,
                0xdd => header.restart = usize::from(u16::from_be_bytes(*body.first_chunk()?)),
                0xda => {
                    header.scan(body)?;
                    header.data = at;
                    header.orientation = segments.orientation();
                    let ids: Vec<u8> = header.components.iter().map(|c| c.id).collect();
                    let known = matches!(segments.colour(&ids)?, Colour::Grey | Colour::YCbCr);
                    return known.then_some(header);
                }
                0xe0..=0xef | 0xfe => segments.take(marker, body),
                _ => return None,
            }
        }
    }

    /// Largest sampling factors.
    pub(super) fn sampling(&self) -> (usize, usize) {
        let most = |f: fn(&Component) -> usize| self.components.iter().map(f).max().unwrap_or(1);
        (most(|c| c.h), most(|c| c.v))
    }

    fn frame(&mut self, body: &[u8]) -> Option<()> {
        let [8, h0, h1, w0, w1, n] = *body.first_chunk()? else { return None };
        if !self.components.is_empty() || !matches!(n, 1 | 3) || body.len() != 6 + 3 * usize::from(n) {
            return None;
        }
        (self.width, self.height) =
            (u16::from_be_bytes([w0, w1]).into(), u16::from_be_bytes([h0, h1]).into());
        for &[id, sampling, quant] in body.get(6..)?.as_chunks::<3>().0 {
            let (h, v) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            // a lone component is coded block by block, whatever its factors
            let (h, v) = if n == 1 { (1, 1) } else { (h, v) };
            self.components.push(Component { id, h, v, quant: quant.into(), ..Component::default() });
        }
        let factors: Vec<_> = self.components.iter().map(|c| (c.h, c.v)).collect();
        let known = matches!(factors[..], [_] | [(1 | 2, 1 | 2), (1, 1), (1, 1)]);
        (known && self.width > 0 && self.height > 0).then_some(())
    }

    fn huffman(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = body.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let n: usize = counts.iter().map(|&c| usize::from(c)).sum();
            let symbols = rest.get(..n).filter(|_| n <= 256)?.to_vec();
            // a DC value has at most 11 bits here, and no run
            if place >> 4 == 0 && symbols.iter().any(|&s| s > 11) {
                return None;
            }
            let slot = self.codes.get_mut(usize::from(place >> 4))?.get_mut(usize::from(place & 15))?;
            *slot = Some(Codes { counts: *counts, symbols });
            body = rest.get(n..)?;
        }
        Some(())
    }

    fn quantisation(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = body.split_first() {
            let mut table = [0; 64];
            body = if place >> 4 == 0 {
                let (values, rest) = rest.split_first_chunk::<64>()?;
                table = values.map(u16::from);
                rest
            } else {
                let (values, rest) = rest.split_first_chunk::<128>()?;
                for (entry, &pair) in table.iter_mut().zip(values.as_chunks::<2>().0) {
                    *entry = u16::from_be_bytes(pair);
                }
                rest
            };
            *self.quants.get_mut(usize::from(place & 15))? = Some(table);
        }
        Some(())
    }

    fn scan(&mut self, body: &[u8]) -> Option<()> {
        let n = self.components.len();
        let (&count, rest) = body.split_first()?;
        if n == 0 || usize::from(count) != n || rest.len() != 2 * n + 3 {
            return None;
        }
        let (chosen, spectrum) = rest.split_at(2 * n);
        for (component, &[id, tables]) in self.components.iter_mut().zip(chosen.as_chunks::<2>().0) {
            (component.dc, component.ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            if id != component.id || component.dc > 3 || component.ac > 3 || component.quant > 3 {
                return None;
            }
        }
        (spectrum == [0, 63, 0]).then_some(())
    }
}
