//! Which part of a picture the model sees.
//!
//! The contract resizes the short side and takes the centre: what encoders were trained on, and what embeddings are
//! compared by. Of a tall or wide picture that leaves out the ends, and maps then say nothing about them. The whole
//! picture fits into the same input if both of its sides are resized to the crop's: it is squashed, which convolutions
//! bear well within limits, and a model of any fixed size takes it in one run.

use occlude_preprocess::{CropBox, Interpolation, Preprocess, Rgb, resize_crop};
use occlude_saliency::{Placement, Rect};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::geometry::placement;

/// How many times its short side a picture's long side may have in the window; what is beyond, at both ends, is left
/// out: squashed further, nothing in it is like anything that the encoder knows.
const MOST: u32 = 4;

/// Longest side in pixels of the picture that a map is refined by: finer than any grid, and milliseconds of work.
const GUIDE: u32 = 256;

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
        let side = contract.crop;
        match self {
            Self::Crop => contract.pixels(image),
            Self::Whole => resize_crop(
                image,
                boxed(whole(image.width, image.height)),
                side,
                side,
                contract.interpolation,
            ),
        }
    }

    /// Where that lies in a picture of `width` x `height` pixels.
    pub(crate) fn placement(self, contract: &Preprocess, width: u32, height: u32) -> Placement {
        match self {
            Self::Crop => placement(contract, width, height),
            Self::Whole => Placement { width, height, crop: whole(width, height) },
        }
    }

    /// The same part of the picture in its own proportions, at most [`GUIDE`] pixels long and never enlarged: what a
    /// map of it is refined by.
    pub(crate) fn guide(self, contract: &Preprocess, image: &Rgb) -> Rgb {
        let part = self.placement(contract, image.width, image.height).crop;
        let scale = (f64::from(GUIDE) / part.width.max(part.height)).min(1.0);
        let side = |length: f64| (length * scale).round().max(1.0) as u32;
        resize_crop(image, boxed(part), side(part.width), side(part.height), Interpolation::Bilinear)
    }
}

/// The whole picture, or the middle of one that is too long.
fn whole(width: u32, height: u32) -> Rect {
    let (left, across) = middle(width, height);
    let (top, down) = middle(height, width);
    Rect { left, top, width: across, height: down }
}

/// Start and length along one side, in whole pixels.
fn middle(side: u32, other: u32) -> (f64, f64) {
    let length = side.min(other.saturating_mul(MOST));
    (f64::from((side - length) / 2), f64::from(length))
}

fn boxed(Rect { left, top, width, height }: Rect) -> CropBox {
    CropBox { left, top, width, height }
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
        assert_eq!(Window::Crop.placement(&contract, 90, 51), placement(&contract, 90, 51));
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
}
