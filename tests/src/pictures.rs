//! Images made on the spot: coloured shapes on noise, in every format that the tools read.

use image::{ImageFormat, Rgb, RgbImage};
use std::fs;
use std::path::Path;

/// Class folders: the shape decides, the colour varies.
pub const CLASSES: [&str; 3] = ["disc", "square", "stripes"];
const FORMATS: [(&str, ImageFormat); 3] =
    [("png", ImageFormat::Png), ("jpg", ImageFormat::Jpeg), ("webp", ImageFormat::WebP)];

/// A small reproducible generator (splitmix64).
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(bound.max(1))) as u32
    }
}

/// One image of a class, 56 to 96 pixels a side.
pub fn draw(class: usize, random: &mut Random) -> RgbImage {
    let (width, height) = (56 + random.below(41), 56 + random.below(41));
    let colour = [0; 3].map(|_: u8| (80 + random.below(176)) as u8);
    let (cx, cy) =
        ((width / 3 + random.below(width / 3)) as i64, (height / 3 + random.below(height / 3)) as i64);
    let radius = i64::from(width.min(height) / 4);
    RgbImage::from_fn(width, height, |x, y| {
        let (dx, dy) = (i64::from(x) - cx, i64::from(y) - cy);
        let inside = match class {
            0 => dx * dx + dy * dy <= radius * radius,
            1 => dx.abs() <= radius && dy.abs() <= radius,
            _ => dx.abs() <= radius && dy.abs() <= radius && (dy + radius) % 6 < 3,
        };
        if inside { Rgb(colour) } else { Rgb([0; 3].map(|_: u8| random.below(64) as u8)) }
    })
}

/// Writes an ImageFolder tree with `per_class` images of each class, the formats in turn.
pub fn tree(root: &Path, per_class: usize, seed: u64) {
    let mut random = Random::new(seed);
    for (class, name) in CLASSES.iter().enumerate() {
        let folder = root.join(name);
        fs::create_dir_all(&folder).expect("a folder for the images");
        for i in 0..per_class {
            let (extension, format) = FORMATS[i % FORMATS.len()];
            let path = folder.join(format!("{i:03}.{extension}"));
            draw(class, &mut random).save_with_format(path, format).expect("an image");
        }
    }
}

/// Writes a file that has an image's name and an image's first bytes, and no image.
pub fn broken(path: &Path) {
    fs::write(path, b"\xff\xd8\xff\xe0\x00\x10JFIF\x00 cut off").expect("a broken image");
}
