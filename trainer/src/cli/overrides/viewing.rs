//! The flags of how views are drawn.

use clap::Args;

use super::{pair, set};
use crate::config::Config;

/// Flags of how views are drawn, of all groups alike.
#[derive(Args, Debug, Default)]
pub(super) struct ViewArgs {
    /// Smallest share of a picture's area that a crop takes
    #[arg(long)]
    crop_min: Option<f64>,
    /// Minimum share of a picture's foreground that each crop holds, judged by colours and the centre: the first of
    /// ten crops that does, or the best. 0: any crop
    #[arg(long, value_name = "SHARE")]
    crop_foreground: Option<f64>,
    /// Probability of Gaussian blur
    #[arg(long)]
    blur_p: Option<f64>,
    /// Range of the blur's sigma, pixels
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"])]
    blur_sigma: Option<Vec<f64>>,
    /// Probability of grey
    #[arg(long)]
    gray_p: Option<f64>,
    /// Probability of solarisation
    #[arg(long)]
    solarize_p: Option<f64>,
    /// Probability of a horizontal flip
    #[arg(long)]
    flip_p: Option<f64>,
    /// Factor on the strength of all colour jitter
    #[arg(long)]
    jitter: Option<f64>,
}

impl ViewArgs {
    /// Overrides what is given.
    pub(super) fn apply(self, c: &mut Config) {
        let sigma = pair(self.blur_sigma);
        for augment in c.views.iter_mut().map(|group| &mut group.augment) {
            set(&mut augment.crop_min, self.crop_min);
            set(&mut augment.crop_foreground, self.crop_foreground);
            set(&mut augment.blur_p, self.blur_p);
            set(&mut augment.blur_sigma, sigma);
            set(&mut augment.gray_p, self.gray_p);
            set(&mut augment.solarize_p, self.solarize_p);
            set(&mut augment.flip_p, self.flip_p);
            if let Some(factor) = self.jitter {
                augment.jitter = augment.jitter.map(|j| j * factor);
            }
        }
    }
}
