//! Boxes of maps: what is left out, refused and written. `tests/tests/pseudo_boxes.rs` holds the boxes themselves against
//! Python.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use occlude_detectron::{Boxes, Error, PseudoBoxes, PseudoOptions, pseudo_boxes};
use serde_json::Value;

/// Models of the server's tests, of 32 pixels a side.
fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/tests/fixtures").join(name)
}

fn options(folder: &Path) -> PseudoOptions {
    PseudoOptions {
        data: folder.join("photos"),
        model: model("tiny.onnx"),
        out: folder.join("coco.json"),
        threshold: None,
        min_area: 0.0,
        boxes: Boxes::Map,
        refine: false,
        force: false,
    }
}

/// A folder with a class of two pictures and one beside it.
fn photos(folder: &Path) {
    let photos = folder.join("photos");
    std::fs::create_dir_all(photos.join("a b")).unwrap();
    for (name, width, height, seed) in
        [("a b/one.png", 90, 60, 1u32), ("a b/tall\n%41.png", 20, 200, 2), ("two.jpg", 64, 64, 3)]
    {
        let image = image::RgbImage::from_fn(width, height, |x, y| {
            let inside = (x * 3 / width, y * 3 / height) == (1, 2) || (x + y * seed) % 17 == 0;
            image::Rgb(if inside { [230, 180, 40] } else { [20, 40, 60 + (x % 50) as u8] })
        });
        image.save(photos.join(name)).unwrap();
    }
}

fn run(options: &PseudoOptions) -> (Result<PseudoBoxes, Error>, Vec<String>) {
    let mut told = Vec::new();
    let done = pseudo_boxes(options, &mut |line| told.push(line.to_owned()));
    (done, told)
}

fn read(options: &PseudoOptions) -> Value {
    serde_json::from_slice(&std::fs::read(&options.out).unwrap()).unwrap()
}

fn list<'v>(json: &'v Value, key: &str) -> &'v [Value] {
    json[key].as_array().unwrap()
}

#[test]
fn every_usable_picture_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    photos(dir.path());
    let odd = dir.path().join("photos").join(OsStr::from_bytes(b"caf\xe9.png"));
    std::fs::copy(dir.path().join("photos/a b/one.png"), odd).unwrap();
    std::fs::write(dir.path().join("photos/broken.jpg"), b"\xff\xd8\xff\xe0 cut off").unwrap();
    std::fs::write(dir.path().join("photos/notes.heic"), "").unwrap();
    let options = options(dir.path());
    let (done, told) = run(&options);
    let done = done.unwrap();
    assert_eq!((done.pictures, done.skipped), (3, 2));
    assert!(told.iter().any(|l| l.starts_with("note: ") && l.contains("1 .heic")), "{told:?}");
    assert!(told.iter().any(|l| l.starts_with("warning: skipped: ") && l.contains("broken.jpg")), "{told:?}");
    assert!(told.iter().any(|l| l.contains("caf%E9.png") && l.contains("not UTF-8")), "{told:?}");
    let json = read(&options);
    let images: Vec<_> = list(&json, "images")
        .iter()
        .map(|i| {
            (i["id"].as_u64(), i["file_name"].as_str().unwrap(), i["width"].as_u64(), i["height"].as_u64())
        })
        .collect();
    // The file's own names, in the order of the listing: what a reader joins to the folder.
    let names: Vec<&str> = images.iter().map(|i| i.1).collect();
    assert!(names.iter().all(|name| options.data.join(name).is_file()), "{names:?}");
    assert_eq!(images.iter().map(|i| i.0).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    let tall = images.iter().find(|i| i.1.contains("tall")).unwrap();
    assert_eq!((tall.2, tall.3), (Some(20), Some(200)));
    assert_eq!(list(&json, "categories").len(), 1);
    assert_eq!(json["categories"][0]["name"], "object");
    let annotations = list(&json, "annotations");
    assert_eq!((annotations.len(), json["info"]["saliency"]["rule"].as_str()), (done.boxes, Some("sum")));
    assert_eq!((&json["info"]["threshold"], &json["info"]["model"]), (&(-0.6).into(), &"tiny.onnx".into()));
    assert!(!annotations.is_empty());
    for (i, annotation) in annotations.iter().enumerate() {
        assert_eq!(annotation["id"], i as u64 + 1);
        assert_eq!((&annotation["category_id"], &annotation["iscrowd"]), (&1.into(), &0.into()));
        let image = annotation["image_id"].as_u64().unwrap() as usize - 1;
        let (width, height) = (images[image].2.unwrap(), images[image].3.unwrap());
        assert_eq!(annotation["segmentation"]["size"], serde_json::json!([height, width]));
        let counts = annotation["segmentation"]["counts"].as_str().unwrap();
        let mask = occlude_saliency::rle::decode(counts, height as usize, width as usize).unwrap();
        assert_eq!(mask.count() as u64, annotation["area"].as_u64().unwrap());
        let b = mask.bounds().unwrap();
        assert_eq!(annotation["bbox"], serde_json::json!([b.left, b.top, b.width, b.height]));
        assert!((0.0..=1.0).contains(&annotation["score"].as_f64().unwrap()));
        // Of a strip of 1:10 the model sees the middle 1:4.
        if image + 1 == tall.0.unwrap() as usize {
            assert!(b.top >= 60 && b.top + b.height <= 140, "{b:?}");
        }
    }
}

#[test]
fn flags_change_the_boxes() {
    let dir = tempfile::tempdir().unwrap();
    photos(dir.path());
    let plain = options(dir.path());
    run(&plain).0.unwrap();
    let json = read(&plain);
    let sizes = |json: &Value| -> Vec<Value> {
        list(json, "annotations")
            .iter()
            .map(|a| serde_json::json!([a["image_id"], a["bbox"][2], a["bbox"][3]]))
            .collect()
    };
    // The baseline has the same boxes, elsewhere.
    let centre = PseudoOptions { out: dir.path().join("centre.json"), boxes: Boxes::Centre, ..plain.clone() };
    run(&centre).0.unwrap();
    let moved = read(&centre);
    assert_eq!((sizes(&moved), &moved["info"]["boxes"]), (sizes(&json), &"centre".into()));
    assert_ne!(moved["annotations"], json["annotations"]);
    // Finer than the cells, which are squares of the grid.
    let refined = PseudoOptions { out: dir.path().join("refined.json"), refine: true, ..plain.clone() };
    run(&refined).0.unwrap();
    let json_refined = read(&refined);
    assert_eq!(json_refined["info"]["refined"], true);
    assert_ne!(json_refined["annotations"], json["annotations"]);
    // All of the picture, or nothing of it.
    let all = PseudoOptions { out: dir.path().join("all.json"), threshold: Some(-100.0), ..plain.clone() };
    assert_eq!(run(&all).0.unwrap().boxes, 3);
    assert_eq!(read(&all)["annotations"][0]["bbox"], serde_json::json!([0, 0, 64, 64]));
    let none = PseudoOptions { out: dir.path().join("none.json"), threshold: Some(100.0), ..plain.clone() };
    assert_eq!(run(&none).0.unwrap(), PseudoBoxes { pictures: 3, empty: 3, boxes: 0, skipped: 0 });
    let large = PseudoOptions { out: dir.path().join("large.json"), min_area: 1.0, ..plain.clone() };
    assert!(run(&large).0.unwrap().boxes < list(&json, "annotations").len());
    // Floats and bytes are the same model.
    let bytes =
        PseudoOptions { out: dir.path().join("bytes.json"), model: model("tiny-uint8.onnx"), ..plain };
    run(&bytes).0.unwrap();
    assert_eq!(sizes(&read(&bytes)), sizes(&json));
}

#[test]
fn what_cannot_be_is_refused_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    photos(dir.path());
    let plain = options(dir.path());
    let text = dir.path().join("text.onnx");
    std::fs::write(&text, "no model").unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("a.png"), "no picture").unwrap();
    let with = |model: PathBuf| PseudoOptions { model, ..plain.clone() };
    let of = |data: PathBuf| PseudoOptions { data, ..plain.clone() };
    for (options, words) in [
        (with(dir.path().join("gone.onnx")), "cannot read `"),
        (with(text.clone()), "ONNX Runtime cannot load `"),
        (with(model("no-saliency.onnx")), "`saliency` is missing"),
        (with(model("no-contract.onnx")), "no metadata `preprocess`"),
        (with(model("bad-contract.onnx")), "metadata `preprocess`: "),
        (of(empty), "no pictures in"),
        (of(broken), "none of the 1 pictures"),
        (of(dir.path().join("gone")), "no such folder"),
        (PseudoOptions { out: model("tiny.onnx"), force: true, ..plain.clone() }, "tiny.onnx"),
    ] {
        let error = run(&options).0.expect_err(words).to_string();
        assert!(error.contains(words) && !error.ends_with('.'), "{words}: {error}");
        assert!(!plain.out.exists(), "{words}");
    }
    run(&plain).0.unwrap();
    let before = std::fs::read(&plain.out).unwrap();
    assert!(matches!(run(&plain).0, Err(Error::Output(_))), "it exists");
    run(&PseudoOptions { force: true, ..plain.clone() }).0.unwrap();
    assert_eq!(std::fs::read(&plain.out).unwrap(), before, "the same again, bit for bit");
    let over = PseudoOptions { out: plain.data.join("two.jpg"), force: true, ..plain };
    assert!(matches!(run(&over).0, Err(Error::Output(_))), "a picture is an input");
}
