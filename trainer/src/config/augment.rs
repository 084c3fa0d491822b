//! Views: how many of a picture, how large, and how they are drawn.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Invalid, check, unit};

/// Views of a picture that are drawn alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewGroup {
    /// How many.
    pub count: usize,
    /// Their side in pixels; absent: the run's `image_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Their distribution.
    pub augment: Augment,
}

impl ViewGroup {
    /// So many of the run's size.
    pub fn of(count: usize, augment: Augment) -> Self {
        Self { count, size: None, augment }
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        check((1..=32).contains(&self.count), || {
            format!("`--views`: a group of {} views, expected 1 to 32", self.count)
        })?;
        check(self.size.is_none_or(|size| (32..=1024).contains(&size)), || {
            format!("`--views`: views of {} px, expected 32 to 1024", self.size.unwrap_or_default())
        })?;
        self.augment.validate()
    }
}

/// Reads groups of views, or what versions before them wrote: the distribution of two.
pub(super) fn groups<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ViewGroup>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Groups(Vec<ViewGroup>),
        Two(Augment),
    }
    Ok(match Written::deserialize(from)? {
        Written::Groups(groups) => groups,
        Written::Two(augment) => vec![ViewGroup::of(2, augment)],
    })
}

/// Distribution of the views of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Smallest share of the picture's area that a crop takes.
    pub crop_min: f64,
    /// Largest share.
    pub crop_max: f64,
    /// Probability of colour jitter.
    pub jitter_p: f64,
    /// Strength of brightness, contrast, saturation and hue jitter.
    pub jitter: [f64; 4],
    /// Probability of grey.
    pub gray_p: f64,
    /// Probability of Gaussian blur.
    pub blur_p: f64,
    /// Range of its sigma in pixels.
    pub blur_sigma: [f64; 2],
    /// Probability of solarisation: bright values are inverted.
    pub solarize_p: f64,
    /// Probability of a horizontal flip.
    pub flip_p: f64,
    /// Least share of a picture's foreground, by its colours and the centre, that a crop holds; 0: any crop will do.
    #[serde(default)]
    pub crop_foreground: f64,
}

impl Augment {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        check(0.0 < self.crop_min && self.crop_min <= self.crop_max && self.crop_max <= 1.0, || {
            format!("`--crop-min {}`: expected more than 0 and at most {}", self.crop_min, self.crop_max)
        })?;
        for (name, p) in [
            ("jitter_p", self.jitter_p),
            ("gray_p", self.gray_p),
            ("blur_p", self.blur_p),
            ("solarize_p", self.solarize_p),
            ("flip_p", self.flip_p),
            ("--crop-foreground", self.crop_foreground),
        ] {
            unit(name, p)?;
        }
        check(self.blur_sigma[0] > 0.0 && self.blur_sigma[0] <= self.blur_sigma[1], || {
            format!("blur sigma {:?}: expected a range above 0", self.blur_sigma)
        })
    }
}
