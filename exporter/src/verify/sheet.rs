//! Pictures beside their maps: what the model sees, its own map, the reference's.

use std::path::Path;

use image::{ImageFormat, RgbImage, imageops};
use occlude_preprocess::{Limits, Preprocess, load, names};
use occlude_saliency::{Map, normalise, overlay, upsample};

use super::PictureResult;
use crate::Error;

/// Rows that a sheet has at most.
const ROWS: usize = 64;
/// Pixels between the tiles.
const GAP: u32 = 6;
/// Side of a tile where the model's pictures are smaller.
const SIDE: u32 = 128;
/// How much of the colour of a map covers the picture.
const OPACITY: f32 = 0.6;

/// Writes a PNG with a row for each picture. Each map is shown from its least to its largest value.
pub(super) fn write(path: &Path, results: &[PictureResult], contract: &Preprocess) -> Result<(), Error> {
    let rows = results.iter().take(ROWS).map(|r| row(r, contract)).collect::<Result<Vec<_>, Error>>()?;
    let side = rows.iter().flatten().map(RgbImage::width).max().unwrap_or(SIDE) + GAP;
    let height = (side * rows.len() as u32).saturating_sub(GAP).max(1);
    let mut sheet = RgbImage::from_pixel(3 * side - GAP, height, image::Rgb([255; 3]));
    for (y, row) in (0u32..).zip(&rows) {
        for (x, tile) in (0u32..).zip(row) {
            imageops::replace(&mut sheet, tile, i64::from(x * side), i64::from(y * side));
        }
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    let cannot = |reason| Error::Write { path: path.to_owned(), reason };
    sheet.write_to(&mut bytes, ImageFormat::Png).map_err(|e| cannot(std::io::Error::other(e)))?;
    occlude_output::write(path, |out| out.write_all(bytes.get_ref())).map_err(cannot)
}

/// The three tiles of a picture. It was read before, so that it can be read again.
fn row(result: &PictureResult, contract: &Preprocess) -> Result<[RgbImage; 3], Error> {
    let unreadable = |reason: String| Error::Map { path: names::of_path(&result.path), reason };
    let picture = load(&result.path, &Limits::default()).map_err(|e| unreadable(e.to_string()))?;
    let pixels = contract.pixels(&picture.image);
    let photo = RgbImage::from_raw(pixels.width, pixels.height, pixels.data)
        .ok_or_else(|| unreadable("its pixels do not fill it".to_owned()))?;
    let side = photo.width().max(SIDE);
    let photo = imageops::resize(&photo, side, side, imageops::FilterType::Triangle);
    let tint = |values: &[f32]| tinted(&photo, values).map_err(|e| unreadable(e.to_string()));
    let [ours, reference] = &result.saliency;
    Ok([photo.clone(), tint(ours)?, tint(reference)?])
}

/// A square picture under a square map.
fn tinted(photo: &RgbImage, values: &[f32]) -> Result<RgbImage, occlude_saliency::Error> {
    let cells = values.len().isqrt();
    let (height, width) = (photo.height() as usize, photo.width() as usize);
    let large = upsample(Map::new(cells, cells, values)?, height, width);
    let spread: Vec<Option<f32>> =
        normalise(Map::new(height, width, &large)?).into_iter().map(Some).collect();
    let mut tinted = photo.clone();
    tinted.copy_from_slice(&overlay(photo, &spread, (height, width), OPACITY)?);
    Ok(tinted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Difference;

    fn result(path: &Path, ours: Vec<f32>, reference: Vec<f32>) -> PictureResult {
        let reference_difference = Difference { embedding: 0.0, cosine: 1.0, maps: 0.0 };
        PictureResult {
            path: path.to_owned(),
            tract: None,
            reference: reference_difference,
            saliency: [ours, reference],
        }
    }

    #[test]
    fn a_map_lights_up_where_it_is_large_and_no_number_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let photo = folder.path().join("grey.png");
        RgbImage::from_pixel(40, 60, image::Rgb([90; 3])).save(&photo).expect("writes");
        let sheet = folder.path().join("maps.png");
        let contract = Preprocess::imagenet(32);
        let results = [result(&photo, vec![0.0, 1.0, 0.0, 1.0], vec![3.0, 3.0, 0.0, 0.0])];
        write(&sheet, &results, &contract).expect("writes");
        let drawn = image::open(&sheet).expect("a picture").into_rgb8();
        assert_eq!(drawn.dimensions(), (3 * (SIDE + GAP) - GAP, SIDE));
        let brightness = |tile: u32, x, y| -> u32 {
            let pixel = drawn.get_pixel(tile * (SIDE + GAP) + x, y);
            pixel.0.iter().map(|&v| u32::from(v)).sum()
        };
        assert_eq!(brightness(0, 5, 5), 3 * 90, "the picture itself");
        assert!(brightness(1, SIDE - 5, 60) > brightness(1, 5, 60), "ours: the right half");
        assert!(brightness(2, 60, 5) > brightness(2, 60, SIDE - 5), "the reference's: the upper half");
        let broken = [result(&photo, vec![f32::NAN; 4], vec![0.0; 4])];
        let error = write(&sheet, &broken, &contract).expect_err("no number");
        assert!(error.to_string().contains("grey.png"), "{error}");
    }
}
