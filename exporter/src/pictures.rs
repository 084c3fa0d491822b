//! Pictures as a model takes them.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;

use occlude_preprocess::{Limits, Preprocess, Rgb, files, load};

use crate::Error;
use crate::onnx::InputKind;

/// Folders become their pictures; with a limit, evenly spread over the listing.
pub(crate) fn expand(paths: &[PathBuf], limit: Option<usize>) -> Result<Vec<PathBuf>, Error> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let samples = files::list(path)?.samples;
        let step = limit.map_or(1, |n| samples.len().div_ceil(n.max(1))).max(1);
        all.extend(samples.into_iter().step_by(step).map(|s| s.path));
    }
    Ok(all)
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
        match self.pixels {
            Pixels::Float(_) => [self.rows, 3, self.side, self.side],
            Pixels::Uint8(_) => [self.rows, self.side, self.side, 3],
        }
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
    pub(crate) fn load(paths: &[PathBuf], contract: &Preprocess, kind: InputKind) -> Result<Self, Error> {
        let pixels = |path| Ok(contract.pixels(&load(path, &Limits::default())?.image));
        let pixels = paths.iter().map(|path| pixels(path)).collect::<Result<_, Error>>()?;
        Ok(Self::prepared(pixels, contract, kind))
    }

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
        assert_eq!(expand(&paths, None).expect("lists").len(), 11);
        let some = expand(&paths, Some(3)).expect("lists");
        let names: Vec<_> = some.iter().filter_map(|p| p.file_name()?.to_str()).collect();
        assert_eq!(names, ["0.jpg", "4.jpg", "8.jpg", "single.png"]);
    }
}
