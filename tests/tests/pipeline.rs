//! The whole path on images made here: pretrain, resume, kNN, ONNX, Detectron2, server. One training run serves
//! all tests; each of them looks at one thing.

use occlude_tests::tolerance::{self, cosine};
use occlude_tests::{pictures, run};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use xtask::server::Server;

/// Everything that the tests share.
struct Pipeline {
    folder: PathBuf,
    /// What the trainer said on stderr.
    log: String,
}

impl Pipeline {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn checkpoint(&self) -> PathBuf {
        let last = fs::read_to_string(self.file("run/last")).expect("`last`");
        self.file("run").join(last.trim())
    }

    /// Validation images, PNG, JPEG and WebP.
    fn images(&self) -> Vec<PathBuf> {
        pictures::CLASSES
            .iter()
            .flat_map(|class| {
                ["000.png", "001.jpg", "002.webp"].map(|f| self.file("val").join(class).join(f))
            })
            .collect()
    }

    fn onnx(&self, input: &str) -> PathBuf {
        let path = self.file(&format!("{input}.onnx"));
        // Two tests may ask at once; the exporter replaces the file whole.
        run::run("occlude-export", &[&"onnx", &self.checkpoint(), &path, &"--force", &"--input", &input])
            .ok();
        path
    }
}

/// Trains once: two short epochs of ResNet-18 at 32 px, checkpoints of both.
fn pipeline() -> &'static Pipeline {
    static PIPELINE: OnceLock<Pipeline> = OnceLock::new();
    PIPELINE.get_or_init(|| {
        let folder = run::scratch("pipeline");
        pictures::tree(&folder.join("train"), 12, 1);
        pictures::tree(&folder.join("val"), 4, 2);
        pictures::broken(&folder.join("train/disc/broken.jpg"));
        let said = pretrain(&folder, &["--epochs", "2"], "run").ok();
        assert_eq!(said.stdout, "", "stdout carries data only");
        Pipeline { folder, log: said.stderr }
    })
}

fn pretrain(folder: &Path, more: &[&str], out: &str) -> run::Said {
    let (data, out) = (folder.join("train"), folder.join(out));
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"pretrain", &data, &"--out", &out];
    let fixed = "--recipe saliency-moco-small --arch resnet18 --image-size 32 --batch-size 12 --device cpu \
                 --precision fp32 --seed 7 --save-every 1 --workers 1";
    let words: Vec<&str> = fixed.split_whitespace().chain(more.iter().copied()).collect();
    arguments.extend(words.iter().map(|w| w as &dyn AsRef<std::ffi::OsStr>));
    run::run("occlude-train", &arguments)
}

/// The trainer's embeddings of the validation images, by path.
fn embeddings(checkpoint: &Path, images: &[PathBuf]) -> Vec<Vec<f64>> {
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"embed", &checkpoint];
    arguments.extend(images.iter().map(|i| i as &dyn AsRef<std::ffi::OsStr>));
    let lines = run::run("occlude-train", &arguments).ok().json_lines();
    let of = |image: &PathBuf| {
        let row = lines.iter().find(|row| row["path"] == image.to_string_lossy().as_ref());
        numbers(&row.unwrap_or_else(|| panic!("no embedding of `{}`", image.display()))["embedding"])
    };
    images.iter().map(of).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap_or_else(|| panic!("no list: {value}"));
    list.iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[test]
fn a_run_leaves_what_it_promises() {
    let pipeline = pipeline();
    let config: Value =
        serde_json::from_str(&fs::read_to_string(pipeline.file("run/config.json")).unwrap()).unwrap();
    assert!(config.to_string().contains("resnet18"), "{config}");
    let metrics = fs::read_to_string(pipeline.file("run/metrics.jsonl")).unwrap();
    let rows: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let epochs: Vec<&Value> = rows.iter().filter(|row| row["kind"] == "epoch").collect();
    assert_eq!(epochs.len(), 2, "{metrics}");
    assert!(epochs.iter().all(|row| row["loss"].as_f64().is_some_and(f64::is_finite)), "{metrics}");
    assert!(image::open(pipeline.file("run/first_batch.png")).is_ok());
    assert!(pipeline.file("run/checkpoint_0000.safetensors").is_file());
    assert!(pipeline.checkpoint().ends_with("checkpoint_0001.safetensors"));
}

#[test]
fn a_broken_image_is_named_once_and_skipped() {
    let log = &pipeline().log;
    assert_eq!(log.matches("broken.jpg").count(), 1, "{log}");
}

#[test]
fn a_resumed_run_ends_where_the_uninterrupted_one_does() {
    let pipeline = pipeline();
    let first = pipeline.file("run/checkpoint_0000.safetensors");
    let resume = first.to_string_lossy();
    pretrain(&pipeline.folder, &["--epochs", "2", "--resume", &resume], "resumed").ok();
    let resumed = pipeline.file("resumed/checkpoint_0001.safetensors");
    let images = pipeline.images();
    let (a, b) = (embeddings(&pipeline.checkpoint(), &images), embeddings(&resumed, &images));
    for ((image, a), b) in images.iter().zip(&a).zip(&b) {
        assert!(cosine(a, b) >= tolerance::RESUMED_COSINE, "{}: {}", image.display(), cosine(a, b));
    }
}

#[test]
fn knn_compares_with_the_untrained_encoder_and_with_pixels() {
    let pipeline = pipeline();
    let (train, val) = (pipeline.file("train"), pipeline.file("val"));
    let said =
        run::run("occlude-train", &[&"knn", &pipeline.checkpoint(), &train, &val, &"--k", &"1,5", &"--json"]);
    let answer = said.ok().json();
    assert_eq!(answer["classes"], 3);
    let results = answer["results"].as_array().unwrap();
    for features in ["checkpoint", "untrained", "pixels"] {
        for k in [1, 5] {
            let row = results.iter().find(|row| row["features"] == features && row["k"] == k);
            let top1 =
                row.unwrap_or_else(|| panic!("no {features}, k {k}: {answer}"))["top1"].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&top1), "{answer}");
        }
    }
}

#[test]
fn onnx_files_pass_the_checker_and_verify() {
    let pipeline = pipeline();
    for input in ["float", "uint8"] {
        let path = pipeline.onnx(input);
        let script = "import json, onnx, sys\n\
                      model = onnx.load(sys.argv[1])\n\
                      onnx.checker.check_model(model, full_check=True)\n\
                      print(json.dumps([output.name for output in model.graph.output]))";
        let outputs = run::python(script, &[&path]);
        assert_eq!(outputs, serde_json::json!(["embedding", "saliency"]));
        let checkpoint = pipeline.checkpoint();
        let images = pipeline.images();
        run::run("occlude-export", &[&"verify", &path, &checkpoint, &images[0], &images[1], &images[2]]).ok();
    }
}

#[test]
fn verify_tells_another_checkpoint_apart() {
    let pipeline = pipeline();
    let other = pipeline.file("run/checkpoint_0000.safetensors");
    let said =
        run::run("occlude-export", &[&"verify", &pipeline.onnx("float"), &other, &pipeline.images()[0]]);
    assert_ne!(said.code, 0, "stdout:\n{}\nstderr:\n{}", said.stdout, said.stderr);
}

#[test]
fn the_detectron2_pickle_holds_the_checkpoint_bit_for_bit() {
    let pipeline = pipeline();
    let pickle = pipeline.file("encoder.pkl");
    run::run("occlude-detectron", &[&"convert", &pipeline.checkpoint(), &pickle]).ok();
    assert!(pipeline.file("encoder.yaml").is_file());
    let script = include_str!("pickle.py");
    let answer = run::python(script, &[&pickle, &pipeline.checkpoint()]);
    assert_eq!(answer["different"], serde_json::json!([]), "{answer}");
    assert_eq!(answer["missing"], serde_json::json!([]), "{answer}");
    assert_eq!(answer["unexpected"], serde_json::json!([]), "{answer}");
    assert!(answer["compared"].as_u64().is_some_and(|n| n > 100), "{answer}");
}

#[test]
fn torchvision_with_the_same_weights_gives_the_same_embedding() {
    let pipeline = pipeline();
    let images = pipeline.images();
    let ours = embeddings(&pipeline.checkpoint(), &images);
    let checkpoint = pipeline.checkpoint();
    let mut arguments: Vec<&Path> = vec![&checkpoint];
    arguments.extend(images.iter().map(PathBuf::as_path));
    let theirs = run::python(include_str!("torchvision.py"), &arguments);
    for (i, image) in images.iter().enumerate() {
        let cosine = cosine(&ours[i], &numbers(&theirs[i]));
        assert!(cosine >= tolerance::TORCHVISION_COSINE, "{}: {cosine}", image.display());
    }
}

#[test]
fn the_server_embeds_as_the_trainer_does() {
    let pipeline = pipeline();
    let images = pipeline.images();
    let ours = embeddings(&pipeline.checkpoint(), &images);
    for input in ["float", "uint8"] {
        let log = pipeline.file(&format!("serve-{input}.log"));
        run::tool("occlude-serve");
        let server = Server::start(&pipeline.onnx(input), None, &["--provider", "cpu"], &log).unwrap();
        for (image, ours) in images.iter().zip(&ours) {
            let answer = server.client().post("/v1/embed", &fs::read(image).unwrap()).unwrap();
            let cosine = cosine(ours, &numbers(&answer["embedding"]));
            assert!(cosine >= tolerance::SERVED_COSINE, "{input}, {}: {cosine}", image.display());
        }
        server.stop().unwrap();
    }
}

#[test]
fn an_image_of_the_gallery_finds_itself_first() {
    let pipeline = pipeline();
    let train = pipeline.file("train");
    run::tool("occlude-serve");
    let log = pipeline.file("serve-gallery.log");
    let server = Server::start(&pipeline.onnx("uint8"), Some(&train), &["--provider", "cpu"], &log).unwrap();
    let image = fs::read(train.join("square/001.jpg")).unwrap();
    let answer = server.client().post("/v1/search?k=3", &image).unwrap();
    let found = answer["neighbours"].as_array().unwrap();
    assert_eq!(found.len(), 3, "{answer}");
    assert!(found[0]["path"].as_str().unwrap().ends_with("square/001.jpg"), "{answer}");
    assert!((found[0]["cosine"].as_f64().unwrap() - 1.0).abs() <= tolerance::SELF_SIMILARITY, "{answer}");
    assert!(fs::read_to_string(&log).unwrap().contains("broken.jpg"), "the broken image is named");
    server.stop().unwrap();
}
