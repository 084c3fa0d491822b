//! What lies beside the weights, in the words of the project that reads it.

use occlude_encoder::{Arch, ResNet, Vit};
use occlude_preprocess::{Fit, Interpolation, Preprocess};
use serde_json::{Map, Value, json};

use super::weights;

/// Networks of timm with other numbers than their names say are one of these: ungated, gated.
const BASES: [&str; 2] = ["vit_small_patch16_224", "vit_giant_patch14_dinov2"];

/// timm's sizes at patches of 16 pixels.
const SIZES: [&str; 4] = ["tiny", "small", "base", "large"];

/// A JSON number as short as its single-precision value is written, not as its double-precision neighbour.
fn short(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().unwrap_or(f64::from(value)))
}

fn triple(values: [f32; 3]) -> Value {
    values.map(short).to_vec().into()
}

/// <https://huggingface.co/docs/transformers/model_doc/dinov2>
pub(super) fn transformers(arch: Arch, contract: &Preprocess) -> Value {
    match arch.vit() {
        Some(vit) => dinov2(vit, contract),
        None => resnet(arch),
    }
}

fn dinov2(vit: Vit, contract: &Preprocess) -> Value {
    let (class, kind) = match vit.registers {
        0 => ("Dinov2Model", "dinov2"),
        _ => ("Dinov2WithRegistersModel", "dinov2_with_registers"),
    };
    let mut all = json!({
        "architectures": [class],
        "model_type": kind,
        "hidden_size": vit.width,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.heads,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": format!("1e-{}", vit.eps).parse::<f64>().unwrap_or(1e-6),
        "layerscale_value": 1.0,
        "image_size": contract.crop,
        "patch_size": vit.patch,
        "num_channels": 3,
        "qkv_bias": true,
        "use_swiglu_ffn": vit.gated,
        "dtype": "float32",
    });
    match vit.registers {
        0 => all["use_mask_token"] = json!(false),
        count => all["num_register_tokens"] = json!(count),
    }
    all
}

fn resnet(arch: Arch) -> Value {
    let row = arch.resnet();
    let bottleneck = row.is_some_and(ResNet::is_bottleneck);
    let last = arch.feature_dim();
    json!({
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [last / 8, last / 4, last / 2, last],
        "depths": row.map(|row| row.depths),
        "layer_type": if bottleneck { "bottleneck" } else { "basic" },
        "hidden_act": "relu",
        "downsample_in_first_stage": false,
        "downsample_in_bottleneck": false,
        "dtype": "float32",
    })
}

/// <https://huggingface.co/docs/transformers/main_classes/image_processor>
pub(super) fn processor(contract: &Preprocess) -> Value {
    let resample = match contract.interpolation {
        Interpolation::Bilinear => 2,
        Interpolation::Bicubic => 3,
    };
    let size = match contract.fit {
        Fit::Short => json!({"shortest_edge": contract.resize}),
        Fit::Squash => json!({"height": contract.resize, "width": contract.resize}),
    };
    json!({
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": size,
        "resample": resample,
        "do_center_crop": true,
        "crop_size": {"height": contract.crop, "width": contract.crop},
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": triple(contract.mean),
        "image_std": triple(contract.std),
    })
}

/// <https://huggingface.co/docs/timm/models>
pub(super) fn timm(arch: Arch, contract: &Preprocess) -> Value {
    let vit = arch.vit();
    let (pool, stem, head) = match vit {
        Some(_) => ("token", "patch_embed.proj", "head"),
        None => ("avg", "conv1", "fc"),
    };
    let interpolation = match contract.interpolation {
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
    };
    let mode = match contract.fit {
        Fit::Short => "center",
        Fit::Squash => "squash",
    };
    // timm rounds the quotient of crop and share down
    let share = f64::from(contract.crop) / (f64::from(contract.resize) + 0.5);
    json!({
        "architecture": vit.map_or(arch.name(), |vit| base(arch, vit)),
        "num_classes": 0,
        "num_features": arch.feature_dim(),
        "global_pool": pool,
        "model_args": vit.map_or(Map::new(), |vit| arguments(vit, contract)),
        "pretrained_cfg": {
            "tag": "occlude",
            "custom_load": false,
            "input_size": [3, contract.crop, contract.crop],
            "fixed_input_size": vit.is_some(),
            "interpolation": interpolation,
            "crop_pct": share,
            "crop_mode": mode,
            "mean": triple(contract.mean),
            "std": triple(contract.std),
            "num_classes": 0,
            "first_conv": stem,
            "classifier": head,
        },
    })
}

/// The name of a network in timm that has the same operations; [`arguments`] say the numbers.
fn base(arch: Arch, vit: Vit) -> String {
    let [plain, gated] = BASES;
    let name = arch.name();
    let size = SIZES.iter().find(|size| name.starts_with(&format!("vit_{size}_")));
    match size {
        _ if vit.gated => gated.to_owned(),
        Some(size) => format!("vit_{size}_patch16_224"),
        None => plain.to_owned(),
    }
}

fn arguments(vit: Vit, contract: &Preprocess) -> Map<String, Value> {
    // timm rounds the product of width and ratio down
    let ratio = match vit.gated {
        true => (2.0 * vit.hidden() as f64 + 0.5) / vit.width as f64,
        false => 4.0,
    };
    let all = [
        ("img_size", json!(contract.crop)),
        ("patch_size", json!(vit.patch)),
        ("embed_dim", json!(vit.width)),
        ("depth", json!(vit.depth)),
        ("num_heads", json!(vit.heads)),
        ("mlp_ratio", json!(ratio)),
        ("init_values", json!(vit.layer_scale.then_some(1e-5))),
        ("reg_tokens", json!(vit.registers)),
        ("no_embed_class", json!(!weights::has_class_position(vit))),
        ("global_pool", json!("token")),
    ];
    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is read as the same contract, by whichever project's reader.
    #[test]
    fn contracts_survive() {
        let squashed = Preprocess { fit: Fit::Squash, ..Preprocess::imagenet(96) };
        for mut contract in [Preprocess::imagenet(64), Preprocess::imagenet(224), squashed] {
            for (resize, interpolation) in
                [(contract.crop, Interpolation::Bilinear), (contract.crop + 31, Interpolation::Bicubic)]
            {
                (contract.resize, contract.interpolation) = (resize, interpolation);
                assert_eq!(
                    Preprocess::from_foreign(&processor(&contract).to_string()).as_ref(),
                    Ok(&contract)
                );
                let timm = timm(Arch::ResNet18, &contract).to_string();
                assert_eq!(Preprocess::from_foreign(&timm).as_ref(), Ok(&contract));
            }
        }
        assert_eq!(processor(&Preprocess::imagenet(64))["image_mean"].to_string(), "[0.485,0.456,0.406]");
    }

    #[test]
    fn networks_are_described() {
        let contract = Preprocess::imagenet(64);
        let of = |name: &str| name.parse::<Arch>().expect("a network");
        let resnet = transformers(Arch::ResNet18, &contract);
        assert_eq!((&resnet["layer_type"], &resnet["hidden_sizes"][0]), (&json!("basic"), &json!(64)));
        assert_eq!(transformers(Arch::ResNet50, &contract)["hidden_sizes"], json!([256, 512, 1024, 2048]));
        let plain = transformers(of("vit_32x2x4_patch8_eps12_32"), &contract);
        assert_eq!((&plain["model_type"], &plain["layer_norm_eps"]), (&json!("dinov2"), &json!(1e-12)));
        assert_eq!((&plain["image_size"], &plain["use_mask_token"]), (&json!(64), &json!(false)));
        let registers = transformers(of("vit_32x2x4_patch8_reg3_ls_32"), &contract);
        assert_eq!(registers["num_register_tokens"], 3);
        let base = |name: &str| timm(of(name), &contract)["architecture"].clone();
        assert_eq!(base("vit_base_patch8_224"), "vit_base_patch16_224");
        assert_eq!(base("vit_32x2x4_patch8_32"), BASES[0]);
        assert_eq!(base("vit_giant_patch14_dinov2"), BASES[1]);
        let ratio = &timm(of("vit_giant_patch14_dinov2"), &contract)["model_args"]["mlp_ratio"];
        assert_eq!(ratio.as_f64().map(|ratio| (1536.0 * ratio) as usize), Some(8192));
    }
}
