//! Tests of the method's parts against their definitions. `tests/distilling.rs` holds the whole against PyTorch.

use super::*;
use crate::config::{PatchChoice, PatchPer, PatchScore, Recipe};
use crate::method::fixture::{distance, step};
use crate::tolerance;

const PICTURES: i64 = 6;

/// A network that a test can afford, whose teacher is not its student.
fn config(recipe: Recipe) -> Config {
    let mut c = Config::new(recipe);
    c.arch = "vit_32x2x2_patch8_64".into();
    (c.image_size, c.batch_size) = (64, PICTURES as usize);
    c.views[2].size = Some(32);
    c.views[2].count = 2;
    let d = c.method.dino_mut().expect("DINO");
    (d.head.dim, d.head.hidden, d.prototypes) = (16, Some(24), 20);
    (d.drop_path, d.frozen_epochs) = (0.0, 0.0);
    c
}

fn dino(config: &Config) -> Dino {
    config.validate().expect("valid");
    let method = Dino::new(config, false, Device::Cpu).expect("a method");
    tch::no_grad(|| {
        for named in method.teacher.branch().named().iter().filter(|n| n.tensor.kind() == Kind::Float) {
            let noise = Tensor::randn_like(&named.tensor) * 0.02;
            let _ = named.tensor.shallow_clone().g_add_(&noise);
        }
    });
    method
}

fn views() -> Views {
    tch::manual_seed(9);
    let view = |side| Tensor::randn([PICTURES, 3, side, side], (Kind::Float, Device::Cpu));
    Views::new(vec![view(64), view(64), view(32), view(32)]).expect("four")
}

/// Logits of one view, as a user of the parts would compute them.
fn logits(branch: &Branch, x: &Tensor) -> Tensor {
    let mode = Mode::Train { splits: 1 };
    let z = branch.head(&branch.encode(x, mode, &[]).embedding, mode);
    let unit = z.shallow_clone() / z.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt();
    unit.matmul(&branch.prototypes().expect("some").weights(true).transpose(0, 1))
}

#[test]
fn the_loss_is_that_of_all_pairs_and_the_centre_moves_behind_it() {
    let _alone = crate::rng::alone();
    let mut method = dino(&config(Recipe::Dino));
    let views = views();
    let all: Vec<Tensor> = views.pair().into_iter().chain(views.more()).map(Tensor::shallow_clone).collect();
    let said = [0, 1].map(|i| tch::no_grad(|| logits(method.teacher.branch(), &all[i])));
    tch::no_grad(|| drop(method.centers[0].shallow_clone().fill_(0.0).g_add_(&said[0].get(0).unsqueeze(0))));
    let center = method.centers[0].copy();
    let (mut sum, mut terms) = (Tensor::from(0.0), 0.0);
    for (t, v) in (0..2).flat_map(|t| (0..4).map(move |v| (t, v))).filter(|(t, v)| t != v) {
        let target = ((&said[t] - &center) / 0.04).softmax(1, Kind::Float);
        let own = (logits(&method.student, &all[v]) / 0.1).log_softmax(1, Kind::Float);
        sum += -(target * own).sum(Kind::Float) / PICTURES as f64;
        terms += 1.0;
    }
    let out = method.step(&views, step(0)).expect("a step");
    assert!(terms == 6.0 && distance(&out.loss, &(sum / terms)) < tolerance::SAME_MATH);
    let mean = Tensor::cat(&said, 0).mean_dim([0i64].as_slice(), true, Kind::Float);
    assert!(distance(&method.centers[0], &(center * 0.9 + mean * 0.1)) < 1e-5);
    let names: Vec<_> = out.metrics.iter().map(|m| m.0).collect();
    assert_eq!(names, ["class_loss", "target_entropy", "prototypes_used"]);
    assert!(out.health.expect("measured").contrast.is_some());
    assert_eq!(out.preview.expect("asked").columns.len(), 2);
}

#[test]
fn gradients_reach_what_is_learnt_and_frozen_prototypes_stay() {
    let _alone = crate::rng::alone();
    for recipe in [Recipe::Dino, Recipe::Ibot] {
        for normed in [false, true] {
            let mut c = config(recipe);
            let d = c.method.dino_mut().expect("DINO");
            (d.frozen_epochs, d.norm_last_layer) = (1.0, normed);
            let mut method = dino(&c);
            method.step(&views(), step(0)).expect("a step").loss.backward();
            let last = |n: &Named| n.name.starts_with("head_q.last_layer.");
            for named in method.trainable() {
                assert_eq!(named.tensor.grad().defined(), !last(&named), "{recipe:?}: {}", named.name);
            }
            method.step(&views(), Step { epoch: 1.0, ..step(1) }).expect("a step").loss.backward();
            assert!(method.trainable().iter().all(|n| n.tensor.grad().defined()));
            assert_eq!(method.trainable().iter().filter(|n| last(n)).count(), if normed { 1 } else { 2 });
            assert!(method.teacher.branch().named().iter().all(|n| !n.tensor.requires_grad()));
        }
    }
}

#[test]
fn the_teacher_follows_and_is_what_is_evaluated() {
    let _alone = crate::rng::alone();
    let mut method = dino(&config(Recipe::Ibot));
    let names = ["encoder_#.blocks.1.attn.qkv.weight", "head_#.mlp.4.bias", "head_#.last_layer.weight_v"];
    let find = |all: &[Named], name: &str, end: &str| {
        crate::model::find(all, &name.replace('#', end)).expect("there").copy()
    };
    let before: Vec<_> = names.iter().map(|n| ["q", "k"].map(|end| find(&method.state(), n, end))).collect();
    method.after_step(step(0)).expect("followed");
    for (name, [q, k]) in names.iter().zip(before) {
        let m = method.settings.momentum_start;
        let after = find(&method.state(), name, "k");
        assert!(distance(&after, &(&k * m + &q * (1.0 - m))) < 1e-6, "{name}");
        assert!(
            distance(&after, &k) > 1e-6 && distance(&find(&method.state(), name, "q"), &q) == 0.0,
            "{name}"
        );
    }
    assert_eq!(method.branch().prefix(), "encoder_k.");
    assert_eq!(method.branch().projector().prefix, "head_k.mlp.");
}

/// What is in a hidden patch makes no difference to the student, and does to the teacher.
#[test]
fn hidden_patches_are_not_seen() {
    let _alone = crate::rng::alone();
    let mut c = config(Recipe::Ibot);
    let p = c.method.dino_mut().and_then(|d| d.patches.as_mut()).expect("hidden");
    p.ratio = vec![[0.4, 0.4]];
    let method = dino(&c);
    let pair = Tensor::cat(&views().pair(), 0);
    let hidden = method.hide(&pair, &[], step(0)).expect("some");
    let mask = enlarge(&hidden.mask.to_kind(Kind::Float).view([-1, 1, 8, 8]), 64);
    assert_eq!(hidden.places.size()[0], hidden.mask.sum(Kind::Int64).int64_value(&[]));
    let other = &pair + mask * Tensor::randn_like(&pair);
    let learnt = |x: &Tensor| method.learn(x, &[], Some(&hidden));
    let (a, b) = (learnt(&pair), learnt(&other));
    assert!(distance(&a.class, &b.class) < 1e-6);
    let (a, b) = (a.patches.expect("hidden"), b.patches.expect("hidden"));
    assert!(a.size() == [hidden.places.size()[0], 16] && distance(&a, &b) < 1e-6);
    let taught = |x: &Tensor| tch::no_grad(|| method.teach(x));
    assert!(distance(&taught(&pair).class, &taught(&other).class) > 1e-4);
    // without a token in its place the student sees what the teacher would
    let none = method.learn(&pair, &[], None);
    assert!(none.patches.is_none() && distance(&none.class, &learnt(&pair).class) > 1e-5);
}

/// Which patches are hidden is what the teacher's attention says, for each large view by its own rule.
#[test]
fn attention_says_what_is_hidden() {
    let _alone = crate::rng::alone();
    for (choice, most) in [(PatchChoice::High, true), (PatchChoice::Low, false)] {
        let mut c = config(Recipe::IbotAttmask);
        let p = c.method.dino_mut().and_then(|d| d.patches.as_mut()).expect("hidden");
        (p.choice, p.ratio, p.share, p.per) = (choice, vec![[0.25, 0.25]], 1.0, PatchPer::Picture);
        (p.score, p.layer) = (vec![PatchScore::Raw], vec![1, 0]);
        let method = dino(&c);
        let pair = Tensor::cat(&views().pair(), 0);
        let graph = method.student.encoder().graph();
        let want = [1, 0].map(|i| graph.tap(&format!("attention{i}")).expect("a tap"));
        let seen = tch::no_grad(|| method.teacher.branch().encode(&pair, Mode::Eval, &want));
        let hidden = tch::no_grad(|| {
            let taught = method.teach(&pair);
            method.hide(&pair, &taught.patches.expect("seen").1, step(0)).expect("some")
        });
        for i in 0..2 * PICTURES {
            let map = &seen.taps[usize::from(i >= PICTURES)];
            let scores =
                map.get(i).select(1, 0).narrow(1, 1, 64).mean_dim([0i64].as_slice(), false, Kind::Float);
            let mask = hidden.mask.get(i);
            assert_eq!(mask.sum(Kind::Int64).int64_value(&[]), 16);
            let [inside, outside] = [&mask, &mask.logical_not()].map(|m| scores.masked_select(m));
            let (above, below) = if most { (inside, outside) } else { (outside, inside) };
            assert!(above.min().double_value(&[]) >= below.max().double_value(&[]), "{choice:?} {i}");
        }
    }
}

#[test]
fn pictures_show_what_the_student_sees() {
    let _alone = crate::rng::alone();
    let mut c = config(Recipe::IbotAttmask);
    c.method.dino_mut().and_then(|d| d.patches.as_mut()).expect("hidden").share = 1.0;
    let mut method = dino(&c);
    let out = method.step(&views(), step(0)).expect("a step");
    let titles: Vec<_> = out.preview.expect("asked").columns.iter().map(|c| c.0).collect();
    assert_eq!(titles, ["view 1", "view 2", "what the student sees", "what the student sees"]);
    let names: Vec<_> = out.metrics.iter().map(|m| m.0).collect();
    assert_eq!(names, ["class_loss", "patch_loss", "target_entropy", "prototypes_used"]);
    let of = |name: &str| out.metrics.iter().find(|m| m.0 == name).expect("there").1.double_value(&[]);
    assert!((of("class_loss") + of("patch_loss") - out.loss.double_value(&[])).abs() < 1e-5);
    assert!(of("patch_loss") > 0.0 && of("target_entropy") > 0.0);
    assert!((1.0..=20.0).contains(&of("prototypes_used")));
}

/// DINO on a ResNet has no patches and normalises batches.
#[test]
fn a_resnet_distils_as_well() {
    let _alone = crate::rng::alone();
    let mut c = config(Recipe::Dino);
    c.arch = "resnet18".into();
    let mut method = dino(&c);
    method.step(&views(), step(0)).expect("a step").loss.backward();
    assert!(method.trainable().iter().all(|n| n.tensor.grad().defined()));
    method.after_step(step(0)).expect("followed");
}

#[test]
fn state_survives_a_round_trip_and_wrong_state_is_refused() {
    let _alone = crate::rng::alone();
    for (recipe, names) in
        [(Recipe::Dino, &["center"][..]), (Recipe::Ibot, &["mask_token", "center", "center2"][..])]
    {
        let config = config(recipe);
        let mut a = dino(&config);
        a.step(&views(), step(0)).expect("a step");
        a.after_step(step(0)).expect("followed");
        let mut b = dino(&Config { seed: 5, ..config });
        b.load_state(&a.state()).expect("loaded");
        for (x, y) in a.state().iter().zip(b.state()) {
            assert_eq!((&x.name, &x.tensor), (&y.name, &y.tensor));
        }
        for name in names {
            assert!(crate::model::find(&a.state(), name).expect("there").numel() > 0);
            let mut short = a.state();
            short.retain(|n| n.name != *name);
            assert!(b.load_state(&short).expect_err("missing").to_string().contains(&format!("`{name}`")));
        }
        assert_eq!(a.state().iter().filter(|n| n.name.starts_with("center")).count(), names.len().max(2) - 1);
    }
}
