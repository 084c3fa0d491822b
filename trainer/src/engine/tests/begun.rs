//! Tests of runs that go on from another encoder.

use super::*;
use crate::config::Beginning;

/// Learnt tensors of encoders by their names within the encoder: what learns, and what follows.
fn encoders(run: &Run) -> Vec<(String, String, Vec<u8>)> {
    let parts = |name: &str| {
        let inner = name.strip_prefix("encoder_q.").or_else(|| name.strip_prefix("encoder_k."))?;
        let counted =
            ["running_mean", "running_var", "num_batches_tracked"].iter().any(|s| inner.ends_with(s));
        (!counted).then(|| inner.to_owned())
    };
    let all = weights(run).into_iter();
    all.filter_map(|(name, bytes)| parts(&name).map(|inner| (name, inner, bytes))).collect()
}

/// As `recipe`, from the encoder of the run `of`, the heads alone for the first of two epochs of three steps.
fn begun(recipe: Recipe, of: &Run) -> Config {
    let checkpoint = snapshot::locate(&of.out).expect("a checkpoint");
    let (mean, std) = ([0.5; 3], [0.25; 3]);
    let beginning =
        Beginning { checkpoint, fingerprint: "a".into(), mean, std, head_warmup: 1.0, layer_decay: 0.5 };
    Config { beginning: Some(beginning), seed: 7, ..config(recipe) }
}

#[test]
fn a_run_begins_with_the_encoder_and_leaves_it_alone_until_the_heads_know_something() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    for (source, recipes) in [
        (Recipe::MocoV2, [Recipe::SaliencyMoco, Recipe::Simclr, Recipe::LewelBEman].as_slice()),
        (Recipe::Dino, &[Recipe::Ibot]),
    ] {
        let of = Run { stop_after: Some(2), ..settings(dir.path(), source.name()) };
        pretrain(&config(source), &of).expect("trained");
        // the encoder that a checkpoint is evaluated by is DINO's teacher
        let prefix = if source == Recipe::Dino { "encoder_k." } else { "encoder_q." };
        let start: Vec<_> = encoders(&of).into_iter().filter(|(name, ..)| name.starts_with(prefix)).collect();
        for &recipe in recipes {
            let config = begun(recipe, &of);
            assert_eq!((config.preprocess().mean, config.preprocess().std), ([0.5; 3], [0.25; 3]));
            let run =
                Run { stop_after: Some(3), ..settings(dir.path(), &format!("{}-begun", recipe.name())) };
            pretrain(&config, &run).expect("trained");
            let waited = encoders(&run);
            assert!(waited.len() >= start.len());
            for (name, inner, bytes) in &waited {
                let expected = start.iter().find(|(_, of, _)| of == inner);
                assert!(expected.is_some_and(|(_, _, expected)| expected == bytes), "{recipe:?}: `{name}`");
            }
            let rest = Run { stop_after: None, resume: Some(run.out.clone()), ..run };
            assert_eq!(pretrain(&config, &rest).expect("trained"), End::Finished);
            // a follower takes steps that may round to nothing
            let moved = encoders(&rest).into_iter().filter(|(name, ..)| name.starts_with("encoder_q."));
            let still: Vec<String> = moved.filter(|m| waited.contains(m)).map(|(name, ..)| name).collect();
            assert!(still.is_empty(), "{recipe:?} did not learn {still:?}");
        }
    }
}

#[test]
fn it_is_resumed_to_the_bit_without_the_file() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let of = Run { stop_after: Some(1), ..settings(dir.path(), "source") };
    pretrain(&config(Recipe::MocoV2), &of).expect("trained");
    let config = begun(Recipe::SaliencyMocoSmall, &of);
    let whole = settings(dir.path(), "whole");
    pretrain(&config, &whole).expect("trained");
    let shares = |run: &Run| -> Vec<f64> {
        let rows = rows(run).into_iter().filter(|r| r["kind"] == "epoch");
        rows.filter_map(|r| r["neighbours_kept"].as_f64()).collect()
    };
    let kept = shares(&whole);
    assert!(kept.len() == 2 && kept.iter().all(|share| (0.0..1.0).contains(share)), "{kept:?}");
    let mut parts = settings(dir.path(), "parts");
    for step in [2, 4] {
        parts.stop_after = Some(step);
        assert_eq!(pretrain(&config, &parts).expect("trained"), End::Interrupted(0));
        parts.resume = Some(parts.out.clone());
        let _ = std::fs::remove_dir_all(&of.out);
    }
    parts.stop_after = None;
    pretrain(&config, &parts).expect("trained");
    assert_eq!(weights(&parts), weights(&whole));
    assert_eq!(shares(&parts), kept);
}

#[test]
fn another_architecture_is_refused_before_anything_is_written() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    pictures(dir.path(), 12);
    let of = Run { stop_after: Some(1), ..settings(dir.path(), "source") };
    pretrain(&config(Recipe::MocoV2), &of).expect("trained");
    let config = Config { arch: "resnet34".into(), ..begun(Recipe::MocoV2, &of) };
    let run = settings(dir.path(), "refused");
    let error = format!("{:#}", pretrain(&config, &run).expect_err("refused"));
    assert!(error.contains("expected resnet34, found resnet18"), "{error}");
    assert!(!run.out.join("last").exists());
}
