//! Tests of the loop on a run of a few tiny pictures.

mod begun;
mod changed;
mod distilled;
mod guarded;
mod localised;
mod paired;
mod refreshed;

use super::training::ROLLBACKS;
use super::*;
use crate::config::{Branch, Choice, PatchChoice, PatchScore, Recipe, Saliency, Strategy};
use occlude_saliency::MapRule;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn pictures(dir: &Path, n: u32) -> PathBuf {
    let data = dir.join("pictures");
    for i in 0..n {
        let class = data.join(if i % 2 == 0 { "even" } else { "odd" });
        std::fs::create_dir_all(&class).expect("a folder");
        let picture = image::RgbImage::from_fn(40, 36, |x, y| {
            image::Rgb([(x * (i + 1)) as u8, (y * (41 - i)) as u8, (x * y / (i + 1)) as u8])
        });
        picture.save(class.join(format!("{i:02}.png"))).expect("written");
    }
    data
}

fn config(recipe: Recipe) -> Config {
    let mut c = Config::new(recipe);
    c.arch = "resnet18".into();
    (c.image_size, c.batch_size, c.epochs) = (32, 4, 2);
    (c.optimizer.warmup_epochs, c.optimizer.lr) = (0.0, 1e-3);
    if let Some(m) = c.method.moco_mut() {
        (m.queue, m.bn_splits) = (24, 2);
    }
    if let Some(b) = c.method.byol_mut() {
        (b.head.hidden, b.predictor) = (Some(64), 64);
    }
    if let Some(d) = c.method.dino_mut() {
        (d.head.hidden, d.prototypes, d.frozen_epochs) = (Some(64), 64, 0.5);
        (d.teacher_warmup_epochs, d.drop_path) = (2, 0.2);
        c.arch = "vit_64x2x2_patch8_32".into();
        c.views.iter_mut().skip(2).for_each(|g| (g.count, g.size) = (2, Some(32)));
    }
    if let Some(m) = &mut c.masking {
        m.stage = 4;
    }
    c
}

fn settings(dir: &Path, out: &str) -> Run {
    Run {
        data: dir.join("pictures"),
        out: dir.join(out),
        device: Device::Cpu,
        bf16: false,
        workers: 2,
        save_every: 10,
        save_interval: Duration::from_secs(600),
        log_every: 1,
        cache_bytes: 0,
        teacher_cache: None,
        resume: None,
        allow: Allow::default(),
        on_collapse: OnCollapse::Warn,
        max_drop: None,
        online: None,
        bn_refresh: 0,
        world: World::single(),
        stop_after: None,
    }
}

fn rows(run: &Run) -> Vec<Value> {
    let text = std::fs::read_to_string(run.out.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Every tensor of the last checkpoint, as bytes.
fn weights(run: &Run) -> Vec<(String, Vec<u8>)> {
    let path = snapshot::locate(&run.out).expect("a checkpoint");
    let checkpoint = occlude_checkpoint::Checkpoint::open(path).expect("readable");
    checkpoint.tensors().map(|t| (t.name.to_owned(), t.to_bytes().expect("bytes").into_owned())).collect()
}

/// A run that is stopped and resumed, again and again, ends bit-equal to one that was not, with the
/// same metrics.
#[test]
fn a_run_stopped_anywhere_ends_where_the_uninterrupted_one_does() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    // in the middle of either epoch and between them
    let mut values = config(Recipe::SaliencyMoco);
    let m = values.masking.as_mut().expect("masked");
    (m.choice, m.strategy, m.share) = (Choice::Background, Strategy::OtherPicture, 0.8);
    (m.grid, m.course, m.prior_until) = (Some(8), Some([0.1, 0.6, 0.9]), 0.7);
    (m.branch, values.views[0].augment.crop_foreground) = (Branch::Both, 0.5);
    let mut aligned = config(Recipe::LewelBEman);
    aligned.masking = Some(aligned.usual_masking().expect("masks"));
    let mut tokens = config(Recipe::SaliencyMoco);
    tokens.arch = "vit_64x2x2_patch8_32".into();
    tokens.masking.as_mut().expect("masked").rule = MapRule::Attention;
    let spread = |choice, score| {
        let mut c = config(Recipe::Ibot);
        let p = c.method.dino_mut().and_then(|d| d.patches.as_mut()).expect("hidden");
        (p.choice, p.score) = (choice, vec![score]);
        c
    };
    let stops: [(_, _, &[u64]); 14] = [
        ("moco", config(Recipe::SaliencyMoco), &[1, 5]),
        ("simclr", config(Recipe::SaliencySimclr), &[2]),
        ("mixed", config(Recipe::UnmixMixmask), &[4]),
        ("values", values, &[1, 2, 4]),
        ("byol", config(Recipe::Byol), &[4]),
        ("aligned", aligned, &[2]),
        ("aligned queues", config(Recipe::LewelM), &[3]),
        ("distilled", config(Recipe::Dino), &[1, 4]),
        ("hidden patches", config(Recipe::Ibot), &[2, 5]),
        ("attention", config(Recipe::IbotAttmask), &[3]),
        ("masked by attention", tokens, &[3]),
        ("spread patches", spread(PatchChoice::Spread, PatchScore::Raw), &[2]),
        ("patches of the background", spread(PatchChoice::Background, PatchScore::Object), &[4]),
        ("compared patches", config(Recipe::IbotDense), &[3]),
    ];
    for (recipe, config, stops) in stops {
        let whole = settings(dir.path(), &format!("{recipe}-whole"));
        assert_eq!(pretrain(&config, &whole).expect("trained"), End::Finished);
        let expected = weights(&whole);
        let mut parts = settings(dir.path(), &format!("{recipe}-parts"));
        for &step in stops {
            parts.stop_after = Some(step);
            assert_eq!(pretrain(&config, &parts).expect("trained"), End::Interrupted(0), "{recipe:?} {step}");
            parts.resume = Some(parts.out.clone());
        }
        parts.stop_after = None;
        assert_eq!(pretrain(&config, &parts).expect("trained"), End::Finished);
        assert!(weights(&parts) == expected, "{recipe:?}: the weights differ");
        let losses = |run: &Run| {
            let all = rows(run);
            let of = |kind: &str| {
                let some = all.iter().filter(|r| r["kind"] == kind);
                some.map(|r| (r["step"].as_u64(), r["loss"].as_f64().expect("a number"))).collect::<Vec<_>>()
            };
            (of("step"), of("epoch"))
        };
        let (one, other) = (losses(&whole), losses(&parts));
        assert_eq!(one.0, other.0, "{recipe:?}, steps");
        // sums of an epoch pass through a file as decimals
        for (a, b) in one.1.iter().zip(&other.1) {
            assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-12, "{recipe:?}, epochs: {a:?} {b:?}");
        }
    }
}

/// What differs between the runs of a seed is what differs between their recipes: masks, mixtures and losses touch neither
/// the first weights nor the order nor the views.
#[test]
fn runs_of_one_seed_begin_alike_whatever_is_done_with_the_views() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let start = |name: &str, config: &Config| -> Value {
        let run = Run { stop_after: Some(1), ..settings(dir.path(), name) };
        pretrain(config, &run).expect("a step");
        let text = std::fs::read_to_string(run.out.join("start.json")).expect("written");
        serde_json::from_str(&text).expect("JSON")
    };
    let plain = config(Recipe::MocoV2);
    let first = start("plain", &plain);
    assert_eq!(first["views"].as_array().map(Vec::len), Some(2));
    for recipe in [Recipe::SaliencyMoco, Recipe::MscnMoco, Recipe::UnmixMixmask, Recipe::SaliencySimclr] {
        let mut other = config(recipe);
        other.views = plain.views.clone();
        assert_eq!(start(recipe.name(), &other), first, "{recipe:?}");
    }
    let mut colours = plain.clone();
    colours.views[0].augment.jitter_p = 0.1;
    let pale = start("pale", &colours);
    assert!(
        pale["views"] != first["views"]
            && pale["order"] == first["order"]
            && pale["encoder"] == first["encoder"]
    );
    let seeded = start("seeded", &Config { seed: 1, ..plain });
    assert!(["encoder", "order", "views"].iter().all(|key| seeded[key] != first[key]), "{seeded}");
}

/// Two batches of half the size give the gradient of their mean loss, and count as one step.
#[test]
fn accumulated_batches_make_one_step() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let mut config = config(Recipe::MocoV2);
    (config.accumulate, config.epochs) = (3, 1);
    let run = settings(dir.path(), "run");
    assert_eq!(pretrain(&config, &run).expect("trained"), End::Finished);
    let steps: Vec<Value> = rows(&run).into_iter().filter(|r| r["kind"] == "step").collect();
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0]["step"], 1);
    let queue = weights(&run).into_iter().find(|(name, _)| name == "queue_ptr").expect("a queue").1;
    assert_eq!(queue, 12i64.to_le_bytes(), "the keys of all three batches are in the queue");
}

#[test]
fn a_loss_that_is_not_finite_rolls_back_with_a_lower_rate_and_then_stops() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let mut config = config(Recipe::MocoV2);
    config.optimizer.lr = 1e30;
    let mut run = settings(dir.path(), "run");
    run.on_collapse = OnCollapse::Rollback;
    assert_eq!(pretrain(&config, &run).expect("an orderly end"), End::Collapsed);
    let rows = rows(&run);
    let count = |name: &str| rows.iter().filter(|r| r["event"] == name).count();
    assert_eq!((count("collapse"), count("rollback")), (ROLLBACKS as usize + 1, ROLLBACKS as usize));
    // what it leaves can be used
    assert!(weights(&run).iter().filter(|(n, _)| n.starts_with("encoder_q")).all(|(_, bytes)| {
        bytes.chunks_exact(4).all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite())
    }));
    // a run that dies right after a rollback must not try the same again
    let good =
        occlude_checkpoint::Checkpoint::open(snapshot::locate(&run.out).expect("one")).expect("readable");
    let state: Value = serde_json::from_str(&good.metadata()["occlude.run"]).expect("JSON");
    assert_eq!((&state["rollbacks"], &state["lr_scale"]), (&json!(ROLLBACKS), &json!(0.125)));
    let mut stop = settings(dir.path(), "stop");
    stop.on_collapse = OnCollapse::Stop;
    assert_eq!(pretrain(&config, &stop).expect("an orderly end"), End::Collapsed);
}

#[test]
fn online_knn_is_measured_and_pictured() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(dir.path(), 12);
    let mut run = settings(dir.path(), "run");
    run.online = Some(OnlineKnn { val: data, train: None, every: 2, limit: 8 });
    pretrain(&config(Recipe::MocoV2), &run).expect("trained");
    let found: Vec<Value> = rows(&run).into_iter().filter(|r| r["kind"] == "knn").collect();
    assert_eq!(found.len(), 1, "every second epoch");
    assert_eq!((&found[0]["queries"], &found[0]["neighbours"]), (&json!(8), &json!(8)));
    assert!(image::open(run.out.join("neighbours.png")).is_ok());
    let environment = std::fs::read_to_string(run.out.join("environment.json")).expect("written");
    assert!(environment.contains("libtorch"), "{environment}");
    let page = std::fs::read_to_string(run.out.join("report.html")).expect("written");
    assert!(
        page.contains("moco-v2") && page.matches("data:image/png").count() == 2,
        "both pictures are inside"
    );
    let events = std::fs::read_dir(&run.out).expect("a folder").flatten();
    let events: Vec<_> = events.filter(|e| e.file_name().to_string_lossy().contains("tfevents")).collect();
    assert_eq!(events.len(), 1);
    assert!(events[0].metadata().expect("a file").len() > 1000);
}

#[test]
fn data_that_vanish_end_the_run_with_a_reason_and_a_checkpoint() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(dir.path(), 12);
    let config = config(Recipe::MocoV2);
    let mut run = settings(dir.path(), "run");
    run.stop_after = Some(2);
    pretrain(&config, &run).expect("trained");
    for class in ["even", "odd"] {
        for entry in std::fs::read_dir(data.join(class)).expect("a folder") {
            std::fs::write(entry.expect("an entry").path(), b"gone").expect("written");
        }
    }
    (run.stop_after, run.resume) = (None, Some(run.out.clone()));
    run.allow.changed_data = true;
    let error = pretrain(&config, &run).expect_err("no pictures").to_string();
    assert!(error.contains("pictures") && error.contains("--resume"), "{error}");
    assert!(snapshot::locate(&run.out).expect("a checkpoint").exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let mut run = settings(dir.path(), "run");
    std::fs::write(dir.path().join("file"), b"").expect("written");
    run.out = dir.path().join("file/run");
    let error = format!("{:#}", pretrain(&config(Recipe::MocoV2), &run).expect_err("no folder"));
    assert!(error.contains("file/run"), "{error}");
}

/// A run resumed into a folder of its own has something there to roll back to, from its first step on.
#[test]
fn a_run_resumed_elsewhere_can_roll_back() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let config = config(Recipe::MocoV2);
    let mut first = settings(dir.path(), "first");
    first.stop_after = Some(1);
    pretrain(&config, &first).expect("trained");
    let mut second = settings(dir.path(), "second");
    (second.resume, second.stop_after) = (Some(first.out.clone()), Some(2));
    assert_eq!(pretrain(&config, &second).expect("trained"), End::Interrupted(0));
    assert!(snapshot::locate(&second.out).expect("a checkpoint").starts_with(&second.out));
}

/// A signal that arrives when the weights are no longer numbers leaves the last good checkpoint where it is.
#[test]
fn a_stopped_run_saves_no_infinities() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let mut config = config(Recipe::MocoV2);
    config.optimizer.lr = 1e30;
    let mut run = settings(dir.path(), "run");
    // stopped before the first look at the metrics
    (run.stop_after, run.log_every) = (Some(2), 100);
    assert_eq!(pretrain(&config, &run).expect("an orderly end"), End::Interrupted(0));
    assert!(weights(&run).iter().filter(|(n, _)| n.starts_with("encoder_q.conv1")).all(|(_, bytes)| {
        bytes.chunks_exact(4).all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite())
    }));
}
