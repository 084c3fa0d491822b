//! Answers that are kept: the same file costs no run of the model, and has the same bits.

use occlude_serve::{Limits, app};
use serde_json::Value;

use crate::common::*;
use crate::fake::Fake;

/// An answer without the id of its request.
fn results(answer: &Answer) -> Value {
    answer.json()["results"].clone()
}

#[tokio::test]
async fn the_same_file_is_encoded_once() {
    let limits = Limits { cache_bytes: 1 << 20, ..Limits::default() };
    let state = fake_state(&limits, vec![Fake::default()]);
    let app = app(state.clone());
    let encoded = || state.metrics().batches().iter().map(|(size, n)| *size as u64 * n).sum::<u64>();
    let picture = png_of(60, 40, &ramp(60, 40));
    let first = post(&app, "/v1/analyze", &[], picture.clone()).await;
    assert_eq!(encoded(), 1);
    for path in ["/v1/analyze", "/v1/embed", "/v1/saliency"] {
        let again = post(&app, path, &[], picture.clone()).await;
        let (again, first) = (results(&again), results(&first));
        for key in ["embedding", "saliency", "width", "format", "notes"] {
            assert!(again[0][key].is_null() || again[0][key] == first[0][key], "{path}: {key}");
        }
    }
    let whole = post(&app, "/v1/analyze", &[], picture.clone()).await;
    assert_eq!((results(&whole), encoded()), (results(&first), 1));
    // Everything else is looked at anew, once.
    let other = png(60, 40, [1, 2, 3]);
    for (i, (path, file)) in [
        ("/v1/embed", &other),
        ("/v1/embed?window=whole", &picture),
        ("/v1/saliency?window=whole&mirror=true", &picture),
        ("/v1/saliency?refine=true", &picture),
    ]
    .into_iter()
    .enumerate()
    {
        let before = encoded();
        assert_eq!(post(&app, path, &[], file.clone()).await.status.as_u16(), 200);
        assert!(encoded() > before, "{path}");
        let before = encoded();
        post(&app, path, &[], file.clone()).await;
        assert_eq!(encoded() > before, i == 3, "{path}: refining needs the pixels");
    }
    let metrics = String::from_utf8(get(&app, "/metrics").await.bytes).unwrap();
    for line in ["result=\"hit\"} 7", "result=\"miss\"} 4"] {
        assert!(
            metrics.contains(&format!("occlude_cache_lookups_total{{model=\"fake\",{line}")),
            "{metrics}"
        );
    }
    let stats = get(&app, "/v2/models/fake/stats").await.json();
    let sums = &stats["model_stats"][0]["inference_stats"];
    assert_eq!((&sums["cache_hit"]["count"], &sums["cache_miss"]["count"]), (&7.into(), &4.into()));
    // A broken picture is none the better for being known.
    for _ in 0..2 {
        let broken = post(&app, "/v1/embed", &[], picture[..picture.len() / 2].to_vec()).await;
        assert_eq!(broken.code(), "broken_image");
    }
}

#[tokio::test]
async fn a_replaced_model_answers_for_itself() {
    let limits = Limits { cache_bytes: 1 << 20, ..Limits::default() };
    let state = fake_state(&limits, vec![Fake::default()]);
    let app = app(state.clone());
    let encoded = || state.metrics().batches().iter().map(|(size, n)| *size as u64 * n).sum::<u64>();
    for (identity, runs) in [(FINGERPRINT, 1), ("another", 2), ("another", 2), (FINGERPRINT, 2)] {
        state.set_model(precise_model("fake", identity, &state, &limits));
        let answer = post(&app, "/v1/embed", &[], png(40, 40, [1, 2, 3])).await;
        assert_eq!(answer.header("x-occlude-identity"), identity);
        assert_eq!(encoded(), runs, "{identity}");
    }
}

#[tokio::test]
async fn nothing_is_kept_by_default() {
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    let app = app(state.clone());
    for runs in 1..3u64 {
        post(&app, "/v1/embed", &[], png(40, 40, [1, 2, 3])).await;
        assert_eq!(state.metrics().batches(), [(1, runs)]);
    }
}
