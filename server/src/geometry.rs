//! Which part of a picture the model sees.
//!
//! The contract resizes the short side and crops the centre, so a saliency grid covers a rectangle of the original.

use occlude_preprocess::Preprocess;
use occlude_saliency::{Placement, Rect};

/// The rectangle of a `width` x `height` picture that the contract's crop shows, in its pixels.
pub(crate) fn placement(contract: &Preprocess, width: u32, height: u32) -> Placement {
    let (left, w) = window(contract, width, height);
    let (top, h) = window(contract, height, width);
    Placement { width, height, crop: Rect { left, top, width: w, height: h } }
}

/// Start and length along one side, with torchvision's rounding (`Resize` cuts the long side's length to an integer,
/// `CenterCrop` rounds the start half to even).
fn window(contract: &Preprocess, side: u32, other: u32) -> (f64, f64) {
    let short = u64::from(side.min(other)).max(1);
    let resized = u64::from(contract.resize) * u64::from(side) / short;
    let scale = f64::from(side) / resized.max(1) as f64;
    let start = ((resized as f64 - f64::from(contract.crop)) / 2.0).round_ties_even();
    let left = (start * scale).max(0.0);
    (left, (f64::from(contract.crop) * scale).min(f64::from(side) - left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_preprocess::Rgb;

    /// A picture whose red is its column and green its row, both on a scale to 250: the crop of it says where it
    /// was taken.
    fn coordinates(width: u32, height: u32) -> Rgb {
        let at = |i: u32, n: u32| ((f64::from(i) + 0.5) / f64::from(n) * 250.0).round() as u8;
        let pixel = |i: u32| [at(i % width, width), at(i / width, height), 0];
        Rgb { width, height, data: (0..width * height).flat_map(pixel).collect() }
    }

    #[test]
    fn is_where_the_pixels_come_from() {
        let contract = Preprocess::imagenet(64);
        for (width, height) in [(200, 200), (400, 150), (131, 377), (64, 64), (30, 90), (1000, 75)] {
            let place = placement(&contract, width, height).crop;
            let pixels = contract.pixels(&coordinates(width, height));
            let at =
                |x: u32, y: u32, c: usize| f64::from(pixels.data[((y * 64 + x) * 3) as usize + c]) / 250.0;
            for (x, y) in [(4, 4), (32, 32), (59, 59), (59, 4)] {
                let expect_x = (place.left + place.width * (f64::from(x) + 0.5) / 64.0) / f64::from(width);
                let expect_y = (place.top + place.height * (f64::from(y) + 0.5) / 64.0) / f64::from(height);
                assert!((at(x, y, 0) - expect_x).abs() < 0.012, "{width}x{height} at {x},{y}: {expect_x}");
                assert!((at(x, y, 1) - expect_y).abs() < 0.012, "{width}x{height} at {x},{y}: {expect_y}");
            }
        }
    }

    #[test]
    fn never_leaves_the_picture() {
        let contract = Preprocess { resize: 33, crop: 33, ..Preprocess::imagenet(33) };
        for (width, height) in [(1, 1), (1, 1000), (33, 34), (7919, 3), (32_768, 1)] {
            let p = placement(&contract, width, height);
            assert!(p.crop.left >= 0.0 && p.crop.left + p.crop.width <= f64::from(width) + 1e-9, "{p:?}");
            assert!(p.crop.top >= 0.0 && p.crop.top + p.crop.height <= f64::from(height) + 1e-9, "{p:?}");
            assert!(p.crop.width > 0.0 && p.crop.height > 0.0, "{p:?}");
        }
    }
}
