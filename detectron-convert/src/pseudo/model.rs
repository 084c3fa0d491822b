//! The ONNX model whose maps are taken.

use std::path::{Path, PathBuf};

use occlude_contract::{InputKind, key, output};
use occlude_onnxruntime::{encoder, environment};
use occlude_preprocess::{Preprocess, Rgb};
use occlude_saliency::Making;
use ort::session::Session;
use serde::Serialize;

use crate::error::Error;

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
    input: InputKind,
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
        let (contract, about) = {
            let metadata = session.metadata().map_err(&failed)?;
            let text = |key: &str| metadata.custom(key).filter(|value| !value.is_empty());
            let contract =
                text(key::PREPROCESS).ok_or_else(|| wrong(format!("no metadata `{}`", key::PREPROCESS)))?;
            let contract = Preprocess::from_json(&contract)
                .map_err(|e| wrong(format!("metadata `{}`: {e}", key::PREPROCESS)))?;
            let saliency: Option<Making> = text(key::SALIENCY)
                .map(|json| serde_json::from_str(&json))
                .transpose()
                .map_err(|e| wrong(format!("metadata `{}`: {e}", key::SALIENCY)))?;
            let saliency = saliency.unwrap_or(Making::SUM);
            let model = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (fingerprint, identity) = (text(key::FINGERPRINT), text(key::IDENTITY));
            (contract, About { model, fingerprint, identity, saliency })
        };
        let input = encoder::input(&session, contract.crop).map_err(|e| wrong(e.to_string()))?;
        encoder::output(&session, output::SALIENCY, 3).map_err(|e| wrong(e.to_string()))?;
        Ok(Self { path: path.to_owned(), session, input, contract, about })
    }

    /// The map of each picture, which has the contract's size.
    pub(super) fn maps(&mut self, pictures: &[&Rgb]) -> Result<Vec<Grid>, Error> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let failed = runtime(&self.path, "run");
        let (n, name) = (pictures.len(), output::SALIENCY);
        let outputs =
            encoder::run(&mut self.session, self.input, &self.contract, pictures).map_err(&failed)?;
        let wrong = |what: String| Error::Model { path: self.path.clone(), what };
        let output = outputs.get(name).ok_or_else(|| wrong(format!("it returned no `{name}`")))?;
        let (shape, values) = output.try_extract_tensor::<f32>().map_err(&failed)?;
        let sides: Vec<usize> = shape.iter().map(|&s| usize::try_from(s).unwrap_or(0)).collect();
        match sides[..] {
            [rows, height, width] if rows == n && height * width > 0 => {
                let grid = |values: &[f32]| Grid { height, width, values: values.to_vec() };
                Ok(values.chunks_exact(height * width).map(grid).collect())
            }
            _ => Err(wrong(format!("`{name}` has shape {sides:?} for {n} pictures"))),
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
