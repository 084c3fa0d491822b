//! How many fields a message may have before it is taken apart: an empty one takes two bytes on the wire and a hundred
//! in memory.

/// Fields of a message that are messages themselves, by their numbers, and what of these are.
pub(super) struct Nested(pub(super) &'static [(usize, &'static Nested)]);

const PLAIN: Nested = Nested(&[]);
const ENTRY: Nested = Nested(&[(2, &PLAIN)]);
const INPUT: Nested = Nested(&[(4, &ENTRY), (5, &PLAIN)]);
const OUTPUT: Nested = Nested(&[(2, &ENTRY)]);

/// Of `ModelInferRequest`.
pub(super) const REQUEST: Nested = Nested(&[(4, &ENTRY), (5, &INPUT), (6, &OUTPUT)]);

/// Whether a message and those within it have at most `most` fields with a length of their own. What is no message is
/// left to those who read it; groups, which no message of the protocol has, are within no bound: those who read skip
/// them and go on.
pub(super) fn within(message: &[u8], nested: &Nested, most: usize) -> bool {
    let mut left = most;
    count(message, nested, &mut left).is_some()
}

fn count(mut message: &[u8], nested: &Nested, left: &mut usize) -> Option<()> {
    while !message.is_empty() {
        let Some((key, rest)) = varint(message) else { return Some(()) };
        let size = match key & 7 {
            0 => varint(rest).map(|(_, after)| rest.len() - after.len()),
            1 => Some(8),
            2 => {
                *left = left.checked_sub(1)?;
                let Some((length, inner)) = varint(rest) else { return Some(()) };
                let Some(inner) = inner.get(..length) else { return Some(()) };
                if let Some((_, nested)) = nested.0.iter().find(|(number, _)| *number == key >> 3) {
                    count(inner, nested, left)?;
                }
                varint(rest).map(|(_, after)| rest.len() - after.len() + length)
            }
            5 => Some(4),
            3 | 4 => return None,
            // No message: prost refuses it, too.
            _ => return Some(()),
        };
        let Some(next) = size.and_then(|size| rest.get(size..)) else { return Some(()) };
        message = next;
    }
    Some(())
}

/// A number in groups of seven bits, the lowest first, and what follows it; read as who reads the message does.
fn varint(mut bytes: &[u8]) -> Option<(usize, &[u8])> {
    let value = prost::decode_length_delimiter(&mut bytes).ok()?;
    Some((value, bytes))
}

#[cfg(test)]
mod tests {
    use super::super::message::{InferInputTensor, InferTensorContents, ModelInferRequest};
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    fn request(elements: usize, inputs: usize) -> Vec<u8> {
        let contents =
            InferTensorContents { bytes_contents: vec![Bytes::new(); elements], ..Default::default() };
        let input = InferInputTensor { contents: Some(contents), ..Default::default() };
        ModelInferRequest { inputs: vec![input; inputs], id: "7".to_owned(), ..Default::default() }
            .encode_to_vec()
    }

    #[test]
    fn fields_within_fields_are_counted() {
        // The id; for each input itself, its contents and what is in these.
        assert!(within(&request(3, 1), &REQUEST, 6) && !within(&request(3, 1), &REQUEST, 5));
        assert!(within(&request(0, 4), &REQUEST, 9) && !within(&request(0, 4), &REQUEST, 8));
        assert!(within(&request(9, 1), &PLAIN, 2), "only what is said to be a message is looked into");
        let many = b"\x2a\x00".repeat(1 << 16);
        assert!(!within(&many, &REQUEST, 4096));
        // Field 100 begins and ends as a group, which prost skips.
        let hidden = [b"\xa3\x06\xa4\x06", many.as_slice()].concat();
        assert_eq!(ModelInferRequest::decode(hidden.as_slice()).unwrap().inputs.len(), 1 << 16);
        assert!(!within(&hidden, &REQUEST, 4096));
        assert!(!within(b"\x2a\x04\xa3\x06\xa4\x06", &REQUEST, 4096), "within an input");
        assert_eq!(varint(&[0x96, 0x01, 7]), Some((150, [7].as_slice())));
        assert_eq!((varint(&[0x80]), varint(&[0xff; 11])), (None, None));
    }

    proptest! {
        #[test]
        fn whatever_is_let_through_has_no_more_fields(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let few = within(&bytes, &REQUEST, 2);
            if let (true, Ok(read)) = (few, ModelInferRequest::decode(bytes.as_slice())) {
                prop_assert!(read.inputs.len() + read.outputs.len() + read.raw_input_contents.len() <= 2);
            }
        }
    }
}
