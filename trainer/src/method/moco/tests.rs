//! Tests of the method's parts against their definitions.

use super::*;
use crate::config::{Branch as Masked, Recipe, Strategy};
use crate::method::fixture::{self, distance, step, views};
use crate::tolerance;
use tch::IndexOp;

fn config(recipe: Recipe) -> Config {
    let mut c = fixture::config(recipe);
    (settings(&mut c).queue, settings(&mut c).bn_splits) = (20, 2);
    c
}

fn settings(c: &mut Config) -> &mut config::Moco {
    c.method.moco_mut().expect("MoCo")
}

fn project(branch: &Branch, x: &Tensor, mode: Mode) -> Tensor {
    normalize(&branch.head(&branch.encode(x, mode, &[]).embedding, mode))
}

/// Without masks the loss is InfoNCE of the two encoders' outputs, whatever the key order was.
#[test]
fn the_loss_is_that_of_the_definition_and_shuffling_is_undone() {
    let _alone = crate::rng::alone();
    let mut config = config(Recipe::MocoV2);
    settings(&mut config).bn_splits = 1;
    let mut moco = Moco::new(&config, false, Device::Cpu).expect("a method");
    let [a, b] = views();
    let mode = Mode::Peek { splits: 1 };
    let of_query = |x: &Tensor| project(&moco.query, x, mode);
    let queue = moco.queues.get()[0].as_ref().expect("random").copy();
    let expected =
        logits(&of_query(&a), &of_query(&b), &Negatives { queue: Some(&queue), ..Negatives::default() }, 0.2)
            .loss();
    let out = moco.step(&[a.shallow_clone(), b.shallow_clone()].into(), step(0)).expect("a step");
    assert!(distance(&out.loss, &expected) < tolerance::SAME_MATH);

    settings(&mut config).bn_splits = 4;
    let moco = Moco::new(&config, false, Device::Cpu).expect("a method");
    let mut view = moco.occluder.view(&b, step(1));
    let known = moco.encode_key(&mut view, step(1), 1, &mut None).expect("keys").global;
    let order = permutation(8, &mut moco.rng(Domain::Shuffle, step(1), 1));
    let shuffled = b.index_select(0, &Tensor::from_slice(&order));
    let mode = Mode::Peek { splits: 4 };
    let key = project(moco.key.branch(), &shuffled, mode);
    for (at, &from) in (0i64..).zip(&order) {
        assert!(distance(&known.i(from), &key.i(at)) < tolerance::SAME_MATH);
    }
}

#[test]
fn every_query_gets_its_own_hard_negatives() {
    let _alone = crate::rng::alone();
    let mut config = config(Recipe::SaliencyMoco);
    let masking = config.masking.as_mut().expect("masked");
    (masking.strategy, masking.num_nonsem, masking.stage) = (Strategy::Mean, 2, 4);
    let moco = Moco::new(&config, false, Device::Cpu).expect("a method");
    let mut view = moco.occluder.view(&views()[1], step(0));
    let hard = tch::no_grad(|| moco.hard_negatives(&mut view, step(0), 1, &mut None))
        .expect("encoded")
        .expect("some");
    assert_eq!(hard.size(), [8, 2, 128]);
    assert!((0..7).all(|i| distance(&hard.i(i), &hard.i(i + 1)) > 1e-4));
}

/// Hard negatives are normalised in groups of other pictures than their queries, each in an order of its own, and come back
/// in the order of the batch.
#[test]
fn hard_negatives_are_shuffled_across_groups_as_keys_are() {
    let _alone = crate::rng::alone();
    let mut config = config(Recipe::SaliencyMoco);
    settings(&mut config).bn_splits = 4;
    let masking = config.masking.as_mut().expect("masked");
    // no cell is masked, so that no draw decides what a negative looks like
    (masking.strategy, masking.num_nonsem, masking.stage) = (Strategy::Mean, 2, 4);
    (masking.guidance, masking.negative_ratio) = (crate::config::Guidance::Random, [0.0, 0.0]);
    let moco = Moco::new(&config, false, Device::Cpu).expect("a method");
    let mut view = moco.occluder.view(&views()[1], step(0));
    let ours = tch::no_grad(|| moco.hard_negatives(&mut view, step(3), 1, &mut None))
        .expect("encoded")
        .expect("some");
    let encode = |x: &Tensor| project(moco.key.branch(), x, Mode::Peek { splits: 4 });
    let mut orders = vec![permutation(8, &mut moco.rng(Domain::Shuffle, step(3), 1))];
    for i in 0..2i64 {
        let order = permutation(8, &mut moco.rng(Domain::Shuffle, step(3), 2 * (i as usize + 1) + 1));
        let theirs = encode(&view.input.index_select(0, &Tensor::from_slice(&order)));
        for (at, &from) in (0i64..).zip(&order) {
            assert!(distance(&ours.i((from, i)), &theirs.i(at)) < tolerance::SAME_MATH);
        }
        let unshuffled = encode(&view.input);
        assert!(distance(&ours.select(1, i), &unshuffled) > 1e-3, "the groups were those of the queries");
        orders.push(order);
    }
    assert!(orders.iter().enumerate().all(|(i, o)| orders[..i].iter().all(|other| other != o)), "{orders:?}");
}

#[test]
fn branches_mask_what_they_say() {
    let _alone = crate::rng::alone();
    let titles = |branch, nonsem, symmetric| {
        let mut config = config(Recipe::SaliencyMoco);
        settings(&mut config).symmetric = symmetric;
        let masking = config.masking.as_mut().expect("masked");
        (masking.branch, masking.num_nonsem) = (branch, nonsem);
        let out = Moco::new(&config, false, Device::Cpu)
            .and_then(|mut m| m.step(&views().into(), step(0)))
            .expect("a step");
        let mut titles: Vec<_> =
            out.preview.expect("asked").columns.into_iter().skip(2).map(|c| c.0).collect();
        titles.sort_unstable();
        titles
    };
    assert_eq!(titles(Masked::Query, 0, false), ["masked query"]);
    assert_eq!(titles(Masked::Key, 1, false), ["hard negative", "masked key"]);
    assert_eq!(titles(Masked::Both, 0, true), ["masked key", "masked key", "masked query", "masked query"]);
    assert_eq!(titles(Masked::None, 2, false), ["hard negative", "hard negative"]);
}

/// The loss of a mixture is that of its definition, and a mixture that is all its own picture adds the plain loss.
#[test]
fn mixtures_belong_to_both_pictures() {
    let _alone = crate::rng::alone();
    let mut config = config(Recipe::Mixmask);
    settings(&mut config).bn_splits = 1;
    let moco = Moco::new(&config, false, Device::Cpu).expect("a method");
    let [x, y] = views();
    let key = project(moco.key.branch(), &y, Mode::Peek { splits: 1 });
    let queue = moco.queues.get()[0].as_ref().expect("random").copy();
    let negatives = Negatives { queue: Some(&queue), ..Negatives::default() };
    let mixed = moco.mixtures(&x, step(0), 0, &mut None).expect("mixed").remove(0);
    let ours = moco.mixed_loss(&mixed, &key, &negatives).expect("a loss").double_value(&[]);
    let q = moco.encode_query(&mixed.images).expect("encoded").1.global;
    let mut expected = 0.0;
    for i in 0..8 {
        let loss = |j: i64| {
            let logit = |k: &Tensor| (q.i(i) * k).sum(Kind::Double).double_value(&[]) / 0.2;
            let positive = logit(&key.i(j));
            let others: f64 = (0..20).map(|n| logit(&queue.i((.., n))).exp()).sum();
            (positive.exp() + others).ln() - positive
        };
        let share = mixed.share.double_value(&[i]);
        expected += (share * loss(i) + (1.0 - share) * loss(7 - i)) / 8.0;
    }
    assert!((ours - expected).abs() < 1e-4, "{ours} {expected}");
    let pure =
        Mixed { images: x.shallow_clone(), share: Tensor::ones([8], (Kind::Float, Device::Cpu)), ..mixed };
    let q = moco.encode_query(&x).expect("encoded").1.global;
    let plain = logits(&q, &key, &negatives, 0.2).loss().double_value(&[]);
    assert!(
        (moco.mixed_loss(&pure, &key, &negatives).expect("a loss").double_value(&[]) - plain).abs() < 1e-5
    );
}

#[test]
fn every_mixture_adds_its_term_to_the_loss_and_its_picture_to_the_first_batch() {
    let _alone = crate::rng::alone();
    let run = |recipe| {
        let mut moco = Moco::new(&config(recipe), false, Device::Cpu).expect("a method");
        let out = moco.step(&views().into(), step(0)).expect("a step");
        out.loss.backward();
        assert!(moco.trainable().iter().all(|n| n.tensor.grad().defined()));
        let shown = out.preview.expect("asked").columns.iter().filter(|c| c.0 == "mixture").count();
        (shown, out.loss.double_value(&[]))
    };
    let (none, plain) = run(Recipe::MocoV2);
    assert_eq!(none, 0);
    for (recipe, count) in [(Recipe::Mixmask, 1), (Recipe::Unmix, 1), (Recipe::UnmixMixmask, 2)] {
        let (shown, loss) = run(recipe);
        assert_eq!(shown, count, "{recipe:?}");
        assert!(loss > plain, "{recipe:?}: {loss} beside {plain}");
    }
}

#[test]
fn gradients_reach_the_query_only_and_the_key_follows() {
    let _alone = crate::rng::alone();
    let config = config(Recipe::SaliencyMoco);
    let mut moco = Moco::new(&config, false, Device::Cpu).expect("a method");
    moco.step(&views().into(), step(0)).expect("a step").loss.backward();
    for named in moco.trainable() {
        assert!(named.tensor.grad().defined(), "{}", named.name);
    }
    assert!(moco.key.branch().named().iter().all(|n| !n.tensor.requires_grad()));
    let key = || moco.key.branch().named().remove(0).tensor;
    let before = key().copy();
    tch::no_grad(|| {
        let _ = moco.query.named().remove(0).tensor.fill_(3.0);
    });
    let expected = &before * 0.999 + 3.0 * 0.001;
    let follower = key();
    moco.after_step(step(0)).expect("averaged");
    assert!(distance(&follower, &expected) < 1e-6);
}

#[test]
fn momentum_warms_up_along_a_half_cosine() {
    let _alone = crate::rng::alone();
    let mut config = config(Recipe::MocoV2);
    let m = settings(&mut config);
    (m.momentum_start, m.momentum, m.momentum_warmup_epochs) = (0.9, 0.99, 4.0);
    let follow = m.follow();
    for (epoch, m) in [(0.0, 0.9), (2.0, 0.945), (4.0, 0.99), (9.0, 0.99)] {
        assert!((follow.at(epoch) - m).abs() < 1e-9);
    }
}

#[test]
fn state_survives_a_round_trip_and_wrong_state_is_refused() {
    let _alone = crate::rng::alone();
    let config = config(Recipe::SaliencyMoco);
    let mut a = Moco::new(&config, false, Device::Cpu).expect("a method");
    a.step(&views().into(), step(0)).expect("a step");
    let mut b = Moco::new(&Config { seed: 5, ..config }, false, Device::Cpu).expect("a method");
    b.load_state(&a.state()).expect("loaded");
    for (x, y) in a.state().iter().zip(b.state()) {
        assert_eq!((&x.name, &x.tensor), (&y.name, &y.tensor));
    }
    let mut short = a.state();
    short.retain(|n| n.name != "queue");
    assert!(b.load_state(&short).expect_err("missing").to_string().contains("`queue`"));
    let mut long = a.state();
    long.push(Named::new("extra", &Tensor::from(1i64)));
    assert!(b.load_state(&long).expect_err("left over").to_string().contains("`extra`"));
}
