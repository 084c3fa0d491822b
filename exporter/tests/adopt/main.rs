//! Models of other projects: taken over, they answer as those projects do; what cannot be honoured is refused.

mod place;
mod refused;
mod tiny;

use std::fs;

use occlude_contract::{InputKind, key};
use occlude_export::adopt::{AdoptOptions, Asked, Pooling};
use occlude_export::{OnnxFile, Refusal, VerifyOptions, verify};
use occlude_preprocess::{Center, Fit, Preprocess};
use tract_onnx::pb::tensor_proto::DataType;

use place::{LEAST, Place, answers, asked, clip, cosine, embeddings, embeds, golden, golden_model};
use tiny::{graph, int64, node, port, rename, tiny, tiny_options, written};

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
        let expected = answers();
        let cosines = expected[name].iter().map(|(photo, expected)| cosine(&found[photo], expected));
        let worst = cosines.fold(1.0, f64::min);
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

/// Caches of hubs have links, to files of other names in a folder without a processor.
#[test]
fn the_processor_is_beside_a_link_to_the_model() {
    let place = Place::new();
    let (blobs, clip) = (place.at("blobs"), golden().join("clip"));
    fs::create_dir(&blobs).expect("a folder");
    fs::copy(golden_model(), blobs.join("0123")).expect("copied");
    let contract = Preprocess::of_folder_exactly(&clip).expect("read").expect("there");
    for (snapshot, below) in [("beside", ""), ("above", "onnx")] {
        let folder = place.at(snapshot);
        let model = folder.join(below).join("model.onnx");
        fs::create_dir_all(folder.join(below)).expect("folders");
        let processor = "preprocessor_config.json";
        fs::copy(clip.join(processor), folder.join(processor)).expect("copied");
        std::os::unix::fs::symlink(blobs.join("0123"), &model).expect("a link");
        let options = AdoptOptions { asked: embeds(), ..AdoptOptions::default() };
        let adopted = place.adopt(&model, options).unwrap_or_else(|e| panic!("{snapshot}: {e}"));
        assert_eq!(adopted.contract, contract, "{snapshot}");
    }
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
