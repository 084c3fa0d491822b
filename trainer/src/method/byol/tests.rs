//! Tests of the method's parts against their definitions.

use super::*;
use crate::config::{Branch as Masked, Recipe, Strategy};
use crate::method::fixture::{self, distance, step, views};
use crate::tolerance;

/// Heads that a test can afford.
fn config(recipe: Recipe) -> Config {
    let mut c = fixture::config(recipe);
    let byol = c.method.byol_mut().expect("BYOL");
    (byol.head.dim, byol.head.hidden, byol.predictor) = (32, Some(64), 48);
    c
}

fn masked(recipe: Recipe, branch: Masked) -> Config {
    let mut c = config(recipe);
    let mut masking = c.usual_masking().expect("masks");
    (masking.branch, masking.strategy) = (branch, Strategy::Mean);
    c.masking = Some(masking);
    c
}

fn byol(config: &Config) -> Byol {
    config.validate().expect("valid");
    Byol::new(config, false, Device::Cpu).expect("a method")
}

const RECIPES: [Recipe; 3] = [Recipe::ByolSmall, Recipe::LewelB, Recipe::LewelBEman];

#[test]
fn the_loss_is_both_directions_of_the_definition() {
    let _alone = crate::rng::alone();
    let mut method = byol(&config(Recipe::Byol));
    let [a, b] = views();
    let mode = Mode::Peek { splits: 1 };
    let of = |branch: &Branch, x: &Tensor| branch.head(&branch.encode(x, mode, &[]).embedding, mode);
    let direction = |x: &Tensor, y: &Tensor| {
        let prediction = method.predictors[0].mlp.forward(&of(&method.online, x), mode);
        let target = of(method.target.branch(), y);
        let cosine = Tensor::cosine_similarity(&prediction, &target, 1, 1e-12);
        2.0 - 2.0 * cosine.mean(Kind::Float)
    };
    let expected = direction(&a, &b) + direction(&b, &a);
    let out = method.step(&[a, b].into(), step(0)).expect("a step");
    assert!(distance(&out.loss, &expected) < tolerance::SAME_MATH);
    let health = out.health.expect("measured").map(|t| t.double_value(&[]));
    assert!(health.contrast.is_some_and(|c| c.positive.abs() <= 1.0) && health.spread > 0.0);
}

#[test]
fn gradients_reach_what_is_learnt_and_nothing_of_the_target() {
    let _alone = crate::rng::alone();
    for recipe in RECIPES {
        let mut method = byol(&config(recipe));
        method.step(&views().into(), step(0)).expect("a step").loss.backward();
        for named in method.trainable() {
            assert!(named.tensor.grad().defined(), "{recipe:?}: {}", named.name);
        }
        assert!(method.target.branch().named().iter().all(|n| !n.tensor.requires_grad()));
        let learnt = method.trainable().len() + method.target.branch().named().len();
        assert!(method.state().len() > learnt, "the state holds buffers too");
    }
}

/// Running statistics are the target's own, or averages of the network's.
#[test]
fn the_target_follows_with_or_without_buffers() {
    let _alone = crate::rng::alone();
    for (recipe, averaged) in [(Recipe::LewelB, false), (Recipe::LewelBEman, true)] {
        let mut method = byol(&config(recipe));
        let find = |all: &[Named], name: &str| crate::model::find(all, name).expect("there").copy();
        let (weight, mean) = ("layer1.0.conv1.weight", "bn1.running_mean");
        method.step(&views().into(), step(0)).expect("a step");
        tch::no_grad(|| {
            let online = crate::model::find(&method.online.named(), "encoder_q.layer1.0.conv1.weight")
                .expect("there")
                .shallow_clone();
            let _ = online.shallow_clone().fill_(3.0);
        });
        let before = method.state();
        let [old_weight, old_mean] = [weight, mean].map(|n| find(&before, &format!("encoder_k.{n}")));
        let online_mean = find(&before, &format!("encoder_q.{mean}"));
        method.after_step(step(0)).expect("followed");
        let after = method.state();
        let m = method.settings.momentum_start;
        let new = find(&after, &format!("encoder_k.{weight}"));
        assert!(distance(&new, &(old_weight * m + 3.0 * (1.0 - m))) < 1e-6);
        let new = find(&after, &format!("encoder_k.{mean}"));
        let count = find(&after, "encoder_k.bn1.num_batches_tracked").int64_value(&[]);
        if averaged {
            assert!(distance(&new, &(&old_mean * m + online_mean * (1.0 - m))) < 1e-7);
            assert_eq!(
                (old_mean.abs().max().double_value(&[]), count),
                (0.0, 2),
                "it never saw a batch itself"
            );
        } else {
            assert!(old_mean.abs().max().double_value(&[]) > 0.0);
            assert_eq!((new, count), (old_mean, 2), "its own");
        }
    }
}

#[test]
fn the_momentum_of_the_target_rises_along_a_half_cosine() {
    let follow = config(Recipe::Byol).method.byol_mut().expect("BYOL").follow();
    // 1 - (1 - m) (cos(pi k / K) + 1) / 2
    for k in [0.0, 10.0, 500.0, 999.0] {
        let expected = 1.0 - 0.004 * ((std::f64::consts::PI * k / 1000.0).cos() + 1.0) / 2.0;
        assert!((follow.at(k) - expected).abs() < 1e-12);
    }
    assert_eq!(follow.at(1000.0), 1.0);
}

#[test]
fn sides_mask_what_they_say_and_masks_change_the_loss() {
    let _alone = crate::rng::alone();
    let run = |c: &Config| {
        let out = byol(c).step(&views().into(), step(0)).expect("a step");
        let preview = out.preview.expect("asked");
        let titles: Vec<_> = preview.columns.iter().skip(2).map(|c| c.0).collect();
        (titles, preview.foreground.len(), out.loss.double_value(&[]))
    };
    for recipe in [Recipe::ByolSmall, Recipe::LewelBEman] {
        let (titles, known, plain) = run(&config(recipe));
        assert_eq!((titles.as_slice(), known), (&[][..], 0));
        let (titles, known, query) = run(&masked(recipe, Masked::Query));
        assert_eq!((titles.as_slice(), known), (&["masked view"; 2][..], 2));
        assert!((query - plain).abs() > 1e-6, "{recipe:?}");
        let titles = run(&masked(recipe, Masked::Key)).0;
        assert_eq!(titles, ["masked target"; 2], "{recipe:?}");
        assert_eq!(run(&masked(recipe, Masked::Both)).0.len(), 4);
    }
}

/// A mixture that is all its own picture adds what that picture's own prediction has.
#[test]
fn mixtures_predict_both_pictures() {
    let _alone = crate::rng::alone();
    let mut c = config(Recipe::ByolSmall);
    c.mixing = Some(Config::usual_mixing(crate::config::Mix::Mixmask, None));
    let mut method = byol(&c);
    let [x, y] = views();
    let mut view = method.occluder.view(&y, step(0));
    let target = tch::no_grad(|| method.targets(&mut view, step(0), 1, &mut None));
    let mixed = method.mixtures(&x, step(0), 0, &mut None).expect("mixed").remove(0);
    let (_, p) = method.predict(&mixed.images);
    let of = |i: i64, j: i64| {
        let cosine = Tensor::cosine_similarity(&p.global.get(i), &target.global.get(j), 0, 1e-12);
        2.0 - 2.0 * cosine.double_value(&[])
    };
    let expected: f64 = (0..8)
        .map(|i| {
            let share = mixed.share.double_value(&[i]);
            (share * of(i, i) + (1.0 - share) * of(i, 7 - i)) / 8.0
        })
        .sum();
    let ours = method.mixed_loss(&mixed, &target).expect("a loss").double_value(&[]);
    assert!((ours - expected).abs() < 1e-5, "{ours} {expected}");
    let ones = Tensor::ones([8], (Kind::Float, Device::Cpu));
    let pure = Mixed { images: x.shallow_clone(), share: ones, ..mixed };
    let plain = method.loss(&method.predict(&x).1, &target).double_value(&[]);
    assert!((method.mixed_loss(&pure, &target).expect("a loss").double_value(&[]) - plain).abs() < 1e-5);
    let out = method.step(&[x, y].into(), step(0)).expect("a step");
    let shown = out.preview.expect("asked").columns.iter().filter(|c| c.0 == "mixture").count();
    assert_eq!(shown, 2, "one of each view");
}

/// Smaller views are predicted from, and nothing predicts them.
#[test]
fn further_views_predict_the_first_two() {
    let _alone = crate::rng::alone();
    let mut method = byol(&config(Recipe::LewelB));
    let [a, b] = views();
    let small = a.narrow(2, 0, 32).narrow(3, 0, 32).contiguous();
    let views = Views::new(vec![a, b, small.shallow_clone()], &[0, 1, 2, 3, 4, 5, 6, 7]).expect("three");
    let pair = tch::no_grad(|| views.pair().expect("two").map(|v| method.occluder.view(v, step(0))));
    let targets = tch::no_grad(|| {
        let mut pair = pair;
        [0, 1].map(|i| method.targets(&mut pair[i], step(0), i, &mut None))
    });
    let of = |x: &Tensor, t: usize| method.loss(&method.predict(x).1, &targets[t]).double_value(&[]);
    let [first, second] = views.pair().expect("two");
    let expected = (of(first, 1) + of(second, 0) + of(&small, 0) + of(&small, 1)) / 2.0;
    let ours = method.step(&views, step(0)).expect("a step").loss.double_value(&[]);
    assert!((ours - expected).abs() < 1e-5, "{ours} {expected}");
}

#[test]
fn state_survives_a_round_trip_and_wrong_state_is_refused() {
    let _alone = crate::rng::alone();
    for recipe in RECIPES {
        let config = config(recipe);
        let mut a = byol(&config);
        a.step(&views().into(), step(0)).expect("a step");
        a.after_step(step(0)).expect("followed");
        let mut b = byol(&Config { seed: 5, ..config });
        b.load_state(&a.state()).expect("loaded");
        for (x, y) in a.state().iter().zip(b.state()) {
            assert_eq!((&x.name, &x.tensor), (&y.name, &y.tensor));
        }
        let mut short = a.state();
        short.retain(|n| n.name != "predictor.0.weight");
        assert!(b.load_state(&short).expect_err("missing").to_string().contains("`predictor.0.weight`"));
    }
}
