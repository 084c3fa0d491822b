//! The data of a tensor: JSON lists of any depth, or bytes.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use crate::error::{ApiError, Kind};
use crate::routes::json;

/// What a tensor is made of.
pub(super) trait Element: Sized {
    /// The protocol's name.
    const DATATYPE: &'static str;

    fn from_u64(_: u64) -> Option<Self> {
        None
    }
    fn from_f64(_: f64) -> Option<Self> {
        None
    }
    fn from_text(_: &str) -> Option<Self> {
        None
    }
}

impl Element for u8 {
    const DATATYPE: &'static str = "UINT8";

    fn from_u64(value: u64) -> Option<Self> {
        value.try_into().ok()
    }
}

impl Element for f32 {
    const DATATYPE: &'static str = "FP32";

    fn from_u64(value: u64) -> Option<Self> {
        Some(value as f32)
    }

    fn from_f64(value: f64) -> Option<Self> {
        Some(value as f32).filter(|v| v.is_finite())
    }
}

impl Element for String {
    const DATATYPE: &'static str = "BYTES";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// The elements of a JSON list, of lists or not, row-major: exactly `count`. Nothing is kept beyond that, and no
/// value is held as more than its element.
pub(super) fn from_json<T: Element>(name: &str, json: &str, count: usize) -> Result<Vec<T>, ApiError> {
    let bad = |what: String| ApiError::new(Kind::InvalidRequest, format!("input `{name}`: {what}"));
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let list = Flat { out: &mut found, count, _element: PhantomData::<T> };
    list.deserialize(&mut deserializer).map_err(|e| json::error(&format!("input `{name}`"), &e))?;
    if found.len() == count {
        return Ok(found);
    }
    Err(bad(format!("the data has {} elements, but the shape has {count}", found.len())))
}

struct Flat<'a, T> {
    out: &'a mut Vec<T>,
    count: usize,
    _element: PhantomData<T>,
}

impl<'de, T: Element> DeserializeSeed<'de> for Flat<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<T: Element> Flat<'_, T> {
    fn push<E: Error>(self, value: Option<T>) -> Result<(), E> {
        let value = value.ok_or_else(|| E::custom(format!("a value that is not {}", T::DATATYPE)))?;
        if self.out.len() == self.count {
            return Err(E::custom(format!("the data has more elements than the shape, {}", self.count)));
        }
        self.out.push(value);
        Ok(())
    }
}

impl<'de, T: Element> Visitor<'de> for Flat<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values or lists of them", T::DATATYPE)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.push(T::from_u64(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.push(T::from_f64(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.push(T::from_f64(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.push(T::from_text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        loop {
            let inner = Flat { out: &mut *self.out, count: self.count, _element: PhantomData::<T> };
            if list.next_element_seed(inner)?.is_none() {
                return Ok(());
            }
        }
    }
}

/// The elements of a binary BYTES tensor: each a little-endian u32 of its length, then so many bytes.
pub(super) fn files(name: &str, mut data: Bytes, count: usize) -> Result<Vec<Bytes>, ApiError> {
    let bad = |what: &str| ApiError::new(Kind::InvalidRequest, format!("input `{name}`: {what}"));
    let mut found = Vec::new();
    while !data.is_empty() {
        if found.len() == count {
            return Err(bad("the data has more elements than the shape"));
        }
        let length = data.try_get_u32_le().map_err(|_| bad("the length of an element is truncated"))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > data.len() {
            return Err(bad(&format!("an element of {length} bytes, but {} are left", data.len())));
        }
        found.push(data.split_to(length));
    }
    if found.len() == count {
        return Ok(found);
    }
    Err(bad(&format!("the data has {} elements, but the shape has {count}", found.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_of_any_depth_are_flattened() {
        for text in ["[1,2,3,4]", "[[1,2],[3,4]]", "[[[1],[2]],[[3],[4]]]"] {
            assert_eq!(from_json::<u8>("x", text, 4).unwrap(), [1, 2, 3, 4], "{text}");
        }
        assert_eq!(from_json::<f32>("x", "[[1, -2], [0.5, 1e3]]", 4).unwrap(), [1.0, -2.0, 0.5, 1000.0]);
        assert_eq!(from_json::<String>("x", r#"[["a"], ["b\n"]]"#, 2).unwrap(), ["a", "b\n"]);
    }

    #[test]
    fn other_values_and_counts_are_refused() {
        let text = |json| from_json::<u8>("x", json, 2).unwrap_err().message;
        assert!(text("[1]").ends_with("the data has 1 elements, but the shape has 2"));
        assert!(text("[1,2,3]").contains("more elements than the shape, 2"));
        for json in ["[1,256]", "[1,-1]", "[1,2.5]", "[1,\"2\"]", "[1,null]", "[1,true]", "{}"] {
            assert!(from_json::<u8>("x", json, 2).is_err(), "{json}");
        }
        assert!(from_json::<f32>("x", "[1e39, 0]", 2).is_err(), "no float32");
        let deep = "[".repeat(100_000);
        let error = from_json::<u8>("x", &deep, 2).unwrap_err();
        assert_eq!(error.kind, Kind::BadRequest);
        assert!(error.message.starts_with("input `x`: nested deeper than 127 levels"), "{error}");
    }

    #[test]
    fn lengths_are_held_against_what_is_there() {
        let files = |bytes: &[u8], n| files("x", Bytes::copy_from_slice(bytes), n).map_err(|e| e.message);
        assert_eq!(files(&[1, 0, 0, 0, 9, 0, 0, 0, 0], 2).unwrap(), [vec![9u8], vec![]]);
        assert!(files(&[1, 0, 0, 0, 9], 2).unwrap_err().contains("1 elements, but the shape has 2"));
        assert!(files(&[1, 0, 0, 0, 9], 0).unwrap_err().contains("more elements"));
        assert!(files(&[2, 0, 0, 0, 9], 1).unwrap_err().contains("of 2 bytes, but 1 are left"));
        assert!(files(&[255; 4], 1).is_err() && files(&[1, 0, 0], 1).is_err());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6)) {
            let written: Vec<u8> =
                parts.iter().flat_map(|p| [&(p.len() as u32).to_le_bytes()[..], p].concat()).collect();
            let read = files("x", written.into(), parts.len()).unwrap();
            prop_assert_eq!(read, parts);
        }

        #[test]
        fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..64), text in "\\PC*", count in 0usize..5) {
            let _ = files("x", data.into(), count);
            let _ = from_json::<u8>("x", &text, count);
            let _ = from_json::<String>("x", &text, count);
        }
    }
}
