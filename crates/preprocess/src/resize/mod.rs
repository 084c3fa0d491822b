//! Antialiased resampling, equal to Pillow's bit for bit.

mod passes;
mod weights;

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use crate::Rgb;
use passes::{Rows, along_x, along_y};
use weights::{Axis, Weights};

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
    let whole = |outputs: u32| Part { outputs, first: 0, count: outputs };
    resize_part(image, whole(width), whole(height), how)
}

/// Of a side resized to `outputs` pixels, those that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) outputs: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// A part of the whole picture resized; nothing else is computed.
pub(crate) fn resize_part(image: &Rgb, across: Part, down: Part, how: Interpolation) -> Rgb {
    let axis = |side: u32, part: Part| Axis {
        low: 0,
        size: side as usize,
        start: 0.0,
        length: f64::from(side),
        outputs: part.outputs as usize,
        first: part.first as usize,
        count: part.count as usize,
    };
    run(image, &axis(image.width, across), &axis(image.height, down), how)
}

/// Crops to `crop`, then resizes to `width` x `height`: pixels outside the box have no influence,
/// as in torchvision's `resized_crop`. A box that leaves the picture is cut to it; where nothing
/// remains the result is black.
///
/// # Panics
/// When `image.data` does not fit its size.
pub fn resize_crop(image: &Rgb, crop: CropBox, width: u32, height: u32, how: Interpolation) -> Rgb {
    let across = inside(cut(crop.left, crop.width, image.width), width);
    let down = inside(cut(crop.top, crop.height, image.height), height);
    run(image, &across, &down, how)
}

/// The whole pixels that an interval touches; a fractional edge is resampled inside them.
fn inside((begin, end): (f64, f64), outputs: u32) -> Axis {
    let low = begin.floor();
    Axis {
        low: low as usize,
        size: (end.ceil() - low) as usize,
        start: begin - low,
        length: end - begin,
        outputs: outputs as usize,
        first: 0,
        count: outputs as usize,
    }
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

/// What a thread keeps between pictures.
#[derive(Default)]
struct Buffers {
    across: Weights,
    down: Weights,
    /// Resampled along one axis.
    between: Vec<u8>,
}

/// Bytes between the passes that are kept in memory from picture to picture.
const KEEP: usize = 16 << 20;

fn run(image: &Rgb, across: &Axis, down: &Axis, how: Interpolation) -> Rgb {
    thread_local! {
        static BUFFERS: RefCell<Buffers> = RefCell::default();
    }
    image.check();
    let mut out = Rgb::filled(across.count as u32, down.count as u32, [0; 3]);
    if out.data.is_empty() || !(across.length > 0.0 && down.length > 0.0) {
        return out;
    }
    BUFFERS.with_borrow_mut(|Buffers { across: x, down: y, between }| {
        x.set(across, how);
        y.set(down, how);
        let (columns, rows) = (x.reach(), y.reach());
        let source = Rows { data: &image.data, width: image.width as usize };
        if y_first(across, down) {
            between.resize(3 * columns.len() * down.count, 0);
            along_y(source, (0, columns.start, columns.len()), y, between);
            let source = Rows { data: between, width: columns.len() };
            along_x(source, (columns.start, 0, down.count), x, &mut out.data);
        } else {
            between.resize(3 * across.count * rows.len(), 0);
            along_x(source, (0, rows.start, rows.len()), x, between);
            let source = Rows { data: between, width: across.count };
            along_y(source, (rows.start, 0, across.count), y, &mut out.data);
        }
        if between.capacity() > KEEP {
            *between = Vec::new();
        }
    });
    out
}

/// Whether the pass along y comes first. The order shows in the result, because the first pass is rounded to bytes: this
/// is that of Pillow 13, which begins with y where that makes the picture so much shorter that it pays.
fn y_first(across: &Axis, down: &Axis) -> bool {
    let less = |axis: &Axis| axis.size as i64 - axis.outputs as i64;
    less(down) > 0 && less(down) > 2 * less(across)
}

#[cfg(test)]
mod tests {
    use super::*;

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
