//! Models of other projects: taken over, they answer as those projects do; what cannot be honoured is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use occlude_contract::{InputKind, key};
use occlude_export::adopt::{AdoptOptions, Adopted, Asked, Pooling, adopt};
use occlude_export::{Error, OnnxFile, Refusal, VerifyOptions, verify};
use occlude_onnxruntime::{encoder, environment};
use occlude_preprocess::{Center, Fit, Limits, Preprocess, load};
use ort::session::Session;
use prost::Message;
use tract_onnx::pb::{
    self, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto,
    tensor_proto::DataType, tensor_shape_proto::dimension, type_proto,
};

/// Least cosine with the answer of the project that a model is from.
const LEAST: f64 = 0.9999;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adopt")
}

/// By `NAME/OUTPUT` or `NAME/OUTPUT/POOL`, then by picture.
fn answers() -> BTreeMap<String, BTreeMap<String, Vec<f64>>> {
    let text = fs::read_to_string(golden().join("answers.json")).expect("written by make.py");
    serde_json::from_str(&text).expect("JSON")
}

fn asked(output: Option<&str>, pool: Option<Pooling>, skip: usize) -> Asked {
    Asked { output: output.map(ToOwned::to_owned), pool, skip, keep_length: false }
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>();
    let a: Vec<f64> = a.iter().map(|&v| f64::from(v)).collect();
    dot(&a, b) / (dot(&a, &a) * dot(b, b)).sqrt()
}

/// The embeddings of the photos, in one batch, prepared by a contract.
fn embeddings(model: &Path, contract: &Preprocess) -> BTreeMap<String, Vec<f32>> {
    let mut builder = Session::builder(environment().expect("ONNX Runtime")).expect("a session");
    let mut session = builder.commit_from_file(model).expect("loads");
    let names = ["wide", "tall", "long"];
    let photo = |name: &str| {
        let path = golden().join("photos").join(format!("{name}.jpg"));
        contract.pixels(&load(&path, &Limits::default()).expect("decodes").image)
    };
    let pixels = names.map(photo);
    let outputs = encoder::run(&mut session, InputKind::Float, contract, &pixels.each_ref()).expect("runs");
    let (shape, values) = outputs["embedding"].try_extract_tensor::<f32>().expect("floats");
    let dim = usize::try_from(shape[1]).expect("a length");
    names.map(str::to_owned).into_iter().zip(values.chunks(dim).map(<[f32]>::to_vec)).collect()
}

/// What a test works in.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Takes a model over; the file is `out.onnx`.
    fn adopt(&self, model: &Path, options: AdoptOptions) -> Result<Adopted, Error> {
        adopt(model, &self.at("out.onnx"), &AdoptOptions { force: true, ..options })
    }

    /// The refusal of a model, which leaves nothing behind.
    fn refusal(&self, model: &Path, options: AdoptOptions) -> Refusal {
        let before = fs::read_dir(self.0.path()).expect("lists").count();
        let reason = match self.adopt(model, options) {
            Err(Error::Adopt { path, reason }) => {
                assert_eq!(path, model);
                *reason
            }
            other => panic!("{other:?}"),
        };
        assert!(reason.to_string().contains("hint: "), "{reason}");
        assert_eq!(fs::read_dir(self.0.path()).expect("lists").count(), before, "{reason}");
        reason
    }

    /// The model of CLIP, changed.
    fn changed(&self, change: impl FnOnce(&mut ModelProto)) -> PathBuf {
        let bytes = fs::read(golden().join("clip/model.onnx")).expect("there");
        let mut model = ModelProto::decode(bytes.as_slice()).expect("a model");
        change(&mut model);
        let path = self.at("changed.onnx");
        fs::write(&path, model.encode_to_vec()).expect("written");
        path
    }
}

fn clip(asked: Asked) -> AdoptOptions {
    let contract = golden().join("clip/preprocessor_config.json").display().to_string();
    AdoptOptions { contract: Some(contract), asked, ..AdoptOptions::default() }
}

fn embeds() -> Asked {
    asked(Some("image_embeds"), None, 0)
}

#[test]
fn answers_are_those_of_the_project() {
    let place = Place::new();
    let config = golden().join("timm/config.json").display().to_string();
    for (folder, contract, asked, answer) in [
        ("clip", None, embeds(), "clip/image_embeds"),
        ("clip", None, asked(None, Some(Pooling::Cls), 0), "clip/last_hidden_state/cls"),
        ("clip", None, asked(None, Some(Pooling::Mean), 1), "clip/last_hidden_state/mean"),
        ("dinov2/onnx", None, asked(None, Some(Pooling::Pooler), 0), "dinov2/pooler_output"),
        ("dinov2/onnx", None, asked(None, Some(Pooling::Mean), 1), "dinov2/last_hidden_state/mean"),
        ("siglip", None, asked(None, Some(Pooling::Pooler), 0), "siglip/pooler_output"),
        ("siglip", None, asked(None, Some(Pooling::Cls), 0), "siglip/last_hidden_state/cls"),
        ("timm", Some(config), asked(None, None, 0), "timm/output"),
    ] {
        let model = golden().join(folder).join("model.onnx");
        let options = AdoptOptions { contract, asked, ..AdoptOptions::default() };
        let adopted = place.adopt(&model, options).unwrap_or_else(|e| panic!("{answer}: {e}"));
        let found = embeddings(&place.at("out.onnx"), &adopted.contract);
        for (photo, expected) in &answers()[answer] {
            let cosine = cosine(&found[photo], expected);
            assert!(cosine >= LEAST, "{answer}, {photo}: {cosine}");
            let length = found[photo].iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-5, "{answer}, {photo}: {length}");
        }
        let photos = golden().join("photos");
        let compared = verify(&place.at("out.onnx"), &model, &[photos], &VerifyOptions::default());
        let compared = compared.unwrap_or_else(|e| panic!("{answer}: {e}"));
        assert!(compared.passes(compared.usual_tolerance()) && compared.results.len() == 3, "{compared}");
        assert!(compared.adopted && compared.golden.is_some(), "{compared}");
    }
}

/// The tests above tell the geometries apart: with another one, some photo's answer is another one.
#[test]
fn another_geometry_is_seen() {
    let place = Place::new();
    for (folder, name) in [("dinov2/onnx", "dinov2/pooler_output"), ("siglip", "siglip/pooler_output")] {
        let model = golden().join(folder).join("model.onnx");
        let options =
            AdoptOptions { asked: asked(None, Some(Pooling::Pooler), 0), ..AdoptOptions::default() };
        let contract = place.adopt(&model, options).expect("taken over").contract;
        let wrong = match contract.fit {
            Fit::Short => Preprocess { center: Center::Even, ..contract },
            Fit::Squash => Preprocess { fit: Fit::Short, ..contract },
        };
        let found = embeddings(&place.at("out.onnx"), &wrong);
        let worst = answers()[name].iter().map(|(photo, expected)| cosine(&found[photo], expected));
        let worst = worst.fold(1.0, f64::min);
        assert!(worst < LEAST, "{name}: {worst}");
    }
}

#[test]
fn the_file_says_what_it_is() {
    let place = Place::new();
    let options = AdoptOptions { licence: Some("MIT".to_owned()), ..clip(embeds()) };
    let adopted = place.adopt(&golden().join("clip/model.onnx"), options).expect("taken over");
    let file = OnnxFile::open(&place.at("out.onnx")).expect("a model");
    assert_eq!(file.contract().expect("a contract"), adopted.contract);
    assert_eq!((file.input().expect("ours"), file.outputs().expect("ours").len()), (InputKind::Float, 1));
    let golden = file.golden().expect("whole").expect("there");
    assert_eq!((golden.embedding.len(), golden.source.as_str()), (adopted.dim, "onnxruntime"));
    let metadata = file.metadata();
    for (key, value) in [
        (key::FINGERPRINT, adopted.fingerprint.as_str()),
        (key::IDENTITY, &adopted.identity),
        (key::CHECKPOINT, "model.onnx"),
        (key::LICENCE, "MIT"),
        (key::PRECISION, "fp32"),
        (key::ADOPTED, r#"{"input":"pixel_values","output":"image_embeds","skip":0,"normalize":true}"#),
    ] {
        assert_eq!(metadata.get(key).copied(), Some(value), "{key}");
    }
    let other = Asked { keep_length: true, ..embeds() };
    let other = place.adopt(&golden_model(), clip(other)).expect("taken over");
    assert_eq!(other.fingerprint, adopted.fingerprint);
    assert_ne!(other.identity, adopted.identity, "its numbers are others");
    fs::copy(place.at("out.onnx"), place.at("ours.onnx")).expect("copied");
    assert_eq!(place.refusal(&place.at("ours.onnx"), clip(embeds())), Refusal::Ours);
}

fn golden_model() -> PathBuf {
    golden().join("clip/model.onnx")
}

#[test]
fn weights_beside_the_model_come_along() {
    let place = Place::new();
    let model = golden().join("dinov2/onnx/model.onnx");
    let asked = asked(None, Some(Pooling::Pooler), 0);
    let inside = AdoptOptions { asked: asked.clone(), ..AdoptOptions::default() };
    assert_eq!(place.adopt(&model, inside).expect("taken over").data, None);
    let contract = Preprocess::of_folder_exactly(&golden().join("dinov2")).expect("read").expect("there");
    let expected = embeddings(&place.at("out.onnx"), &contract);
    let apart = AdoptOptions { asked: asked.clone(), external_data: true, ..AdoptOptions::default() };
    let data = place.adopt(&model, apart).expect("taken over").data.expect("a file");
    assert_eq!(data, place.at("out.onnx.data"));
    let sizes = [place.at("out.onnx"), data].map(|path| fs::metadata(path).expect("there").len());
    assert!(sizes[1] > 20_000 && sizes[0] < 80_000, "{sizes:?}");
    assert_eq!(embeddings(&place.at("out.onnx"), &contract), expected);

    let alone = place.at("model.onnx");
    fs::copy(&model, &alone).expect("copied");
    let options =
        || AdoptOptions { asked: asked.clone(), contract: Some("dinov2".to_owned()), ..Default::default() };
    let missing = place.refusal(&alone, options());
    assert!(missing.to_string().contains("model.onnx_data`: No such file"), "{missing}");
    let whole = fs::read(model.with_file_name("model.onnx_data")).expect("there");
    fs::write(place.at("model.onnx_data"), &whole[..1000]).expect("written");
    let cut = place.refusal(&alone, options());
    assert!(cut.to_string().contains("it has 1000 bytes, and the model asks for"), "{cut}");
}

#[test]
fn a_fixed_batch_becomes_free_where_answers_allow_it() {
    let place = Place::new();
    let config = golden().join("timm/config.json").display().to_string();
    let options = AdoptOptions { contract: Some(config), ..AdoptOptions::default() };
    let adopted = place.adopt(&golden().join("timm/model.onnx"), options).expect("taken over");
    assert!(adopted.freed && adopted.choice.input == "input");
    let shape = |shape: &[i64]| int64("shape", shape);
    let built_in = tiny(
        Some(1),
        vec![node("Reshape", &["pixel_values", "shape"], "output", None)],
        vec![shape(&[1, 192])],
    );
    let reason = place.refusal(&written(&place, &built_in), tiny_options());
    assert!(matches!(&reason, Refusal::Run { pictures, .. } if pictures == "3 pictures"), "{reason}");
    assert!(reason.to_string().contains("export it with a dynamic batch"), "{reason}");
}

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
fn the_embedding_may_have_its_name_already() {
    let place = Place::new();
    place.adopt(&golden_model(), clip(embeds())).expect("taken over");
    let contract = Preprocess::of_folder_exactly(&golden().join("clip")).expect("read").expect("there");
    let expected = embeddings(&place.at("out.onnx"), &contract);
    let renamed = place.changed(|model| rename(model, "image_embeds", "embedding"));
    place.adopt(&renamed, clip(asked(Some("embedding"), None, 0))).expect("taken over");
    assert_eq!(embeddings(&place.at("out.onnx"), &contract), expected);
    let taken = place.refusal(&renamed, clip(asked(None, Some(Pooling::Cls), 0)));
    assert_eq!(taken, Refusal::Name { name: "embedding", what: "the output" });
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

#[test]
fn verify_finds_another_original() {
    let place = Place::new();
    place.adopt(&golden_model(), clip(embeds())).expect("taken over");
    let other = place.changed(|model| {
        let weights = graph(model).initializer.iter_mut().find(|t| t.raw_data.len() > 1000).expect("weights");
        weights.raw_data.chunks_exact_mut(4).for_each(|v| v[3] ^= 0x80);
    });
    let photos = [golden().join("photos")];
    let compared = verify(&place.at("out.onnx"), &other, &photos, &VerifyOptions::default()).expect("runs");
    assert!(!compared.same_fingerprint() && !compared.passes(1e-4), "{compared}");
    assert!(compared.to_string().contains("the original has"), "{compared}");
    let maps = VerifyOptions { maps: Some(place.at("maps.png")), ..VerifyOptions::default() };
    let error = verify(&place.at("out.onnx"), &golden_model(), &photos, &maps).expect_err("no maps");
    assert!(error.to_string().contains("`--maps`"), "{error}");
}

fn graph(model: &mut ModelProto) -> &mut pb::GraphProto {
    model.graph.as_mut().expect("a graph")
}

fn rename(model: &mut ModelProto, from: &str, to: &str) {
    let graph = graph(model);
    let names = graph.node.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output));
    let names = names.chain(graph.output.iter_mut().map(|o| &mut o.name));
    names.filter(|name| *name == from).for_each(|name| to.clone_into(name));
}

fn port(name: &str, element: DataType, sides: &[Option<i64>]) -> ValueInfoProto {
    let dim = |side: &Option<i64>| pb::tensor_shape_proto::Dimension {
        value: Some(match side {
            Some(n) => dimension::Value::DimValue(*n),
            None => dimension::Value::DimParam("batch".to_owned()),
        }),
        ..Default::default()
    };
    let shape = pb::TensorShapeProto { dim: sides.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: element as i32, shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(pb::TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str, axis: Option<i64>) -> NodeProto {
    let attribute = |i| pb::AttributeProto { name: "axis".to_owned(), i, r#type: 2, ..Default::default() };
    NodeProto {
        op_type: op.to_owned(),
        name: output.to_owned(),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: axis.map(attribute).into_iter().collect(),
        ..Default::default()
    }
}

fn tensor(name: &str, element: DataType, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    let (name, dims) = (name.to_owned(), dims.to_vec());
    TensorProto { name, dims, data_type: element as i32, raw_data, ..Default::default() }
}

fn int64(name: &str, values: &[i64]) -> TensorProto {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(name, DataType::Int64, &[values.len() as i64], bytes)
}

fn float(name: &str, value: f32) -> TensorProto {
    tensor(name, DataType::Float, &[1], value.to_le_bytes().to_vec())
}

/// A model of pictures of 8 pixels.
fn tiny(batch: Option<i64>, nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let graph = pb::GraphProto {
        name: "tiny".to_owned(),
        node: nodes,
        initializer,
        input: vec![port("pixel_values", DataType::Float, &[batch, Some(3), Some(8), Some(8)])],
        output: vec![port("output", DataType::Float, &[batch, Some(192)])],
        ..Default::default()
    };
    ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { version: 17, ..Default::default() }],
        metadata_props: vec![StringStringEntryProto { key: "kept".to_owned(), value: "as it is".to_owned() }],
        ..Default::default()
    }
}

fn written(place: &Place, model: &ModelProto) -> PathBuf {
    let path = place.at("tiny.onnx");
    fs::write(&path, model.encode_to_vec()).expect("written");
    path
}

fn tiny_options() -> AdoptOptions {
    let file = std::env::temp_dir().join(format!("occlude-adopt-{}.json", std::process::id()));
    fs::write(&file, Preprocess::imagenet(8).to_json()).expect("written");
    AdoptOptions { contract: Some(file.display().to_string()), ..AdoptOptions::default() }
}

/// Older and newer reductions, and what of the original's metadata is said.
#[test]
fn every_operator_set_gives_the_same() {
    let place = Place::new();
    let mut found = Vec::new();
    for version in [11, 12, 13, 17, 18, 21] {
        let nodes = vec![node("Flatten", &["pixel_values"], "output", Some(1))];
        let mut model = tiny(None, nodes, vec![]);
        model.opset_import[0].version = version;
        place.adopt(&written(&place, &model), tiny_options()).unwrap_or_else(|e| panic!("{version}: {e}"));
        found.push(embeddings(&place.at("out.onnx"), &Preprocess::imagenet(8)));
        let file = OnnxFile::open(&place.at("out.onnx")).expect("a model");
        assert_eq!(file.metadata().get("kept").copied(), Some("as it is"));
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
    for version in [11, 17, 18] {
        let shape = vec![int64("shape", &[0, 12, 16])];
        let mut model = tiny(None, vec![node("Reshape", &["pixel_values", "shape"], "output", None)], shape);
        graph(&mut model).output = vec![port("output", DataType::Float, &[None, Some(12), Some(16)])];
        model.opset_import[0].version = version;
        let options = AdoptOptions { asked: asked(None, Some(Pooling::Mean), 2), ..tiny_options() };
        let path = written(&place, &model);
        place.adopt(&path, options).unwrap_or_else(|e| panic!("{version}: {e}"));
        let photos = [golden().join("photos")];
        let compared = verify(&place.at("out.onnx"), &path, &photos, &VerifyOptions::default());
        let compared = compared.expect("runs");
        assert!(compared.passes(1e-4), "{version}: {compared}");
    }
    let nodes = vec![node("Identity", &["pixel_values"], "output", None)];
    let mut map = tiny(None, nodes, vec![]);
    graph(&mut map).output = vec![port("output", DataType::Float, &[None, Some(3), Some(8), Some(8)])];
    let options = AdoptOptions { asked: asked(None, Some(Pooling::Mean), 0), ..tiny_options() };
    assert_eq!(place.adopt(&written(&place, &map), options).expect("taken over").dim, 3);
}
