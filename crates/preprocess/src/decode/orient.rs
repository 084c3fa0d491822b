//! EXIF orientation.

use image::metadata::Orientation;

use crate::Rgb;

/// Turns the picture upright.
pub(super) fn apply(image: Rgb, orientation: Orientation) -> Rgb {
    use Orientation as O;
    let Rgb { width: w, height: h, .. } = image;
    let (w, h) = (w as usize, h as usize);
    // Where in the source the output pixel (x, y) comes from; the last four swap the sides.
    match orientation {
        O::NoTransforms => image,
        O::FlipHorizontal => gather(&image, false, |x, y| (w - 1 - x, y)),
        O::Rotate180 => gather(&image, false, |x, y| (w - 1 - x, h - 1 - y)),
        O::FlipVertical => gather(&image, false, |x, y| (x, h - 1 - y)),
        O::Rotate90 => gather(&image, true, |x, y| (y, h - 1 - x)),
        O::Rotate270 => gather(&image, true, |x, y| (w - 1 - y, x)),
        O::Rotate90FlipH => gather(&image, true, |x, y| (y, x)),
        O::Rotate270FlipH => gather(&image, true, |x, y| (w - 1 - y, h - 1 - x)),
    }
}

fn gather(image: &Rgb, swap: bool, source: impl Fn(usize, usize) -> (usize, usize)) -> Rgb {
    let (width, height) = if swap { (image.height, image.width) } else { (image.width, image.height) };
    let mut data = Vec::with_capacity(image.data.len());
    for y in 0..height as usize {
        for x in 0..width as usize {
            let (sx, sy) = source(x, y);
            let at = (sy * image.width as usize + sx) * 3;
            data.extend_from_slice(&image.data[at..at + 3]);
        }
    }
    Rgb { width, height, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2x3 picture with the pixels a b / c d / e f.
    fn letters() -> Rgb {
        Rgb { width: 2, height: 3, data: b"abcdef".iter().flat_map(|&c| [c; 3]).collect() }
    }

    #[test]
    fn all_eight() {
        let expected = [
            (1, 2, "abcdef"),
            (2, 2, "badcfe"),
            (3, 2, "fedcba"),
            (4, 2, "efcdab"),
            (5, 3, "acebdf"),
            (6, 3, "ecafdb"),
            (7, 3, "fdbeca"),
            (8, 3, "bdface"),
        ];
        for (exif, width, pixels) in expected {
            let out = apply(letters(), Orientation::from_exif(exif).expect("1 to 8"));
            assert_eq!(out.width, width, "{exif}");
            let seen: String = out.data.chunks(3).map(|p| char::from(p[0])).collect();
            assert_eq!(seen, pixels, "{exif}");
        }
    }
}
