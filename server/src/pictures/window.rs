//! Which part of a picture the model sees.
//!
//! The contract resizes the short side and takes the centre: what encoders were trained on, and what embeddings are
//! compared by. Of a tall or wide picture that leaves out the ends, and maps then say nothing about them. The whole
//! picture fits into the same input if both of its sides are resized to the crop's: it is squashed, which convolutions
//! bear well within limits, and a model of any fixed size takes it in one run.

use occlude_preprocess::{CropBox, Interpolation, Preprocess, Rgb, resize_crop, whole};
use occlude_saliency::{Placement, Rect, guide_size};
use serde::Deserialize;
use utoipa::ToSchema;

/// What `?window=` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Window {
    /// The contract's: the short side resized, the centre cut.
    #[default]
    Crop,
    /// All of it (up to 4:1), both sides resized to the crop's.
    Whole,
}

impl Window {
    /// The model's input.
    pub(crate) fn pixels(self, contract: &Preprocess, image: &Rgb) -> Rgb {
        match self {
            Self::Crop => contract.pixels(image),
            Self::Whole => contract.whole(image),
        }
    }

    /// Where that lies in a picture of `width` x `height` pixels.
    pub(crate) fn placement(self, contract: &Preprocess, width: u32, height: u32) -> Placement {
        match self {
            Self::Crop => Placement { width, height, crop: rect(contract.shown(width, height)) },
            Self::Whole => Placement { width, height, crop: rect(whole(width, height)) },
        }
    }

    /// The same part of the picture in its own proportions, at most 256 pixels long and never enlarged: what a
    /// map of it is refined by.
    pub(crate) fn guide(self, contract: &Preprocess, image: &Rgb) -> Rgb {
        let part = self.placement(contract, image.width, image.height).crop;
        let (width, height) = guide_size(part.width, part.height);
        let Rect { left, top, width: across, height: down } = part;
        let part = CropBox { left, top, width: across, height: down };
        resize_crop(image, part, width, height, Interpolation::Bilinear)
    }
}

fn rect(CropBox { left, top, width, height }: CropBox) -> Rect {
    Rect { left, top, width, height }
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_preprocess::resize;

    fn noise(width: u32, height: u32) -> Rgb {
        let data = (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        Rgb { width, height, data }
    }

    #[test]
    fn the_whole_picture_is_squashed() {
        let contract = Preprocess::imagenet(32);
        let picture = noise(90, 51);
        let pixels = Window::Whole.pixels(&contract, &picture);
        assert_eq!(pixels, resize(&picture, 32, 32, contract.interpolation));
        assert_eq!(Window::Whole.placement(&contract, 90, 51), Placement::whole(90, 51));
        assert_eq!(Window::Crop.pixels(&contract, &picture), contract.pixels(&picture));
    }

    #[test]
    fn of_a_strip_the_middle_is_seen() {
        let contract = Preprocess { interpolation: Interpolation::Bicubic, ..Preprocess::imagenet(32) };
        for (width, height, left, top) in [(400, 30, 140, 0), (30, 401, 0, 140), (120, 30, 0, 0)] {
            let crop = Window::Whole.placement(&contract, width, height).crop;
            let (w, h) = (width.min(4 * height), height.min(4 * width));
            let expected = [left, top, w, h].map(f64::from);
            assert_eq!([crop.left, crop.top, crop.width, crop.height], expected, "{width}x{height}");
            let picture = noise(width, height);
            let row = |y: u32| {
                let at = ((y * width + left) * 3) as usize;
                picture.data[at..at + (w * 3) as usize].to_vec()
            };
            let cut = Rgb { width: w, height: h, data: (top..top + h).flat_map(row).collect() };
            assert_eq!(
                Window::Whole.pixels(&contract, &picture),
                resize(&cut, 32, 32, Interpolation::Bicubic)
            );
        }
    }

    #[test]
    fn the_guide_keeps_the_proportions_and_is_never_enlarged() {
        let contract = Preprocess::imagenet(224);
        let size = |window: Window, w, h| {
            let guide = window.guide(&contract, &Rgb::filled(w, h, [9; 3]));
            assert_eq!(guide.data.len(), (guide.width * guide.height * 3) as usize);
            (guide.width, guide.height)
        };
        assert_eq!(size(Window::Whole, 1000, 500), (256, 128));
        assert_eq!(size(Window::Crop, 1000, 500), (256, 256), "the crop is a square");
        assert_eq!(size(Window::Whole, 40, 30), (40, 30));
        assert_eq!(size(Window::Whole, 5000, 1), (4, 1));
        assert_eq!(size(Window::Whole, 1, 1), (1, 1));
    }

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
            let place = Window::Crop.placement(&contract, width, height).crop;
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
            let p = Window::Crop.placement(&contract, width, height);
            assert!(p.crop.left >= 0.0 && p.crop.left + p.crop.width <= f64::from(width) + 1e-9, "{p:?}");
            assert!(p.crop.top >= 0.0 && p.crop.top + p.crop.height <= f64::from(height) + 1e-9, "{p:?}");
            assert!(p.crop.width > 0.0 && p.crop.height > 0.0, "{p:?}");
        }
    }
}
