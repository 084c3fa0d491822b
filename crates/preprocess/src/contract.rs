//! The contract itself, its JSON form, and what it does to a picture.

use serde::{Deserialize, Serialize};

use crate::resize::{Part, resize_part};
use crate::{CropBox, HighPass, Interpolation, Rgb};

/// Version of the JSON form.
const VERSION: u64 = 1;

/// Largest side that a contract may ask for, in pixels: it is allocated for every picture.
const MAX_SIDE: u32 = 16_384;

/// Largest standard deviation, which leaves pixels undivided. Those of values between 0 and 1 are at most a half.
const MAX_STD: f32 = 1.0;

/// How pictures become the tensors that an encoder was trained on.
///
/// Short side (or both sides: [`Fit`]) to `resize` with antialiasing, centre `crop` x `crop`, divided by 255, normalised
/// per channel, then optionally high-pass filtered.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Length of the short side after resizing, in pixels.
    pub resize: u32,
    /// Side of the square cut from the centre, in pixels; at most `resize`.
    pub crop: u32,
    /// Kernel of the resize.
    pub interpolation: Interpolation,
    /// Subtracted from each channel, on the 0..1 scale, R G B.
    pub mean: [f32; 3],
    /// Divides each channel, on the same scale.
    pub std: [f32; 3],
    /// Filter of encoders trained on high-pass pictures; comes last.
    pub high_pass: Option<HighPass>,
    /// Which sides become `resize` pixels long.
    pub fit: Fit,
    /// Where the crop lies if as many pixels cannot be left out at both ends.
    pub center: Center,
}

/// Which sides of a picture are resized to the contract's length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The short one; the other follows, so that proportions stay.
    #[default]
    Short,
    /// Both: the picture is squashed to a square, as the processors of SigLIP and ViT do it.
    Squash,
}

/// How half a pixel is rounded where the crop cannot lie in the very middle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Center {
    /// To the even neighbour, as torchvision's `CenterCrop` does.
    #[default]
    Even,
    /// Down, as the processors of transformers do.
    Down,
}

/// What is wrong with a contract.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ContractError {
    /// Not JSON, or not the keys and types of a contract.
    #[error("not a preprocessing contract: {0}")]
    Json(String),
    /// Another project's, of something that a contract cannot say.
    #[error("{0}, which a preprocessing contract cannot express")]
    Foreign(String),
    /// Written by a later Occlude.
    #[error(
        "preprocessing contract of version {found}: this build reads version {VERSION}; hint: update Occlude"
    )]
    Version { found: u64 },
    /// A colour order other than RGB.
    #[error("colour order `{found}`: expected `RGB`")]
    Colour { found: String },
    /// A size of zero, or beyond what can be allocated for every picture.
    #[error("`{field}` is {found}: expected 1 to {MAX_SIDE}")]
    Size {
        /// `resize` or `crop`.
        field: &'static str,
        found: u32,
    },
    /// The crop does not fit into the resized picture.
    #[error("`crop` {crop} is larger than `resize` {resize}")]
    CropTooLarge { crop: u32, resize: u32 },
    /// A mean outside of the scale of pixels, or a standard deviation that is none of values on it.
    #[error("`{field}` {found:?}: expected {}{}", range(field), scale_hint(found))]
    Statistics {
        /// `mean` or `std`.
        field: &'static str,
        found: [f32; 3],
    },
    /// An even or zero kernel, or one too wide for the borders to be reflected.
    #[error("high-pass kernel {kernel}: expected an odd number up to {max}, twice the crop minus one")]
    Kernel {
        kernel: u32,
        /// The widest that fits the crop.
        max: u32,
    },
    /// A width of the Gaussian that is not positive.
    #[error("high-pass sigma {found}: expected a finite number above 0")]
    Sigma { found: f32 },
}

/// What a statistic may be.
fn range(field: &str) -> String {
    match field {
        "std" => format!("more than 0 and at most {MAX_STD}"),
        _ => "0 to 1".to_owned(),
    }
}

/// Papers and configurations give the same statistics on the scale of bytes, too.
fn scale_hint(found: &[f32; 3]) -> String {
    if !found.iter().all(|v| (1.0..=255.0).contains(v)) {
        return String::new();
    }
    let [r, g, b] = found.map(|v| (f64::from(v) / 255.0 * 1e6).round() / 1e6);
    format!("; hint: these look like the 0..255 scale, which is {r},{g},{b} on the 0..1 scale")
}

/// The JSON form; the order of the fields is part of the fingerprint.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    version: u64,
    color: String,
    resize: u32,
    crop: u32,
    interpolation: Interpolation,
    mean: [f32; 3],
    std: [f32; 3],
    high_pass: Option<HighPass>,
    // Left out where they are the usual ones: files and fingerprints from before them stay what they were.
    #[serde(default, skip_serializing_if = "is_usual")]
    fit: Fit,
    #[serde(default, skip_serializing_if = "is_usual")]
    center: Center,
}

fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Preprocess {
    /// The usual evaluation transform at another size: resize to `crop` * 256 / 224, bilinear, the
    /// channel statistics of ImageNet, no high-pass.
    pub fn imagenet(crop: u32) -> Self {
        Self {
            resize: ((u64::from(crop) * 256 + 112) / 224) as u32,
            crop,
            interpolation: Interpolation::Bilinear,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            high_pass: None,
            fit: Fit::default(),
            center: Center::default(),
        }
    }

    /// The canonical form: one line, fixed order of keys. Fingerprints are computed over it.
    pub fn to_json(&self) -> String {
        let json = Json {
            version: VERSION,
            color: "RGB".to_owned(),
            resize: self.resize,
            crop: self.crop,
            interpolation: self.interpolation,
            mean: self.mean,
            std: self.std,
            high_pass: self.high_pass,
            fit: self.fit,
            center: self.center,
        };
        serde_json::to_string(&json).expect("numbers and strings always serialise")
    }

    /// Reads and validates a contract.
    ///
    /// # Errors
    /// [`ContractError`]; unknown keys and versions are refused, because ignoring one would change
    /// what the encoder sees.
    pub fn from_json(s: &str) -> Result<Self, ContractError> {
        let not_json = |e: serde_json::Error| ContractError::Json(e.to_string());
        // The version first: a later one may have other keys.
        let value: serde_json::Value = serde_json::from_str(s).map_err(not_json)?;
        if let Some(found) = value.get("version").and_then(serde_json::Value::as_u64)
            && found != VERSION
        {
            return Err(ContractError::Version { found });
        }
        let json: Json = serde_json::from_str(s).map_err(not_json)?;
        if json.color != "RGB" {
            return Err(ContractError::Colour { found: json.color });
        }
        let contract = Self {
            resize: json.resize,
            crop: json.crop,
            interpolation: json.interpolation,
            mean: json.mean,
            std: json.std,
            high_pass: json.high_pass,
            fit: json.fit,
            center: json.center,
        };
        contract.validate()?;
        Ok(contract)
    }

    /// Holds a contract that was put together by hand (from flags, say) against the rules of
    /// [`Self::from_json`].
    ///
    /// # Errors
    /// [`ContractError`] for sizes, statistics and filters that make no sense.
    pub fn validate(&self) -> Result<(), ContractError> {
        for (field, found) in [("resize", self.resize), ("crop", self.crop)] {
            if !(1..=MAX_SIDE).contains(&found) {
                return Err(ContractError::Size { field, found });
            }
        }
        if self.crop > self.resize {
            return Err(ContractError::CropTooLarge { crop: self.crop, resize: self.resize });
        }
        if !self.mean.iter().all(|m| (0.0..=1.0).contains(m)) {
            return Err(ContractError::Statistics { field: "mean", found: self.mean });
        }
        if !self.std.iter().all(|s| *s > 0.0 && *s <= MAX_STD) {
            return Err(ContractError::Statistics { field: "std", found: self.std });
        }
        self.high_pass.map_or(Ok(()), |filter| self.validate_filter(filter))
    }

    fn validate_filter(&self, filter: HighPass) -> Result<(), ContractError> {
        let max = 2 * self.crop - 1;
        if filter.kernel.is_multiple_of(2) || filter.kernel > max {
            return Err(ContractError::Kernel { kernel: filter.kernel, max });
        }
        if !(filter.sigma.is_finite() && filter.sigma > 0.0) {
            return Err(ContractError::Sigma { found: filter.sigma });
        }
        Ok(())
    }

    /// Resizes the short side to `resize`, keeping the aspect, or both sides ([`Fit`]), and cuts `crop` x `crop` from the
    /// centre, with the rounding of torchvision's `Resize` and of [`Center`].
    ///
    /// Only the pixels of the crop are computed, whatever the aspect of the picture. A picture
    /// without area comes out black.
    pub fn pixels(&self, image: &Rgb) -> Rgb {
        if image.width == 0 || image.height == 0 {
            return Rgb::filled(self.crop, self.crop, [0; 3]);
        }
        let across = self.window(image.width, image.height);
        let down = self.window(image.height, image.width);
        resize_part(image, across, down, self.interpolation)
    }

    /// Along one side of the picture: its length after resizing, and what of it the crop shows.
    fn window(&self, side: u32, other: u32) -> Part {
        let resized = match self.fit {
            Fit::Short => u64::from(self.resize) * u64::from(side) / u64::from(side.min(other)),
            Fit::Squash => u64::from(self.resize),
        };
        let outputs = u32::try_from(resized).unwrap_or(u32::MAX);
        let left_out = i64::from(outputs) - i64::from(self.crop);
        let first = match self.center {
            Center::Even => half_to_even(left_out),
            Center::Down => left_out.div_euclid(2),
        };
        Part { outputs, first: first.max(0) as u32, count: self.crop }
    }

    /// The part of a `width` x `height` picture that [`Self::pixels`] shows, in its pixels.
    pub fn shown(&self, width: u32, height: u32) -> CropBox {
        let along = |side: u32, other: u32| {
            let part = self.window(side, other.max(1));
            let scale = f64::from(side) / f64::from(part.outputs.max(1));
            (f64::from(part.first) * scale, f64::from(part.count) * scale)
        };
        let ((left, width), (top, height)) = (along(width.max(1), height), along(height.max(1), width));
        CropBox { left, top, width, height }
    }

    /// The input tensor `(3, H, W)` of a picture that already has its size.
    pub fn tensor(&self, pixels: &Rgb) -> Vec<f32> {
        let mut out = vec![0.0; pixels.data.len()];
        self.tensor_into(pixels, &mut out);
        out
    }

    /// [`Self::tensor`] into memory of the caller's.
    ///
    /// # Panics
    /// When `out` does not have `3 * H * W` elements.
    pub fn tensor_into(&self, pixels: &Rgb, out: &mut [f32]) {
        self.normalized_into(pixels, out);
        if let Some(filter) = self.high_pass {
            filter.apply(out, pixels.height as usize, pixels.width as usize);
        }
    }

    /// `(x / 255 - mean) / std` as planes `(3, H, W)`, without the high-pass filter: what an ONNX
    /// file with a float input takes, because the filter is part of its graph.
    ///
    /// # Panics
    /// When `out` does not have `3 * H * W` elements.
    pub fn normalized_into(&self, pixels: &Rgb, out: &mut [f32]) {
        pixels.check();
        assert_eq!(out.len(), pixels.data.len(), "the tensor of {pixels:?} has as many elements");
        let plane = out.len() / 3;
        if plane == 0 {
            return;
        }
        for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
            // In the order of torchvision's ToTensor and Normalize, so that the bits are the same.
            let table: [f32; 256] =
                std::array::from_fn(|v| (v as f32 / 255.0 - self.mean[channel]) / self.std[channel]);
            for (o, pixel) in out.iter_mut().zip(pixels.data.as_chunks::<3>().0) {
                *o = table[usize::from(pixel[channel])];
            }
        }
    }

    /// The input tensor `(3, crop, crop)` of any picture: [`Self::pixels`], then [`Self::tensor`].
    pub fn apply(&self, image: &Rgb) -> Vec<f32> {
        self.tensor(&self.pixels(image))
    }
}

/// `difference / 2` as Python's `round` has it: halves go to the even neighbour.
fn half_to_even(difference: i64) -> i64 {
    let half = difference.div_euclid(2);
    half + i64::from(difference.rem_euclid(2) == 1 && half.rem_euclid(2) == 1)
}
