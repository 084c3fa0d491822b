//! The coded data of a scan to planes, as far as they are needed.

use std::ops::Range;

use occlude_preprocess::jpeg::entropy::{Bits, Table, ac, dc};

use crate::header::{Component, Header};
use crate::idct;
use crate::planes::Plane;
use crate::window::Window;

/// Zeros behind every segment, so that reading eight bytes at once rarely meets the end.
const PADDING: usize = 8;

/// Buffers and tables of a decoder, kept from file to file.
#[derive(Debug)]
pub(super) struct Scanner {
    /// DC, then AC.
    tables: [[Table; 4]; 2],
    /// Per component, in zigzag order.
    scales: [[f32; 64]; 3],
    /// Coded data without stuffing, segment after segment.
    data: Vec<u8>,
    /// Where the segments between restarts lie in `data`.
    segments: Vec<Range<usize>>,
    reduced: idct::Reduced,
}

impl Scanner {
    pub(super) fn new() -> Self {
        let tables = || std::array::from_fn(|_| Table::empty());
        let (data, segments, reduced) = (Vec::new(), Vec::new(), idct::Reduced::new());
        Self { tables: [tables(), tables()], scales: [[0.0; 64]; 3], data, segments, reduced }
    }

    /// Decodes `window` of a file into `planes`. `None` for what the fast path does not read: broken data among it.
    pub(super) fn decode(
        &mut self,
        header: &Header,
        bytes: &[u8],
        window: &Window,
        planes: &mut [Plane],
    ) -> Option<()> {
        for (tables, codes) in self.tables.iter_mut().zip(&header.codes) {
            for (table, codes) in tables.iter_mut().zip(codes) {
                if let Some(codes) = codes {
                    table.set(codes)?;
                }
            }
        }
        for (scales, component) in self.scales.iter_mut().zip(&header.components) {
            let quant = header.quants.get(component.quant)?.as_ref()?;
            *scales = idct::scales(quant, window.side);
            if header.codes[0][component.dc].is_none() || header.codes[1][component.ac].is_none() {
                return None;
            }
        }
        self.unstuff(bytes.get(header.data..)?)?;
        let (h, v) = header.sampling();
        let (across, down) = (header.width.div_ceil(8 * h), header.height.div_ceil(8 * v));
        let expected = if header.restart == 0 { 1 } else { (across * down).div_ceil(header.restart) };
        if self.segments.len() != expected {
            return None;
        }
        for (plane, component) in planes.iter_mut().zip(&header.components) {
            plane.place(component, window);
        }
        let job = Job { scanner: self, header, across, window };
        #[cfg(target_arch = "x86_64")]
        if crate::wide() {
            // SAFETY: `wide` found the instructions.
            return unsafe { job.run_avx2(planes) };
        }
        job.run::<false>(planes)
    }

    /// Copies the coded data up to the end-of-image marker without stuffed bytes, cut at restart markers. `None`
    /// where another marker, or nothing, comes first, or restarts are missing.
    fn unstuff(&mut self, mut rest: &[u8]) -> Option<()> {
        self.data.clear();
        self.segments.clear();
        let mut start = 0;
        loop {
            let at = find_marker(rest)?;
            let (plain, marker) = rest.split_at(at);
            self.data.extend_from_slice(plain);
            let code = *marker.get(1)?;
            rest = marker.get(2..)?;
            match code {
                0x00 => self.data.push(0xff),
                // a fill byte before a marker
                0xff => rest = marker.get(1..)?,
                _ => {
                    self.segments.push(start..self.data.len());
                    if code == 0xd9 {
                        self.data.extend([0; PADDING]);
                        return Some(());
                    }
                    if usize::from(code) != 0xd0 + (self.segments.len() - 1) % 8 {
                        return None;
                    }
                    self.data.extend([0; PADDING]);
                    start = self.data.len();
                }
            }
        }
    }
}

/// Where the next 0xff is; eight bytes at a time.
fn find_marker(bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let (words, _) = bytes.as_chunks::<8>();
    // a byte of the complement is zero
    let has = |word: &[u8; 8]| {
        let inverted = !u64::from_ne_bytes(*word);
        inverted.wrapping_sub(LOW) & !inverted & (LOW << 7) != 0
    };
    let start = words.iter().position(has).unwrap_or(words.len()) * 8;
    Some(start + bytes.get(start..)?.iter().position(|&b| b == 0xff)?)
}

struct Job<'a> {
    scanner: &'a Scanner,
    header: &'a Header,
    /// Coded units in a row.
    across: usize,
    window: &'a Window,
}

impl Job<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt")]
    fn run_avx2(&self, planes: &mut [Plane]) -> Option<()> {
        self.run::<true>(planes)
    }

    #[inline(always)]
    fn run<const WIDE: bool>(&self, planes: &mut [Plane]) -> Option<()> {
        let Self { scanner, header, window, .. } = self;
        let segment = |i: usize| scanner.segments.get(i).and_then(|s| scanner.data.get(s.clone()));
        let (mut number, mut unit) = (0, 0);
        let mut bits = Bits::new(segment(0)?);
        let mut before = [0i32; 3];
        for y in 0..window.y.end {
            for x in 0..self.across {
                if header.restart > 0 && unit == header.restart {
                    if bits.overrun() {
                        return None;
                    }
                    (number, unit, before) = (number + 1, 0, [0; 3]);
                    bits = Bits::new(segment(number)?);
                }
                unit += 1;
                let wanted = window.y.contains(&y) && window.x.contains(&x);
                for (c, component) in header.components.iter().enumerate() {
                    let block = Block { scanner, component, scales: &scanner.scales[c] };
                    for i in 0..component.h * component.v {
                        if !wanted {
                            block.skip(&mut bits, &mut before[c])?;
                            continue;
                        }
                        let at = (
                            (x - window.x.start) * component.h + i % component.h,
                            (y - window.y.start) * component.v + i / component.h,
                        );
                        let (out, stride) = planes.get_mut(c)?.block(at, window.side)?;
                        block.decode::<WIDE>(&mut bits, &mut before[c], window.side, out, stride)?;
                    }
                }
            }
            if bits.overrun() {
                return None;
            }
        }
        Some(())
    }
}

/// The next block of a component.
struct Block<'a> {
    scanner: &'a Scanner,
    component: &'a Component,
    scales: &'a [f32; 64],
}

impl Block<'_> {
    #[inline(always)]
    fn tables(&self) -> (&Table, &Table) {
        let [dc, ac] = &self.scanner.tables;
        (&dc[self.component.dc & 3], &ac[self.component.ac & 3])
    }

    #[inline(always)]
    fn skip(&self, bits: &mut Bits<'_>, before: &mut i32) -> Option<()> {
        let (dc_table, ac_table) = self.tables();
        *before = before.wrapping_add(dc(bits, dc_table)?);
        ac(bits, ac_table, |_, _| {})?;
        Some(())
    }

    #[inline(always)]
    fn decode<const WIDE: bool>(
        &self,
        bits: &mut Bits<'_>,
        before: &mut i32,
        side: usize,
        out: &mut [u8],
        stride: usize,
    ) -> Option<()> {
        let (dc_table, ac_table) = self.tables();
        let mut block = [0.0f32; 64];
        *before = before.wrapping_add(dc(bits, dc_table)?);
        block[0] = *before as f32 * self.scales[0];
        let last = ac(bits, ac_table, |at, value| {
            // a place behind the block is an error that `ac` finds; it must not reach over the end here
            let at = at & 63;
            block[usize::from(idct::ZIGZAG[at]) & 63] = value as f32 * self.scales[at];
        })?;
        if side < 8 {
            self.scanner.reduced.run(&block, last, side, out, stride);
            return Some(());
        }
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            // SAFETY: `WIDE` is set by `run_avx2` only.
            unsafe { idct::full_avx2(&block, last, out, stride) };
            return Some(());
        }
        idct::full(&block, last, out, stride);
        Some(())
    }
}
