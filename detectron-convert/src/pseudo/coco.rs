//! Annotations in COCO's format. <https://cocodataset.org/#format-data>

use std::path::Path;

use occlude_saliency::{Error as MapError, Map, Mask, Placement, normalise, rle};
use serde::Serialize;

use super::model::About;
use super::{Boxes, PseudoBoxes, PseudoOptions};
use crate::error::Error;

/// The only category: objects have no classes here.
const CATEGORY: u32 = 1;

/// An object of a picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    /// x, y, width, height in pixels.
    pub(super) bbox: [u64; 4],
    /// Pixels of the mask.
    pub(super) area: u64,
    /// The mask as COCO's compressed string.
    pub(super) counts: String,
    /// Mean of the map, scaled to 0..1, inside.
    pub(super) score: f64,
}

/// The connected parts of a mask that cover at least `min_area` of the picture, the largest first.
pub(super) fn objects(
    map: Map<'_>,
    mask: &Mask,
    place: &Placement,
    min_area: f64,
) -> Result<Vec<Found>, MapError> {
    let scaled = normalise(map);
    let all = f64::from(place.width) * f64::from(place.height);
    let mut found = Vec::new();
    for part in mask.components() {
        let counts = place.rle(&part);
        let runs = rle::decompress(&counts)?;
        let area = runs.iter().skip(1).step_by(2).sum::<u64>();
        // A cell of a small picture may hold no pixel.
        let Some(bbox) = bounds(&runs, u64::from(place.height)) else { continue };
        if (area as f64) < min_area * all {
            continue;
        }
        let inside = scaled.iter().zip(part.cells()).filter(|(_, cell)| **cell).map(|(v, _)| f64::from(*v));
        let score = inside.sum::<f64>() / part.count().max(1) as f64;
        found.push(Found { bbox, area, counts, score: (score * 1e6).round() / 1e6 });
    }
    Ok(found)
}

/// The box around the foreground of runs down columns of `height` pixels.
fn bounds(runs: &[u64], height: u64) -> Option<[u64; 4]> {
    let (mut at, mut edges) = (0, None::<[u64; 4]>);
    for (i, &run) in runs.iter().enumerate() {
        if i % 2 == 1 && run > 0 {
            let (first, last) = (at, at + run - 1);
            let (left, right) = (first / height, last / height);
            // A run that goes on in the next column reaches the lower edge of this one and the upper one of that.
            let (top, bottom) = if left == right { (first % height, last % height) } else { (0, height - 1) };
            edges = Some(match edges {
                None => [left, top, right, bottom],
                Some([l, t, r, b]) => [l.min(left), t.min(top), r.max(right), b.max(bottom)],
            });
        }
        at += run;
    }
    edges.map(|[left, top, right, bottom]| [left, top, right - left + 1, bottom - top + 1])
}

impl Found {
    /// A box of this size in the middle of the picture, all of it foreground.
    pub(super) fn centred(&self, place: &Placement) -> Self {
        let [_, _, width, height] = self.bbox;
        let (across, down) = (u64::from(place.width), u64::from(place.height));
        let (x, y) = ((across - width.min(across)) / 2, (down - height.min(down)) / 2);
        let mut runs = vec![x * down + y];
        for column in 0..width {
            let rest = if column + 1 < width {
                down - height
            } else {
                (across - x - width) * down + down - y - height
            };
            // Columns that are all foreground are one run.
            match runs.len() {
                n if n % 2 == 0 && height == down => runs[n - 1] += height,
                _ => runs.push(height),
            }
            if rest > 0 {
                runs.push(rest);
            }
        }
        Self {
            bbox: [x, y, width, height],
            area: width * height,
            counts: rle::compress(&runs),
            ..self.clone()
        }
    }
}

#[derive(Serialize)]
struct Image {
    id: u64,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Serialize)]
struct Annotation {
    id: u64,
    image_id: u64,
    category_id: u32,
    bbox: [u64; 4],
    segmentation: Segmentation,
    area: u64,
    iscrowd: u8,
    score: f64,
}

#[derive(Serialize)]
struct Segmentation {
    /// Height, width.
    size: [u32; 2],
    counts: String,
}

#[derive(Serialize)]
struct Category {
    id: u32,
    name: &'static str,
    supercategory: &'static str,
}

/// How the boxes were made.
#[derive(Serialize)]
struct Info {
    description: &'static str,
    #[serde(flatten)]
    about: About,
    threshold: f64,
    min_area: f64,
    boxes: &'static str,
    refined: bool,
}

/// The file.
#[derive(Serialize)]
pub(super) struct Document {
    info: Info,
    images: Vec<Image>,
    categories: [Category; 1],
    annotations: Vec<Annotation>,
    #[serde(skip)]
    empty: usize,
}

impl Document {
    pub(super) fn new(options: &PseudoOptions, about: &About) -> Self {
        let (description, boxes) = match options.boxes {
            Boxes::Map => ("boxes of saliency maps, made without labels by occlude-detectron", "map"),
            Boxes::Centre => {
                ("boxes in the middle, as many and as large as those of saliency maps", "centre")
            }
        };
        let threshold = options.threshold.unwrap_or(about.saliency.deviations);
        let info = Info {
            description,
            about: about.clone(),
            threshold,
            min_area: options.min_area,
            boxes,
            refined: options.refine,
        };
        let categories = [Category { id: CATEGORY, name: "object", supercategory: "object" }];
        Self { info, images: Vec::new(), categories, annotations: Vec::new(), empty: 0 }
    }

    /// Adds a picture with its objects. Ids begin at 1: evaluators take 0 for "nothing".
    pub(super) fn add(&mut self, name: &str, place: &Placement, found: Vec<Found>) {
        let image_id = self.images.len() as u64 + 1;
        let (width, height) = (place.width, place.height);
        self.images.push(Image { id: image_id, file_name: name.to_owned(), width, height });
        self.empty += usize::from(found.is_empty());
        for Found { bbox, area, counts, score } in found {
            self.annotations.push(Annotation {
                id: self.annotations.len() as u64 + 1,
                image_id,
                category_id: CATEGORY,
                bbox,
                segmentation: Segmentation { size: [height, width], counts },
                area,
                iscrowd: 0,
                score,
            });
        }
    }

    pub(super) fn counts(&self) -> PseudoBoxes {
        let (pictures, boxes) = (self.images.len(), self.annotations.len());
        PseudoBoxes { pictures, empty: self.empty, boxes, skipped: 0 }
    }

    pub(super) fn write(&self, out: &Path) -> Result<(), Error> {
        occlude_output::write(out, |file| Ok(serde_json::to_writer(file, self)?))
            .map_err(|reason| Error::Write { path: out.to_owned(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest box around the pixels of a mask.
    fn tight(mask: &Mask) -> Option<[u64; 4]> {
        mask.bounds().map(|b| [b.left, b.top, b.width, b.height].map(|v| v as u64))
    }

    #[test]
    fn parts_become_objects_in_pixels() {
        let values = [9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.0, 5.0];
        let map = Map::new(2, 4, &values).unwrap();
        let mask = Mask::new(2, 4, values.iter().map(|&v| v > 4.0).collect()).unwrap();
        let place = Placement::whole(8, 6);
        let found = objects(map, &mask, &place, 0.0).unwrap();
        let boxes: Vec<_> = found.iter().map(|f| (f.bbox, f.area, f.score)).collect();
        assert_eq!(boxes, [([4, 3, 4, 3], 12, 0.5), ([0, 0, 2, 3], 6, 1.0)]);
        assert_eq!(
            objects(map, &mask, &place, 0.2).unwrap().len(),
            1,
            "6 of 48 pixels are less than a fifth"
        );
        assert_eq!(objects(map, &mask, &place, 0.125).unwrap().len(), 2, "6 of 48 are an eighth");
        // A picture of fewer pixels than cells: what holds no pixel's centre is no object.
        let small = objects(map, &mask, &Placement::whole(1, 1), 0.0).unwrap();
        assert!(small.iter().all(|f| f.area == 1), "{small:?}");
    }

    #[test]
    fn only_the_window_has_objects() {
        let map = Map::new(1, 1, &[1.0]).unwrap();
        let mask = Mask::new(1, 1, vec![true]).unwrap();
        let crop = occlude_saliency::Rect { left: 3.0, top: 0.0, width: 4.0, height: 5.0 };
        let found = objects(map, &mask, &Placement { width: 10, height: 5, crop }, 0.0).unwrap();
        assert_eq!((found[0].bbox, found[0].area), ([3, 0, 4, 5], 20));
    }

    proptest! {
        #[test]
        fn box_area_and_runs_are_those_of_the_mask(
            (h, w) in (1usize..6, 1usize..6), bits in any::<u64>(), (width, height) in (1u32..40, 1u32..40),
        ) {
            let mask = Mask::new(h, w, (0..h * w).map(|i| bits >> i & 1 == 1).collect()).unwrap();
            let values: Vec<f32> = (0..h * w).map(|i| i as f32).collect();
            let map = Map::new(h, w, &values).unwrap();
            let place = Placement::whole(width, height);
            let found = objects(map, &mask, &place, 0.0).unwrap();
            let mut together = vec![false; (width * height) as usize];
            for object in &found {
                let pixels = rle::decode(&object.counts, height as usize, width as usize).unwrap();
                prop_assert_eq!(tight(&pixels), Some(object.bbox));
                prop_assert_eq!(pixels.count() as u64, object.area);
                prop_assert!((0.0..=1.0).contains(&object.score));
                together.iter_mut().zip(pixels.cells()).for_each(|(all, cell)| *all |= cell);
                // The baseline: the same size, in the middle, all of it foreground.
                let centre = object.centred(&place);
                let pixels = rle::decode(&centre.counts, height as usize, width as usize).unwrap();
                prop_assert_eq!(tight(&pixels), Some(centre.bbox));
                prop_assert_eq!((pixels.count() as u64, centre.bbox[2..].to_vec()), (centre.area, object.bbox[2..].to_vec()));
                let [x, y, w, h] = centre.bbox;
                prop_assert!((u64::from(width) - w - x).abs_diff(x) <= 1 && (u64::from(height) - h - y).abs_diff(y) <= 1);
                prop_assert_eq!(rle::counts(&pixels), rle::decompress(&centre.counts).unwrap(), "as others write it");
            }
            let whole = place.mask(&mask).unwrap();
            prop_assert_eq!(&together[..], whole.cells());
        }
    }
}
