use proptest::prelude::*;
use serde_json::json;

use super::*;

fn filter(value: Value) -> Filter {
    Filter::try_from(value).unwrap()
}

fn why(value: Value) -> String {
    Filter::try_from(value).unwrap_err().to_string()
}

fn matches(condition: Value, payload: &Value) -> bool {
    filter(Value::Object(Map::from_iter([("must".to_owned(), Value::Array(vec![condition]))])))
        .matches(payload.as_object().expect("an object"))
}

#[test]
fn conditions() {
    let class = || json!({"key": "class", "match": "dress"});
    assert!(matches(class(), &json!({"class": "dress"})));
    assert!(matches(class(), &json!({"class": ["coat", "dress"]})), "any element");
    assert!(!matches(class(), &json!({"class": "Dress"})) && !matches(class(), &json!({})));
    let price = || json!({"key": "price", "range": {"gte": 3, "lt": 9}});
    for (value, inside) in [(json!(3), true), (json!(8.999), true), (json!(9), false), (json!("5"), false)] {
        assert_eq!(matches(price(), &json!({"price": value})), inside, "{value}");
    }
    assert!(matches(json!({"key": "p", "range": {"gt": 1, "lte": 2}}), &json!({"p": 2})));
    assert!(!matches(json!({"key": "p", "range": {"gt": 1, "lte": 2}}), &json!({"p": 1})));
    let tags = || json!({"key": "tags", "any": ["a", 2, true]});
    for (value, found) in
        [(json!(["x", "a"]), true), (json!(2.0), true), (json!(true), true), (json!("2"), false)]
    {
        assert_eq!(matches(tags(), &json!({"tags": value})), found, "{value}");
    }
    assert!(!matches(json!({"key": "tags", "any": []}), &json!({"tags": "a"})));
}

#[test]
fn what_exists() {
    let there = |payload: Value| matches(json!({"key": "a.b", "exists": true}), &payload);
    for (payload, expected) in [
        (json!({"a": {"b": false}}), true),
        (json!({"a": {"b": null}}), false),
        (json!({"a": {"b": []}}), false),
        (json!({"a": {"b": {}}}), true),
        (json!({"a": [{"c": 1}, {"b": 1}]}), true),
        (json!({"a": 1}), false),
        (json!({"a.b": 1}), false),
    ] {
        assert_eq!(there(payload.clone()), expected, "{payload}");
        assert_ne!(matches(json!({"key": "a.b", "exists": false}), &payload), expected, "{payload}");
    }
}

#[test]
fn numbers_are_equal_by_value() {
    let same = |a: Value, b: Value| matches(json!({"key": "n", "match": a}), &json!({"n": b}));
    assert!(same(json!(3), json!(3.0)) && same(json!(-0.0), json!(0)) && same(json!(1e3), json!(1000)));
    assert!(!same(json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992_i64)), "not rounded");
    assert!(!same(json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992.0)));
    assert!(same(json!(u64::MAX), json!(u64::MAX)) && !same(json!(u64::MAX), json!(-1)));
}

#[test]
fn ranges_round_nothing() {
    let inside = |range: Value, n: Value| matches(json!({"key": "n", "range": range}), &json!({"n": n}));
    let (two53, next) = (json!(9_007_199_254_740_992_u64), json!(9_007_199_254_740_993_u64));
    assert!(inside(json!({"gt": two53}), next.clone()) && !inside(json!({"gt": next}), next.clone()));
    assert!(inside(json!({"lt": next}), two53.clone()) && !inside(json!({"lte": two53}), next.clone()));
    assert!(inside(json!({"gt": 9_007_199_254_740_992.0}), next.clone()), "a double as the bound");
    assert!(inside(json!({"lt": next}), json!(9_007_199_254_740_992.0)), "a double as the value");
    assert!(
        inside(json!({"lt": u64::MAX}), json!(u64::MAX - 1))
            && inside(json!({"gt": i64::MIN}), json!(i64::MIN + 1))
    );
    assert!(inside(json!({"gt": u64::MAX}), json!(18_446_744_073_709_551_616.0)), "2^64");
    assert!(inside(json!({"gt": -0.5, "lt": 0.5}), json!(0)) && !inside(json!({"gt": -0.0}), json!(0)));
    assert!(
        inside(json!({"gt": -1e300, "lt": 1e300}), json!(i64::MIN))
            && inside(json!({"gte": -3.5}), json!(-3))
    );
    assert!(!inside(json!({"gte": -3}), json!(-3.5)) && inside(json!({"lt": -3}), json!(-3.5)));
}

#[test]
fn groups() {
    let a = |v: i32| json!({"key": "a", "match": v});
    let of = |filter_: Value, v: i32| filter(filter_).matches(json!({"a": v}).as_object().unwrap());
    assert!(of(json!({}), 1) && filter(json!({"must": []})).is_empty());
    assert!(of(json!({"should": [a(1), a(2)]}), 2) && !of(json!({"should": [a(1), a(2)]}), 3));
    assert!(!of(json!({"must_not": [a(1), a(2)]}), 2) && of(json!({"must_not": [a(1), a(2)]}), 3));
    assert!(!of(json!({"must": [a(1)], "must_not": [a(1)]}), 1));
    assert!(of(json!({"must": [{"must_not": [a(1)]}, {"should": [a(2), a(3)]}]}), 3));
    assert!(!of(json!({"must": [{"must_not": [a(1)]}, {"should": [a(2), a(3)]}]}), 4));
}

#[test]
fn what_is_no_filter_is_told_with_its_place() {
    for (value, expected) in [
        (json!([]), "expected an object"),
        (json!({"musst": []}), "`musst`: expected `must`"),
        (json!({"must": {}}), "`must`: expected a list"),
        (json!({"must": [1]}), "`must[0]`: expected an object"),
        (json!({"must": [{"key": 1, "match": 1}]}), "`must[0]`: `key` is not a string"),
        (json!({"must": [{"key": "", "match": 1}]}), "`key` has 0 bytes"),
        (json!({"must": [{"key": "a"}]}), "expected one of"),
        (json!({"must": [{"key": "a", "match": 1, "any": []}]}), "expected one of"),
        (json!({"must": [{"key": "a", "like": 1}]}), "`must[0].like`: expected `match`"),
        (json!({"must": [{"key": "a", "match": null}]}), "`must[0].match`: expected a string"),
        (json!({"must": [{"key": "a", "any": ["b", {}]}]}), "`must[0].any[1]`: expected a string"),
        (json!({"must": [{"key": "a", "any": "b"}]}), "expected a list"),
        (json!({"must": [{"key": "a", "range": {}}]}), "expected a bound"),
        (json!({"must": [{"key": "a", "range": 1}]}), "expected an object"),
        (json!({"must": [{"key": "a", "range": {"le": 1}}]}), "expected `gt`"),
        (json!({"must": [{"key": "a", "range": {"lt": "1"}}]}), "`must[0].range.lt`: expected a number"),
        (json!({"must": [{"key": "a", "exists": 1}]}), "expected `true` or `false`"),
        (json!({"must": [{"should": [{"key": "a", "match": []}]}]}), "`must[0].should[0].match`"),
    ] {
        let message = why(value.clone());
        assert!(message.contains(expected), "{value}: {message}");
    }
    let through_serde = serde_json::from_str::<Filter>(r#"{"must": [1]}"#).unwrap_err();
    assert!(through_serde.to_string().contains("`must[0]`"), "{through_serde}");
}

#[test]
fn filters_are_capped() {
    let nested = |depth| (1..depth).fold(json!({}), |inner, _| json!({"must": [inner]}));
    filter(nested(MAX_DEPTH));
    assert!(why(nested(MAX_DEPTH + 1)).contains("nested deeper than 8 levels"));
    let wide = |n| json!({"should": vec![json!({"key": "a", "match": 1}); n]});
    filter(wide(MAX_CLAUSES));
    assert!(why(wide(MAX_CLAUSES + 1)).contains("conditions at most"));
    let any = |n| json!({"must": [{"key": "a", "any": vec![1; n]}]});
    filter(any(MAX_VALUES));
    assert!(why(any(MAX_VALUES + 1)).contains("values at most"));
    let key = |n| json!({"must": [{"key": "k".repeat(n), "match": "v".repeat(n)}]});
    filter(key(MAX_KEY_BYTES));
    assert!(why(key(MAX_KEY_BYTES + 1)).contains("bytes"));
    filter(json!({"must": [{"key": "a", "match": ""}]}));
}

/// Every value that the parts of a path lead to, found otherwise: all of them are collected first.
fn naive_values<'a>(value: &'a Value, parts: &[&str]) -> Vec<&'a Value> {
    if let Some(items) = value.as_array() {
        return items.iter().flat_map(|item| naive_values(item, parts)).collect();
    }
    let Some((first, rest)) = parts.split_first() else { return vec![value] };
    value.get(first).map(|inner| naive_values(inner, rest)).unwrap_or_default()
}

/// Evaluates the JSON of a filter as the documentation reads.
fn naive(filter: &Value, payload: &Value) -> bool {
    if let Some(key) = filter.get("key") {
        let parts: Vec<&str> = key.as_str().unwrap().split('.').collect();
        let values = naive_values(payload, &parts);
        let same =
            |a: &Value, b: &Value| a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64());
        if let Some(wanted) = filter.get("match") {
            return values.iter().any(|v| same(v, wanted));
        }
        if let Some(wanted) = filter.get("any") {
            return wanted.as_array().unwrap().iter().any(|w| values.iter().any(|v| same(v, w)));
        }
        if let Some(range) = filter.get("range") {
            let bound = |name: &str| range.get(name).map(|b| b.as_f64().unwrap());
            let (gt, gte) =
                (bound("gt").unwrap_or(f64::NEG_INFINITY), bound("gte").unwrap_or(f64::NEG_INFINITY));
            let (lt, lte) = (bound("lt").unwrap_or(f64::INFINITY), bound("lte").unwrap_or(f64::INFINITY));
            let mut numbers = values.iter().filter_map(|v| v.as_f64());
            return numbers.any(|n| n > gt && n >= gte && n < lt && n <= lte);
        }
        return values.iter().any(|v| !v.is_null()) == filter["exists"].as_bool().unwrap();
    }
    let empty = Vec::new();
    let list = |name: &str| filter.get(name).map_or(&empty, |l| l.as_array().unwrap()).clone();
    let (must, must_not, should) = (list("must"), list("must_not"), list("should"));
    must.iter().all(|c| naive(c, payload))
        && must_not.iter().all(|c| !naive(c, payload))
        && (should.is_empty() || !should.iter().all(|c| !naive(c, payload)))
}

fn scalars() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-2i32..3).prop_map(|n| json!(n)),
        (-4i32..5).prop_map(|n| json!(f64::from(n) / 2.0)),
        any::<bool>().prop_map(|b| json!(b)),
        "[ab]{0,1}".prop_map(|s| json!(s)),
    ]
}

/// Integers and doubles that lie close to each other, around 0 and the powers of 2 where doubles begin to round.
fn numbers() -> impl Strategy<Value = Number> {
    let bases = vec![0i128, 1 << 52, 1 << 53, 1 << 54, 1 << 62, 1 << 63, -(1 << 53), -(1 << 62), -(1 << 63)];
    let near = (prop::sample::select(bases), -3i128..4, -7i32..8, 0..3);
    near.prop_map(|(base, step, eighths, kind)| {
        let whole = base + step;
        match (kind, u64::try_from(whole), i64::try_from(whole)) {
            (0 | 1, Ok(n), _) => Number::from(n),
            (0 | 1, _, Ok(n)) => Number::from(n),
            _ => Number::from_f64(whole as f64 + f64::from(eighths) / 8.0).expect("finite"),
        }
    })
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![4 => scalars(), 1 => Just(Value::Null)].prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::hash_map("[xyz]", inner, 0..3)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn filters() -> impl Strategy<Value = Value> {
    let bounds =
        prop::collection::hash_map(prop::sample::select(vec!["gt", "gte", "lt", "lte"]), -2i32..3, 1..3);
    let condition = prop_oneof![
        scalars().prop_map(|v| ("match", v)),
        prop::collection::vec(scalars(), 0..3).prop_map(|v| ("any", Value::Array(v))),
        bounds.prop_map(|b| ("range", json!(b))),
        any::<bool>().prop_map(|b| ("exists", json!(b))),
    ];
    let leaf =
        ("[xyz](\\.[xyz]){0,2}", condition).prop_map(|(key, (name, value))| json!({"key": key, name: value}));
    let group = |inner: BoxedStrategy<Value>| {
        let list = prop::collection::vec(inner, 0..3);
        let names = prop::sample::select(vec!["must", "must_not", "should"]);
        prop::collection::hash_map(names, list, 0..4).prop_map(|m| json!(m))
    };
    group(leaf.boxed().prop_recursive(2, 16, 3, move |inner| group(inner.boxed())).boxed())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_filter_means_what_it_says(
        json in filters(),
        payload in prop::collection::hash_map("[xyz]", values(), 0..4),
    ) {
        let parsed = filter(json.clone());
        let payload: Map<String, Value> = payload.into_iter().collect();
        prop_assert_eq!(parsed.matches(&payload), naive(&json, &Value::Object(payload)));
        // and is written as it was read
        let again: Filter = serde_json::from_str(&serde_json::to_string(&parsed).unwrap()).unwrap();
        prop_assert_eq!(again, parsed);
    }

    /// Against both numbers times 2^53, where every double that is generated is a whole number.
    #[test]
    fn numbers_are_ordered_by_their_exact_values(a in numbers(), b in numbers()) {
        let scaled = |n: &Number| match n.as_i128() {
            Some(whole) => whole << 53,
            None => (n.as_f64().unwrap() * 2f64.powi(53)) as i128,
        };
        prop_assert_eq!(compare(&a, &b), Some(scaled(&a).cmp(&scaled(&b))), "{} {}", a, b);
        let bound = |name: &str| filter(json!({"must": [{"key": "n", "range": {name: b.clone()}}]}));
        let payload = Map::from_iter([("n".to_owned(), Value::Number(a.clone()))]);
        prop_assert_eq!(bound("lt").matches(&payload), scaled(&a) < scaled(&b));
        prop_assert_eq!(bound("gte").matches(&payload), scaled(&a) >= scaled(&b));
        prop_assert_eq!(equal(&Value::Number(a.clone()), &Value::Number(b.clone())), scaled(&a) == scaled(&b));
    }

    #[test]
    fn any_json_is_a_filter_or_an_error(value in values()) {
        if let Err(error) = Filter::try_from(value) {
            prop_assert!(error.to_string().starts_with("filter, at `"));
        }
    }
}
