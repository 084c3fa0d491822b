//! What of JSON takes memory once it is a tree: two bytes of text can become an array of three hundred.

use serde_json::{Map, Value};

/// How deep the parser goes.
const MAX_DEPTH: usize = 127;

/// A member of an object: its hash, its key and its value; an element of an array takes less.
const PLACE: usize = size_of::<u64>() + size_of::<String>() + size_of::<Value>();

/// An array or object has four places from the start, and an object a table of them.
const CONTAINER: usize = 4 * PLACE + size_of::<Map<String, Value>>();

/// Lists grow by doubling, and keys and strings are allocated apart.
const ELEMENT: usize = 2 * PLACE + 2 * size_of::<String>();

/// Arrays and objects, and the commas within them: each has an element behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shape {
    containers: usize,
    commas: usize,
    /// Whether it is nested deeper than the parser goes.
    pub(super) deep: bool,
}

impl Shape {
    /// Of what is JSON; counted as far as the parser goes, which stops where it becomes too deep.
    pub(super) fn of(json: &[u8]) -> Self {
        let (mut shape, mut depth) = (Self::default(), 0usize);
        let mut bytes = json.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => skip_string(&mut bytes),
                b'[' | b'{' => {
                    shape.containers += 1;
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Self { deep: true, ..shape };
                    }
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' => shape.commas += 1,
                _ => {}
            }
        }
        shape
    }

    /// Values at all depths, at most.
    pub(super) fn values(self) -> usize {
        1 + self.containers + self.commas
    }

    /// Bytes that the tree takes beside the text of its strings, at most.
    pub(super) fn bytes(self) -> usize {
        self.containers.saturating_mul(CONTAINER).saturating_add(self.commas.saturating_mul(ELEMENT))
    }
}

/// Behind the quote that ends a string.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(items) => items.iter().map(count).sum(),
            Value::Object(members) => members.values().map(count).sum(),
            _ => 0,
        }
    }

    #[test]
    fn what_is_within_strings_is_not_counted() {
        let shape = |json: &str| Shape::of(json.as_bytes());
        let plain = Shape { containers: 2, commas: 2, deep: false };
        assert_eq!(shape(r#"{"a": [1, 2], "b": 3}"#), plain);
        assert_eq!(shape(r#"{"[{,\\": ["]}\",", 2], "\\\"[": 3}"#), plain);
        assert_eq!(shape("3").values(), 1);
        let nested = |n: usize| shape(&format!("{}{}", "[".repeat(n), "]".repeat(n)));
        assert_eq!((nested(127).deep, nested(128).deep), (false, true));
        assert_eq!(nested(1_000_000).containers, 128, "the parser goes no further");
    }

    /// What the allocator hands out for a tree, as far as that can be known from outside.
    fn held(value: &Value) -> usize {
        match value {
            Value::Array(items) => {
                items.capacity() * size_of::<Value>() + items.iter().map(held).sum::<usize>()
            }
            Value::Object(members) => members.iter().map(|(k, v)| PLACE + k.capacity() + held(v)).sum(),
            _ => 0,
        }
    }

    #[test]
    fn no_tree_takes_more_than_is_said() {
        assert_eq!((CONTAINER, ELEMENT), (488, 256), "docs/server.md says so");
        let costly = ["[".repeat(100), "0".to_owned(), "]".repeat(100)].concat();
        for json in
            [format!("[{costly},{costly}]"), format!("[{}0]", "0,".repeat(999)), "[[],[],[]]".to_owned()]
        {
            let tree: Value = serde_json::from_str(&json).unwrap();
            assert!(held(&tree) <= Shape::of(json.as_bytes()).bytes(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn no_value_is_missed(keys in prop::collection::vec("\\PC{0,4}", 0..6), text in "\\PC{0,8}", n in 0usize..5) {
            let inner = Value::Array(vec![Value::String(text); n]);
            let tree: Map<String, Value> = keys.into_iter().map(|k| (k, inner.clone())).collect();
            let tree = Value::Object(tree);
            prop_assert!(Shape::of(tree.to_string().as_bytes()).values() >= count(&tree));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Shape::of(&bytes).bytes();
        }
    }
}
