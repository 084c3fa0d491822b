//! Readers and a writer at once.

use std::sync::atomic::{AtomicBool, Ordering};

use occlude_retrieval::{Point, Query};
use serde_json::json;

use crate::tools::*;

of_engines_with_transactions!(searches_go_on_while_points_are_replaced);

/// A batch is a hundred points of one class, in one direction; batches alternate between two. Every search of a
/// class sees as many as it asks for, whatever is replaced meanwhile, and never both states of a point.
fn searches_go_on_while_points_are_replaced(home: &Home) {
    let store = home.approximate();
    store.create_collection("c", &spec(4)).unwrap();
    let batch = |n: usize| -> Vec<Point> {
        let sign = if n.is_multiple_of(2) { 1.0 } else { -1.0 };
        (0..100)
            .map(|i| point(&format!("{i}"), &[sign, i as f32 / 100.0, 0.1, 0.2], json!({"sign": sign})))
            .collect()
    };
    store.upsert("c", PRINT, &batch(0)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..60 {
                store.upsert("c", PRINT, &batch(n)).unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                store.maintain(&|| !over.load(Ordering::Relaxed)).unwrap();
            }
        });
        for _ in 0..3 {
            scope.spawn(|| {
                let mut seen = 0;
                while !over.load(Ordering::Relaxed) || seen == 0 {
                    let with = ALL;
                    let hits = store.search(
                        "c",
                        PRINT,
                        &Query { with, ..Query::vector(vec![1.0, 0.3, 0.1, 0.2], 100) },
                    );
                    let hits = hits.unwrap();
                    assert_eq!(hits.len(), 100, "a point that is replaced is there all along");
                    let mut names: Vec<_> = hits.iter().map(|h| h.id.clone()).collect();
                    names.sort();
                    names.dedup();
                    assert_eq!(names.len(), hits.len(), "a point is there once");
                    for hit in &hits {
                        let sign = hit.payload.as_ref().unwrap()["sign"].as_f64().unwrap();
                        assert_eq!(sign > 0.0, hit.vector.as_ref().unwrap()[0] > 0.0, "of one state");
                    }
                    assert_eq!(store.count("c", None).unwrap(), 100);
                    // a filter that every state of every point matches, and that nobody has asked before
                    let filter = filter(json!({"must_not": [{"key": "sign", "match": seen + 7}]}));
                    assert_eq!(store.count("c", Some(&filter)).unwrap(), 100, "a point is there all along");
                    let query =
                        Query { filter: Some(filter), ..Query::vector(vec![1.0, 0.3, 0.1, 0.2], 100) };
                    assert_eq!(store.search("c", PRINT, &query).unwrap().len(), 100);
                    let all = store
                        .scroll("c", &occlude_retrieval::Page { limit: 999, ..Default::default() })
                        .unwrap();
                    let first = &all[0].payload;
                    assert!(all.len() == 100 && all.iter().all(|r| r.payload == *first), "a part of a batch");
                    seen += 1;
                }
            });
        }
    });
    let hits = store.search("c", PRINT, &Query::vector(vec![-1.0, 0.0, 0.1, 0.2], 100)).unwrap();
    assert_eq!(hits.len(), 100);
    assert!(hits.iter().all(|h| h.score > 0.0));
}
