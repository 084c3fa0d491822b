//! The model with other ends, written from the bytes of the original.

use std::io::{self, Write};

use occlude_contract::output;
use prost::Message as _;

use super::choice::Chosen;
use super::nodes;
use super::source::{EXTERNAL, External, Source, number};
use super::wire::{self, Field};
use crate::proto::read::Entry;
use crate::proto::{Message, head};

/// Offsets in a data file are multiples of this, so that runtimes can map tensors.
const ALIGNMENT: u64 = 4096;

/// What a value of the original is called that has the name of our output.
const RENAMED: &str = "occlude.original";

/// Bytes one after the other, most of which lie in the files of the original.
#[derive(Default)]
pub(super) struct Pieces<'f>(Vec<Piece<'f>>);

enum Piece<'f> {
    There(&'f [u8]),
    Made(Vec<u8>),
    Zeros(u64),
}

impl<'f> Pieces<'f> {
    fn there(&mut self, bytes: &'f [u8]) {
        self.0.push(Piece::There(bytes));
    }

    fn made(&mut self, bytes: Vec<u8>) {
        self.0.push(Piece::Made(bytes));
    }

    fn message(&mut self, number: u32, message: &Message<'_>) {
        self.made(head(number, message.len()));
        self.made(message.bytes());
    }

    /// The others as a field.
    fn nested(&mut self, number: u32, others: Self) {
        self.made(head(number, others.len()));
        self.0.extend(others.0);
    }

    pub(super) fn len(&self) -> u64 {
        let len = |piece: &Piece<'_>| match piece {
            Piece::There(bytes) => bytes.len() as u64,
            Piece::Made(bytes) => bytes.len() as u64,
            Piece::Zeros(n) => *n,
        };
        self.0.iter().map(len).sum()
    }

    pub(super) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::There(bytes) => out.write_all(bytes),
            Piece::Made(bytes) => out.write_all(bytes),
            Piece::Zeros(n) => io::copy(&mut io::Read::take(io::repeat(0), *n), out).map(drop),
        })
    }
}

/// A model to be written.
pub(super) struct Draft<'s, 'f> {
    pub(super) source: &'s Source<'f>,
    pub(super) chosen: &'s Chosen,
    pub(super) crop: u32,
    /// What is said about it; golden data comes behind the file.
    pub(super) metadata: Vec<(String, String)>,
}

impl<'f> Draft<'_, 'f> {
    /// The model; with the name of a data file, weights that were in another file belong into that one as [`Self::data`]
    /// has them.
    pub(super) fn model(&self, data: Option<&str>) -> Pieces<'f> {
        let mut all = Pieces::default();
        for field in &self.source.model {
            match field.number {
                number::GRAPH => all.nested(number::GRAPH as u32, self.graph(data)),
                number::METADATA if self.says(field) => {}
                _ => all.there(field.whole),
            }
        }
        for (key, value) in &self.metadata {
            all.message(number::METADATA as u32, &Message::default().text(1, key).text(2, value));
        }
        all
    }

    /// The data file.
    pub(super) fn data(&self) -> Pieces<'f> {
        let (mut all, mut at) = (Pieces::default(), 0);
        for External { values, .. } in &self.source.external {
            let offset = place(at);
            all.0.push(Piece::Zeros(offset - at));
            all.there(values);
            at = offset + values.len() as u64;
        }
        all
    }

    /// Whether a property of the original is said anew.
    fn says(&self, property: &Field<'_>) -> bool {
        let key = Entry::decode(property.content).map(|p| p.key).unwrap_or_default();
        self.metadata.iter().any(|(ours, _)| *ours == key)
    }

    fn graph(&self, data: Option<&str>) -> Pieces<'f> {
        let Self { source, chosen, crop, .. } = self;
        let renamed =
            chosen.choice.output == output::EMBEDDING && (chosen.rank > 1 || chosen.choice.normalize);
        let x = if renamed { RENAMED } else { chosen.choice.output.as_str() };
        let (before, after) = (nodes::before(chosen), nodes::after(chosen, x, source.opset));
        let [input, embedding] = nodes::ports(chosen, *crop);
        let mut all = Pieces::default();
        for node in &before.nodes {
            all.message(number::NODE as u32, &node.message());
        }
        let (mut external, mut at) = (source.external.iter(), 0);
        for field in &source.graph {
            match field.number {
                // Shapes inside may be those of a fixed batch, and names may have changed; runtimes find them out.
                number::VALUE_INFO if chosen.fixed || renamed => {}
                number::OUTPUT => {}
                number::INPUT if named(field, 1) == Some(chosen.choice.input.as_bytes()) => {}
                number::NODE if renamed => all.made(with_renamed(field)),
                number::INITIALIZER if is_external(field) => {
                    if let Some(External { values, .. }) = external.next() {
                        let place = data.map(|file| (file, place(at)));
                        at = self::place(at) + values.len() as u64;
                        all.nested(number::INITIALIZER as u32, initializer(field, values, place));
                    }
                }
                _ => all.there(field.whole),
            }
        }
        for initializer in before.initializers.iter().chain(&after.initializers) {
            all.message(number::INITIALIZER as u32, &initializer.message(None));
        }
        for node in &after.nodes {
            all.message(number::NODE as u32, &node.message());
        }
        all.message(number::INPUT as u32, &input.message());
        all.message(number::OUTPUT as u32, &embedding.message());
        all
    }
}

fn place(at: u64) -> u64 {
    at.next_multiple_of(ALIGNMENT)
}

/// The text of the field `number` within a message.
fn named<'f>(message: &Field<'f>, number: u64) -> Option<&'f [u8]> {
    let fields = wire::fields(message.content).ok()?;
    fields.into_iter().find(|f| f.number == number).map(|f| f.content)
}

fn is_external(initializer: &Field<'_>) -> bool {
    let fields = wire::fields(initializer.content).unwrap_or_default();
    fields.iter().any(|f| f.number == number::DATA_LOCATION && f.value == EXTERNAL)
}

/// An initialiser with its values inside, or in the data file at that place.
fn initializer<'f>(field: &Field<'f>, values: &'f [u8], place: Option<(&str, u64)>) -> Pieces<'f> {
    const RAW_DATA: u32 = 9;
    let mut all = Pieces::default();
    let moved = [number::EXTERNAL_DATA, number::DATA_LOCATION];
    let kept = wire::fields(field.content).unwrap_or_default();
    kept.into_iter().filter(|f| !moved.contains(&f.number)).for_each(|f| all.there(f.whole));
    let Some((file, offset)) = place else {
        all.made(head(RAW_DATA, values.len() as u64));
        all.there(values);
        return all;
    };
    let (offset, length) = (offset.to_string(), values.len().to_string());
    for (key, value) in [("location", file), ("offset", offset.as_str()), ("length", length.as_str())] {
        all.message(number::EXTERNAL_DATA as u32, &Message::default().text(1, key).text(2, value));
    }
    all.made(Message::default().int(number::DATA_LOCATION as u32, EXTERNAL as i64).bytes());
    all
}

/// An operation in which the value that has our output's name is called otherwise.
fn with_renamed(node: &Field<'_>) -> Vec<u8> {
    let ours = |f: &Field<'_>| [1, 2].contains(&f.number) && f.content == output::EMBEDDING.as_bytes();
    let fields = wire::fields(node.content).unwrap_or_default();
    let rewritten = |f: &Field<'_>| match ours(f) {
        true => Message::default().text(f.number as u32, RENAMED).bytes(),
        false => f.whole.to_vec(),
    };
    let content: Vec<u8> = fields.iter().flat_map(rewritten).collect();
    [head(number::NODE as u32, content.len() as u64), content].concat()
}
