//! Every operation, and every error but those of broken files and databases: the same of every engine.

use std::sync::Arc;

use occlude_retrieval::{
    Engine, Error, Kind, MAX_BATCH, MAX_DIM, MAX_ID_BYTES, MAX_K, MAX_PAYLOAD_BYTES, Page, Point, Query,
    Spec, Upserted, With,
};
use serde_json::json;

use crate::tools::*;

of_every_engine!(
    searches_rank_by_cosine,
    equal_scores_come_by_id,
    points_are_replaced_whole,
    points_are_deleted,
    what_a_filter_matched_is_brought_up_to_date,
    scrolling_sees_every_point_once,
    collections_come_and_go,
    everything_is_there_after_closing,
    unknown_names_are_not_found,
    vectors_of_another_model_are_refused,
    what_makes_no_sense_is_refused_and_changes_nothing,
    odd_ids_and_payloads_come_back,
    a_collection_is_made_once_for_one_model,
    vectors_of_another_precision_are_refused,
    a_collection_without_an_identity_is_adopted_once,
);

fn shop(home: &Home) -> Arc<dyn Engine> {
    let store = home.open();
    fill(&*store);
    store
}

/// Three points in the collection `shop`.
pub(crate) fn fill(store: &dyn Engine) {
    store.create_collection("shop", &spec(2)).unwrap();
    let points = [
        point("a", &[1.0, 0.0], json!({"class": "dress", "price": 3})),
        point("b", &[3.0, 4.0], json!({"class": "coat", "price": 5.5})),
        point("c", &[0.0, 2.0], json!({"class": "dress", "tags": ["new"]})),
    ];
    assert_eq!(store.upsert("shop", PRINT, &points).unwrap(), Upserted { added: 3, replaced: 0 });
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().kind()
}

fn searches_rank_by_cosine(home: &Home) {
    let store = shop(home);
    let hits = store.search("shop", PRINT, &Query::vector(vec![0.0, 0.5], 2)).unwrap();
    let seen: Vec<_> = hits.iter().map(|h| (h.id.as_str(), h.score)).collect();
    assert_eq!(seen, [("c", 1.0), ("b", 0.8)]);
    assert_eq!(hits[0].payload, Some(payload(json!({"class": "dress", "tags": ["new"]}))));
    assert_eq!(hits[0].vector, None);
    let with = With { vector: true, payload: false };
    let hits = store.search("shop", PRINT, &Query { with, ..Query::id("a", 10) }).unwrap();
    assert_eq!(hits.iter().map(|h| h.id.as_str()).collect::<Vec<_>>(), ["b", "c"], "without itself");
    assert_eq!((hits[0].vector.clone(), hits[0].payload.clone()), (Some(vec![0.6, 0.8]), None));
    let dresses = Some(filter(json!({"must": [{"key": "class", "match": "dress"}]})));
    assert_eq!(
        ids(&*store, "shop", &Query { filter: dresses, ..Query::vector(vec![1.0, 1.0], 9) }),
        ["a", "c"]
    );
}

fn equal_scores_come_by_id(home: &Home) {
    let store = shop(home);
    let same: Vec<Point> =
        ["z", "b", "y", "a2"].iter().map(|id| point(id, &[-1.0, 0.0], json!({}))).collect();
    store.upsert("shop", PRINT, &same).unwrap();
    assert_eq!(ids(&*store, "shop", &Query::vector(vec![-2.0, 0.0], 3)), ["a2", "b", "y"]);
}

fn points_are_replaced_whole(home: &Home) {
    let store = shop(home);
    let again = [
        point("a", &[5.0, 5.0], json!({"x": 1})),
        point("d", &[1.0, 1.0], json!({})),
        point("a", &[0.0, -9.0], json!({"y": 2})),
    ];
    assert_eq!(store.upsert("shop", PRINT, &again).unwrap(), Upserted { added: 1, replaced: 1 });
    let records = store.get("shop", &["a".into(), "nobody".into(), "d".into()], ALL).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].payload, Some(payload(json!({"y": 2}))), "of one id the last counts");
    assert_eq!(records[0].vector, Some(vec![0.0, -1.0]));
    assert_eq!(ids(&*store, "shop", &Query::vector(vec![0.0, -1.0], 1)), ["a"]);
    assert_eq!(store.count("shop", None).unwrap(), 4);
    assert_eq!(store.upsert("shop", PRINT, &[]).unwrap(), Upserted::default());
}

fn points_are_deleted(home: &Home) {
    let store = shop(home);
    let names = ["a", "a", "nobody"].map(String::from);
    assert_eq!(store.delete("shop", &names).unwrap(), 1);
    assert_eq!(ids(&*store, "shop", &Query::vector(vec![1.0, 0.0], 9)), ["b", "c"]);
    let new = filter(json!({"must": [{"key": "tags", "any": ["new", "old"]}]}));
    assert_eq!(
        (store.delete_where("shop", &new).unwrap(), store.delete_where("shop", &new).unwrap()),
        (1, 0)
    );
    assert_eq!(store.count("shop", None).unwrap(), 1);
    assert_eq!(store.delete_where("shop", &filter(json!({}))).unwrap(), 1, "an empty filter matches all");
    assert!(ids(&*store, "shop", &Query::vector(vec![1.0, 0.0], 9)).is_empty());
}

fn what_a_filter_matched_is_brought_up_to_date(home: &Home) {
    let store = shop(home);
    let dress = filter(json!({"must": [{"key": "class", "match": "dress"}]}));
    let found = || {
        let query = Query { filter: Some(dress.clone()), ..Query::vector(vec![1.0, 0.1], 9) };
        let count = store.count("shop", Some(&dress)).unwrap();
        let found = ids(&*store, "shop", &query);
        assert_eq!(count, found.len());
        found
    };
    assert_eq!(found(), ["a", "c"]);
    store.upsert("shop", PRINT, &[point("d", &[1.0, 1.0], json!({"class": "dress"}))]).unwrap();
    assert_eq!(found(), ["a", "d", "c"]);
    store.upsert("shop", PRINT, &[point("a", &[1.0, 0.0], json!({"class": "coat"}))]).unwrap();
    assert_eq!(found(), ["d", "c"]);
    store.delete("shop", &["d".into()]).unwrap();
    assert_eq!(found(), ["c"]);
}

fn scrolling_sees_every_point_once(home: &Home) {
    let store = shop(home);
    let page = |after: Option<&str>, limit, filter| {
        let page = Page { after: after.map(String::from), limit, filter, with: With::default() };
        store.scroll("shop", &page).unwrap().into_iter().map(|r| r.id).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2, None), ["a", "b"]);
    assert_eq!(page(Some("b"), 2, None), ["c"]);
    assert_eq!(page(Some("aa"), 2, None), ["b", "c"]);
    assert!(page(Some("c"), 2, None).is_empty());
    let dress = filter(json!({"must": [{"key": "class", "match": "dress"}]}));
    assert_eq!(page(None, 1, Some(dress.clone())), ["a"]);
    assert_eq!(page(Some("a"), 1, Some(dress)), ["c"]);
}

fn collections_come_and_go(home: &Home) {
    let store = shop(home);
    let made = store.create_collection("a-2", &spec(3)).unwrap();
    assert_eq!((made.count, made.indexed, made.spec.dim), (0, 0, 3));
    assert!(made.created > 1_700_000_000);
    let names: Vec<_> = store.collections().unwrap().into_iter().map(|i| (i.name, i.count)).collect();
    assert_eq!(names, [("a-2".to_owned(), 0), ("shop".to_owned(), 3)]);
    assert_eq!(kind(store.create_collection("shop", &spec(2))), Kind::AlreadyExists);
    store.drop_collection("shop").unwrap();
    assert_eq!(kind(store.collection("shop")), Kind::NotFound);
    store.create_collection("shop", &spec(5)).unwrap();
    assert_eq!(store.count("shop", None).unwrap(), 0, "nothing is left of the one before");
}

fn everything_is_there_after_closing(home: &Home) {
    let store = shop(home);
    store.delete("shop", &["b".into()]).unwrap();
    let before =
        (store.collection("shop").unwrap(), store.get("shop", &["a".into(), "c".into()], ALL).unwrap());
    drop(store);
    let store = home.open();
    let after =
        (store.collection("shop").unwrap(), store.get("shop", &["a".into(), "c".into()], ALL).unwrap());
    assert_eq!(before, after);
    assert_eq!(ids(&*store, "shop", &Query::vector(vec![1.0, 0.0], 9)), ["a", "c"]);
}

fn unknown_names_are_not_found(home: &Home) {
    let store = shop(home);
    assert_eq!(kind(store.collection("x")), Kind::NotFound);
    assert_eq!(kind(store.drop_collection("x")), Kind::NotFound);
    assert_eq!(kind(store.upsert("x", PRINT, &[])), Kind::NotFound);
    assert_eq!(kind(store.delete("x", &[])), Kind::NotFound);
    assert_eq!(kind(store.delete_where("x", &filter(json!({})))), Kind::NotFound);
    assert_eq!(kind(store.get("x", &[], ALL)), Kind::NotFound);
    assert_eq!(kind(store.scroll("x", &Page { limit: 1, ..Page::default() })), Kind::NotFound);
    assert_eq!(kind(store.count("x", None)), Kind::NotFound);
    assert_eq!(kind(store.search("x", PRINT, &Query::vector(vec![1.0], 1))), Kind::NotFound);
    let error = store.search("shop", PRINT, &Query::id("nobody", 1)).unwrap_err();
    assert_eq!(error.to_string(), "no point `nobody` in collection `shop`");
    assert_eq!(error.kind(), Kind::NotFound);
}

fn vectors_of_another_model_are_refused(home: &Home) {
    let store = shop(home);
    let write = store.upsert("shop", "0ther", &[point("x", &[1.0, 1.0], json!({}))]).unwrap_err();
    let search = store.search("shop", "0ther", &Query::id("a", 1)).unwrap_err();
    for error in [write, search] {
        let message = error.to_string();
        assert!(message.contains("`5eed`") && message.contains("hint:"), "{message}");
        assert_eq!(error.kind(), Kind::WrongFingerprint);
    }
    assert_eq!(store.count("shop", None).unwrap(), 3);
}

fn what_makes_no_sense_is_refused_and_changes_nothing(home: &Home) {
    let store = shop(home);
    let before = store.collections().unwrap();
    for name in ["", "A", "a/b", "../x"] {
        assert_eq!(kind(store.create_collection(name, &spec(2))), Kind::Invalid, "{name}");
    }
    for spec in [
        spec(0),
        spec(MAX_DIM + 1),
        Spec { fingerprint: String::new(), ..spec(2) },
        Spec { model: "m".repeat(2000), ..spec(2) },
    ] {
        assert_eq!(kind(store.create_collection("new", &spec)), Kind::Invalid, "{spec:?}");
    }
    let good = point("good", &[1.0, 1.0], json!({}));
    for bad in [
        point("", &[1.0, 1.0], json!({})),
        point(&"i".repeat(MAX_ID_BYTES + 1), &[1.0, 1.0], json!({})),
        point("bad", &[1.0], json!({})),
        point("bad", &[0.0, 0.0], json!({})),
        point("bad", &[f32::NAN, 1.0], json!({})),
        point("bad", &[1.0, f32::INFINITY], json!({})),
        point("bad", &[1.0, 1.0], json!({"text": "x".repeat(MAX_PAYLOAD_BYTES)})),
    ] {
        let error = store.upsert("shop", PRINT, &[good.clone(), bad.clone(), good.clone()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(bad.id != "bad" || error.to_string().contains("`bad`"), "{error}");
    }
    assert_eq!(kind(store.upsert("shop", PRINT, &vec![good; MAX_BATCH + 1])), Kind::Invalid);
    for query in [
        Query::vector(vec![1.0, 1.0], 0),
        Query::vector(vec![1.0, 1.0], MAX_K + 1),
        Query::vector(vec![1.0], 1),
        Query::vector(vec![f32::NAN, 1.0], 1),
        Query::vector(vec![0.0, 0.0], 1),
    ] {
        assert_eq!(kind(store.search("shop", PRINT, &query)), Kind::Invalid, "{query:?}");
    }
    assert_eq!(kind(store.scroll("shop", &Page::default())), Kind::Invalid);
    assert_eq!(kind(store.get("shop", &vec![String::new(); MAX_BATCH + 1], ALL)), Kind::Invalid);
    assert_eq!(store.collections().unwrap(), before);
}

fn odd_ids_and_payloads_come_back(home: &Home) {
    let store = shop(home);
    let odd = ["\0", "a\0b", "é", "%", "_", "' OR 1 --", "😀", &"x".repeat(MAX_ID_BYTES)];
    let value = json!({"f": 0.1, "g": 1.7976931348623157e308, "t": 2.225073858507201e-308, "n": u64::MAX, "": null, "é": ["\0"]});
    let points: Vec<Point> = odd.iter().map(|id| point(id, &[0.1, 0.7], value.clone())).collect();
    store.upsert("shop", PRINT, &points).unwrap();
    drop(store);
    let store = home.open();
    let names = odd.map(String::from);
    let records = store.get("shop", &names, ALL).unwrap();
    assert_eq!(records.len(), odd.len());
    for (record, id) in records.iter().zip(odd) {
        assert_eq!((record.id.as_str(), &record.payload), (id, &Some(payload(value.clone()))));
    }
    let all = store.scroll("shop", &Page { limit: 99, ..Page::default() }).unwrap();
    let mut sorted: Vec<&str> = odd.into_iter().chain(["a", "b", "c"]).collect();
    sorted.sort_unstable();
    assert_eq!(all.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), sorted, "the order of bytes");
    assert_eq!(store.delete("shop", &names).unwrap(), odd.len());
}

fn a_collection_is_made_once_for_one_model(home: &Home) {
    let store = shop(home);
    let (made, new) = store.ensure_collection("once", &spec(4)).unwrap();
    assert!(new && made.spec == spec(4));
    assert_eq!(store.ensure_collection("once", &spec(4)).unwrap(), (made, false));
    let other = Spec { fingerprint: "other".to_owned(), ..spec(4) };
    let error = store.ensure_collection("once", &other).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongFingerprint, "{error}");
}

/// One checkpoint, exported twice: the fingerprint is the same, the numbers are not.
fn vectors_of_another_precision_are_refused(home: &Home) {
    let store = home.open();
    let of = |identity: &str| Spec { identity: Some(identity.to_owned()), ..spec(2) };
    store.create_collection("c", &of("fp32")).unwrap();
    let points = [point("a", &[1.0, 0.0], json!({}))];
    for maker in ["int8", PRINT] {
        assert_eq!(store.upsert("c", maker, &points).unwrap_err().kind(), Kind::WrongFingerprint, "{maker}");
        let error = store.search("c", maker, &Query::vector(vec![1.0, 0.0], 1)).unwrap_err();
        assert_eq!(error.kind(), Kind::WrongFingerprint, "{maker}");
        let message = error.to_string();
        assert!(message.contains("`fp32`") && message.contains(&format!("`{maker}`")), "{message}");
    }
    store.upsert("c", "fp32", &points).unwrap();
    let error = store.ensure_collection("c", &of("int8")).unwrap_err().to_string();
    assert!(error.contains("`fp32`") && error.contains("`int8`"), "{error}");
    assert!(store.adopt("c", &of("int8")).is_err(), "it has one");
    store.adopt("c", &of("fp32")).unwrap();
    drop(store);
    let info = home.open().collection("c").unwrap();
    assert_eq!((info.spec.identity.as_deref(), info.spec.maker()), (Some("fp32"), "fp32"));
}

/// As an older release made it: told once which model filled it, it is as others.
fn a_collection_without_an_identity_is_adopted_once(home: &Home) {
    let store = shop(home);
    let info = store.collection("shop").unwrap();
    let mine = Spec { identity: Some("fp32".to_owned()), ..info.spec };
    let error = store.ensure_collection("shop", &mine).unwrap_err();
    assert!(error.kind() == Kind::WrongFingerprint && error.to_string().contains("adopt"), "{error}");
    let points = [point("new", &[1.0, 1.0], json!({}))];
    let error = store.upsert("shop", "fp32", &points).unwrap_err().to_string();
    assert!(error.contains("adopt"), "{error}");
    let other = Spec { fingerprint: "other".to_owned(), ..mine.clone() };
    for other in [other, Spec { dim: mine.dim + 1, ..mine.clone() }] {
        assert_eq!(kind(store.adopt("shop", &other)), Kind::WrongFingerprint);
    }
    assert_eq!(store.adopt("shop", &mine).unwrap().spec, mine);
    store.upsert("shop", "fp32", &points).unwrap();
    assert!(!store.ensure_collection("shop", &mine).unwrap().1);
    drop(store);
    let info = home.open().collection("shop").unwrap();
    assert_eq!((info.spec, info.count), (mine, 4), "for good");
}
