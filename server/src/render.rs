//! Answers about saliency: JSON with grid, box and mask, and pictures.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use occlude_preprocess::{Interpolation, Rgb, resize};
use occlude_saliency::{self as saliency, Map, Placement, Rect};
use serde::{Deserialize, Serialize};

use crate::batch::Encoded;

/// What a PNG answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum View {
    /// The saliency in colours.
    Heat,
    /// The foreground in white, at the picture's own size.
    Mask,
    /// The picture tinted by its saliency.
    #[default]
    Overlay,
}

/// The saliency of a picture; sizes and boxes are in pixels of the upright original.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Saliency {
    grid: Grid,
    /// Cells at or above it are foreground.
    threshold: f64,
    foreground_ratio: f64,
    crop: Box,
    #[serde(rename = "box")]
    bounds: Box,
    mask: MaskJson,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Grid {
    width: usize,
    height: usize,
    /// Row-major.
    values: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Box {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct MaskJson {
    png: String,
    rle: Rle,
}

/// As in COCO annotations.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Rle {
    /// Height, then width.
    size: [u32; 2],
    counts: String,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderError {
    #[error(transparent)]
    Saliency(#[from] saliency::Error),
    #[error("cannot write a PNG: {0}")]
    Png(#[from] png::EncodingError),
}

/// Two decimals: a hundredth of a pixel is finer than any grid.
fn rounded(rect: Rect) -> Box {
    let round = |v: f64| (v * 100.0).round() / 100.0;
    Box { x: round(rect.left), y: round(rect.top), width: round(rect.width), height: round(rect.height) }
}

fn map(encoded: &Encoded) -> Result<Map<'_>, saliency::Error> {
    Map::new(encoded.grid.0, encoded.grid.1, &encoded.saliency)
}

/// Everything about the saliency of a picture that lies as `place` says.
pub(crate) fn describe(encoded: &Encoded, place: &Placement) -> Result<Saliency, RenderError> {
    let map = map(encoded)?;
    let mask = saliency::foreground(map)?;
    // Never empty, because the maximum is at least the mean; the crop is right for a map without foreground too.
    let largest = mask.largest_component();
    let bounds = largest.bounds().map_or(place.crop, |cells| place.rect(cells, &largest));
    Ok(Saliency {
        grid: Grid { width: map.width(), height: map.height(), values: map.values().to_vec() },
        threshold: saliency::threshold(map),
        foreground_ratio: mask.ratio(),
        crop: rounded(place.crop),
        bounds: rounded(bounds),
        mask: MaskJson {
            png: STANDARD.encode(mask_png(&mask, place)?),
            rle: Rle { size: [place.height, place.width], counts: place.rle(&mask) },
        },
    })
}

/// How a PNG answer is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drawing {
    pub(crate) view: View,
    /// 0..1, of the overlay.
    pub(crate) opacity: f32,
    /// Longest side of heat map and overlay in pixels.
    pub(crate) max_side: u32,
}

/// The PNG of a view. `picture` gives the original's pixels; only the overlay asks for them.
pub(crate) fn draw<E: From<RenderError>>(
    encoded: &Encoded,
    place: &Placement,
    how: Drawing,
    picture: impl FnOnce() -> Result<Rgb, E>,
) -> Result<Vec<u8>, E> {
    let map = map(encoded).map_err(RenderError::from)?;
    if how.view == View::Mask {
        let mask = saliency::foreground(map).map_err(RenderError::from)?;
        return Ok(mask_png(&mask, place)?);
    }
    let (width, height) = fit(place.width, place.height, how.max_side);
    let scaled = place.scaled(width, height);
    let unit = saliency::normalise(map);
    let unit = Map::new(map.height(), map.width(), &unit).map_err(RenderError::from)?;
    let values = scaled.values(unit);
    let pixels = match how.view {
        View::Overlay => {
            let small = resize(&picture()?, width, height, Interpolation::Bilinear);
            let size = (height as usize, width as usize);
            saliency::overlay(&small.data, &values, size, how.opacity).map_err(RenderError::from)?
        }
        _ => saliency::heat(&values),
    };
    Ok(rgb_png(width, height, &pixels)?)
}

/// The size with its longest side at most `max_side`, never enlarged.
fn fit(width: u32, height: u32, max_side: u32) -> (u32, u32) {
    let long = width.max(height);
    if long <= max_side {
        return (width.max(1), height.max(1));
    }
    let scale = |side: u32| (f64::from(side) * f64::from(max_side) / f64::from(long)).round().max(1.0) as u32;
    (scale(width), scale(height))
}

fn mask_png(mask: &saliency::Mask, place: &Placement) -> Result<Vec<u8>, RenderError> {
    let (size, data) = ((place.width, place.height), place.bits(mask));
    write_png(size, png::ColorType::Grayscale, png::BitDepth::One, &data)
}

pub(crate) fn rgb_png(width: u32, height: u32, pixels: &[u8]) -> Result<Vec<u8>, RenderError> {
    write_png((width, height), png::ColorType::Rgb, png::BitDepth::Eight, pixels)
}

fn write_png(
    (width, height): (u32, u32),
    colour: png::ColorType,
    depth: png::BitDepth,
    data: &[u8],
) -> Result<Vec<u8>, RenderError> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(data)?;
    writer.finish()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_preprocess::{Limits, decode};

    fn encoded() -> Encoded {
        // The right column stands out; its cells and the first are above mean - 0.6 std.
        Encoded { embedding: vec![1.0], saliency: vec![1.0, 9.0, 0.0, 9.0], grid: (2, 2), features: None }
    }

    /// 8 x 4, of which the middle 4 x 4 was seen.
    fn place() -> Placement {
        let crop = Rect { left: 2.0, top: 0.0, width: 4.0, height: 4.0 };
        Placement { width: 8, height: 4, crop }
    }

    #[test]
    fn boxes_and_masks_are_in_the_pictures_pixels() {
        let found = describe(&encoded(), &place()).unwrap();
        assert_eq!(found.foreground_ratio, 0.5);
        assert_eq!(found.bounds, Box { x: 4.0, y: 0.0, width: 2.0, height: 4.0 });
        assert_eq!(found.crop, Box { x: 2.0, y: 0.0, width: 4.0, height: 4.0 });
        assert_eq!(found.mask.rle.size, [4, 8]);
        let png = STANDARD.decode(&found.mask.png).unwrap();
        let mask = decode(&png, &Limits::default()).unwrap().image;
        let runs = saliency::rle::decode(&found.mask.rle.counts, 4, 8).unwrap();
        for y in 0..4 {
            for x in 0..8 {
                let white = mask.data[(y * 8 + x) * 3] == 255;
                assert_eq!(white, (4..6).contains(&x), "at {x},{y}");
                assert_eq!(white, runs.get(y, x), "the run lengths say the same");
            }
        }
    }

    fn drawn(view: View, max_side: u32) -> Rgb {
        let how = Drawing { view, opacity: 0.5, max_side };
        let photo = || Ok::<_, RenderError>(Rgb::filled(8, 4, [100; 3]));
        let png = draw(&encoded(), &place(), how, photo).unwrap();
        decode(&png, &Limits::default()).unwrap().image
    }

    #[test]
    fn views_have_their_sizes() {
        assert_eq!((drawn(View::Heat, 1000).width, drawn(View::Heat, 4).height), (8, 2));
        assert_eq!((drawn(View::Overlay, 4).width, drawn(View::Overlay, 4).height), (4, 2));
        assert_eq!(drawn(View::Mask, 4).width, 8, "a mask keeps the picture's size");
        assert_eq!((fit(3, 10_000, 100), fit(0, 5, 9)), ((1, 100), (1, 5)));
    }

    #[test]
    fn what_was_not_seen_is_dark() {
        assert_eq!(drawn(View::Overlay, 8).data[..3], [45; 3]);
        assert_eq!(drawn(View::Heat, 8).data[..3], [0; 3]);
        assert_eq!(drawn(View::Heat, 8).data[5 * 3..6 * 3], saliency::colour(1.0));
    }

    #[test]
    fn a_map_that_is_none_is_an_error() {
        let nan = Encoded { saliency: vec![f32::NAN; 4], ..encoded() };
        assert!(matches!(describe(&nan, &place()), Err(RenderError::Saliency(_))));
    }
}
