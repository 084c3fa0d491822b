//! Where an encoder sits inside somebody else's state dict.
//!
//! Published checkpoints wrap the encoder in prefixes: MoCo and its forks `encoder_q.`,
//! LEWEL and BYOL `online_net.backbone.`, DINO and iBOT `teacher.backbone.`, SimCLR forks
//! `encoder.` or `backbone.`; torchvision and timm none; Detectron2 renames the stages, and
//! `nn.Sequential` numbers them. [`detect`] finds the encoders by their anchor keys and picks the one
//! that users mean.

mod choose;
mod error;
#[cfg(test)]
mod tests;
mod vit;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

pub use choose::{MAX_CANDIDATES, choose, detect};
pub use error::LayoutError;

use crate::detectron;

/// How the encoder's parameters are named below the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Naming {
    /// `conv1.weight`, `layer1.0.bn1.weight`: torchvision, timm and all MoCo forks.
    Torchvision,
    /// `stem.conv1.weight`, `res2.0.conv1.norm.weight`.
    Detectron2,
    /// `0.weight`, `4.0.bn1.weight`: `nn.Sequential` of a torchvision ResNet's children, as lightly and
    /// many SimCLR and BYOL repositories build their backbones.
    Sequential,
    /// `0.weight`, `3.0.bn1.weight`: the same without a pooling, as networks for small pictures have none.
    Unpooled,
    /// `embedder.embedder.convolution.weight`, `encoder.stages.0.layers.0.layer.0.normalization.bias`: Hugging Face's
    /// transformers.
    Transformers,
    /// `patch_embed.proj.weight`, `blocks.0.norm1.weight`: the vision transformers of timm, DeiT, DINO, iBOT, MAE and
    /// DINOv2's hub.
    Vit,
    /// `embeddings.cls_token`, `encoder.layer.0.attention.attention.query.weight`: those of transformers.
    TransformersVit,
}

impl Naming {
    /// Whether a vision transformer is named so.
    pub fn is_vit(self) -> bool {
        matches!(self, Self::Vit | Self::TransformersVit)
    }
}

/// One row for each [`Naming`].
struct Anchors {
    naming: Naming,
    /// The weight of the stem's convolution.
    stem: &'static str,
    /// The first weight of the first block.
    block: &'static str,
    /// What the encoder's modules are called; a digit may follow a name that ends in a letter.
    roots: &'static [&'static str],
}

const ANCHORS: [Anchors; 7] = [
    Anchors {
        naming: Naming::Torchvision,
        stem: "conv1.weight",
        block: "layer1.0.conv1.weight",
        roots: &["conv1", "bn1", "layer"],
    },
    Anchors {
        naming: Naming::Detectron2,
        stem: "stem.conv1.weight",
        block: "res2.0.conv1.weight",
        roots: &["stem.conv1", "res"],
    },
    Anchors {
        naming: Naming::Sequential,
        stem: "0.weight",
        block: "4.0.conv1.weight",
        roots: &["0", "1", "4", "5", "6", "7"],
    },
    Anchors {
        naming: Naming::Unpooled,
        stem: "0.weight",
        block: "3.0.conv1.weight",
        roots: &["0", "1", "3", "4", "5", "6"],
    },
    Anchors {
        naming: Naming::Transformers,
        stem: "embedder.embedder.convolution.weight",
        block: "encoder.stages.0.layers.0.layer.0.convolution.weight",
        roots: &["embedder", "encoder.stages"],
    },
    Anchors {
        naming: Naming::Vit,
        stem: "patch_embed.proj.weight",
        block: "blocks.0.norm1.weight",
        roots: &["patch_embed", "blocks", "norm", "norm_pre", "dist_token", "rel_pos_bias"],
    },
    Anchors {
        naming: Naming::TransformersVit,
        stem: "embeddings.patch_embeddings.projection.weight",
        block: "encoder.layer.0.attention.attention.query.weight",
        roots: &[
            "embeddings.patch_embeddings",
            "encoder.layer",
            "layernorm",
            "embeddings.distillation_token",
        ],
    },
];

impl Naming {
    fn anchors(self) -> &'static Anchors {
        // One row per variant, in the order of the variants; a test holds it.
        let [torchvision, detectron2, sequential, unpooled, transformers, vit, transformers_vit] = &ANCHORS;
        match self {
            Self::Torchvision => torchvision,
            Self::Detectron2 => detectron2,
            Self::Sequential => sequential,
            Self::Unpooled => unpooled,
            Self::Transformers => transformers,
            Self::Vit => vit,
            Self::TransformersVit => transformers_vit,
        }
    }
}

/// An encoder found in a state dict.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layout {
    /// What every key of the encoder begins with, dots included; may be empty.
    pub prefix: String,
    /// The names below it.
    pub naming: Naming,
}

/// Where a C4 detector keeps the last stage, beside its `backbone.`.
const C4_HEAD: &str = "roi_heads.";

impl Layout {
    /// The torchvision name of `key`, timm's in a vision transformer; `None` where the key is not below the prefix or has
    /// no equivalent.
    pub fn to_torchvision(&self, key: &str) -> Option<String> {
        let rest = self.name(key)?;
        match self.naming {
            Naming::Torchvision => Some(rest.into_owned()),
            Naming::Detectron2 => detectron::to_torchvision(&rest),
            Naming::Sequential => sequential(&rest, 4),
            Naming::Unpooled => sequential(&rest, 3),
            Naming::Transformers => transformers(&rest),
            Naming::Vit => vit::timm(&rest),
            Naming::TransformersVit => vit::transformers(&rest),
        }
    }

    /// Which part of the parameter [`Self::to_torchvision`] names `key` is: 0 to 2 for queries, keys and values that are
    /// apart in the file, one after the other along the first axis. `None` where it is all of it.
    pub fn part(&self, key: &str) -> Option<usize> {
        match self.naming {
            Naming::TransformersVit => vit::part(&self.name(key)?),
            _ => None,
        }
    }

    /// What `key` is called below the prefix, without wrappers.
    fn name<'k>(&self, key: &'k str) -> Option<Cow<'k, str>> {
        unwrapped(self.rest(key)?)
    }

    /// Whether `key` is below the prefix, or is the last stage of a C4 detector.
    pub fn contains(&self, key: &str) -> bool {
        self.rest(key).is_some()
    }

    /// Whether `key` names a part of an encoder's body, whether or not any architecture here has it: an
    /// encoder with such a key that nobody asked for is not the one that it is taken for.
    pub fn is_body(&self, key: &str) -> bool {
        let Some(rest) = self.name(key) else { return false };
        self.naming.anchors().roots.iter().any(|root| {
            let Some(behind) = rest.strip_prefix(root) else { return false };
            let numbered = behind.split('.').next().is_some_and(|n| n.parse::<u8>().is_ok());
            // tokens are no modules
            let whole = behind.is_empty() && root.contains("token");
            whole || behind.starts_with('.') || (numbered && root.ends_with(char::is_alphabetic))
        })
    }

    /// Whether `key` is the weight of the stem's convolution.
    pub fn is_stem(&self, key: &str) -> bool {
        self.name(key).is_some_and(|name| name == self.naming.anchors().stem)
    }

    fn rest<'k>(&self, key: &'k str) -> Option<&'k str> {
        if let Some(rest) = key.strip_prefix(&self.prefix) {
            return Some(rest);
        }
        let detector = self.prefix.strip_suffix("backbone.").filter(|_| self.naming == Naming::Detectron2)?;
        let rest = key.strip_prefix(detector)?.strip_prefix(C4_HEAD)?;
        // `res5.norm` is the detector's own.
        rest.strip_prefix("res5.").is_some_and(|r| !r.starts_with("norm.")).then_some(rest)
    }

    /// The project whose checkpoints look like this.
    pub fn project(&self) -> &'static str {
        match self.naming {
            Naming::Detectron2 => "Detectron2",
            Naming::Sequential | Naming::Unpooled => "lightly or another `nn.Sequential`",
            Naming::Transformers | Naming::TransformersVit => "transformers",
            Naming::Vit => {
                let prefix = plain(&self.prefix);
                VITS.iter().find(|(names, _)| names.contains(&prefix.as_str())).map_or("unknown", |p| p.1)
            }
            Naming::Torchvision => {
                let prefix = plain(&self.prefix);
                PROJECTS.iter().find(|(names, _)| names.contains(&prefix.as_str())).map_or("unknown", |p| p.1)
            }
        }
    }
}

/// (prefixes without wrappers, the projects that use them)
const PROJECTS: [(&[&str], &str); 8] = [
    (&[""], "torchvision or timm"),
    (&["encoder_q.", "encoder_k."], "MoCo"),
    (&["base_encoder.", "momentum_encoder."], "MoCo v3"),
    (&["encoder_q.0.", "encoder_k.0."], "OpenSelfSup"),
    (&["online_net.backbone.", "target_net.backbone."], "LEWEL or BYOL"),
    (
        &["online_network.encoder.", "target_network.encoder.", "online_encoder.net.", "target_encoder.net."],
        "BYOL",
    ),
    (&["teacher.backbone.", "student.backbone."], "DINO or iBOT"),
    (&["encoder.", "backbone."], "SimCLR, SimSiam, Barlow Twins or solo-learn"),
];

/// The same for vision transformers.
const VITS: [(&[&str], &str); 4] = [
    (&[""], "timm, DINO, DINOv2, MAE or DeiT"),
    (&["teacher.backbone.", "student.backbone."], "DINO, iBOT or DINOv2"),
    (&["base_encoder.", "momentum_encoder."], "MoCo v3"),
    (&["backbone.", "encoder."], "DINO, lightly or solo-learn"),
];

/// Modules that wrap others for one run and say nothing about the model: `DataParallel`, `torch.compile`, fully sharded
/// training (PyTorch's and FairScale's), activation checkpoints, Lightning's and DeepSpeed's engines, Opacus.
const WRAPPERS: [&str; 8] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_dp_wrapped_module",
    "_module",
];

/// A prefix without its wrappers.
fn plain(prefix: &str) -> String {
    let is_wrapper = |part: &str| WRAPPERS.contains(&part.trim_end_matches('.'));
    prefix.split_inclusive('.').filter(|part| !is_wrapper(part)).collect()
}

/// A name without the wrappers inside of it: `layer1._orig_mod.0.conv1.weight` is `layer1.0.conv1.weight`. `None` where
/// it begins with one: those belong to a prefix, which is another encoder's.
fn unwrapped(name: &str) -> Option<Cow<'_, str>> {
    let mut parts = name.split('.');
    if parts.next().is_some_and(|first| WRAPPERS.contains(&first)) {
        return None;
    }
    if !parts.clone().any(|part| WRAPPERS.contains(&part)) {
        return Some(Cow::Borrowed(name));
    }
    let kept: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    Some(Cow::Owned(kept.join(".")))
}

/// What stands before `name` in `key`, where `key` ends with it, be there wrappers between its parts. The prefix is as
/// long as can be: wrappers before the name are a part of it.
fn prefix_of<'k>(key: &'k str, name: &str) -> Option<&'k str> {
    let mut end = key.len();
    let mut parts = key.rsplit('.');
    for (i, part) in name.rsplit('.').enumerate() {
        loop {
            let last = parts.next()?;
            // The dot before it; before the first part there is none.
            end = end.saturating_sub(last.len() + 1);
            if last == part {
                break;
            }
            // No name ends in a wrapper, which is a module.
            if i == 0 || !WRAPPERS.contains(&last) {
                return None;
            }
        }
    }
    let end = if parts.next().is_some() { end + 1 } else { 0 };
    key.get(..end)
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (prefix `{}`)", self.project(), self.prefix)
    }
}

/// `4.0.conv1.weight` -> `layer1.0.conv1.weight`: a ResNet's children are conv1, bn1, relu, where there is one maxpool,
/// and four layers, of which `first` is the first.
fn sequential(name: &str, first: u8) -> Option<String> {
    let (child, rest) = name.split_once('.')?;
    let child: u8 = child.parse().ok()?;
    match child {
        0 => Some(format!("conv1.{rest}")),
        1 => Some(format!("bn1.{rest}")),
        _ => {
            let layer = child.checked_sub(first).filter(|layer| *layer < 4)? + 1;
            Some(format!("layer{layer}.{rest}"))
        }
    }
}

/// `encoder.stages.0.layers.1.layer.2.convolution.weight` -> `layer1.1.conv3.weight`: transformers' `ResNetModel`, whose
/// bottleneck blocks stride in the 3x3 convolution unless they are told otherwise.
/// <https://github.com/huggingface/transformers/blob/main/src/transformers/models/resnet/modeling_resnet.py>
fn transformers(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("embedder.embedder.") {
        let (part, leaf) = rest.split_once('.')?;
        let module = match part {
            "convolution" => "conv1",
            "normalization" => "bn1",
            _ => return None,
        };
        return Some(format!("{module}.{leaf}"));
    }
    let (stage, rest) = name.strip_prefix("encoder.stages.")?.split_once(".layers.")?;
    let (block, rest) = rest.split_once('.')?;
    let (stage, block): (u8, u8) = (stage.parse().ok()?, block.parse().ok()?);
    let (module, leaf) = rest.rsplit_once('.')?;
    let module = match module {
        "shortcut.convolution" => "downsample.0".to_owned(),
        "shortcut.normalization" => "downsample.1".to_owned(),
        _ => {
            let (number, part) = module.strip_prefix("layer.")?.split_once('.')?;
            let number = number.parse::<u8>().ok()?.checked_add(1)?;
            match part {
                "convolution" => format!("conv{number}"),
                "normalization" => format!("bn{number}"),
                _ => return None,
            }
        }
    };
    Some(format!("layer{}.{block}.{module}.{leaf}", stage.checked_add(1)?))
}

/// Every encoder below any prefix, sorted by prefix.
pub fn candidates<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<Layout> {
    let keys: BTreeSet<&str> = keys.into_iter().collect();
    let mut found: Vec<Layout> = Vec::new();
    for anchors in &ANCHORS {
        let below = |name| keys.iter().filter_map(move |key| prefix_of(key, name));
        let blocks: BTreeSet<&str> = below(anchors.block).collect();
        // Without a pooling the blocks begin one place earlier, and would be taken for the next layer's.
        let early: BTreeSet<&str> = match anchors.naming {
            Naming::Sequential => below(Naming::Unpooled.anchors().block).collect(),
            _ => BTreeSet::new(),
        };
        let complete = below(anchors.stem).filter(|p| blocks.contains(p) && !early.contains(p));
        found.extend(complete.map(|p| Layout { prefix: p.to_owned(), naming: anchors.naming }));
    }
    found.sort();
    found.dedup();
    found
}
