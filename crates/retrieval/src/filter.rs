//! Filters on payloads: a small JSON language, evaluated here and never turned into SQL.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::error::Error;

/// How deep filters may lie in each other.
pub const MAX_DEPTH: usize = 8;
/// Most conditions and inner filters of a filter, at all depths together.
pub const MAX_CLAUSES: usize = 256;
/// Most values of all `any` lists of a filter together.
pub const MAX_VALUES: usize = 4096;
/// Most bytes of a key, and of a string that is compared with.
pub const MAX_KEY_BYTES: usize = 256;

/// Which points are wanted: all of `must`, none of `must_not`, and at least one of `should` if there is any.
///
/// ```
/// # use occlude_retrieval::Filter;
/// let filter: Filter = serde_json::from_str(r#"{
///     "must": [{"key": "class", "match": "dress"}, {"key": "price", "range": {"gte": 3, "lt": 9}}],
///     "must_not": [{"key": "tags", "any": ["sold", "hidden"]}],
///     "should": [{"key": "shop.country", "exists": true}, {"must": [{"key": "stock", "match": 0}]}]
/// }"#).unwrap();
/// # let of = |json: &str| filter.matches(&serde_json::from_str(json).unwrap());
/// # assert!(of(r#"{"class": "dress", "price": 3, "stock": 0}"#) && !of(r#"{"class": "dress", "price": 3}"#));
/// ```
///
/// A key is a path into nested objects, its parts separated by dots. Arrays on the way and at its end are looked
/// into: a condition holds if it does for any value that the path leads to. Numbers are equal if their values are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct Filter {
    /// All of them hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub must: Vec<Clause>,
    /// None of them holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub must_not: Vec<Clause>,
    /// One of them holds, if there is any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub should: Vec<Clause>,
}

/// A part of a filter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Clause {
    /// A filter of its own.
    Filter(Filter),
    /// What a key's values are to be.
    Key {
        /// Path into the payload, with dots between its parts.
        key: String,
        /// What is asked of the values.
        #[serde(flatten)]
        condition: Condition,
    },
}

/// What is asked of a key's values.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// One of them is this string, number or truth value.
    Match(Value),
    /// One of them is one of these.
    Any(Vec<Value>),
    /// One of them is a number in this range.
    Range(Range),
    /// There is one other than `null`, or there is none.
    Exists(bool),
}

/// Bounds of a number; those that are there all hold. Numbers are compared by their exact values: no integer is rounded.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Range {
    /// Larger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gt: Option<Number>,
    /// Larger or equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gte: Option<Number>,
    /// Smaller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lt: Option<Number>,
    /// Smaller or equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lte: Option<Number>,
}

impl Filter {
    /// Whether it matches every payload.
    pub fn is_empty(&self) -> bool {
        self.must.is_empty() && self.must_not.is_empty() && self.should.is_empty()
    }

    /// Whether it matches a payload.
    pub fn matches(&self, payload: &Map<String, Value>) -> bool {
        self.must.iter().all(|c| c.matches(payload))
            && !self.must_not.iter().any(|c| c.matches(payload))
            && (self.should.is_empty() || self.should.iter().any(|c| c.matches(payload)))
    }
}

impl Clause {
    fn matches(&self, payload: &Map<String, Value>) -> bool {
        match self {
            Self::Filter(filter) => filter.matches(payload),
            Self::Key { key, condition } => condition.holds(key, payload),
        }
    }
}

impl Condition {
    fn holds(&self, key: &str, payload: &Map<String, Value>) -> bool {
        match self {
            Self::Match(wanted) => any_below(payload, key, &|v| equal(v, wanted)),
            Self::Any(wanted) => any_below(payload, key, &|v| wanted.iter().any(|w| equal(v, w))),
            Self::Range(range) => {
                any_below(payload, key, &|v| matches!(v, Value::Number(n) if range.contains(n)))
            }
            Self::Exists(wanted) => any_below(payload, key, &|v| !v.is_null()) == *wanted,
        }
    }
}

impl Range {
    fn contains(&self, number: &Number) -> bool {
        let holds = |bound: &Option<Number>, test: fn(Ordering) -> bool| match bound {
            Some(bound) => compare(number, bound).is_some_and(test),
            None => true,
        };
        holds(&self.gt, Ordering::is_gt)
            && holds(&self.gte, Ordering::is_ge)
            && holds(&self.lt, Ordering::is_lt)
            && holds(&self.lte, Ordering::is_le)
    }
}

/// Whether `test` holds for any value that `path` leads to.
fn any_below(object: &Map<String, Value>, path: &str, test: &dyn Fn(&Value) -> bool) -> bool {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    object.get(first).is_some_and(|value| any_in(value, rest, test))
}

fn any_in(value: &Value, path: Option<&str>, test: &dyn Fn(&Value) -> bool) -> bool {
    match (value, path) {
        (Value::Array(items), _) => items.iter().any(|item| any_in(item, path, test)),
        (Value::Object(object), Some(path)) => any_below(object, path, test),
        (_, Some(_)) => false,
        (value, None) => test(value),
    }
}

/// Numbers are equal if their values are, however they are written; large integers are not rounded.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Some(Ordering::Equal),
        _ => a == b,
    }
}

/// The order of two numbers' exact values. JSON has neither NaN nor infinities, so there is always one.
fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        (Some(a), None) => integer_to_double(a, b.as_f64()?),
        (None, Some(b)) => integer_to_double(b, a.as_f64()?).map(Ordering::reverse),
        (None, None) => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

/// `integer` is one of JSON's, of at most 64 bits; a double beyond them is decided by its sign.
fn integer_to_double(integer: i128, double: f64) -> Option<Ordering> {
    if double.abs() >= 1e30 {
        return 0.0.partial_cmp(&double);
    }
    // Exact: every double below 1e30 has an integer part that an `i128` holds.
    let whole = double.trunc();
    Some(integer.cmp(&(whole as i128)).then(0.0.partial_cmp(&(double - whole))?))
}

impl TryFrom<Value> for Filter {
    type Error = Error;

    fn try_from(value: Value) -> Result<Self, Error> {
        Parser { clauses: 0, values: 0 }.filter(&value, "", 1)
    }
}

/// Counts what was taken so far.
struct Parser {
    clauses: usize,
    values: usize,
}

impl Parser {
    fn filter(&mut self, value: &Value, at: &str, depth: usize) -> Result<Filter, Error> {
        if depth > MAX_DEPTH {
            return Err(Error::Deep { what: format!("filter, at `{at}`"), limit: MAX_DEPTH });
        }
        let object = value.as_object().ok_or_else(|| bad(at, "expected an object"))?;
        let mut filter = Filter::default();
        for (name, value) in object {
            let at = join(at, name);
            let list = match name.as_str() {
                "must" => &mut filter.must,
                "must_not" => &mut filter.must_not,
                "should" => &mut filter.should,
                _ => return Err(bad(&at, "expected `must`, `must_not` or `should`")),
            };
            let clauses = value.as_array().ok_or_else(|| bad(&at, "expected a list"))?;
            for (i, clause) in clauses.iter().enumerate() {
                list.push(self.clause(clause, &format!("{at}[{i}]"), depth)?);
            }
        }
        Ok(filter)
    }

    fn clause(&mut self, value: &Value, at: &str, depth: usize) -> Result<Clause, Error> {
        self.clauses += 1;
        if self.clauses > MAX_CLAUSES {
            return Err(bad(at, format!("a filter has {MAX_CLAUSES} conditions at most")));
        }
        let object = value.as_object().ok_or_else(|| bad(at, "expected an object"))?;
        let Some(key) = object.get("key") else {
            return self.filter(value, at, depth + 1).map(Clause::Filter);
        };
        let key = key.as_str().ok_or_else(|| bad(at, "`key` is not a string"))?;
        short("`key`", key, at)?;
        let mut others = object.iter().filter(|(name, _)| *name != "key");
        let (Some((name, value)), None) = (others.next(), others.next()) else {
            return Err(bad(at, "expected one of `match`, `any`, `range` and `exists` beside `key`"));
        };
        let condition = self.condition(name, value, &join(at, name))?;
        Ok(Clause::Key { key: key.to_owned(), condition })
    }

    fn condition(&mut self, name: &str, value: &Value, at: &str) -> Result<Condition, Error> {
        match name {
            "match" => self.scalar(value, at).map(Condition::Match),
            "any" => {
                let values = value.as_array().ok_or_else(|| bad(at, "expected a list"))?;
                let values = values.iter().enumerate().map(|(i, v)| self.scalar(v, &format!("{at}[{i}]")));
                values.collect::<Result<_, _>>().map(Condition::Any)
            }
            "range" => range(value, at).map(Condition::Range),
            "exists" => {
                value.as_bool().map(Condition::Exists).ok_or_else(|| bad(at, "expected `true` or `false`"))
            }
            _ => Err(bad(at, "expected `match`, `any`, `range` or `exists`")),
        }
    }

    fn scalar(&mut self, value: &Value, at: &str) -> Result<Value, Error> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(bad(at, format!("a filter has {MAX_VALUES} values at most")));
        }
        match value {
            Value::String(text) => short("the string", text, at)?,
            Value::Number(_) | Value::Bool(_) => {}
            _ => return Err(bad(at, "expected a string, a number or a boolean")),
        }
        Ok(value.clone())
    }
}

fn range(value: &Value, at: &str) -> Result<Range, Error> {
    let object = value.as_object().ok_or_else(|| bad(at, "expected an object"))?;
    let mut range = Range::default();
    for (name, value) in object {
        let at = join(at, name);
        let bound = match name.as_str() {
            "gt" => &mut range.gt,
            "gte" => &mut range.gte,
            "lt" => &mut range.lt,
            "lte" => &mut range.lte,
            _ => return Err(bad(&at, "expected `gt`, `gte`, `lt` or `lte`")),
        };
        let number = value.as_number().cloned();
        *bound = Some(number.ok_or_else(|| bad(&at, "expected a number"))?);
    }
    if object.is_empty() { Err(bad(at, "expected a bound")) } else { Ok(range) }
}

fn short(what: &str, text: &str, at: &str) -> Result<(), Error> {
    if (1..=MAX_KEY_BYTES).contains(&text.len()) || (text.is_empty() && what != "`key`") {
        return Ok(());
    }
    Err(bad(at, format!("{what} has {} bytes, {MAX_KEY_BYTES} at most", text.len())))
}

fn join(at: &str, name: &str) -> String {
    let name: String = name.chars().take(32).collect();
    if at.is_empty() { name } else { format!("{at}.{name}") }
}

fn bad(at: &str, reason: impl Into<String>) -> Error {
    Error::Filter { at: at.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests;
