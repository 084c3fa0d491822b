//! Pictures of a run: the first batch with its masks, and some nearest neighbours.

use std::path::Path;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage};
use occlude_dataset::Dataset;
use occlude_preprocess::{Limits, Preprocess};
use tch::{Kind, Tensor};

use crate::eval::FeatureSet;
use crate::loss::normalize;
use crate::method::Preview;

/// Rows of the picture: as many samples of the batch.
const ROWS: i64 = 8;
/// Pixels between the tiles.
const GAP: u32 = 4;
/// Side of the tiles of neighbours, pixels.
const TILE: u32 = 96;
/// Neighbours of each query.
const NEIGHBOURS: i64 = 6;

/// Writes the columns of `preview` for the first samples; each view with a foreground is followed by the view with
/// its background darkened. Returns the columns' titles.
///
/// # Errors
/// Where the file cannot be written.
pub(super) fn write(path: &Path, preview: &Preview, contract: &Preprocess) -> Result<Vec<&'static str>> {
    let (mut columns, mut titles): (Vec<Tensor>, Vec<&str>) = (Vec::new(), Vec::new());
    for (i, (title, x)) in preview.columns.iter().enumerate() {
        let shown = displayable(&x.narrow(0, 0, ROWS.min(x.size()[0])), contract);
        let foreground = preview.foreground.iter().find(|(of, _)| *of == i);
        let overlay = foreground.map(|(_, fg)| {
            let size = shown.size()[3];
            let fg =
                fg.narrow(0, 0, shown.size()[0]).unsqueeze(1).upsample_nearest2d([size, size], None, None);
            &shown * (fg * 0.75 + 0.25)
        });
        let maps = preview.maps.iter().filter(|(of, ..)| *of == i);
        let maps: Vec<(&str, Tensor)> = maps.map(|(_, title, map)| (*title, lit(&shown, map))).collect();
        columns.push(shown);
        titles.push(title);
        titles.extend(overlay.is_some().then_some("its foreground"));
        columns.extend(overlay);
        for (title, column) in maps {
            titles.push(title);
            columns.push(column);
        }
    }
    let Some(first) = columns.first() else { return Ok(titles) };
    let (rows, size) = (first.size()[0] as u32, first.size()[3] as u32);
    let tile = size + GAP;
    let mut sheet = RgbImage::from_pixel(tile * columns.len() as u32 - GAP, tile * rows - GAP, Rgb([255; 3]));
    for (c, column) in (0u32..).zip(&columns) {
        let bytes =
            (column * 255.0).round().to_kind(Kind::Uint8).permute([0, 2, 3, 1]).contiguous().flatten(0, -1);
        let bytes: Vec<u8> = Vec::try_from(&bytes).context("cannot read the preview")?;
        let plane = (3 * size * size) as usize;
        for (r, tile_bytes) in (0u32..).zip(bytes.chunks_exact(plane)) {
            if let Some(view) = RgbImage::from_raw(size, size, tile_bytes.to_vec()) {
                image::imageops::replace(&mut sheet, &view, i64::from(c * tile), i64::from(r * tile));
            }
        }
    }
    save(path, &sheet)?;
    Ok(titles)
}

/// Writes some queries, evenly spread over `val`, each followed by its nearest neighbours in `train`.
///
/// # Errors
/// Where the file cannot be written.
pub(super) fn neighbours(
    path: &Path,
    (gallery, train): (&Dataset, &FeatureSet),
    (asked, val): (&Dataset, &FeatureSet),
) -> Result<()> {
    let n = val.samples.len() as i64;
    let rows: Vec<i64> = (0..ROWS.min(n)).map(|i| i * n / ROWS.min(n)).collect();
    let queries = normalize(&val.features.index_select(0, &Tensor::from_slice(&rows)));
    let k = NEIGHBOURS.min(train.samples.len() as i64);
    let (_, nearest) = queries.matmul(&normalize(&train.features).transpose(0, 1)).topk(k, 1, true, true);
    let tile = TILE + GAP;
    let size = (tile * (k as u32 + 1) + GAP, tile * rows.len() as u32 - GAP);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    for (y, &row) in (0i64..).zip(&rows) {
        let near = (0..k).map(|x| (gallery, train.samples[nearest.int64_value(&[y, x]) as usize]));
        for (x, file) in (0u32..).zip(std::iter::once((asked, val.samples[row as usize])).chain(near)) {
            // a gap sets the query apart; a file that has vanished leaves its tile white
            let left = x * tile + if x > 0 { 2 * GAP } else { 0 };
            if let Some(picture) = thumbnail(file) {
                image::imageops::replace(&mut sheet, &picture, i64::from(left), y * i64::from(tile));
            }
        }
    }
    save(path, &sheet)
}

fn thumbnail((data, at): (&Dataset, usize)) -> Option<RgbImage> {
    let image = data.decode(at, &Limits::default(), &mut Vec::new()).ok()?.image;
    let contract = Preprocess::imagenet(TILE);
    let pixels = contract.pixels(&image);
    RgbImage::from_raw(pixels.width, pixels.height, pixels.data)
}

fn save(path: &Path, sheet: &RgbImage) -> Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    sheet.write_to(&mut bytes, image::ImageFormat::Png).context("cannot encode a picture")?;
    std::fs::write(path, bytes.into_inner()).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Pictures with what a map is low in darkened: from the least of each map to its most.
fn lit(shown: &Tensor, map: &Tensor) -> Tensor {
    let (n, size) = (shown.size()[0], shown.size()[3]);
    let map = map.to_device(tch::Device::Cpu).to_kind(Kind::Float).narrow(0, 0, n).unsqueeze(1);
    let (low, high) = (map.amin([2i64, 3], true), map.amax([2i64, 3], true));
    let scaled = (&map - &low) / (high - low).clamp_min(1e-12);
    let scaled = scaled.upsample_bilinear2d([size, size], false, None, None);
    shown * (scaled * 0.85 + 0.15)
}

/// Network input back to 0..1. Filtered input has no absolute level, so it is shown around grey.
fn displayable(x: &Tensor, contract: &Preprocess) -> Tensor {
    let x = x.to_device(tch::Device::Cpu).to_kind(Kind::Float);
    if contract.high_pass.is_some() {
        return (x * 0.25 + 0.5).clamp(0.0, 1.0);
    }
    let channel = |v: [f32; 3]| Tensor::from_slice(&v).view([1, 3, 1, 1]);
    (x * channel(contract.std) + channel(contract.mean)).clamp(0.0, 1.0)
}
