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
    Views::new(vec![view(64), view(64), view(32), view(32)], &[0, 1, 2, 3, 4, 5]).expect("four")
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
    let all: Vec<Tensor> =
        views.pair().expect("two").into_iter().chain(views.more()).map(Tensor::shallow_clone).collect();
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
    let pair = Tensor::cat(&views().pair().expect("two"), 0);
    let hidden = method.choose(&pair, None, step(0)).0.expect("some");
    let mask = enlarge(&hidden.mask.to_kind(Kind::Float).view([-1, 1, 8, 8]), 64);
    assert_eq!(hidden.places.size()[0], hidden.mask.sum(Kind::Int64).int64_value(&[]));
    let other = &pair + mask * Tensor::randn_like(&pair);
    let learnt = |x: &Tensor| method.learn(x, &[], Some(&hidden), None);
    let (a, b) = (learnt(&pair), learnt(&other));
    assert!(distance(&a.class, &b.class) < 1e-6);
    let (a, b) = (a.patches.expect("hidden"), b.patches.expect("hidden"));
    assert!(a.size() == [hidden.places.size()[0], 16] && distance(&a, &b) < 1e-6);
    let taught = |x: &Tensor| tch::no_grad(|| method.teach(x));
    assert!(distance(&taught(&pair).class, &taught(&other).class) > 1e-4);
    // without a token in its place the student sees what the teacher would
    let none = method.learn(&pair, &[], None, None);
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
        let pair = Tensor::cat(&views().pair().expect("two"), 0);
        let graph = method.student.encoder().graph();
        let want = [1, 0].map(|i| graph.tap(&format!("attention{i}")).expect("a tap"));
        let seen = tch::no_grad(|| method.teacher.branch().encode(&pair, Mode::Eval, &want));
        let hidden = tch::no_grad(|| {
            let taught = method.teach(&pair);
            method.choose(&pair, taught.scores.as_ref(), step(0)).0.expect("some")
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

/// A network whose attention says where patches are hidden, of `choice` by `score`, and what the teacher sees of both views.
fn guided(
    choice: PatchChoice,
    score: PatchScore,
    change: impl FnOnce(&mut config::Dino),
) -> (Dino, Tensor, Taught) {
    let mut c = config(Recipe::Ibot);
    let d = c.method.dino_mut().expect("DINO");
    let p = d.patches.as_mut().expect("hidden");
    (p.choice, p.score, p.ratio) = (choice, vec![score], vec![[0.3, 0.3]]);
    change(d);
    let method = dino(&c);
    let pair = Tensor::cat(&views().pair().expect("two"), 0);
    let taught = tch::no_grad(|| method.teach(&pair));
    (method, pair, taught)
}

/// The patches that are hidden are the very cells that the occluder of a ResNet's views chooses, given the same map.
#[test]
fn foreground_and_background_are_hidden_as_cells_are_masked() {
    let _alone = crate::rng::alone();
    let float = |x: &Tensor| x.to_kind(Kind::Float).view([2 * PICTURES, 1, 8, 8]);
    for score in [PatchScore::Raw, PatchScore::Log, PatchScore::RolloutAll, PatchScore::Object] {
        let (method, pair, taught) = guided(PatchChoice::Spread, score, |_| {});
        let map = taught.scores.as_ref().expect("looked at").view([2 * PICTURES, 8, 8]);
        let foreground = crate::mask::foreground(&map, 0.0);
        tch::manual_seed(3);
        let hidden = method.choose(&pair, taught.scores.as_ref(), step(0)).0.expect("some");
        tch::manual_seed(3);
        let ratio = Tensor::from_slice(&[0.3f32; 2 * PICTURES as usize]);
        let cells = crate::mask::cells(&foreground, &ratio, 1, crate::mask::Purpose::Positive, false);
        assert_eq!(float(&hidden.mask), cells, "{score:?}");
        assert_eq!(hidden.places.size()[0], 2 * PICTURES * 19, "round(0.3 * 64) of each view");
        let mut places = Tensor::zeros([2 * PICTURES * 64], (Kind::Bool, Device::Cpu));
        let places = places.index_fill_(0, &hidden.places, 1).view([2 * PICTURES, 64]);
        assert_eq!(places, hidden.mask);
        // of the foreground as large a share as of all
        let there = foreground.flatten(1, -1).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        let inside = (cells.squeeze_dim(1) * &foreground).flatten(1, -1);
        let inside = inside.sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        assert!(distance(&inside, &(there * 0.3)) <= 0.5 + 1e-6, "{score:?}");

        let mut all = Tensor::zeros([2], (Kind::Double, Device::Cpu));
        let (method, pair, taught) = guided(PatchChoice::Background, score, |_| {});
        for seed in 0..40 {
            tch::manual_seed(seed);
            let hidden = method.choose(&pair, taught.scores.as_ref(), step(0)).0.expect("some");
            tch::manual_seed(seed);
            let cells = crate::mask::independent(&foreground, [0.05, 0.5], 1, false);
            assert_eq!(float(&hidden.mask), cells, "{score:?}");
            let of = |part: &Tensor| {
                ((cells.squeeze_dim(1) * part).sum(Kind::Double) / part.sum(Kind::Double)).unsqueeze(0)
            };
            all += Tensor::cat(&[of(&foreground), of(&(1.0 - &foreground))], 0) / 40.0;
        }
        let [inside, outside] = [0, 1].map(|i| all.double_value(&[i]));
        assert!((inside - 0.05).abs() < 0.01 && (outside - 0.5).abs() < 0.02, "{inside} {outside}");
    }
}

/// Scores by the rule of maps are those of the maps of the teacher's patches.
#[test]
fn the_rule_of_maps_scores_patches() {
    let _alone = crate::rng::alone();
    let last = |d: &mut config::Dino| d.patches.as_mut().expect("hidden").layer = vec![1, 0];
    let (method, pair, taught) = guided(PatchChoice::High, PatchScore::Object, last);
    let encoder = method.teacher.branch().encoder();
    let maps: Vec<Tensor> = [("block1", 0), ("block0", PICTURES)]
        .into_iter()
        .map(|(name, first)| {
            let tap = encoder.graph().tap(name).expect("a tap");
            let seen = pair.narrow(0, first, PICTURES);
            let tokens = tch::no_grad(|| encoder.forward(&seen, Mode::Eval, &[tap]).tap());
            let features = tokens.narrow(1, 1, 64).transpose(1, 2).reshape([PICTURES, 32, 8, 8]);
            let pictures = crate::maps::Pictures { pixels: &seen, std: [0.229, 0.224, 0.225] };
            crate::maps::maps(crate::maps::MapRule::Object, &features, pictures)
        })
        .collect();
    let scores = taught.scores.expect("looked at").view([2 * PICTURES, 8, 8]);
    assert!(distance(&scores, &Tensor::cat(&maps, 0)) < tolerance::SAME_MATH);
}

/// Where each patch is hidden by itself the loss is that of the hidden ones, and views that hide nothing have none.
#[test]
fn patches_that_are_not_hidden_have_no_part_in_the_loss() {
    let _alone = crate::rng::alone();
    let (method, pair, taught) = guided(PatchChoice::Background, PatchScore::Raw, |d| {
        d.patches.as_mut().expect("hidden").share = 0.5;
    });
    let hidden = method.choose(&pair, taught.scores.as_ref(), step(1)).0.expect("some");
    let counts = hidden.mask.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
    let counts = Vec::<i64>::try_from(&counts).expect("numbers");
    assert!(counts.contains(&0) && counts.iter().any(|&n| n > 5), "{counts:?}");
    let mut each = vec![0.0f64; counts.len()];
    let places = Vec::<i64>::try_from(&hidden.places).expect("numbers");
    let weights = Vec::<f32>::try_from(&hidden.weights).expect("numbers");
    for (place, weight) in places.iter().zip(weights) {
        let (view, patch) = (place / 64, place % 64);
        let masked = hidden.mask.int64_value(&[view, patch]) == 1;
        let expected = if masked { 1.0 / counts[view as usize] as f32 } else { 0.0 };
        assert_eq!(weight, expected);
        each[view as usize] += f64::from(weight);
    }
    for (sum, count) in each.iter().zip(&counts) {
        assert!((sum - f64::from(u8::from(*count > 0))).abs() < 1e-5);
    }
}

/// The patches that are compared are the most and the least attended, and what is learnt from them reaches the student.
#[test]
fn the_most_attended_patches_are_compared() {
    let _alone = crate::rng::alone();
    let mut c = config(Recipe::IbotDense);
    let d = c.method.dino_mut().expect("DINO");
    (d.dense.as_mut().expect("compared").positives, d.dense.as_mut().expect("compared").negatives) = (4, 9);
    d.dense.as_mut().expect("compared").weight = 0.5;
    let mut method = dino(&c);
    let pair = Tensor::cat(&views().pair().expect("two"), 0);
    let taught = tch::no_grad(|| method.teach(&pair));
    let (_, compared) = method.choose(&pair, taught.scores.as_ref(), step(0));
    let (compared, scores) = (compared.expect("some"), taught.scores.expect("looked at"));
    for view in 0..2 * PICTURES {
        let mut order: Vec<i64> = (0..64).collect();
        order.sort_by(|&a, &b| scores.double_value(&[view, b]).total_cmp(&scores.double_value(&[view, a])));
        let of = |places: &Tensor, count: i64| {
            let places = places.narrow(0, view * count, count) - view * 64;
            Vec::<i64>::try_from(&places).expect("numbers")
        };
        assert_eq!(of(&compared.best, 4), order[..4]);
        assert_eq!(of(&compared.worst, 9), order[55..]);
    }
    let out = method.step(&views(), step(0)).expect("a step");
    let names: Vec<_> = out.metrics.iter().map(|m| m.0).collect();
    assert_eq!(names, ["class_loss", "patch_loss", "dense_loss", "target_entropy", "prototypes_used"]);
    let of = |name: &str| out.metrics.iter().find(|m| m.0 == name).expect("there").1.double_value(&[]);
    let total = of("class_loss") + of("patch_loss") + 0.5 * of("dense_loss");
    assert!((total - out.loss.double_value(&[])).abs() < 1e-5 && of("dense_loss") > 0.0);
    // where no other loss says anything of patches
    let d = c.method.dino_mut().expect("DINO");
    d.patches.as_mut().expect("hidden").weight = 0.0;
    let gradient = |weight: f64| {
        let mut c = c.clone();
        c.method.dino_mut().and_then(|d| d.dense.as_mut()).expect("compared").weight = weight;
        let mut method = dino(&c);
        method.step(&views(), step(0)).expect("a step").loss.backward();
        assert!(method.teacher.branch().named().iter().all(|n| !n.tensor.grad().defined()));
        let named = method.trainable();
        crate::model::find(&named, "encoder_q.blocks.1.attn.qkv.weight").expect("there").grad()
    };
    assert!(distance(&gradient(0.0), &gradient(1.0)) > 1e-5);
}
