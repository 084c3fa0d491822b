//! Where an encoder sits inside somebody else's state dict.
//!
//! Published checkpoints wrap the encoder in prefixes: MoCo and its forks `encoder_q.`,
//! LEWEL and BYOL `online_net.backbone.`, DINO and iBOT `teacher.backbone.`, SimCLR forks
//! `encoder.` or `backbone.`; torchvision and timm none; Detectron2 renames the stages.
//! [`detect`] finds the encoders by their anchor keys and picks the one that users mean.

use std::collections::BTreeSet;
use std::fmt;

use crate::detectron;

/// How the encoder's parameters are named below the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Naming {
    /// `conv1.weight`, `layer1.0.bn1.weight`: torchvision, timm and all MoCo forks.
    Torchvision,
    /// `stem.conv1.weight`, `res2.0.conv1.norm.weight`.
    Detectron2,
}

/// An encoder found in a state dict.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layout {
    /// What every key of the encoder begins with, dots included; may be empty.
    pub prefix: String,
    /// The names below it.
    pub naming: Naming,
}

impl Layout {
    /// The torchvision name of `key`, or `None` where the key is not below the prefix or has no
    /// torchvision equivalent.
    pub fn to_torchvision(&self, key: &str) -> Option<String> {
        let rest = key.strip_prefix(&self.prefix)?;
        match self.naming {
            Naming::Torchvision => Some(rest.to_owned()),
            Naming::Detectron2 => detectron::to_torchvision(rest),
        }
    }

    /// The project whose checkpoints look like this.
    pub fn project(&self) -> &'static str {
        if self.naming == Naming::Detectron2 {
            return "Detectron2";
        }
        let prefix = self.prefix.strip_prefix("module.").unwrap_or(&self.prefix);
        match prefix {
            "" => "torchvision or timm",
            "encoder_q." | "encoder_k." => "MoCo",
            "online_net.backbone." | "target_net.backbone." => "LEWEL or BYOL",
            "teacher.backbone."
            | "student.backbone."
            | "teacher.module.backbone."
            | "student.module.backbone." => "DINO or iBOT",
            "encoder." | "backbone." => "SimCLR",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (prefix `{}`)", self.project(), self.prefix)
    }
}

/// Why no single encoder could be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// No key ends in `conv1.weight` with a `layer1.0.conv1.weight` beside it.
    NoEncoder,
    /// The prefix that was asked for holds no encoder; the ones that do are listed.
    NoSuchPrefix {
        /// As asked.
        asked: String,
        /// Prefixes that hold an encoder.
        found: Vec<String>,
    },
    /// Several encoders, and no convention says which is meant.
    Ambiguous {
        /// Their prefixes.
        candidates: Vec<String>,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        match self {
            Self::NoEncoder => f.write_str(
                "no ResNet encoder found: expected keys that end in `conv1.weight` and `layer1.0.conv1.weight` (or `stem.conv1.weight` and `res2.0.conv1.weight`) below one prefix",
            ),
            Self::NoSuchPrefix { asked, found } if found.is_empty() => {
                write!(f, "no encoder below the prefix `{asked}`, nor below any other")
            }
            Self::NoSuchPrefix { asked, found } => {
                write!(f, "no encoder below the prefix `{asked}`: found encoders below {}", list(found))
            }
            Self::Ambiguous { candidates } => {
                write!(f, "several encoders found, below the prefixes {}; hint: name one with `--prefix`", list(candidates))
            }
        }
    }
}

impl std::error::Error for LayoutError {}

/// Pairs of prefixes where the first is the one that its authors evaluate and export.
const PREFERRED: [(&str, &str); 3] = [
    ("encoder_q.", "encoder_k."),
    ("online_net.backbone.", "target_net.backbone."),
    ("teacher.", "student."),
];

/// Every encoder below any prefix, sorted by prefix.
pub fn candidates<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<Layout> {
    let keys: BTreeSet<&str> = keys.into_iter().collect();
    let anchors = [
        (Naming::Torchvision, "conv1.weight", "layer1.0.conv1.weight"),
        (Naming::Detectron2, "stem.conv1.weight", "res2.0.conv1.weight"),
    ];
    let mut found: Vec<Layout> = Vec::new();
    for (naming, stem, block) in anchors {
        for key in &keys {
            let Some(prefix) = key.strip_suffix(stem) else { continue };
            let whole_word = prefix.is_empty() || prefix.ends_with('.');
            if whole_word && keys.contains(format!("{prefix}{block}").as_str()) {
                found.push(Layout { prefix: prefix.to_owned(), naming });
            }
        }
    }
    found.sort();
    found
}

/// Chooses the encoder of a state dict with the given keys.
///
/// `prefix`, with or without its final dot, settles it; without one, a single candidate or the
/// preferred one of a known pair (query over key, online over target, teacher over student) is
/// taken.
///
/// # Errors
/// [`LayoutError`] where none or several fit.
pub fn detect<'a>(
    keys: impl IntoIterator<Item = &'a str>,
    prefix: Option<&str>,
) -> Result<Layout, LayoutError> {
    let found = candidates(keys);
    let prefixes = || found.iter().map(|l| l.prefix.clone()).collect::<Vec<_>>();
    if let Some(asked) = prefix {
        let dotted =
            if asked.is_empty() || asked.ends_with('.') { asked.to_owned() } else { format!("{asked}.") };
        return found
            .iter()
            .find(|l| l.prefix == dotted)
            .cloned()
            .ok_or_else(|| LayoutError::NoSuchPrefix { asked: asked.to_owned(), found: prefixes() });
    }
    match found.as_slice() {
        [] => Err(LayoutError::NoEncoder),
        [one] => Ok(one.clone()),
        [a, b] => preferred(a, b).cloned().ok_or_else(|| LayoutError::Ambiguous { candidates: prefixes() }),
        _ => Err(LayoutError::Ambiguous { candidates: prefixes() }),
    }
}

/// The preferred of two layouts, where a known pair says so: their prefixes differ just in that word.
fn preferred<'a>(a: &'a Layout, b: &'a Layout) -> Option<&'a Layout> {
    PREFERRED.iter().find_map(|(first, second)| {
        let wins = |x: &Layout, y: &Layout| {
            x.prefix.contains(first) && x.prefix.replacen(first, second, 1) == y.prefix
        };
        if wins(a, b) {
            Some(a)
        } else if wins(b, a) {
            Some(b)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(prefixes: &[&str]) -> Vec<String> {
        prefixes
            .iter()
            .flat_map(|p| {
                ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"]
                    .map(|k| format!("{p}{k}"))
            })
            .collect()
    }

    fn found(prefixes: &[&str], asked: Option<&str>) -> Result<String, LayoutError> {
        let keys = keys(prefixes);
        detect(keys.iter().map(String::as_str), asked).map(|l| l.prefix)
    }

    #[test]
    fn published_layouts() {
        for prefix in
            ["", "module.encoder_q.", "online_net.backbone.", "backbone.", "encoder.", "teacher.backbone."]
        {
            assert_eq!(found(&[prefix], None).as_deref(), Ok(prefix));
        }
        assert_eq!(
            found(&["module.encoder_k.", "module.encoder_q."], None).as_deref(),
            Ok("module.encoder_q.")
        );
        assert_eq!(
            found(&["target_net.backbone.", "online_net.backbone."], None).as_deref(),
            Ok("online_net.backbone.")
        );
        assert_eq!(
            found(&["student.backbone.", "teacher.backbone."], None).as_deref(),
            Ok("teacher.backbone.")
        );
    }

    #[test]
    fn detectron_names_are_recognised() {
        let keys =
            ["backbone.stem.conv1.weight", "backbone.res2.0.conv1.weight", "backbone.stem.conv1.norm.bias"];
        let layout = detect(keys, None).expect("one encoder");
        assert_eq!(layout.naming, Naming::Detectron2);
        assert_eq!(layout.to_torchvision(keys[2]).as_deref(), Some("bn1.bias"));
    }

    #[test]
    fn a_prefix_settles_it() {
        assert_eq!(found(&["encoder_q.", "encoder_k."], Some("encoder_k")).as_deref(), Ok("encoder_k."));
        let err = found(&["encoder_q."], Some("nope")).expect_err("no such prefix");
        assert!(err.to_string().contains("`encoder_q.`"), "{err}");
    }

    #[test]
    fn ambiguity_lists_candidates() {
        let err = found(&["left.", "right."], None).expect_err("two encoders");
        assert_eq!(err, LayoutError::Ambiguous { candidates: vec!["left.".into(), "right.".into()] });
        assert!(err.to_string().contains("--prefix"), "{err}");
    }

    #[test]
    fn nothing_is_an_error() {
        assert_eq!(found(&[], None), Err(LayoutError::NoEncoder));
    }
}
