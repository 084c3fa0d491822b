//! The whole picture as a model's input, where the contract's crop would leave out its ends.
//!
//! Both sides are resized to the crop's: the picture is squashed, which convolutions bear well within limits, and a
//! model of any fixed size takes it in one run.

use crate::{CropBox, Preprocess, Rgb, resize_crop};

/// How many times its short side a picture's long side may have; what is beyond, at both ends, is left out: squashed
/// further, nothing in it is like anything that an encoder has seen.
const MOST: u32 = 4;

/// The part of a `width` x `height` picture that [`Preprocess::whole`] shows, in its pixels: all of it, or the middle of
/// one that is longer than 4:1.
pub fn whole(width: u32, height: u32) -> CropBox {
    let along = |side: u32, other: u32| {
        let length = side.min(other.saturating_mul(MOST));
        (f64::from((side - length) / 2), f64::from(length))
    };
    let ((left, width), (top, height)) = (along(width, height), along(height, width));
    CropBox { left, top, width, height }
}

impl Preprocess {
    /// The whole picture in the size of the crop; see [`whole`].
    pub fn whole(&self, image: &Rgb) -> Rgb {
        let part = whole(image.width, image.height);
        resize_crop(image, part, self.crop, self.crop, self.interpolation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resize;

    fn noise(width: u32, height: u32) -> Rgb {
        let data = (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        Rgb { width, height, data }
    }

    #[test]
    fn a_picture_is_squashed() {
        let contract = Preprocess::imagenet(32);
        for (width, height) in [(90, 51), (51, 90), (120, 30), (7, 9)] {
            let picture = noise(width, height);
            assert_eq!(contract.whole(&picture), resize(&picture, 32, 32, contract.interpolation));
            let all = CropBox { left: 0.0, top: 0.0, width: f64::from(width), height: f64::from(height) };
            assert_eq!(whole(width, height), all);
        }
    }

    #[test]
    fn of_a_strip_the_middle_is_shown() {
        let picture = noise(401, 30);
        let part = whole(401, 30);
        assert_eq!(part, CropBox { left: 140.0, top: 0.0, width: 120.0, height: 30.0 });
        let row = |y: usize| picture.data[(y * 401 + 140) * 3..][..120 * 3].to_vec();
        let middle = Rgb { width: 120, height: 30, data: (0..30).flat_map(row).collect() };
        let contract = Preprocess::imagenet(32);
        assert_eq!(contract.whole(&picture), resize(&middle, 32, 32, contract.interpolation));
        assert_eq!(whole(30, 401), CropBox { left: 0.0, top: 140.0, width: 30.0, height: 120.0 });
    }
}
