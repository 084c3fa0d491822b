//! The golden models, and a folder to take them over in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use occlude_contract::InputKind;
use occlude_export::adopt::{AdoptOptions, Adopted, Asked, Pooling, adopt};
use occlude_export::{Error, Refusal};
use occlude_onnxruntime::{encoder, environment};
use occlude_preprocess::{Limits, Preprocess, load};
use ort::session::Session;
use prost::Message;
use tract_onnx::pb::ModelProto;

/// Least cosine with the answer of the project that a model is from.
pub(crate) const LEAST: f64 = 0.9999;

pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adopt")
}

/// By `NAME/OUTPUT` or `NAME/OUTPUT/POOL`, then by picture.
pub(crate) fn answers() -> BTreeMap<String, BTreeMap<String, Vec<f64>>> {
    let text = fs::read_to_string(golden().join("answers.json")).expect("written by make.py");
    serde_json::from_str(&text).expect("JSON")
}

pub(crate) fn asked(output: Option<&str>, pool: Option<Pooling>, skip: usize) -> Asked {
    Asked { output: output.map(ToOwned::to_owned), pool, skip, keep_length: false }
}

pub(crate) fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>();
    let a: Vec<f64> = a.iter().map(|&v| f64::from(v)).collect();
    dot(&a, b) / (dot(&a, &a) * dot(b, b)).sqrt()
}

/// The embeddings of the photos, in one batch, prepared by a contract.
pub(crate) fn embeddings(model: &Path, contract: &Preprocess) -> BTreeMap<String, Vec<f32>> {
    let mut builder = Session::builder(environment().expect("ONNX Runtime")).expect("a session");
    let mut session = builder.commit_from_file(model).expect("loads");
    let names = ["wide.png", "tall.png", "long.jpg"];
    let photo = |name: &str| {
        let path = golden().join("photos").join(name);
        contract.pixels(&load(&path, &Limits::default()).expect("decodes").image)
    };
    let pixels = names.map(photo);
    let outputs = encoder::run(&mut session, InputKind::Float, contract, &pixels.each_ref()).expect("runs");
    let (shape, values) = outputs["embedding"].try_extract_tensor::<f32>().expect("floats");
    let dim = usize::try_from(shape[1]).expect("a length");
    names.map(str::to_owned).into_iter().zip(values.chunks(dim).map(<[f32]>::to_vec)).collect()
}

/// What a test works in.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Takes a model over; the file is `out.onnx`.
    pub(crate) fn adopt(&self, model: &Path, options: AdoptOptions) -> Result<Adopted, Error> {
        adopt(model, &self.at("out.onnx"), &AdoptOptions { force: true, ..options })
    }

    /// The refusal of a model, which leaves nothing behind.
    pub(crate) fn refusal(&self, model: &Path, options: AdoptOptions) -> Refusal {
        let before = fs::read_dir(self.0.path()).expect("lists").count();
        let reason = match self.adopt(model, options) {
            Err(Error::Adopt { path, reason }) => {
                assert_eq!(path, model);
                *reason
            }
            other => panic!("{other:?}"),
        };
        assert!(reason.to_string().contains("hint: "), "{reason}");
        assert_eq!(fs::read_dir(self.0.path()).expect("lists").count(), before, "{reason}");
        reason
    }

    /// The model of CLIP, changed.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut ModelProto)) -> PathBuf {
        let bytes = fs::read(golden().join("clip/model.onnx")).expect("there");
        let mut model = ModelProto::decode(bytes.as_slice()).expect("a model");
        change(&mut model);
        let path = self.at("changed.onnx");
        fs::write(&path, model.encode_to_vec()).expect("written");
        path
    }
}

pub(crate) fn clip(asked: Asked) -> AdoptOptions {
    let contract = golden().join("clip/preprocessor_config.json").display().to_string();
    AdoptOptions { contract: Some(contract), asked, ..AdoptOptions::default() }
}

pub(crate) fn embeds() -> Asked {
    asked(Some("image_embeds"), None, 0)
}

pub(crate) fn golden_model() -> PathBuf {
    golden().join("clip/model.onnx")
}
