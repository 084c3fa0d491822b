//! The textual arguments of protocol 0.

use std::borrow::Cow;

use crate::value::Value;

/// `INT`: a decimal number; `00` and `01` are truth values.
pub(crate) fn int(line: &[u8]) -> Option<Value<'static>> {
    match line {
        b"00" => Some(Value::Bool(false)),
        b"01" => Some(Value::Bool(true)),
        _ => long(line),
    }
}

/// `LONG`: a decimal number, with or without a final `L`. Longer ones than 128 bits are refused.
pub(crate) fn long(line: &[u8]) -> Option<Value<'static>> {
    let text = std::str::from_utf8(line.strip_suffix(b"L").unwrap_or(line)).ok()?;
    let number: i128 = text.trim().parse().ok()?;
    Some(match i64::try_from(number) {
        Ok(number) => Value::Int(number),
        Err(_) => Value::Long(Cow::Owned(number.to_le_bytes().into())),
    })
}

/// `FLOAT`: as Python's `repr` writes it.
pub(crate) fn float(line: &[u8]) -> Option<f64> {
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Two's complement, little-endian, of any length; empty is zero.
pub(crate) fn binary_long(bytes: &[u8]) -> Value<'_> {
    if bytes.len() > 8 {
        return Value::Long(Cow::Borrowed(bytes));
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Value::Int(i64::from_le_bytes(wide))
}

/// `STRING`: a quoted Python literal.
pub(crate) fn quoted(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    let line = line.trim_ascii();
    let inner = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return None,
    };
    if !inner.contains(&b'\\') {
        return Some(Cow::Borrowed(inner));
    }
    unescape(inner).map(Cow::Owned)
}

/// Resolves the escapes of a Python byte-string literal.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match rest.next()? {
            b'\n' => {}
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'v' => out.push(11),
            b'x' => out.push(digit(rest.next()?, 16)? * 16 + digit(rest.next()?, 16)?),
            first @ b'0'..=b'7' => {
                let mut code = u32::from(first - b'0');
                for _ in 0..2 {
                    let Some(next) = rest.next_if(|b| (b'0'..=b'7').contains(b)) else { break };
                    code = code * 8 + u32::from(next - b'0');
                }
                // As Python does: `\777` keeps its lowest eight bits.
                out.push((code & 0xff) as u8);
            }
            quoted @ (b'\\' | b'\'' | b'"') => out.push(quoted),
            // Python leaves escapes that it does not know as they are.
            other => out.extend([b'\\', other]),
        }
    }
    // Four characters may have become one byte, and only the bytes are held against the caps.
    out.shrink_to_fit();
    Some(out)
}

fn digit(byte: u8, radix: u32) -> Option<u8> {
    char::from(byte).to_digit(radix).and_then(|d| u8::try_from(d).ok())
}

/// `UNICODE`: Latin-1 with `\uXXXX` and `\UXXXXXXXX`; a backslash before anything else is itself.
pub(crate) fn raw_unicode(line: &[u8]) -> Option<Cow<'_, str>> {
    if line.is_ascii() && !line.contains(&b'\\') {
        return std::str::from_utf8(line).ok().map(Cow::Borrowed);
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let [byte, tail @ ..] = rest {
        let digits = match tail.first() {
            Some(b'u') if *byte == b'\\' => 4,
            Some(b'U') if *byte == b'\\' => 8,
            _ => {
                out.push(char::from(*byte));
                rest = tail;
                continue;
            }
        };
        let hex = std::str::from_utf8(tail.get(1..=digits)?).ok()?;
        let code = u32::from_str_radix(hex, 16).ok()?;
        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = tail.get(digits + 1..)?;
    }
    out.shrink_to_fit();
    Some(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(int(b"01"), Some(Value::Bool(true)));
        assert_eq!(int(b"1"), Some(Value::Int(1)));
        assert_eq!(long(b"-5L"), Some(Value::Int(-5)));
        assert_eq!(long(b"x"), None);
        assert!(matches!(long(b"119547037146038801333356L"), Some(Value::Long(_))));
        assert_eq!(float(b"-1.5e3"), Some(-1500.0));
        assert_eq!(binary_long(&[]), Value::Int(0));
        assert_eq!(binary_long(&[0xff]), Value::Int(-1));
        assert_eq!(binary_long(&[0xff, 0]), Value::Int(255));
    }

    #[test]
    fn strings() {
        assert_eq!(quoted(b"'plain'").as_deref(), Some(b"plain".as_slice()));
        assert_eq!(quoted(br"'a\x00\n\'\101\q'").as_deref(), Some(b"a\0\n'A\\q".as_slice()));
        assert_eq!(quoted(b"'open"), None);
        assert_eq!(quoted(b"'"), None);
        assert_eq!(quoted(br"'\x0'"), None);
        assert_eq!(raw_unicode(br"a\u00e9\U0001f600\n").as_deref(), Some("a\u{e9}\u{1f600}\\n"));
        assert_eq!(raw_unicode(b"\xe9").as_deref(), Some("\u{e9}"));
        assert_eq!(raw_unicode(br"\u12"), None);
    }
}
