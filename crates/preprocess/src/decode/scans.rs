//! Is everything there that the header of a JPEG promises?
//!
//! Decoders fill up what is missing from coded data with grey and say nothing. So the codes are counted: every scan
//! has to have all its coded units, and the scans together all components and all their coefficients. Nothing but
//! Huffman codes is decoded, which costs a small part of what decoding the picture does. ITU-T T.81, annexes F and G.

use std::ops::Range;

use super::markers::{is_frame, next_marker, segment};
use crate::jpeg::entropy::{Bits, Codes, Table, ac, dc, run_and_value};

/// What is missing, in words that follow `incomplete JPEG: `.
type Missing = String;

/// The coefficients of a component of which not all bits have come.
const ALL_BITS: u8 = 16;

#[derive(Debug)]
struct Component {
    id: u8,
    /// Blocks of a coded unit along x and y.
    h: usize,
    v: usize,
    /// Blocks along x and y where the component has a scan of its own.
    own: (usize, usize),
    /// Blocks along x, those of half-empty units included.
    stride: usize,
    /// For each coefficient, the lowest bit that came; [`ALL_BITS`] for none.
    low: [u8; 64],
    /// For each block, which coefficients are not zero; empty unless progressive.
    nonzero: Vec<u64>,
}

/// What the segments said so far.
struct Reader {
    progressive: bool,
    /// Coded units along x and y.
    units: (usize, usize),
    components: Vec<Component>,
    /// DC, then AC.
    tables: [[Option<Table>; 4]; 2],
    restart: usize,
    scans: usize,
    /// The first scan that adds bits to coefficients whose higher ones have not come.
    gap: Option<usize>,
}

/// A scan's header.
struct Scan {
    /// Component, and its DC and AC table.
    parts: Vec<(usize, usize, usize)>,
    first: usize,
    last: usize,
    high: u8,
    low: u8,
}

/// Holds the coded data of a JPEG, of which every marker up to the last one was found, against its headers. Files
/// that cannot be judged (headers that make no sense, tables that are missing) are left to the decoder.
pub(super) fn check(bytes: &[u8]) -> Result<(), Missing> {
    let tables = || [const { None }; 4];
    let mut reader = Reader {
        progressive: false,
        units: (0, 0),
        components: Vec::new(),
        tables: [tables(), tables()],
        restart: 0,
        scans: 0,
        gap: None,
    };
    let mut coded = Coded::default();
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let Some((marker, after)) = next_marker(rest) {
        if marker == 0xd9 {
            break;
        }
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            rest = after;
            continue;
        }
        let Some((body, after)) = segment(after) else { break };
        rest = after;
        if marker == 0xda {
            let Some(scan) = reader.scan(body) else { return Ok(()) };
            rest = coded.fill(after);
            if !reader.read(&scan, &coded)? {
                return Ok(());
            }
        } else if reader.segment(marker, body).is_none() {
            return Ok(());
        }
    }
    reader.promised()
}

/// Coded data without stuffing, and where the stretches between restarts lie in it.
#[derive(Default)]
struct Coded {
    data: Vec<u8>,
    stretches: Vec<Range<usize>>,
}

impl Coded {
    fn cut(&mut self) {
        let start = self.stretches.last().map_or(0, |s| s.end);
        self.stretches.push(start..self.data.len());
    }

    /// Takes the coded data up to the next marker that is no restart; what follows it.
    fn fill<'a>(&mut self, mut rest: &'a [u8]) -> &'a [u8] {
        self.data.clear();
        self.stretches.clear();
        while let Some(at) = rest.iter().position(|&b| b == 0xff) {
            let (plain, marker) = rest.split_at(at);
            self.data.extend_from_slice(plain);
            // a fill byte may precede a marker
            let passed = if marker.get(1) == Some(&0xff) { 1 } else { 2 };
            match marker.get(1) {
                Some(0) => self.data.push(0xff),
                Some(0xff) => {}
                Some(0xd0..=0xd7) => self.cut(),
                _ => {
                    self.cut();
                    return marker;
                }
            }
            rest = marker.get(passed..).unwrap_or_default();
        }
        self.cut();
        &[]
    }
}

impl Reader {
    /// Takes a segment other than a scan's; `None` where it makes no sense.
    fn segment(&mut self, marker: u8, body: &[u8]) -> Option<()> {
        match marker {
            0xc4 => self.huffman(body),
            0xdd => {
                self.restart = usize::from(u16::from_be_bytes(*body.first_chunk()?));
                Some(())
            }
            _ if is_frame(marker) && self.components.is_empty() => self.frame(marker, body),
            _ => Some(()),
        }
    }

    fn frame(&mut self, marker: u8, body: &[u8]) -> Option<()> {
        let [_, h0, h1, w0, w1, n] = *body.first_chunk()?;
        let (width, height) =
            (usize::from(u16::from_be_bytes([w0, w1])), usize::from(u16::from_be_bytes([h0, h1])));
        let parts = body.get(6..)?.as_chunks::<3>().0;
        let factors = |part: &[u8; 3]| (usize::from(part[1] >> 4), usize::from(part[1] & 15));
        let (mut most_h, mut most_v) = (1, 1);
        for part in parts {
            let (h, v) = factors(part);
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) {
                return None;
            }
            (most_h, most_v) = (most_h.max(h), most_v.max(v));
        }
        if parts.len() != usize::from(n) || parts.is_empty() || width == 0 || height == 0 {
            return None;
        }
        self.progressive = marker == 0xc2;
        self.units = (width.div_ceil(8 * most_h), height.div_ceil(8 * most_v));
        for part in parts {
            let (h, v) = factors(part);
            let own = ((width * h).div_ceil(most_h).div_ceil(8), (height * v).div_ceil(most_v).div_ceil(8));
            let stride = self.units.0 * h;
            let blocks = if self.progressive { stride * self.units.1 * v } else { 0 };
            let (low, nonzero) = ([ALL_BITS; 64], vec![0; blocks]);
            self.components.push(Component { id: part[0], h, v, own, stride, low, nonzero });
        }
        Some(())
    }

    fn huffman(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = body.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let n: usize = counts.iter().map(|&c| usize::from(c)).sum();
            let codes = Codes { counts: *counts, symbols: rest.get(..n).filter(|_| n <= 256)?.to_vec() };
            let mut table = Table::empty();
            table.set(&codes)?;
            *self.tables.get_mut(usize::from(place >> 4))?.get_mut(usize::from(place & 15))? = Some(table);
            body = rest.get(n..)?;
        }
        Some(())
    }

    fn scan(&self, body: &[u8]) -> Option<Scan> {
        let (&n, rest) = body.split_first()?;
        let (chosen, rest) = rest.split_at_checked(2 * usize::from(n))?;
        let [first, last, bits] = *rest.first_chunk()?;
        let mut parts = Vec::new();
        for &[id, tables] in chosen.as_chunks::<2>().0 {
            let component = self.components.iter().position(|c| c.id == id)?;
            parts.push((component, usize::from(tables >> 4), usize::from(tables & 15)));
        }
        let (first, last) = (usize::from(first), usize::from(last));
        let sound = !parts.is_empty() && (!self.progressive || (first <= last && last < 64));
        sound.then_some(Scan { parts, first, last, high: bits >> 4, low: bits & 15 })
    }

    /// Reads a scan; `false` where it cannot be judged.
    fn read(&mut self, scan: &Scan, coded: &Coded) -> Result<bool, Missing> {
        self.scans += 1;
        let single = scan.parts.len() == 1;
        let (across, down) = match scan.parts.first() {
            Some(&(part, ..)) if single => self.components[part].own,
            _ => self.units,
        };
        let units = across * down;
        let each = if self.restart == 0 { units } else { self.restart };
        let mut done = 0;
        for stretch in &coded.stretches {
            let mut bits = Bits::new(coded.data.get(stretch.clone()).unwrap_or_default());
            let mut run = 0;
            let until = units.min(done + each);
            while done < until {
                let at = (done % across, done / across);
                match self.unit(scan, single, at, &mut bits, &mut run) {
                    Some(true) => {}
                    // without any table the usual ones are meant, as in the frames of MJPEG
                    Some(false) if self.tables.iter().flatten().all(Option::is_none) => return Ok(false),
                    Some(false) => {
                        return Err(format!("scan {} needs a table that is missing", self.scans));
                    }
                    None => return Err(format!("no picture data, but other bytes, in scan {}", self.scans)),
                }
                if bits.overrun() {
                    return Err(self.short(done, units));
                }
                done += 1;
            }
        }
        if done < units {
            return Err(self.short(done, units));
        }
        self.keep(scan);
        Ok(true)
    }

    fn short(&self, done: usize, units: usize) -> Missing {
        format!("scan {} ends after {done} of {units} coded blocks", self.scans)
    }

    /// Reads a coded unit; `false` where a table is missing, `None` for what is no code.
    fn unit(
        &mut self,
        scan: &Scan,
        single: bool,
        (x, y): (usize, usize),
        bits: &mut Bits<'_>,
        run: &mut u32,
    ) -> Option<bool> {
        let Self { components, tables, progressive, .. } = self;
        for &(part, dc_table, ac_table) in &scan.parts {
            let Some(component) = components.get_mut(part) else { return Some(false) };
            let (h, v) = if single { (1, 1) } else { (component.h, component.v) };
            let table =
                |kind: usize, at: usize| tables.get(kind).and_then(|t| t.get(at)).and_then(Option::as_ref);
            for i in 0..h * v {
                if !*progressive {
                    let (Some(d), Some(a)) = (table(0, dc_table), table(1, ac_table)) else {
                        return Some(false);
                    };
                    dc(bits, d)?;
                    ac(bits, a, |_, _| {})?;
                } else if scan.first == 0 {
                    if scan.high > 0 {
                        bits.take(1);
                        continue;
                    }
                    let Some(d) = table(0, dc_table) else { return Some(false) };
                    dc(bits, d)?;
                } else {
                    let Some(a) = table(1, ac_table) else { return Some(false) };
                    let block = (y * v + i / h) * component.stride + x * h + i % h;
                    let Some(nonzero) = component.nonzero.get_mut(block) else { return Some(false) };
                    if scan.high == 0 {
                        first_pass(bits, a, scan, nonzero, run)?;
                    } else {
                        refine(bits, a, scan, nonzero, run)?;
                    }
                }
            }
        }
        Some(true)
    }

    /// Notes which bits a scan brought.
    fn keep(&mut self, scan: &Scan) {
        for &(part, ..) in &scan.parts {
            let Some(component) = self.components.get_mut(part) else { continue };
            let (range, low) =
                if self.progressive { (scan.first..scan.last + 1, scan.low) } else { (0..64, 0) };
            if let Some(bits) = component.low.get_mut(range) {
                if self.progressive && scan.high > 0 && bits.iter().any(|&b| b != scan.high) {
                    self.gap = self.gap.or(Some(self.scans));
                }
                bits.iter_mut().for_each(|b| *b = low.min(*b));
            }
        }
    }

    /// Whether all components came with all bits of all coefficients.
    fn promised(&self) -> Result<(), Missing> {
        if let Some(scan) = self.gap {
            return Err(format!("scan {scan} refines what no scan before it has"));
        }
        for component in &self.components {
            if component.low[0] == ALL_BITS {
                let (scans, id) = (self.scans, component.id);
                return Err(format!("none of its {scans} scans has component {id}"));
            }
            if component.low.iter().any(|&low| low > 0) {
                let (scans, id) = (self.scans, component.id);
                return Err(format!("its {scans} scans do not have all of component {id}"));
            }
        }
        Ok(())
    }
}

/// Reads the part of a block that a first pass over some coefficients has; `run` are blocks left without any.
fn first_pass(
    bits: &mut Bits<'_>,
    table: &Table,
    scan: &Scan,
    nonzero: &mut u64,
    run: &mut u32,
) -> Option<()> {
    if *run > 0 {
        *run -= 1;
        return Some(());
    }
    let mut at = scan.first;
    while at <= scan.last {
        let (zeros, value) = run_and_value(bits, table)?;
        if value {
            at += zeros as usize;
            *nonzero |= 1u64.checked_shl(at as u32).filter(|_| at <= scan.last)?;
            at += 1;
        } else if zeros < 15 {
            *run = (1 << zeros) - 1 + bits.take(zeros);
            return Some(());
        } else {
            at += 16;
        }
    }
    Some(())
}

/// Reads the part of a block that a refining pass has: a bit for each coefficient that is not zero, and new ones.
fn refine(bits: &mut Bits<'_>, table: &Table, scan: &Scan, nonzero: &mut u64, run: &mut u32) -> Option<()> {
    let mut at = scan.first;
    if *run == 0 {
        while at <= scan.last {
            let (mut zeros, value) = run_and_value(bits, table)?;
            if !value && zeros < 15 {
                *run = (1 << zeros) + bits.take(zeros);
                break;
            }
            while at <= scan.last {
                if *nonzero >> at & 1 == 1 {
                    bits.take(1);
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                at += 1;
            }
            if value {
                *nonzero |= 1u64.checked_shl(at as u32).filter(|_| at <= scan.last)?;
            }
            at += 1;
        }
    }
    if *run > 0 {
        let left = *nonzero & (u64::MAX << at.min(63)) & (u64::MAX >> (63 - scan.last));
        let left = if at > scan.last { 0 } else { left };
        for _ in 0..left.count_ones() {
            bits.take(1);
        }
        *run -= 1;
    }
    Some(())
}
