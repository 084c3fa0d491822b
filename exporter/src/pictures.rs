//! Pictures as a model takes them.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use occlude_contract::InputKind;
use occlude_preprocess::{Broken, Limits, Preprocess, Rgb, files, load, names};

use crate::Error;

/// The pictures of a job, and what there is to say about them.
#[derive(Debug, Default)]
pub(crate) struct Pictures {
    pub(crate) paths: Vec<PathBuf>,
    /// Lines for people: what folders leave out, which pictures are broken.
    pub(crate) notes: Vec<String>,
    broken: Broken,
}

impl Pictures {
    /// Folders become their pictures; with a limit, evenly spread over the listing.
    pub(crate) fn expand(paths: &[PathBuf], limit: Option<usize>) -> Result<Self, Error> {
        let mut all = Self::default();
        for path in paths {
            if !path.is_dir() {
                all.paths.push(path.clone());
                continue;
            }
            let listing = files::list(path)?;
            if !listing.left_out.is_empty() {
                all.notes.push(format!("note: `{}`: {}", names::of_path(path), listing.left_out));
            }
            let samples = listing.samples;
            let step = limit.map_or(1, |n| samples.len().div_ceil(n.max(1))).max(1);
            all.paths.extend(samples.into_iter().step_by(step).map(|s| s.path));
        }
        Ok(all)
    }

    /// What outputs must not be: the paths, and what lies in folders among them. Folders are listed only where one of the
    /// outputs exists and would be replaced, because a file that is not there is nobody's picture.
    pub(crate) fn at_risk(paths: &[PathBuf], outputs: &[&Path], force: bool) -> Result<Vec<PathBuf>, Error> {
        match force && outputs.iter().any(|output| output.exists()) {
            true => Ok(Self::expand(paths, None)?.paths),
            false => Ok(paths.to_vec()),
        }
    }

    /// Decodes those of a range; the broken ones are noted and left out. The paths of the others come along.
    pub(crate) fn load(
        &mut self,
        range: Range<usize>,
        contract: &Preprocess,
        kind: InputKind,
    ) -> (Inputs, Vec<PathBuf>) {
        let (mut pixels, mut good) = (Vec::new(), Vec::new());
        for path in self.paths.get(range).unwrap_or_default() {
            match load(path, &Limits::default()) {
                Ok(decoded) => {
                    pixels.push(contract.pixels(&decoded.image));
                    good.push(path.clone());
                }
                Err(error) => {
                    self.notes.extend(self.broken.add(&error).map(|line| format!("warning: {line}")));
                }
            }
        }
        (Inputs::prepared(pixels, contract, kind), good)
    }

    /// How many were broken.
    pub(crate) fn skipped(&self) -> usize {
        self.broken.count()
    }

    /// An error, where not one could be used.
    pub(crate) fn not_all_broken(&self) -> Result<(), Error> {
        Ok(self.broken.not_all(self.paths.len(), None)?)
    }
}

/// Values of some pictures, one behind the other.
pub(crate) enum Pixels<'a> {
    /// Normalised planes, without the high-pass filter: that is inside the model.
    Float(Cow<'a, [f32]>),
    /// Resized and cropped.
    Uint8(Cow<'a, [u8]>),
}

/// What a model is run on.
pub(crate) struct Batch<'a> {
    pub(crate) pixels: Pixels<'a>,
    pub(crate) rows: usize,
    pub(crate) side: usize,
}

impl Batch<'_> {
    /// (N, 3, H, W) of floats, (N, H, W, 3) of bytes.
    pub(crate) fn shape(&self) -> [usize; 4] {
        let kind = match self.pixels {
            Pixels::Float(_) => InputKind::Float,
            Pixels::Uint8(_) => InputKind::Uint8,
        };
        kind.shape(self.rows, self.side)
    }
}

/// Decoded pictures.
pub(crate) struct Inputs {
    kind: InputKind,
    pixels: Vec<Rgb>,
    planes: Vec<Vec<f32>>,
    side: usize,
}

impl Inputs {
    /// Pictures that are resized and cropped already.
    pub(crate) fn prepared(pixels: Vec<Rgb>, contract: &Preprocess, kind: InputKind) -> Self {
        let planes = |pixels: &Rgb| {
            let mut planes = vec![0.0; pixels.data.len()];
            contract.normalized_into(pixels, &mut planes);
            planes
        };
        let planes = match kind {
            InputKind::Float => pixels.iter().map(planes).collect(),
            InputKind::Uint8 => vec![],
        };
        Self { kind, pixels, planes, side: contract.crop as usize }
    }

    /// How many pictures.
    pub(crate) fn len(&self) -> usize {
        self.pixels.len()
    }

    /// The pictures, resized and cropped.
    pub(crate) fn pixels(&self) -> &[Rgb] {
        &self.pixels
    }

    /// The pictures of a range, which is within their number.
    pub(crate) fn batch(&self, range: Range<usize>) -> Batch<'_> {
        let rows = range.len();
        let pixels = match self.kind {
            InputKind::Float => Pixels::Float(joined(&self.planes[range], |p| p)),
            InputKind::Uint8 => Pixels::Uint8(joined(&self.pixels[range], |p| &p.data)),
        };
        Batch { pixels, rows, side: self.side }
    }
}

/// One picture is borrowed, several are copied.
fn joined<'a, T, V: Copy>(items: &'a [T], values: impl Fn(&'a T) -> &'a Vec<V>) -> Cow<'a, [V]> {
    match items {
        [one] => Cow::Borrowed(values(one)),
        many => Cow::Owned(many.iter().flat_map(|item| values(item).iter().copied()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_expanded_and_limited() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for i in 0..10 {
            std::fs::write(folder.path().join(format!("{i}.jpg")), "").expect("writes");
        }
        let paths = [folder.path().to_owned(), PathBuf::from("single.png")];
        let expand = |limit| Pictures::expand(&paths, limit).expect("lists").paths;
        assert_eq!(expand(None).len(), 11);
        let some = expand(Some(3));
        let names: Vec<_> = some.iter().filter_map(|p| p.file_name()?.to_str()).collect();
        assert_eq!(names, ["0.jpg", "4.jpg", "8.jpg", "single.png"]);
    }

    #[test]
    fn broken_pictures_are_left_out_and_what_is_no_picture_is_told() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("a.png"), "broken").expect("writes");
        std::fs::write(folder.path().join("b.heic"), "").expect("writes");
        // a bitmap of one pixel
        let mut bmp = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
        bmp.resize(0x3a, 0);
        std::fs::write(folder.path().join("c.bmp"), bmp).expect("writes");
        let contract = Preprocess::imagenet(8);
        let mut pictures = Pictures::expand(&[folder.path().to_owned()], None).expect("lists");
        let (inputs, paths) = pictures.load(0..2, &contract, InputKind::Uint8);
        assert_eq!((inputs.len(), paths), (1, vec![folder.path().join("c.bmp")]));
        assert!(pictures.not_all_broken().is_ok() && pictures.skipped() == 1);
        assert!(pictures.notes[0].contains("left out: 1 file: 1 .heic"), "{:?}", pictures.notes);
        assert!(pictures.notes[1].starts_with("warning: skipped: `") && pictures.notes[1].contains("a.png"));
        let mut one = Pictures::expand(&[folder.path().join("a.png")], None).expect("a file");
        one.load(0..1, &contract, InputKind::Uint8);
        assert!(one.not_all_broken().expect_err("all").to_string().contains("none of the 1 pictures"));
    }
}
