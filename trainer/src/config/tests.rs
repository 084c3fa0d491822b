use super::*;
use occlude_saliency::MapRule;

#[test]
fn recipes_are_valid_and_survive_json() {
    for &recipe in <Recipe as clap::ValueEnum>::value_variants() {
        let config = Config::new(recipe);
        config.validate().expect("a recipe is valid");
        let json = serde_json::to_string(&config).expect("serialisable");
        assert_eq!(serde_json::from_str::<Config>(&json).expect("readable"), config);
    }
}

fn refused(change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::new(Recipe::SaliencyMoco);
    change(&mut config);
    config.validate().expect_err("refused").0
}

fn moco(c: &mut Config) -> &mut Moco {
    c.method.moco_mut().expect("MoCo")
}

fn steps(c: &mut Config, at: &[f64]) {
    (c.optimizer.schedule, c.optimizer.milestones) = (Shape::Step, at.to_vec());
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let cases: Vec<(String, &str)> = vec![
        (refused(|c| c.arch = "vgg".into()), "`vgg`"),
        (refused(|c| c.image_size = 8), "--image-size"),
        (refused(|c| c.epochs = 0), "--epochs"),
        (refused(|c| c.batch_size = 1), "--batch-size"),
        (refused(|c| c.optimizer.lr = 0.0), "--lr"),
        (refused(|c| c.optimizer.lr = f64::NAN), "--lr"),
        (refused(|c| c.optimizer.weight_decay = -1.0), "--weight-decay"),
        (refused(|c| c.optimizer.warmup_epochs = 200.0), "--warmup-epochs"),
        (refused(|c| c.optimizer.warmup_epochs = -1.0), "--warmup-epochs"),
        (refused(|c| c.optimizer.clip = Some(0.0)), "--clip"),
        (refused(|c| c.optimizer.gamma = 0.0), "--gamma"),
        (refused(|c| c.optimizer.schedule = Shape::Step), "--milestones"),
        (refused(|c| c.optimizer.milestones = vec![5.0]), "--schedule step"),
        (refused(|c| steps(c, &[5.0, 5.0])), "rising"),
        (refused(|c| steps(c, &[5.0, 200.0])), "between 0 and 200"),
        (refused(|c| c.accumulate = 0), "--accumulate"),
        (refused(|c| *c.method.temperature_mut().expect("one") = -0.1), "--temperature"),
        (refused(|c| moco(c).momentum = 1.5), "--momentum"),
        (refused(|c| c.method.head_mut().dim = 1), "--dim"),
        (refused(|c| *c.method.bn_splits_mut().expect("groups") = 7), "--bn-splits"),
        (refused(|c| *c.method.bn_splits_mut().expect("groups") = 128), "--bn-splits"),
        (refused(|c| (moco(c).queue, c.masking) = (0, None)), "--queue 0"),
        (refused(|c| c.views[0].augment.crop_min = 0.0), "--crop-min"),
        (refused(|c| c.views[0].augment.blur_p = 2.0), "blur_p"),
        (refused(|c| c.views[0].augment.blur_sigma = [0.0, 1.0]), "sigma"),
        (refused(|c| c.views[0].augment.crop_foreground = -0.1), "--crop-foreground"),
    ];
    for (message, part) in cases {
        assert!(message.contains(part), "{message}");
    }
    let masks = |change: fn(&mut Masking)| refused(|c| c.masking.as_mut().map_or((), change));
    for (message, part) in [
        (masks(|m| m.stage = 2), "--saliency-stage"),
        (masks(|m| m.ratio = [0.5, 0.2]), "--mask-ratio"),
        (masks(|m| m.alpha = 0.0), "--alpha"),
        (masks(|m| m.rule = MapRule::Attention), "--saliency-rule attention"),
        (masks(|m| (m.branch, m.num_nonsem) = (Branch::None, 0)), "--branch none"),
        (masks(|m| m.cell_probability = [0.0, 1.1]), "--cell-probability"),
        (masks(|m| m.cell_probability = [0.0, 0.0]), "--cell-probability"),
        (masks(|m| m.share = 0.0), "--mask-share"),
        (masks(|m| m.grid = Some(6)), "--mask-grid 6`: expected 7"),
        (masks(|m| m.grid = Some(225)), "to 224"),
        (masks(|m| m.course = Some([0.2, 0.1, 0.9])), "--mask-course"),
        (masks(|m| m.course = Some([0.5, 0.5, 0.5])), "--mask-course"),
        (masks(|m| m.course = Some([0.0, 0.5, f64::NAN])), "--mask-course"),
        (masks(|m| m.prior_until = 1.5), "--prior-until"),
    ] {
        assert!(message.contains(part), "{message}");
    }
    let mixed = |change: fn(&mut Config)| {
        let mut config = Config::new(Recipe::Mixmask);
        change(&mut config);
        config.validate().expect_err("refused").0
    };
    assert!(mixed(|c| c.mixing.as_mut().expect("mixed").mask.grid = 1).contains("--mix-grid"));
    assert!(mixed(|c| c.mixing.as_mut().expect("mixed").mask.share = 1.0).contains("--mix-share"));
    for (recipe, change, part) in following_cases() {
        let mut config = Config::new(recipe);
        change(&mut config);
        let message = config.validate().expect_err("refused").0;
        assert!(message.contains(part), "{message}");
    }
    assert!(mixed(|c| c.masking = recipes::saliency_moco().masking).contains("masked or mixed"));
    assert!(mixed(|c| c.method = recipes::simclr().method).contains("with MoCo and BYOL only"));
    let tiny = refused(|c| c.image_size = 32);
    assert!(tiny.contains("--saliency-stage 4"), "{tiny}");
}

type Case = (Recipe, fn(&mut Config), &'static str);

/// What BYOL, LEWEL and groups of views refuse.
fn following_cases() -> [Case; 13] {
    let small: fn(&mut Config) = |c| c.views.push(ViewGroup { size: Some(96), ..c.views[0].clone() });
    [
        (Recipe::Byol, |c| c.method.byol_mut().expect("BYOL").predictor = 0, "--predictor-hidden"),
        (Recipe::Byol, |c| c.method.byol_mut().expect("BYOL").momentum_start = 1.5, "--momentum-start"),
        (Recipe::Byol, |c| c.masking = recipes::saliency_moco().masking, "BYOL has none"),
        (Recipe::LewelM, |c| c.masking = recipes::saliency_moco().masking, "no aligned embedding"),
        (Recipe::LewelBEman, |c| c.method.align_mut().expect("aligned").heads = 3, "--align-heads 3"),
        (Recipe::LewelBEman, |c| c.method.align_mut().expect("aligned").scale = 0.0, "--align-scale"),
        (Recipe::LewelBEman, |c| c.method.align_mut().expect("aligned").weight = 2.0, "--align-weight"),
        (Recipe::LewelB, |c| c.mixing = recipes::mixed(Recipe::Mixmask, Mix::Mixmask).mixing, "with LEWEL"),
        (Recipe::Byol, |c| c.views.truncate(1), "has to come first"),
        (Recipe::Byol, |c| c.views[1].size = Some(96), "[224, 96] px"),
        (Recipe::Byol, |c| c.views[1].count = 0, "0 views"),
        (Recipe::Byol, |c| c.views[1].size = Some(8), "8 px"),
        (Recipe::MocoV2, small, "compares two"),
    ]
}

/// Configurations of versions before groups of views: two alike.
#[test]
fn one_distribution_is_that_of_two_views() {
    let config = Config::new(Recipe::MocoV2);
    let mut json = serde_json::to_value(&config).expect("serialisable");
    let fields = json.as_object_mut().expect("an object");
    let groups = fields.remove("views").expect("views");
    fields.insert("augment".into(), groups[0]["augment"].clone());
    assert_eq!(serde_json::from_value::<Config>(json).expect("readable"), config);
}

/// Pictures of 32 px, like CIFAR's, show their object from border to border.
#[test]
fn a_contract_without_a_crop_shows_the_whole_picture() {
    let config = Config { image_size: 32, ..Config::new(Recipe::MocoV2) };
    let sides = |c: &Config| (c.preprocess().resize, c.preprocess().crop);
    assert_eq!(sides(&config), (37, 32));
    assert_eq!(sides(&Config { trim: false, ..config.clone() }), (32, 32));
    let mut json = serde_json::to_value(&config).expect("serialisable");
    json.as_object_mut().expect("an object").remove("trim");
    assert_eq!(serde_json::from_value::<Config>(json).expect("readable"), config, "as it always was");
}

/// Views keep the size of the run; only the contract has another, with the same part of pictures in its crop.
#[test]
fn an_encoder_may_be_tested_at_another_size_than_its_crops_have() {
    let config = Config { test_size: Some(96), image_size: 64, ..Config::new(Recipe::SaliencyMocoSmall) };
    assert_eq!(config.validate(), Ok(()));
    let sides = |c: &Config| (c.preprocess().resize, c.preprocess().crop);
    assert_eq!(sides(&config), (110, 96));
    assert_eq!(sides(&Config { trim: false, ..config.clone() }), (96, 96));
    let json = serde_json::to_value(&config).expect("serialisable");
    assert_eq!(serde_json::from_value::<Config>(json).expect("readable"), config);
    let plain = serde_json::to_value(Config { test_size: None, ..config.clone() }).expect("serialisable");
    assert!(plain.get("test_size").is_none(), "runs that do not ask for it say nothing");
    let refused = |c: &Config| c.validate().expect_err("refused").0;
    assert!(
        refused(&Config { test_size: Some(16), ..config.clone() }).contains("`--test-size 16`: expected 32")
    );
    let vit = Config {
        arch: "vit_tiny_patch16_224".into(),
        masking: None,
        test_size: Some(72),
        ..Config::new(Recipe::Dino)
    };
    assert!(refused(&vit).starts_with("`--test-size 72`: "), "{}", refused(&vit));
}

#[test]
fn only_the_high_pass_strategy_filters_the_input() {
    let mut config = Config::new(Recipe::SaliencyMoco);
    let filter = |kernel, sigma| Some(occlude_preprocess::HighPass { kernel, sigma });
    assert_eq!(config.preprocess().high_pass, filter(11, 5.0));
    config.image_size = 64;
    assert_eq!(config.preprocess().high_pass, filter(3, 5.0 * 64.0 / 224.0));
    assert_eq!(config.resolved().expect("JSON")["resolved"]["masking"]["high_pass"]["side"], 3);
    config.masking.as_mut().expect("masked").fills = FillScale::Published;
    assert_eq!(config.preprocess().high_pass, filter(11, 5.0));
    config.masking.as_mut().expect("masked").strategy = Strategy::Blur;
    assert_eq!(config.preprocess().high_pass, None);
    assert_eq!(Config::new(Recipe::MocoV2).preprocess().high_pass, None);
}

/// Of one network that all views and hard negatives go through, every masked one counts.
#[test]
fn whether_the_encoder_sees_masks_depends_on_what_goes_through_it() {
    let sees = |recipe, branch, nonsem| {
        let mut c = Config::new(recipe);
        let mut masking = c.masking.take().or_else(|| c.usual_masking().ok()).expect("masks");
        (masking.branch, masking.num_nonsem) = (branch, nonsem);
        c.masking = Some(masking);
        c.masks_queries()
    };
    assert!(sees(Recipe::SaliencyMoco, Branch::Query, 0) && !sees(Recipe::SaliencyMoco, Branch::Key, 1));
    assert!(sees(Recipe::SaliencySimclr, Branch::Key, 0) && sees(Recipe::SaliencySimclr, Branch::None, 1));
    assert!(!sees(Recipe::SaliencySimclr, Branch::None, 0));
    assert!(sees(Recipe::Distill, Branch::Key, 0) && !sees(Recipe::Distill, Branch::None, 0));
    assert!(!Config::new(Recipe::MocoV2).masks_queries());
}
