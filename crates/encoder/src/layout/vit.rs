//! What other projects call the parameters of vision transformers. Ours are timm's names.

/// timm's name of a parameter of timm, DINO, iBOT, MAE, DeiT or DINOv2's hub, which differ in little.
///
/// `register_tokens` -> `reg_token`; `blocks.0.mlp.w12.weight` -> `blocks.0.mlp.fc1.weight`; `blocks.2.11.norm1.bias`, as
/// DINOv2's training groups its blocks, -> `blocks.11.norm1.bias`.
/// <https://github.com/facebookresearch/dinov2/blob/main/dinov2/models/vision_transformer.py>
pub(super) fn timm(name: &str) -> Option<String> {
    if name == "register_tokens" {
        return Some("reg_token".to_owned());
    }
    let Some(rest) = name.strip_prefix("blocks.") else { return Some(name.to_owned()) };
    let (first, rest) = rest.split_once('.')?;
    let (block, rest) = match rest.split_once('.') {
        Some((second, rest)) if second.parse::<u16>().is_ok() => (second, rest),
        _ => (first, rest),
    };
    let rest = match rest.strip_prefix("mlp.w12.") {
        Some(leaf) => format!("mlp.fc1.{leaf}"),
        None => rest.strip_prefix("mlp.w3.").map_or(rest.to_owned(), |leaf| format!("mlp.fc2.{leaf}")),
    };
    Some(format!("blocks.{block}.{rest}"))
}

/// (transformers' module in a block, timm's): ViT's and DINOv2's.
const MODULES: [(&str, &str); 14] = [
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("norm1", "norm1"),
    ("norm2", "norm2"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("mlp.weights_in", "mlp.fc1"),
    ("mlp.weights_out", "mlp.fc2"),
    ("attention.attention.query", "attn.qkv"),
    ("attention.attention.key", "attn.qkv"),
    ("attention.attention.value", "attn.qkv"),
];

/// The modules that timm keeps as one, in its order.
const JOINED: [&str; 3] =
    [".attention.attention.query.", ".attention.attention.key.", ".attention.attention.value."];

/// timm's name of a parameter of transformers' `ViTModel`, `ViTMAEModel`, `Dinov2Model` or `Dinov2WithRegistersModel`.
///
/// <https://huggingface.co/docs/transformers/model_doc/dinov2>
pub(super) fn transformers(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("embeddings.") {
        return match rest {
            "cls_token" => Some("cls_token".to_owned()),
            "position_embeddings" => Some("pos_embed".to_owned()),
            "register_tokens" => Some("reg_token".to_owned()),
            _ => rest
                .strip_prefix("patch_embeddings.projection.")
                .map(|leaf| format!("patch_embed.proj.{leaf}")),
        };
    }
    if let Some(leaf) = name.strip_prefix("layernorm.") {
        return Some(format!("norm.{leaf}"));
    }
    let (block, rest) = name.strip_prefix("encoder.layer.")?.split_once('.')?;
    for (scale, ours) in [("layer_scale1.lambda1", "ls1.gamma"), ("layer_scale2.lambda1", "ls2.gamma")] {
        if rest == scale {
            return Some(format!("blocks.{block}.{ours}"));
        }
    }
    let (module, leaf) = rest.rsplit_once('.')?;
    let (_, ours) = MODULES.iter().find(|(theirs, _)| *theirs == module)?;
    Some(format!("blocks.{block}.{ours}.{leaf}"))
}

/// Which part of a parameter of ours a parameter of transformers is: queries, keys or values. `None` where it is all.
pub(super) fn part(name: &str) -> Option<usize> {
    JOINED.iter().position(|module| name.contains(module))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arch, Graph};

    #[test]
    fn variants_of_timms_names() {
        for (theirs, ours) in [
            ("cls_token", "cls_token"),
            ("register_tokens", "reg_token"),
            ("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.weight"),
            ("blocks.0.mlp.w12.bias", "blocks.0.mlp.fc1.bias"),
            ("blocks.0.mlp.w3.weight", "blocks.0.mlp.fc2.weight"),
            ("blocks.2.11.ls1.gamma", "blocks.11.ls1.gamma"),
            ("norm.weight", "norm.weight"),
        ] {
            assert_eq!(timm(theirs).as_deref(), Some(ours), "{theirs}");
        }
        assert_eq!(timm("blocks.x"), None);
    }

    #[test]
    fn the_names_of_transformers() {
        for (theirs, ours, which) in [
            ("embeddings.cls_token", "cls_token", None),
            ("embeddings.position_embeddings", "pos_embed", None),
            ("embeddings.register_tokens", "reg_token", None),
            ("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias", None),
            ("encoder.layer.3.attention.attention.query.weight", "blocks.3.attn.qkv.weight", Some(0)),
            ("encoder.layer.3.attention.attention.value.bias", "blocks.3.attn.qkv.bias", Some(2)),
            ("encoder.layer.3.attention.output.dense.weight", "blocks.3.attn.proj.weight", None),
            ("encoder.layer.3.output.dense.weight", "blocks.3.mlp.fc2.weight", None),
            ("encoder.layer.3.layernorm_before.bias", "blocks.3.norm1.bias", None),
            ("encoder.layer.3.layer_scale2.lambda1", "blocks.3.ls2.gamma", None),
            ("encoder.layer.3.mlp.weights_in.weight", "blocks.3.mlp.fc1.weight", None),
            ("layernorm.weight", "norm.weight", None),
        ] {
            assert_eq!(transformers(theirs).as_deref(), Some(ours), "{theirs}");
            assert_eq!(part(theirs), which, "{theirs}");
        }
        for other in
            ["embeddings.mask_token", "pooler.dense.weight", "encoder.layer.0.other.weight", "decoder.x"]
        {
            assert_eq!(transformers(other), None, "{other}");
        }
    }

    /// timm's own names stay as they are.
    #[test]
    fn our_names_are_fixed_points() {
        let graph = Graph::new(Arch::Vit("vit_32x2x4_patch8_reg2_ls_swiglu_32".parse().expect("a network")));
        assert!(graph.params().iter().all(|p| timm(&p.name).as_ref() == Some(&p.name)));
    }
}
