//! The weights that a run begins with, where they are not random.

use std::path::PathBuf;

use occlude_encoder::Arch;
use serde::{Deserialize, Serialize};

use super::{Invalid, check, unit};

/// An encoder to go on from, and what keeps it from being destroyed while the heads know nothing yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beginning {
    /// The file that it was read from.
    pub checkpoint: PathBuf,
    /// SHA-256 of its weights and their contract, which a resumed run compares; weights it takes from its own checkpoint.
    pub fingerprint: String,
    /// What its contract subtracts from pixels on the 0..1 scale, and this run does, too.
    pub mean: [f32; 3],
    /// What it divides them by then.
    pub std: [f32; 3],
    /// Epochs in which the heads learn and the encoder stays as it is.
    pub head_warmup: f64,
    /// Learning rate of each layer as a share of that of the layer behind it; the heads have the whole.
    pub layer_decay: f64,
}

/// Share of the epochs in which the heads learn alone, where nothing else is said.
const HEAD_WARMUP: f64 = 0.1;

impl Beginning {
    /// Epochs in which the heads learn alone, where nothing else is said: at most one.
    pub fn usual_warmup(epochs: usize) -> f64 {
        (HEAD_WARMUP * epochs as f64).min(1.0)
    }

    /// The encoder's part of the learning rate at a time in epochs: none at first, then rising over as long as the
    /// rate itself took to rise.
    pub fn share(&self, epoch: f64, warmup: f64) -> f64 {
        let since = epoch - self.head_warmup;
        match since {
            s if s < 0.0 => 0.0,
            s if self.head_warmup > 0.0 && s < warmup => s / warmup,
            _ => 1.0,
        }
    }

    /// The factor on the learning rate of a parameter, by its name within the encoder; that of heads is one.
    pub fn scale(&self, arch: Arch, name: &str) -> f64 {
        self.layer_decay.powi((layers(arch) - depth(arch, name)) as i32)
    }

    pub(super) fn validate(&self, epochs: usize) -> Result<(), Invalid> {
        unit("--layer-decay", self.layer_decay)?;
        check(self.layer_decay > 0.0, || "`--layer-decay 0`: expected more than 0 and at most 1".into())?;
        check(self.head_warmup >= 0.0 && self.head_warmup < epochs as f64, || {
            format!("`--head-warmup {}` leaves none of `--epochs {epochs}`", self.head_warmup)
        })
    }
}

/// Layers of an encoder as layer-wise rates count them (arXiv 2106.08254): the stem, and each block of a vision transformer or each
/// stage of a ResNet; then come the heads.
fn layers(arch: Arch) -> usize {
    arch.vit().map_or(5, |vit| vit.depth + 1)
}

/// The layer that a parameter belongs to, from 0.
fn depth(arch: Arch, name: &str) -> usize {
    let numbered = |prefix: &str| -> Option<usize> {
        let (number, _) = name.strip_prefix(prefix)?.split_once('.')?;
        number.parse().ok()
    };
    match arch.vit() {
        // the last normalisation goes with the last block
        Some(vit) if name.starts_with("norm.") => vit.depth,
        Some(_) => numbered("blocks.").map_or(0, |block| block + 1),
        None => numbered("layer").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beginning() -> Beginning {
        let (mean, std) = ([0.5; 3], [0.25; 3]);
        let (checkpoint, fingerprint) = ("a".into(), "b".into());
        Beginning { checkpoint, fingerprint, mean, std, head_warmup: 1.0, layer_decay: 0.5 }
    }

    #[test]
    fn layers_near_the_pixels_move_least() {
        let b = beginning();
        let arch: Arch = "resnet18".parse().expect("known");
        for (name, scale) in [
            ("conv1.weight", 0.5f64.powi(5)),
            ("bn1.bias", 0.5f64.powi(5)),
            ("layer1.0.conv1.weight", 0.5f64.powi(4)),
            ("layer4.1.bn2.weight", 0.5),
        ] {
            assert_eq!(b.scale(arch, name), scale, "{name}");
        }
        let arch: Arch = "vit_16x3x2_patch4_16".parse().expect("known");
        for (name, scale) in [
            ("cls_token", 0.0625),
            ("patch_embed.proj.weight", 0.0625),
            ("blocks.0.norm1.weight", 0.125),
            ("blocks.2.mlp.fc2.bias", 0.5),
            ("norm.weight", 0.5),
        ] {
            assert_eq!(b.scale(arch, name), scale, "{name}");
        }
    }

    #[test]
    fn the_encoder_waits_for_the_heads() {
        let b = beginning();
        let at = |epoch| b.share(epoch, 0.5);
        assert_eq!([0.0, 0.99, 1.0, 1.25, 1.5, 9.0].map(at), [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]);
        let at_once = Beginning { head_warmup: 0.0, ..beginning() };
        assert_eq!(at_once.share(0.0, 0.5), 1.0, "the rate rises by itself");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (head_warmup, layer_decay, expected) in
            [(1.0, 0.0, "--layer-decay"), (1.0, 1.5, "--layer-decay"), (3.0, 0.5, "--head-warmup")]
        {
            let bad = Beginning { head_warmup, layer_decay, ..beginning() };
            let error = bad.validate(3).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(beginning().validate(3), Ok(()));
    }
}
