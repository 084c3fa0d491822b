//! Small things that the unit tests of several modules need.

use std::sync::Arc;

use occlude_preprocess::Preprocess;

use crate::batch::Encode;
use crate::encoder::fake::Fake;
use crate::model::{InputKind, Model, ModelInfo};
use crate::state::AppState;

fn info(name: &str, fingerprint: &str) -> ModelInfo {
    ModelInfo {
        name: name.to_owned(),
        fingerprint: fingerprint.to_owned(),
        encoder: "fake".to_owned(),
        method: None,
        licence: None,
        checkpoint: None,
        contract: Preprocess::imagenet(32),
        input: InputKind::Uint8,
        dim: Fake::DIM,
        golden: None,
        features: false,
        provider: "none".to_owned(),
    }
}

fn start(info: ModelInfo, fakes: Vec<Fake>, state: &AppState) -> Model {
    let encoders = fakes.into_iter().map(|f| Box::new(f) as Box<dyn Encode>).collect();
    Model::start(info, encoders, state.limits(), &Arc::clone(state.metrics()))
}

pub(crate) fn fake_model(fakes: Vec<Fake>, state: &AppState) -> Model {
    start(info("fake", "f00d"), fakes, state)
}

pub(crate) fn named_model(name: &str, fingerprint: &str, state: &AppState) -> Model {
    start(info(name, fingerprint), vec![Fake::default()], state)
}

pub(crate) fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    crate::render::rgb_png(width, height, &colour.repeat((width * height) as usize)).unwrap()
}
