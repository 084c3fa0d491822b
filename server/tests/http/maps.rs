//! Windows, mirror images, refined maps and the choice of a map: held to an independent computation (`maps.py`), and
//! alike on all ways into the server.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use occlude_preprocess::{Rgb, decode};
use occlude_serve::encoder::{LoadError, load};
use occlude_serve::{AppState, Encode, Expected, Limits, MapRule, Model, ModelInfo, app};
use serde_json::{Value, json};

use crate::common::*;
use crate::fake::Fake;

/// Largest difference of embeddings and grids, as of `onnx.rs`: the same runtime on the same pixels.
const TOLERANCE: f64 = 1e-4;
/// Likewise of thresholds of refined maps, in shares of the map's range: single precision against double.
const REFINED: f64 = 2e-3;
/// Pixels that may be on the other side of a refined threshold, by rounding, and the specks that come and go with them.
const OTHER: f64 = 0.03;

/// A disk and a bar on a sloping ground with some texture, nothing of it symmetric.
fn scene(width: u32, height: u32) -> Vec<u8> {
    let pixel = |i: u32| {
        let (x, y) = (f64::from(i % width) / f64::from(width), f64::from(i / width) / f64::from(height));
        let noise = f64::from(i.wrapping_mul(2_654_435_761) >> 28);
        let disk = (x - 0.35).powi(2) + (y - 0.4).powi(2) < 0.05;
        let bar = (0.7..0.8).contains(&x) && y > 0.5;
        let colour = match (disk, bar) {
            (true, _) => [220.0, 90.0, 30.0],
            (_, true) => [40.0, 190.0, 210.0],
            _ => [60.0 + 90.0 * x, 80.0 + 50.0 * y, 70.0],
        };
        colour.map(|c| (c + noise) as u8)
    };
    (0..width * height).flat_map(pixel).collect()
}

/// What Python makes of a picture, by parameters.
fn independent(model: &Path, picture: &[u8]) -> BTreeMap<String, Value> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture.png");
    std::fs::write(&path, picture).unwrap();
    let python =
        std::env::var("OCCLUDE_PYTHON").expect("set by `.cargo/config.toml` after `cargo xtask setup`");
    let output =
        Command::new(python).args(["-c", include_str!("maps.py")]).args([model, &path]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn close(got: &Value, expected: &Value, tolerance: f64, what: &str) {
    let (got, expected) = (floats(got), floats(expected));
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(&expected) {
        let bound = tolerance * f64::from(expected.abs()).max(1.0);
        assert!(f64::from((got - expected).abs()) <= bound, "{what}: {got} {expected}");
    }
}

/// The pixels of a mask in an answer, from both of its forms.
fn mask(saliency: &Value) -> Rgb {
    use base64::Engine;
    let png = saliency["mask"]["png"].as_str().unwrap();
    let png = base64::engine::general_purpose::STANDARD.decode(png).unwrap();
    let image = decode(&png, &Default::default()).unwrap().image;
    let rle = saliency["mask"]["rle"]["counts"].as_str().unwrap();
    let runs = occlude_saliency::rle::decode(rle, image.height as usize, image.width as usize).unwrap();
    assert!(image.data.chunks(3).map(|p| p[0] == 255).eq(runs.cells().iter().copied()), "run lengths");
    image
}

async fn result(app: &Router, uri: &str, picture: &[u8]) -> Value {
    let answer = post(app, uri, &[], picture.to_vec()).await;
    assert_eq!(answer.status, StatusCode::OK, "{uri}: {}", String::from_utf8_lossy(&answer.bytes));
    answer.json()["results"][0].clone()
}

fn compare(result: &Value, expected: &Value, picture: &Rgb, refine: bool, what: &str) {
    let saliency = &result["saliency"];
    close(&result["embedding"], &expected["embedding"], TOLERANCE, what);
    close(&saliency["grid"]["values"], &expected["grid"], TOLERANCE, what);
    let size = [&saliency["grid"]["height"], &saliency["grid"]["width"]];
    assert_eq!(size, [&expected["size"][0], &expected["size"][1]], "{what}");
    assert_eq!(saliency["deviations"], expected["deviations"], "{what}");
    assert_eq!(saliency.get("confidence"), expected.get("confidence"), "{what}");
    let crop = &saliency["crop"];
    close(&json!([crop["x"], crop["y"], crop["width"], crop["height"]]), &expected["crop"], 0.006, what);
    let grid = floats(&expected["grid"]);
    let span = grid.iter().fold(f32::MIN, |a, b| a.max(*b)) - grid.iter().fold(f32::MAX, |a, b| a.min(*b));
    let (got, wanted) = (saliency["threshold"].as_f64().unwrap(), expected["threshold"].as_f64().unwrap());
    let bound = if refine { REFINED * f64::from(span) } else { TOLERANCE * wanted.abs().max(1.0) };
    assert!((got - wanted).abs() <= bound, "{what}: threshold {got} {wanted}");
    let mask = mask(saliency);
    assert_eq!((mask.width, mask.height), (picture.width, picture.height), "of the original's pixels");
    let wanted = expected["mask"].as_str().unwrap().bytes().map(|b| b == b'#');
    let differs = mask.data.chunks(3).zip(wanted).filter(|(p, w)| (p[0] == 255) != *w).count();
    let share = differs as f64 / f64::from(mask.width * mask.height);
    assert!(share <= if refine { OTHER } else { 0.0 }, "{what}: {share} of the mask's pixels differ");
}

#[tokio::test]
async fn answers_are_what_python_computes() {
    let mut confidences = Vec::new();
    for name in ["tiny.onnx", "tiny-uint8.onnx", "tiny-border.onnx"] {
        let app = app(onnx_state(name));
        for (width, height) in [(150, 100), (61, 130), (310, 50)] {
            let data = scene(width, height);
            let (picture, pixels) = (png_of(width, height, &data), Rgb { width, height, data });
            let expected = independent(&fixture(name), &picture);
            assert_eq!(expected.len(), 16, "{name}");
            for (query, expected) in expected {
                let what = format!("{name} {width}x{height} {query}");
                let got = result(&app, &format!("/v1/analyze?{query}"), &picture).await;
                compare(&got, &expected, &pixels, query.contains("refine=true"), &what);
                confidences.extend(expected["confidence"].as_f64());
            }
        }
    }
    assert!(confidences.iter().any(|c| *c < 1.0) && confidences.iter().all(|c| (0.0..=1.0).contains(c)));
}

/// Parameters of the address with a plain body and with JSON, and fields of a form: the same answer, and the arrays and drawings that
/// belong to it.
#[tokio::test]
async fn every_way_in_is_looked_at_alike() {
    let app = app(onnx_state("tiny-border.onnx"));
    let picture = png_of(150, 100, &scene(150, 100));
    let told = result(&app, "/v1/analyze?window=whole&mirror=true&refine=true", &picture).await;
    let field = |name: &str| format!("content-disposition: form-data; name=\"{name}\"");
    let file = "content-disposition: form-data; name=\"file\"; filename=\"a.png\"";
    let (window, mirror, refine) = (field("window"), field("mirror"), field("refine"));
    let parts: [(&str, &[u8]); 4] =
        [(&window, b"whole"), (file, &picture), (&mirror, b"true"), (&refine, b"true")];
    let (kind, body) = form(&parts);
    let sent = post(&app, "/v1/analyze", &[("content-type", &kind)], body).await.json();
    assert_eq!(sent["results"][0]["saliency"], told["saliency"], "a form");
    assert_eq!(sent["results"][0]["embedding"], told["embedding"], "a form");
    let body = json!({ "images": [base64(&png(9, 9, [1, 2, 3])), base64(&picture)] }).to_string();
    let uri = "/v1/analyze?window=whole&mirror=true&refine=true";
    let sent = post(&app, uri, &[("content-type", "application/json")], body).await.json();
    close(&sent["results"][1]["embedding"], &told["embedding"], TOLERANCE, "JSON");
    close(
        &sent["results"][1]["saliency"]["grid"]["values"],
        &told["saliency"]["grid"]["values"],
        TOLERANCE,
        "JSON",
    );
    assert_eq!(sent["results"][1]["saliency"]["box"], told["saliency"]["box"], "JSON");

    let alone = result(&app, "/v1/saliency?window=whole&mirror=true&refine=true", &picture).await;
    assert_eq!(alone["saliency"], told["saliency"]);
    let embedding = result(&app, "/v1/embed?window=whole", &picture).await;
    close(&embedding["embedding"], &told["embedding"], TOLERANCE, "/v1/embed");
    let array = |values: &Value| floats(values).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let npy = post(&app, "/v1/embed?window=whole&format=npy", &[], picture.clone()).await.bytes;
    assert!(npy.ends_with(&array(&embedding["embedding"])));
    let uri = "/v1/saliency?window=whole&mirror=true&refine=true&format=npy";
    let npy = post(&app, uri, &[], picture.clone()).await.bytes;
    assert!(npy.ends_with(&array(&told["saliency"]["grid"]["values"])), "the array is the grid");

    // Drawings are of the refined map.
    let drawn = async |rest: &str| {
        let uri = format!("/v1/saliency?window=whole&mirror=true&format=png&{rest}");
        decode(&post(&app, &uri, &[], picture.clone()).await.bytes, &Default::default()).unwrap().image
    };
    assert_eq!(drawn("view=mask&refine=true").await, mask(&told["saliency"]));
    for view in ["heat", "overlay", "mask"] {
        let (fine, coarse) =
            (drawn(&format!("view={view}&refine=true")).await, drawn(&format!("view={view}")).await);
        assert_eq!((fine.width, fine.height), (coarse.width, coarse.height));
        assert_ne!(fine.data, coarse.data, "{view}");
    }
}

/// A state whose model's rule is not the sum.
fn border(sum: bool, features: bool) -> AppState {
    let limits = Limits::default();
    let state = AppState::new(limits.clone(), Expected::default());
    let rule = MapRule { rule: "border".to_owned(), stage: 4, deviations: 0.25 };
    let info = ModelInfo { rule, sum, features, ..Fake::info("fake", FINGERPRINT) };
    let encoder = Box::new(Fake::default()) as Box<dyn Encode>;
    state.set_model(Model::start(info, vec![encoder], &limits, &Arc::clone(state.metrics())));
    state
}

#[tokio::test]
async fn the_sum_is_to_be_had_where_the_model_has_it() {
    let picture = png_of(64, 64, &scene(64, 64));
    let both = app(border(true, false));
    let own = result(&both, "/v1/saliency", &picture).await["saliency"].clone();
    let sum = result(&both, "/v1/saliency?map=sum", &picture).await["saliency"].clone();
    assert_eq!(
        (&own["deviations"], &sum["deviations"]),
        (&json!(0.25), &json!(-0.6)),
        "each by its own rule"
    );
    assert_eq!((&own["grid"]["width"], &sum["grid"]["width"]), (&json!(2), &json!(4)));
    let (own, sum) = (floats(&own["grid"]["values"]), floats(&sum["grid"]["values"]));
    assert_eq!(sum[..4], [own[2], own[2], own[3], own[3]].map(|v| 2.0 * v));
    assert_eq!(result(&both, "/v1/saliency?threshold=1", &picture).await["saliency"]["deviations"], 1.0);
    assert_eq!(result(&both, "/v1/saliency?map=default", &picture).await["saliency"]["deviations"], 0.25);

    let without = app(border(false, false));
    for route in ["saliency", "analyze"] {
        let refused = post(&without, &format!("/v1/{route}?map=sum"), &[], picture.clone()).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "bad_request"), "{route}");
        let said = refused.json()["error"].to_string();
        for part in [
            "rule `border`",
            "`saliency_sum`",
            "occlude-export onnx --outputs embedding,saliency,saliency_sum",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
    // Of a model whose own rule is the sum, both are one.
    let plain = fake_app();
    let own = result(&plain, "/v1/saliency", &picture).await;
    assert_eq!(result(&plain, "/v1/saliency?map=sum", &picture).await, own);
}

#[tokio::test]
async fn embeddings_do_not_depend_on_how_the_map_is_shown() {
    let app = app(border(true, true));
    let picture = png_of(64, 64, &scene(64, 64));
    for pool in ["all", "foreground"] {
        let own = result(&app, &format!("/v1/embed?pool={pool}"), &picture).await["embedding"].clone();
        for how in ["mirror=true", "refine=true", "map=sum", "map=sum&mirror=true&refine=true"] {
            let uri = format!("/v1/analyze?pool={pool}&{how}");
            assert_eq!(result(&app, &uri, &picture).await["embedding"], own, "{uri}");
        }
        let whole = result(&app, &format!("/v1/embed?window=whole&pool={pool}"), &picture).await;
        let both = result(&app, &format!("/v1/analyze?window=whole&pool={pool}"), &picture).await;
        assert_eq!(whole["embedding"], both["embedding"]);
    }
}

#[tokio::test]
async fn confidence_is_there_with_a_mirror_image_only() {
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    let app = app(state.clone());
    let picture = png_of(64, 64, &scene(64, 64));
    let plain = result(&app, "/v1/saliency", &picture).await;
    assert_eq!(plain["saliency"].get("confidence"), None);
    assert_eq!(state.metrics().batches(), [(1, 1)]);
    // The fake's maps are mirrored where pictures are.
    let mirrored = result(&app, "/v1/saliency?mirror=true", &picture).await;
    assert_eq!(mirrored["saliency"]["confidence"], 1.0);
    assert_eq!(mirrored["saliency"]["grid"], plain["saliency"]["grid"]);
    assert_eq!(state.metrics().batches(), [(1, 1), (2, 1)], "both go in one batch");
    let nothing = result(&app, "/v1/saliency?mirror=true&threshold=50", &picture).await;
    assert_eq!(
        (&nothing["saliency"]["confidence"], &nothing["saliency"]["box"]),
        (&json!(1.0), &Value::Null)
    );
}

/// A picture of noise has neither a thousand boxes nor outlines that take minutes.
#[tokio::test]
async fn texture_is_bounded() {
    let app = fake_app();
    let noise: Vec<u8> = (0..400u32 * 300 * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let picture = png_of(400, 300, &noise);
    let start = Instant::now();
    let uri = "/v1/saliency?window=whole&refine=true&mask=polygons,rle,png&threshold=0.5";
    let found = result(&app, uri, &picture).await["saliency"].clone();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let boxes = found["boxes"].as_array().unwrap();
    assert!((1..=512).contains(&boxes.len()), "{}", boxes.len());
    assert_eq!(found["box"]["x"], boxes[0]["x"]);
}

#[tokio::test]
async fn strange_values_and_routes_without_the_parameters_are_refused() {
    let app = fake_app();
    let picture = png(40, 40, [200, 20, 20]);
    for uri in [
        "/v1/saliency?window=half",
        "/v1/embed?window=1",
        "/v1/saliency?mirror=1",
        "/v1/analyze?refine=yes",
        "/v1/analyze?map=border",
        "/v1/embed?mirror=true",
        "/v1/embed?refine=true",
        "/v1/embed?map=sum",
        "/v1/search?window=whole",
        "/v1/saliency?k=3",
        "/v1/saliency?pool=all",
    ] {
        let answer = post(&app, uri, &[], picture.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "bad_request"), "{uri}");
    }
}

#[tokio::test]
async fn the_document_has_what_a_route_takes_and_nothing_else() {
    let app = fake_app();
    let document = get(&app, "/openapi.json").await.json();
    let names = |route: &str| {
        let parameters = document["paths"][route]["post"]["parameters"].as_array().unwrap();
        let mut names: Vec<_> = parameters.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names("/v1/embed"), ["format", "model", "pool", "threshold", "window"]);
    let saliency = [
        "format",
        "map",
        "mask",
        "max_side",
        "mirror",
        "model",
        "opacity",
        "refine",
        "threshold",
        "view",
        "window",
    ];
    assert_eq!(names("/v1/saliency"), saliency);
    let analyze = [&saliency[..], &["k", "pool"]].concat();
    assert!(analyze.iter().all(|name| names("/v1/analyze").contains(&(*name).to_owned())));
    assert_eq!(names("/v1/analyze").len(), analyze.len());
    assert_eq!(names("/v1/search"), ["k", "model"]);
}

#[tokio::test]
async fn models_say_how_their_maps_are_made() {
    for (name, rule, sum) in [
        ("tiny.onnx", json!({"rule": "sum", "stage": 5, "deviations": -0.6}), false),
        ("tiny-border.onnx", json!({"rule": "border", "stage": 4, "deviations": 0.25}), true),
    ] {
        let app = app(onnx_state(name));
        let listed = get(&app, "/v1/models").await.json()["data"][0].clone();
        let ready = get(&app, "/readyz").await.json()["models"][0].clone();
        for told in [listed, ready] {
            assert_eq!((&told["saliency"], &told["saliency_sum"]), (&rule, &json!(sum)), "{name}");
        }
    }
    let refused = load(&fixture("bad-rule.onnx"), &options()).err().expect("its stage is 9");
    assert!(matches!(refused, LoadError::Rule { .. }));
    let said = refused.to_string();
    for part in ["bad-rule.onnx", "metadata `saliency`", "`stage` is 9: expected 2 to 5", "hint: "] {
        assert!(said.contains(part), "{said}");
    }
}
