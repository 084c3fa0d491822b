//! Pictures in strings: base64 in its dialects, data URLs, web addresses.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use percent_encoding::percent_decode;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use utoipa::ToSchema;

use crate::error::{ApiError, Kind};
use crate::pictures::encoding::Upload;

/// With or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The base64 of a picture's file, a data URL or a web address, with a name or without.
#[derive(ToSchema)]
#[schema(as = Picture)]
#[serde(untagged)]
pub(super) enum Item {
    Plain(String),
    Named { name: String, data: String },
}

/// What serde makes of `untagged` keeps whatever is there as a tree before it looks at it.
impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

#[derive(serde::Deserialize)]
struct Named {
    name: String,
    data: String,
}

impl<'de> Visitor<'de> for Reader {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a picture, which is a string or {\"name\": .., \"data\": ..}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Plain(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Item, A::Error> {
        let Named { name, data } = Named::deserialize(MapAccessDeserializer::new(members))?;
        Ok(Item::Named { name, data })
    }
}

/// The file in a string, which stands at `place` of its request.
pub(super) fn unpack(place: usize, item: Item) -> Result<Upload, ApiError> {
    let (name, text) = match item {
        Item::Plain(text) => (None, text),
        Item::Named { name, data } => (Some(name), data),
    };
    let upload = |bytes, url| Upload { place, name: name.clone(), bytes, url };
    let trimmed = text.trim_ascii();
    if starts(trimmed, "http://") || starts(trimmed, "https://") {
        return Ok(upload(Bytes::new(), Some(trimmed.to_owned())));
    }
    match bytes(trimmed) {
        Ok(bytes) => Ok(upload(bytes.into(), None)),
        Err(what) => {
            let error = ApiError::new(Kind::BadRequest, what).at(place, name.as_deref());
            Err(error.hint(
                "encode the file itself, e.g. base64 -w0 photo.jpg, or send data:image/jpeg;base64,...",
            ))
        }
    }
}

/// Schemes of addresses are written in any case.
fn starts(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    if !starts(text, "data:") {
        return base64(text.as_bytes());
    }
    let Some((head, data)) = text.split_once(',') else {
        return Err("a data URL without a comma before its data".to_owned());
    };
    // What follows `#` is no part of the data (fetch.spec.whatwg.org, "data: URL processor").
    let data = data.split('#').next().unwrap_or_default().as_bytes();
    let data: Cow<'_, [u8]> = percent_decode(data).into();
    let last = head.rsplit_once(';').map_or("", |(_, last)| last.trim_ascii());
    if last.eq_ignore_ascii_case("base64") { base64(&data) } else { Ok(data.into_owned()) }
}

/// Base64 of either alphabet (RFC 4648, 4 and 5), padded or not; tools that wrap lines put white space into it.
fn base64(text: &[u8]) -> Result<Vec<u8>, String> {
    let other = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'-' | b'_');
    let text = if text.iter().any(other) {
        let standard = |b: &u8| match b {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        };
        Cow::Owned(text.iter().filter(|b| !b.is_ascii_whitespace()).map(standard).collect())
    } else {
        Cow::Borrowed(text)
    };
    BASE64.decode(text).map_err(|e| format!("invalid base64: {}", e.to_string().to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD as PADDED, URL_SAFE, URL_SAFE_NO_PAD};
    use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
    use proptest::prelude::*;

    fn of(text: &str) -> Result<Vec<u8>, (Kind, String)> {
        let unpacked = unpack(3, Item::Plain(text.to_owned()));
        unpacked.map(|u| u.bytes.to_vec()).map_err(|e| (e.kind, e.message))
    }

    #[test]
    fn every_dialect_is_read() {
        let file = b"\xfb\xff\xfe?>".to_vec();
        for text in [
            "+//+Pz4=",
            "+//+Pz4",
            "-__-Pz4=",
            "-__-Pz4",
            "+//+\r\nPz4=\n",
            " +//+ Pz4",
            "data:image/png;base64,+//+Pz4=",
            "DATA:image/png;BASE64,-__-Pz4",
            "data:;base64,+//+Pz4=",
            "data:image/png;charset=utf-8;name=a.png; base64 ,+//+Pz4=",
            "data:image/png;base64,%2B%2F%2f%2BPz4%3D",
            "data:image/png;base64,+//+%0APz4=#x",
            "data:image/png,%fb%FF%fe?%3E",
        ] {
            assert_eq!(of(text), Ok(file.clone()), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_its_place() {
        for text in ["!!", "a", "data:image/png;base64", "data:image/png;base64,a?b"] {
            let (kind, message) = of(text).unwrap_err();
            assert_eq!(kind, Kind::BadRequest, "{text}");
            assert!(message.starts_with("picture 3: "), "{message}");
        }
        let named = unpack(1, Item::Named { name: "a.jpg".to_owned(), data: "!".to_owned() });
        assert!(named.err().unwrap().message.starts_with("picture 1 (`a.jpg`): invalid base64"));
    }

    #[test]
    fn a_picture_is_a_string_or_has_a_name() {
        let read = |json: &str| serde_json::from_str::<Item>(json).map_err(|e| e.to_string());
        assert!(matches!(read(r#""aGk\u003d""#), Ok(Item::Plain(text)) if text == "aGk="));
        let named = read(r#"{"more": [[{}]], "data": "aGk=", "name": "a"}"#);
        assert!(
            matches!(named, Ok(Item::Named { name, data }) if (name.as_str(), data.as_str()) == ("a", "aGk="))
        );
        for other in ["3", "null", "true", "[]", r#"["aGk="]"#] {
            let told = read(other).err().unwrap();
            assert!(
                told.contains(r#"expected a picture, which is a string or {"name": .., "data": ..}"#),
                "{told}"
            );
        }
        for other in ["{}", r#"{"name": "a"}"#, r#"{"data": 3, "name": "a"}"#] {
            assert!(read(other).is_err(), "{other}");
        }
    }

    #[test]
    fn web_addresses_are_kept_for_later() {
        for url in ["https://example.org/a.jpg", " HTTP://example.org/a-_=.jpg\n"] {
            assert_eq!(unpack(0, Item::Plain(url.to_owned())).unwrap().url.as_deref(), Some(url.trim()));
        }
    }

    proptest! {
        #[test]
        fn files_come_back(file in prop::collection::vec(any::<u8>(), 0..50)) {
            for text in [PADDED.encode(&file), URL_SAFE.encode(&file), URL_SAFE_NO_PAD.encode(&file)] {
                prop_assert_eq!(of(&text), Ok(file.clone()));
                let escaped = percent_encode(text.as_bytes(), NON_ALPHANUMERIC);
                prop_assert_eq!(of(&format!("data:image/png;base64,{escaped}")), Ok(file.clone()));
            }
            let raw = percent_encode(&file, NON_ALPHANUMERIC);
            prop_assert_eq!(of(&format!("data:,{raw}")), Ok(file.clone()));
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = of(&text);
            let _ = of(&format!("data:{text}"));
        }
    }
}
