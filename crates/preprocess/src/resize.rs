//! Antialiased resampling, equal to Pillow's.

use std::cell::RefCell;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer};
use serde::{Deserialize, Serialize};

use crate::Rgb;

/// The kernel of a resize. Both widen with the reduction (antialiasing), as Pillow's do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Triangle, support 1.
    #[default]
    Bilinear,
    /// Catmull-Rom (a = -0.5), support 2.
    Bicubic,
}

/// A box in pixels of the source; fractions are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropBox {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// Resizes the whole picture to `width` x `height`. A picture without area gives a black one.
///
/// # Panics
/// When `image.data` does not fit its size.
pub fn resize(image: &Rgb, width: u32, height: u32, how: Interpolation) -> Rgb {
    let whole =
        CropBox { left: 0.0, top: 0.0, width: f64::from(image.width), height: f64::from(image.height) };
    resample(image, whole, (width, height), how)
}

/// Crops to `crop`, then resizes to `width` x `height`: pixels outside the box have no influence,
/// as in torchvision's `resized_crop`. A box that leaves the picture is cut to it; where nothing
/// remains the result is black.
///
/// # Panics
/// When `image.data` does not fit its size.
pub fn resize_crop(image: &Rgb, crop: CropBox, width: u32, height: u32, how: Interpolation) -> Rgb {
    image.check();
    let (left, right) = cut(crop.left, crop.width, image.width);
    let (top, bottom) = cut(crop.top, crop.height, image.height);
    // The whole pixels that the box touches; a fractional edge is resampled inside them.
    let (x, y) = (left.floor(), top.floor());
    let (w, h) = ((right.ceil() - x) as u32, (bottom.ceil() - y) as u32);
    let source = view(image);
    let Ok(inside) = TypedCroppedImage::from_ref(&source, x as u32, y as u32, w, h) else {
        return Rgb::filled(width, height, [0; 3]);
    };
    let crop = CropBox { left: left - x, top: top - y, width: right - left, height: bottom - top };
    run(&inside, crop, (width, height), how)
}

/// Resamples `crop` of the picture; pixels around the box that the kernel reaches do count, so
/// that the result is a cut-out of the whole picture resized.
pub(crate) fn resample(image: &Rgb, crop: CropBox, size: (u32, u32), how: Interpolation) -> Rgb {
    image.check();
    run(&view(image), crop, size, how)
}

/// Both ends of an interval, cut to `0..size`; empty or not-a-number intervals come out empty.
fn cut(start: f64, length: f64, size: u32) -> (f64, f64) {
    let size = f64::from(size);
    if start.is_nan() || length.is_nan() {
        return (0.0, 0.0);
    }
    let begin = start.clamp(0.0, size);
    (begin, (start + length).clamp(begin, size))
}

fn view(image: &Rgb) -> TypedImageRef<'_, U8x3> {
    TypedImageRef::from_buffer(image.width, image.height, &image.data).expect("`check` held the length")
}

fn run(
    source: &impl ImageView<Pixel = U8x3>,
    crop: CropBox,
    (width, height): (u32, u32),
    how: Interpolation,
) -> Rgb {
    thread_local! {
        /// Keeps its buffers between pictures.
        static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
    }
    let mut out = Rgb::filled(width, height, [0; 3]);
    if width == 0 || height == 0 || !(crop.width > 0.0 && crop.height > 0.0) {
        return out;
    }
    let filter = match how {
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .crop(crop.left, crop.top, crop.width, crop.height)
        .use_alpha(false);
    let mut target =
        TypedImage::<U8x3>::from_buffer(width, height, &mut out.data).expect("`filled` made it fit");
    RESIZER
        .with_borrow_mut(|resizer| resizer.resize_typed(source, &mut target, &options))
        .expect("both are U8x3 and the box lies inside");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simd_is_in_use_where_the_machine_has_it() {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            assert_eq!(Resizer::new().cpu_extensions(), fast_image_resize::CpuExtensions::Avx2);
        }
    }

    #[test]
    fn pixels_outside_an_integer_box_have_no_influence() {
        let mut image = Rgb::filled(8, 8, [255; 3]);
        for y in 2..6 {
            for x in 2..6 {
                image.data[(y * 8 + x) * 3..][..3].fill(10);
            }
        }
        let crop = CropBox { left: 2.0, top: 2.0, width: 4.0, height: 4.0 };
        for how in [Interpolation::Bilinear, Interpolation::Bicubic] {
            assert_eq!(resize_crop(&image, crop, 3, 7, how), Rgb::filled(3, 7, [10; 3]));
        }
    }

    #[test]
    fn boxes_outside_the_picture_are_cut() {
        let image = Rgb::filled(4, 4, [7; 3]);
        let at = |left, width| CropBox { left, top: 0.0, width, height: 4.0 };
        let out = |crop| resize_crop(&image, crop, 2, 2, Interpolation::Bilinear).data[0];
        assert_eq!(out(at(-3.0, 20.0)), 7);
        assert_eq!(out(at(3.5, 9.0)), 7);
        for empty in [at(4.0, 2.0), at(-9.0, 2.0), at(1.0, 0.0), at(1.0, -3.0), at(f64::NAN, 2.0)] {
            assert_eq!(out(empty), 0, "{empty:?}");
        }
    }
}
