//! What is known of pictures: masks in files, or boxes in COCO's annotations.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use occlude_dataset::Dataset;
use occlude_preprocess::{files, names};
use occlude_saliency::{Mask, Rect, score};
use serde::Deserialize;
use serde_json::Value;

use super::png_mask;
use super::window::Region;

/// What is known of the pictures of a data set.
pub enum Truths {
    /// A mask for each, by the picture's number.
    Masks(HashMap<usize, PathBuf>),
    /// Boxes for each, likewise, with the size that the file says the picture has.
    Boxes(HashMap<usize, Boxes>),
}

/// The boxes of a picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Boxes {
    size: Option<(u32, u32)>,
    /// Each with the number of its annotation, for messages.
    rects: Vec<(String, Rect)>,
}

/// What is known of one picture, in its pixels.
pub(super) enum Known {
    Mask(Mask),
    Boxes(Vec<Rect>),
}

/// What is known of the part that is judged, in its pixels.
pub(super) struct Truth {
    /// The objects; the area of the boxes where there are only boxes.
    pub(super) mask: Mask,
    /// Boxes around objects.
    pub(super) boxes: Vec<Rect>,
}

impl Truths {
    /// Finds the masks of the pictures at `which` in `folder`: `a/b.jpg` has `a/b.png`, or else `b.png`.
    ///
    /// # Errors
    /// Where a picture has none, or two have the same.
    pub fn masks(data: &Dataset, which: &[usize], folder: &Path) -> Result<Self> {
        ensure!(
            folder.is_dir(),
            "no such folder: `{}`; hint: `--masks` is a folder of PNG files",
            folder.display()
        );
        let (mut found, mut missing) = (HashMap::new(), Vec::new());
        let mut owners: HashMap<PathBuf, usize> = HashMap::new();
        for &i in which {
            let Some(path) = mask_of(&below(data, i), folder) else {
                missing.push(i);
                continue;
            };
            if let Some(other) = owners.insert(path.clone(), i) {
                bail!(
                    "`{}` and `{}` have the same mask, `{}`; hint: put masks into the same sub-folders as the pictures",
                    data.name(other),
                    data.name(i),
                    path.display()
                );
            }
            found.insert(i, path);
        }
        if let Some(&first) = missing.first() {
            let expected = folder.join(below(data, first)).with_extension("png");
            bail!(
                "{} of {} pictures have no mask in `{}`; the first: `{}`, expected `{}`; hint: a mask is a PNG file with the name of its picture",
                missing.len(),
                which.len(),
                folder.display(),
                data.name(first),
                expected.display()
            );
        }
        Ok(Self::Masks(found))
    }

    /// Reads COCO's annotations in `file`: `images` by `file_name` (the path below the data set, or the name alone), and
    /// the `bbox` of every annotation that is no crowd.
    ///
    /// # Errors
    /// Where the file is something else, or a picture at `which` is not in it.
    pub fn boxes(data: &Dataset, which: &[usize], file: &Path) -> Result<Self> {
        let name = names::of_path(file);
        let text = files::read_utf8(file).with_context(|| format!("cannot read `{name}`"))?;
        let coco: Coco = serde_json::from_str(&text).with_context(|| {
            format!("`{name}` holds no COCO annotations: expected `images` and `annotations` with `bbox`")
        })?;
        let images = coco.images(&name)?;
        let mut named = Named::of(&images);
        let (mut found, mut missing) = (HashMap::new(), Vec::new());
        for &i in which {
            match named.find(&below(data, i)) {
                Some(boxes) => {
                    found.insert(i, boxes);
                }
                None => missing.push(i),
            }
        }
        if let Some(&first) = missing.first() {
            bail!(
                "{} of {} pictures are not among the images of `{name}`; the first: `{}`; hint: `file_name` is the path below the data set, or the name of a file that only one has",
                missing.len(),
                which.len(),
                data.name(first)
            );
        }
        Ok(Self::Boxes(found))
    }

    /// What kind it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Masks(_) => "masks",
            Self::Boxes(_) => "boxes",
        }
    }

    /// What is known of picture `i`, which has that size and name.
    pub(super) fn read(&self, i: usize, picture: &str, size: (u32, u32)) -> Result<Known> {
        match self {
            Self::Masks(masks) => {
                let path = masks.get(&i).with_context(|| format!("no mask for `{picture}`"))?;
                Ok(Known::Mask(png_mask::read(path, picture, size)?))
            }
            Self::Boxes(boxes) => {
                let boxes = boxes.get(&i).with_context(|| format!("no boxes for `{picture}`"))?;
                Ok(Known::Boxes(boxes.inside(picture, size)?))
            }
        }
    }
}

/// The path of a picture below its data set; of a shard's, its key.
fn below(data: &Dataset, i: usize) -> PathBuf {
    let name = data.name_below(i);
    let name = match data.path(i) {
        Some(_) => name.as_str(),
        None => name.rsplit_once(".tar:").map_or(name.as_str(), |(_, key)| key),
    };
    PathBuf::from(String::from_utf8_lossy(&names::unescape(name)).into_owned())
}

fn mask_of(picture: &Path, folder: &Path) -> Option<PathBuf> {
    let name = picture.file_name().map(Path::new)?;
    // a picture of a list may lie outside of the list's folder: its path would lead out of that of the masks, to itself
    let inside = picture.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let places = inside.then_some(picture).into_iter().chain([name]).map(|place| folder.join(place));
    let places: Vec<PathBuf> = places.collect();
    let endings = places.iter().flat_map(|place| ["png", "PNG"].map(|ending| place.with_extension(ending)));
    endings.into_iter().find(|path| path.is_file())
}

#[derive(Deserialize)]
struct Coco {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Image {
    id: Value,
    file_name: String,
    width: Option<u32>,
    height: Option<u32>,
}

#[derive(Deserialize)]
struct Annotation {
    id: Option<Value>,
    image_id: Value,
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: u8,
}

impl Coco {
    /// The boxes of each `file_name`.
    fn images(self, name: &str) -> Result<HashMap<String, Boxes>> {
        let mut by_id: HashMap<String, (String, Boxes)> = HashMap::new();
        for image in self.images {
            let boxes = Boxes { size: image.width.zip(image.height), rects: Vec::new() };
            if let Some((other, _)) = by_id.insert(image.id.to_string(), (image.file_name.clone(), boxes)) {
                bail!("`{name}`: images `{other}` and `{}` have the same id, {}", image.file_name, image.id);
            }
        }
        for a in self.annotations.into_iter().filter(|a| a.iscrowd == 0) {
            let id = a.id.map_or_else(|| "without id".to_owned(), |id| id.to_string());
            let [left, top, width, height] = a.bbox;
            let rect = Rect { left, top, width, height };
            let sound = a.bbox.iter().all(|v| v.is_finite()) && width > 0.0 && height > 0.0;
            ensure!(
                sound,
                "`{name}`: annotation {id} has the box {:?}: expected x, y, width and height",
                a.bbox
            );
            let image = by_id.get_mut(&a.image_id.to_string());
            let image = image.with_context(|| {
                format!("`{name}`: annotation {id} refers to image {}, which is missing", a.image_id)
            })?;
            image.1.rects.push((id, rect));
        }
        let mut by_name = HashMap::new();
        for (file, boxes) in by_id.into_values() {
            ensure!(
                by_name.insert(file.clone(), boxes).is_none(),
                "`{name}`: two images have the `file_name` `{file}`"
            );
        }
        Ok(by_name)
    }
}

/// Pictures by path, and by the name of a file that only one has.
struct Named<'a> {
    paths: &'a HashMap<String, Boxes>,
    files: HashMap<&'a str, Option<&'a Boxes>>,
}

impl<'a> Named<'a> {
    fn of(paths: &'a HashMap<String, Boxes>) -> Self {
        let mut files = HashMap::new();
        for (path, boxes) in paths {
            let name = path.rsplit('/').next().unwrap_or(path);
            files.entry(name).and_modify(|found| *found = None).or_insert(Some(boxes));
        }
        Self { paths, files }
    }

    fn find(&mut self, picture: &Path) -> Option<Boxes> {
        let by_path = picture.to_str().and_then(|path| self.paths.get(path));
        let name = picture.file_name().and_then(|name| name.to_str());
        // a name stands for one picture
        by_path.or_else(|| self.files.get_mut(name?)?.take()).cloned()
    }
}

impl Boxes {
    /// Cut to a picture of that size and name.
    fn inside(&self, picture: &str, (width, height): (u32, u32)) -> Result<Vec<Rect>> {
        if let Some((w, h)) = self.size.filter(|&size| size != (width, height)) {
            bail!("`{picture}` is {width}x{height} pixels upright, and {w}x{h} in the annotations");
        }
        let cut = |(id, rect): &(String, Rect)| {
            let inside = rect.clamp(f64::from(width), f64::from(height));
            ensure!(
                inside.width > 0.0 && inside.height > 0.0,
                "annotation {id} has the box [{}, {}, {}, {}], outside `{picture}` of {width}x{height} pixels",
                rect.left,
                rect.top,
                rect.width,
                rect.height
            );
            Ok(inside)
        };
        self.rects.iter().map(cut).collect()
    }
}

impl Known {
    /// The part that is judged.
    pub(super) fn within(&self, region: &Region) -> Result<Truth> {
        let rows = region.top..region.top + region.height;
        let pixels = rows.flat_map(|y| (region.left..region.left + region.width).map(move |x| (y, x)));
        match self {
            Self::Mask(mask) => {
                let cells = pixels.map(|(y, x)| mask.get(y, x)).collect();
                let mask = Mask::new(region.height, region.width, cells)?;
                Ok(Truth { boxes: score::boxes(&mask), mask })
            }
            Self::Boxes(rects) => {
                let contains = |x: f64, y: f64| {
                    rects.iter().any(|r| {
                        (r.left..r.left + r.width).contains(&x) && (r.top..r.top + r.height).contains(&y)
                    })
                };
                let cells = pixels.map(|(y, x)| contains(x as f64 + 0.5, y as f64 + 0.5)).collect();
                let moved = rects.iter().map(|r| {
                    let moved =
                        Rect { left: r.left - region.left as f64, top: r.top - region.top as f64, ..*r };
                    moved.clamp(region.width as f64, region.height as f64)
                });
                let boxes = moved.filter(|r| r.width > 0.0 && r.height > 0.0).collect();
                Ok(Truth { mask: Mask::new(region.height, region.width, cells)?, boxes })
            }
        }
    }
}

#[cfg(test)]
mod tests;
