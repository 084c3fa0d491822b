//! The routes with a fake encoder: every way to send pictures, every answer, every status.

use std::time::Duration;

use crate::common::*;
use crate::fake::{Fake, Gate};
use axum::body::Body;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use occlude_preprocess::{Preprocess, Rgb, decode};
use occlude_serve::{AppState, Expected, Gallery, Limits, Progress, app};
use serde_json::{Value, json};

pub(crate) const RED: [u8; 3] = [200, 20, 20];

/// What the fake says about a picture after the contract.
fn expected(width: u32, height: u32, pixels: Vec<u8>) -> occlude_serve::Encoded {
    Fake::answer(&Preprocess::imagenet(32).pixels(&Rgb { width, height, data: pixels }))
}

pub(crate) fn multipart(files: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, bytes) in files {
        body.extend_from_slice(
            format!("--XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n")
                .as_bytes(),
        );
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XX--\r\n");
    ("multipart/form-data; boundary=XX".to_owned(), body)
}

#[tokio::test]
async fn a_picture_comes_in_every_packing() {
    let app = fake_app();
    let picture = png_of(90, 60, &ramp(90, 60));
    let encoded = STANDARD.encode(&picture);
    let (form, form_body) = multipart(&[("a.png", &picture)]);
    let bodies: [(&str, Vec<u8>); 7] = [
        ("image/png", picture.clone()),
        ("application/octet-stream", picture.clone()),
        ("application/x-www-form-urlencoded", picture.clone()),
        (&form, form_body),
        ("application/json", json!({ "image": encoded }).to_string().into()),
        (
            "application/json",
            json!({ "images": [format!("data:image/png;base64,{encoded}")] }).to_string().into(),
        ),
        ("application/json", json!({ "images": [{"name": "a.png", "data": encoded}] }).to_string().into()),
    ];
    let want = expected(90, 60, ramp(90, 60));
    for (kind, body) in bodies {
        let answer = post(&app, "/v1/embed", &[("content-type", kind)], body).await;
        assert_eq!(answer.status, StatusCode::OK, "{kind}");
        let json = answer.json();
        let result = &json["results"][0];
        assert_eq!(floats(&result["embedding"]), want.embedding, "{kind}");
        assert_eq!(
            (&result["width"], &result["height"], &result["format"]),
            (&json!(90), &json!(60), &json!("PNG"))
        );
        assert_eq!(result["saliency"], Value::Null, "not asked for");
        assert_eq!(
            json["model"],
            json!({"name": "fake", "fingerprint": FINGERPRINT, "identity": FINGERPRINT})
        );
        assert_eq!(json["request_id"], answer.header("x-request-id"));
        assert_eq!(answer.header("x-occlude-fingerprint"), FINGERPRINT);
    }
    let bare = post(&app, "/v1/embed", &[], picture).await;
    assert_eq!(bare.status, StatusCode::OK, "no content type at all");
}

#[tokio::test]
async fn several_files_keep_their_order_and_names() {
    let app = fake_app();
    let pictures: Vec<Vec<u8>> = (0..5).map(|i| png(40, 40, [i * 50, 30, 90])).collect();
    let names = ["a.png", "b.png", "c.png", "d.png", "e.png"];
    let files: Vec<(&str, &[u8])> = names.iter().copied().zip(pictures.iter().map(Vec::as_slice)).collect();
    let (kind, body) = multipart(&files);
    let json = post(&app, "/v1/embed", &[("content-type", &kind)], body).await.json();
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 5);
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result["name"], names[i]);
        let alone = post(&app, "/v1/embed", &[], pictures[i].clone()).await.json();
        assert_eq!(
            result["embedding"], alone["results"][0]["embedding"],
            "a row of many equals the single one"
        );
    }
}

#[tokio::test]
async fn analyze_has_grid_box_mask_and_embedding() {
    let app = fake_app();
    // Twice as wide as high: the model sees the middle. Its right half is bright.
    let pixels: Vec<u8> =
        (0..200u32 * 100).flat_map(|i| if i % 200 >= 100 { [250; 3] } else { [5; 3] }).collect();
    let answer = post(&app, "/v1/analyze", &[], png_of(200, 100, &pixels)).await;
    let json = answer.json();
    let result = &json["results"][0];
    let want = expected(200, 100, pixels);
    assert_eq!(floats(&result["embedding"]), want.embedding);
    let saliency = &result["saliency"];
    assert_eq!(floats(&saliency["grid"]["values"]), want.saliency);
    assert_eq!((&saliency["grid"]["width"], &saliency["grid"]["height"]), (&json!(2), &json!(2)));
    assert_eq!(saliency["foreground_ratio"], 0.5);
    let side = |name: &str, key: &str| saliency[name][key].as_f64().unwrap();
    // imagenet(32) resizes to 37: the crop is 32/37 of the height.
    assert!((side("crop", "width") - 100.0 * 32.0 / 37.0).abs() < 0.02, "{saliency}");
    assert!(
        (side("box", "x") - 100.0).abs() < 2.0 && (side("box", "width") - 43.2).abs() < 1.0,
        "{saliency}"
    );
    assert_eq!(saliency["mask"]["rle"]["size"], json!([100, 200]));
    let counts = saliency["mask"]["rle"]["counts"].as_str().unwrap();
    let runs = occlude_saliency::rle::decode(counts, 100, 200).unwrap();
    let mask = STANDARD.decode(saliency["mask"]["png"].as_str().unwrap()).unwrap();
    let mask = decode(&mask, &Default::default()).unwrap().image;
    assert_eq!((mask.width, mask.height), (200, 100));
    let same = (0..100).all(|y| (0..200).all(|x| runs.get(y, x) == (mask.data[(y * 200 + x) * 3] == 255)));
    assert!(same, "PNG and run lengths are one mask");
    assert!(
        runs.get(50, 120) && !runs.get(50, 80) && !runs.get(50, 190),
        "right of the middle, inside the crop"
    );
    let alone = post(&app, "/v1/saliency", &[], png(64, 64, RED)).await.json();
    assert_eq!(alone["results"][0]["embedding"], Value::Null);
    assert_eq!(alone["results"][0]["saliency"]["foreground_ratio"], 1.0, "one colour: all is foreground");
}

#[tokio::test]
async fn pictures_of_the_saliency() {
    let app = fake_app();
    let accept = ("accept", "image/png");
    for (uri, size) in [
        ("/v1/saliency", (300, 200)),
        ("/v1/saliency?view=heat&max_side=30", (30, 20)),
        ("/v1/saliency?view=overlay&opacity=0.2&max_side=150", (150, 100)),
        ("/v1/analyze?view=mask&max_side=10", (300, 200)),
    ] {
        let answer = post(&app, uri, &[accept], png(300, 200, RED)).await;
        assert_eq!(answer.status, StatusCode::OK, "{uri}");
        assert_eq!(answer.header("content-type"), "image/png");
        assert_eq!(answer.header("x-occlude-fingerprint"), FINGERPRINT);
        let drawn = decode(&answer.bytes, &Default::default()).unwrap().image;
        assert_eq!((drawn.width, drawn.height), size, "{uri}");
    }
    let opaque = post(&app, "/v1/saliency?opacity=0", &[accept], png(300, 200, RED)).await;
    let drawn = decode(&opaque.bytes, &Default::default()).unwrap().image;
    assert_eq!(drawn.data[(100 * 300 + 150) * 3..][..3], RED, "without opacity the picture is itself");
}

#[tokio::test]
async fn notes_say_what_was_done_to_the_picture() {
    let mut transparent = Vec::new();
    let mut encoder = png::Encoder::new(&mut transparent, 2, 2);
    encoder.set_color(png::ColorType::Rgba);
    encoder.write_header().unwrap().write_image_data(&[0; 16]).unwrap();
    let app = fake_app();
    let json = post(&app, "/v1/embed", &[], transparent.clone()).await.json();
    assert_eq!(json["results"][0]["notes"], json!(["alpha_on_white"]));
    let drawn = post(&app, "/v1/saliency", &[("accept", "image/png")], transparent).await;
    assert_eq!(drawn.header("x-occlude-notes"), "alpha_on_white");
}

/// Status and code of a request.
pub(crate) async fn fails(
    app: &axum::Router,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> (u16, String) {
    let answer = post(app, uri, headers, body).await;
    (answer.status.as_u16(), answer.code())
}

pub(crate) fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn bad_requests_are_told_apart() {
    let app = fake_app();
    let json = [("content-type", "application/json")];
    let picture = || png(40, 40, RED);
    assert_eq!(fails(&app, "/v1/embed", &[], "").await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/embed", &json, "{").await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/embed", &json, "{\"image\":\"%\"}").await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/embed", &json, "{\"img\":\"\"}").await, is(422, "invalid_request"));
    assert_eq!(fails(&app, "/v1/embed?k=3", &[], picture()).await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/saliency?k=3", &[], picture()).await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/saliency?view=x", &[], picture()).await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/saliency?opacity=2", &[], picture()).await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/saliency?max_side=0", &[], picture()).await, is(400, "bad_request"));
    let form = [("content-type", "multipart/form-data; boundary=XX")];
    assert_eq!(fails(&app, "/v1/embed", &form, "--XX\r\nnonsense").await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/embed", &form, "--XX--\r\n").await, is(422, "invalid_request"));
    let text = [("content-type", "text/plain")];
    assert_eq!(fails(&app, "/v1/embed", &text, picture()).await, is(415, "unsupported_media_type"));
    assert_eq!(fails(&app, "/v1/embed", &[], "hello").await, is(415, "unsupported_image"));
    assert_eq!(fails(&app, "/v1/embed", &[], "\0\0\0\x1cftypheic....").await, is(415, "unsupported_image"));
    let cut = &picture()[..60];
    assert_eq!(fails(&app, "/v1/embed", &[], cut.to_vec()).await, is(422, "broken_image"));
    let accept = [("accept", "text/html")];
    assert_eq!(fails(&app, "/v1/saliency", &accept, picture()).await, is(406, "not_acceptable"));
    let accept = [("accept", "image/png")];
    assert_eq!(fails(&app, "/v1/embed", &accept, picture()).await, is(406, "not_acceptable"));
    let (kind, two) = multipart(&[("a.png", &picture()), ("b.png", &picture())]);
    let headers = [("accept", "image/png"), ("content-type", kind.as_str())];
    assert_eq!(fails(&app, "/v1/saliency", &headers, two).await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/nothing", &[], picture()).await, is(404, "not_found"));
    assert_eq!(fails(&app, "/v1/search", &[], picture()).await, is(404, "not_found"), "no gallery");
    assert_eq!(fails(&app, "/v1/analyze?k=3", &[], picture()).await, is(404, "not_found"), "no gallery");
    let wrong = get(&app, "/v1/embed").await;
    assert_eq!((wrong.status.as_u16(), wrong.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(wrong.header("allow"), "POST");
}

#[tokio::test]
async fn the_broken_file_of_many_is_named() {
    let (kind, body) = multipart(&[("good.png", &png(40, 40, RED)), ("bad.png", b"\x89PNG\r\n\x1a\nno")]);
    let answer = post(&fake_app(), "/v1/embed", &[("content-type", &kind)], body).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.json()["error"]["message"].as_str().unwrap().starts_with("picture 1 (`bad.png`): "));
}

#[tokio::test]
async fn limits_on_bytes_pixels_and_pictures() {
    let limits = Limits { max_body: 3000, max_pixels: 5000, max_images: 2, ..Limits::default() };
    let app = app(fake_state(&limits, vec![Fake::default()]));
    let big = vec![0u8; 3001];
    assert_eq!(fails(&app, "/v1/embed", &[], big.clone()).await, is(413, "body_too_large"));
    let announced = [("content-length", "9999999")];
    assert_eq!(
        fails(&app, "/v1/embed", &announced, "x").await,
        is(413, "body_too_large"),
        "by the header alone"
    );
    let pieces =
        stream::iter(big.chunks(100).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>());
    assert_eq!(
        fails(&app, "/v1/embed", &[], Body::from_stream(pieces)).await,
        is(413, "body_too_large"),
        "chunked"
    );
    assert_eq!(fails(&app, "/v1/embed", &[], png(100, 51, RED)).await, is(413, "image_too_large"));
    assert_eq!(post(&app, "/v1/embed", &[], png(100, 50, RED)).await.status, StatusCode::OK);
    let three = json!({ "images": ["aa", "aa", "aa"] }).to_string();
    let json = [("content-type", "application/json")];
    assert_eq!(fails(&app, "/v1/embed", &json, three).await, is(413, "too_many_images"));
}

#[tokio::test]
async fn a_failing_encoder_is_an_error_of_the_server() {
    let app = fake_app();
    for value in [Fake::FAILS, Fake::PANICS, Fake::FORGETS] {
        let told = png(40, 40, [value; 3]);
        assert_eq!(fails(&app, "/v1/embed", &[], told).await, is(500, "encoder_failed"));
    }
    assert_eq!(post(&app, "/v1/embed", &[], png(40, 40, RED)).await.status, StatusCode::OK, "and it goes on");
}

#[tokio::test]
async fn slow_senders_and_slow_models_are_cut() {
    let limits = Limits { read_timeout: Duration::from_millis(40).into(), ..Limits::default() };
    let slow = app(fake_state(&limits, vec![Fake::default()]));
    let never = Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
    assert_eq!(fails(&slow, "/v1/embed", &[], never).await, is(408, "read_timeout"));

    let gate = Gate::default();
    let limits = Limits { timeout: Duration::from_millis(60).into(), ..Limits::default() };
    let late = app(fake_state(&limits, vec![Fake::gated(&gate)]));
    assert_eq!(fails(&late, "/v1/embed", &[], png(40, 40, RED)).await, is(504, "timeout"));
    gate.open();
}

#[tokio::test]
async fn not_loaded_not_indexed_ready_draining() {
    let state = AppState::new(Limits::default(), Expected { gallery: true, ..Expected::default() });
    let app = app(state.clone());
    let ready =
        |answer: &Answer| (answer.status.as_u16(), answer.json()["status"].as_str().unwrap().to_owned());
    assert_eq!(get(&app, "/healthz").await.status, StatusCode::OK);
    assert_eq!(ready(&get(&app, "/readyz").await), is(503, "loading model"));
    let early = post(&app, "/v1/embed", &[], png(40, 40, RED)).await;
    assert_eq!(
        (early.status.as_u16(), early.code().as_str(), early.header("retry-after")),
        (503, "loading", "1")
    );

    state.set_model(fake_model(&state, &Limits::default(), vec![Fake::default()]));
    assert_eq!(ready(&get(&app, "/readyz").await), is(503, "indexing gallery"));
    assert_eq!(
        post(&app, "/v1/embed", &[], png(40, 40, RED)).await.status,
        StatusCode::OK,
        "embedding needs no gallery"
    );
    assert_eq!(fails(&app, "/v1/search", &[], png(40, 40, RED)).await, is(503, "loading"));

    state.set_gallery(gallery(&state).await);
    let now = get(&app, "/readyz").await;
    assert_eq!(ready(&now), is(200, "ready"));
    let json = now.json();
    assert_eq!((&json["ready"], &json["models"][0]["provider"]), (&json!(true), &json!("none")));
    assert_eq!(json["gallery"], json!({"images": 3, "skipped": 0}));
    assert_eq!(json["models"][0]["preprocess"]["crop"], 32);

    state.start_draining();
    assert_eq!(ready(&get(&app, "/readyz").await), is(503, "draining"));
    assert_eq!(get(&app, "/healthz").await.status, StatusCode::OK);
    let late = post(&app, "/v1/embed", &[], png(40, 40, RED)).await;
    assert_eq!((late.status.as_u16(), late.code().as_str()), (503, "draining"));
    assert_eq!(late.header("connection"), "close");
}

struct Silent;

impl Progress for Silent {
    fn at(&self, _: usize, _: usize) {}
    fn skipped(&self, why: &dyn std::fmt::Display) {
        panic!("{why}");
    }
}

/// red/a.png, red/b.png and blue/c.png.
async fn gallery(state: &AppState) -> Gallery {
    let limits = Limits::default();
    let model = fake_model(state, &limits, vec![Fake::default()]);
    tokio::task::spawn_blocking(move || {
        let dir = tempfile::tempdir().unwrap();
        for (name, colour) in [("red/a", [250, 10, 10]), ("red/b", [200, 70, 70]), ("blue/c", [0, 0, 255])] {
            let path = dir.path().join(name).with_extension("png");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, png(300, 100, colour)).unwrap();
        }
        // Kept: thumbnails are made from the files.
        Gallery::index(&dir.keep(), &model, &limits, &Silent).unwrap()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn search_and_thumbnails() {
    let state = AppState::new(Limits::default(), Expected { gallery: true, ..Expected::default() });
    state.set_model(fake_model(&state, &Limits::default(), vec![Fake::default()]));
    state.set_gallery(gallery(&state).await);
    let app = app(state);
    let json = post(&app, "/v1/search?k=2", &[], png(50, 50, [255, 0, 0])).await.json();
    let found = json["results"][0]["neighbours"].as_array().unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!((&found[0]["path"], &found[0]["class"]), (&json!("red/a.png"), &json!("red")));
    assert!(found[0]["cosine"].as_f64().unwrap() > 0.99);
    assert_eq!(json["results"][0]["embedding"], Value::Null);
    let thumbnail = get(&app, found[0]["thumbnail"].as_str().unwrap()).await;
    assert_eq!((thumbnail.status, thumbnail.header("content-type")), (StatusCode::OK, "image/jpeg"));
    let small = decode(&thumbnail.bytes, &Default::default()).unwrap().image;
    assert_eq!((small.width, small.height), (240, 80));

    // By number: what it was indexed with is compared, and it does not find itself.
    let near = get(&app, &format!("/v1/gallery/{}/neighbours?k=2", found[0]["id"])).await.json();
    assert_eq!(near["neighbours"].as_array().unwrap().len(), 2);
    assert!(near["neighbours"].as_array().unwrap().iter().all(|n| n["id"] != found[0]["id"]), "{near}");
    let all = get(&app, "/v1/gallery").await.json();
    assert_eq!((all["pictures"].as_array().unwrap().len(), &all["next"]), (3, &Value::Null));
    let page = get(&app, "/v1/gallery?from=1&limit=1").await.json();
    assert_eq!((&page["pictures"][0], &page["next"]), (&all["pictures"][1], &json!(2)));
    let beyond = get(&app, "/v1/gallery?from=9").await.json();
    assert_eq!(beyond, json!({ "pictures": [], "next": null }));
    for (path, code) in [
        ("/v1/gallery?limit=0", "bad_request"),
        ("/v1/gallery?what=0", "bad_request"),
        ("/v1/gallery/0/neighbours?k=1001", "bad_request"),
        ("/v1/gallery/3/neighbours", "not_found"),
        ("/v1/gallery/x/neighbours", "not_found"),
    ] {
        assert_eq!(get(&app, path).await.code(), code, "{path}");
    }

    let both = post(&app, "/v1/analyze?k=3", &[], png(50, 50, [0, 0, 250])).await.json();
    assert_eq!(both["results"][0]["neighbours"][0]["path"], "blue/c.png");
    assert!(both["results"][0]["saliency"].is_object() && both["results"][0]["embedding"].is_array());

    assert_eq!(fails(&app, "/v1/search?k=0", &[], png(50, 50, RED)).await, is(400, "bad_request"));
    assert_eq!(fails(&app, "/v1/search?k=x", &[], png(50, 50, RED)).await, is(400, "bad_request"));
    for id in ["3", "-1", "x", "..%2f..%2fetc%2fpasswd"] {
        let missing = get(&app, &format!("/v1/gallery/{id}/thumbnail")).await;
        assert_eq!((missing.status.as_u16(), missing.code().as_str()), (404, "not_found"), "{id}");
    }
}

#[tokio::test]
async fn requests_have_ids() {
    let app = fake_app();
    let own = post(&app, "/v1/embed", &[("x-request-id", "mine-1")], "x").await;
    assert_eq!(own.header("x-request-id"), "mine-1");
    assert_eq!(own.json()["error"]["request_id"], "mine-1");
    let (a, b) = (get(&app, "/healthz").await, get(&app, "/healthz").await);
    assert_ne!(a.header("x-request-id"), b.header("x-request-id"));
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let app = fake_app();
    post(&app, "/v1/embed", &[], png(40, 40, RED)).await;
    post(&app, "/v1/embed", &[], "nonsense").await;
    get(&app, "/nowhere").await;
    let answer = get(&app, "/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(answer.bytes).unwrap();
    for line in [
        "occlude_requests_total{route=\"/v1/embed\",status=\"200\"} 1",
        "occlude_requests_total{route=\"/v1/embed\",status=\"415\"} 1",
        "occlude_requests_total{route=\"other\",status=\"404\"} 1",
        "occlude_errors_total{code=\"unsupported_image\"} 1",
        "occlude_images_total{model=\"fake\"} 1",
        "occlude_batch_size_count 1",
        "occlude_stage_seconds_count{model=\"fake\",stage=\"decode\"} 1",
        "occlude_stage_seconds_count{model=\"fake\",stage=\"encode\"} 1",
        "occlude_stage_seconds_count{model=\"fake\",stage=\"total\"} 1",
        "occlude_stage_seconds_count{model=\"\",stage=\"total\"} 2",
        "occlude_stage_seconds_count{model=\"\",stage=\"read\"} 2",
        "occlude_queue_depth{model=\"fake\"} 0",
        "occlude_in_flight_images 0",
        "occlude_ready 1",
        "occlude_model_info{fingerprint=\"f00dfeed\",identity=\"f00dfeed\",model=\"fake\",provider=\"none\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn the_page_and_its_parts_fetch_nothing_from_elsewhere() {
    let app = fake_app();
    let answer = get(&app, "/").await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    assert!(answer.header("content-security-policy").contains("default-src 'none'"));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let page = String::from_utf8(answer.bytes).unwrap();
    let no_address = |name: &str, text: &str| {
        for outside in ["src=\"http", "href=\"http", "@import", "url(http", "//cdn", "fetch(\"http"] {
            assert!(!text.contains(outside), "{name}: {outside}");
        }
    };
    no_address("/", &page);
    let parts: Vec<_> = page.split('"').filter(|part| part.starts_with("page/")).collect();
    assert!(parts.contains(&"page/main.js") && parts.contains(&"page/base.css"), "{parts:?}");
    for part in parts {
        let answer = get(&app, &format!("/{part}")).await;
        let kind = if part.ends_with(".js") { "text/javascript" } else { "text/css" };
        assert_eq!(answer.status, StatusCode::OK, "{part}");
        assert!(answer.header("content-type").starts_with(kind), "{part}");
        assert!(answer.header("etag").starts_with('"'), "{part}");
        assert!(answer.header("content-security-policy").contains("default-src 'none'"), "{part}");
        no_address(part, &String::from_utf8(answer.bytes).unwrap());
    }
    for missing in ["/page/what.js", "/page/index.html", "/page/../main.rs"] {
        assert_eq!(get(&app, missing).await.code(), "not_found", "{missing}");
    }
}
