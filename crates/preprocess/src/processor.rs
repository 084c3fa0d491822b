//! The `preprocessor_config.json` of transformers, as a contract.
//!
//! <https://huggingface.co/docs/transformers/main_classes/image_processor>. What a file leaves out is as its processor's
//! class has it, so that only classes are read that are known. A key that is not known may change what the encoder sees,
//! and is refused unless it is off.

use serde_json::{Map, Value};

use crate::{Center, ContractError, Fit, Interpolation, Preprocess};

/// (class without `ImageProcessor`, what a bare number of `size` means, crops by default, kernel by default), as in
/// transformers 5.24.
const CLASSES: [(&str, Fit, bool, Interpolation); 9] = [
    ("Beit", Fit::Squash, false, Interpolation::Bicubic),
    ("Bit", Fit::Short, true, Interpolation::Bicubic),
    ("Blip", Fit::Squash, false, Interpolation::Bicubic),
    ("CLIP", Fit::Short, true, Interpolation::Bicubic),
    ("ChineseCLIP", Fit::Short, true, Interpolation::Bicubic),
    ("DINOv3ViT", Fit::Squash, false, Interpolation::Bilinear),
    ("DeiT", Fit::Squash, true, Interpolation::Bicubic),
    ("Siglip", Fit::Squash, false, Interpolation::Bicubic),
    ("ViT", Fit::Squash, false, Interpolation::Bilinear),
];

/// Endings of classes' names, from the first versions to today's.
const ENDINGS: [&str; 3] = ["ImageProcessorFast", "ImageProcessor", "FeatureExtractor"];

/// Keys that are read.
const READ: [&str; 13] = [
    "image_processor_type",
    "feature_extractor_type",
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_flip_channel_order",
];

/// Keys that change no pixel: pictures are RGB here in any case, and tensors have the channels first.
const HARMLESS: [&str; 11] = [
    "processor_class",
    "do_convert_rgb",
    "default_to_square",
    "auto_map",
    "data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "use_fast",
    "image_seq_length",
    "_valid_processor_keys",
];

pub(crate) fn foreign(what: impl Into<String>) -> ContractError {
    ContractError::Foreign(what.into())
}

/// Three numbers.
pub(crate) fn triple(value: &Value, key: &str) -> Result<[f32; 3], ContractError> {
    let numbers: Option<Vec<f32>> = value
        .get(key)
        .and_then(Value::as_array)
        .and_then(|all| all.iter().map(|v| v.as_f64().map(|v| v as f32)).collect());
    numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| foreign(format!("`{key}` is not three numbers")))
}

/// The contract, which rounds as the processor does.
pub(crate) fn read(config: &Value) -> Result<Preprocess, ContractError> {
    let keys = config.as_object().ok_or_else(|| foreign("the file is no JSON object"))?;
    all_known(keys)?;
    let class = class(keys)?;
    let off = |key: &str| keys.get(key).and_then(Value::as_bool) == Some(false);
    if let Some(key) = ["do_resize", "do_normalize", "do_rescale"].into_iter().find(|key| off(key)) {
        return Err(foreign(format!("`{key}` is off")));
    }
    if keys.get("do_flip_channel_order").and_then(Value::as_bool) == Some(true) {
        return Err(foreign("`do_flip_channel_order` is on: channels are B G R instead of R G B"));
    }
    rescaled(keys)?;
    let crops = keys.get("do_center_crop").and_then(Value::as_bool);
    let crop = match crops.unwrap_or(class.is_none_or(|(_, crops, _)| crops)) {
        true => keys.get("crop_size").map(|size| square("crop_size", size)).transpose()?,
        false => None,
    };
    let (fit, resize) = sides(keys.get("size"), class.map(|(fit, ..)| fit))?;
    let crop = match (crop, fit) {
        (Some(crop), _) => crop,
        (None, Fit::Squash) => resize,
        (None, Fit::Short) => {
            return Err(foreign("there is no centre crop, so pictures would keep any size"));
        }
    };
    let interpolation = match keys.get("resample").filter(|v| !v.is_null()).map(Value::as_u64) {
        None => class.map_or(Interpolation::Bilinear, |(.., kernel)| kernel),
        Some(Some(2)) => Interpolation::Bilinear,
        Some(Some(3)) => Interpolation::Bicubic,
        Some(other) => {
            let found = other.map_or("no number".to_owned(), |n| n.to_string());
            return Err(foreign(format!("`resample` is {found}: expected 2 (bilinear) or 3 (bicubic)")));
        }
    };
    let (mean, std) = (triple(config, "image_mean")?, triple(config, "image_std")?);
    Ok(Preprocess { resize, crop, interpolation, mean, std, high_pass: None, fit, center: Center::Down })
}

/// What is on has to be understood.
fn all_known(keys: &Map<String, Value>) -> Result<(), ContractError> {
    let off = |value: &Value| value.is_null() || value.as_bool() == Some(false);
    let known = |key: &str| READ.contains(&key) || HARMLESS.contains(&key);
    match keys.iter().find(|(key, value)| !known(key) && !off(value)) {
        Some((key, value)) => Err(foreign(format!("`{key}` is {value}"))),
        None => Ok(()),
    }
}

/// What the class says about what the file leaves out; `None` where it names none.
fn class(keys: &Map<String, Value>) -> Result<Option<(Fit, bool, Interpolation)>, ContractError> {
    let named = ["image_processor_type", "feature_extractor_type"].into_iter().find_map(|key| keys.get(key));
    let Some(name) = named.and_then(Value::as_str) else { return Ok(None) };
    let bare = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let row = CLASSES.iter().find(|(class, ..)| class.eq_ignore_ascii_case(bare));
    let known = || CLASSES.map(|(class, ..)| class).join(", ");
    let refused = || foreign(format!("its class is `{name}` (known are those of {})", known()));
    row.map(|&(_, fit, crops, kernel)| Some((fit, crops, kernel))).ok_or_else(refused)
}

/// Bytes have to become numbers from 0 to 1.
fn rescaled(keys: &Map<String, Value>) -> Result<(), ContractError> {
    let Some(factor) = keys.get("rescale_factor").filter(|v| !v.is_null()) else { return Ok(()) };
    // Files have the factor in single precision, too.
    let near = |f: f64| (f * 255.0 - 1.0).abs() < 1e-6;
    match factor.as_f64() {
        Some(f) if near(f) => Ok(()),
        _ => Err(foreign(format!("`rescale_factor` is {factor} instead of 1/255"))),
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

/// The side of a square.
fn square(key: &str, size: &Value) -> Result<u32, ContractError> {
    let side = |name: &str| size.get(name).and_then(number);
    match (number(size), side("height"), side("width")) {
        (Some(side), ..) => Ok(side),
        (None, Some(height), Some(width)) if height == width => Ok(height),
        (None, Some(height), Some(width)) => {
            Err(foreign(format!("`{key}` is {height}x{width}, which is no square")))
        }
        _ => Err(foreign(format!("`{key}` is {size}"))),
    }
}

/// Which sides are resized, and to what length.
fn sides(size: Option<&Value>, bare: Option<Fit>) -> Result<(Fit, u32), ContractError> {
    let Some(size) = size.filter(|size| !size.is_null()) else { return Err(foreign("there is no `size`")) };
    let edges = size.as_object().map_or(0, Map::len);
    match (size.get("shortest_edge").and_then(number), number(size)) {
        (Some(short), _) if edges == 1 => Ok((Fit::Short, short)),
        (None, Some(side)) => match bare {
            Some(fit) => Ok((fit, side)),
            None => Err(foreign(format!("`size` is {side}, and no class says which sides are meant"))),
        },
        _ => square("size", size).map(|side| (Fit::Squash, side)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn clip() -> Value {
        json!({
            "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224},
            "crop_size": {"height": 224, "width": 224}, "rescale_factor": 0.00392156862745098,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
        })
    }

    fn with(key: &str, value: Value) -> Result<Preprocess, String> {
        let mut all = clip();
        all[key] = value;
        read(&all).map_err(|e| e.to_string())
    }

    #[test]
    fn what_a_file_leaves_out_is_as_its_class_has_it() {
        let plain = read(&clip()).expect("read");
        assert_eq!((plain.fit, plain.center, plain.crop), (Fit::Short, Center::Down, 224));
        assert_eq!(plain.interpolation, Interpolation::Bicubic);
        let old = json!({
            "feature_extractor_type": "ViTFeatureExtractor", "size": 224, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5], "do_normalize": true, "do_resize": true,
        });
        let old = read(&old).expect("read");
        assert_eq!((old.fit, old.resize, old.crop), (Fit::Squash, 224, 224));
        assert_eq!(old.interpolation, Interpolation::Bilinear);
        let old = with("size", json!(256)).expect("the shortest edge");
        assert_eq!((old.fit, old.resize, old.crop), (Fit::Short, 256, 224));
        let squashed = json!({"height": 256, "width": 256});
        let deit = with("size", squashed).expect("read");
        assert_eq!((deit.fit, deit.resize, deit.crop), (Fit::Squash, 256, 224));
        for name in ["SiglipImageProcessorFast", "BlipImageProcessor"] {
            let mut all = clip();
            all["image_processor_type"] = json!(name);
            assert!(read(&all).is_err(), "{name} crops only where it is told to");
            all["do_center_crop"] = json!(true);
            assert_eq!(read(&all).expect("known").fit, Fit::Short, "`size` says it");
        }
    }

    #[test]
    fn what_is_off_or_changes_nothing_is_read() {
        for (key, value) in [
            ("do_convert_rgb", json!(true)),
            ("do_pad", json!(false)),
            ("pad_size", json!(null)),
            ("processor_class", json!("CLIPProcessor")),
            ("do_flip_channel_order", json!(false)),
            ("rescale_factor", json!(1.0f32 / 255.0)),
        ] {
            assert_eq!(with(key, value).ok(), read(&clip()).ok(), "{key}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (key, value, reason) in [
            ("do_pad", json!(true), "`do_pad` is true"),
            ("crop_pct", json!(0.875), "`crop_pct` is 0.875"),
            ("rescale_factor", json!(0.007_843_137_254_9), "instead of 1/255"),
            ("do_flip_channel_order", json!(true), "B G R"),
            ("image_processor_type", json!("LevitImageProcessor"), "`LevitImageProcessor`"),
            ("size", json!({"height": 224, "width": 192}), "`size` is 224x192, which is no square"),
            ("size", json!({"shortest_edge": 224, "longest_edge": 300}), "`size` is {"),
            ("crop_size", json!({"height": 224, "width": 192}), "`crop_size` is 224x192"),
            ("do_resize", json!(false), "`do_resize` is off"),
            ("resample", json!("bicubic"), "`resample` is no number"),
        ] {
            let error = with(key, value).expect_err(key);
            assert!(error.contains(reason), "{key}: {error}");
        }
        assert!(read(&json!([])).is_err());
    }
}
