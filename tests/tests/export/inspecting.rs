//! What a file says about itself.

use occlude_tests::run;
use std::path::Path;

use super::{checkpoint, onnx, place};

#[test]
fn a_file_without_an_embedding_has_no_golden_picture_and_says_so() {
    let (checkpoint, out) = (checkpoint(), place().join("stages.onnx"));
    let said = run::run("occlude-export", &[&"onnx", &checkpoint, &out, &"--outputs", &"res5"]).ok();
    assert!(said.stderr.contains("has no golden picture"), "{}", said.stderr);
    let found = run::run("occlude-export", &[&"inspect", &out, &"--json"]).ok().json();
    assert!(found["golden"].is_null(), "{found}");
}

#[test]
fn the_golden_picture_is_shown_and_not_its_data() {
    let model = onnx("shown", "");
    let found = run::run("occlude-export", &[&"inspect", &model, &"--json"]).ok().json();
    let golden = &found["golden"];
    assert_eq!((&golden["embedding"], &golden["source"]), (&512.into(), &"checkpoint".into()), "{golden}");
    assert!(found["metadata"].as_object().expect("a map").keys().all(|k| !k.starts_with("golden")));
    let text = run::run("occlude-export", &[&"inspect", &model]).ok().stdout;
    assert!(text.contains("embedding of 512") && !text.contains("golden_image"), "{text}");
}

/// A file's identity, as `inspect` says it.
fn identity(model: &Path) -> String {
    let found = run::run("occlude-export", &[&"inspect", &model, &"--json"]).ok().json();
    let identity = found["identity"].as_str().expect("an identity").to_owned();
    assert_eq!(found["metadata"]["occlude.identity"], identity.as_str());
    assert!(
        identity.len() == 64 && identity.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    );
    let text = run::run("occlude-export", &[&"inspect", &model]).ok().stdout;
    assert!(text.contains(&identity), "{text}");
    identity
}

#[test]
fn the_identity_is_that_of_the_numbers() {
    let plain = identity(&onnx("id_plain", ""));
    // What changes no number: another name, a second run, a file for the weights, the opset, free sizes, a licence, the
    // order of the outputs.
    for (name, flags) in [
        ("id_again", ""),
        ("id_external", "--external-data"),
        ("id_opset", "--opset 22"),
        ("id_dynamic", "--dynamic-size"),
        ("id_licence", "--licence MIT"),
        ("id_order", "--outputs saliency,embedding"),
    ] {
        assert_eq!(identity(&onnx(name, flags)), plain, "{flags}");
    }
    let calibrated = "--precision int8 --calibrate @/pictures --calibration-limit 4";
    let mut all = vec![plain];
    for (name, flags) in [
        ("id_half", "--precision fp16".to_owned()),
        ("id_bytes", "--input uint8".to_owned()),
        ("id_raw", "--no-normalize".to_owned()),
        ("id_one", "--outputs embedding".to_owned()),
        ("id_border", "--saliency border".to_owned()),
        ("id_border_3", "--saliency border --saliency-stage 3".to_owned()),
        ("id_sum", "--saliency sum".to_owned()),
        ("id_unfolded", "--no-fold".to_owned()),
        ("id_mean", "--mean 0.5,0.5,0.5".to_owned()),
        ("id_size", "--resize 64".to_owned()),
        ("id_filter", "--high-pass 11,5".to_owned()),
        ("id_int8", calibrated.to_owned()),
        ("id_int8_kept", format!("{calibrated} --keep-float first")),
        ("id_int8_narrow", format!("{calibrated} --reduce-range")),
        ("id_int8_cut", format!("{calibrated} --calibration percentile:99")),
    ] {
        let found = identity(&onnx(name, &flags));
        assert!(!all.contains(&found), "{name} has the identity of another model");
        all.push(found);
    }
}
