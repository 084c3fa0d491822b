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

const ANCHORS: [Anchors; 3] = [
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
];

impl Naming {
    fn anchors(self) -> &'static Anchors {
        // One row per variant, in the order of the variants; a test holds it.
        let [torchvision, detectron2, sequential] = &ANCHORS;
        match self {
            Self::Torchvision => torchvision,
            Self::Detectron2 => detectron2,
            Self::Sequential => sequential,
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
    /// The torchvision name of `key`, or `None` where the key is not below the prefix or has no
    /// torchvision equivalent.
    pub fn to_torchvision(&self, key: &str) -> Option<String> {
        let rest = self.rest(key)?;
        match self.naming {
            Naming::Torchvision => Some(rest.to_owned()),
            Naming::Detectron2 => detectron::to_torchvision(rest),
            Naming::Sequential => sequential(rest),
        }
    }

    /// Whether `key` is below the prefix, or is the last stage of a C4 detector.
    pub fn contains(&self, key: &str) -> bool {
        self.rest(key).is_some()
    }

    /// Whether `key` names a part of a ResNet's body, whether or not any architecture here has it: an
    /// encoder with such a key that nobody asked for is not the one that it is taken for.
    pub fn is_body(&self, key: &str) -> bool {
        let Some(rest) = self.rest(key) else { return false };
        self.naming.anchors().roots.iter().any(|root| {
            let Some(behind) = rest.strip_prefix(root) else { return false };
            let numbered = behind.split('.').next().is_some_and(|n| n.parse::<u8>().is_ok());
            behind.starts_with('.') || (numbered && root.ends_with(char::is_alphabetic))
        })
    }

    /// The key of the stem's convolution.
    pub fn stem(&self) -> String {
        format!("{}{}", self.prefix, self.naming.anchors().stem)
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
            Naming::Sequential => "lightly or another `nn.Sequential`",
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

/// Modules that wrap others for one run and say nothing about the model: `DataParallel`,
/// `torch.compile`, fully sharded training.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "_fsdp_wrapped_module."];

/// A prefix without its wrappers.
fn plain(prefix: &str) -> String {
    let parts = prefix.split_inclusive('.').filter(|part| !WRAPPERS.contains(part));
    parts.collect()
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (prefix `{}`)", self.project(), self.prefix)
    }
}

/// `4.0.conv1.weight` -> `layer1.0.conv1.weight`: a ResNet's children are conv1, bn1, relu, maxpool
/// and four layers.
fn sequential(name: &str) -> Option<String> {
    let (child, rest) = name.split_once('.')?;
    let child: u8 = child.parse().ok()?;
    match child {
        0 => Some(format!("conv1.{rest}")),
        1 => Some(format!("bn1.{rest}")),
        4..=7 => Some(format!("layer{}.{rest}", child - 3)),
        _ => None,
    }
}

/// Every encoder below any prefix, sorted by prefix.
pub fn candidates<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<Layout> {
    let keys: BTreeSet<&str> = keys.into_iter().collect();
    let mut found: Vec<Layout> = Vec::new();
    for anchors in &ANCHORS {
        let below = keys.iter().filter_map(|key| whole_word(key.strip_suffix(anchors.stem)?));
        let complete = below.filter(|prefix| keys.contains(format!("{prefix}{}", anchors.block).as_str()));
        found.extend(complete.map(|p| Layout { prefix: p.to_owned(), naming: anchors.naming }));
    }
    found.sort();
    found
}

/// A prefix that ends where a name ends.
fn whole_word(prefix: &str) -> Option<&str> {
    (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
}
