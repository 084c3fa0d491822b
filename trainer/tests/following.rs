//! BYOL and LEWEL against an independent PyTorch implementation (`following.py`), on the same weights and pictures: the
//! loss in single precision; in double precision every gradient, and what ten steps leave of the network, of its moving
//! average, of all running statistics and of queues.

mod asked;

use asked::{answer, reference};
use occlude_train::config::{Config, Decay, Method as Settings, Recipe, Rule, TargetNorm};
use occlude_train::method::{self, Method, Step};
use occlude_train::model::Optimizer;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Relative to the largest number of the reference.
const FORWARD: f64 = 1e-5;
/// By length. In single precision rounding turns some rectifiers and maxima over, other ones on other processors, and each is
/// seen in every layer before it; in double precision none is. Losses are means in single precision, which every gradient
/// passes.
const GRADIENT: f64 = 1e-6;
/// A length that gradients that count exceed.
const NOTHING: f64 = 1e-2;
/// About the size of weights; shifts of normalisations begin at zero.
const WEIGHTS: f64 = 0.1;
const AFTER: f64 = 1e-6;
const STEPS: u64 = 10;
/// Small enough that what is left of rounding does not grow over the steps.
const LR: f64 = 1e-4;
const SIDE: i64 = 64;
const BATCH: i64 = 8;

fn config(recipe: Recipe) -> Config {
    let mut c = Config::new(recipe);
    c.arch = "resnet18".into();
    (c.image_size, c.batch_size, c.epochs) = (SIDE as usize, BATCH as usize, STEPS as usize);
    let o = &mut c.optimizer;
    (o.rule, o.lr, o.momentum, o.weight_decay, o.decay) = (Rule::Sgd, LR, 0.0, 0.0, Decay::All);
    o.warmup_epochs = 0.0;
    let head = c.method.head_mut();
    (head.dim, head.hidden) = (32, Some(64));
    if let Some(splits) = c.method.bn_splits_mut() {
        *splits = 1;
    }
    if let Some(b) = c.method.byol_mut() {
        (b.predictor, b.momentum_warmup_epochs) = (48, STEPS as f64);
    }
    if let Some(m) = c.method.moco_mut() {
        (m.queue, m.momentum, m.momentum_start) = (20, 0.9, 0.9);
    }
    c.validate().expect("valid");
    c
}

/// What the reference has to know.
fn question(c: &Config) -> Value {
    let align = c.method.align();
    let align = align.map(|a| json!({ "heads": a.heads, "scale": a.scale, "weight": a.weight }));
    let (head, rest) = match &c.method {
        Settings::Byol(b) => {
            let eman = b.target == TargetNorm::Eman;
            (&b.head, json!({ "predictor": b.predictor, "momentum": b.momentum_start, "eman": eman }))
        }
        Settings::Moco(m) => {
            (&m.head, json!({ "queue": m.queue, "momentum": m.momentum, "temperature": m.temperature }))
        }
        Settings::Simclr(_) | Settings::Dino(_) | Settings::Distill(_) => panic!("another test's"),
    };
    let mut all = json!({
        "align": align, "dim": head.dim, "hidden": head.hidden, "norm": head.bn, "steps": STEPS, "lr": LR
    });
    let (into, from) = (all.as_object_mut().expect("an object"), rest.as_object().expect("an object"));
    into.extend(from.clone());
    all
}

/// Largest difference as a share of the largest number, or of [`WEIGHTS`] where that is larger.
fn apart(ours: &Tensor, theirs: &Tensor) -> f64 {
    let (ours, theirs) = (ours.detach().reshape([-1]).to_kind(Kind::Double), theirs.to_kind(Kind::Double));
    assert_eq!(ours.size(), theirs.size());
    let scale = theirs.abs().max().double_value(&[]).max(WEIGHTS);
    (ours - theirs).abs().max().double_value(&[]) / scale
}

/// Length of the difference as a share of the length; gradients that are zero but for rounding, as those of biases before a
/// normalisation, are held against [`NOTHING`].
fn far(ours: &Tensor, theirs: &Tensor) -> f64 {
    let (ours, theirs) = (ours.detach().reshape([-1]).to_kind(Kind::Double), theirs.to_kind(Kind::Double));
    let length = |x: &Tensor| x.square().sum(Kind::Double).double_value(&[]).sqrt();
    length(&(ours - &theirs)) / length(&theirs).max(NOTHING)
}

/// Makes a method whose tensors are still those of its beginning compute in double precision.
fn double(method: &dyn Method) {
    for named in method.state().iter_mut().filter(|n| n.tensor.kind() == Kind::Float) {
        let wide = tch::no_grad(|| named.tensor.detach().to_kind(Kind::Double));
        named.tensor.set_data(&wide);
    }
}

fn compare(recipe: Recipe) {
    let config = config(recipe);
    let name = recipe.name();
    let build = || method::build(&config, None, false, Device::Cpu).expect("a method");
    let (mut method, mut wide) = (build(), build());
    tch::manual_seed(5);
    let picture = || Tensor::randn([BATCH, 3, SIDE, SIDE], (Kind::Float, Device::Cpu));
    let batches: Vec<[Tensor; 2]> = (0..STEPS).map(|_| [picture(), picture()]).collect();
    let folder = tempfile::tempdir().expect("a folder");
    for (from, to) in method.state().iter().zip(wide.state()) {
        assert_eq!(from.name, to.name);
        tch::no_grad(|| to.tensor.shallow_clone().copy_(&from.tensor));
    }
    double(wide.as_ref());
    let theirs = reference("following.py", folder.path(), &question(&config), &method.state(), &batches);
    let step = |number| Step { number, epoch: number as f64, preview: false, measure: false };
    let views = batches[0].each_ref().map(Tensor::shallow_clone);
    let loss = method.step(&views.into(), step(0)).expect("a step").loss;
    let mut worst = [apart(&loss, &answer(&theirs, "loss.0")), 0.0, 0.0];
    assert!(worst[0] < FORWARD, "{name}: loss {:.1e}", worst[0]);

    let mut optimizer = Optimizer::new(wide.trainable(), &config.optimizer);
    for (number, pair) in (0..STEPS).zip(batches) {
        let step = step(number);
        let views = pair.map(|x| x.to_kind(Kind::Double));
        let loss = wide.step(&views.into(), step).expect("a step").loss;
        optimizer.zero_grad();
        loss.backward();
        for named in wide.trainable().iter().filter(|_| number == 0) {
            let (ours, theirs) = (named.tensor.grad(), answer(&theirs, &format!("grad.{}", named.name)));
            assert_eq!(ours.kind(), Kind::Double, "{name}, `{}`", named.name);
            let error = far(&ours, &theirs);
            assert!(error < GRADIENT, "{name}, gradient of `{}`: {error:.1e}", named.name);
            worst[1] = worst[1].max(error);
        }
        optimizer.step(LR).expect("a step");
        wide.after_step(step).expect("followed");
    }
    let places = ["queue_ptr", "queue_filled"];
    for named in wide.state().iter().filter(|n| !places.contains(&n.name.as_str())) {
        let error = apart(&named.tensor, &answer(&theirs, &format!("after.{}", named.name)));
        assert!(error < AFTER, "{name}, `{}` after {STEPS} steps: {error:.1e}", named.name);
        worst[2] = worst[2].max(error);
    }
    println!(
        "{name}: loss {:.1e}, gradients {:.1e}, after {STEPS} steps {:.1e}",
        worst[0], worst[1], worst[2]
    );
}

#[test]
fn byol_equals_pytorchs() {
    compare(Recipe::Byol);
}

#[test]
fn lewel_b_equals_pytorchs() {
    compare(Recipe::LewelB);
}

#[test]
fn lewel_b_eman_equals_pytorchs() {
    compare(Recipe::LewelBEman);
}

#[test]
fn lewel_m_equals_pytorchs() {
    compare(Recipe::LewelM);
}
