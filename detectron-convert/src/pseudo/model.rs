//! The ONNX model whose maps are taken.

use std::path::{Path, PathBuf};

use occlude_onnxruntime::environment;
use occlude_preprocess::{Preprocess, Rgb};
use occlude_saliency::Making;
use occlude_saliency::rule::METADATA;
use ort::session::Session;
use ort::value::{TensorElementType, TensorRef, ValueType};
use serde::Serialize;

use crate::error::Error;

/// The output that is taken.
const OUTPUT: &str = "saliency";
/// The input of normalised planes, (N, 3, H, W), and that of bytes, (N, H, W, 3).
const FLOATS: &str = "pixel_values";
const BYTES: &str = "images";

/// A map of a picture.
pub(super) struct Grid {
    pub(super) height: usize,
    pub(super) width: usize,
    /// (height, width), row-major.
    pub(super) values: Vec<f32>,
}

/// What the JSON says about the model.
#[derive(Clone, Debug, Serialize)]
pub(super) struct About {
    /// The file's name.
    pub(super) model: String,
    pub(super) fingerprint: Option<String>,
    pub(super) identity: Option<String>,
    /// How it makes its map.
    pub(super) saliency: Making,
}

/// An open model.
pub(super) struct Model {
    path: PathBuf,
    session: Session,
    bytes: bool,
    pub(super) contract: Preprocess,
    pub(super) about: About,
}

impl Model {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        std::fs::File::open(path).map_err(|reason| Error::Read { path: path.to_owned(), reason })?;
        let failed = runtime(path, "load");
        let mut builder = Session::builder(environment()?).map_err(&failed)?;
        let session = builder.commit_from_file(path).map_err(&failed)?;
        let wrong = |what: String| Error::Model { path: path.to_owned(), what };
        let bytes = match session.inputs() {
            [input] if input.name() == FLOATS => false,
            [input] if input.name() == BYTES => true,
            _ => return Err(wrong(format!("expected one input `{FLOATS}` or `{BYTES}`"))),
        };
        let output = session.outputs().iter().find(|output| output.name() == OUTPUT);
        let is_map = |kind: &ValueType| matches!(kind, ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } if shape.len() == 3);
        if !output.is_some_and(|output| is_map(output.dtype())) {
            return Err(wrong(format!("expected an output `{OUTPUT}` of floats with 3 dimensions")));
        }
        let (contract, about) = {
            let metadata = session.metadata().map_err(&failed)?;
            let text = |key: &str| metadata.custom(key).filter(|value| !value.is_empty());
            let contract = text("preprocess").ok_or_else(|| wrong("no metadata `preprocess`".to_owned()))?;
            let contract =
                Preprocess::from_json(&contract).map_err(|e| wrong(format!("metadata `preprocess`: {e}")))?;
            let saliency: Option<Making> = text(METADATA)
                .map(|json| serde_json::from_str(&json))
                .transpose()
                .map_err(|e| wrong(format!("metadata `{METADATA}`: {e}")))?;
            let saliency = saliency.unwrap_or(Making::SUM);
            let model = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (fingerprint, identity) = (text("fingerprint"), text("occlude.identity"));
            (contract, About { model, fingerprint, identity, saliency })
        };
        Ok(Self { path: path.to_owned(), session, bytes, contract, about })
    }

    /// The map of each picture, which has the contract's size.
    pub(super) fn maps(&mut self, pictures: &[&Rgb]) -> Result<Vec<Grid>, Error> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let failed = runtime(&self.path, "run");
        let (n, side) = (pictures.len(), self.contract.crop as usize);
        let outputs = if self.bytes {
            let data: Vec<u8> = pictures.iter().flat_map(|picture| picture.data.iter().copied()).collect();
            let input = TensorRef::from_array_view(([n, side, side, 3], &*data)).map_err(&failed)?;
            self.session.run(ort::inputs![BYTES => input]).map_err(&failed)?
        } else {
            let mut data = vec![0f32; n * 3 * side * side];
            for (out, picture) in data.chunks_exact_mut(3 * side * side).zip(pictures) {
                self.contract.normalized_into(picture, out);
            }
            let input = TensorRef::from_array_view(([n, 3, side, side], &*data)).map_err(&failed)?;
            self.session.run(ort::inputs![FLOATS => input]).map_err(&failed)?
        };
        let wrong = |what: String| Error::Model { path: self.path.clone(), what };
        let output = outputs.get(OUTPUT).ok_or_else(|| wrong(format!("it gave no `{OUTPUT}`")))?;
        let (shape, values) = output.try_extract_tensor::<f32>().map_err(&failed)?;
        let sides: Vec<usize> = shape.iter().map(|&s| usize::try_from(s).unwrap_or(0)).collect();
        match sides[..] {
            [rows, height, width] if rows == n && height * width > 0 => {
                let grid = |values: &[f32]| Grid { height, width, values: values.to_vec() };
                Ok(values.chunks_exact(height * width).map(grid).collect())
            }
            _ => Err(wrong(format!("`{OUTPUT}` has shape {sides:?} for {n} pictures"))),
        }
    }
}

fn runtime(path: &Path, action: &'static str) -> impl Fn(ort::Error) -> Error {
    let path = path.to_owned();
    move |reason| {
        let reason = reason.to_string().trim_end_matches('.').to_owned();
        Error::Runtime { path: path.clone(), action, reason }
    }
}
