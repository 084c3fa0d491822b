//! What the weights of a ResNet do not show and transformers keeps beside them, in `config.json`.
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
        "its bottleneck blocks stride in their first 1x1 convolution (ResNet v1), not in the 3x3 one",
    ),
    ("downsample_in_first_stage", "false", "its first stage strides as well"),
    ("hidden_act", "\"relu\"", "its activation is not ReLU"),
];

/// Holds the configuration beside a checkpoint, where there is one, against our graph: networks that differ in nothing
/// but where they stride have the same weights by name and shape.
pub(crate) fn check(checkpoint: &Checkpoint, layout: &Layout) -> Result<(), Error> {
    if layout.naming != Naming::Transformers || !checkpoint.is_file() {
        return Ok(());
    }
    let path = checkpoint.path().with_file_name(CONFIG);
    let Some(config) = read(&path) else { return Ok(()) };
    // Detectors have their backbone's in their own.
    for config in [Some(&config), config.get("backbone_config")].into_iter().flatten() {
        if let Some((setting, what)) = differs(config) {
            return Err(Error::Setting { path, setting, what });
        }
    }
    Ok(())
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

/// The first setting of a ResNet that our graph does not have, and what it means.
fn differs(config: &Value) -> Option<(String, &'static str)> {
    if config.get("model_type").and_then(Value::as_str) != Some("resnet") {
        return None;
    }
    SETTINGS.iter().find_map(|(name, own, what)| {
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
    }
}
