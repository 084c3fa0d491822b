//! Tests of what a step asks of the device: no read that the host waits for, and few operators.

use occlude_saliency::MapRule;
use occlude_torch_ext::{Counts, Observer};

use super::profile::{Plan, Steps};
use super::training::Engine;
use super::*;
use crate::config::{
    Branch, Choice, Guidance, Mix, MixPer, PatchChoice, PatchScore, Pattern, Recipe, Rule, Strategy,
};

fn tiny(recipe: Recipe) -> Config {
    let mut c = Config::new(recipe);
    c.arch = "resnet18".into();
    (c.image_size, c.batch_size) = (32, 4);
    if let Some(splits) = c.method.bn_splits_mut() {
        *splits = 1;
    }
    c.views.iter_mut().for_each(|g| g.augment.solarize_p = 0.5);
    if let Some(m) = c.method.moco_mut() {
        m.queue = m.queue.min(24);
    }
    if let Some(b) = c.method.byol_mut() {
        (b.head.hidden, b.predictor) = (Some(64), 64);
    }
    if let Some(d) = c.method.dino_mut() {
        (d.head.hidden, d.prototypes) = (Some(64), 64);
        c.arch = "vit_64x2x2_patch8_32".into();
        c.views.iter_mut().skip(2).for_each(|g| (g.count, g.size) = (2, Some(32)));
    }
    if let Some(m) = &mut c.masking {
        m.stage = 4;
    }
    c
}

fn masked(strategy: Strategy, change: impl FnOnce(&mut Config)) -> Config {
    let mut c = tiny(Recipe::SaliencyMoco);
    let masking = c.masking.as_mut().expect("masked");
    (masking.strategy, masking.num_nonsem) = (strategy, 2);
    change(&mut c);
    c
}

fn mixed(mix: Mix, pattern: Pattern, per: MixPer) -> Config {
    let mut c = tiny(Recipe::UnmixMixmask);
    let mixing = c.mixing.as_mut().expect("mixed");
    (mixing.mix, mixing.mask.pattern, mixing.mask.per) = (mix, pattern, per);
    c
}

/// Every recipe, and every part of a method that a recipe does not have by itself.
fn all() -> Vec<(String, Config)> {
    let recipes = <Recipe as clap::ValueEnum>::value_variants();
    let mut all: Vec<_> = recipes.iter().map(|&r| (r.name().to_owned(), tiny(r))).collect();
    let mut add = |name: &str, config| all.push((name.to_owned(), config));
    for strategy in <Strategy as clap::ValueEnum>::value_variants() {
        add(&format!("{strategy:?} with hard negatives"), masked(*strategy, |_| {}));
    }
    let random = |c: &mut Config| c.masking.as_mut().expect("masked").guidance = Guidance::Random;
    add("random cells", masked(Strategy::Noise, random));
    for recipe in [Recipe::SaliencyMoco, Recipe::SaliencySimclr] {
        for (guidance, choice) in [
            (Guidance::Other, Choice::Spread),
            (Guidance::Saliency, Choice::Background),
            (Guidance::Random, Choice::Background),
        ] {
            let mut c = tiny(recipe);
            let m = c.masking.as_mut().expect("masked");
            (m.guidance, m.choice, m.share, m.strategy) = (guidance, choice, 0.5, Strategy::OtherPicture);
            (m.grid, m.course, m.prior_until) = (Some(8), Some([0.0, 0.0, 1.0]), 0.5);
            add(&format!("{recipe:?}, {guidance:?}, {choice:?}, a finer grid, a course and a prior"), c);
        }
    }
    let both = |c: &mut Config| {
        c.masking.as_mut().expect("masked").branch = Branch::Both;
        c.method.moco_mut().expect("MoCo").symmetric = true;
    };
    add("both views masked, symmetric", masked(Strategy::Hp, both));
    for (name, recipe) in
        [("BYOL", Recipe::Byol), ("LEWEL", Recipe::LewelBEman), ("LEWEL on MoCo", Recipe::LewelM)]
    {
        let mut c = tiny(recipe);
        c.masking = Some(c.usual_masking().expect("masks"));
        add(&format!("{name}, masked"), c);
    }
    for (recipe, rule, guidance) in [
        (Recipe::SaliencyMoco, MapRule::Attention, Guidance::Saliency),
        (Recipe::SaliencySimclr, MapRule::Object, Guidance::Other),
        (Recipe::Byol, MapRule::Border, Guidance::Saliency),
    ] {
        let mut c = Config { arch: "vit_64x2x2_patch8_32".into(), ..tiny(recipe) };
        let mut m = c.usual_masking().expect("masks");
        (m.rule, m.guidance, m.branch) = (rule, guidance, Branch::Both);
        c.masking = Some(m);
        add(&format!("{recipe:?} on a vision transformer, masked by {rule}"), c);
    }
    for arch in ["resnet18", "vit_64x2x2_patch8_32"] {
        let mut c = Config { arch: arch.into(), ..tiny(Recipe::Distill) };
        c.method.distill_mut().expect("distillation").cells = Some(crate::config::Cells::weighted(1.0));
        add(&format!("distillation of cells by {arch}"), c);
    }
    let mut c = tiny(Recipe::Byol);
    c.mixing = Some(Config::usual_mixing(Mix::Mixmask, None));
    let more = crate::config::ViewGroup { count: 2, size: Some(32), ..c.views[1].clone() };
    c.views.push(more);
    add("BYOL, mixed, of four views", c);
    for choice in <PatchChoice as clap::ValueEnum>::value_variants() {
        let mut c = tiny(Recipe::IbotAttmask);
        let patches = c.method.dino_mut().and_then(|d| d.patches.as_mut()).expect("hidden");
        (patches.choice, patches.share) = (*choice, 1.0);
        (patches.score, patches.layer) = (vec![PatchScore::RolloutAll, PatchScore::Log], vec![1, 0]);
        add(&format!("iBOT, {choice:?}"), c.clone());
        c.method.dino_mut().and_then(|d| d.patches.as_mut()).expect("hidden").score =
            vec![PatchScore::Object];
        add(&format!("iBOT, {choice:?} by the rule of maps"), c);
    }
    add("blocks of each picture", mixed(Mix::Mixmask, Pattern::Block, MixPer::Image));
    add("single cells", mixed(Mix::Both, Pattern::Discrete, MixPer::Batch));
    let mut c = tiny(Recipe::MocoV2);
    (c.accumulate, c.optimizer.clip) = (2, Some(1.0));
    *c.method.bn_splits_mut().expect("groups") = 2;
    add("split, accumulated and clipped", c.clone());
    for rule in [Rule::Lars, Rule::Adamw] {
        c.optimizer.rule = rule;
        add(&format!("{rule:?}, split, accumulated and clipped"), c.clone());
    }
    all
}

/// The device that tests are to run on.
fn device() -> Device {
    match std::env::var("OCCLUDE_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    }
}

fn plan() -> Plan {
    Plan {
        data: None,
        device: device(),
        bf16: false,
        workers: 1,
        cache_bytes: 0,
        as_on_cuda: true,
        warmup: 1,
        steps: 1,
    }
}

/// What `n` steps ask for after the first one, and the operators that read.
fn observe(config: &Config, n: usize) -> (Counts, Vec<String>) {
    config.validate().expect("valid");
    let run = profile::settings(&plan());
    let pictures = Pictures::Synthetic(100 * config.batch_size * config.accumulate);
    let targets = Targets::made_up(config, pictures.len());
    let method = method::build(config, targets.as_ref(), false, device()).expect("a method");
    let mut steps = Steps::new(Engine::new(config, &run, pictures, method), &plan());
    steps.one().expect("a step");
    let observer = Observer::start().expect("an observer");
    (0..n).for_each(|_| steps.one().expect("a step"));
    let reading = observer.by_name().into_iter().filter(|(_, c)| c.reads > 0).map(|(name, _)| name);
    (observer.counts(), reading.collect())
}

/// On a GPU every such read would stop the host until the device has done all that was asked of it.
#[test]
fn no_step_of_any_method_reads_from_the_device() {
    let _alone = crate::rng::alone();
    for (name, config) in all() {
        // Un-Mix blends or cuts by chance
        let steps = if config.mixing.is_some() { 3 } else { 1 };
        let (counts, reading) = observe(&config, steps);
        assert_eq!((counts.reads, &reading), (0, &Vec::new()), "{name}");
        assert!(counts.kernels > 100, "{name}: {counts:?}");
    }
}

/// The loop itself: twice as many steps between two metric lines read no more.
#[test]
fn a_run_reads_as_often_as_it_writes_metrics() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = tiny(Recipe::SaliencyMoco);
    (config.epochs, config.accumulate) = (1, 2);
    let reads = |pictures: u32| {
        let data = dir.path().join(pictures.to_string());
        std::fs::create_dir_all(&data).expect("a folder");
        for i in 0..pictures {
            let picture = image::RgbImage::from_fn(40, 36, |x, y| image::Rgb([x as u8, y as u8, i as u8]));
            picture.save(data.join(format!("{i:02}.png"))).expect("written");
        }
        let out = dir.path().join(format!("run{pictures}"));
        let run = Run { data, out, log_every: 1000, workers: 1, ..profile::settings(&plan()) };
        let observer = Observer::start().expect("an observer");
        assert_eq!(pretrain(&config, &run).expect("trained"), End::Finished);
        observer.counts().reads
    };
    let (few, many) = (reads(16), reads(32));
    assert!(few > 0, "the metric line and the checkpoint do read");
    assert_eq!(few, many);
}

/// From files and from nothing: every field that others read, and numbers that can be.
#[test]
fn a_profile_tells_where_the_time_goes() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    for i in 0..9u8 {
        let picture = image::RgbImage::from_fn(40, 36, |x, y| image::Rgb([x as u8, y as u8, i * 20]));
        picture.save(dir.path().join(format!("{i}.png"))).expect("written");
    }
    for data in [None, Some(dir.path().to_owned())] {
        let plan = Plan { data, steps: 2, as_on_cuda: false, ..plan() };
        let found = profile::profile(&tiny(Recipe::SaliencyMoco), &plan).expect("measured");
        let json = found.json();
        let number = |name: &str| json[name].as_f64().unwrap_or_else(|| panic!("no `{name}` in {json}"));
        for name in ["images_per_second", "operators_per_step", "kernels_per_step", "peak_memory_bytes"] {
            assert!(number(name) > 0.0, "{name}");
        }
        assert_eq!(number("host_reads_per_step"), 0.0);
        assert!((0.0..1.0).contains(&number("wait_share")));
        let phases = json["phases"].as_array().expect("a list");
        let sum: f64 = phases.iter().map(|p| p["milliseconds"].as_f64().expect("a number")).sum();
        let step = number("milliseconds_per_step");
        assert!((sum / step - 1.0).abs() < 0.05, "{sum} ms of {step}");
        for name in ["localise", "mask", "key forward", "query forward", "loss", "backward", "ema", "queue"] {
            let phase = phases.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no {name}"));
            assert!(phase["kernels"].as_f64().expect("a number") > 0.0, "{name}");
        }
        let table = found.table(3);
        assert!(table.contains("query forward") && table.contains("aten::"), "{table}");
    }
    let few = Plan { data: Some(dir.path().to_owned()), ..plan() };
    let config = Config { batch_size: 10, ..tiny(Recipe::MocoV2) };
    let error = profile::profile(&config, &few).expect_err("too few").to_string();
    assert!(error.contains("9 pictures") && error.contains("--batch-size"), "{error}");
}
