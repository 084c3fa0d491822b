//! Test of what runs of one seed have in common, whatever they mask.

use super::*;
use crate::config::{Choice, Guidance, Masking, Strategy};
use tch::Tensor;

/// First weights, and all views of an epoch, after a step that drew its masks.
fn seen(config: &Config, run: &Run) -> (Vec<Tensor>, Vec<Tensor>) {
    config.validate().expect("valid");
    let method = method::build(config, None, false, Device::Cpu).expect("a method");
    let state =
        method.state().iter().filter(|n| !n.name.starts_with("queue")).map(|n| n.tensor.copy()).collect();
    let dataset = crate::data::open(&run.data).expect("a data set");
    let mut engine = Engine::new(config, run, Pictures::Stored(Arc::new(Store::new(dataset, 0))), method);
    // the pictures of the first step would be written to a file
    engine.at.step = 1;
    let feed = || engine.pictures.feed(&engine.loader, (0, 0), None, Device::Cpu).expect("a feed");
    let (first, rest) = (feed().next(), feed());
    let first = first.expect("a batch").expect("read").expect("pictures");
    engine.batch(first, true, false).expect("a step");
    let views = rest
        .flat_map(|fed| fed.expect("read").expect("pictures").views(&engine.augmenters).expect("augmented"));
    (state, views.collect())
}

/// Runs of one seed begin with the same weights and see the same views in the same order: what differs is the masks.
#[test]
fn masks_change_no_view_and_no_first_weight() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let run = settings(dir.path(), "run");
    let (weights, views) = seen(&config(Recipe::MocoV2), &run);
    assert_eq!(views.len(), 6);
    let arms: [fn(&mut Masking); 5] = [
        |_| (),
        |m| m.strategy = Strategy::Blur,
        |m| (m.guidance, m.strategy) = (Guidance::Random, Strategy::Noise),
        |m| (m.guidance, m.choice, m.share) = (Guidance::Other, Choice::Background, 0.5),
        |m| (m.grid, m.prior_until, m.strategy) = (Some(8), 0.5, Strategy::OtherPicture),
    ];
    for (i, change) in arms.iter().enumerate() {
        let mut config = config(Recipe::SaliencyMoco);
        change(config.masking.as_mut().expect("masked"));
        let (ours, seen) = seen(&config, &run);
        assert!(ours == weights && seen == views, "arm {i}");
    }
    let other = Config { seed: 1, ..config(Recipe::MocoV2) };
    let (ours, seen) = seen(&other, &run);
    assert!(ours != weights && seen != views);
}
