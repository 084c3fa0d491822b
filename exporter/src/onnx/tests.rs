//! What files depend on stays: models of the same weights are the same to the bit, whatever the description of the
//! encoder is made of.

use std::collections::BTreeMap;

use occlude_checkpoint::{EncoderData, EncoderTensor, LoadReport};
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
