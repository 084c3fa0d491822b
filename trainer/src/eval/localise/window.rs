//! Which part of a picture is seen and judged.

use occlude_preprocess::{ContractError, CropBox, Preprocess, Rgb, whole};
use occlude_saliency::Rect;

/// Which part of a picture the encoder sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Window {
    /// All of it, both sides resized to that of the input; of a picture longer than 4:1 the middle
    #[default]
    Whole,
    /// What the contract shows: the shorter side resized, the centre cropped
    Crop,
}

impl Window {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Crop => "crop",
        }
    }

    /// What is seen of a picture, in its pixels.
    pub(super) fn shown(self, contract: &Preprocess, width: u32, height: u32) -> CropBox {
        match self {
            Self::Crop => contract.shown(width, height),
            Self::Whole => whole(width, height),
        }
    }

    /// The same at the size of the input, before normalisation.
    pub(super) fn pixels(self, contract: &Preprocess, image: &Rgb) -> Rgb {
        match self {
            Self::Crop => contract.pixels(image),
            Self::Whole => contract.whole(image),
        }
    }
}

/// The contract at another side of the input, with the same part of pictures in its crop.
///
/// # Errors
/// Where its high-pass filter is wider than such an input allows.
pub fn resized(contract: &Preprocess, size: u32) -> Result<Preprocess, ContractError> {
    let (resize, crop) = (u64::from(contract.resize), u64::from(contract.crop.max(1)));
    let resize = ((resize * u64::from(size) + crop / 2) / crop) as u32;
    let contract = Preprocess { resize: resize.max(size), crop: size, ..contract.clone() };
    contract.validate()?;
    Ok(contract)
}

/// The whole pixels of a picture that are judged: those whose centres lie in what is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Region {
    /// Of a picture of that size; one pixel at least.
    pub(super) fn of(shown: &CropBox, width: u32, height: u32) -> Self {
        let along = |start: f64, length: f64, side: u32| {
            let side = side as usize;
            let at = |edge: f64| ((edge - 0.5).ceil().max(0.0) as usize).min(side);
            let first = at(start).min(side.saturating_sub(1));
            (first, at(start + length).max(first + 1) - first)
        };
        let ((left, width), (top, height)) =
            (along(shown.left, shown.width, width), along(shown.top, shown.height, height));
        Self { left, top, width, height }
    }

    /// What is seen, in the pixels of the region.
    pub(super) fn place(&self, shown: &CropBox) -> Rect {
        Rect {
            left: shown.left - self.left as f64,
            top: shown.top - self.top as f64,
            width: shown.width,
            height: shown.height,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_preprocess::HighPass;

    #[test]
    fn all_of_a_picture_is_seen_unless_it_is_very_long() {
        let contract = Preprocess::imagenet(64);
        let shown = |w, h| Window::Whole.shown(&contract, w, h);
        let all = |width, height| CropBox { left: 0.0, top: 0.0, width, height };
        assert_eq!(shown(400, 100), all(400.0, 100.0));
        assert_eq!(shown(100, 400), all(100.0, 400.0));
        assert_eq!(shown(403, 100), CropBox { left: 1.0, ..all(400.0, 100.0) });
        assert_eq!(shown(10, 100), CropBox { top: 30.0, ..all(10.0, 40.0) });
        let image = Rgb::filled(100, 300, [9, 8, 7]);
        assert_eq!(Window::Whole.pixels(&contract, &image), Rgb::filled(64, 64, [9, 8, 7]));
    }

    #[test]
    fn another_size_shows_the_same_crop() {
        let contract = Preprocess::imagenet(64);
        let larger = resized(&contract, 128).expect("valid");
        assert_eq!((larger.crop, larger.resize), (128, 146));
        assert_eq!(resized(&contract, 64).expect("valid"), contract);
        let [a, b] = [&contract, &larger].map(|c| Window::Crop.shown(c, 200, 300));
        assert!((a.left - b.left).abs() < 2.0 && (a.width - b.width).abs() < 2.0, "{a:?} {b:?}");
        let filtered = Preprocess { high_pass: Some(HighPass { kernel: 11, sigma: 5.0 }), ..contract };
        let error = resized(&filtered, 5).expect_err("too wide").to_string();
        assert!(error.contains("high-pass kernel 11"), "{error}");
    }

    #[test]
    fn pixels_are_judged_whose_centres_are_seen() {
        let shown = CropBox { left: 1.6, top: 0.4, width: 3.0, height: 2.0 };
        let region = Region::of(&shown, 8, 2);
        assert_eq!(region, Region { left: 2, top: 0, width: 3, height: 2 });
        let place = region.place(&shown);
        assert!((place.left + 0.4).abs() < 1e-9 && (place.top - 0.4).abs() < 1e-9 && place.width == 3.0);
        let sliver = CropBox { left: 6.8, top: 0.0, width: 0.1, height: 2.0 };
        assert_eq!(Region::of(&sliver, 7, 2).width, 1);
    }
}
