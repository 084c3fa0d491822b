//! Small things that the unit tests of several modules need.

use std::sync::Arc;

use crate::fake::Fake;
use crate::inference::encode::Encode;
use crate::inference::model::{Model, ModelInfo};
use crate::serving::state::AppState;

fn start(info: ModelInfo, fakes: Vec<Fake>, state: &AppState) -> Model {
    let encoders = fakes.into_iter().map(|f| Box::new(f) as Box<dyn Encode>).collect();
    Model::start(info, encoders, state.limits(), &Arc::clone(state.metrics()))
}

pub(crate) fn fake_model(fakes: Vec<Fake>, state: &AppState) -> Model {
    start(Fake::info("fake", "f00d"), fakes, state)
}

pub(crate) fn named_model(name: &str, fingerprint: &str, state: &AppState) -> Model {
    start(Fake::info(name, fingerprint), vec![Fake::default()], state)
}

pub(crate) fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    crate::pictures::render::rgb_png(width, height, &colour.repeat((width * height) as usize)).unwrap()
}
