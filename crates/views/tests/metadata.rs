//! Colours and orientation as the metadata of files tells them, against Pillow: by the decoder, and by views of JPEG
//! data.

#[path = "../../preprocess/tests/common/mod.rs"]
mod common;

use std::path::Path;

use common::{differences, python};
use occlude_preprocess::{CropBox, Interpolation, Limits, Rgb, decode, resize_crop};
use occlude_views::{Cut, ViewDecoder, ViewSize};
use serde_json::Value;

/// Mean absolute difference of pixels of a JPEG, in steps of 1/255: another inverse transform, another interpolation of
/// chroma. A wrong colour space is off by tens.
const MEAN: f64 = 1.0;
/// The same of a small view.
const VIEW_MEAN: f64 = 1.5;
/// Side of the views.
const SIDE: usize = 24;

fn mean(a: &[u8], b: &[u8]) -> f64 {
    differences(a.iter().map(|&v| f64::from(v)), b.iter().map(|&v| f64::from(v))).0
}

/// The whole picture as a view, `(3, SIDE, SIDE)`.
fn view(bytes: &[u8], (width, height): (u32, u32)) -> Vec<u8> {
    let mut decoder = ViewDecoder::new(Limits::default());
    let opened = decoder.open(bytes).expect("opens");
    assert_eq!(opened.size(), (width, height));
    let crop = CropBox { left: 0.0, top: 0.0, width: f64::from(width), height: f64::from(height) };
    let mut out = vec![0; 3 * SIDE * SIDE];
    let size = ViewSize { side: SIDE, least_area: 0.0 };
    decoder.views(&opened, &[size], &[Cut { crop, flip: false }], &mut [&mut out[..]]).expect("decodes");
    out
}

/// What is wrong with a case, if anything.
fn wrong(folder: &Path, case: &Value) -> Option<String> {
    let text = |key: &str| case[key].as_str().expect("text");
    let side = |key: &str| case[key].as_u64().expect("a number") as u32;
    let bytes = std::fs::read(folder.join(text("file"))).expect("written");
    let data = std::fs::read(folder.join(text("expect"))).expect("written");
    let expected = Rgb { width: side("width"), height: side("height"), data };
    let decoded = match decode(&bytes, &Limits::default()) {
        Ok(decoded) => decoded.image,
        Err(error) => return Some(format!("decode: {error}")),
    };
    let size = (expected.width, expected.height);
    if (decoded.width, decoded.height) != size {
        return Some(format!("{decoded:?} where Pillow has {size:?}"));
    }
    let apart = mean(&decoded.data, &expected.data);
    let exact = case["exact"] == true;
    if apart > if exact { 0.0 } else { MEAN } {
        return Some(format!("decode: {apart:.2} apart"));
    }
    let whole = CropBox { left: 0.0, top: 0.0, width: size.0.into(), height: size.1.into() };
    let small = resize_crop(&expected, whole, SIDE as u32, SIDE as u32, Interpolation::Bilinear);
    let planar: Vec<u8> = (0..3).flat_map(|c| small.data.iter().skip(c).step_by(3).copied()).collect();
    let apart = mean(&view(&bytes, size), &planar);
    (apart > VIEW_MEAN).then(|| format!("view: {apart:.2} apart"))
}

#[test]
fn metadata_is_read_as_pillow_reads_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metadata.py");
    let lines = python(&script, &[folder.path()]);
    let cases: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(cases.len() > 400, "{} cases", cases.len());
    let found = |case| wrong(folder.path(), case).map(|why| format!("{}: {why}", case["file"]));
    let wrong: Vec<String> = cases.iter().filter_map(found).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
