//! What cannot be honoured exactly.

use std::fs;

use occlude_export::adopt::{AdoptOptions, Pooling, adopt};
use occlude_export::{Error, Refusal};
use occlude_preprocess::Preprocess;
use tract_onnx::pb::{AttributeProto, ModelProto, TensorProto, tensor_proto::DataType};

use crate::place::{Place, asked, clip, embeds, golden, golden_model};
use crate::tiny::{float, graph, node, port, tiny, tiny_options, written};

#[test]
fn pictures_that_are_mixed_are_refused() {
    let place = Place::new();
    let nodes = vec![
        node("Flatten", &["pixel_values"], "flat", Some(1)),
        node("Softmax", &["flat"], "share", Some(0)),
        node("Mul", &["flat", "share"], "output", None),
    ];
    let reason = place.refusal(&written(&place, &tiny(None, nodes, vec![])), tiny_options());
    assert!(matches!(reason, Refusal::Batch { batch: 3, .. }), "{reason}");
}

#[test]
fn answers_that_are_none_are_refused() {
    let place = Place::new();
    let of = |op, second: &str| {
        let nodes = vec![
            node("Flatten", &["pixel_values"], "flat", Some(1)),
            node(op, &["flat", second], "output", None),
        ];
        place.refusal(&written(&place, &tiny(None, nodes, vec![float("zero", 0.0)])), tiny_options())
    };
    for (op, second, found) in [("Sub", "flat", "zero throughout"), ("Div", "zero", "not finite")] {
        let reason = of(op, second);
        assert!(matches!(&reason, Refusal::Answer { found: f, .. } if f == found), "{reason}");
    }
}

#[test]
fn an_embedding_in_doubt_is_refused() {
    let place = Place::new();
    let of = |asked| place.refusal(&golden_model(), clip(asked)).to_string();
    let several = of(asked(None, None, 0));
    assert!(several.contains("`image_embeds`, float (any, 12) or `last_hidden_state`, float ("), "{several}");
    let mean = Some(Pooling::Mean);
    for (asked, part) in [
        (asked(Some("logits"), None, 0), "no output `logits`: found `image_embeds`, `last_hidden_state`"),
        (asked(None, Some(Pooling::Pooler), 0), "no output `pooler_output`"),
        (asked(Some("last_hidden_state"), None, 0), "`--pool cls` takes the first"),
        (asked(Some("image_embeds"), mean, 0), "leave out `--pool`"),
        (asked(Some("image_embeds"), None, 1), "`--skip-tokens`"),
    ] {
        let reason = of(asked);
        assert!(reason.contains(part), "{reason}");
    }
}

#[test]
fn what_takes_no_picture_is_refused() {
    let place = Place::new();
    let of = |change: fn(&mut ModelProto)| {
        let path = place.changed(change);
        place.refusal(&path, clip(embeds())).to_string()
    };
    let words = of(|model| graph(model).input.push(port("input_ids", DataType::Int64, &[None, Some(77)])));
    assert!(words.contains("it takes `pixel_values`, `input_ids`: expected one picture"), "{words}");
    assert!(of(|model| graph(model).input.clear()).contains("it takes nothing"));
    let with = |element, sides: &[Option<i64>]| {
        let path = place.changed(|model| graph(model).input = vec![port("pixel_values", element, sides)]);
        place.refusal(&path, clip(embeds())).to_string()
    };
    let (any, side) = (None, Some(32));
    for (element, sides, part) in [
        (DataType::Int64, &[any, Some(77)][..], "has to be a normalised picture"),
        (DataType::Float16, &[any, Some(3), side, side], "single precision"),
        (DataType::Float, &[any, Some(3), side], "four sides"),
        (DataType::Float, &[any, side, side, Some(3)], "channels first"),
        (DataType::Float, &[any, Some(1), side, side], "RGB"),
        (DataType::Float, &[any, Some(3), Some(64), Some(64)], "(N, 3, 32, 32); hint: give the contract"),
        (DataType::Float, &[any, Some(3), Some(64), side], "not square"),
    ] {
        let reason = with(element, sides);
        assert!(reason.contains(part), "{reason}");
    }
    let old = of(|model| model.opset_import[0].version = 10);
    assert!(old.contains("operator set 10: expected 11 to 23"), "{old}");
}

#[test]
fn what_is_no_model_is_told() {
    let place = Place::new();
    let whole = fs::read(golden_model()).expect("there");
    let other = place.at("other.onnx");
    for bytes in [&b"no model at all"[..], b"", &whole[..whole.len() / 2]] {
        fs::write(&other, bytes).expect("written");
        let error = place.adopt(&other, clip(embeds())).expect_err("no model");
        assert!(matches!(error, Error::NotOnnx { .. }), "{error}");
    }
    let error = place.adopt(&place.at("gone.onnx"), clip(embeds())).expect_err("no file");
    assert!(matches!(error, Error::Read { .. }), "{error}");
    let out = golden_model();
    let error = adopt(&out, &out, &AdoptOptions { force: true, ..clip(embeds()) }).expect_err("itself");
    assert!(matches!(error, Error::Output(_)), "{error}");
}

#[test]
fn processors_that_cannot_be_honoured_are_named() {
    let place = Place::new();
    let model = place.at("model.onnx");
    fs::copy(golden_model(), &model).expect("copied");
    let text = fs::read_to_string(golden().join("clip/preprocessor_config.json")).expect("there");
    let options = || AdoptOptions { asked: embeds(), ..AdoptOptions::default() };
    assert_eq!(place.refusal(&model, options()), Refusal::NoContract);
    for (key, value, part) in [
        ("do_pad", serde_json::json!(true), "`do_pad` is true"),
        ("rescale_factor", serde_json::json!(0.00784), "`rescale_factor` is 0.00784 instead of 1/255"),
        ("do_flip_channel_order", serde_json::json!(true), "B G R"),
        ("size", serde_json::json!({"height": 32, "width": 48}), "32x48, which is no square"),
    ] {
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config[key] = value;
        fs::write(place.at("preprocessor_config.json"), config.to_string()).expect("written");
        let error = place.adopt(&model, options()).expect_err(key).to_string();
        assert!(error.contains("preprocessor_config.json`") && error.contains(part), "{error}");
    }
    let filtered = Preprocess::imagenet(32).to_json().replace("null", r#"{"kernel":11,"sigma":5.0}"#);
    fs::write(place.at("filtered.json"), filtered).expect("written");
    let contract = Some(place.at("filtered.json").display().to_string());
    assert_eq!(place.refusal(&model, AdoptOptions { contract, ..options() }), Refusal::HighPass);
}

/// Weights in another file are moved for initialisers alone, and need a file.
#[test]
fn weights_in_other_places_are_refused() {
    let place = Place::new();
    let nodes = || vec![node("Flatten", &["pixel_values"], "output", Some(1))];
    let away = TensorProto { data_location: Some(1), ..float("away", 1.0) };
    let mut constant = node("Constant", &[], "constant", None);
    let value =
        AttributeProto { name: "value".to_owned(), r#type: 4, t: Some(away.clone()), ..Default::default() };
    constant.attribute.push(value);
    let inside = tiny(None, [vec![constant], nodes()].concat(), vec![]);
    for (model, part) in [
        (inside, "values of the operation `constant` are in another file"),
        (tiny(None, nodes(), vec![away]), "`away` names no file"),
    ] {
        let reason = place.refusal(&written(&place, &model), tiny_options());
        assert!(matches!(&reason, Refusal::Weights(text) if text.contains(part)), "{reason}");
    }
}
