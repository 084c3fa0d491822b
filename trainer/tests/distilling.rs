//! DINO, iBOT, AttMask and a dense contrastive loss against an independent PyTorch implementation (`distilling.py`), on the same weights, pictures and draws:
//! the loss, every gradient, and what some epochs leave of student, teacher, mask token and centres, with every schedule.

mod asked;

use asked::{answer, reference};
use occlude_train::config::{Config, Decay, PatchChoice, PatchPer, PatchScore, Patches, Recipe, Rule};
use occlude_train::engine::Schedule;
use occlude_train::mask::patches;
use occlude_train::method::{self, Step, Views};
use occlude_train::model::{Named, Optimizer};
use occlude_train::rng::{Domain, stream};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Relative to the largest number of the reference, which computes in double precision.
const LOSS: f64 = 1e-5;
/// By length, relative to the length.
const GRADIENT: f64 = 1e-4;
/// A length that gradients that count exceed.
const NOTHING: f64 = 1e-3;
/// About the size of weights; biases begin at zero.
const WEIGHTS: f64 = 0.1;
const AFTER: f64 = 1e-4;
const EPOCHS: usize = 4;
const PER_EPOCH: u64 = 2;
const BATCH: i64 = 4;
const SIDES: [i64; 5] = [64, 64, 32, 32, 48];

fn config(recipe: Recipe, change: impl FnOnce(&mut Config)) -> Config {
    let mut c = Config::new(recipe);
    c.arch = "vit_48x3x3_patch8_64".into();
    (c.image_size, c.batch_size, c.epochs) = (64, BATCH as usize, EPOCHS);
    let mut other = c.views[2].clone();
    (c.views[2].count, c.views[2].size) = (2, Some(32));
    (other.count, other.size) = (1, Some(48));
    c.views.push(other);
    let o = &mut c.optimizer;
    (o.rule, o.lr, o.lr_end, o.momentum, o.decay) = (Rule::Sgd, 0.02, 0.001, 0.0, Decay::Weights);
    (o.weight_decay, o.weight_decay_end, o.warmup_epochs, o.clip) = (0.04, Some(0.4), 0.0, Some(0.05));
    let d = c.method.dino_mut().expect("DINO");
    (d.head.dim, d.head.hidden, d.prototypes) = (24, Some(40), 48);
    (d.drop_path, d.teacher_warmup_epochs, d.momentum_warmup_epochs) = (0.0, 3, EPOCHS as f64);
    d.momentum_start = 0.9;
    change(&mut c);
    c.validate().expect("valid");
    c
}

fn hides(c: &mut Config, change: impl FnOnce(&mut Patches)) {
    change(c.method.dino_mut().and_then(|d| d.patches.as_mut()).expect("hidden"));
}

/// What was drawn for a step: of each large view of each picture the hidden places or ranks.
fn drawn(c: &Config, p: &Patches, number: u64) -> Vec<Vec<usize>> {
    patches::draw(p, [8, 8], BATCH as usize, &mut stream(c.seed, Domain::Mask, number, 0)).places
}

/// What the reference has to know.
fn question(c: &mut Config) -> Value {
    let d = c.method.dino_mut().expect("DINO").clone();
    let score = |s: &PatchScore| serde_json::to_value(s).expect("a name");
    let patches = d.patches.as_ref().map(|p| {
        let drawn: Vec<_> = (0..EPOCHS as u64 * PER_EPOCH).map(|number| drawn(c, p, number)).collect();
        json!({
            "choice": serde_json::to_value(p.choice).expect("a name"), "layer": p.layer, "power": p.power,
            "score": p.score.iter().map(score).collect::<Vec<_>>(), "weight": p.weight, "drawn": drawn,
        })
    });
    let o = &c.optimizer;
    json!({
        "heads": 3, "depth": 3, "patch": 8, "grid": 8, "epochs": EPOCHS, "per_epoch": PER_EPOCH, "views": SIDES.len(),
        "temperature": d.temperature, "teacher_temperature": d.teacher_temperature, "warmup": d.teacher_warmup_epochs,
        "center_momentum": d.center_momentum, "momentum": d.momentum_start, "frozen": d.frozen_epochs,
        "fixed": d.norm_last_layer, "lr": [o.lr, o.lr_end], "decay": [o.weight_decay, o.weight_decay_end], "clip": o.clip,
        "patches": patches, "dense": serde_json::to_value(&d.dense).expect("JSON"),
    })
}

fn flat(x: &Tensor) -> Tensor {
    x.detach().reshape([-1]).to_kind(Kind::Double)
}

/// Largest difference as a share of the largest number, or of [`WEIGHTS`] where that is larger.
fn apart(ours: &Tensor, theirs: &Tensor) -> f64 {
    let (ours, theirs) = (flat(ours), flat(theirs));
    assert_eq!(ours.size(), theirs.size());
    (ours - &theirs).abs().max().double_value(&[]) / theirs.abs().max().double_value(&[]).max(WEIGHTS)
}

/// Length of the difference as a share of the length, or of [`NOTHING`] where that is larger.
fn far(ours: &Tensor, theirs: &Tensor) -> f64 {
    let (ours, theirs) = (flat(ours), flat(theirs));
    let length = |x: &Tensor| x.square().sum(Kind::Double).double_value(&[]).sqrt();
    length(&(ours - &theirs)) / length(&theirs).max(NOTHING)
}

/// Weights that are far from their start, of a student and of a teacher that differs from it.
fn shaken(state: &[Named]) {
    tch::manual_seed(5);
    tch::no_grad(|| {
        for named in state.iter().filter(|n| !n.name.ends_with("weight_g")) {
            let noise = Tensor::randn_like(&named.tensor) * 0.1;
            let _ = named.tensor.shallow_clone().g_add_(&noise);
        }
    });
}

fn compare(name: &str, mut config: Config) {
    let mut method = method::build(&config, None, false, Device::Cpu).expect("a method");
    shaken(&method.state());
    let steps = EPOCHS as u64 * PER_EPOCH;
    let picture = |side| Tensor::randn([BATCH, 3, side, side], (Kind::Float, Device::Cpu));
    let batches: Vec<Vec<Tensor>> = (0..steps).map(|_| SIDES.map(picture).into()).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let theirs = reference("distilling.py", folder.path(), &question(&mut config), &method.state(), &batches);
    let mut optimizer = Optimizer::new(method.trainable(), &config.optimizer);
    let schedule = Schedule::new(&config.optimizer, PER_EPOCH as usize, EPOCHS);
    let pictures: Vec<usize> = (0..BATCH as usize).collect();
    let mut worst = [0.0f64; 3];
    for (number, views) in (0..steps).zip(batches) {
        let epoch = schedule.epoch(number);
        let step = Step { number, epoch, preview: false, measure: false };
        let loss = method.step(&Views::new(views, &pictures).expect("views"), step).expect("a step").loss;
        optimizer.zero_grad();
        loss.backward();
        let error = apart(&loss, &answer(&theirs, &format!("loss.{number}")));
        assert!(error < LOSS, "{name}: loss of step {number} {error:.1e}");
        worst[0] = worst[0].max(error);
        // one epoch with prototypes that stay, and one without
        if number == 0 || number == PER_EPOCH {
            for named in method.trainable().iter().filter(|n| n.tensor.grad().defined()) {
                let expected = answer(&theirs, &format!("grad.{number}.{}", named.name));
                let error = far(&named.tensor.grad(), &expected);
                assert!(error < GRADIENT, "{name}, gradient of `{}`: {error:.1e}", named.name);
                worst[1] = worst[1].max(error);
            }
            let last = method.trainable().into_iter().filter(|n| n.name.contains("last_layer"));
            assert!(last.into_iter().all(|n| n.tensor.grad().defined() == (number > 0)), "{name}");
        }
        optimizer.step_with(schedule.lr(number), schedule.weight_decay(number)).expect("a step");
        method.after_step(step).expect("followed");
    }
    for named in method.state() {
        let error = apart(&named.tensor, &answer(&theirs, &format!("after.{}", named.name)));
        assert!(error < AFTER, "{name}, `{}` after {steps} steps: {error:.1e}", named.name);
        worst[2] = worst[2].max(error);
    }
    println!(
        "{name}: loss {:.1e}, gradients {:.1e}, after {steps} steps {:.1e}",
        worst[0], worst[1], worst[2]
    );
}

#[test]
fn dino_equals_pytorchs() {
    compare("dino", config(Recipe::Dino, |_| {}));
    let fixed = |c: &mut Config| c.method.dino_mut().expect("DINO").norm_last_layer = true;
    compare("dino, prototypes of length one", config(Recipe::Dino, fixed));
}

#[test]
fn ibot_equals_pytorchs() {
    compare("ibot", config(Recipe::Ibot, |_| {}));
    let random = |c: &mut Config| {
        hides(c, |p| {
            (p.choice, p.weight, p.ratio) = (PatchChoice::Random, 0.5, vec![[0.0, 0.0], [0.3, 0.6]]);
        });
    };
    compare("ibot, random patches", config(Recipe::Ibot, random));
}

#[test]
fn attention_guided_masks_equal_pytorchs() {
    let hint = |c: &mut Config| hides(c, |p| (p.share, p.ratio) = (1.0, vec![[0.3, 0.5]]));
    compare("attmask", config(Recipe::IbotAttmask, hint));
    for (choice, scores, layers) in [
        (PatchChoice::High, vec![PatchScore::Log, PatchScore::Pow], vec![2, 1]),
        (PatchChoice::Low, vec![PatchScore::Raw, PatchScore::RolloutAll], vec![0]),
        (PatchChoice::High, vec![PatchScore::RolloutLast, PatchScore::RolloutMid], vec![]),
    ] {
        let guided = |c: &mut Config| {
            hides(c, |p| {
                (p.choice, p.share, p.per) = (choice, 0.7, PatchPer::Picture);
                (p.score, p.layer) = (scores.clone(), layers.clone());
            });
        };
        compare(&format!("{choice:?}, {scores:?}"), config(Recipe::IbotAttmask, guided));
    }
}

/// Its patches are ranked by any score, and compared whether or not some of them are hidden.
#[test]
fn compared_patches_equal_pytorchs() {
    compare("ibot-dense", config(Recipe::IbotDense, |_| {}));
    for (score, layer, ratio) in [(PatchScore::RolloutAll, vec![], 0.4), (PatchScore::Log, vec![2, 1], 0.0)] {
        let other = |c: &mut Config| {
            hides(c, |p| {
                (p.choice, p.score, p.layer, p.ratio) =
                    (PatchChoice::Random, vec![score], layer.clone(), vec![[ratio, ratio]]);
            });
            let d = c.method.dino_mut().and_then(|d| d.dense.as_mut()).expect("compared");
            (d.weight, d.temperature, d.positives, d.negatives) = (0.7, 0.1, 5, 11);
        };
        compare(&format!("ibot-dense, {score:?}"), config(Recipe::IbotDense, other));
    }
}
