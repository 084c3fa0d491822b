//! Detectron2's names of the same parameters, by an anchored table.

/// Detectron2's name (without a `backbone.` prefix) of a torchvision ResNet parameter, or `None`
/// for a name that is not an encoder parameter.
///
/// `layer1.0.bn2.weight` -> `res2.0.conv2.norm.weight`; `conv1.weight` -> `stem.conv1.weight`.
pub fn from_torchvision(name: &str) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    match module {
        "conv1" => return (leaf == "weight").then(|| format!("stem.conv1.{leaf}")),
        "bn1" => return is_bn_leaf(leaf).then(|| format!("stem.conv1.norm.{leaf}")),
        _ => {}
    }
    let mut parts = module.splitn(3, '.');
    let layer: usize = parts.next()?.strip_prefix("layer")?.parse().ok()?;
    let block: usize = parts.next()?.parse().ok()?;
    let module = parts.next()?;
    let (module, norm) = match module {
        "downsample.0" => ("shortcut".to_owned(), false),
        "downsample.1" => ("shortcut".to_owned(), true),
        _ => match (number(module, "conv"), number(module, "bn")) {
            (Some(i), _) => (format!("conv{i}"), false),
            (_, Some(i)) => (format!("conv{i}"), true),
            _ => return None,
        },
    };
    let valid = (1..=4).contains(&layer) && if norm { is_bn_leaf(leaf) } else { leaf == "weight" };
    let norm = if norm { "norm." } else { "" };
    valid.then(|| format!("res{}.{block}.{module}.{norm}{leaf}", layer + 1))
}

/// The inverse of [`from_torchvision`].
pub fn to_torchvision(name: &str) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    let (module, norm) = match module.strip_suffix(".norm") {
        Some(conv) => (conv, true),
        None => (module, false),
    };
    if !(if norm { is_bn_leaf(leaf) } else { leaf == "weight" }) {
        return None;
    }
    let kind = if norm { "bn" } else { "conv" };
    if module == "stem.conv1" {
        return Some(format!("{kind}1.{leaf}"));
    }
    let mut parts = module.splitn(3, '.');
    let stage: usize = parts.next()?.strip_prefix("res")?.parse().ok()?;
    let block: usize = parts.next()?.parse().ok()?;
    let conv = parts.next()?;
    if !(2..=5).contains(&stage) {
        return None;
    }
    let module = match (conv, number(conv, "conv")) {
        ("shortcut", _) => format!("downsample.{}", usize::from(norm)),
        (_, Some(i)) => format!("{kind}{i}"),
        _ => return None,
    };
    Some(format!("layer{}.{block}.{module}.{leaf}", stage - 1))
}

fn is_bn_leaf(leaf: &str) -> bool {
    matches!(leaf, "weight" | "bias" | "running_mean" | "running_var" | "num_batches_tracked")
}

/// `conv2`, `conv` -> 2; only what is a prefix and a plain number.
fn number(module: &str, prefix: &str) -> Option<usize> {
    module.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arch, Graph};
    use std::collections::HashSet;

    #[test]
    fn known_pairs() {
        for (ours, theirs) in [
            ("conv1.weight", "stem.conv1.weight"),
            ("bn1.running_mean", "stem.conv1.norm.running_mean"),
            ("layer1.0.conv2.weight", "res2.0.conv2.weight"),
            ("layer4.2.bn3.num_batches_tracked", "res5.2.conv3.norm.num_batches_tracked"),
            ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
            ("layer2.0.downsample.1.bias", "res3.0.shortcut.norm.bias"),
        ] {
            assert_eq!(from_torchvision(ours).as_deref(), Some(theirs));
            assert_eq!(to_torchvision(theirs).as_deref(), Some(ours));
        }
    }

    /// Chained replaces rename parts of other words; an anchored table must not.
    #[test]
    fn other_names_are_refused() {
        for name in [
            "fc.weight",
            "layer1.0.conv1x.weight",
            "layer5.0.conv1.weight",
            "xlayer1.0.conv1.weight",
            "conv1",
            "conv1.bias",
            "layer1.0.bn1.extra",
        ] {
            assert_eq!(from_torchvision(name), None, "{name}");
        }
        for name in ["stem.fc.weight", "res1.0.conv1.weight", "res2.0.norm.weight", "stem.conv1.norm.extra"] {
            assert_eq!(to_torchvision(name), None, "{name}");
        }
    }

    #[test]
    fn a_bijection_on_every_encoder() {
        for arch in Arch::ALL {
            let params = Graph::new(arch).params();
            let theirs: HashSet<_> =
                params.iter().map(|p| from_torchvision(&p.name).expect("an encoder parameter")).collect();
            assert_eq!(theirs.len(), params.len());
            for p in &params {
                assert_eq!(
                    to_torchvision(&from_torchvision(&p.name).expect("named")).as_deref(),
                    Some(p.name.as_str())
                );
            }
        }
    }
}
