//! Tests of runs that may not lose what their encoder was worth.

use super::*;

/// A run that measures after every epoch of three steps.
fn measured(dir: &Path, out: &str, max_drop: f64) -> Run {
    let online = Some(OnlineKnn { val: dir.join("pictures"), train: None, every: 1, limit: 12 });
    let (max_drop, on_collapse) = (Some(max_drop), OnCollapse::Rollback);
    Run { online, max_drop, on_collapse, ..settings(dir, out) }
}

fn events(run: &Run, name: &str) -> usize {
    rows(run).iter().filter(|r| r["event"] == name).count()
}

/// No accuracy is good enough where it has to rise by more than it can, so that every measurement is a fall.
#[test]
fn a_fall_is_undone_with_a_lower_rate_and_what_was_good_stays() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let config = config(Recipe::MocoV2);
    let run = measured(dir.path(), "run", -2.0);
    // what a run that is stopped at once has is what the other began with
    let start = Run { stop_after: Some(0), ..measured(dir.path(), "start", 1.0) };
    assert_eq!(pretrain(&config, &start).expect("trained"), End::Interrupted(0));
    let first = occlude_checkpoint::Checkpoint::open(start.out.join("good.safetensors")).expect("kept");
    assert_eq!(pretrain(&config, &run).expect("an orderly end"), End::Collapsed);
    assert_eq!([events(&run, "fall"), events(&run, "rollback"), events(&run, "stopped")], [4, 3, 1]);
    let last =
        occlude_checkpoint::Checkpoint::open(snapshot::locate(&run.out).expect("one")).expect("readable");
    let bytes = |c: &occlude_checkpoint::Checkpoint| -> Vec<_> {
        c.tensors().map(|t| (t.name.to_owned(), t.to_bytes().expect("bytes").into_owned())).collect()
    };
    assert!(bytes(&last) == bytes(&first), "the weights of the start");
    let rates: Vec<f64> =
        rows(&run).iter().filter(|r| r["step"] == 1).filter_map(|r| r["lr"].as_f64()).collect();
    assert_eq!(rates.len(), 4);
    assert!(rates.windows(2).all(|pair| (pair[1] / pair[0] - 0.5).abs() < 1e-9), "{rates:?}");
    let warned = Run { on_collapse: OnCollapse::Warn, ..measured(dir.path(), "warned", -2.0) };
    assert_eq!(pretrain(&config, &warned).expect("trained"), End::Finished);
    assert_eq!(events(&warned, "fall"), 0);
    let said = rows(&warned).iter().filter(|r| r["message"].to_string().contains("below the best")).count();
    assert_eq!(said, 2, "after either epoch");
}

#[test]
fn measuring_changes_nothing_and_leaves_nothing_behind() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let config = config(Recipe::MocoV2);
    let plain = settings(dir.path(), "plain");
    pretrain(&config, &plain).expect("trained");
    let mut run = measured(dir.path(), "run", 1.0);
    for step in [2, 4] {
        run.stop_after = Some(step);
        assert_eq!(pretrain(&config, &run).expect("trained"), End::Interrupted(0));
        assert!(run.out.join("good.safetensors").exists());
        run.resume = Some(run.out.clone());
    }
    run.stop_after = None;
    assert_eq!(pretrain(&config, &run).expect("trained"), End::Finished);
    assert!(weights(&run) == weights(&plain));
    assert!(!run.out.join("good.safetensors").exists());
    let measured: Vec<u64> =
        rows(&run).iter().filter(|r| r["kind"] == "knn").filter_map(|r| r["step"].as_u64()).collect();
    assert_eq!(measured, [0, 3, 6]);
}
