//! Pictures of maps: photo, truth, map and border colours side by side.

use std::path::Path;

use anyhow::{Context, Result};
use image::RgbImage;
use occlude_preprocess::{Broken, Rgb};
use occlude_saliency::{Map, normalise, overlay, upsample};

use super::{Grid, Localiser, Seen, colours};

/// Pixels between the tiles.
const GAP: u32 = 6;
/// How much of the colour of a map covers the picture.
const OPACITY: f32 = 0.6;

/// Which pictures to show, and where.
pub struct Sheet<'a> {
    /// Numbers in the data set, from top to bottom.
    pub which: &'a [usize],
    /// The PNG file.
    pub path: &'a Path,
}

impl Localiser<'_> {
    /// Writes a picture with a row for each of the pictures: what is seen of it, the truth, the encoder's map, the
    /// border-colour prior.
    ///
    /// # Errors
    /// Where a picture has become unreadable, or the file cannot be written.
    pub fn draw(&self, sheet: &Sheet<'_>) -> Result<()> {
        let seen = self.read(sheet.which, &mut Broken::default())?;
        if seen.is_empty() {
            return Ok(());
        }
        let maps = self.making.maps(self.encoder, &seen)?;
        let rows: Vec<[Rgb; 4]> =
            seen.iter().zip(&maps).map(|(seen, map)| tiles(seen, map)).collect::<Result<_>>()?;
        let size = |side: &dyn Fn(&Rgb) -> u32| rows.iter().flatten().map(side).max().unwrap_or(1) + GAP;
        let (across, down) = (size(&|tile| tile.width), size(&|tile| tile.height));
        let mut picture =
            RgbImage::from_pixel(4 * across - GAP, down * rows.len() as u32 - GAP, image::Rgb([255; 3]));
        for (y, row) in (0u32..).zip(rows) {
            for (x, tile) in (0u32..).zip(row) {
                if let Some(tile) = RgbImage::from_raw(tile.width, tile.height, tile.data) {
                    image::imageops::replace(&mut picture, &tile, i64::from(x * across), i64::from(y * down));
                }
            }
        }
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Png).context("cannot encode a picture")?;
        occlude_output::write(sheet.path, |out| out.write_all(bytes.get_ref()))
            .with_context(|| format!("cannot write `{}`", sheet.path.display()))
    }
}

fn tiles(seen: &Seen, map: &Grid) -> Result<[Rgb; 4]> {
    let photo = &seen.small;
    let (height, width) = (photo.height as usize, photo.width as usize);
    let (rows, columns) = seen.size();
    let inside = |i: usize| seen.truth.mask.get(i / width * rows / height, i % width * columns / width);
    let known: Vec<Option<f32>> = (0..height * width).map(|i| inside(i).then_some(1.0)).collect();
    let tint = |values: &[Option<f32>], opacity| -> Result<Rgb> {
        let data = overlay(&photo.data, values, (height, width), opacity)?;
        Ok(Rgb { width: photo.width, height: photo.height, data })
    };
    let spread = |grid: &Grid| -> Result<Vec<Option<f32>>> {
        let large = upsample(grid.map()?, height, width);
        Ok(normalise(Map::new(height, width, &large)?).into_iter().map(Some).collect())
    };
    Ok([
        photo.clone(),
        tint(&known, 0.0)?,
        tint(&spread(map)?, OPACITY)?,
        tint(&spread(&colours(photo)?)?, OPACITY)?,
    ])
}
