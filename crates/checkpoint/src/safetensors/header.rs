//! The header as JSON, read with caps and without tolerating repeated names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::METADATA_KEY;

/// More dimensions than any framework has.
const MAX_RANK: usize = 64;
/// More tensors and entries of metadata than any checkpoint has; the index of a tensor takes a few
/// hundred bytes, whatever its part of the header takes.
const MAX_TENSORS: usize = 1 << 17;
const MAX_METADATA: usize = 1 << 16;

/// The parsed header; tensors in the order of the JSON text.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) tensors: Vec<(String, Info)>,
}

/// One tensor of the header.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Info {
    pub(super) dtype: String,
    pub(super) shape: Shape,
    /// First byte and the one behind the last, from the end of the header on.
    pub(super) data_offsets: (u64, u64),
}

/// Sides of a tensor, capped in number.
#[derive(Debug)]
pub(super) struct Shape(pub(super) Vec<usize>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA_KEY {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(de::Error::custom("`__metadata__` appears twice"));
                }
                header.metadata = map.next_value_seed(MetadataSeed)?;
            } else if header.tensors.len() == MAX_TENSORS {
                return Err(de::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
            } else {
                header.tensors.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}

/// `{"key": "value"}`; an explicit null, which some writers leave, counts as absent.
struct MetadataSeed;

impl<'de> DeserializeSeed<'de> for MetadataSeed {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut metadata = BTreeMap::new();
        while let Some((key, value)) = map.next_entry()? {
            if metadata.len() == MAX_METADATA {
                return Err(de::Error::custom(format_args!("more than {MAX_METADATA} entries of metadata")));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX_RANK} sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut shape = Vec::new();
        while shape.len() < MAX_RANK {
            match seq.next_element()? {
                Some(size) => shape.push(size),
                None => return Ok(Shape(shape)),
            }
        }
        match seq.next_element::<IgnoredAny>()? {
            Some(_) => Err(de::Error::invalid_length(MAX_RANK + 1, &self)),
            None => Ok(Shape(shape)),
        }
    }
}

/// A tensor of the header as it is written.
#[derive(serde::Serialize)]
pub(super) struct InfoOut<'a> {
    pub(super) dtype: &'static str,
    pub(super) shape: &'a [usize],
    pub(super) data_offsets: (u64, u64),
}

/// A message for a name; long ones are cut.
pub(super) fn shown(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(200) {
        Some((end, _)) => Cow::Owned(format!("{}...", name.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(name),
    }
}
