//! What an encoder is that none of ours fits.

use std::collections::BTreeSet;

use occlude_encoder::{Arch, ResNet};

use crate::present::{Found, Present};

/// (a part of a key's path, whose it is): modules that some ResNets have in their blocks or at their ends.
const MODULES: [(&str, &str); 9] = [
    ("attnpool", "CLIP's ResNet, with attention pooling and a deep stem"),
    ("filt", "an anti-aliased ResNet: its strides are blurred"),
    ("se", "a ResNet with squeeze-and-excitation (SE-ResNet)"),
    ("se_module", "a ResNet with squeeze-and-excitation (SE-ResNet)"),
    ("eca", "a ResNet with channel attention (ECA-ResNet)"),
    ("cbam", "a ResNet with attention (CBAM)"),
    ("attn", "a ResNet with attention"),
    ("IN", "a ResNet with instance normalisation (IBN-Net)"),
    ("shortcut", "a ResNet with other shortcuts, as CIFAR's have"),
];

/// Says what the network is that left these keys over, where names and shapes show it.
pub(crate) fn variant(present: &Present, left_over: &[String]) -> Option<String> {
    let shape = |name: &str| present.get(name).map(|found| found.shape.as_slice());
    let parts: BTreeSet<&str> = left_over.iter().flat_map(|key| key.split('.')).collect();
    let module =
        |names: &[&str]| MODULES.iter().find(|(part, _)| names.contains(part) && parts.contains(part));
    if let Some((_, text)) = module(&["attnpool", "filt"]) {
        return Some((*text).to_owned());
    }
    stem(shape("conv1.weight"))
        .or_else(|| shortcut(present))
        .or_else(|| MODULES.iter().find(|(part, _)| parts.contains(part)).map(|(_, text)| (*text).to_owned()))
        .or_else(|| normalisation(present))
        .or_else(|| width(shape("layer1.0.conv1.weight"), shape("layer1.0.conv2.weight")))
        .or_else(|| depth(present))
}

fn resnets() -> impl Iterator<Item = &'static ResNet> {
    Arch::ALL.into_iter().filter_map(Arch::resnet)
}

/// (a part of a key's path, whose it is): what some vision transformers have.
const VIT_MODULES: [(&str, &str); 7] = [
    ("dist_token", "a distilled DeiT: its embedding is the mean of two tokens"),
    ("distillation_token", "a distilled DeiT: its embedding is the mean of two tokens"),
    ("norm_pre", "CLIP's transformer, with a normalisation before its blocks"),
    ("q_bias", "BEiT, with relative positions"),
    ("q_norm", "a transformer that normalises queries and keys"),
    ("gamma_1", "BEiT or CaiT, whose scales have other names"),
    ("fc_norm", "a fine-tuned transformer whose head takes the mean of the patches"),
];

/// Says what the transformer is that left these keys over or lacks something.
pub(crate) fn vit_variant(present: &Present, left_over: &[String]) -> Option<String> {
    let keys = || left_over.iter().chain(present.keys());
    let has = |part: &str| keys().any(|key| key.split('.').any(|p| p == part));
    if let Some((_, text)) = VIT_MODULES.iter().find(|(part, _)| has(part)) {
        return Some((*text).to_owned());
    }
    let lacking = [
        ("cls_token", "a vision transformer without a class token"),
        ("pos_embed", "a vision transformer without learnt positions"),
        ("blocks.0.attn.qkv.bias", "a vision transformer whose attention has no biases"),
    ];
    lacking.iter().find(|(name, _)| !present.contains_key(*name)).map(|(_, text)| (*text).to_owned())
}

/// The first convolution: 7x7 over three channels in most of ours, 3x3 in those for small pictures.
fn stem(shape: Option<&[usize]>) -> Option<String> {
    match *shape? {
        [_, 3, 7, 7] => None,
        [_, 3, 3, 3] => Some(
            "a ResNet for small pictures (a 3x3 first convolution, as for CIFAR) that is neither `resnet18-small` nor `resnet50-small`"
                .to_owned(),
        ),
        [_, channels, 7, 7] => Some(format!("a ResNet for pictures of {channels} channels")),
        [_, channels, h, w] => {
            Some(format!("a ResNet with another stem (a first convolution of {h}x{w} over {channels} channels)"))
        }
        _ => None,
    }
}

/// ResNet-D has a pooling in front of the convolution of a shortcut, which moves it by one.
fn shortcut(present: &Present) -> Option<String> {
    let moved =
        |(name, found): (&String, &Found)| name.ends_with(".downsample.1.weight") && found.shape.len() == 4;
    present.iter().any(moved).then(|| "a ResNet-D: its shortcuts are pooled".to_owned())
}

fn normalisation(present: &Present) -> Option<String> {
    let has = |end: &str| present.keys().any(|name| name.ends_with(end));
    if present.keys().any(|name| name.contains("conv") && name.ends_with(".bias")) {
        return Some(
            "a ResNet whose convolutions have biases: its batch normalisation was folded, or it has none"
                .to_owned(),
        );
    }
    if has(".bn1.weight") && !has(".running_mean") {
        return Some("a ResNet without batch statistics, as with group normalisation".to_owned());
    }
    None
}

/// Channels and groups of the first block; bottleneck blocks begin with a 1x1 convolution.
fn width(first: Option<&[usize]>, second: Option<&[usize]>) -> Option<String> {
    let (first, second) = (first?, second?);
    let (&[outer, _, kernel, _], &[inner, each, _, _]) = (first, second) else { return None };
    if kernel == 3 {
        return (outer != 64).then(|| format!("a ResNet of another width ({outer} channels in `layer1`)"));
    }
    let groups = inner / each.max(1);
    let known = resnets().any(|row| (row.groups, row.width) == (groups, inner / groups.max(1)));
    (!known).then(|| {
        format!(
            "a ResNet of another width ({groups} groups of {} channels in `layer1`)",
            inner / groups.max(1)
        )
    })
}

fn depth(present: &Present) -> Option<String> {
    let blocks = |layer: usize| {
        let prefix = format!("layer{layer}.");
        let number = |name: &String| name.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
        present.keys().filter_map(number).max().map_or(0, |last| last + 1)
    };
    let found = [1, 2, 3, 4].map(blocks);
    let more = blocks(5) > 0;
    // Fewer blocks are missing parameters, and said to be.
    let known = resnets().any(|row| row.depths.iter().zip(found).all(|(&own, found)| found <= own));
    (more || !known).then(|| {
        let text: Vec<String> = found.iter().map(usize::to_string).collect();
        format!(
            "a ResNet of another depth ({} blocks{})",
            text.join(", "),
            if more { ", and more layers" } else { "" }
        )
    })
}
