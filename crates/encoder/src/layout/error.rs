//! Why no encoder was chosen.

use std::fmt;

/// Why no single encoder could be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// No key ends in `conv1.weight` with a `layer1.0.conv1.weight` beside it.
    NoEncoder,
    /// A ResNet's blocks, but not its usual stem: another network, whose weights would be misread.
    OtherStem {
        /// What the keys of its blocks begin with.
        prefix: String,
        /// What is there instead of the stem's weight.
        found: Vec<String>,
    },
    /// The children of a ResNet one behind the other, no pooling among them, and not the stem of a network for small
    /// pictures.
    NoPooling {
        /// What their keys begin with.
        prefix: String,
    },
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
        match self {
            Self::NoEncoder => f.write_str(
                "no encoder found: expected a ResNet's keys that end in `conv1.weight` and `layer1.0.conv1.weight` (or `stem.conv1.weight` and `res2.0.conv1.weight`, or `0.weight` and `4.0.conv1.weight`, or `embedder.embedder.convolution.weight` and `encoder.stages.0.layers.0.layer.0.convolution.weight`), or a vision transformer's `patch_embed.proj.weight` and `blocks.0.norm1.weight` (or `embeddings.patch_embeddings.projection.weight` and `encoder.layer.0.attention.attention.query.weight`), below one prefix",
            ),
            Self::OtherStem { prefix, found } => write!(
                f,
                "the ResNet below the prefix `{prefix}` has no plain stem `conv1.weight` (it has {}): {} not supported",
                list(found),
                stem(found)
            ),
            Self::NoPooling { prefix } => write!(
                f,
                "the `nn.Sequential` below the prefix `{prefix}` is a ResNet without pooling after a stem that is not the 3x3 convolution of networks for CIFAR (`resnet18-small`, `resnet50-small`): its strides are not in the file, and it is not supported"
            ),
            Self::NoSuchPrefix { asked, found } if found.is_empty() => {
                write!(f, "no encoder below the prefix `{asked}`, nor below any other")
            }
            Self::NoSuchPrefix { asked, found } => {
                write!(f, "no encoder below the prefix `{asked}`: found encoders below {}", list(found))
            }
            Self::Ambiguous { candidates } => {
                write!(f, "several encoders found, below the prefixes {}; hint: name one with `--prefix`", list(candidates))?;
                if candidates.iter().any(String::is_empty) {
                    f.write_str(" (`--prefix \"\"` for the one without)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LayoutError {}

/// What a ResNet with such a stem is.
fn stem(found: &[String]) -> &'static str {
    let has = |part: &str| found.iter().any(|name| name.contains(part));
    if has("conv1.0.") || has("stem.0.") || has("stem.conv1.0.") {
        "a deep stem of several convolutions (ResNet-C, -D or -S, timm's `resnet50d`) is"
    } else {
        "ResNets with other stems are"
    }
}

/// The first names, quoted, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        text.push_str("nothing");
    } else if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
