//! Tests of runs that learn from a network that is not trained.

use super::*;
use crate::config::{Guidance, Saliency};
use crate::teacher;

/// A run of another method, whose encoder teaches.
fn finished(dir: &Path, name: &str, seed: u64) -> PathBuf {
    let run = Run { stop_after: Some(1), ..settings(dir, name) };
    pretrain(&Config { seed, ..super::config(Recipe::MocoV2) }, &run).expect("trained");
    snapshot::locate(&run.out).expect("a checkpoint")
}

fn config(of: &Path) -> Config {
    let mut c = super::config(Recipe::Distill);
    let settings = c.method.distill_mut().expect("distillation");
    settings.head.hidden = Some(64);
    settings.teacher = Some(teacher::network(of, None).expect("a teacher"));
    c
}

fn settings(dir: &Path, out: &str) -> Run {
    Run { teacher_cache: Some(dir.join("cache")), ..super::settings(dir, out) }
}

/// Masked by the teacher's map, a view of the run's size and a smaller one.
fn masked(of: &Path) -> Config {
    let mut c = config(of);
    let mut masking = c.usual_masking().expect("masks");
    (masking.stage, masking.saliency) = (4, Saliency::Checkpoint(of.to_owned()));
    c.masking = Some(masking);
    c.views.push(crate::config::ViewGroup { size: Some(32), ..c.views[0].clone() });
    c
}

/// Of a view of the run's size and a smaller one, whose cells are learnt, too.
fn dense(of: &Path) -> Config {
    let mut c = config(of);
    c.method.distill_mut().expect("distillation").cells = Some(crate::config::Cells::weighted(0.5));
    c.views.push(crate::config::ViewGroup { size: Some(40), ..c.views[0].clone() });
    c
}

#[test]
fn a_run_stopped_anywhere_ends_where_the_uninterrupted_one_does_without_its_teacher() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let of = finished(dir.path(), "teacher", 0);
    let mut random = config(&of);
    random.masking = random.usual_masking().ok();
    random.masking.as_mut().expect("masked").guidance = Guidance::Random;
    random.masking.as_mut().expect("masked").stage = 4;
    let cells = dense(&of);
    for (name, config, keep) in [
        ("masked", masked(&of), true),
        ("random", random, true),
        ("cells", cells, true),
        ("plain", config(&of), false),
    ] {
        let whole = settings(dir.path(), &format!("{name}-whole"));
        assert_eq!(pretrain(&config, &whole).expect("trained"), End::Finished);
        let mut parts = settings(dir.path(), &format!("{name}-parts"));
        for step in [1, 3, 5] {
            parts.stop_after = Some(step);
            assert_eq!(pretrain(&config, &parts).expect("trained"), End::Interrupted(0));
            parts.resume = Some(parts.out.clone());
            if !keep {
                let _ = std::fs::remove_dir_all(of.parent().expect("a folder"));
            }
        }
        parts.stop_after = None;
        assert_eq!(pretrain(&config, &parts).expect("trained"), End::Finished);
        assert!(weights(&parts) == weights(&whole), "{name}: the weights differ");
        let last = rows(&whole).into_iter().rfind(|r| r["kind"] == "step").expect("a step");
        for key in ["loss", "cosine_loss", "relation_loss", "positive_similarity", "feature_std"] {
            assert!(last[key].as_f64().is_some_and(f64::is_finite), "{key}: {last}");
        }
        assert_eq!(last["dense_loss"].is_number(), name == "cells", "{last}");
    }
}

#[test]
fn a_checkpoint_says_who_taught_it_and_is_resumed_with_nobody_else() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(dir.path(), 12);
    let (of, other) = (finished(dir.path(), "teacher", 0), finished(dir.path(), "other", 1));
    let config = config(&of);
    let mut run = settings(dir.path(), "run");
    run.stop_after = Some(2);
    pretrain(&config, &run).expect("trained");
    let path = snapshot::locate(&run.out).expect("a checkpoint");
    let checkpoint = Checkpoint::open(&path).expect("readable");
    let fingerprint = &config.method.teacher().expect("one").fingerprint;
    assert_eq!(&checkpoint.metadata()["occlude.teacher"], fingerprint);
    assert_eq!(fingerprint, &Checkpoint::open(&of).expect("readable").metadata()["occlude.fingerprint"]);
    let text = std::fs::read_to_string(run.out.join("config.json")).expect("written");
    let said: Value = serde_json::from_str(&text).expect("JSON");
    // twelve pictures have eleven directions
    let settings = &said["method"]["distill"];
    assert_eq!((&settings["head"]["dim"], &settings["teacher"]["dim"]), (&json!(11), &json!(512)));
    (run.resume, run.stop_after) = (Some(run.out.clone()), None);
    let mut wrong = config.clone();
    wrong.method.distill_mut().expect("distillation").teacher =
        Some(teacher::network(&other, None).expect("a teacher"));
    let error = format!("{:#}", pretrain(&wrong, &run).expect_err("refused"));
    assert!(error.contains("another teacher") && error.contains(fingerprint.as_str()), "{error}");
    // the file may lie elsewhere, and pictures may change: targets are made of embeddings as they were
    let moved = dir.path().join("moved.safetensors");
    std::fs::rename(&of, &moved).expect("moved");
    let mut elsewhere = config.clone();
    elsewhere.method.distill_mut().expect("distillation").teacher =
        Some(teacher::network(&moved, None).expect("a teacher"));
    image::RgbImage::new(40, 40).save(data.join("odd/new.png")).expect("written");
    let projection =
        |run: &Run| weights(run).into_iter().filter(|(n, _)| n.starts_with("targets.")).collect::<Vec<_>>();
    let before = projection(&run);
    run.allow.changed_data = true;
    assert_eq!(pretrain(&elsewhere, &run).expect("trained"), End::Finished);
    assert!(before.len() == 2 && projection(&run) == before);
}

#[test]
fn running_statistics_are_estimated_anew_without_the_teacher() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let of = finished(dir.path(), "teacher", 0);
    let run = Run { bn_refresh: 2, ..settings(dir.path(), "run") };
    let mut config = masked(&of);
    config.method.distill_mut().expect("distillation").cells = Some(crate::config::Cells::weighted(0.5));
    assert_eq!(pretrain(&config, &run).expect("trained"), End::Finished);
    let _ = std::fs::remove_dir_all(of.parent().expect("a folder"));
    let path = snapshot::locate(&run.out).expect("a checkpoint");
    let out = dir.path().join("fresh.safetensors");
    let batches =
        refresh(&path, &out, &Run { bn_refresh: 3, ..settings(dir.path(), "none") }).expect("refreshed");
    assert_eq!(batches, 3);
    assert_eq!(Checkpoint::open(&out).expect("readable").metadata()["occlude.bn_refresh"], "3");
}

#[test]
fn without_a_teacher_nothing_is_begun() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let run = settings(dir.path(), "run");
    let error = format!("{:#}", pretrain(&super::config(Recipe::Distill), &run).expect_err("refused"));
    assert!(error.contains("--teacher") && !run.out.exists(), "{error}");
}
