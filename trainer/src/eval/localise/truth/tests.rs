use super::*;
use occlude_dataset::Options;
use serde_json::json;

/// `a/1.jpg`, `a/2.jpg` and `b/1.jpg`, each of 8 x 6 pixels.
fn pictures(dir: &Path) -> Dataset {
    for name in ["a/1.jpg", "a/2.jpg", "b/1.jpg"] {
        let path = dir.join("data").join(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("made");
        image::RgbImage::new(8, 6).save(path).expect("written");
    }
    Dataset::open(&dir.join("data"), &Options::default()).expect("listed")
}

fn mask(dir: &Path, name: &str) {
    let path = dir.join("masks").join(name);
    std::fs::create_dir_all(path.parent().expect("has one")).expect("made");
    image::GrayImage::from_fn(8, 6, |x, y| image::Luma([u8::from(x < 4 && y < 3)]))
        .save(path)
        .expect("written");
}

fn refused<T>(result: Result<T>) -> String {
    format!("{:#}", result.err().expect("refused"))
}

#[test]
fn masks_are_found_by_path_and_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(dir.path());
    let find = |which: &[usize]| Truths::masks(&data, which, &dir.path().join("masks"));
    assert!(refused(find(&[0])).contains("no such folder"));
    mask(dir.path(), "a/1.png");
    mask(dir.path(), "2.png");
    let told = refused(find(&[0, 1, 2]));
    assert!(told.contains("1 of 3 pictures") && told.contains("masks/b/1.png"), "{told}");
    let Truths::Masks(found) = find(&[0, 1]).expect("found") else { panic!("masks") };
    assert!(found[&0].ends_with("masks/a/1.png") && found[&1].ends_with("masks/2.png"), "{found:?}");
    std::fs::rename(dir.path().join("masks/a/1.png"), dir.path().join("masks/1.png")).expect("moved");
    let told = refused(find(&[0, 1, 2]));
    assert!(
        told.contains("have the same mask") && told.contains("a/1.jpg") && told.contains("b/1.jpg"),
        "{told}"
    );
}

/// A list may name pictures outside of its folder: from the folder of the masks, such a path leads to the picture itself.
#[test]
fn no_picture_is_its_own_mask() {
    let dir = tempfile::tempdir().expect("a folder");
    let (lists, photos) = (dir.path().join("lists"), dir.path().join("photos"));
    for folder in [&lists, &photos] {
        std::fs::create_dir_all(folder).expect("made");
    }
    image::RgbImage::new(8, 6).save(photos.join("x.png")).expect("written");
    let listed =
        [("near", "../photos/x.png".to_owned()), ("far", photos.join("x.png").display().to_string())];
    for (name, line) in listed {
        let list = lists.join(name).with_extension("txt");
        std::fs::write(&list, format!("{line}\n")).expect("written");
        let data = Dataset::open(&list, &Options::default()).expect("listed");
        let masks = dir.path().join("masks");
        std::fs::create_dir_all(&masks).expect("made");
        let _ = std::fs::remove_file(masks.join("x.png"));
        assert!(refused(Truths::masks(&data, &[0], &masks)).contains("1 of 1 pictures"), "{name}");
        mask(dir.path(), "x.png");
        let Truths::Masks(found) = Truths::masks(&data, &[0], &masks).expect("found") else {
            panic!("masks")
        };
        assert_eq!(found[&0], masks.join("x.png"), "{name}");
    }
}

#[test]
fn a_mask_is_cut_to_what_is_judged() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(dir.path());
    mask(dir.path(), "a/1.png");
    let truths = Truths::masks(&data, &[0], &dir.path().join("masks")).expect("found");
    assert_eq!(truths.kind(), "masks");
    let known = truths.read(0, "1.jpg", (8, 6)).expect("read");
    let truth = known.within(&Region { left: 2, top: 1, width: 5, height: 4 }).expect("inside");
    assert_eq!(truth.mask.count(), 2 * 2);
    assert_eq!(truth.boxes, [Rect { left: 0.0, top: 0.0, width: 2.0, height: 2.0 }]);
    assert!(refused(truths.read(0, "1.jpg", (6, 8))).contains("8x6"));
}

fn annotations(dir: &Path, images: &Value, annotations: &Value) -> PathBuf {
    let path = dir.join("boxes.json");
    std::fs::write(&path, json!({ "images": images, "annotations": annotations }).to_string())
        .expect("written");
    path
}

#[test]
fn boxes_are_found_by_path_and_by_name_and_cut() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(dir.path());
    let images = json!([
        { "id": 7, "file_name": "a/1.jpg", "width": 8, "height": 6 }, { "id": 8, "file_name": "train/2.jpg" },
        { "id": 9, "file_name": "b/1.jpg", "width": 6, "height": 8 },
    ]);
    let boxes = json!([
        { "id": 1, "image_id": 7, "bbox": [1.0, 2.0, 3.5, 2.0] }, { "id": 2, "image_id": 7, "bbox": [6, 0, 9, 9] },
        { "id": 3, "image_id": 7, "bbox": [0, 0, 8, 6], "iscrowd": 1 }, { "id": 4, "image_id": 8, "bbox": [90, 0, 2, 2] },
    ]);
    let truths = Truths::boxes(&data, &[0, 1, 2], &annotations(dir.path(), &images, &boxes)).expect("found");
    assert_eq!(truths.kind(), "boxes");
    let known = truths.read(0, "1.jpg", (8, 6)).expect("read");
    let truth = known.within(&Region { left: 2, top: 0, width: 6, height: 6 }).expect("inside");
    let rect = |left, top, width, height| Rect { left, top, width, height };
    assert_eq!(truth.boxes, [rect(0.0, 2.0, 2.5, 2.0), rect(4.0, 0.0, 2.0, 6.0)]);
    // centres at 2.5, 3.5 and not at 4.5 of the first, two rows; all of the second
    assert_eq!(truth.mask.count(), 2 * 2 + 2 * 6);
    let told = refused(truths.read(1, "2.jpg", (8, 6)));
    assert!(told.contains("annotation 4") && told.contains("8x6"), "{told}");
    let told = refused(truths.read(2, "b/1.jpg", (8, 6)));
    assert!(told.contains("8x6") && told.contains("6x8"), "{told}");
}

#[test]
fn annotations_that_make_no_sense_are_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(dir.path());
    let image = json!([{ "id": 1, "file_name": "1.jpg" }, { "id": 2, "file_name": "2.jpg" }]);
    let open = |images: &Value, boxes: &Value| {
        refused(Truths::boxes(&data, &[0, 1], &annotations(dir.path(), images, boxes)))
    };
    for (boxes, names) in [
        (json!([{ "id": 5, "image_id": 3, "bbox": [0, 0, 1, 1] }]), "image 3, which is missing"),
        (json!([{ "id": 5, "image_id": 1, "bbox": [0, 0, 0, 1] }]), "annotation 5 has the box"),
        (json!([{ "id": 5, "image_id": 1 }]), "holds no COCO annotations"),
    ] {
        let told = open(&image, &boxes);
        assert!(told.contains(names) && told.contains("boxes.json"), "{told}");
    }
    let told = open(&json!([{ "id": 1, "file_name": "1.jpg" }]), &json!([]));
    assert!(told.contains("1 of 2 pictures") && told.contains("a/2.jpg"), "{told}");
    let twice = json!([{ "id": 1, "file_name": "1.jpg" }, { "id": 1, "file_name": "2.jpg" }]);
    assert!(open(&twice, &json!([])).contains("have the same id"));
    let twice = json!([{ "id": 1, "file_name": "1.jpg" }, { "id": 2, "file_name": "1.jpg" }]);
    assert!(open(&twice, &json!([])).contains("two images"));
    // the name of two pictures is not that of either
    let both = Truths::boxes(&data, &[0, 2], &annotations(dir.path(), &image, &json!([])));
    assert!(refused(both).contains("1 of 2 pictures"));
    assert!(refused(Truths::boxes(&data, &[0], &dir.path().join("gone.json"))).contains("gone.json"));
}
