//! The fixture models (fixtures/make_models.py) in ONNX Runtime: the numbers, and what is refused.

use crate::common::*;
use axum::http::StatusCode;
use occlude_preprocess::Rgb;
use occlude_serve::encoder::{LoadError, Loaded, Options, load};
use occlude_serve::{Crop, Encode, InputKind, Limits, Precision, Provider, Sessions, Sources, Wants, app};
use serde_json::Value;

/// Largest difference between our run and that of ONNX Runtime's Python package on the same pixels: sums of at most
/// 192 products in another order.
const TOLERANCE: f32 = 1e-4;

fn expected(model: &str) -> (Vec<f32>, Vec<f32>) {
    let text = std::fs::read_to_string(fixture("expected.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    (floats(&all[model]["embedding"]), floats(&all[model]["saliency"]))
}

fn on(provider: Provider, precision: Precision) -> Options {
    Options { sessions: Sessions { provider, precision, ..options().sessions }, ..options() }
}

fn with_workers(workers: usize) -> Options {
    Options { sessions: Sessions { workers, ..options().sessions }, ..options() }
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= TOLERANCE * y.abs().max(1.0))
}

#[test]
fn both_inputs_give_what_python_gives() {
    for (name, kind) in [("tiny.onnx", InputKind::Float), ("tiny-uint8.onnx", InputKind::Uint8)] {
        let Loaded { info, mut encoders, note, .. } = load(&fixture(name), &options()).unwrap();
        assert_eq!((info.input, info.dim, info.provider.as_str()), (kind, 8, "CPU"));
        assert_eq!((info.encoder.as_str(), info.contract.crop, note), ("tiny", 32, None));
        assert_eq!(info.fingerprint.len(), 64);
        let ramp = Rgb { width: 32, height: 32, data: ramp(32, 32) };
        let rows = encoders[0].encode(&[ramp.into()], Wants::default()).unwrap();
        let (embedding, saliency) = expected(name);
        assert!(close(&rows[0].embedding, &embedding), "{name}: {:?} {embedding:?}", rows[0].embedding);
        assert!(close(&rows[0].saliency, &saliency), "{name}: {:?} {saliency:?}", rows[0].saliency);
        assert_eq!(rows[0].grid, (4, 4));
    }
}

#[test]
fn a_row_of_a_batch_equals_the_single_picture() {
    let Loaded { mut encoders, .. } = load(&fixture("tiny.onnx"), &options()).unwrap();
    let picture =
        |i: u32| Rgb { width: 32, height: 32, data: ramp(32 + i, 32)[..32 * 32 * 3].to_vec() }.into();
    let pictures: Vec<Crop> = (0..7).map(picture).collect();
    let batch = encoders[0].encode(&pictures, Wants::default()).unwrap();
    for (picture, row) in pictures.iter().zip(&batch) {
        let alone = encoders[0].encode(std::slice::from_ref(picture), Wants::default()).unwrap();
        assert!(close(&alone[0].embedding, &row.embedding) && close(&alone[0].saliency, &row.saliency));
    }
}

#[test]
fn normalised_floats_are_pixels_for_a_graph_of_floats() {
    let pixels = Rgb { width: 32, height: 32, data: ramp(32, 32) };
    let mut float = load(&fixture("tiny.onnx"), &options()).unwrap();
    let normalised = Crop::Normalised(float.info.contract.tensor(&pixels));
    let both = [normalised.clone(), pixels.into()];
    let rows = float.encoders[0].encode(&both, Wants::default()).unwrap();
    assert!(close(&rows[0].embedding, &rows[1].embedding) && close(&rows[0].saliency, &rows[1].saliency));
    let short = Crop::Normalised(vec![0.0; 3 * 32 * 31]);
    assert!(
        float.encoders[0].encode(&[short], Wants::default()).unwrap_err().to_string().contains("2976 values")
    );
    let mut bytes = load(&fixture("tiny-uint8.onnx"), &options()).unwrap();
    let error = bytes.encoders[0].encode(&[normalised], Wants::default()).unwrap_err();
    assert!(error.to_string().contains("floats for a graph of bytes"), "{error}");
}

#[tokio::test]
async fn through_http_from_a_file_larger_than_the_crop() {
    // 36 x 36 is what the contract resizes to, so the crop is the middle of these very pixels.
    let whole = ramp(36, 36);
    let middle: Vec<u8> = (2..34).flat_map(|y| whole[(y * 36 + 2) * 3..(y * 36 + 34) * 3].to_vec()).collect();
    for name in ["tiny.onnx", "tiny-uint8.onnx"] {
        let Loaded { mut encoders, .. } = load(&fixture(name), &options()).unwrap();
        let want = encoders[0]
            .encode(&[Rgb { width: 32, height: 32, data: middle.clone() }.into()], Wants::default())
            .unwrap();
        let answer = post(&app(onnx_state(name)), "/v1/analyze", &[], png_of(36, 36, &whole)).await;
        assert_eq!(answer.status, StatusCode::OK);
        let json = answer.json();
        let result = &json["results"][0];
        assert!(close(&floats(&result["embedding"]), &want[0].embedding));
        assert!(close(&floats(&result["saliency"]["grid"]["values"]), &want[0].saliency));
        assert!(cosine(&floats(&result["embedding"]), &want[0].embedding) > 0.9999);
    }
}

#[tokio::test]
async fn concurrent_requests_get_their_own_answers() {
    let state = onnx_state("tiny.onnx");
    let app = app(state.clone());
    let picture = |i: u8| png(40, 50, [i * 9, 255 - i * 7, i.wrapping_mul(31)]);
    let mut alone = Vec::new();
    for i in 0..24 {
        alone.push(post(&app, "/v1/embed", &[], picture(i)).await.json()["results"][0]["embedding"].clone());
    }
    let together: Vec<_> = (0..24)
        .map(|i| {
            let app = app.clone();
            tokio::spawn(async move { post(&app, "/v1/embed", &[], picture(i)).await.json() })
        })
        .collect();
    for (i, request) in together.into_iter().enumerate() {
        let json = request.await.unwrap();
        assert!(close(&floats(&json["results"][0]["embedding"]), &floats(&alone[i])), "picture {i}");
    }
    assert!(state.metrics().batches().iter().all(|(size, _)| *size <= Limits::default().max_batch));
}

/// numpy's pooling of ONNX Runtime's `res5` in Python is `expected.json`'s `foreground`.
#[test]
fn features_come_when_they_are_wanted() {
    let ramp = [Rgb { width: 32, height: 32, data: ramp(32, 32) }.into()];
    let mut loaded = load(&fixture("tiny-features.onnx"), &options()).unwrap();
    assert!(loaded.info.features);
    let mut encode = |wants| loaded.encoders[0].encode(&ramp, wants).unwrap().remove(0);
    assert_eq!(encode(Wants::default()).features, None);
    let row = encode(Wants { features: true, ..Wants::default() });
    let features = row.features.expect("wanted");
    assert_eq!((features.channels, features.height, features.width), (8, 4, 4));
    let map = occlude_saliency::Map::new(4, 4, &row.saliency).unwrap();
    let mask = occlude_saliency::foreground(map).unwrap();
    let pooled = occlude_saliency::foreground_pooled(8, &features.values, &mask).unwrap();
    let text = std::fs::read_to_string(fixture("expected.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    assert!(close(&pooled, &floats(&all["tiny-features.onnx"]["foreground"])), "{pooled:?}");
    // A model without the output has nothing to give.
    let mut loaded = load(&fixture("tiny.onnx"), &options()).unwrap();
    assert!(!loaded.info.features);
    assert_eq!(
        loaded.encoders[0].encode(&ramp, Wants { features: true, ..Wants::default() }).unwrap()[0].features,
        None
    );
}

/// A model of another project has no map: it embeds like the model of the same weights that has one, and where a map is
/// asked for, the answer says that there is none.
#[tokio::test]
async fn a_model_without_a_map_embeds() {
    let loaded = load(&fixture("adopted.onnx"), &options()).unwrap();
    assert!(!loaded.info.maps && load(&fixture("tiny.onnx"), &options()).unwrap().info.maps);
    let (app, with) = (app(onnx_state("adopted.onnx")), app(onnx_state("tiny.onnx")));
    let picture = png_of(36, 36, &ramp(36, 36));
    let embedding = |json: Value| floats(&json["results"][0]["embedding"]);
    let [found, expected] = [
        post(&app, "/v1/embed", &[], picture.clone()).await,
        post(&with, "/v1/embed", &[], picture.clone()).await,
    ];
    assert_eq!(found.status, StatusCode::OK);
    assert!(close(&embedding(found.json()), &embedding(expected.json())));
    for path in ["/v1/saliency", "/v1/analyze"] {
        let answer = post(&app, path, &[], picture.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        let error = answer.json()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains("has no saliency map"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("/v1/embed"), "{error}");
    }
    let foreground = post(&app, "/v1/embed?pool=foreground", &[], picture).await;
    assert_eq!(foreground.status, StatusCode::UNPROCESSABLE_ENTITY);
    let ready = get(&app, "/readyz").await.json();
    assert_eq!(ready["models"][0]["maps"], false, "{ready}");
    let name = ready["models"][0]["name"].as_str().unwrap();
    let outputs = get(&app, &format!("/v2/models/{name}")).await.json()["outputs"].clone();
    assert_eq!((outputs.as_array().unwrap().len(), &outputs[0]["name"]), (1, &Value::from("embedding")));
}

fn refused(name: &str) -> LoadError {
    load(&fixture(name), &options()).err().unwrap_or_else(|| panic!("{name} was taken"))
}

#[test]
fn files_without_the_contract_are_refused_by_name() {
    let missing = refused("gone.onnx");
    assert!(matches!(missing, LoadError::Missing { .. }));
    assert!(missing.to_string().contains("occlude-export onnx"));
    let none = refused("no-contract.onnx");
    assert!(matches!(none, LoadError::Metadata { key: "preprocess", .. }));
    assert!(none.to_string().contains("hint: export it with `occlude-export onnx`"), "{none}");
    assert!(matches!(refused("no-fingerprint.onnx"), LoadError::Metadata { key: "fingerprint", .. }));
    assert!(matches!(refused("bad-contract.onnx"), LoadError::Contract { .. }));
    let misfit = |file| match refused(file) {
        LoadError::Shape { mismatch, .. } => mismatch.name,
        other => panic!("{other}"),
    };
    assert_eq!(misfit("fixed-batch.onnx"), "pixel_values");
    assert_eq!(misfit("no-saliency.onnx"), "saliency");
    let side = refused("other-side.onnx");
    assert!(side.to_string().contains("40"), "{side}");
    assert!(matches!(refused("make_models.py"), LoadError::Session { .. }), "not an ONNX file");
}

/// The answers in the fixtures are for a picture that Pillow resized: what the server makes of a picture and what the
/// model makes of that are both held to something outside of Occlude.
#[test]
fn the_golden_picture_is_answered_by_every_worker() {
    for name in ["tiny.onnx", "tiny-uint8.onnx"] {
        let loaded = load(&fixture(name), &with_workers(2)).unwrap();
        let cosine = loaded.info.golden.expect("the file has golden data");
        assert!((0.9999..=1.0).contains(&cosine), "{name}: {cosine}");
        assert_eq!(loaded.warning, None);
    }
    let older = load(&fixture("no-golden.onnx"), &options()).unwrap();
    assert_eq!(older.info.golden, None);
    assert!(older.warning.is_some_and(|w| w.contains("no golden picture") && w.contains("hint: ")));
}

#[test]
fn a_model_that_answers_otherwise_is_refused() {
    let wrong = refused("wrong-golden.onnx");
    assert!(matches!(&wrong, LoadError::Golden { output: "embedding", cosine, .. } if *cosine > 0.9));
    let said = wrong.to_string();
    for part in ["wrong-golden.onnx", "cosine 0.99", "at least 0.9999", "CPU alone", "hint: "] {
        assert!(said.contains(part), "{said}");
    }
    let broken = refused("broken-golden.onnx");
    assert!(matches!(broken, LoadError::GoldenData { .. }));
    assert!(broken.to_string().contains("`golden_embedding` is missing"), "{broken}");
}

/// The library of the test environment is the CPU build; where a GPU build and a GPU are present, CUDA runs instead.
#[test]
fn cuda_runs_or_is_an_error_and_auto_says_what_it_took() {
    let with = |provider| load(&fixture("tiny.onnx"), &on(provider, Precision::Auto));
    match with(Provider::Cuda) {
        Ok(loaded) => assert_eq!(loaded.info.provider, "CUDA"),
        Err(error) => {
            assert!(matches!(error, LoadError::Provider { provider: "cuda", .. }), "{error}");
            assert!(error.to_string().contains("hint: "), "{error}");
            let auto = with(Provider::Auto).unwrap();
            assert_eq!(auto.info.provider, "CPU");
            assert!(auto.note.is_some(), "why it is not CUDA");
        }
    }
    assert_eq!(with(Provider::Cpu).unwrap().info.provider, "CPU");
}

/// TensorRT was never at hand: what can be tried is that nothing runs in its place.
#[test]
fn tensorrt_runs_or_is_an_error() {
    match load(&fixture("tiny.onnx"), &on(Provider::Tensorrt, Precision::Auto)) {
        Ok(loaded) => assert_eq!(loaded.info.provider, "TensorRT f16"),
        Err(error) => {
            assert!(matches!(error, LoadError::Provider { provider: "tensorrt", .. }), "{error}");
            assert!(error.to_string().contains("hint: `pip install onnxruntime-gpu"), "{error}");
        }
    }
}

/// The package is one of those that the set-up installs for the tests. It offers none of AMD.
#[test]
fn openvino_gives_what_onnx_runtime_gives() {
    let pictures: Vec<Crop> = (0..3u32)
        .map(|i| Rgb { width: 32, height: 32, data: ramp(32 + i, 32)[..32 * 32 * 3].to_vec() }.into())
        .collect();
    for name in ["tiny.onnx", "tiny-uint8.onnx", "tiny-features.onnx", "tiny-border.onnx"] {
        let mut cpu = load(&fixture(name), &options()).unwrap();
        let expected = cpu.encoders[0].encode(&pictures, Wants::default()).unwrap();
        for precision in [Precision::F32, Precision::Auto] {
            let loaded = load(&fixture(name), &on(Provider::Openvino, precision));
            if let Err(error @ LoadError::Provider { .. }) = &loaded
                && error.to_string().contains("is missing")
            {
                occlude_skip::test("OpenVINO", "`pip install onnxruntime-ep-openvino` alongside onnxruntime");
                return;
            }
            if let Err(error @ LoadError::Provider { .. }) = &loaded
                && std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|said| !said.contains("GenuineIntel"))
            {
                let said = error.to_string();
                assert!(said.contains("expected one of Intel") && said.contains("--provider cpu"), "{said}");
                return;
            }
            let mut loaded = loaded.unwrap();
            let f32 = loaded.info.provider == "OpenVINO f32";
            assert!(f32 || precision == Precision::Auto && loaded.info.provider == "OpenVINO bf16");
            let rows = loaded.encoders[0].encode(&pictures, Wants::default()).unwrap();
            for (got, expected) in rows.iter().zip(&expected) {
                let least = if f32 { 0.999_999 } else { 0.999 };
                for (ours, theirs) in
                    [(&got.embedding, &expected.embedding), (&got.saliency, &expected.saliency)]
                {
                    let cosine = cosine(ours, theirs);
                    assert!(cosine >= least, "{name} {precision:?}: {cosine}\n{ours:?}\n{theirs:?}");
                }
            }
        }
    }
}

/// What makes no sense is refused before anything is loaded.
#[test]
fn settings_of_other_providers_are_refused() {
    let refused = |sessions: Sessions| sessions.check(&Sources::default()).unwrap_err().to_string();
    let precise = refused(on(Provider::Cpu, Precision::Bf16).sessions);
    assert!(precise.contains("--precision") && precise.contains("--provider openvino"), "{precise}");
    let devices = Sessions { devices: vec![0, 1], ..on(Provider::Cpu, Precision::Auto).sessions };
    assert!(refused(devices.clone()).contains("--provider cuda"));
    let half = refused(on(Provider::Openvino, Precision::F16).sessions);
    assert!(half.contains("--precision") && half.contains("--provider tensorrt"), "{half}");
    assert!(on(Provider::Tensorrt, Precision::F16).sessions.check(&Sources::default()).is_ok());
    let idle = refused(Sessions { provider: Provider::Cuda, ..devices.clone() });
    assert!(idle.contains("--devices") && idle.contains("--workers"), "{idle}");
    let both = Sessions { provider: Provider::Cuda, workers: 2, ..devices };
    assert!(both.check(&Sources::default()).is_ok());
}

#[test]
fn one_session_for_each_worker() {
    let loaded = load(&fixture("tiny.onnx"), &with_workers(3)).unwrap();
    assert_eq!(loaded.encoders.len(), 3);
}

/// What the exporter writes, or else a hash over the files.
#[test]
fn a_model_has_an_identity() {
    let identity = |path: &std::path::Path| load(path, &options()).unwrap().info.identity;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let bytes = std::fs::read(fixture("tiny.onnx")).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let sum = std::process::Command::new("sha256sum").arg(&path).output().unwrap();
    assert_eq!(identity(&path), String::from_utf8_lossy(&sum.stdout)[..64]);
    assert_ne!(identity(&path), identity(&fixture("tiny-uint8.onnx")));
    // Metadata are repeated fields of the outermost message: further ones may follow.
    let entry = |value: &str| {
        let field =
            |n: u8, text: &str| [vec![n << 3 | 2, text.len() as u8], text.as_bytes().to_vec()].concat();
        let entry = [field(1, "occlude.identity"), field(2, value)].concat();
        [vec![14 << 3 | 2, entry.len() as u8], entry].concat()
    };
    let told = "0123456789abcdef".repeat(4);
    std::fs::write(&path, [bytes.clone(), entry(&told)].concat()).unwrap();
    assert_eq!(identity(&path), told);
    for odd in ["", "none", &told.to_uppercase()] {
        std::fs::write(&path, [bytes.clone(), entry(odd)].concat()).unwrap();
        let got = identity(&path);
        assert!(got.len() == 64 && got != odd, "{odd}: {got}");
    }
}
