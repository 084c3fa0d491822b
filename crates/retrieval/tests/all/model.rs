//! Random operations against a map, with the store closed and opened in between.

use std::collections::BTreeMap;

use occlude_retrieval::{Engine, Page, Point, Query, With};
use proptest::prelude::*;
use serde_json::json;

use crate::tools::*;

const DIM: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Upsert(Vec<(u8, [i8; DIM], u8)>),
    Delete(Vec<u8>),
    DeleteWhere(u8),
    Search { target: [i8; DIM], k: usize, class: Option<u8>, exact: bool },
    SearchById { id: u8, k: usize },
    Maintain,
    Reopen,
}

fn vectors() -> impl Strategy<Value = [i8; DIM]> {
    prop::array::uniform3(-3i8..4).prop_filter("no direction", |v| *v != [0; DIM])
}

fn steps() -> impl Strategy<Value = Step> {
    let ids = || 0u8..20;
    prop_oneof![
        6 => prop::collection::vec((ids(), vectors(), 0u8..3), 0..8).prop_map(Step::Upsert),
        2 => prop::collection::vec(ids(), 0..4).prop_map(Step::Delete),
        1 => (0u8..3).prop_map(Step::DeleteWhere),
        5 => (vectors(), 1usize..9, prop::option::of(0u8..3), any::<bool>())
            .prop_map(|(target, k, class, exact)| Step::Search { target, k, class, exact }),
        1 => (ids(), 1usize..5).prop_map(|(id, k)| Step::SearchById { id, k }),
        1 => Just(Step::Maintain),
        1 => Just(Step::Reopen),
    ]
}

fn floats(vector: [i8; DIM]) -> Vec<f32> {
    vector.iter().map(|v| f32::from(*v)).collect()
}

/// Id to vector and class.
type Model = BTreeMap<String, (Vec<f32>, u8)>;

fn expected(model: &Model, target: &[f32], k: usize, keep: impl Fn(&str, u8) -> bool) -> Vec<(String, f32)> {
    let score = |v: &[f32]| -> f32 { v.iter().zip(target).map(|(a, b)| a * b).sum() };
    let kept = model.iter().filter(|(id, (_, class))| keep(id, *class));
    let mut all: Vec<_> = kept.map(|(id, (v, _))| (id.clone(), score(v).clamp(-1.0, 1.0))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(k);
    all
}

fn check(found: &[occlude_retrieval::Hit], expected: &[(String, f32)], model: &Model) {
    assert_eq!(found.len(), expected.len());
    for (hit, (_, score)) in found.iter().zip(expected) {
        assert!((hit.score - score).abs() < 1e-5, "{found:?} {expected:?}");
        let class = model[&hit.id].1;
        assert_eq!(hit.payload.as_ref().unwrap()["class"], json!(class));
    }
    assert!(
        found.windows(2).all(|w| w[0].score > w[1].score || w[0].id < w[1].id || w[0].score == 1.0),
        "{found:?}"
    );
}

fn class(class: u8) -> occlude_retrieval::Filter {
    filter(json!({"must": [{"key": "class", "match": class}]}))
}

fn take(store: &dyn Engine, model: &mut Model, step: &Step) {
    match step {
        Step::Upsert(points) => {
            let of = |(id, v, class): &(u8, [i8; DIM], u8)| {
                point(&format!("p{id}"), &floats(*v), json!({"class": class}))
            };
            let points: Vec<Point> = points.iter().map(of).collect();
            let before = model.len();
            for Point { id, vector, payload } in &points {
                model.insert(id.clone(), (unit(vector), payload["class"].as_u64().unwrap() as u8));
            }
            let done = store.upsert("c", PRINT, &points).unwrap();
            assert_eq!(done.added, model.len() - before);
        }
        Step::Delete(ids) => {
            let ids: Vec<String> = ids.iter().map(|id| format!("p{id}")).collect();
            let before = model.len();
            ids.iter().for_each(|id| drop(model.remove(id)));
            assert_eq!(store.delete("c", &ids).unwrap(), before - model.len());
        }
        Step::DeleteWhere(wanted) => {
            let before = model.len();
            model.retain(|_, (_, class)| class != wanted);
            assert_eq!(store.delete_where("c", &class(*wanted)).unwrap(), before - model.len());
        }
        Step::Search { target, k, class: wanted, exact } => {
            let query =
                Query { filter: wanted.map(class), exact: *exact, ..Query::vector(floats(*target), *k) };
            let expected = expected(model, &unit(&floats(*target)), *k, |_, c| wanted.is_none_or(|w| w == c));
            check(&store.search("c", PRINT, &query).unwrap(), &expected, model);
        }
        Step::SearchById { id, k } => {
            let id = format!("p{id}");
            let found = store.search("c", PRINT, &Query::id(&id, *k));
            match model.get(&id) {
                Some((vector, _)) => {
                    check(&found.unwrap(), &expected(model, vector, *k, |i, _| i != id), model);
                }
                None => assert!(found.is_err()),
            }
        }
        Step::Maintain => drop(store.maintain(&|| true).unwrap()),
        Step::Reopen => {}
    }
}

fn same(store: &dyn Engine, model: &Model) {
    assert_eq!(store.count("c", None).unwrap(), model.len());
    for wanted in 0..3 {
        let expected = model.values().filter(|(_, c)| *c == wanted).count();
        assert_eq!(store.count("c", Some(&class(wanted))).unwrap(), expected);
    }
    let page = Page { limit: 1000, with: With { vector: true, payload: true }, ..Page::default() };
    let records = store.scroll("c", &page).unwrap();
    assert!(records.iter().map(|r| &r.id).eq(model.keys()));
    for (record, (vector, class)) in records.iter().zip(model.values()) {
        assert_eq!(record.vector.as_ref(), Some(vector));
        assert_eq!(record.payload.as_ref().unwrap()["class"], json!(class));
    }
}

/// Random steps on a new collection, each followed by a look at all of it.
fn is_a_map(home: &Home, steps: &[Step]) {
    let mut store = home.approximate();
    store.create_collection("c", &spec(DIM)).unwrap();
    let mut model = Model::new();
    for step in steps {
        if matches!(step, Step::Reopen) {
            drop(store);
            store = home.approximate();
        }
        take(&*store, &mut model, step);
        same(&*store, &model);
    }
}

proptest! {
    // every case syncs files some dozens of times
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_a_map(steps in prop::collection::vec(steps(), 1..40)) {
        is_a_map(&Home::folder(), &steps);
    }
}

#[cfg(feature = "postgres")]
proptest! {
    // every case makes tables, and asks over a socket
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_database_is_a_map(steps in prop::collection::vec(steps(), 1..40)) {
        let Some(cluster) = crate::database::shared() else { return Ok(()) };
        is_a_map(&Home::database(cluster.url()), &steps);
    }
}
