//! Answers about saliency: JSON with grid, box and mask, and pictures.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use occlude_preprocess::{Interpolation, Rgb, resize};
use occlude_saliency::polygon::polygons;
use occlude_saliency::{self as saliency, Map, Mask, Placement, Rect};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::RenderError;
use crate::pictures::maps::Maps;

/// What a PNG answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
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

/// Which forms of the mask a JSON answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Masks {
    pub(crate) png: bool,
    pub(crate) rle: bool,
    pub(crate) polygons: bool,
}

impl Masks {
    const NONE: Self = Self { png: false, rle: false, polygons: false };
}

impl Default for Masks {
    fn default() -> Self {
        Self { png: true, rle: true, polygons: false }
    }
}

impl FromStr for Masks {
    type Err = String;

    /// A list such as `png,rle,polygons`, or `none`.
    fn from_str(list: &str) -> Result<Self, String> {
        if list == "none" {
            return Ok(Self::NONE);
        }
        let mut masks = Self::NONE;
        for name in list.split(',') {
            match name {
                "png" => masks.png = true,
                "rle" => masks.rle = true,
                "polygons" => masks.polygons = true,
                other => {
                    return Err(format!(
                        "`mask` has `{other}`: expected a list of `png`, `rle`, `polygons`, or `none` alone"
                    ));
                }
            }
        }
        Ok(masks)
    }
}

/// The saliency of a picture; sizes and boxes are in pixels of the upright original.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Saliency {
    /// The model's own, also with `refine=true`; with `mirror=true` the mean with the mirror image's.
    grid: Grid,
    /// Cells at or above it are foreground; with `refine=true`, pixels of the refined map, and all that follows is of
    /// that map.
    threshold: f64,
    /// The threshold in standard deviations from the mean of the map.
    deviations: f64,
    foreground_ratio: f64,
    /// How far the foregrounds of the map and of the mirror image's agree, 0 to 1 (intersection over union); with
    /// `mirror=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f64>,
    /// What the model sees, in pixels of the upright original, like the boxes.
    crop: Bounds,
    /// Around the largest part; null where nothing is foreground.
    #[serde(rename = "box")]
    bounds: Option<Bounds>,
    /// One for each connected part, the largest first.
    boxes: Vec<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<MaskJson>,
}

/// A connected part of the foreground.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
struct Part {
    #[serde(flatten)]
    bounds: Bounds,
    /// Its cells over all cells of the map.
    ratio: f64,
    /// Mean of the map's values in it.
    mean: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct Grid {
    width: usize,
    height: usize,
    /// Row-major.
    values: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
struct Bounds {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Mask)]
struct MaskJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    png: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rle: Option<Rle>,
    /// COCO's `segmentation`: a list `[x1, y1, ..]` for each polygon.
    #[serde(skip_serializing_if = "Option::is_none")]
    polygons: Option<Vec<Vec<f64>>>,
}

/// As in COCO annotations.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct Rle {
    /// Height, then width.
    size: [u32; 2],
    counts: String,
}

/// Two decimals: a hundredth of a pixel is finer than any grid.
fn hundredth(v: f64) -> f64 {
    (v * 100.0).round() / 100.0
}

fn rounded(rect: Rect) -> Bounds {
    let Rect { left, top, width, height } = rect;
    Bounds { x: hundredth(left), y: hundredth(top), width: hundredth(width), height: hundredth(height) }
}

/// Everything about the saliency of a picture that lies as `place` says.
pub(crate) fn describe(maps: &Maps, place: &Placement, masks: Masks) -> Result<Saliency, RenderError> {
    let (map, (threshold, mask), grid) = (maps.shown()?, maps.foreground()?, &maps.grid);
    let boxes: Vec<Part> = mask.components().iter().filter_map(|c| part(map, c, place)).collect();
    Ok(Saliency {
        grid: Grid { width: grid.width, height: grid.height, values: grid.values.clone() },
        threshold,
        deviations: maps.deviations,
        foreground_ratio: mask.ratio(),
        confidence: maps.confidence,
        crop: rounded(place.crop),
        bounds: boxes.first().map(|b| b.bounds),
        boxes,
        mask: forms(&mask, place, masks)?,
    })
}

/// `None` for an empty mask.
fn part(map: Map<'_>, component: &Mask, place: &Placement) -> Option<Part> {
    let bounds = rounded(place.rect(component.bounds()?, component));
    let inside = map.values().iter().zip(component.cells()).filter(|(_, cell)| **cell);
    let sum: f64 = inside.map(|(v, _)| f64::from(*v)).sum();
    Some(Part { bounds, ratio: component.ratio(), mean: sum / component.count() as f64 })
}

fn forms(mask: &Mask, place: &Placement, masks: Masks) -> Result<Option<MaskJson>, RenderError> {
    if masks == Masks::NONE {
        return Ok(None);
    }
    let rle = || Rle { size: [place.height, place.width], counts: place.rle(mask) };
    let rounded = |p: Vec<f64>| p.into_iter().map(hundredth).collect();
    let polygons = || polygons(mask, place).into_iter().map(rounded).collect();
    Ok(Some(MaskJson {
        png: masks.png.then(|| mask_png(mask, place)).transpose()?.map(|png| STANDARD.encode(png)),
        rle: masks.rle.then(rle),
        polygons: masks.polygons.then(polygons),
    }))
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
    maps: &Maps,
    place: &Placement,
    how: Drawing,
    picture: impl FnOnce() -> Result<Rgb, E>,
) -> Result<Vec<u8>, E> {
    let map = maps.shown().map_err(RenderError::from)?;
    if how.view == View::Mask {
        let (_, mask) = maps.foreground().map_err(RenderError::from)?;
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

fn mask_png(mask: &Mask, place: &Placement) -> Result<Vec<u8>, RenderError> {
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
    use crate::inference::encode::Plane;
    use occlude_preprocess::{Limits, decode};

    fn maps() -> Maps {
        // The right column stands out; its cells and the first are above mean - 0.6 std.
        let grid = Plane { height: 2, width: 2, values: vec![1.0, 9.0, 0.0, 9.0] };
        Maps { grid, refined: None, deviations: saliency::DEVIATIONS, confidence: None }
    }

    /// 8 x 4, of which the middle 4 x 4 was seen.
    fn place() -> Placement {
        let crop = Rect { left: 2.0, top: 0.0, width: 4.0, height: 4.0 };
        Placement { width: 8, height: 4, crop }
    }

    #[test]
    fn boxes_and_masks_are_in_the_pictures_pixels() {
        let all = Masks { polygons: true, ..Masks::default() };
        let found = describe(&maps(), &place(), all).unwrap();
        assert_eq!(found.foreground_ratio, 0.5);
        let right = Bounds { x: 4.0, y: 0.0, width: 2.0, height: 4.0 };
        assert_eq!(found.bounds, Some(right));
        assert_eq!(found.boxes, [Part { bounds: right, ratio: 0.5, mean: 9.0 }]);
        assert_eq!(found.crop, Bounds { x: 2.0, y: 0.0, width: 4.0, height: 4.0 });
        let mask = found.mask.unwrap();
        let (rle, polygons) = (mask.rle.unwrap(), mask.polygons.unwrap());
        assert_eq!(rle.size, [4, 8]);
        assert_eq!(polygons, [[4.0, 0.0, 6.0, 0.0, 6.0, 4.0, 4.0, 4.0]]);
        let png = STANDARD.decode(mask.png.unwrap()).unwrap();
        let mask = decode(&png, &Limits::default()).unwrap().image;
        let runs = saliency::rle::decode(&rle.counts, 4, 8).unwrap();
        for y in 0..4 {
            for x in 0..8 {
                let white = mask.data[(y * 8 + x) * 3] == 255;
                assert_eq!(white, (4..6).contains(&x), "at {x},{y}");
                assert_eq!(white, runs.get(y, x), "the run lengths say the same");
            }
        }
    }

    #[test]
    fn the_threshold_moves_the_foreground() {
        // Mean 4.75, deviation 4.26.
        let at = |deviations| describe(&Maps { deviations, ..maps() }, &place(), Masks::default()).unwrap();
        let ratios = [-2.0, -1.0, -0.6, 0.9, 3.0].map(|d| at(d).foreground_ratio);
        assert_eq!(ratios, [1.0, 0.75, 0.5, 0.5, 0.0]);
        let none = at(3.0);
        assert_eq!((none.bounds, none.boxes.len(), none.deviations), (None, 0, 3.0));
        assert_eq!(at(-0.6).threshold, saliency::threshold(maps().grid.map().unwrap()));
    }

    #[test]
    fn forms_of_the_mask_are_chosen() {
        let all = Masks { png: true, rle: true, polygons: true };
        assert_eq!("rle,polygons,png".parse(), Ok(all));
        assert_eq!("polygons".parse(), Ok(Masks { polygons: true, ..Masks::NONE }));
        assert_eq!("none".parse(), Ok(Masks::NONE));
        for wrong in ["", "png,none", "PNG", "png,"] {
            assert!(wrong.parse::<Masks>().is_err(), "{wrong}");
        }
        assert_eq!(describe(&maps(), &place(), Masks::NONE).unwrap().mask, None);
    }

    fn drawn(view: View, max_side: u32) -> Rgb {
        let how = Drawing { view, opacity: 0.5, max_side };
        let photo = || Ok::<_, RenderError>(Rgb::filled(8, 4, [100; 3]));
        let png = draw(&maps(), &place(), how, photo).unwrap();
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
        let nan = Maps { grid: Plane { values: vec![f32::NAN; 4], ..maps().grid }, ..maps() };
        assert!(matches!(describe(&nan, &place(), Masks::default()), Err(RenderError::Saliency(_))));
    }

    /// Boxes, masks and pictures are of the refined map, the grid stays the model's.
    #[test]
    fn what_is_refined_is_shown() {
        let values = [[0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 5.0], [0.0; 4], [0.0; 4]].concat();
        let refined = Some(Plane { height: 4, width: 4, values });
        let maps = Maps { refined, deviations: 1.0, confidence: Some(0.25), ..maps() };
        let found = describe(&maps, &place(), Masks::default()).unwrap();
        assert_eq!(found.grid.values, [1.0, 9.0, 0.0, 9.0]);
        assert_eq!((found.foreground_ratio, found.confidence), (0.125, Some(0.25)));
        assert_eq!(found.bounds, Some(Bounds { x: 5.0, y: 0.0, width: 1.0, height: 2.0 }));
        assert_eq!(found.boxes[0].mean, 5.0);
        for view in [View::Mask, View::Heat] {
            let how = Drawing { view, opacity: 1.0, max_side: 100 };
            let photo = || Ok::<_, RenderError>(Rgb::filled(8, 4, [100; 3]));
            let drawn =
                decode(&draw(&maps, &place(), how, photo).unwrap(), &Limits::default()).unwrap().image;
            let at = |x: usize, y: usize| drawn.data[(y * 8 + x) * 3..][..3].to_vec();
            assert!(at(5, 0) != at(4, 0) && at(4, 3) == at(5, 3), "{view:?}");
        }
    }
}
