//! Huffman codes and the bits that they are read from (ITU-T T.81, annex C and F).

/// Bits that one look-up decides.
const BITS: u32 = 10;

/// A Huffman table as the file gives it: how many codes there are of each length, and their symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    /// How many codes of each length there are, 1 to 16 bits.
    pub counts: [u8; 16],
    /// What they stand for, shortest codes first.
    pub symbols: Vec<u8>,
}

/// A Huffman table made ready for decoding.
///
/// A symbol is a run of zeros (high four bits) and the size of the value that follows (low four). An entry of
/// the look-up holds, from the low end: the bits to consume (8), run (4), size (4), and the value itself (16)
/// where code and value fit into `BITS` together. An entry of 0 stands for a longer code, or none.
#[derive(Debug)]
pub struct Table {
    codes: Codes,
    lookup: Box<[u32; 1 << BITS]>,
    /// Per length, 1 to 16: the first 16-bit pattern behind its codes, and what leads from a code to its symbol.
    lengths: [(u32, i32); 17],
}

impl Table {
    /// A table in which nothing is a code.
    pub fn empty() -> Self {
        let codes = Codes { counts: [0; 16], symbols: Vec::new() };
        Self { codes, lookup: Box::new([0; 1 << BITS]), lengths: [(0, 0); 17] }
    }

    /// Takes over `codes`; `None` where they contradict each other. Files of one origin share their tables, so
    /// nothing is done where they are the same as before.
    pub fn set(&mut self, codes: &Codes) -> Option<()> {
        if self.codes == *codes {
            return Some(());
        }
        // what fails half-way must not be taken for done the next time
        self.codes.symbols.clear();
        self.codes.counts = [0; 16];
        self.lookup.fill(0);
        let (mut code, mut done) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(&codes.counts) {
            let delta = done as i32 - code as i32;
            for _ in 0..count {
                let symbol = *codes.symbols.get(done)?;
                if code >> length != 0 {
                    return None;
                }
                self.enter(code, length, symbol);
                (code, done) = (code + 1, done + 1);
            }
            self.lengths[length as usize] = (code << (16 - length), delta);
            code <<= 1;
        }
        self.codes.clone_from(codes);
        Some(())
    }

    /// Fills the part of the look-up that begins with `code`.
    fn enter(&mut self, code: u32, length: u32, symbol: u8) {
        if length > BITS {
            return;
        }
        let free = BITS - length;
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        for rest in 0..1u32 << free {
            let entry = if size > 0 && size <= free {
                let value = extend(rest >> (free - size), size);
                ((value as u32) << 16) | (run << 8) | (length + size)
            } else {
                (size << 12) | (run << 8) | length
            };
            if let Some(slot) = self.lookup.get_mut(((code << free) | rest) as usize) {
                *slot = entry;
            }
        }
    }

    #[inline(always)]
    fn entry(&self, word: u64) -> u32 {
        self.lookup[(word >> (64 - BITS)) as usize]
    }

    /// The entry of a code longer than the look-up; `None` where the bits are no code at all.
    #[cold]
    fn long(&self, word: u64) -> Option<u32> {
        let pattern = (word >> 48) as u32;
        let length = (BITS + 1..=16).find(|&l| pattern < self.lengths[l as usize].0)?;
        let code = (pattern >> (16 - length)) as i32;
        let symbol =
            *self.codes.symbols.get(usize::try_from(code + self.lengths[length as usize].1).ok()?)?;
        Some((u32::from(symbol & 15) << 12) | (u32::from(symbol >> 4) << 8) | length)
    }
}

/// The value that `size` bits stand for (T.81, table F.1).
#[inline(always)]
fn extend(bits: u32, size: u32) -> i32 {
    let negative = (bits >> (size - 1)) ^ 1;
    bits as i32 - (((1 << size) - 1) * negative as i32)
}

/// Reads bits, most significant first, from data without stuffing. Behind the end there are zeros without end;
/// [`Bits::overrun`] tells.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    word: u64,
    left: u32,
}

impl<'a> Bits<'a> {
    /// Reads from the first byte, which is without stuffing.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, word: 0, left: 0 }
    }

    /// Makes at least 56 bits ready.
    #[inline(always)]
    fn refill(&mut self) {
        let next = match self.data.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(bytes) => u64::from_be_bytes(*bytes),
            None => tail(self.data, self.at),
        };
        self.word |= next >> self.left;
        self.at += ((63 - self.left) >> 3) as usize;
        self.left |= 56;
    }

    #[inline(always)]
    fn consume(&mut self, n: u32) {
        self.word <<= n;
        self.left -= n;
    }

    /// A value of `size` bits, 1 to 15.
    #[inline(always)]
    fn value(&mut self, size: u32) -> i32 {
        let bits = (self.word >> (64 - size)) as u32;
        self.consume(size);
        extend(bits, size)
    }

    /// `n` bits, at most 16.
    #[inline]
    pub fn take(&mut self, n: u32) -> u32 {
        if n == 0 {
            return 0;
        }
        if self.left < n {
            self.refill();
        }
        let bits = (self.word >> (64 - n)) as u32;
        self.consume(n);
        bits
    }

    /// Whether more was read than there is.
    pub fn overrun(&self) -> bool {
        self.at * 8 > self.data.len() * 8 + self.left as usize
    }
}

/// The last bytes, and zeros.
#[cold]
fn tail(data: &[u8], at: usize) -> u64 {
    let rest = data.get(at..).unwrap_or_default();
    (0..8).fold(0, |word, i| word << 8 | u64::from(rest.get(i).copied().unwrap_or(0)))
}

/// The difference that a block's DC value has to the one before; `None` for what is no code.
#[inline(always)]
pub fn dc(bits: &mut Bits<'_>, table: &Table) -> Option<i32> {
    bits.refill();
    let mut entry = table.entry(bits.word);
    if entry == 0 {
        entry = table.long(bits.word)?;
    }
    bits.consume(entry & 0xff);
    let known = entry as i32 >> 16;
    let size = (entry >> 12) & 15;
    Some(if known != 0 || size == 0 { known } else { bits.value(size) })
}

/// Reads the symbol of an AC value in a progressive scan: the run, and the size where a value follows, which is read,
/// too; `None` for what is no code.
#[inline]
pub fn run_and_value(bits: &mut Bits<'_>, table: &Table) -> Option<(u32, bool)> {
    if bits.left < 31 {
        bits.refill();
    }
    let mut entry = table.entry(bits.word);
    if entry == 0 {
        entry = table.long(bits.word)?;
    }
    bits.consume(entry & 0xff);
    let (run, size) = ((entry >> 8) & 15, (entry >> 12) & 15);
    if size > 0 {
        bits.value(size);
    }
    // an entry that holds the value has no size
    Some((run, size > 0 || entry as i32 >> 16 != 0))
}

/// Reads the 63 AC values of a block, handing each that is not zero to `put` with its place in zigzag order;
/// returns the last place, 0 where there is none. `None` for what is no code or leaves the block.
#[inline(always)]
pub fn ac(bits: &mut Bits<'_>, table: &Table, put: impl FnMut(usize, i32)) -> Option<usize> {
    // a copy can live in registers
    let mut own = *bits;
    let last = ac_values(&mut own, table, put);
    *bits = own;
    last
}

#[inline(always)]
fn ac_values(bits: &mut Bits<'_>, table: &Table, mut put: impl FnMut(usize, i32)) -> Option<usize> {
    let mut at = 0usize;
    while at < 63 {
        // enough for the longest code and the longest value
        if bits.left < 31 {
            bits.refill();
        }
        let mut entry = table.entry(bits.word);
        let known = entry as i32 >> 16;
        if known != 0 {
            bits.consume(entry & 0xff);
            at += 1 + ((entry >> 8) & 15) as usize;
            put(at, known);
            continue;
        }
        if entry == 0 {
            entry = table.long(bits.word)?;
        }
        bits.consume(entry & 0xff);
        let (run, size) = ((entry >> 8) & 15, (entry >> 12) & 15);
        match (run, size) {
            (0, 0) => return Some(at),
            (15, 0) => at += 16,
            (_, 0) => return None,
            _ => {
                at += 1 + run as usize;
                let value = bits.value(size);
                put(at, value);
            }
        }
    }
    (at == 63).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes 0 (end), 10 (value of 1 bit), 110 (run 2, 3 bits), 111000000000 (run 0, 10 bits).
    fn table() -> Table {
        let mut counts = [0; 16];
        (counts[0], counts[1], counts[2], counts[11]) = (1, 1, 1, 1);
        let mut table = Table::empty();
        table.set(&Codes { counts, symbols: vec![0x00, 0x01, 0x23, 0x0a] }).expect("consistent");
        table
    }

    fn read(text: &str) -> Option<(Vec<(usize, i32)>, usize)> {
        let mut bytes = Vec::new();
        for chunk in text.as_bytes().chunks(8) {
            bytes.push((0..8).fold(0, |b, i| b << 1 | u8::from(chunk.get(i) == Some(&b'1'))));
        }
        let (table, mut seen) = (table(), Vec::new());
        let last = ac(&mut Bits::new(&bytes), &table, |at, v| seen.push((at, v)))?;
        Some((seen, last))
    }

    #[test]
    fn runs_sizes_and_both_kinds_of_code() {
        assert_eq!(read("0"), Some((vec![], 0)));
        // 1, -1, 6 behind two zeros, 513 by the long code, end
        let text = ["10", "1", "10", "0", "110", "110", "111000000000", "1000000001", "0"].concat();
        assert_eq!(read(&text), Some((vec![(1, 1), (2, -1), (5, 6), (6, 513)], 6)));
    }

    #[test]
    fn what_is_no_code_is_refused() {
        assert_eq!(read("1111111111111111"), None);
        let mut counts = [0; 16];
        counts[0] = 3;
        let mut table = Table::empty();
        assert_eq!(table.set(&Codes { counts, symbols: vec![1, 2, 3] }), None, "three codes of one bit");
        counts[0] = 2;
        assert_eq!(table.set(&Codes { counts, symbols: vec![1] }), None, "a symbol is missing");
    }

    #[test]
    fn reading_on_behind_the_end_is_noticed() {
        let mut bits = Bits::new(&[0xff; 9]);
        for _ in 0..9 {
            bits.refill();
            bits.consume(8);
        }
        assert!(!bits.overrun());
        bits.refill();
        bits.consume(1);
        assert!(bits.overrun());
    }
}
