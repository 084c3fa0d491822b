//! Writing protocol buffers without holding them in memory, and the messages that are [`read`].
//!
//! A message is a list of fields; weights stay where they are, or are computed while they are
//! written, so that a model of any size costs no second copy. The wire format:
//! <https://protobuf.dev/programming-guides/encoding/>.

mod element;
mod identity;
mod model;
pub(crate) mod read;
mod weights;

pub(crate) use element::Element;
pub(crate) use model::{Attribute, Dim, Form, Initializer, Model, Node, Value};
pub(crate) use weights::Weights;

use std::io::{self, Write};

/// A message under construction; fields come out in the order in which they were added.
#[derive(Default)]
pub(crate) struct Message<'a> {
    fields: Vec<Field<'a>>,
}

struct Field<'a> {
    number: u32,
    content: Content<'a>,
}

enum Content<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes(Vec<u8>),
    Message(Message<'a>),
    /// Bytes that are produced while they are written.
    Stream(&'a dyn Stream),
}

/// Content of a known length that is never held in memory as a whole.
pub(crate) trait Stream {
    /// Its length in bytes.
    fn byte_len(&self) -> u64;
    /// Writes that many bytes.
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()>;
}

impl<'a> Message<'a> {
    fn with(mut self, number: u32, content: Content<'a>) -> Self {
        self.fields.push(Field { number, content });
        self
    }

    pub(crate) fn int(self, number: u32, value: i64) -> Self {
        // Negative numbers are sign-extended to ten bytes.
        self.with(number, Content::Varint(value as u64))
    }

    pub(crate) fn float(self, number: u32, value: f32) -> Self {
        self.with(number, Content::Fixed32(value.to_le_bytes()))
    }

    pub(crate) fn text(self, number: u32, value: &str) -> Self {
        self.with(number, Content::Bytes(value.as_bytes().to_vec()))
    }

    pub(crate) fn message(self, number: u32, value: Message<'a>) -> Self {
        self.with(number, Content::Message(value))
    }

    pub(crate) fn stream(self, number: u32, value: &'a dyn Stream) -> Self {
        self.with(number, Content::Stream(value))
    }

    /// A repeated field.
    pub(crate) fn each<T>(self, values: impl IntoIterator<Item = T>, add: impl Fn(Self, T) -> Self) -> Self {
        values.into_iter().fold(self, add)
    }

    /// Encoded length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.fields.iter().map(Field::len).sum()
    }

    /// The encoded message, in memory.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_to(&mut out).expect("memory takes what is written to it");
        out
    }

    /// Writes the encoded message.
    pub(crate) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.fields.iter().try_for_each(|f| f.write_to(out))
    }
}

impl Field<'_> {
    fn tag(&self) -> u64 {
        let wire_type = match self.content {
            Content::Varint(_) => 0,
            Content::Bytes(_) | Content::Message(_) | Content::Stream(_) => 2,
            Content::Fixed32(_) => 5,
        };
        u64::from(self.number) << 3 | wire_type
    }

    fn len(&self) -> u64 {
        let prefixed = |len: u64| varint_len(len) + len;
        varint_len(self.tag())
            + match &self.content {
                Content::Varint(v) => varint_len(*v),
                Content::Fixed32(_) => 4,
                Content::Bytes(b) => prefixed(b.len() as u64),
                Content::Message(m) => prefixed(m.len()),
                Content::Stream(s) => prefixed(s.byte_len()),
            }
    }

    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        write_varint(out, self.tag())?;
        match &self.content {
            Content::Varint(v) => write_varint(out, *v),
            Content::Fixed32(bytes) => out.write_all(bytes),
            Content::Bytes(bytes) => {
                write_varint(out, bytes.len() as u64)?;
                out.write_all(bytes)
            }
            Content::Message(message) => {
                write_varint(out, message.len())?;
                message.write_to(out)
            }
            Content::Stream(content) => {
                write_varint(out, content.byte_len())?;
                content.write_to(out)
            }
        }
    }
}

/// What stands before `len` bytes that are a field of their own.
pub(crate) fn head(number: u32, len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for value in [u64::from(number) << 3 | 2, len] {
        write_varint(&mut out, value).expect("memory takes what is written to it");
    }
    out
}

fn varint_len(value: u64) -> u64 {
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7))
}

fn write_varint(out: &mut dyn Write, mut value: u64) -> io::Result<()> {
    let mut bytes = [0; 10];
    let mut n = 0;
    loop {
        let more = value > 0x7f;
        bytes[n] = (value & 0x7f) as u8 | if more { 0x80 } else { 0 };
        n += 1;
        value >>= 7;
        if !more {
            return out.write_all(&bytes[..n]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(message: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        message.write_to(&mut out).expect("memory");
        assert_eq!(out.len() as u64, message.len());
        out
    }

    /// The examples of the protocol buffers documentation.
    #[test]
    fn documented_examples() {
        assert_eq!(encoded(&Message::default().int(1, 150)), [0x08, 0x96, 0x01]);
        assert_eq!(encoded(&Message::default().text(2, "testing")), b"\x12\x07testing");
        let inner = Message::default().int(1, 150);
        assert_eq!(encoded(&Message::default().message(3, inner)), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        let negative = encoded(&Message::default().int(1, -2));
        assert_eq!(negative[..2], [0x08, 0xfe]);
        assert_eq!(negative.len(), 11);
        assert_eq!(encoded(&Message::default().float(15, 1.0)), [0x7d, 0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn lengths_of_varints() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            write_varint(&mut out, value).expect("memory");
            assert_eq!(out.len() as u64, varint_len(value), "{value}");
        }
    }
}
