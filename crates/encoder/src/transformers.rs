//! The names that Hugging Face's transformers has for our parameters: what [`crate::layout`] reads, the other way round.
//!
//! <https://huggingface.co/docs/transformers/model_doc/resnet>, <https://huggingface.co/docs/transformers/model_doc/dinov2>

/// (our module in a block of a vision transformer, `Dinov2Model`'s): those that are one in both.
const MODULES: [(&str, &str); 5] = [
    ("norm1", "norm1"),
    ("norm2", "norm2"),
    ("attn.proj", "attention.output.dense"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
];

/// The perceptrons that are gated.
const GATED: [(&str, &str); 2] = [("mlp.fc1", "mlp.weights_in"), ("mlp.fc2", "mlp.weights_out")];

/// Names in `ResNetModel`, or in `Dinov2Model` and `Dinov2WithRegistersModel`: one, or three for queries, keys and values,
/// which are thirds of ours along the first axis. Empty for what is no encoder's parameter.
pub fn from_ours(name: &str, gated: bool) -> Vec<String> {
    resnet(name).map(|name| vec![name]).or_else(|| vit(name, gated)).unwrap_or_default()
}

fn resnet(name: &str) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    match module {
        "conv1" => return Some(format!("embedder.embedder.convolution.{leaf}")),
        "bn1" => return Some(format!("embedder.embedder.normalization.{leaf}")),
        _ => {}
    }
    let (layer, rest) = module.strip_prefix("layer")?.split_once('.')?;
    let (block, module) = rest.split_once('.')?;
    let layer = layer.parse::<u8>().ok()?.checked_sub(1)?;
    let numbered = |word: &str| module.strip_prefix(word)?.parse::<u8>().ok()?.checked_sub(1);
    let module = match (module, numbered("conv"), numbered("bn")) {
        ("downsample.0", ..) => "shortcut.convolution".to_owned(),
        ("downsample.1", ..) => "shortcut.normalization".to_owned(),
        (_, Some(i), _) => format!("layer.{i}.convolution"),
        (_, _, Some(i)) => format!("layer.{i}.normalization"),
        _ => return None,
    };
    Some(format!("encoder.stages.{layer}.layers.{block}.{module}.{leaf}"))
}

fn vit(name: &str, gated: bool) -> Option<Vec<String>> {
    let whole = match name {
        "cls_token" => Some("embeddings.cls_token".to_owned()),
        "pos_embed" => Some("embeddings.position_embeddings".to_owned()),
        "reg_token" => Some("embeddings.register_tokens".to_owned()),
        _ => {
            let patches = name.strip_prefix("patch_embed.proj.");
            let norm = name.strip_prefix("norm.");
            let patches = patches.map(|leaf| format!("embeddings.patch_embeddings.projection.{leaf}"));
            patches.or_else(|| norm.map(|leaf| format!("layernorm.{leaf}")))
        }
    };
    if let Some(name) = whole {
        return Some(vec![name]);
    }
    let (block, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    let (module, leaf) = rest.rsplit_once('.')?;
    let named = |module: &str, leaf: &str| format!("encoder.layer.{block}.{module}.{leaf}");
    match module {
        "attn.qkv" => {
            let parts =
                ["query", "key", "value"].map(|part| named(&format!("attention.attention.{part}"), leaf));
            return Some(parts.to_vec());
        }
        "ls1" | "ls2" => return Some(vec![named(&module.replace("ls", "layer_scale"), "lambda1")]),
        _ => {}
    }
    let of_gated = GATED.iter().filter(|_| gated);
    let (_, theirs) = of_gated.chain(&MODULES).find(|(ours, _)| *ours == module)?;
    Some(vec![named(theirs, leaf)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Layout, Naming};
    use crate::{Arch, Graph};

    /// What is written under these names is read under ours.
    #[test]
    fn layouts_read_them_back() {
        let vits = ["vit_32x2x4_patch8_32", "vit_32x2x4_patch8_reg2_ls_32", "vit_32x2x4_patch8_ls_swiglu_32"];
        let vits = vits.map(|name| (name.parse().expect("a network"), Naming::TransformersVit));
        let resnets = [Arch::ResNet18, Arch::ResNet50].map(|arch| (arch, Naming::Transformers));
        for (arch, naming) in vits.into_iter().chain(resnets) {
            let layout = Layout { prefix: String::new(), naming };
            let gated = arch.vit().is_some_and(|vit| vit.gated);
            for param in Graph::new(arch).params() {
                let theirs = from_ours(&param.name, gated);
                assert_eq!(theirs.len(), if param.name.contains("qkv") { 3 } else { 1 }, "{}", param.name);
                for (i, name) in theirs.iter().enumerate() {
                    assert_eq!(layout.to_torchvision(name).as_deref(), Some(param.name.as_str()), "{name}");
                    assert_eq!(layout.part(name), (theirs.len() > 1).then_some(i), "{name}");
                }
            }
        }
        for other in ["fc.weight", "head.bias", "layer1.0.other.weight", "blocks.0.attn.rel.weight", "x"] {
            assert!(from_ours(other, false).is_empty(), "{other}");
        }
    }
}
