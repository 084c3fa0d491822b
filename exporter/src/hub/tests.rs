//! What was written is read back as the same network, and what no project has is refused.

use std::collections::BTreeMap;
use std::fs;

use occlude_checkpoint::{Checkpoint, EncoderData, EncoderTensor, LoadOptions, LoadReport, load_encoder};
use occlude_encoder::layout::{self, Naming};
use occlude_encoder::{Graph, ParamKind};
use occlude_preprocess::HighPass;
use serde_json::json;

use super::*;

/// An encoder with values that depend on the names' order and on the place.
fn encoder(name: &str) -> Encoder<'static> {
    let arch: Arch = name.parse().expect("a network");
    let tensor = |(i, param): (usize, occlude_encoder::Param)| {
        let len: usize = param.shape.iter().product();
        let value = |k: usize| ((1 + (i + 3 * k) % 11) as f32 - 5.5) / 32.0;
        let data = match param.kind {
            ParamKind::BnCount => EncoderData::I64(7),
            ParamKind::BnVar => EncoderData::F32((0..len).map(|k| value(k).abs() + 0.5).collect()),
            _ => EncoderData::F32((0..len).map(value).collect()),
        };
        (param.name, EncoderTensor { shape: param.shape, data })
    };
    Encoder {
        whitening: None,
        arch,
        layout: layout::Layout { prefix: String::new(), naming: Naming::Torchvision },
        tensors: Graph::new(arch).params().into_iter().enumerate().map(tensor).collect::<BTreeMap<_, _>>(),
        report: LoadReport::default(),
    }
}

fn hub<'a>(
    folder: &'a Path,
    encoder: &'a Encoder<'a>,
    contract: &'a Preprocess,
    force: bool,
) -> Result<Hub<'a>, Error> {
    Hub::new(folder, encoder, contract, &[Model::Fp32], (vec!["in.safetensors".into()], force))
}

/// The embedding of a picture by the plain computation; a network that lacks a scale is the same with one of ones.
fn embedding(encoder: &Encoder<'_>, side: usize) -> Vec<f32> {
    let image: Vec<f32> = (0..3 * side * side).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
    let graph = Graph::new(encoder.arch);
    let features =
        crate::reference::values(encoder, &image, side, &[graph.features()]).expect("computed").remove(0);
    if encoder.arch.vit().is_some() { features.data[..features.width].to_vec() } else { features.pooled() }
}

#[test]
fn both_layouts_are_read_back_as_the_same_network() {
    for (name, crop, timm) in [
        ("vit_32x2x4_patch8_32", 32, true),
        ("vit_32x2x4_patch8_eps12_32", 40, false),
        ("vit_32x2x4_patch8_reg2_ls_patchpos_32", 48, true),
        ("vit_32x2x4_patch8_reg2_ls_32", 48, true),
        ("vit_32x2x4_patch8_ls_swiglu_32", 32, true),
        ("resnet18", 32, true),
        ("resnet50", 32, true),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let (encoder, contract) = (encoder(name), Preprocess::imagenet(crop));
        let figures = vec![("knn".to_owned(), json!({"k=10": 46.25}))];
        let card =
            Card { title: "A title".to_owned(), figures, models: vec![Model::Fp32], ..Card::default() };
        hub(folder.path(), &encoder, &contract, false).and_then(|hub| hub.write(&card)).expect(name);
        assert_eq!(folder.path().join("timm").is_dir(), timm, "{name}");
        let expected = embedding(&encoder, crop as usize);
        for file in ["model.safetensors", "timm/model.safetensors"].iter().take(1 + usize::from(timm)) {
            let checkpoint = Checkpoint::open(folder.path().join(file)).expect("opens");
            // timm's configuration has the heads where only timm looks
            let arch = encoder.arch.vit().filter(|_| file.starts_with("timm")).map(|vit| {
                Arch::Vit(Vit {
                    grid: crop as usize / vit.patch,
                    class_position: weights::has_class_position(vit),
                    ..vit
                })
            });
            let read = load_encoder(&checkpoint, &LoadOptions { arch, ..LoadOptions::default() });
            let read = read.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(
                read.report.unused.iter().all(|key| key.ends_with("mask_token")),
                "{name}: {:?}",
                read.report
            );
            let found = embedding(&read, crop as usize);
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == expected.len() && worst < 1e-5, "{name}, {file}: {worst}");
        }
        let read = Preprocess::beside(&folder.path().join("model.safetensors")).expect("read");
        assert_eq!(read.as_ref(), Some(&contract), "{name}");
        let page = fs::read_to_string(folder.path().join("README.md")).expect("a page");
        assert!(
            page.contains("# A title") && page.contains("| k=10 | 46.25 |") && page.contains("model.onnx"),
            "{page}"
        );
        assert_eq!(page.contains("local-dir:{FOLDER}/timm"), timm, "{page}");
    }
}

#[test]
fn what_transformers_lacks_has_timms_layout() {
    let folder = tempfile::tempdir().expect("a folder");
    let (encoder, contract) = (encoder("resnext50_32x4d"), Preprocess::imagenet(32));
    hub(folder.path(), &encoder, &contract, false)
        .and_then(|hub| hub.write(&Card::default()))
        .expect("written");
    let config = fs::read_to_string(folder.path().join("config.json")).expect("a configuration");
    assert!(config.contains("\"architecture\": \"resnext50_32x4d\"") && !folder.path().join("timm").exists());
    let page = fs::read_to_string(folder.path().join("README.md")).expect("a page");
    assert!(page.contains("local-dir:{FOLDER}\""), "{page}");
}

#[test]
fn what_cannot_be_published_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |name: &str, contract: Preprocess, force| {
        let encoder = encoder(name);
        hub(folder.path(), &encoder, &contract, force).expect_err(name).to_string()
    };
    let usual = Preprocess::imagenet(32);
    assert!(refused("resnet18-small", usual.clone(), false).contains("for small pictures"));
    let filtered = Preprocess { high_pass: Some(HighPass { kernel: 11, sigma: 5.0 }), ..usual.clone() };
    assert!(refused("resnet18", filtered, false).contains("high-pass"));
    assert!(
        refused("vit_32x2x4_patch8_32", Preprocess::imagenet(30), false).contains("multiple of the patch")
    );
    assert!(fs::read_dir(folder.path()).expect("a folder").next().is_none(), "nothing is left behind");
    fs::write(folder.path().join("README.md"), "mine").expect("written");
    assert!(refused("resnet18", usual.clone(), false).contains("--force"));
    let encoder = encoder("resnet18");
    assert!(hub(folder.path(), &encoder, &usual, true).is_ok());
}

#[test]
fn the_weights_of_large_models_and_inputs_are_not_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let (encoder, contract) = (encoder("resnet18"), Preprocess::imagenet(32));
    let free = hub(folder.path(), &encoder, &contract, false).expect("an empty folder");
    assert!(free.check_data(&[Model::Fp32, Model::Fp16]).is_ok());
    fs::write(folder.path().join("onnx/model_fp16.onnx.data"), "mine").expect("written");
    assert!(free.check_data(&[Model::Fp32]).is_ok(), "that one has another name");
    let refused = free.check_data(&[Model::Fp16]).expect_err("there already").to_string();
    assert!(refused.contains("model_fp16.onnx.data` exists"), "{refused}");
    let figures = folder.path().join("config.json");
    fs::write(&figures, "{}").expect("written");
    let hub = Hub::new(folder.path(), &encoder, &contract, &[], (vec![figures], true));
    assert!(hub.expect_err("an input").to_string().contains("both input and output"));
}
