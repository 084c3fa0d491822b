//! COCO run-length encoding of masks.
//!
//! Runs are counted down the columns, starting with background. The compressed string is the one that COCO files
//! carry in `segmentation.counts`: every count (from the fourth on its difference to the count two before) in
//! groups of 5 bits, least significant first, bit 5 marks that more follow, offset by 48 into printable ASCII.

use crate::{Error, Mask};

/// Lengths of the runs of a mask in column-major order, background first (so the first may be 0).
pub fn counts(mask: &Mask) -> Vec<u64> {
    let mut runs = vec![0u64];
    let mut current = false;
    for column in 0..mask.width() {
        for row in 0..mask.height() {
            let cell = mask.get(row, column);
            if cell != current {
                runs.push(0);
                current = cell;
            }
            if let Some(last) = runs.last_mut() {
                *last += 1;
            }
        }
    }
    runs
}

/// Runs as COCO's compressed string.
pub fn compress(counts: &[u64]) -> String {
    let mut out = String::new();
    for (i, &count) in counts.iter().enumerate() {
        let mut x = count as i64;
        if i > 2 {
            x -= counts[i - 2] as i64;
        }
        push_number(&mut out, x);
    }
    out
}

fn push_number(out: &mut String, mut x: i64) {
    loop {
        let mut group = (x & 0x1f) as u8;
        x >>= 5;
        // The sign is bit 4 of the last group.
        let more = if group & 0x10 != 0 { x != -1 } else { x != 0 };
        if more {
            group |= 0x20;
        }
        out.push(char::from(group + 48));
        if !more {
            return;
        }
    }
}

/// A mask as COCO's compressed string.
pub fn encode(mask: &Mask) -> String {
    compress(&counts(mask))
}

/// The runs of a compressed string.
pub fn decompress(text: &str) -> Result<Vec<u64>, Error> {
    let mut runs: Vec<u64> = Vec::new();
    let (mut value, mut shift, mut open) = (0i64, 0u32, false);
    for (at, byte) in text.bytes().enumerate() {
        let fail = |what| Error::Rle { at, what };
        let group =
            byte.checked_sub(48).filter(|g| *g < 64).ok_or(fail("not a character of the encoding"))?;
        if shift > 55 {
            return Err(fail("a count is too long"));
        }
        value |= i64::from(group & 0x1f) << shift;
        shift += 5;
        open = group & 0x20 != 0;
        if open {
            continue;
        }
        if group & 0x10 != 0 {
            value |= -1i64 << shift;
        }
        if runs.len() > 2 {
            let before = runs.get(runs.len() - 2).copied().unwrap_or(0);
            value = value.checked_add_unsigned(before).ok_or(fail("a count is too large"))?;
        }
        runs.push(u64::try_from(value).map_err(|_| fail("a count is negative"))?);
        (value, shift) = (0, 0);
    }
    if open {
        return Err(Error::Rle { at: text.len(), what: "the last count is cut off" });
    }
    Ok(runs)
}

/// The mask of `height` x `width` that a compressed string describes.
pub fn decode(text: &str, height: usize, width: usize) -> Result<Mask, Error> {
    let runs = decompress(text)?;
    let cells = height.saturating_mul(width) as u64;
    let total = runs.iter().try_fold(0u64, |sum, &run| sum.checked_add(run));
    if total != Some(cells) {
        return Err(Error::Rle { at: text.len(), what: "the runs do not fill the mask" });
    }
    let mut out = vec![false; height * width];
    let mut at = 0usize;
    for (i, &run) in runs.iter().enumerate() {
        let run = run as usize;
        if i % 2 == 1 {
            for position in at..at + run {
                out[position % height * width + position / height] = true;
            }
        }
        at += run;
    }
    Mask::new(height, width, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(rows: &[&str]) -> Mask {
        let cells = rows.iter().flat_map(|r| r.chars().map(|c| c == '#')).collect();
        Mask::new(rows.len(), rows[0].len(), cells).unwrap()
    }

    /// An independent reader, written from the description of pycocotools' `rleFrString`: one integer at a time
    /// by arithmetic instead of bits.
    fn reference_decode(text: &str, height: usize, width: usize) -> Vec<Vec<bool>> {
        let mut numbers: Vec<i128> = Vec::new();
        let mut digits: Vec<i128> = Vec::new();
        for c in text.chars() {
            let code = c as i128 - 48;
            digits.push(code % 32);
            if code < 32 {
                let magnitude: i128 = digits.iter().rev().fold(0, |sum, d| sum * 32 + d);
                let negative = digits.last().unwrap() / 16 == 1;
                let value = if negative { magnitude - 32i128.pow(digits.len() as u32) } else { magnitude };
                let before = if numbers.len() > 2 { numbers[numbers.len() - 2] } else { 0 };
                numbers.push(value + before);
                digits.clear();
            }
        }
        let mut flat = Vec::new();
        for (i, n) in numbers.iter().enumerate() {
            flat.extend(std::iter::repeat_n(i % 2 == 1, *n as usize));
        }
        assert_eq!(flat.len(), height * width);
        (0..height).map(|y| (0..width).map(|x| flat[x * height + y]).collect()).collect()
    }

    #[test]
    fn counts_go_down_the_columns() {
        assert_eq!(counts(&mask(&[".#", "##"])), [1, 3]);
        assert_eq!(counts(&mask(&["#.", ".."])), [0, 1, 3]);
        assert_eq!(counts(&mask(&["...", "..."])), [6]);
    }

    /// Worked by hand. Counts 6, 1, 40, 4, 5, 4, 5, 4, 21 are those of the COCO documentation's 9 x 10 example;
    /// the deltas are 6, 1, 40, 3, -35, 0, 0, 0, 16.
    /// 6 -> '6'; 1 -> '1'; 40 = 8 + 1*32 -> 8|32 = 40 -> 'X', 1 -> '1'; 3 -> '3';
    /// -35: low 5 bits 29, rest -2: 29|32 = 61 -> 'm', low bits of -2 = 30, rest -1 -> 30 -> 'N';
    /// 0 -> '0' three times; 16: bit 4 is set and the rest is 0, so 16|32 = 48 -> '`', then 0 -> '0'.
    #[test]
    fn compresses_as_worked_by_hand() {
        let runs = [6, 1, 40, 4, 5, 4, 5, 4, 21];
        assert_eq!(compress(&runs), "61X13mN000`0");
        assert_eq!(decompress("61X13mN000`0").unwrap(), runs);
    }

    #[test]
    fn refuses_what_no_encoder_writes() {
        let fails = |text: &str| match decompress(text) {
            Err(Error::Rle { what, .. }) => what,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(fails("6 1"), "not a character of the encoding");
        assert_eq!(fails("6\u{7f}"), "not a character of the encoding");
        assert_eq!(fails("X"), "the last count is cut off");
        assert_eq!(fails("N"), "a count is negative");
        assert_eq!(fails(&"o".repeat(40)), "a count is too long");
        assert!(matches!(decode("4", 1, 3), Err(Error::Rle { what: "the runs do not fill the mask", .. })));
        assert!(matches!(decode("", 2, 2), Err(Error::Rle { .. })));
        assert_eq!(decode("3", 1, 3).unwrap().count(), 0);
    }

    proptest! {
        #[test]
        fn survives_both_readers(h in 1usize..40, w in 1usize..40, seed in any::<u64>(), step in 1u64..200) {
            // Runs of very different lengths, so that counts need one, two and three groups and negative deltas.
            let mut state = seed | 1;
            let (mut left, mut on) = (0u64, false);
            let cells: Vec<bool> = (0..h * w).map(|_| {
                if left == 0 {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    left = 1 + (state >> 33) % step;
                    on = !on;
                }
                left -= 1;
                on
            }).collect();
            let m = Mask::new(h, w, cells).unwrap();
            let text = encode(&m);
            prop_assert_eq!(&decode(&text, h, w).unwrap(), &m);
            let reference = reference_decode(&text, h, w);
            prop_assert!((0..h).all(|y| (0..w).all(|x| reference[y][x] == m.get(y, x))));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[ -~]{0,40}") {
            let _ = decode(&text, 8, 8);
        }
    }
}
