//! What files depend on stays: models of the same weights are the same to the bit, whatever the description of the
//! encoder is made of.

use std::collections::BTreeMap;

use occlude_checkpoint::{Checkpoint, EncoderData, EncoderTensor, LoadOptions, LoadReport, load_encoder};
use occlude_encoder::layout::{Layout, Naming};
use occlude_encoder::{Arch, ParamKind};

use super::*;

/// An encoder whose weights are small multiples of a power of two: sums of them are exact everywhere.
fn encoder(arch: Arch) -> Encoder<'static> {
    let tensor = |(i, param): (usize, occlude_encoder::Param)| {
        let len: usize = param.shape.iter().product();
        let value = |k: usize| ((1 + (i + 3 * k) % 11) as f32) / 64.0;
        let data = match param.kind {
            ParamKind::BnCount => EncoderData::I64(7),
            _ => EncoderData::F32((0..len).map(value).collect()),
        };
        (param.name, EncoderTensor { shape: param.shape, data })
    };
    Encoder {
        whitening: None,
        arch,
        layout: Layout { prefix: String::new(), naming: Naming::Torchvision },
        tensors: Graph::new(arch).params().into_iter().enumerate().map(tensor).collect::<BTreeMap<_, _>>(),
        report: LoadReport::default(),
    }
}

/// Operations, weights and preprocessing of three models, as one number each; and the fingerprint of the weights.
#[test]
fn files_are_what_they_were() {
    let contract = Preprocess::imagenet(64);
    let all = "embedding,saliency,saliency_sum,res2,res3,res4,res5";
    let outputs: Vec<OutputKind> = all.split(',').map(|kind| kind.parse().expect("an output")).collect();
    let unfolded = OnnxOptions { fold: false, outputs, dynamic_size: true, ..OnnxOptions::default() };
    let saliency = Making::of(MapRule::Border);
    let bytes = OnnxOptions { input: InputKind::Uint8, saliency, ..OnnxOptions::default() };
    let encoder = encoder(Arch::ResNet18);
    assert_eq!(
        encoder.fingerprint(&contract.to_json()),
        "5b7029fc5ce892d1e479ea8ebd52ae3a390d2be265e5f90eeed1060bf18440f1"
    );
    let network = Network { encoder: &encoder, contract: &contract, projection: None };
    for (options, identity) in [
        (OnnxOptions::default(), "94604e8d091e67816f04ea5b5fc9cf5a1b17d051a3f7ef981c4a31e3c8357a12"),
        (unfolded, "ef946517e89897850e196d9abd59edc34c6fa4be5775d7d205b2480cef2b71f7"),
        (bytes, "761526a589f36fa3d30c560a570033cafa0d6100cd5328210f310499b773d460"),
    ] {
        let found = model(network, &options, &ModelInfo::default()).expect("a model");
        assert_eq!(found.identity(), identity, "{options:?}");
    }
}

/// A golden file of `crates/encoder/golden`.
fn golden(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/encoder/golden");
    Checkpoint::open(folder.join(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// Largest difference of tokens, which are of the order of one, computed in another order.
const TOKENS: f32 = 1e-4;

/// Likewise of a model in halves, whose numbers have eleven digits.
const HALVES: f32 = 0.05;

/// The plain computation against timm's and transformers' own.
#[test]
fn plain_tokens_are_those_of_timm_and_transformers() {
    for (file, answers, arch) in TRANSFORMERS {
        let (checkpoint, answers) = (golden(file), golden(&format!("{answers}.answers.safetensors")));
        let options = LoadOptions { arch: Some(arch.parse().expect("a network")), ..LoadOptions::default() };
        let encoder = load_encoder(&checkpoint, &options).unwrap_or_else(|e| panic!("{file}: {e}"));
        let graph = Graph::new(encoder.arch);
        for (suffix, side) in [("", 16), (".24", 24), (".12", 12)] {
            let Some(images) = answers.tensor(&format!("images{suffix}")) else { continue };
            let expected =
                answers.tensor(&format!("tokens{suffix}")).expect("there").to_f32().expect("numbers");
            let images = images.to_f32().expect("numbers");
            let found: Vec<f32> = images
                .chunks_exact(3 * side * side)
                .flat_map(|image| {
                    let wanted = [graph.features()];
                    crate::reference::values(&encoder, image, side, &wanted).expect("computed").remove(0).data
                })
                .collect();
            assert_eq!(found.len(), expected.len(), "{file} at {side}");
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < TOKENS, "{file} at {side}: {worst}");
        }
    }
}

/// (file, answers, architecture)
const TRANSFORMERS: [(&str, &str, &str); 6] = [
    ("timm.safetensors", "timm", "vit_16x2x2_patch4_16"),
    ("timm_dinov2.safetensors", "timm_dinov2", "vit_16x2x2_patch4_reg3_ls_swiglu_patchpos_16"),
    ("transformers_vit/model.safetensors", "transformers_vit", "vit_16x2x2_patch4_eps12_16"),
    ("transformers_dinov2/model.safetensors", "transformers_dinov2", "vit_16x2x2_patch4_ls_swiglu_16"),
    ("transformers_registers/model.safetensors", "transformers_registers", "vit_16x2x2_patch4_reg4_ls_16"),
    ("dinov2_hub.safetensors", "dinov2_hub", "vit_16x2x2_patch4_reg4_ls_16"),
];

/// Every output of models of vision transformers, in ONNX Runtime and plainly; other sizes too.
#[test]
fn models_of_transformers_give_what_their_encoders_compute() {
    for (file, _, arch) in TRANSFORMERS {
        let checkpoint = golden(file);
        let options = LoadOptions { arch: Some(arch.parse().expect("a network")), ..LoadOptions::default() };
        let encoder = load_encoder(&checkpoint, &options).unwrap_or_else(|e| panic!("{file}: {e}"));
        for (side, pool, saliency) in [
            (16, Pool::Class, Making::of_block(MapRule::Attention, 1)),
            (24, Pool::Both, Making::of_block(MapRule::Object, 0)),
            (12, Pool::Mean, Making::of_block(MapRule::Border, 1)),
        ] {
            let contract = Preprocess::imagenet(side);
            let network = Network { encoder: &encoder, contract: &contract, projection: None };
            let outputs =
                ["embedding", "saliency", "saliency_sum", "tokens"].map(|k| k.parse().expect("an output"));
            let options = OnnxOptions { outputs: outputs.to_vec(), saliency, pool, ..OnnxOptions::default() };
            let model = model(network, &options, &ModelInfo::default()).expect("a model");
            let worst = worst(network, &options, &model);
            assert!(worst < TOKENS, "{file} at {side}: {worst}");
        }
    }
}

/// One model for all sizes beside the plain computation, which resizes positions another way; halves too.
#[test]
fn models_of_any_size_resize_their_positions() {
    let outputs = ["embedding", "saliency", "saliency_sum", "tokens"].map(|k| k.parse().expect("an output"));
    for (file, _, arch) in TRANSFORMERS {
        let checkpoint = golden(file);
        let options = LoadOptions { arch: Some(arch.parse().expect("a network")), ..LoadOptions::default() };
        let encoder = load_encoder(&checkpoint, &options).unwrap_or_else(|e| panic!("{file}: {e}"));
        for (pool, saliency) in [
            (Pool::Class, Making::of_block(MapRule::Attention, 1)),
            (Pool::Both, Making::of_block(MapRule::Object, 0)),
            (Pool::Mean, Making::of_block(MapRule::Border, 1)),
        ] {
            let usual = Preprocess::imagenet(16);
            let options = OnnxOptions {
                outputs: outputs.to_vec(),
                saliency,
                pool,
                dynamic_size: true,
                ..OnnxOptions::default()
            };
            let half = OnnxOptions { precision: Precision::Fp16, ..options.clone() };
            let sizes = [12, 16, 20, 24, 36].map(Preprocess::imagenet);
            let network = |contract| Network { encoder: &encoder, contract, projection: None };
            for (options, most) in [(&options, TOKENS), (&half, HALVES)] {
                let model = model(network(&usual), options, &ModelInfo::default()).expect("a model");
                for contract in &sizes {
                    let worst = worst(network(contract), options, &model);
                    let (side, precision) = (contract.crop, options.precision.name());
                    assert!(worst < most, "{file} at {side}, {precision}: {worst}");
                }
            }
        }
    }
}

/// How far a model is from the plain computation, as a share of each output's largest value where that is above one.
fn worst(network: Network<'_>, options: &OnnxOptions, model: &OnnxModel<'_>) -> f32 {
    let side = network.contract.crop;
    let data = (0..side * side * 3).map(|i| (i * i * 7 % 251) as u8).collect();
    let picture = occlude_preprocess::Rgb { width: side, height: side, data };
    let how = crate::plain::Answering { normalize: true, saliency: options.saliency, pool: options.pool };
    let expected = crate::plain::outputs(network, &options.outputs, how, &picture).expect("computed");
    let mut bytes = Vec::new();
    model.write_to(&mut bytes).expect("written");
    let names: Vec<String> = options.outputs.iter().map(OutputKind::to_string).collect();
    let inputs = crate::pictures::Inputs::prepared(vec![picture], network.contract, options.input);
    let mut session = crate::runtime::Session::from_bytes(&bytes).expect("loads");
    let found = session.rows(&inputs.batch(0..1), &names).expect("runs").remove(0);
    let apart = |name: &String| {
        assert_eq!(found[name].len(), expected[name].len(), "{name}");
        let largest = expected[name].iter().fold(1.0f32, |m, v| m.max(v.abs()));
        found[name].iter().zip(&expected[name]).map(|(a, b)| (a - b).abs() / largest).fold(0.0, f32::max)
    };
    names.iter().map(apart).fold(0.0, f32::max)
}

#[test]
fn what_transformers_cannot_be_is_refused() {
    let checkpoint = golden("timm.safetensors");
    let arch = Some("vit_16x2x2_patch4_16".parse().expect("a network"));
    let encoder = load_encoder(&checkpoint, &LoadOptions { arch, ..LoadOptions::default() }).expect("read");
    let refused = |side: u32, options: OnnxOptions| {
        let contract = Preprocess::imagenet(side);
        let network = Network { encoder: &encoder, contract: &contract, projection: None };
        model(network, &options, &ModelInfo::default()).err().expect("refused").to_string()
    };
    let usual =
        || OnnxOptions { saliency: Making::of_block(MapRule::Attention, 1), ..OnnxOptions::default() };
    for (side, options, reason) in [
        (17, usual(), "not a multiple of the patch"),
        (16, OnnxOptions { fold: false, ..usual() }, "no batch normalisation"),
        (16, OnnxOptions { saliency: Making::SUM, ..usual() }, "no such stage"),
        (16, OnnxOptions { saliency: Making::of_block(MapRule::Attention, 2), ..usual() }, "no such block"),
        (16, OnnxOptions { outputs: vec![OutputKind::Stage(5)], ..usual() }, "no such stage"),
    ] {
        let message = refused(side, options);
        assert!(message.contains(reason), "`{reason}` not in: {message}");
    }
    let resnet = self::encoder(Arch::ResNet18);
    let contract = Preprocess::imagenet(64);
    let network = Network { encoder: &resnet, contract: &contract, projection: None };
    for (options, reason) in [
        (OnnxOptions { pool: Pool::Mean, ..OnnxOptions::default() }, "`--pool` is for vision transformers"),
        (OnnxOptions { saliency: Making::of(MapRule::Attention), ..OnnxOptions::default() }, "no attention"),
        (OnnxOptions { outputs: vec![OutputKind::Tokens], ..OnnxOptions::default() }, "the output `tokens`"),
    ] {
        let message = model(network, &options, &ModelInfo::default()).err().expect("refused").to_string();
        assert!(message.contains(reason), "`{reason}` not in: {message}");
    }
}

/// A network of which a value is replaced.
fn changed(encoder: &mut Encoder<'_>, name: &str, change: impl Fn(usize, &mut f32)) {
    let mut values = encoder.f32(name).expect("there").into_owned();
    values.iter_mut().enumerate().for_each(|(i, value)| change(i, value));
    let shape = encoder.tensors[name].shape.clone();
    encoder.tensors.insert(name.to_owned(), EncoderTensor { shape, data: EncoderData::F32(values) });
}

/// Pictures of noise.
fn noise() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for n in 0..8u32 {
        let pixel =
            |x: u32, y: u32| image::Rgb([3u32, 5, 7].map(|k| ((x * x * k + y * y * n + x * y) % 251) as u8));
        image::RgbImage::from_fn(20, 24, pixel).save(folder.path().join(format!("{n}.png"))).expect("writes");
    }
    folder
}

fn calibrated(network: Network<'_>) -> Quantization {
    let pictures = noise();
    let options = crate::calibrate::CalibrationOptions {
        pictures: vec![pictures.path().to_owned()],
        limit: None,
        method: crate::calibrate::Method::MinMax,
    };
    let calibration =
        crate::calibrate::calibrate(network, InputKind::Float, &options, &mut |_, _| ()).expect("calibrated");
    Quantization { calibration, keep_first: false, keep_last: false, reduce_range: true }
}

/// Least cosine of a transformer's tokens in integers with the plain ones.
fn integers(network: Network<'_>, how: Quantization) -> f64 {
    let options = OnnxOptions {
        outputs: vec![OutputKind::Tokens],
        saliency: Making::of_block(MapRule::Attention, 1),
        precision: Precision::Int8(how),
        ..OnnxOptions::default()
    };
    let model = model(network, &options, &ModelInfo::default()).expect("a model");
    let side = network.contract.crop;
    let data = (0..side * side * 3).map(|i| (i * i * 5 % 251) as u8).collect();
    let picture = occlude_preprocess::Rgb { width: side, height: side, data };
    let graph = Graph::new(network.encoder.arch);
    let pixels = network.contract.tensor(&picture);
    let wanted = [graph.features()];
    let expected = crate::reference::values(network.encoder, &pixels, side as usize, &wanted)
        .expect("computed")
        .remove(0);
    let mut bytes = Vec::new();
    model.write_to(&mut bytes).expect("written");
    let inputs = crate::pictures::Inputs::prepared(vec![picture], network.contract, options.input);
    let mut session = crate::runtime::Session::from_bytes(&bytes).expect("loads");
    let found = session.rows(&inputs.batch(0..1), &["tokens".to_owned()]).expect("runs").remove(0);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let tokens = found["tokens"].chunks_exact(expected.width).zip(expected.data.chunks_exact(expected.width));
    tokens.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).fold(1.0, f64::min)
}

/// Least cosine of every single token in integers, of networks with 16 channels, whose roundings hardly average out, and
/// with weights of 7 bits, for any processor.
const INTEGERS: f64 = 0.98;

#[test]
fn transformers_of_integers_are_near_plain_ones() {
    for (file, _, arch) in TRANSFORMERS {
        let checkpoint = golden(file);
        let options = LoadOptions { arch: Some(arch.parse().expect("a network")), ..LoadOptions::default() };
        let encoder = load_encoder(&checkpoint, &options).unwrap_or_else(|e| panic!("{file}: {e}"));
        let contract = Preprocess::imagenet(16);
        let network = Network { encoder: &encoder, contract: &contract, projection: None };
        let how = calibrated(network);
        assert!(how.calibration.coarse.is_empty(), "{file}: {:?}", how.calibration.coarse);
        let cosine = integers(network, how);
        assert!(cosine > INTEGERS, "{file}: {cosine}");
    }
}

/// Channels behind a normalisation that are much larger than the others cost nothing, because the matrix takes the factor;
/// a value in the middle of a perceptron that is, takes the product out of the integers.
#[test]
fn outliers_of_transformers_are_evened_out_or_kept_in_floats() {
    let checkpoint = golden("timm.safetensors");
    let arch = Some("vit_16x2x2_patch4_16".parse().expect("a network"));
    let mut encoder =
        load_encoder(&checkpoint, &LoadOptions { arch, ..LoadOptions::default() }).expect("read");
    for leaf in ["weight", "bias"] {
        changed(&mut encoder, &format!("blocks.0.norm1.{leaf}"), |i, v| {
            *v *= if i == 3 { 200.0 } else { 1.0 }
        });
    }
    let column = |i: usize, v: &mut f32| *v /= if i % 16 == 3 { 200.0 } else { 1.0 };
    changed(&mut encoder, "blocks.0.attn.qkv.weight", column);
    let contract = Preprocess::imagenet(16);
    let network = Network { encoder: &encoder, contract: &contract, projection: None };
    let how = calibrated(network);
    assert!(how.calibration.coarse.is_empty(), "{:?}", how.calibration.coarse);
    let cosine = integers(network, how);
    assert!(cosine > INTEGERS, "{cosine}");

    changed(&mut encoder, "blocks.1.mlp.fc1.bias", |i, v| *v = if i == 5 { 2000.0 } else { *v });
    changed(&mut encoder, "blocks.1.mlp.fc2.weight", |i, v| *v = if i % 64 == 5 { *v * 1e-3 } else { *v });
    let network = Network { encoder: &encoder, contract: &contract, projection: None };
    let mut how = calibrated(network);
    assert_eq!(how.calibration.coarse.keys().collect::<Vec<_>>(), ["blocks.1.mlp.fc2"]);
    assert!(
        how.calibration.notes.iter().any(|note| note.contains("`blocks.1.mlp.fc2` stays in floating point"))
    );
    let kept = integers(network, how.clone());
    how.calibration.coarse.clear();
    let lost = integers(network, how);
    assert!(kept > INTEGERS && lost < INTEGERS, "{kept} {lost}");
}
