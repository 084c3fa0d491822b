//! What other projects say about preprocessing, as a contract.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::processor::{self, foreign, triple};
use crate::{Center, ContractError, Fit, Interpolation, Preprocess};

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
        Some(Self { resize, crop, interpolation, mean, std, ..Self::imagenet(crop) })
    }

    /// What a user asks for: [`Self::named`], or else [`Self::read`] of that file.
    ///
    /// # Errors
    /// [`ContractFileError`].
    pub fn named_or_read(asked: &str) -> Result<Self, ContractFileError> {
        Self::named(asked).map_or_else(|| Self::read(Path::new(asked)), Ok)
    }

    /// [`Self::named_or_read`], a file by [`Self::from_foreign_exactly`].
    ///
    /// # Errors
    /// [`ContractFileError`].
    pub fn named_or_read_exactly(asked: &str) -> Result<Self, ContractFileError> {
        Self::named(asked).map_or_else(|| of_file(Path::new(asked), Self::from_foreign_exactly), Ok)
    }

    /// [`Self::from_foreign`] of a file.
    ///
    /// # Errors
    /// [`ContractFileError`].
    pub fn read(path: &Path) -> Result<Self, ContractFileError> {
        of_file(path, Self::from_foreign)
    }

    /// The contract of the `preprocessor_config.json` beside a file of weights, `None` where there is none.
    ///
    /// # Errors
    /// [`ContractFileError`].
    pub fn beside(weights: &Path) -> Result<Option<Self>, ContractFileError> {
        let path = weights.with_file_name(PROCESSOR);
        if weights.is_file() && path.is_file() { Self::read(&path).map(Some) } else { Ok(None) }
    }

    /// The contract of the `preprocessor_config.json` in a folder, by [`Self::from_foreign_exactly`]; `None` where there is
    /// none.
    ///
    /// # Errors
    /// [`ContractFileError`].
    pub fn of_folder_exactly(folder: &Path) -> Result<Option<Self>, ContractFileError> {
        let path = folder.join(PROCESSOR);
        path.is_file().then(|| of_file(&path, Self::from_foreign_exactly)).transpose()
    }

    /// Reads a contract, a `preprocessor_config.json` of transformers, or the `pretrained_cfg` of timm's `config.json`.
    ///
    /// The crop is the usual one ([`Center::Even`]), whichever project's file it is: what is read here has always become
    /// part of fingerprints like that. [`Self::from_foreign_exactly`] rounds as the project does.
    ///
    /// # Errors
    /// [`ContractError`]; also for what a contract cannot say, such as pictures that are padded.
    pub fn from_foreign(text: &str) -> Result<Self, ContractError> {
        let contract = Self::from_foreign_exactly(text)?;
        let own = Self::from_json(text).is_ok();
        Ok(if own { contract } else { Self { center: Center::Even, ..contract } })
    }

    /// The same to the pixel, for what has to answer as it does in the project that the file is from.
    ///
    /// # Errors
    /// As [`Self::from_foreign`].
    pub fn from_foreign_exactly(text: &str) -> Result<Self, ContractError> {
        let value: Value = serde_json::from_str(text).map_err(|e| ContractError::Json(e.to_string()))?;
        let contract = match (value.get("pretrained_cfg"), value.get("image_mean")) {
            (Some(cfg), _) => timm(cfg)?,
            (None, Some(_)) => processor::read(&value)?,
            (None, None) => return Self::from_json(text),
        };
        contract.validate()?;
        Ok(contract)
    }
}

fn of_file(
    path: &Path,
    read: impl Fn(&str) -> Result<Preprocess, ContractError>,
) -> Result<Preprocess, ContractFileError> {
    let unread = |reason| ContractFileError::Read { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(unread)?;
    read(&text).map_err(|reason| ContractFileError::Contract { path: path.to_owned(), reason })
}

/// <https://huggingface.co/docs/timm/models> `pretrained_cfg`: the short side becomes the crop divided by `crop_pct`.
fn timm(cfg: &Value) -> Result<Preprocess, ContractError> {
    let size = cfg.get("input_size").and_then(Value::as_array).map(Vec::as_slice);
    let crop = match size {
        Some([_, height, width]) if height == width => height.as_u64().and_then(|n| u32::try_from(n).ok()),
        _ => None,
    };
    let crop = crop.ok_or_else(|| foreign("`input_size` is not square"))?;
    let fit = match cfg.get("crop_mode").and_then(Value::as_str) {
        None | Some("center") => Fit::Short,
        Some("squash") => Fit::Squash,
        Some(other) => return Err(foreign(format!("`crop_mode` is `{other}`"))),
    };
    let share = cfg.get("crop_pct").and_then(Value::as_f64).filter(|share| *share > 0.0 && *share <= 1.0);
    let resize = (f64::from(crop) / share.unwrap_or(0.875)).floor() as u32;
    let interpolation = match cfg.get("interpolation").and_then(Value::as_str) {
        // What timm's `resolve_data_config` takes where nothing is said.
        None | Some("bicubic") => Interpolation::Bicubic,
        Some("bilinear") => Interpolation::Bilinear,
        Some(other) => return Err(foreign(format!("`interpolation` is `{other}`"))),
    };
    let (mean, std) = (triple(cfg, "mean")?, triple(cfg, "std")?);
    Ok(Preprocess { resize, crop, interpolation, mean, std, fit, ..Preprocess::imagenet(crop) })
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
        let squashed = with("size", json!({"height": 256, "width": 256})).expect("read");
        assert_eq!((squashed.fit, squashed.resize, squashed.crop), (Fit::Squash, 256, 224));
        let exactly = Preprocess::from_foreign_exactly(&dinov2().to_string()).expect("read");
        assert_eq!(exactly, Preprocess { center: Center::Down, ..read(&dinov2()).expect("read") });
        let own = exactly.to_json();
        assert_eq!(Preprocess::from_foreign(&own).as_ref(), Ok(&exactly), "our own form says it");
        for (key, value, reason) in [
            ("size", json!({"height": 256, "width": 224}), "no square"),
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
        assert_eq!(read(&other).expect("read").fit, Fit::Squash);
        other["pretrained_cfg"]["crop_mode"] = json!("border");
        assert!(read(&other).is_err_and(|e| e.contains("`crop_mode`")));
        other = all;
        for (said, kernel) in [
            (json!(null), Interpolation::Bicubic),
            (json!("bicubic"), Interpolation::Bicubic),
            (json!("bilinear"), Interpolation::Bilinear),
        ] {
            other["pretrained_cfg"]["interpolation"] = said;
            assert_eq!(read(&other).expect("read").interpolation, kernel);
        }
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
