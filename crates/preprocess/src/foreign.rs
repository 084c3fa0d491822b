//! What other projects say about preprocessing, as a contract.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{ContractError, Interpolation, Preprocess};

/// (name, resize, crop, mean and deviation): evaluation transforms of published vision transformers, all bicubic.
const NAMED: [(&str, u32, u32, Statistics); 6] = [
    ("dino", 256, 224, IMAGENET),
    ("ibot", 256, 224, IMAGENET),
    ("dinov2", 256, 224, IMAGENET),
    ("mae", 256, 224, IMAGENET),
    ("deit", 256, 224, IMAGENET),
    ("augreg", 248, 224, HALF),
];

/// What transformers keeps beside the weights.
const PROCESSOR: &str = "preprocessor_config.json";

/// A file that gives no contract.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ContractFileError {
    /// It cannot be read.
    #[error("cannot read `{path}`: {reason}", path = path.display())]
    Read { path: PathBuf, reason: io::Error },
    /// It is no contract.
    #[error("`{path}`: {reason}", path = path.display())]
    Contract { path: PathBuf, reason: ContractError },
}

type Statistics = ([f32; 3], [f32; 3]);

const IMAGENET: Statistics = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
const HALF: Statistics = ([0.5; 3], [0.5; 3]);

impl Preprocess {
    /// The names that [`Self::named`] knows.
    pub const NAMES: [&'static str; 7] = ["imagenet", "dino", "ibot", "dinov2", "mae", "deit", "augreg"];

    /// The evaluation transform that goes with published weights: `dino`, or `augreg` for timm's `vit_*.augreg_*`.
    pub fn named(name: &str) -> Option<Self> {
        if name == "imagenet" {
            return Some(Self::imagenet(224));
        }
        let (_, resize, crop, (mean, std)) = *NAMED.iter().find(|row| row.0 == name)?;
        let interpolation = Interpolation::Bicubic;
        Some(Self { resize, crop, interpolation, mean, std, high_pass: None })
    }

    /// What a user asks for: [`Self::named`], or else [`Self::read`] of that file.
    ///
    /// # Errors
    /// [`ContractFileError`].
    pub fn named_or_read(asked: &str) -> Result<Self, ContractFileError> {
        Self::named(asked).map_or_else(|| Self::read(Path::new(asked)), Ok)
    }

    /// [`Self::from_foreign`] of a file.
    ///
    /// # Errors
    /// [`ContractFileError`].
    pub fn read(path: &Path) -> Result<Self, ContractFileError> {
        let unread = |reason| ContractFileError::Read { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(unread)?;
        Self::from_foreign(&text)
            .map_err(|reason| ContractFileError::Contract { path: path.to_owned(), reason })
    }

    /// The contract of the `preprocessor_config.json` beside a file of weights, `None` where there is none.
    ///
    /// # Errors
    /// [`ContractFileError`].
    pub fn beside(weights: &Path) -> Result<Option<Self>, ContractFileError> {
        let path = weights.with_file_name(PROCESSOR);
        if weights.is_file() && path.is_file() { Self::read(&path).map(Some) } else { Ok(None) }
    }

    /// Reads a contract, a `preprocessor_config.json` of transformers, or the `pretrained_cfg` of timm's `config.json`.
    ///
    /// # Errors
    /// [`ContractError`]; also for what a contract cannot say, such as pictures that are squashed to a square.
    pub fn from_foreign(text: &str) -> Result<Self, ContractError> {
        let value: Value = serde_json::from_str(text).map_err(|e| ContractError::Json(e.to_string()))?;
        let contract = match (value.get("pretrained_cfg"), value.get("image_mean")) {
            (Some(cfg), _) => timm(cfg)?,
            (None, Some(_)) => transformers(&value)?,
            (None, None) => return Self::from_json(text),
        };
        contract.validate()?;
        Ok(contract)
    }
}

fn foreign(what: impl Into<String>) -> ContractError {
    ContractError::Foreign(what.into())
}

/// <https://huggingface.co/docs/transformers/main_classes/image_processor>
fn transformers(config: &Value) -> Result<Preprocess, ContractError> {
    let off = |key: &str| config.get(key).and_then(Value::as_bool) == Some(false);
    if let Some(key) = ["do_resize", "do_normalize", "do_rescale"].into_iter().find(|key| off(key)) {
        return Err(foreign(format!("`{key}` is off")));
    }
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let side = |key: &str| {
        let value = config.get(key)?;
        let (height, width) = (value.get("height").and_then(number), value.get("width").and_then(number));
        number(value).or_else(|| height.filter(|_| height == width))
    };
    let short = config.get("size").and_then(|size| size.get("shortest_edge")).and_then(number);
    let crop = if off("do_center_crop") { None } else { side("crop_size") };
    let (resize, crop) = match (short, crop, side("size")) {
        (Some(short), Some(crop), _) => (short, crop),
        (Some(_), None, _) => {
            return Err(foreign("there is no centre crop, so pictures would keep any size"));
        }
        (None, _, Some(side)) => {
            return Err(foreign(format!(
                "pictures are squashed to {side}x{side}, whatever their proportions"
            )));
        }
        (None, _, None) => return Err(foreign("there is no `size`")),
    };
    let interpolation = match config.get("resample").and_then(Value::as_u64) {
        None | Some(2) => Interpolation::Bilinear,
        Some(3) => Interpolation::Bicubic,
        Some(other) => {
            return Err(foreign(format!("`resample` is {other}: expected 2 (bilinear) or 3 (bicubic)")));
        }
    };
    let (mean, std) = (triple(config, "image_mean")?, triple(config, "image_std")?);
    Ok(Preprocess { resize, crop, interpolation, mean, std, high_pass: None })
}

/// <https://huggingface.co/docs/timm/models> `pretrained_cfg`: the short side becomes the crop divided by `crop_pct`.
fn timm(cfg: &Value) -> Result<Preprocess, ContractError> {
    let size = cfg.get("input_size").and_then(Value::as_array).map(Vec::as_slice);
    let crop = match size {
        Some([_, height, width]) if height == width => height.as_u64().and_then(|n| u32::try_from(n).ok()),
        _ => None,
    };
    let crop = crop.ok_or_else(|| foreign("`input_size` is not square"))?;
    if cfg.get("crop_mode").and_then(Value::as_str).is_some_and(|mode| mode != "center") {
        return Err(foreign("`crop_mode` is not `center`"));
    }
    let share = cfg.get("crop_pct").and_then(Value::as_f64).filter(|share| *share > 0.0 && *share <= 1.0);
    let resize = (f64::from(crop) / share.unwrap_or(0.875)).floor() as u32;
    let interpolation = match cfg.get("interpolation").and_then(Value::as_str) {
        Some("bicubic") => Interpolation::Bicubic,
        None | Some("bilinear") => Interpolation::Bilinear,
        Some(other) => return Err(foreign(format!("`interpolation` is `{other}`"))),
    };
    let (mean, std) = (triple(cfg, "mean")?, triple(cfg, "std")?);
    Ok(Preprocess { resize, crop, interpolation, mean, std, high_pass: None })
}

fn triple(value: &Value, key: &str) -> Result<[f32; 3], ContractError> {
    let numbers: Option<Vec<f32>> = value
        .get(key)
        .and_then(Value::as_array)
        .and_then(|all| all.iter().map(|v| v.as_f64().map(|v| v as f32)).collect());
    numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| foreign(format!("`{key}` is not three numbers")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<Preprocess, String> {
        Preprocess::from_foreign(&value.to_string()).map_err(|e| e.to_string())
    }

    fn dinov2() -> Value {
        json!({
            "crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_convert_rgb": true,
            "do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.485, 0.456, 0.406],
            "image_processor_type": "BitImageProcessor", "image_std": [0.229, 0.224, 0.225], "resample": 3,
            "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 256},
        })
    }

    #[test]
    fn the_processors_of_transformers() {
        assert_eq!(read(&dinov2()), Ok(Preprocess::named("dinov2").expect("known")));
        let with = |key: &str, value: Value| {
            let mut all = dinov2();
            all[key] = value;
            read(&all)
        };
        assert_eq!(with("resample", json!(2)).expect("read").interpolation, Interpolation::Bilinear);
        assert_eq!(with("crop_size", json!(192)).expect("read").crop, 192);
        for (key, value, reason) in [
            ("size", json!({"height": 224, "width": 224}), "squashed to 224x224"),
            ("do_center_crop", json!(false), "no centre crop"),
            ("do_normalize", json!(false), "`do_normalize` is off"),
            ("resample", json!(1), "`resample` is 1"),
            ("image_std", json!([0.2]), "`image_std` is not three numbers"),
            ("size", json!(null), "no `size`"),
            ("crop_size", json!(512), "larger than `resize`"),
        ] {
            let error = with(key, value).expect_err(key);
            assert!(error.contains(reason), "{key}: {error}");
        }
    }

    #[test]
    fn the_configurations_of_timm() {
        let cfg = json!({
            "input_size": [3, 224, 224], "fixed_input_size": true, "interpolation": "bicubic", "crop_pct": 0.9,
            "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 0,
        });
        let all = json!({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": cfg});
        assert_eq!(read(&all), Ok(Preprocess::named("augreg").expect("known")));
        let mut other = all.clone();
        other["pretrained_cfg"]["crop_mode"] = json!("squash");
        assert!(read(&other).is_err_and(|e| e.contains("`crop_mode`")));
        other = all;
        other["pretrained_cfg"]["input_size"] = json!([3, 224, 192]);
        assert!(read(&other).is_err_and(|e| e.contains("not square")));
    }

    #[test]
    fn our_own_form_is_read_too() {
        let contract = Preprocess::imagenet(64);
        assert_eq!(Preprocess::from_foreign(&contract.to_json()), Ok(contract));
        assert!(read(&json!({"a": 1})).is_err());
        assert!(Preprocess::from_foreign("{").is_err());
    }

    #[test]
    fn the_file_beside_the_weights_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let (weights, file) = (folder.path().join("model.safetensors"), folder.path().join(PROCESSOR));
        std::fs::write(&weights, "").expect("written");
        assert!(Preprocess::beside(&weights).expect("nothing there").is_none());
        std::fs::write(&file, dinov2().to_string()).expect("written");
        assert_eq!(Preprocess::beside(&weights).expect("read"), Preprocess::named("dinov2"));
        std::fs::write(&file, "{").expect("written");
        let error = Preprocess::beside(&weights).expect_err("no JSON").to_string();
        assert!(error.contains(PROCESSOR), "{error}");
        let missing = folder.path().join("x.json").display().to_string();
        assert!(Preprocess::named_or_read(&missing).expect_err("no file").to_string().contains("x.json"));
        std::fs::write(&missing, dinov2().to_string()).expect("written");
        for asked in ["dinov2", &missing] {
            assert_eq!(Preprocess::named_or_read(asked).ok(), Preprocess::named("dinov2"));
        }
    }

    #[test]
    fn every_name_is_known() {
        assert!(
            Preprocess::NAMES
                .into_iter()
                .all(|name| Preprocess::named(name).is_some_and(|c| c.validate().is_ok()))
        );
        assert_eq!(Preprocess::named("clip"), None);
    }
}
