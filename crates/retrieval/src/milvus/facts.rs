//! Facts of a payload (`crate::facts`) as numbers, and filters as expressions about them.
//!
//! A Milvus expression cannot ask whether any number of a list lies in a range, and what it says of a path that is not there
//! differs between releases. It can ask whether an array of integers has one of some integers in it, and that is all that is
//! asked here: each fact is 63 bits of a SHA-256 of what it says. A number is said nineteen times, with ever fewer of its
//! leading bits, so that a range is some dozens of prefixes, as in Lucene's trie of numbers
//! (Schindler and Diepenbroek, <https://doi.org/10.1016/j.cageo.2008.02.023>).

use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

use crate::facts::{can_be_asked, facts};
use crate::filter::{Clause, Condition, Filter, Range};

/// Most elements of an array of Milvus.
pub(super) const MAX: usize = 4096;

/// Bits of a number's key: those of a double, and how much the number is beyond it.
const BITS: u32 = 64 + BEYOND;
/// Whole numbers of 64 bits lie at most 2^11 apart where doubles are next to each other.
const BEYOND: u32 = 11;
/// Bits that the prefixes of one number differ by.
const STEP: u32 = 4;
const LEVELS: u32 = BITS.div_ceil(STEP);

/// No row has an empty id.
pub(super) const NONE: &str = "id == \"\"";

/// The facts of a payload, each once.
pub(super) fn tokens(payload: &Map<String, Value>) -> Vec<i64> {
    let mut tokens = Vec::new();
    for (path, values) in facts(payload) {
        tokens.push(there(&path));
        for value in values {
            match value {
                Value::Number(number) => {
                    let key = key(number);
                    tokens.extend((0..LEVELS).map(|level| prefix(&path, level, key >> (STEP * level))));
                }
                other => tokens.push(same(&path, other)),
            }
        }
    }
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// An expression that holds where the filter matches.
pub(super) fn expression(filter: &Filter) -> String {
    let mut all: Vec<String> = filter.must.iter().map(clause).collect();
    all.extend(filter.must_not.iter().map(|unwanted| format!("(not {})", clause(unwanted))));
    let any: Vec<String> = filter.should.iter().map(clause).collect();
    if !any.is_empty() {
        all.push(format!("({})", any.join(" or ")));
    }
    if all.is_empty() { format!("(not ({NONE}))") } else { format!("({})", all.join(" and ")) }
}

fn clause(clause: &Clause) -> String {
    match clause {
        Clause::Filter(filter) => expression(filter),
        Clause::Key { key: path, condition } => match condition {
            Condition::Match(value) => one_of(equal(path, value)),
            Condition::Any(values) => one_of(values.iter().filter_map(|value| equal(path, value))),
            Condition::Range(range) => one_of(within(path, range)),
            Condition::Exists(true) => one_of([there(path)]),
            Condition::Exists(false) => format!("(not {})", one_of([there(path)])),
        },
    }
}

fn one_of(tokens: impl IntoIterator<Item = i64>) -> String {
    let tokens: Vec<String> = tokens.into_iter().map(|token| token.to_string()).collect();
    if tokens.is_empty() {
        return format!("({NONE})");
    }
    format!("(array_contains_any(facts, [{}]))", tokens.join(","))
}

/// The fact of each row where the path leads to this value; none where no row can have it.
fn equal(path: &str, value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => Some(prefix(path, 0, key(number))),
        other => can_be_asked(other).then(|| same(path, other)),
    }
}

/// The prefixes of which each number in the range has one, and no other number.
fn within(path: &str, range: &Range) -> Vec<i64> {
    let of = |bound: &Option<Number>, beyond: i128| bound.as_ref().map(|number| key(number) + beyond);
    let low = of(&range.gt, 1).max(of(&range.gte, 0)).unwrap_or(0);
    let high = [of(&range.lt, -1), of(&range.lte, 0)].into_iter().flatten().min();
    cover(low, high.unwrap_or((1 << BITS) - 1))
        .into_iter()
        .map(|(level, at)| prefix(path, level, at))
        .collect()
}

/// Blocks, each of a level and a number, that hold the keys from `low` to `high` and no others.
fn cover(mut low: i128, mut high: i128) -> Vec<(u32, i128)> {
    let last = (1 << STEP) - 1;
    let mut blocks = Vec::new();
    for level in 0..LEVELS {
        while low <= high && (low & last != 0 || level + 1 == LEVELS) {
            blocks.push((level, low));
            low += 1;
        }
        while low <= high && high & last != last {
            blocks.push((level, high));
            high -= 1;
        }
        if low > high {
            break;
        }
        (low, high) = (low >> STEP, high >> STEP);
    }
    blocks
}

/// Numbers have the order of their keys, and one key where their values are one.
fn key(number: &Number) -> i128 {
    let (double, beyond) = match number.as_i128() {
        Some(whole) => {
            let nearest = whole as f64;
            // Exact: a double of at most 65 bits.
            let below = if nearest as i128 > whole { nearest.next_down() } else { nearest };
            (below, whole - below as i128)
        }
        None => (number.as_f64().unwrap_or_default(), 0),
    };
    // Zero has one key.
    let bits = (double + 0.0).to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | (1 << 63) };
    (i128::from(ordered) << BEYOND) + beyond
}

fn there(path: &str) -> i64 {
    token(path, &[b"there"])
}

/// Of a string or a truth value.
fn same(path: &str, value: &Value) -> i64 {
    token(path, &[b"is", value.to_string().as_bytes()])
}

fn prefix(path: &str, level: u32, at: i128) -> i64 {
    token(path, &[b"number", &level.to_le_bytes(), &at.to_le_bytes()])
}

/// Not negative: expressions have no smallest integer.
fn token(path: &str, parts: &[&[u8]]) -> i64 {
    let mut hash = Sha256::new();
    hash.update((path.len() as u64).to_le_bytes());
    hash.update(path);
    parts.iter().for_each(|part| hash.update(part));
    let first = hash.finalize().first_chunk().copied().unwrap_or_default();
    i64::from_le_bytes(first) & i64::MAX
}

/// Text as a string of an expression. Later releases read letters beyond ASCII otherwise than they are written: bytes they leave
/// as they are.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'"' && byte != b'\\' => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\{byte:03o}")),
        }
    }
    quoted.push('"');
    quoted
}

/// An expression that holds for these ids.
pub(super) fn among<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    let ids: Vec<String> = ids.map(quoted).collect();
    format!("id in [{}]", ids.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn number() -> impl Strategy<Value = Number> {
        prop_oneof![
            any::<i64>().prop_map(Number::from),
            any::<u64>().prop_map(Number::from),
            (-20i64..20).prop_map(Number::from),
            any::<f64>().prop_filter_map("not of JSON", Number::from_f64),
            (-20f64..20.0).prop_filter_map("not of JSON", Number::from_f64),
            (any::<i64>(), -3i64..4).prop_map(|(n, d)| Number::from((n as f64 as i64).saturating_add(d))),
            any::<i64>().prop_filter_map("not of JSON", |n| Number::from_f64(n as f64)),
        ]
    }

    fn matches(range: &Range, n: &Number) -> bool {
        let clause = Clause::Key { key: "n".into(), condition: Condition::Range(range.clone()) };
        Filter { must: vec![clause], ..Filter::default() }.matches(json!({"n": n}).as_object().unwrap())
    }

    proptest! {
        #[test]
        fn keys_are_ordered_as_numbers(a in number(), b in number()) {
            let below = matches(&Range { lt: Some(b.clone()), ..Range::default() }, &a);
            let equal = matches(&Range { lte: Some(b.clone()), gte: Some(b.clone()), ..Range::default() }, &a);
            prop_assert_eq!((key(&a) < key(&b), key(&a) == key(&b)), (below, equal));
            prop_assert!((0..1 << BITS).contains(&key(&a)));
        }

        /// A row's numbers share a fact with a range where one of them is in it.
        #[test]
        fn ranges_hold_their_numbers(numbers in prop::collection::vec(number(), 1..4), low in number(), high in number(),
                                     kind in 0..4usize) {
            let (low, high) = (Some(low), Some(high));
            let range = match kind {
                0 => Range { gte: low, lt: high, ..Range::default() },
                1 => Range { gt: low, lte: high, ..Range::default() },
                2 => Range { gt: low, ..Range::default() },
                _ => Range { lte: high, ..Range::default() },
            };
            let blocks = within("n", &range);
            prop_assert!(blocks.len() <= 2 * 15 * LEVELS as usize + 16);
            let facts = tokens(json!({"n": numbers}).as_object().unwrap());
            let found = blocks.iter().any(|block| facts.contains(block));
            prop_assert_eq!(found, numbers.iter().any(|n| matches(&range, n)));
        }
    }

    #[test]
    fn blocks_hold_each_key_once() {
        for (low, high) in [(0, 0), (3, 2), (1, 14), (0, 15), (5, 300), (0, 4095), (15, 16), (250, 260)] {
            let mut keys: Vec<i128> = Vec::new();
            for (level, at) in cover(low, high) {
                keys.extend(at << (STEP * level)..(at + 1) << (STEP * level));
            }
            keys.sort_unstable();
            assert_eq!(keys, (low..=high).collect::<Vec<_>>(), "{low}..={high}");
        }
        assert_eq!(cover(0, (1 << BITS) - 1).len(), 8, "all numbers");
    }

    #[test]
    fn filters_are_expressions_without_their_values() {
        let of = |json: Value| expression(&Filter::try_from(json).unwrap());
        assert_eq!(of(json!({})), "(not (id == \"\"))");
        let evil = "\"]) or (id != \"";
        let text = of(json!({"must": [{"key": evil, "match": evil}], "should": [{"key": "a", "any": []}]}));
        assert!(!text.contains("or (id"), "{text}");
        assert!(text.ends_with(" and ((id == \"\")))"), "{text}");
        assert_eq!(quoted("a\"\\\0é"), r#""a\042\134\000\303\251""#);
        assert_eq!(among(["a", "b"].into_iter()), "id in [\"a\",\"b\"]");
    }
}
