//! The contract: its JSON, its errors, and properties of what it does.

mod common;

use common::{differences, picture};
use occlude_preprocess::{
    Center, ContractError, CropBox, Fit, HighPass, Interpolation, Limits, Preprocess, Rgb, load, resize,
    resize_crop,
};
use proptest::prelude::*;

fn filtered() -> Preprocess {
    Preprocess { high_pass: Some(HighPass { kernel: 11, sigma: 5.0 }), ..Preprocess::imagenet(64) }
}

/// Fingerprints are computed over this text: a change here invalidates every index.
#[test]
fn the_canonical_form_is_fixed() {
    assert_eq!(
        Preprocess::imagenet(224).to_json(),
        r#"{"version":1,"color":"RGB","resize":256,"crop":224,"interpolation":"bilinear","mean":[0.485,0.456,0.406],"std":[0.229,0.224,0.225],"high_pass":null}"#
    );
    let squashed = Preprocess { fit: Fit::Squash, center: Center::Down, ..Preprocess::imagenet(224) };
    assert!(squashed.to_json().ends_with(r#""high_pass":null,"fit":"squash","center":"down"}"#));
    assert!(filtered().to_json().ends_with(r#""high_pass":{"kernel":11,"sigma":5.0}}"#));
}

#[test]
fn round_trip() {
    for contract in [
        Preprocess::imagenet(224),
        filtered(),
        Preprocess { fit: Fit::Squash, center: Center::Down, ..Preprocess::imagenet(64) },
        Preprocess {
            interpolation: Interpolation::Bicubic,
            mean: [0.1, 1.0 / 3.0, 0.7],
            ..Preprocess::imagenet(33)
        },
    ] {
        assert_eq!(Preprocess::from_json(&contract.to_json()), Ok(contract));
    }
}

/// Squashed, the crop is cut from a square of `resize`; all of it where both are the same.
#[test]
fn squashed_pictures() {
    let picture = picture(90, 51);
    let contract = Preprocess { resize: 40, fit: Fit::Squash, ..Preprocess::imagenet(32) };
    let all = resize(&picture, 40, 40, contract.interpolation);
    let row = |y: usize| all.data[((y + 4) * 40 + 4) * 3..][..32 * 3].to_vec();
    assert_eq!(contract.pixels(&picture).data, (0..32).flat_map(row).collect::<Vec<u8>>());
    assert_eq!(contract.shown(90, 51), CropBox { left: 9.0, top: 5.1, width: 72.0, height: 40.8 });
    let whole = Preprocess { resize: 32, ..contract };
    assert_eq!(whole.pixels(&picture), resize(&picture, 32, 32, whole.interpolation));
    assert_eq!(whole.shown(90, 51), CropBox { left: 0.0, top: 0.0, width: 90.0, height: 51.0 });
}

/// Of 7 pixels that are left out, torchvision has 4 before the crop and transformers 3.
#[test]
fn half_pixels_are_rounded_as_the_contract_says() {
    let even = Preprocess { resize: 32, ..Preprocess::imagenet(32) };
    let down = Preprocess { center: Center::Down, ..even.clone() };
    let left = |contract: &Preprocess, width| contract.shown(width, 32).left;
    assert_eq!((left(&even, 39), left(&down, 39)), (4.0, 3.0));
    for width in [32, 37, 38] {
        assert_eq!(left(&even, width), left(&down, width), "{width}");
    }
}

#[test]
fn imagenet_sizes() {
    for (crop, resize) in [(224, 256), (64, 73), (96, 110), (32, 37)] {
        assert_eq!(Preprocess::imagenet(crop).resize, resize);
    }
}

/// The error of the canonical form with one part replaced.
fn replaced(part: &str, by: &str) -> ContractError {
    let json = filtered().to_json();
    assert!(json.contains(part), "{json}");
    Preprocess::from_json(&json.replacen(part, by, 1)).expect_err("invalid")
}

#[test]
fn every_error() {
    use ContractError as E;
    for (part, by) in [
        ("{\"version\"", "\"version\""),
        ("\"crop\":64,", ""),
        ("\"color\"", "\"x\":1,\"color\""),
        ("bilinear", "nearest"),
        ("64", "-64"),
        ("\"kernel\":11", "\"kernel\":11,\"x\":1"),
    ] {
        assert!(matches!(replaced(part, by), E::Json(_)), "{by}");
    }
    assert_eq!(replaced("\"version\":1", "\"version\":2,\"new\":0"), E::Version { found: 2 });
    assert_eq!(replaced("RGB", "BGR"), E::Colour { found: "BGR".to_owned() });
    assert_eq!(replaced("\"crop\":64", "\"crop\":0"), E::Size { field: "crop", found: 0 });
    assert_eq!(
        replaced("\"resize\":73", "\"resize\":4000000000"),
        E::Size { field: "resize", found: 4_000_000_000 }
    );
    assert_eq!(replaced("\"crop\":64", "\"crop\":74"), E::CropTooLarge { crop: 74, resize: 73 });
    assert!(matches!(replaced("0.485", "1e999"), E::Json(_)));
    assert!(matches!(replaced("0.229", "0"), E::Statistics { field: "std", .. }));
    assert!(matches!(replaced("0.224", "-1"), E::Statistics { field: "std", .. }));
    // On the 0..255 scale, with the same on the other one as a hint.
    for (field, wrong, right) in [
        ("mean", [123.675, 116.28, 103.53], "0.485,0.456,0.406"),
        ("std", [58.395, 57.12, 57.375], "0.229,0.224,0.225"),
        ("std", [255.0; 3], "1,1,1"),
    ] {
        let contract = match field {
            "mean" => Preprocess { mean: wrong, ..filtered() },
            _ => Preprocess { std: wrong, ..filtered() },
        };
        let error = contract.validate().expect_err("refused");
        assert_eq!(
            error,
            E::Statistics { field: if field == "mean" { "mean" } else { "std" }, found: wrong }
        );
        assert!(
            error.to_string().contains(&format!("hint: these look like the 0..255 scale, which is {right}")),
            "{error}"
        );
    }
    for (mean, std, fine) in [
        ([0.0, 0.5, 1.0], [0.003, 0.5, 1.0], true),
        ([0.5, -0.1, 0.5], [0.5; 3], false),
        ([0.5, 1.1, 0.5], [0.5; 3], false),
        ([0.5; 3], [0.5, 1.01, 0.5], false),
        ([0.5; 3], [0.5, f32::INFINITY, 0.5], false),
        ([0.5; 3], [0.5, f32::NAN, 0.5], false),
    ] {
        assert_eq!(Preprocess { mean, std, ..filtered() }.validate().is_ok(), fine, "{mean:?} {std:?}");
    }
    let not_finite = Preprocess { mean: [f32::NAN; 3], ..filtered() };
    assert!(matches!(not_finite.validate(), Err(E::Statistics { field: "mean", .. })));
    for kernel in [0, 10, 129] {
        assert_eq!(
            replaced("\"kernel\":11", &format!("\"kernel\":{kernel}")),
            E::Kernel { kernel, max: 127 }
        );
    }
    assert_eq!(replaced("5.0", "0.0"), E::Sigma { found: 0.0 });
}

#[test]
fn errors_say_what_to_do() {
    assert!(replaced("\"version\":1", "\"version\":9").to_string().contains("hint: update"));
    assert!(replaced("\"color\"", "\"colour\":1,\"color\"").to_string().contains("`colour`"));
}

/// A picture 30000 times wider than high costs the memory of its crop, not of its resized whole.
#[test]
fn extreme_aspects_are_cheap() {
    for (w, h) in [(30_000, 1), (1, 30_000)] {
        let out = Preprocess::imagenet(224).pixels(&Rgb::filled(w, h, [9, 8, 7]));
        assert_eq!(out, Rgb::filled(224, 224, [9, 8, 7]));
    }
}

#[test]
fn pictures_without_area_come_out_black() {
    let none = Rgb { width: 0, height: 5, data: vec![] };
    assert_eq!(Preprocess::imagenet(8).pixels(&none), Rgb::filled(8, 8, [0; 3]));
    assert_eq!(resize(&none, 2, 2, Interpolation::Bilinear), Rgb::filled(2, 2, [0; 3]));
    assert!(resize(&picture(3, 3), 0, 2, Interpolation::Bilinear).data.is_empty());
    assert!(filtered().tensor(&none).is_empty());
}

/// tests/golden: a JPEG and what Pillow and torchvision made of it (make.py).
#[test]
fn golden() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let read = |name| std::fs::read(folder.join(name)).expect("in the repository");
    let json = String::from_utf8(read("contract.json")).expect("UTF-8");
    let contract = Preprocess::from_json(json.trim()).expect("valid");
    let photo = load(&folder.join("photo.jpg"), &Limits::default()).expect("decodes").image;
    let pixels = contract.pixels(&photo);
    let (mean, max) = differences(
        pixels.data.iter().map(|&b| f64::from(b)),
        read("pixels.raw").iter().map(|&b| f64::from(b)),
    );
    assert!(mean <= 0.5 && max <= 4.0, "mean {mean}, max {max}");
    let expected = read("tensor.raw");
    let expected = expected.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b)));
    let (mean, _) = differences(contract.apply(&photo).into_iter().map(f64::from), expected);
    assert!(mean <= 0.5 / 255.0 / 0.225, "mean {mean}");
}

fn hows() -> impl Strategy<Value = Interpolation> {
    prop_oneof![Just(Interpolation::Bilinear), Just(Interpolation::Bicubic)]
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_constant_stays_constant(
        (w, h, width, height) in (1u32..40, 1u32..40, 1u32..40, 1u32..40),
        colour: [u8; 3],
        how in hows(),
    ) {
        prop_assert_eq!(resize(&Rgb::filled(w, h, colour), width, height, how), Rgb::filled(width, height, colour));
    }

    #[test]
    fn any_box_of_any_picture(
        (w, h) in (1u32..20, 1u32..20),
        edges in prop::array::uniform4(-25.0f64..25.0),
        how in hows(),
    ) {
        let [left, top, width, height] = edges;
        let out = resize_crop(&picture(w, h), CropBox { left, top, width, height }, 5, 6, how);
        prop_assert_eq!(out.data.len(), 90);
    }

    #[test]
    fn any_contract_takes_any_picture((w, h) in (1u32..50, 1u32..50), crop in 1u32..40, more in 0u32..20, kernel in 0u32..9) {
        let high_pass = (kernel % 2 == 1 && kernel < 2 * crop).then_some(HighPass { kernel, sigma: 1.0 });
        let contract = Preprocess { resize: crop + more, high_pass, ..Preprocess::imagenet(crop) };
        contract.validate().expect("valid");
        let tensor = contract.apply(&Rgb::filled(w, h, [50, 100, 150]));
        prop_assert_eq!(tensor.len(), (3 * crop * crop) as usize);
        // High-pass leaves nothing of a constant; without it every value is its channel's.
        let expected = contract.tensor(&Rgb::filled(1, 1, [50, 100, 150]));
        for (i, v) in tensor.iter().enumerate() {
            let constant = if high_pass.is_some() { 0.0 } else { expected[i / (crop * crop) as usize] };
            prop_assert!((v - constant).abs() < 1e-5, "{} instead of {}", v, constant);
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = Preprocess::from_json(&text);
    }
}

/// A picture whose red is its column and whose green its row tells where its crop was taken.
#[test]
fn what_is_shown_is_where_the_pixels_come_from() {
    let contract = Preprocess::imagenet(64);
    for (width, height) in [(200, 200), (400, 150), (131, 377), (64, 64), (30, 90), (1000, 75)] {
        let at = |i: u32, n: u32| ((f64::from(i) + 0.5) / f64::from(n) * 250.0).round() as u8;
        let pixel = |i: u32| [at(i % width, width), at(i / width, height), 0];
        let image = Rgb { width, height, data: (0..width * height).flat_map(pixel).collect() };
        let (pixels, shown) = (contract.pixels(&image), contract.shown(width, height));
        for (x, y) in [(4u32, 4u32), (32, 32), (59, 59), (59, 4)] {
            let value = |c: usize| f64::from(pixels.data[((y * 64 + x) * 3) as usize + c]) / 250.0;
            let expect = |i: u32, start: f64, length: f64, side: u32| {
                (start + length * (f64::from(i) + 0.5) / 64.0) / f64::from(side)
            };
            let apart = (value(0) - expect(x, shown.left, shown.width, width))
                .abs()
                .max((value(1) - expect(y, shown.top, shown.height, height)).abs());
            assert!(apart < 0.012, "{width}x{height} at {x},{y}: {apart}");
        }
        let inside = shown.left >= 0.0 && shown.left + shown.width <= f64::from(width) + 1e-9;
        assert!(
            inside && shown.top >= 0.0 && shown.top + shown.height <= f64::from(height) + 1e-9,
            "{shown:?}"
        );
    }
}
