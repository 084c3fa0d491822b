//! The `preprocessor_config.json` of transformers, as a contract.
//!
//! <https://huggingface.co/docs/transformers/main_classes/image_processor>. What a file leaves out is as its processor's
//! class has it, so that only classes are read that are known. A key that is not known may change what the encoder sees,
//! and is refused unless it is off.

use serde_json::{Map, Value};

use crate::{Center, ContractError, Fit, Interpolation, Preprocess};

/// (class without `ImageProcessor`, what a bare number of `size` means, what is cropped, kernel by default)
type Class = (&'static str, Fit, Crop, Interpolation);

/// What the classes do with what a file leaves out, as in transformers 5.24.
const CLASSES: [Class; 10] = [
    ("Beit", Fit::Squash, Crop::Off(Some(224)), Interpolation::Bicubic),
    ("Bit", Fit::Short, Crop::On(224), Interpolation::Bicubic),
    ("Blip", Fit::Squash, Crop::Off(None), Interpolation::Bicubic),
    ("CLIP", Fit::Short, Crop::On(224), Interpolation::Bicubic),
    ("ChineseCLIP", Fit::Short, Crop::On(224), Interpolation::Bicubic),
    ("ConvNext", Fit::Short, Crop::Share, Interpolation::Bicubic),
    ("DINOv3ViT", Fit::Squash, Crop::Off(None), Interpolation::Bilinear),
    ("DeiT", Fit::Squash, Crop::On(224), Interpolation::Bicubic),
    ("Siglip", Fit::Squash, Crop::Off(None), Interpolation::Bicubic),
    ("ViT", Fit::Squash, Crop::Off(None), Interpolation::Bilinear),
];

/// What a class cuts from the centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crop {
    /// So many pixels, where the file has no other number.
    On(u32),
    /// Nothing where it is not asked to; then so many pixels, where the class has a number.
    Off(Option<u32>),
    /// The share [`SHARE`] of the short side, where pictures are not as large as [`SQUASHED`].
    Share,
}

/// The key of [`Crop::Share`], and what it is where a file leaves it out.
const SHARE: (&str, f64) = ("crop_pct", 224.0 / 256.0);

/// Pictures from so many pixels on are squashed by [`Crop::Share`], and nothing of them is cropped.
const SQUASHED: u32 = 384;

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
    let class = class(keys)?;
    let crop = class.map(|(_, _, crop, _)| crop);
    all_known(keys, crop)?;
    let off = |key: &str| keys.get(key).and_then(Value::as_bool) == Some(false);
    if let Some(key) = ["do_resize", "do_normalize", "do_rescale"].into_iter().find(|key| off(key)) {
        return Err(foreign(format!("`{key}` is off")));
    }
    if keys.get("do_flip_channel_order").and_then(Value::as_bool) == Some(true) {
        return Err(foreign("`do_flip_channel_order` is on: channels are B G R instead of R G B"));
    }
    rescaled(keys)?;
    let (fit, side) = sides(keys.get("size"), class.map(|(_, fit, ..)| fit))?;
    let (fit, resize, crop) = match crop {
        Some(Crop::Share) => shared(keys, (fit, side))?,
        _ => (fit, side, cropped(keys, crop, (fit, side))?),
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
fn all_known(keys: &Map<String, Value>, crop: Option<Crop>) -> Result<(), ContractError> {
    let off = |value: &Value| value.is_null() || value.as_bool() == Some(false);
    let share = |key: &str| key == SHARE.0 && crop == Some(Crop::Share);
    let known = |key: &str| READ.contains(&key) || HARMLESS.contains(&key) || share(key);
    match keys.iter().find(|(key, value)| !known(key) && !off(value)) {
        Some((key, value)) => Err(foreign(format!("`{key}` is {value}"))),
        None => Ok(()),
    }
}

/// What the class says about what the file leaves out; `None` where it names none.
fn class(keys: &Map<String, Value>) -> Result<Option<Class>, ContractError> {
    let named = ["image_processor_type", "feature_extractor_type"].into_iter().find_map(|key| keys.get(key));
    let Some(name) = named.and_then(Value::as_str) else { return Ok(None) };
    let bare = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let row = CLASSES.iter().find(|(class, ..)| class.eq_ignore_ascii_case(bare));
    let known = || CLASSES.map(|(class, ..)| class).join(", ");
    let refused = || foreign(format!("its class is `{name}` (known are those of {})", known()));
    row.copied().map(Some).ok_or_else(refused)
}

/// The side of the centre crop, as the file has it or else its class.
fn cropped(
    keys: &Map<String, Value>,
    class: Option<Crop>,
    (fit, resize): (Fit, u32),
) -> Result<u32, ContractError> {
    let (on, usual) = match class {
        Some(Crop::On(side)) => (true, Some(side)),
        Some(Crop::Off(side)) => (false, side),
        Some(Crop::Share) | None => (true, None),
    };
    let asked = keys.get("do_center_crop").and_then(Value::as_bool);
    let crop = match asked.unwrap_or(on) {
        true => {
            let own = keys.get("crop_size").filter(|size| !size.is_null());
            own.map(|size| square("crop_size", size)).transpose()?.or(usual)
        }
        false => None,
    };
    match (crop, fit) {
        (Some(crop), _) => Ok(crop),
        (None, _) if asked == Some(true) => Err(foreign("`do_center_crop` is on without a `crop_size`")),
        (None, Fit::Squash) => Ok(resize),
        (None, Fit::Short) => Err(foreign("there is no centre crop, so pictures would keep any size")),
    }
}

/// What [`Crop::Share`] resizes and crops, where `size` is the side of the result.
fn shared(keys: &Map<String, Value>, (fit, side): (Fit, u32)) -> Result<(Fit, u32, u32), ContractError> {
    if fit == Fit::Squash {
        return Err(foreign(format!("`size` is {side}x{side}: expected the shortest edge")));
    }
    if keys.get("do_center_crop").and_then(Value::as_bool) == Some(true) {
        return Err(foreign("`do_center_crop` is on: pictures would be cropped twice"));
    }
    let (key, usual) = SHARE;
    let share = match keys.get(key).filter(|share| !share.is_null()) {
        None => usual,
        Some(found) => {
            let share = found.as_f64().filter(|share| *share > 0.0 && *share <= 1.0);
            share
                .ok_or_else(|| foreign(format!("`{key}` is {found}: expected a number above 0, at most 1")))?
        }
    };
    Ok(match side < SQUASHED {
        true => (Fit::Short, (f64::from(side) / share).floor() as u32, side),
        false => (Fit::Squash, side, side),
    })
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
    fn crops_are_as_large_as_the_class_has_them() {
        let of = |class: &str, more: Value| {
            let mut all = json!({
                "image_processor_type": class, "size": 256, "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            });
            more.as_object().into_iter().flatten().for_each(|(key, value)| all[key] = value.clone());
            read(&all).map(|found| (found.fit, found.resize, found.crop)).map_err(|e| e.to_string())
        };
        assert_eq!(of("DeiTImageProcessor", json!({})), Ok((Fit::Squash, 256, 224)));
        assert_eq!(of("DeiTImageProcessor", json!({"crop_size": null})), Ok((Fit::Squash, 256, 224)));
        assert_eq!(of("DeiTImageProcessor", json!({"crop_size": 192})), Ok((Fit::Squash, 256, 192)));
        assert_eq!(of("DeiTImageProcessor", json!({"do_center_crop": false})), Ok((Fit::Squash, 256, 256)));
        assert_eq!(of("CLIPImageProcessor", json!({})), Ok((Fit::Short, 256, 224)));
        assert_eq!(of("BeitImageProcessor", json!({})), Ok((Fit::Squash, 256, 256)));
        assert_eq!(of("BeitImageProcessor", json!({"do_center_crop": true})), Ok((Fit::Squash, 256, 224)));
        let unknown = of("SiglipImageProcessor", json!({"do_center_crop": true})).expect_err("no number");
        assert!(unknown.contains("without a `crop_size`"), "{unknown}");
    }

    /// As beside the published ResNets, which transformers prepares by the class of ConvNeXT.
    #[test]
    fn the_share_of_a_crop_is_read_where_the_class_has_one() {
        let of = |key: &str, value: Value| {
            let mut all = json!({
                "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor", "resample": 3,
                "size": 224, "do_resize": true, "do_normalize": true, "image_mean": [0.485, 0.456, 0.406],
                "image_std": [0.229, 0.224, 0.225],
            });
            all[key] = value;
            read(&all).map_err(|e| e.to_string())
        };
        let plain = of("size", json!(224)).expect("read");
        let expected = Preprocess {
            interpolation: Interpolation::Bicubic,
            center: Center::Down,
            ..Preprocess::imagenet(224)
        };
        assert_eq!(plain, expected);
        assert_eq!(of("image_processor_type", json!("ConvNextImageProcessor")), Ok(expected.clone()));
        assert_eq!(of("size", json!({"shortest_edge": 224})), Ok(expected.clone()));
        assert_eq!(of("crop_pct", json!(null)), Ok(expected.clone()), "224 of 256");
        assert_eq!(of("resample", json!(null)), Ok(expected));
        assert_eq!(of("crop_pct", json!(0.95)).map(|found| (found.resize, found.crop)), Ok((235, 224)));
        for (size, found) in [(383, (Fit::Short, 437, 383)), (384, (Fit::Squash, 384, 384))] {
            assert_eq!(of("size", json!(size)).map(|c| (c.fit, c.resize, c.crop)), Ok(found));
        }
        for (key, value, reason) in [
            ("crop_pct", json!(0), "`crop_pct` is 0: expected a number above 0, at most 1"),
            ("crop_pct", json!("most"), "`crop_pct` is \"most\": expected"),
            ("crop_pct", json!(1.5), "`crop_pct` is 1.5: expected"),
            ("size", json!({"height": 224, "width": 224}), "`size` is 224x224: expected the shortest edge"),
            ("do_center_crop", json!(true), "cropped twice"),
        ] {
            let error = of(key, value).expect_err(key);
            assert!(error.contains(reason), "{key}: {error}");
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
