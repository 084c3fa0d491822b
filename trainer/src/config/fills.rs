//! How large the kernels and squares of masking are: published for views of 224 px, scaled to others.

use occlude_preprocess::HighPass;
use serde::{Deserialize, Serialize};

/// The side of the views that the published sizes are meant for.
const PUBLISHED_SIDE: f64 = 224.0;
/// The blur of masked cells: 31x31, sigma 10.
const BLUR: Kernel = Kernel { side: 31, sigma: 10.0 };
/// The high-pass filter of the `hp` strategy: 11x11, sigma 5.
const HIGH_PASS: Kernel = Kernel { side: 11, sigma: 5.0 };
/// Side of the square that a focal query keeps, as a share of the image (200 of 224 pixels).
const FOCAL_QUERY_SIDE: f64 = 200.0 / 224.0;
/// Side of the square that a focal hard negative loses (130 of 224 pixels).
const FOCAL_NEGATIVE_SIDE: f64 = 130.0 / 224.0;
/// The smallest kernel that does anything.
const LEAST_SIDE: u32 = 3;

/// The sides in pixels of the squares that a focal query keeps and a focal hard negative loses, for views of side `size`.
pub fn focal_sides(size: usize) -> [i64; 2] {
    [FOCAL_QUERY_SIDE, FOCAL_NEGATIVE_SIDE].map(|share| (size as f64 * share).round() as i64)
}

/// What the sizes of kernels go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FillScale {
    /// The view's size: the same share of it as of 224 px
    View,
    /// The published sizes in pixels, whatever the view's size
    // what checkpoints of earlier versions were trained with
    #[default]
    Published,
}

/// A Gaussian kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Pixels along a side, odd.
    pub side: u32,
    /// Standard deviation in pixels.
    pub sigma: f64,
}

impl Kernel {
    /// The same share of a view of `size` pixels as this one is of 224: the nearest odd side, and sigma in proportion.
    fn scaled(self, size: usize) -> Self {
        let of_view = |published: f64| published * size as f64 / PUBLISHED_SIDE;
        let half = ((of_view(f64::from(self.side)) - 1.0) / 2.0).round().max(0.0) as u32;
        Self { side: (2 * half + 1).max(LEAST_SIDE), sigma: of_view(self.sigma) }
    }
}

/// The kernels of masking in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fills {
    /// What masked cells are blurred with.
    pub blur: Kernel,
    /// The high-pass filter.
    pub high_pass: Kernel,
}

impl Fills {
    /// For views of `size` pixels.
    pub fn new(scale: FillScale, size: usize) -> Self {
        let of = |kernel: Kernel| match scale {
            FillScale::View => kernel.scaled(size),
            FillScale::Published => kernel,
        };
        Self { blur: of(BLUR), high_pass: of(HIGH_PASS) }
    }

    /// The filter as preprocessing contracts have it.
    pub fn filter(&self) -> HighPass {
        HighPass { kernel: self.high_pass.side, sigma: self.high_pass.sigma as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_keep_their_share_of_the_view() {
        let at = |size| {
            let Fills { blur, high_pass } = Fills::new(FillScale::View, size);
            (blur.side, blur.sigma, high_pass.side, high_pass.sigma)
        };
        assert_eq!(at(224), (31, 10.0, 11, 5.0));
        assert_eq!(at(448), (63, 20.0, 23, 10.0));
        assert_eq!(at(112), (15, 5.0, 5, 2.5));
        assert_eq!(at(64), (9, 10.0 * 64.0 / 224.0, 3, 5.0 * 64.0 / 224.0));
        assert_eq!(at(32), (5, 10.0 * 32.0 / 224.0, 3, 5.0 * 32.0 / 224.0));
        for size in 32..=1024 {
            let fills = Fills::new(FillScale::View, size);
            for (kernel, published) in [(fills.blur, BLUR), (fills.high_pass, HIGH_PASS)] {
                let exact = f64::from(published.side) * size as f64 / 224.0;
                assert!(
                    kernel.side % 2 == 1 && (f64::from(kernel.side) - exact).abs() <= 1.5,
                    "{size}: {kernel:?}"
                );
                assert!((kernel.sigma * 224.0 / size as f64 - published.sigma).abs() < 1e-9);
            }
            assert_eq!(Fills::new(FillScale::Published, size), Fills { blur: BLUR, high_pass: HIGH_PASS });
        }
    }
}
