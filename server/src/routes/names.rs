//! The names of a form's files. They are ids of points, so different names stay different, whatever a client writes.

use occlude_preprocess::names::escape;
use percent_encoding::percent_decode;

use crate::serving::parameters::Parameters;

/// The name that a part's `Content-Disposition` gives to its file: `filename*` (RFC 8187) where it can be read, else
/// `filename`. None where there is neither, or an empty one; the name of the field is never one of a file.
pub(super) fn of_file(disposition: &Parameters) -> Option<String> {
    let extended = disposition.get("filename*").and_then(extended).filter(|n| !n.is_empty());
    let plain = || disposition.get("filename").filter(|n| !n.is_empty()).map(<[u8]>::to_vec);
    extended.or_else(plain).map(|bytes| escape(&bytes).into_owned())
}

/// `charset'language'percent-encoded`, as UTF-8.
fn extended(value: &[u8]) -> Option<Vec<u8>> {
    let mut parts = value.splitn(3, |b| *b == b'\'');
    let (charset, _language, coded) = (parts.next()?, parts.next()?, parts.next()?);
    let decoded: Vec<u8> = percent_decode(coded).collect();
    match charset.to_ascii_lowercase().as_slice() {
        b"utf-8" | b"us-ascii" => String::from_utf8(decoded).ok().map(String::into_bytes),
        // Its 256 bytes are the first 256 characters of Unicode.
        b"iso-8859-1" => Some(decoded.into_iter().map(char::from).collect::<String>().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_preprocess::names::unescape;
    use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
    use proptest::prelude::*;

    fn name(disposition: &[u8]) -> Option<String> {
        of_file(&Parameters::parse(disposition))
    }

    #[test]
    fn names_in_every_notation() {
        for (rest, expected) in [
            ("filename=\"a.jpg\"", "a.jpg"),
            ("FileName=a.jpg", "a.jpg"),
            ("filename=\"na\u{ef}ve.jpg\"", "naïve.jpg"),
            ("filename=\"x.jpg\"; filename*=UTF-8''na%C3%AFve%20%e2%82%ac.jpg", "naïve €.jpg"),
            ("filename*=iso-8859-1'en'caf%E9.jpg; filename=\"x.jpg\"", "café.jpg"),
            ("filename*=utf-8''caf%E9.jpg; filename=\"plain.jpg\"", "plain.jpg"),
            ("filename*=koi8-r''%C1.jpg; filename=\"plain.jpg\"", "plain.jpg"),
            ("filename*=broken; filename=\"plain.jpg\"", "plain.jpg"),
            ("filename*=UTF-8''; filename=\"plain.jpg\"", "plain.jpg"),
            (r#"filename="C:\a\b.jpg""#, r"C:\a\b.jpg"),
            ("filename=\"../x\"", "../x"),
            ("filename*=UTF-8''a%0Ab.jpg", "a%0Ab.jpg"),
            ("filename=\"100%.jpg\"", "100%.jpg"),
            ("filename=\"a%0Ab.jpg\"", "a%250Ab.jpg"),
        ] {
            let all = format!("form-data; name=\"file\"; {rest}");
            assert_eq!(name(all.as_bytes()).as_deref(), Some(expected), "{rest}");
        }
        assert_eq!(name(b"form-data; name=\"f\"; filename=\"caf\xe9.jpg\"").as_deref(), Some("caf%E9.jpg"));
        assert_eq!(name(b"form-data; name=\"f\"; filename=\"caf%E9.jpg\"").as_deref(), Some("caf%25E9.jpg"));
        for none in ["form-data; name=\"file\"", "form-data; name=\"file\"; filename=\"\"", ""] {
            assert_eq!(name(none.as_bytes()), None, "{none}");
        }
    }

    proptest! {
        /// Quoted as clients do, and percent-encoded: the same name, and another for other bytes.
        #[test]
        fn different_names_stay_different(bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(b"%25Eae\\\"\xc3\xa9".to_vec())], 1..12,
        )) {
            let quote = |b: &u8| if matches!(b, b'"' | b'\\') { vec![b'\\', *b] } else { vec![*b] };
            let quoted: Vec<u8> = bytes.iter().flat_map(quote).collect();
            let plain = name(&[b"form-data; filename=\"", quoted.as_slice(), b"\""].concat()).unwrap();
            prop_assert_eq!(unescape(&plain), bytes.clone());
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let coded = percent_encode(text.as_bytes(), NON_ALPHANUMERIC);
                prop_assert_eq!(name(format!("form-data; filename*=UTF-8''{coded}").as_bytes()), Some(plain));
            }
        }
    }
}
