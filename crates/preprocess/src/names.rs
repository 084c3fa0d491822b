//! Names of files as text that can be told apart: ids of points, rows of lists, names of classes.
//!
//! A file's name is bytes, an identity is text. A byte that is not UTF-8, a control character (a line end, a tab) and
//! a line or paragraph separator become `%` and two hexadecimal digits for each byte; so does a `%` that two
//! hexadecimal digits follow, as `%25`, because it would be read as an escape otherwise. Everything else stays as it
//! is. Two different names therefore never become the same text, and [`unescape`] gives the name back.
//!
//! ```
//! use occlude_preprocess::names::{escape, unescape};
//!
//! assert_eq!(escape(b"caf\xe9.jpg"), "caf%E9.jpg");
//! assert_eq!(escape("café 50%.jpg".as_bytes()), "café 50%.jpg");
//! assert_eq!(escape(b"a\nb%41.jpg"), "a%0Ab%2541.jpg");
//! assert_eq!(unescape("a%0Ab%2541.jpg"), b"a\nb%41.jpg");
//! ```

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;

/// Text for a name of any bytes; different for different names.
pub fn escape(name: &[u8]) -> Cow<'_, str> {
    escape_also(name, |_, _| false)
}

/// [`escape`], and of the ASCII characters those that `also` tells by their place and value.
pub fn escape_also(name: &[u8], also: impl Fn(usize, u8) -> bool) -> Cow<'_, str> {
    let whole = std::str::from_utf8(name).ok();
    if let Some(text) = whole.filter(|text| !text.char_indices().any(|(at, c)| must(name, at, c, &also))) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(name.len() + 8);
    let mut start = 0;
    for chunk in name.utf8_chunks() {
        for (at, c) in chunk.valid().char_indices() {
            if must(name, start + at, c, &also) {
                push_bytes(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                out.push(c);
            }
        }
        push_bytes(&mut out, chunk.invalid());
        start += chunk.valid().len() + chunk.invalid().len();
    }
    Cow::Owned(out)
}

/// Whether the character `c` at byte `at` of a name is escaped.
fn must(name: &[u8], at: usize, c: char, also: &impl Fn(usize, u8) -> bool) -> bool {
    match c {
        '%' => is_escape(name, at),
        // some readers of text take these two for line ends
        '\u{2028}' | '\u{2029}' => true,
        c => c.is_control() || (c.is_ascii() && also(at, c as u8)),
    }
}

/// Whether there are two hexadecimal digits behind a `%` at `at`.
fn is_escape(text: &[u8], at: usize) -> bool {
    text.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "%{byte:02X}");
    }
}

/// The bytes of a name that [`escape`] made text of. A `%` without two hexadecimal digits stays.
pub fn unescape(text: &str) -> Vec<u8> {
    unescape_bytes(text.as_bytes())
}

/// [`unescape`] of text that may hold other bytes, too, which stay.
pub fn unescape_bytes(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if byte == b'%' && is_escape(text, at) {
            let digit = |i: usize| text.get(i).and_then(|&d| char::from(d).to_digit(16)).unwrap_or(0) as u8;
            out.push(digit(at + 1) << 4 | digit(at + 2));
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    out
}

/// A path as text.
pub fn of_path(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes()).into_owned()
}

/// The part of `path` below `dir` as text, with `/` between its parts; the whole path where it lies elsewhere.
pub fn relative(dir: &Path, path: &Path) -> String {
    let below = path.strip_prefix(dir).unwrap_or(path);
    let parts: Vec<&[u8]> = below.iter().map(OsStr::as_encoded_bytes).collect();
    escape(&parts.join(&b'/')).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_escaped() {
        for (name, text) in [
            (b"plain name (1).jpg".as_slice(), "plain name (1).jpg"),
            ("été/100%.jpg".as_bytes(), "été/100%.jpg"),
            (b"100%zz.jpg", "100%zz.jpg"),
            (b"%41.jpg", "%2541.jpg"),
            (b"%c3", "%25c3"),
            (b"%", "%"),
            (b"%4\xff", "%4%FF"),
            (b"%\x01", "%%01"),
            (b"a\nb\r\tc\x7f", "a%0Ab%0D%09c%7F"),
            ("\u{85}\u{2028}".as_bytes(), "%C2%85%E2%80%A8"),
            (b"caf\xe9.jpg", "caf%E9.jpg"),
            (b"caf\xe8.jpg", "caf%E8.jpg"),
        ] {
            assert_eq!(escape(name), text);
            assert_eq!(unescape(text), name);
        }
        assert_eq!(escape_also(b"#a#", |at, c| at == 0 && c == b'#'), "%23a#");
    }

    #[test]
    fn paths_below_a_folder() {
        assert_eq!(relative("d/".as_ref(), "d//a/./b%20.jpg".as_ref()), "a/b%2520.jpg");
        assert_eq!(relative("x".as_ref(), "d/a".as_ref()), "d/a");
    }

    proptest! {
        #[test]
        fn different_names_are_different_texts(
            a in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'%'), b'0'..=b'9'], 0..12),
            b in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'%'), b'0'..=b'9'], 0..12),
        ) {
            let (x, y) = (escape(&a), escape(&b));
            prop_assert_eq!(a == b, x == y);
            prop_assert!(!x.chars().any(char::is_control));
            prop_assert_eq!(unescape(&x), a);
        }
    }
}
