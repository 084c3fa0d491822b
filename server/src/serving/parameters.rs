//! Values of headers that have parameters: `multipart/form-data; boundary="a b"`, `form-data; name="f"; filename="x"`.

/// What stands first, and the parameters in order; names of both are in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) essence: String,
    pairs: Vec<(String, Vec<u8>)>,
}

impl Parameters {
    /// Reads the bytes of a value. What cannot be read is left out.
    ///
    /// In quotes, a backslash protects a quote and another backslash, and is one of the text before anything else:
    /// clients on Windows send paths as they are (`filename="C:\a\b.jpg"`).
    pub(crate) fn parse(value: &[u8]) -> Self {
        let mut pieces = split(value, b';').into_iter();
        let essence =
            String::from_utf8_lossy(pieces.next().unwrap_or_default().trim_ascii()).to_ascii_lowercase();
        let pair = |piece: &[u8]| {
            let at = piece.iter().position(|b| *b == b'=')?;
            let name = std::str::from_utf8(piece.get(..at)?.trim_ascii()).ok()?.to_ascii_lowercase();
            Some((name, plain(piece.get(at + 1..)?.trim_ascii())))
        };
        Self { essence, pairs: pieces.filter_map(pair).collect() }
    }

    /// The first parameter of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }
}

/// The pieces between separators that are not in quotes.
pub(crate) fn split(value: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut pieces, mut start, mut quoted, mut i) = (Vec::new(), 0, false, 0);
    while let Some(byte) = value.get(i) {
        match *byte {
            b'\\' if quoted && protects(value.get(i + 1)) => i += 1,
            b'"' => quoted = !quoted,
            byte if byte == separator && !quoted => {
                pieces.push(value.get(start..i).unwrap_or_default());
                start = i + 1;
            }
            _ => {}
        }
        i += 1;
    }
    pieces.push(value.get(start..).unwrap_or_default());
    pieces
}

fn protects(next: Option<&u8>) -> bool {
    matches!(next, Some(b'"' | b'\\'))
}

/// A value without its quotes.
fn plain(value: &[u8]) -> Vec<u8> {
    let Some(inner) = value.strip_prefix(b"\"") else { return value.to_vec() };
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' if protects(bytes.peek().copied()) => text.extend(bytes.next()),
            other => text.push(*other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str, name: &str) -> Option<String> {
        Parameters::parse(text.as_bytes()).get(name).map(|v| String::from_utf8(v.to_vec()).unwrap())
    }

    #[test]
    fn quotes_spaces_and_capitals() {
        let type_ = "Multipart/Form-Data ; charset=utf-8;Boundary=\"a; b\"";
        assert_eq!(Parameters::parse(type_.as_bytes()).essence, "multipart/form-data");
        assert_eq!(value(type_, "boundary").as_deref(), Some("a; b"));
        assert_eq!(value("a/b; boundary====x==; c", "boundary").as_deref(), Some("===x=="));
        assert_eq!(value("a; x=\"open", "x").as_deref(), Some("open"));
        assert_eq!(value("a; x=1; x=2", "x").as_deref(), Some("1"));
        assert_eq!(value("a; x=\"\"", "x").as_deref(), Some(""));
        assert_eq!((value("a;x", "x"), value("", "x")), (None, None));
    }

    #[test]
    fn backslashes_protect_quotes_and_themselves_and_are_text_elsewhere() {
        for (sent, name) in [
            (r#""a\"b.jpg""#, r#"a"b.jpg"#),
            (r#""a\\b.jpg""#, r"a\b.jpg"),
            (r#""C:\a\b.jpg""#, r"C:\a\b.jpg"),
            (r#""a\";b.jpg""#, r#"a";b.jpg"#),
            (r#""../x""#, "../x"),
        ] {
            let text = format!("form-data; name=\"f\"; filename={sent}; more=1");
            assert_eq!(value(&text, "filename").as_deref(), Some(name), "{sent}");
            assert_eq!(value(&text, "more").as_deref(), Some("1"), "{sent}");
        }
    }

    proptest! {
        #[test]
        fn quoted_text_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let quote = |b: &u8| if matches!(b, b'"' | b'\\') { vec![b'\\', *b] } else { vec![*b] };
            let quoted: Vec<u8> = bytes.iter().flat_map(quote).collect();
            let header = [b"form-data; filename=\"", quoted.as_slice(), b"\"; a=b"].concat();
            let read = Parameters::parse(&header);
            prop_assert_eq!(read.get("filename"), Some(bytes.as_slice()));
            prop_assert_eq!(read.get("a"), Some(b"b".as_slice()));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Parameters::parse(&bytes);
        }
    }
}
