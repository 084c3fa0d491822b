//! What the weights of an encoder do not show and transformers keeps beside them, in `config.json`.
//!
//! <https://huggingface.co/docs/transformers/model_doc/resnet>

use std::fs::File;
use std::io::Read;
use std::path::Path;

use occlude_encoder::layout::{Layout, Naming};
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// The file's name, beside the weights.
const CONFIG: &str = "config.json";

/// Longest configuration that is looked at, in bytes; real ones have thousands with all their labels.
const MAX_CONFIG: u64 = 4 << 20;

/// (setting, its value in our graph as JSON, what the network is otherwise)
const SETTINGS: [(&str, &str, &str); 3] = [
    (
        "downsample_in_bottleneck",
        "false",
        "its bottleneck blocks have their stride in the first 1x1 convolution (ResNet v1), not in the 3x3 one",
    ),
    ("downsample_in_first_stage", "false", "its first stage has a stride as well"),
    ("hidden_act", "\"relu\"", "its activation is not ReLU"),
];

/// The same for vision transformers.
const VIT_SETTINGS: [(&str, &str, &str); 2] = [
    ("hidden_act", "\"gelu\"", "its activation is not the exact GELU"),
    ("qkv_bias", "true", "its attention has no biases"),
];

/// What transformers calls the vision transformers that are read here.
const VITS: [&str; 5] = ["vit", "vit_mae", "deit", "dinov2", "dinov2_with_registers"];

/// Holds the configuration beside a checkpoint, where there is one, against our graph: networks that differ in nothing
/// but where they stride have the same weights by name and shape.
pub(crate) fn check(checkpoint: &Checkpoint, layout: &Layout) -> Result<Option<VitSettings>, Error> {
    let transformers = matches!(layout.naming, Naming::Transformers | Naming::TransformersVit);
    if !transformers || !checkpoint.is_file() {
        return Ok(None);
    }
    let path = checkpoint.path().with_file_name(CONFIG);
    let Some(config) = read(&path) else { return Ok(None) };
    // Detectors have their backbone's in their own.
    for config in [Some(&config), config.get("backbone_config")].into_iter().flatten() {
        if let Some((setting, what)) = differs(config) {
            return Err(Error::Setting { path, setting, what });
        }
    }
    Ok(layout.naming.is_vit().then(|| VitSettings::of(&config)))
}

/// What the weights of a vision transformer do not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VitSettings {
    /// Heads of attention.
    pub(crate) heads: Option<usize>,
    /// The negative power of ten that is added to variances.
    pub(crate) eps: Option<u8>,
}

impl VitSettings {
    fn of(config: &Value) -> Self {
        let heads = config.get("num_attention_heads").and_then(Value::as_u64);
        let eps = config.get("layer_norm_eps").and_then(Value::as_f64);
        Self {
            heads: heads.and_then(|heads| usize::try_from(heads).ok()),
            eps: eps.filter(|eps| (1e-20..1.0).contains(eps)).map(|eps| -eps.log10().round() as u8),
        }
    }
}

/// The configuration; nothing where it is none that transformers would read.
fn read(path: &Path) -> Option<Value> {
    // Opening a pipe would wait for somebody to write into it.
    if !std::fs::metadata(path).is_ok_and(|m| m.is_file()) {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_CONFIG).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The first setting that our graph does not have, and what it means.
fn differs(config: &Value) -> Option<(String, &'static str)> {
    let settings: &[_] = match config.get("model_type").and_then(Value::as_str)? {
        "resnet" => &SETTINGS,
        vit if VITS.contains(&vit) => &VIT_SETTINGS,
        _ => return None,
    };
    settings.iter().find_map(|(name, own, what)| {
        let value = config.get(*name)?.to_string();
        (value != *own).then(|| (format!("{name}: {value}"), *what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_ours_lacks_is_found() {
        let found = |config: Value| differs(&config).map(|(setting, _)| setting);
        let published = json!({
            "model_type": "resnet", "hidden_act": "relu", "layer_type": "bottleneck", "downsample_in_bottleneck": false,
            "downsample_in_first_stage": false,
        });
        assert_eq!(found(published), None);
        assert_eq!(found(json!({"model_type": "resnet"})), None, "transformers' defaults are ours");
        let v1 = json!({"model_type": "resnet", "downsample_in_bottleneck": true});
        assert_eq!(found(v1).as_deref(), Some("downsample_in_bottleneck: true"));
        let first = json!({"model_type": "resnet", "downsample_in_first_stage": true});
        assert_eq!(found(first).as_deref(), Some("downsample_in_first_stage: true"));
        let silu = json!({"model_type": "resnet", "hidden_act": "silu"});
        assert_eq!(found(silu).as_deref(), Some("hidden_act: \"silu\""));
        assert_eq!(found(json!({"model_type": "bert", "hidden_act": "gelu"})), None);
        let vit = json!({"model_type": "dinov2", "hidden_act": "gelu", "qkv_bias": true});
        assert_eq!(found(vit), None);
        let quick = json!({"model_type": "vit", "hidden_act": "quick_gelu"});
        assert_eq!(found(quick).as_deref(), Some("hidden_act: \"quick_gelu\""));
        let bare = json!({"model_type": "vit", "qkv_bias": false});
        assert_eq!(found(bare).as_deref(), Some("qkv_bias: false"));
    }

    #[test]
    fn heads_and_epsilon_are_read() {
        let of = |config: Value| VitSettings::of(&config);
        let all = of(json!({"num_attention_heads": 4, "layer_norm_eps": 1e-12}));
        assert_eq!(all, VitSettings { heads: Some(4), eps: Some(12) });
        assert_eq!(of(json!({"num_attention_heads": "x", "layer_norm_eps": -1})), VitSettings::default());
    }
}
