//! Tests of running statistics that are estimated anew at the end.

use super::*;
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};
use std::collections::BTreeMap;

type State = BTreeMap<String, Vec<u8>>;

fn state(path: &Path) -> State {
    let checkpoint = Checkpoint::open(path).expect("readable");
    checkpoint.tensors().map(|t| (t.name.to_owned(), t.to_bytes().expect("bytes").into_owned())).collect()
}

fn last(run: &Run) -> PathBuf {
    snapshot::locate(&run.out).expect("a checkpoint")
}

/// The last checkpoint has other statistics for whoever evaluates it and training's own for whoever goes on: with more
/// epochs, both runs end with the same bits. A run that was stopped before its end has the same ones, and so has a file that
/// they are put into afterwards.
#[test]
fn evaluation_gets_other_statistics_and_training_keeps_its_own() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let config = config(Recipe::SaliencyMoco);
    let trained = |out: &str, bn_refresh: usize| {
        let run = Run { bn_refresh, ..settings(dir.path(), out) };
        assert_eq!(pretrain(&config, &run).expect("trained"), End::Finished);
        run
    };
    let (plain, fresh) = (trained("plain", 0), trained("fresh", 3));
    let (own, theirs) = (state(&last(&plain)), state(&last(&fresh)));
    let is_statistic = |name: &str| name.starts_with("encoder_q.") && name.contains("running_");
    let mut other = 0;
    for (name, bytes) in &own {
        if is_statistic(name) {
            assert!(&theirs[&format!("training.{name}")] == bytes, "{name}");
            other += usize::from(&theirs[name] != bytes);
        } else {
            assert!(&theirs[name] == bytes, "{name}");
        }
    }
    assert_eq!((other, theirs.len()), (40, own.len() + 40));
    assert!(rows(&fresh).iter().any(|r| r["event"] == "refreshed"));
    assert!(!rows(&plain).iter().any(|r| r["event"] == "refreshed"));

    let checkpoint = Checkpoint::open(last(&fresh)).expect("readable");
    let metadata = checkpoint.metadata();
    let encoder = load_encoder(&checkpoint, &LoadOptions::default()).expect("one encoder");
    assert_eq!(encoder.fingerprint(&metadata["occlude.preprocess"]), metadata["occlude.fingerprint"]);
    assert_eq!(metadata["occlude.bn_refresh"], "3");

    let mut parts = Run { bn_refresh: 3, stop_after: Some(6), ..settings(dir.path(), "parts") };
    assert_eq!(pretrain(&config, &parts).expect("trained"), End::Interrupted(0));
    (parts.resume, parts.stop_after) = (Some(parts.out.clone()), None);
    assert_eq!(pretrain(&config, &parts).expect("trained"), End::Finished);
    assert!(state(&last(&parts)) == theirs);

    let out = dir.path().join("out.safetensors");
    for from in [&plain, &fresh] {
        let run = Run { bn_refresh: 3, ..settings(dir.path(), "unused") };
        assert_eq!(refresh(&last(from), &out, &run).expect("refreshed"), 3);
        assert!(state(&out) == theirs, "once or twice makes no difference");
    }

    let longer = Config { epochs: 3, ..config.clone() };
    let [a, b] = [plain, fresh].map(|run| {
        let mut run = Run { bn_refresh: 0, resume: Some(run.out.clone()), ..run };
        run.allow.more_epochs = true;
        assert_eq!(pretrain(&longer, &run).expect("trained"), End::Finished);
        state(&last(&run))
    });
    assert!(a == b, "training went on with its own statistics");
}

/// At most an epoch of batches; and what training leaves is what kNN at the end is not measured with.
#[test]
fn an_epoch_is_the_most_and_knn_at_the_end_is_of_what_is_saved() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(dir.path(), 12);
    let config = config(Recipe::SaliencyMoco);
    let mut run = Run { bn_refresh: 100, ..settings(dir.path(), "run") };
    run.online = Some(OnlineKnn { val: data.clone(), train: None, every: 2, limit: 100 });
    assert_eq!(pretrain(&config, &run).expect("trained"), End::Finished);
    let checkpoint = Checkpoint::open(last(&run)).expect("readable");
    assert_eq!(
        checkpoint.metadata()["occlude.bn_refresh"],
        "3",
        "three batches of four make an epoch of twelve"
    );
    // the pictures are their own nearest neighbours, and the figure is that of the file
    let weights = load_encoder(&checkpoint, &LoadOptions::default()).expect("one encoder");
    let encoder = crate::model::Encoder::from_checkpoint(&weights, Device::Cpu).expect("strict");
    let online = Online::open(run.online.as_ref().expect("asked for"), &data).expect("opened");
    let expected = online.measure(&encoder, &config.preprocess(), &run).expect("measured").fields();
    let found = rows(&run).into_iter().find(|r| r["kind"] == "knn").expect("measured");
    assert_eq!(found["top1"], expected["top1"]);
    let error = refresh(&data.join("even/00.png"), &run.out.join("x"), &run).expect_err("no checkpoint");
    assert!(format!("{error:#}").contains("00.png"), "{error:#}");
}
