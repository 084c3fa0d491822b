//! Tests of the method against the definition of its loss.

use super::*;
use crate::config::{Branch as Masked, Cells, Guidance, Recipe, Strategy};
use crate::data::Geometry;
use crate::method::fixture::{self, distance, step, views};
use crate::tolerance;

/// Numbers of a target.
const DIM: i64 = 24;

fn config() -> Config {
    let mut c = fixture::config(Recipe::Distill);
    let settings = c.method.distill_mut().expect("distillation");
    (settings.head.dim, settings.head.hidden) = (DIM as usize, Some(64));
    c
}

fn masked(branch: Masked, views: usize) -> Config {
    let mut c = config();
    let mut masking = c.usual_masking().expect("masks");
    (masking.branch, masking.strategy) = (branch, Strategy::Mean);
    (c.masking, c.views[0].count) = (Some(masking), views);
    c
}

/// Of twenty pictures.
fn targets(config: &Config) -> Targets {
    Targets::made_up(config, 20).expect("distillation")
}

fn distill(config: &Config) -> Distill {
    config.validate().expect("valid");
    Distill::new(config, &targets(config), false, Device::Cpu).expect("a method")
}

/// Projections of a view as training normalises it, without a trace of that; not normalised.
fn projections(method: &Distill, x: &Tensor) -> Tensor {
    let mode = Mode::Peek { splits: 1 };
    method.branch.head(&method.branch.encode(x, mode, &[]).embedding, mode)
}

/// By torch's own cosines, pair by pair; every row is compared with the target of its own picture.
#[test]
fn the_loss_is_the_cosine_to_the_pictures_own_target_and_the_relations() {
    let _alone = crate::rng::alone();
    let pictures = PICTURES;
    let [a, _] = views();
    for weight in [0.0, 2.5] {
        let mut config = config();
        config.method.distill_mut().expect("distillation").relation_weight = weight;
        let mut method = distill(&config);
        let all = targets(&config);
        let of = |row: i64| all.values().get(pictures[row as usize] as i64);
        let z = projections(&method, &a);
        let cosine = |x: &Tensor, y: &Tensor| Tensor::cosine_similarity(x, y, 0, 1e-12).double_value(&[]);
        let own = (0..8).map(|i| 1.0 - cosine(&z.get(i), &of(i))).sum::<f64>() / 8.0;
        let pairs = (0..8).flat_map(|i| (0..8).map(move |j| (i, j))).filter(|(i, j)| i != j);
        let relation =
            pairs.map(|(i, j)| (cosine(&z.get(i), &z.get(j)) - cosine(&of(i), &of(j))).powi(2)).sum::<f64>()
                / 56.0;
        let views = Views::new(vec![a.shallow_clone()], &pictures).expect("one");
        let out = method.step(&views, step(0)).expect("a step");
        let found = out.loss.double_value(&[]);
        let expected = own + weight * relation;
        assert!((found - expected).abs() < tolerance::SAME_MATH, "{found} {expected}");
        let told: Vec<_> = out.metrics.iter().map(|(name, t)| (*name, t.double_value(&[]))).collect();
        assert!((told[0].1 - own).abs() < tolerance::SAME_MATH && told[0].0 == "cosine_loss");
        assert_eq!(told.len(), if weight > 0.0 { 2 } else { 1 });
        let contrast = out.health.expect("measured").contrast.expect("told");
        assert!((contrast.positive.double_value(&[]) - (1.0 - own)).abs() < tolerance::SAME_MATH);
    }
}

const PICTURES: [usize; 8] = [7, 19, 0, 3, 3, 12, 1, 8];

/// Places on pictures of several shapes, some of them mirrored, of some of which a teacher sees a part.
fn places() -> Vec<Placed> {
    let place = |i: u32| {
        let picture = (100 + 40 * i, 90);
        let crop = occlude_preprocess::CropBox {
            left: f64::from(9 * i),
            top: f64::from(3 * i),
            width: f64::from(60 + 20 * i),
            height: 60.0,
        };
        Placed { geometry: Geometry { crop, flip: i % 2 == 1 }, picture }
    };
    (0..8).map(place).collect()
}

fn with_cells(weight: f64) -> (Config, Targets) {
    let mut config = config();
    config.method.distill_mut().expect("distillation").cells = Some(Cells::weighted(weight));
    tch::manual_seed(4);
    let values = normalize(&Tensor::randn([20, 6, 6, DIM], (Kind::Float, Device::Cpu)));
    let cells = crate::teacher::Cells::fixed(&values.permute([0, 3, 1, 2]), config.preprocess());
    let targets = targets(&config).with(cells);
    (config, targets)
}

/// Picture by picture, each with the targets of its own at its own place; cells that the teacher did not see are left out.
#[test]
fn cells_learn_what_the_teacher_says_at_their_places() {
    let _alone = crate::rng::alone();
    let [a, _] = views();
    let (config, targets) = with_cells(0.7);
    let mut method = Distill::new(&config, &targets, false, Device::Cpu).expect("a method");
    let mode = Mode::Peek { splits: 1 };
    let parts = method.parts.as_ref().expect("cells");
    let out = method.branch.encode(&a, mode, parts.tap());
    let said = parts.project(method.encoder(), &out.taps[0], &a, mode);
    assert_eq!(said.size(), [8, 2, 2, DIM]);
    let (mut sum, mut count) = (0.0, 0);
    for (row, place) in places().into_iter().enumerate() {
        let picture = Tensor::from_slice(&[PICTURES[row] as i64]);
        let there = targets.cells().expect("cells").of(&picture, &[place], [2, 2]).expect("there");
        for (y, x) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            if there.1.double_value(&[0, y, x]) == 1.0 {
                let (own, target) = (said.get(row as i64).get(y).get(x), there.0.get(0).get(y).get(x));
                sum += 1.0 - Tensor::cosine_similarity(&own, &target, 0, 1e-12).double_value(&[]);
                count += 1;
            }
        }
    }
    assert!((8..32).contains(&count), "{count}");
    let expected = sum / f64::from(count);
    let views = || Views::new(vec![a.shallow_clone()], &PICTURES).expect("one");
    let placed = views().placed_at(vec![places()]).expect("placed");
    let out = method.step(&placed, step(0)).expect("a step");
    let told: Vec<_> = out.metrics.iter().map(|(name, t)| (*name, t.double_value(&[]))).collect();
    let names: Vec<_> = told.iter().map(|m| m.0).collect();
    assert_eq!(names, ["cosine_loss", "relation_loss", "dense_loss"]);
    assert!((told[2].1 - expected).abs() < tolerance::SAME_MATH, "{} {expected}", told[2].1);
    let total = told[0].1 + told[1].1 + 0.7 * expected;
    assert!((out.loss.double_value(&[]) - total).abs() < tolerance::SAME_MATH);
    out.loss.backward();
    let heads: Vec<_> =
        method.trainable().into_iter().filter(|n| n.name.starts_with("head_cells_q.")).collect();
    assert!(heads.len() == 6 && heads.iter().all(|n| n.tensor.grad().defined()), "{heads:?}");
    let error = method.step(&views(), step(1)).expect_err("refused").to_string();
    assert!(error.contains("where views are"), "{error}");
    assert!(views().placed_at(vec![places(); 2]).is_err());
    assert!(views().placed_at(vec![places()[..7].to_vec()]).is_err());
}

/// Without cells a step is to the bit what it is where nobody knows places, and with them the rest of it is the same.
#[test]
fn the_embeddings_loss_is_the_same_with_cells_and_without() {
    let _alone = crate::rng::alone();
    let run = |config: &Config, targets: &Targets, placed: bool| {
        let [a, _] = views();
        let views = Views::new(vec![a], &PICTURES).expect("one");
        let views = if placed { views.placed_at(vec![places()]).expect("placed") } else { views };
        let mut method = Distill::new(config, targets, false, Device::Cpu).expect("a method");
        let out = method.step(&views, step(0)).expect("a step");
        let names: Vec<String> = method.state().into_iter().map(|n| n.name).collect();
        (out.loss.double_value(&[]), out.metrics[0].1.double_value(&[]), names)
    };
    let plain = config();
    let (unplaced, placed) = (run(&plain, &targets(&plain), false), run(&plain, &targets(&plain), true));
    assert_eq!(unplaced, placed);
    assert!(!placed.2.iter().any(|name| name.contains("cells")));
    let (config, targets) = with_cells(0.7);
    let dense = run(&config, &targets, true);
    assert_eq!(dense.1, placed.1, "the cosines of whole pictures");
    assert!(dense.0 > placed.0);
    assert!(dense.2.ends_with(&["targets.cells.weight".into(), "targets.cells.bias".into()]));
}

/// The mean over the views of a picture, whatever their sizes.
#[test]
fn views_of_all_sizes_learn_the_same_target() {
    let _alone = crate::rng::alone();
    let [a, b] = views();
    let small = a.narrow(2, 0, 32).narrow(3, 0, 32).contiguous();
    let mut config = config();
    config.views.push(crate::config::ViewGroup { size: Some(32), ..config.views[0].clone() });
    let pictures: Vec<usize> = (0..8).collect();
    let mut method = distill(&config);
    let loss = |method: &Distill, z: &[Tensor]| {
        let picked = method.targets.of(&Tensor::arange(8, (Kind::Int64, Device::Cpu))).expect("there");
        let each: Vec<f64> =
            z.iter().map(|z| method.loss(&normalize(z), &picked).0.double_value(&[])).collect();
        each.iter().sum::<f64>() / each.len() as f64
    };
    // those of one size share their normalisation
    let large = projections(&method, &Tensor::cat(&[&a, &b], 0));
    let z = [large.narrow(0, 0, 8), large.narrow(0, 8, 8), projections(&method, &small)];
    let expected = loss(&method, &z);
    let views = Views::new(vec![a, b, small], &pictures).expect("three");
    let found = method.step(&views, step(0)).expect("a step").loss.double_value(&[]);
    assert!((found - expected).abs() < tolerance::SAME_MATH, "{found} {expected}");
}

#[test]
fn first_views_are_masked_as_they_are_elsewhere() {
    let _alone = crate::rng::alone();
    let titles = |branch, count| {
        let config = masked(branch, count);
        let all = views().into_iter().take(count).collect();
        let views = Views::new(all, &[0, 1, 2, 3, 4, 5, 6, 7]).expect("views");
        let out = distill(&config).step(&views, step(0)).expect("a step");
        let columns = out.preview.expect("asked").columns;
        columns.into_iter().skip(count).map(|c| c.0).collect::<Vec<_>>()
    };
    assert_eq!(titles(Masked::Query, 1), ["masked view 1"]);
    assert_eq!(titles(Masked::Both, 1), ["masked view 1"]);
    assert_eq!(titles(Masked::Key, 2), ["masked view 2"]);
    assert_eq!(titles(Masked::Both, 2), ["masked view 1", "masked view 2"]);
    // what is masked is not what was seen, and nothing but the masks is drawn
    let mut random = masked(Masked::Query, 1);
    random.masking.as_mut().expect("masked").guidance = Guidance::Random;
    let loss = |config: &Config| {
        let [a, _] = views();
        let views = Views::new(vec![a], &[0, 1, 2, 3, 4, 5, 6, 7]).expect("one");
        distill(config).step(&views, step(0)).expect("a step").loss
    };
    assert!(distance(&loss(&random), &loss(&config())) > 1e-6);
    assert_eq!(distance(&loss(&random), &loss(&random)), 0.0);
}

#[test]
fn gradients_reach_every_parameter_and_nothing_of_the_targets() {
    let _alone = crate::rng::alone();
    let mut method = distill(&config());
    let before = method.targets.values().copy();
    method.step(&views().into(), step(0)).expect("a step").loss.backward();
    for named in method.trainable() {
        assert!(named.tensor.grad().defined(), "{}", named.name);
        assert!(!named.name.starts_with("targets."));
    }
    assert_eq!(method.targets.values(), &before);
}

#[test]
fn state_survives_a_round_trip_with_what_makes_targets() {
    let _alone = crate::rng::alone();
    let config = config();
    let mut a = distill(&config);
    a.step(&views().into(), step(0)).expect("a step");
    let mut b = distill(&Config { seed: 5, ..config });
    b.load_state(&a.state()).expect("loaded");
    for (x, y) in a.state().iter().zip(b.state()) {
        assert_eq!((&x.name, &x.tensor), (&y.name, &y.tensor));
    }
    let names: Vec<String> = a.state().into_iter().map(|n| n.name).collect();
    assert!(names.ends_with(&["targets.weight".into(), "targets.bias".into()]), "{names:?}");
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let _alone = crate::rng::alone();
    let mut config = config();
    let targets = targets(&config);
    config.method.distill_mut().expect("distillation").head.dim = 8;
    let error = Distill::new(&config, &targets, false, Device::Cpu).err().expect("refused").to_string();
    assert!(error.contains("8 numbers") && error.contains("24"), "{error}");
    let (mut longer, cells) = with_cells(1.0);
    let own = longer.method.distill_mut().and_then(|d| d.cells.as_mut()).expect("cells");
    own.dim = Some(8);
    let error = Distill::new(&longer, &cells, false, Device::Cpu).err().expect("refused").to_string();
    assert!(error.contains("cells of 8 numbers") && error.contains("24"), "{error}");
    let error = Distill::new(&longer, &targets, false, Device::Cpu).err().expect("refused").to_string();
    assert!(error.contains("no targets of cells"), "{error}");
    let beyond = Tensor::from_slice(&[20i64]);
    assert!(targets.of(&beyond).is_err(), "there are twenty pictures");
    let error = super::super::build(&config, None, false, Device::Cpu).err().expect("refused").to_string();
    assert!(error.contains("--teacher"), "{error}");
    assert!(Views::new(Vec::new(), &[]).is_err());
    let one = Views::new(vec![views()[0].shallow_clone()], &[0, 1, 2, 3, 4, 5, 6, 7]).expect("one");
    assert!(one.pair().is_err() && one.more().is_empty());
    assert!(Views::new(vec![views()[0].shallow_clone()], &[0, 1]).is_err());
}
