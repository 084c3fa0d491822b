//! Reading protocol buffers without a copy: where the fields of a message lie.
//!
//! <https://protobuf.dev/programming-guides/encoding/>. Fields that nobody here knows keep their bytes, so that a model
//! passes through as it is.

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    /// Tag, length and content: what is copied.
    pub(super) whole: &'a [u8],
    /// The content of a field with a length; empty for numbers.
    pub(super) content: &'a [u8],
    /// The value of a plain integer.
    pub(super) value: u64,
}

/// A message that ends within a field, or has fields that protocol buffers do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// All fields, in order.
pub(super) fn fields(message: &[u8]) -> Result<Vec<Field<'_>>, Broken> {
    let (mut all, mut rest) = (Vec::new(), message);
    while !rest.is_empty() {
        let (field, behind) = next(rest).ok_or(Broken)?;
        all.push(field);
        rest = behind;
    }
    Ok(all)
}

fn next(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (tag, behind) = varint(bytes)?;
    let (length, value, behind) = match tag & 7 {
        0 => varint(behind).map(|(value, behind)| (0, value, behind))?,
        1 => (8, 0, behind),
        2 => varint(behind)
            .map(|(length, behind)| (usize::try_from(length).unwrap_or(usize::MAX), 0, behind))?,
        5 => (4, 0, behind),
        _ => return None,
    };
    let (content, rest) = behind.split_at_checked(length)?;
    let whole = bytes.get(..bytes.len() - rest.len())?;
    let content = if tag & 7 == 2 { content } else { &[] };
    Some((Field { number: tag >> 3, whole, content, value }, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * i as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(i + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Message;

    #[test]
    fn what_is_written_is_found() {
        let inner = Message::default().text(1, "location").text(2, "a");
        let all = Message::default().int(1, 300).float(2, 1.0).message(13, inner).int(14, -1).bytes();
        let found = fields(&all).expect("whole");
        let numbers: Vec<(u64, u64)> = found.iter().map(|f| (f.number, f.value)).collect();
        assert_eq!(numbers, [(1, 300), (2, 0), (13, 0), (14, u64::MAX)]);
        assert_eq!(found.iter().flat_map(|f| f.whole).copied().collect::<Vec<u8>>(), all);
        assert_eq!(fields(found[2].content).expect("whole")[1].content, b"a");
    }

    #[test]
    fn what_is_cut_or_no_message_is_broken() {
        let all = Message::default().int(1, 300).text(2, "abc").bytes();
        for end in (1..all.len()).filter(|end| *end != 3) {
            assert_eq!(fields(&all[..end]), Err(Broken), "{end}");
        }
        for bytes in
            [&[0x0b][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], &[0xff; 20]]
        {
            assert_eq!(fields(bytes), Err(Broken), "{bytes:?}");
        }
    }
}
