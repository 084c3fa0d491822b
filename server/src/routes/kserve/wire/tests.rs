//! What is read of requests.

use super::*;
use crate::inference::encode::Crop;
use crate::routes::kserve::inputs::Output;
use occlude_contract::output::{EMBEDDING, SALIENCY};
use proptest::prelude::*;

const RULES: Rules = Rules { max_images: 2, crop: 1, floats: true, maps: true };

fn read(json: &str, binary: &[u8]) -> Result<(Asked, Pictures), String> {
    let bytes = [json.as_bytes(), binary].concat().into();
    parse(&bytes, (!binary.is_empty()).then_some(json.len()), RULES).map_err(|e| e.message)
}

fn bytes(crop: Crop) -> Vec<u8> {
    match crop {
        Crop::Pixels(pixels) => pixels.data,
        Crop::Normalised(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn pixels(json: &str, binary: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    match read(json, binary)?.1 {
        Pictures::Crops(crops) => Ok(crops.into_iter().map(bytes).collect()),
        Pictures::Files(files) => Ok(files.into_iter().map(|f| f.bytes.to_vec()).collect()),
    }
}

fn input(name: &str, datatype: &str, shape: &str, more: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},{more}}}]}}"#)
}

#[test]
fn the_same_tensor_in_json_and_in_binary() {
    let json = input("images", "UINT8", "[2,1,1,3]", r#""data":[[[[1,2,3]]],[[[4,5,6]]]]"#);
    let binary = input("images", "UINT8", "[2,1,1,3]", r#""parameters":{"binary_data_size":6}"#);
    let expected = Ok(vec![vec![1, 2, 3], vec![4, 5, 6]]);
    assert_eq!(pixels(&json, &[]), expected);
    assert_eq!(pixels(&binary, &[1, 2, 3, 4, 5, 6]), expected);
    let json = input("files", "BYTES", "[1,1]", r#""data":["aGk="],"parameters":{"content_type":"base64"}"#);
    assert_eq!(pixels(&json, &[]), Ok(vec![b"hi".to_vec()]));
    let binary = input("files", "BYTES", "[1]", r#""parameters":{"binary_data_size":6}"#);
    assert_eq!(pixels(&binary, b"\x02\0\0\0hi"), Ok(vec![b"hi".to_vec()]));
    let both = r#""parameters":{"binary_data_size":8,"content_type":"base64"}"#;
    assert_eq!(pixels(&input("files", "BYTES", "[1]", both), b"\x04\0\0\0aGk="), Ok(vec![b"hi".to_vec()]));
}

#[test]
fn floats_are_planes_of_numbers() {
    let values = [0.5f32, -2.0, 3.25];
    let binary = values.map(f32::to_le_bytes).concat();
    let json = input("pixel_values", "FP32", "[1,3,1,1]", r#""data":[[[[0.5]],[[-2]],[[3.25]]]]"#);
    assert_eq!(pixels(&json, &[]), Ok(vec![binary.clone()]));
    let size = |n| {
        input("pixel_values", "FP32", "[1,3,1,1]", &format!(r#""parameters":{{"binary_data_size":{n}}}"#))
    };
    assert_eq!(pixels(&size(12), &binary), Ok(vec![binary.clone()]));
    assert!(pixels(&size(11), &binary[1..]).unwrap_err().contains("11 bytes: expected 12"));
    for (bad, shown) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let binary = [0.0, bad, 0.0].map(f32::to_le_bytes).concat();
        let error = pixels(&size(12), &binary).unwrap_err();
        assert_eq!(error, format!("input `pixel_values` has {shown} at 1: expected numbers"));
    }
    let shape = input("pixel_values", "FP32", "[1,1,1,3]", r#""data":[1,2,3]"#);
    assert!(pixels(&shape, &[]).unwrap_err().contains("expected [n, 3, 1, 1]"));
    let of_bytes = Rules { floats: false, ..RULES };
    let error = parse(&json.into(), None, of_bytes).err().unwrap().message;
    assert_eq!(error, "the model has no input `pixel_values`: expected `files` or `images`");
}

#[test]
fn what_is_not_taken_is_named() {
    let fails = |name, datatype, shape, more, binary: &[u8]| {
        pixels(&input(name, datatype, shape, more), binary).unwrap_err()
    };
    let data = r#""data":[1,2,3]"#;
    assert!(fails("x", "UINT8", "[1,1,1,3]", data, &[]).contains("no input `x`"));
    assert!(fails("images", "FP32", "[1,1,1,3]", data, &[]).contains("is FP32: expected UINT8"));
    let shape = fails("images", "UINT8", "[1,3,1,1]", data, &[]);
    assert_eq!(shape, "input `images` has shape [1, 3, 1, 1]: expected [n, 1, 1, 3]");
    assert!(fails("images", "UINT8", "[]", data, &[]).contains("expected [n, 1, 1, 3]"));
    assert!(fails("images", "UINT8", "[0,1,1,3]", data, &[]).contains("no picture"));
    assert!(fails("images", "UINT8", "[3,1,1,3]", data, &[]).contains("more than 2 pictures"));
    assert!(fails("images", "UINT8", "[2,1,1,3]", data, &[]).contains("3 elements, but the shape has 6"));
    let size = r#""parameters":{"binary_data_size":3}"#;
    assert!(fails("images", "UINT8", "[1,1,1,3]", size, &[1, 2]).contains("is 3, but 2 bytes follow"));
    assert!(fails("images", "UINT8", "[2,1,1,3]", size, &[1, 2, 3]).contains("3 bytes: expected 6"));
    assert!(fails("images", "UINT8", "[1,1,1,3]", data, &[1]).contains("1 bytes after"));
    let neither = r#""parameters":{}"#;
    assert!(fails("images", "UINT8", "[1,1,1,3]", neither, &[]).contains("expected either"));
    let shared = r#""parameters":{"shared_memory_region":"r"}"#;
    assert!(fails("images", "UINT8", "[1,1,1,3]", shared, &[]).contains("shared memory"));
    let other = r#""data":["x"],"parameters":{"content_type":"np"}"#;
    assert!(fails("files", "BYTES", "[1]", other, &[]).contains("`np`: expected `base64`"));
    assert!(pixels(r#"{"inputs":[]}"#, &[]).unwrap_err().contains("0 inputs"));
    let long = parse(&Bytes::from_static(b"{}"), Some(3), RULES).err().unwrap();
    assert_eq!((long.kind, long.message.contains("is 3, but the body has 2")), (Kind::BadRequest, true));
}

#[test]
fn outputs_are_chosen() {
    let asked = |outputs: &str| {
        let json = format!(
            r#"{{"id":"7","inputs":[{{"name":"images","datatype":"UINT8","shape":[1,1,1,3],"data":[1,2,3]}}]{outputs}}}"#
        );
        read(&json, &[]).map(|r| r.0.outputs)
    };
    let output = |name, binary| Output { name, binary };
    assert_eq!(asked("").unwrap(), [output(EMBEDDING, false), output(SALIENCY, false)]);
    let all = asked(r#","parameters":{"binary_data_output":true}"#).unwrap();
    assert_eq!(all, [output(EMBEDDING, true), output(SALIENCY, true)]);
    let one = r#","outputs":[{"name":"saliency","parameters":{"binary_data":true}},{"name":"embedding"}]"#;
    assert_eq!(asked(one).unwrap(), [output(SALIENCY, true), output(EMBEDDING, false)]);
    assert!(asked(r#","outputs":[{"name":"logits"}]"#).unwrap_err().contains("no output `logits`"));
    let twice = r#","outputs":[{"name":"saliency"},{"name":"saliency"}]"#;
    assert!(asked(twice).unwrap_err().contains("twice"));
    let classes = r#","outputs":[{"name":"embedding","parameters":{"classification":3}}]"#;
    assert!(asked(classes).unwrap_err().contains("not supported"));
}

#[test]
fn a_model_without_a_map_has_one_output() {
    let asked = |outputs: &str| {
        let json = format!(
            r#"{{"inputs":[{{"name":"images","datatype":"UINT8","shape":[1,1,1,3],"data":[1,2,3]}}]{outputs}}}"#
        );
        let read = parse(&json.into(), None, Rules { maps: false, ..RULES });
        read.map(|r| r.0.outputs).map_err(|e| e.message)
    };
    assert_eq!(asked("").unwrap(), [Output { name: EMBEDDING, binary: false }]);
    let error = asked(r#","outputs":[{"name":"saliency"}]"#).unwrap_err();
    assert_eq!(error, "there is no output `saliency`: expected `embedding`");
}

proptest! {
    #[test]
    fn no_body_panics(text in "\\PC*", binary in prop::collection::vec(any::<u8>(), 0..40), split in 0usize..60) {
        let body: Bytes = [text.as_bytes(), &binary].concat().into();
        let _ = parse(&body, Some(split), RULES);
    }
}
