//! Decoding, resizing and the contract against Pillow and torchvision.

mod common;

use std::path::Path;

use common::{differences, python};
use occlude_preprocess::{CropBox, HighPass, Interpolation, Limits, Preprocess, load, resize, resize_crop};
use serde_json::Value;

/// Mean absolute difference of pixels, in steps of 1/255: the figure that formats.md promises.
const PIXEL_MEAN: f64 = 1.0;
/// The same for pictures of one or two chroma samples: the decoder interpolates none at all.
const TINY_MEAN: f64 = 8.0;
/// Normalised values: the last bit of a division.
const NORMALISED_MAX: f64 = 1e-6;
/// Filtered values; the blur sums in another order.
const TENSOR_MAX: f64 = 2e-5;

struct Case {
    json: Value,
    folder: std::path::PathBuf,
}

impl Case {
    fn number(&self, key: &str) -> u32 {
        self.json[key].as_u64().unwrap_or_else(|| panic!("`{key}` in {}", self.json)) as u32
    }

    fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_else(|| panic!("`{key}` in {}", self.json))
    }

    fn how(&self) -> Interpolation {
        if self.text("how") == "bicubic" { Interpolation::Bicubic } else { Interpolation::Bilinear }
    }

    fn source(&self) -> occlude_preprocess::Decoded {
        load(&self.folder.join(self.text("file")), &Limits::default()).expect("decodes")
    }

    fn expected(&self) -> Vec<u8> {
        std::fs::read(self.folder.join(self.text("expect"))).expect("written by the script")
    }

    fn contract(&self) -> Preprocess {
        let sigma = self.json["sigma"].as_f64().unwrap_or_default() as f32;
        let kernel = self.number("kernel");
        let contract = Preprocess {
            resize: self.number("resize"),
            interpolation: self.how(),
            high_pass: (kernel > 0).then_some(HighPass { kernel, sigma }),
            ..Preprocess::imagenet(self.number("crop"))
        };
        contract.validate().expect("valid");
        contract
    }
}

fn bytes(data: &[u8]) -> impl Iterator<Item = f64> + '_ {
    data.iter().map(|&b| f64::from(b))
}

fn check_decode(case: &Case) -> f64 {
    let decoded = case.source();
    let mut notes: Vec<String> = decoded.notes.iter().map(|n| format!("{n:?}")).collect();
    let expected = case.json["notes"].as_array().expect("notes");
    let mut expected: Vec<&str> = expected.iter().filter_map(Value::as_str).collect();
    notes.sort();
    expected.sort_unstable();
    assert_eq!(notes, expected, "{}", case.json);
    let size = (decoded.image.width, decoded.image.height);
    assert_eq!(size, (case.number("width"), case.number("height")), "{}", case.json);
    let (mean, max) = differences(bytes(&decoded.image.data), bytes(&case.expected()));
    let file = case.text("file");
    let lossless = !file.ends_with(".jpg") && !file.ends_with(".webp") || file.contains("lossless");
    let lossy = if size.0.min(size.1) < 4 { TINY_MEAN } else { PIXEL_MEAN };
    assert!(mean <= if lossless { 0.0 } else { lossy }, "{}: mean {mean}, max {max}", case.json);
    mean
}

fn check_resize(case: &Case) -> f64 {
    let image = case.source().image;
    let (width, height) = (case.number("width"), case.number("height"));
    let out = match case.json["box"].as_array() {
        None => resize(&image, width, height, case.how()),
        Some(edges) => {
            let edge = |i: usize| edges[i].as_f64().expect("a number");
            let crop = CropBox { left: edge(0), top: edge(1), width: edge(2), height: edge(3) };
            resize_crop(&image, crop, width, height, case.how())
        }
    };
    same_pixels(case, &out.data)
}

/// Bit for bit: the same weights, the same rounding, the same order of the passes.
fn same_pixels(case: &Case, data: &[u8]) -> f64 {
    let (mean, max) = differences(bytes(data), bytes(&case.expected()));
    assert!(max == 0.0, "{}: mean {mean}, max {max}", case.json);
    mean
}

fn check_tensor(case: &Case) -> f64 {
    let tensor = case.contract().tensor(&case.source().image);
    let expected = case.expected();
    let floats = expected.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b)));
    let (mean, max) = differences(tensor.into_iter().map(f64::from), floats);
    let tolerance = if case.number("kernel") > 0 { TENSOR_MAX } else { NORMALISED_MAX };
    assert!(max <= tolerance, "{}: mean {mean}, max {max}", case.json);
    max
}

#[test]
fn equals_pillow_and_torchvision() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity.py");
    let lines = python(&script, &[folder.path()]);
    let mut worst = std::collections::BTreeMap::<String, (f64, usize)>::new();
    for line in lines.lines() {
        let json: Value = serde_json::from_str(line).expect("a JSON line");
        let case = Case { json, folder: folder.path().to_owned() };
        let kind = case.text("kind");
        let difference = match kind {
            "decode" => check_decode(&case),
            "resize" | "resized_crop" => check_resize(&case),
            "pixels" => same_pixels(&case, &case.contract().pixels(&case.source().image).data),
            "tensor" => check_tensor(&case),
            other => panic!("unknown case `{other}`"),
        };
        let entry = worst.entry(kind.to_owned()).or_default();
        *entry = (entry.0.max(difference), entry.1 + 1);
    }
    assert_eq!(worst.len(), 5, "every kind was tested: {worst:?}");
    for (kind, (difference, cases)) in worst {
        println!("{kind}: {cases} cases, worst difference {difference:.6}");
    }
}
