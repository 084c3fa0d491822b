//! Tests of resuming on other data, or for more epochs.

use super::*;
use crate::engine::course::Now;
use crate::engine::position::{Loaded, Position};
use occlude_dataset::Identity;

fn picture(path: &Path, n: u8) {
    let picture = image::RgbImage::from_fn(40, 36, |x, y| image::Rgb([x as u8 * n, y as u8 ^ n, n]));
    picture.save(path).expect("written");
}

/// A run of 12 pictures, 3 steps an epoch, stopped after `stop` steps.
fn stopped(dir: &Path, out: &str, config: &Config, stop: u64) -> Run {
    pictures(dir, 12);
    let mut run = settings(dir, out);
    run.stop_after = Some(stop);
    assert_eq!(pretrain(config, &run).expect("trained"), End::Interrupted(0));
    (run.stop_after, run.resume) = (None, Some(run.out.clone()));
    run
}

/// Step and learning rate of every step line.
fn rates(run: &Run) -> Vec<(u64, f64)> {
    let steps = rows(run).into_iter().filter(|r| r["kind"] == "step");
    steps.map(|r| (r["step"].as_u64().expect("a number"), r["lr"].as_f64().expect("a number"))).collect()
}

fn epochs(config: &Config, epochs: usize) -> Config {
    Config { epochs, ..config.clone() }
}

#[test]
fn other_data_are_refused_with_both_numbers_and_begin_the_next_epoch_where_they_are_allowed() {
    let _alone = crate::rng::alone();
    let config = epochs(&config(Recipe::MocoV2), 3);
    type Change = fn(&Path);
    let more: Change = |data| (0..4).for_each(|i| picture(&data.join(format!("odd/x{i}.png")), i + 3));
    let one_more: Change = |data| picture(&data.join("odd/x.png"), 3);
    let fewer: Change = |data| std::fs::remove_dir_all(data.join("odd")).expect("removed");
    let others: Change = |data| picture(&data.join("even/00.png"), 3);
    // change, steps before it, what the message says, steps an epoch after it, where the next epoch is left to begin
    for (change, stop, says, steps, in_words) in [
        (more, 1, ["had 12 pictures and 3 steps", "has 16 and 4"], 4, "epoch 0 is abandoned after 1 steps"),
        (more, 3, ["had 12 pictures and 3 steps", "has 16 and 4"], 4, "after epoch 0"),
        (one_more, 2, ["had 12 pictures", "has 13 and 3"], 3, "epoch 0 is abandoned after 2 steps"),
        (fewer, 2, ["had 12 pictures", "has 6 and 1"], 1, "epoch 0 is abandoned"),
        (others, 2, ["had 12 pictures", "has 12 and 3, but different ones"], 3, "epoch 0 is abandoned"),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut run = stopped(dir.path(), "run", &config, stop);
        change(&run.data);
        let before = weights(&run);
        let error = pretrain(&config, &run).expect_err("other data").to_string();
        assert!(says.iter().all(|part| error.contains(part)), "{error}");
        assert!(error.contains("--allow-changed-data"), "{error}");
        assert!(weights(&run) == before, "nothing was written");
        run.allow.changed_data = true;
        assert_eq!(pretrain(&config, &run).expect("trained"), End::Finished);
        let (schedule, rates) = (Schedule::new(&config.optimizer, steps as usize, 3), rates(&run));
        assert_eq!(rates.len() as u64, stop + 2 * steps, "two whole epochs: {rates:?}");
        for (step, lr) in &rates[stop as usize..] {
            // the schedule is that of whole epochs on the new data
            let expected = schedule.lr(steps + step - 1 - stop);
            assert!((lr - expected).abs() < 1e-12, "step {step}: {lr} for {expected}");
        }
        let all = rows(&run);
        assert!(all.iter().any(|r| r["event"] == "changed" && r["message"].to_string().contains(in_words)));
        let done: Vec<_> = all.iter().filter(|r| r["kind"] == "epoch").collect();
        assert!(done.iter().all(|r| r["loss"].as_f64().is_some_and(f64::is_finite)), "{done:?}");
        assert_eq!(done.iter().map(|r| r["epoch"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    }
}

/// A change of data happens once: what follows is resumed as ever, to the bit.
#[test]
fn a_run_on_changed_data_is_resumed_without_a_flag() {
    let _alone = crate::rng::alone();
    let config = epochs(&config(Recipe::SaliencyMoco), 3);
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let results = dirs.iter().zip([&[][..], &[2, 4, 6]]).map(|(dir, stops)| {
        let mut run = stopped(dir.path(), "run", &config, 1);
        (12..17).for_each(|i| picture(&run.data.join(format!("even/{i}.png")), i));
        run.allow.changed_data = true;
        for &stop in stops {
            run.stop_after = Some(stop);
            assert_eq!(pretrain(&config, &run).expect("trained"), End::Interrupted(0));
            run.allow = Allow::default();
        }
        run.stop_after = None;
        assert_eq!(pretrain(&config, &run).expect("trained"), End::Finished);
        weights(&run)
    });
    let results: Vec<_> = results.collect();
    assert!(results[0] == results[1]);
}

#[test]
fn more_epochs_follow_the_longer_schedule_where_they_are_allowed() {
    let _alone = crate::rng::alone();
    for (recipe, stop) in
        [(Recipe::MocoV2, None), (Recipe::MocoV2, Some(4)), (Recipe::SaliencyMocoSmall, None)]
    {
        let dir = tempfile::tempdir().expect("a folder");
        let mut short = config(recipe);
        if let Some(m) = short.method.moco_mut().filter(|m| m.momentum_warmup_epochs > 0.0) {
            m.momentum_warmup_epochs = 2.0;
        }
        let mut long = epochs(&short, 4);
        if let Some(m) = long.method.moco_mut().filter(|m| m.momentum_warmup_epochs > 0.0) {
            m.momentum_warmup_epochs = 4.0;
        }
        pictures(dir.path(), 12);
        let mut run = settings(dir.path(), "run");
        run.stop_after = stop;
        pretrain(&short, &run).expect("trained");
        (run.stop_after, run.resume) = (None, Some(run.out.clone()));
        let error = pretrain(&long, &run).expect_err("not allowed").to_string();
        assert!(error.contains("from a run of 2 epochs") && error.contains("says 4"), "{error}");
        assert!(error.contains("--allow-more-epochs"), "{error}");
        run.allow.more_epochs = true;
        let error = pretrain(&epochs(&short, 1), &run).expect_err("fewer").to_string();
        assert!(error.contains("cannot be shortened"), "{error}");
        assert_eq!(pretrain(&long, &run).expect("trained"), End::Finished);
        let (schedule, rates) = (Schedule::new(&long.optimizer, 3, 4), rates(&run));
        assert_eq!(rates.len(), 12);
        for (step, lr) in &rates[stop.unwrap_or(6) as usize..] {
            assert!((lr - schedule.lr(step - 1)).abs() < 1e-12);
        }
        let told =
            rows(&run).into_iter().find(|r| r["event"] == "changed").expect("told")["message"].to_string();
        let (before, after) = (Schedule::new(&short.optimizer, 3, 2), stop.unwrap_or(6));
        for lr in [before.lr(after.min(5)), schedule.lr(after)] {
            assert!(told.contains(&format!("{lr:.3e}")), "{lr:.3e}: {told}");
        }
        assert!(told.contains("4 epochs instead of 2"), "{told}");
        // from here on it is a run of four epochs
        run.allow = Allow::default();
        assert_eq!(pretrain(&long, &run).expect("nothing is left"), End::Finished);
    }
}

/// Other batches, or batches a step, are another run.
#[test]
fn another_batch_size_or_accumulation_is_refused_with_both_values() {
    let _alone = crate::rng::alone();
    let dir = tempfile::tempdir().expect("a folder");
    let config = config(Recipe::MocoV2);
    let mut run = stopped(dir.path(), "run", &config, 1);
    run.allow = Allow { changed_data: true, more_epochs: true };
    let mut other = config.clone();
    other.batch_size = 6;
    let error = pretrain(&other, &run).expect_err("another batch").to_string();
    assert!(error.contains("`batch_size` was 4, is 6"), "{error}");
    other = Config { accumulate: 2, ..config };
    let error = pretrain(&other, &run).expect_err("another step").to_string();
    assert!(error.contains("`accumulate` was 1, is 2"), "{error}");
}

/// A checkpoint at `step` in `epoch` of three, on 12 pictures in 3 steps an epoch; `began` where it is known.
fn at(step: u64, epoch: u64, began: Option<u64>) -> Loaded {
    let data = Identity { pictures: 12, contents: "a".into(), ..Identity::default() };
    let course = began.map(|began| Course { data, steps_per_epoch: 3, began });
    let at = Position { step, epoch, course: course.clone().unwrap_or_default(), ..Position::default() };
    Loaded { config: epochs(&config(Recipe::MocoV2), 3), at, course }
}

fn resumed(loaded: Loaded, pictures: usize, changed_data: bool) -> std::result::Result<(u64, u64), String> {
    let config = loaded.config.clone();
    let data =
        Identity { pictures, contents: if pictures == 12 { "a" } else { "b" }.into(), ..Identity::default() };
    let now = Now {
        config: &config,
        data: Path::new("pictures"),
        identity: &data,
        steps_per_epoch: pictures as u64 / 4,
        allow: Allow { changed_data, more_epochs: false },
    };
    let resumed = now.resume(Path::new("a.safetensors"), loaded).map_err(|e| e.to_string())?;
    assert_eq!((&resumed.at.course.data, resumed.at.course.steps_per_epoch), (&data, pictures as u64 / 4));
    Ok((resumed.at.epoch, resumed.at.course.began))
}

#[test]
fn every_place_in_a_run_has_its_next_epoch() {
    assert_eq!(resumed(at(4, 1, Some(3)), 12, false), Ok((1, 3)), "nothing changed");
    assert_eq!(resumed(at(4, 1, Some(3)), 20, true), Ok((2, 4)), "within an epoch");
    assert_eq!(resumed(at(6, 1, Some(3)), 20, true), Ok((2, 6)), "behind its last step");
    assert_eq!(resumed(at(6, 2, Some(6)), 20, true), Ok((2, 6)), "between two");
    assert_eq!(resumed(at(9, 3, Some(9)), 20, true), Ok((3, 9)), "finished");
    let error = resumed(at(7, 2, Some(6)), 20, true).expect_err("the last one");
    assert!(error.contains("no epoch is left") && error.contains("--epochs 4"), "{error}");
    assert!(resumed(at(20, 2, Some(6)), 12, true).expect_err("impossible").contains("damaged"));
    assert!(resumed(at(2, 2, Some(6)), 12, true).expect_err("impossible").contains("damaged"));
}

/// Checkpoints of earlier versions say nothing of the data: what fits is taken, what does not is refused.
#[test]
fn checkpoints_without_a_course_are_held_against_their_step() {
    assert_eq!(resumed(at(4, 1, None), 12, false), Ok((1, 3)));
    assert_eq!(resumed(at(6, 1, None), 12, false), Ok((1, 3)));
    let error = resumed(at(4, 1, None), 20, false).expect_err("fewer steps than an epoch has");
    assert!(error.contains("20 pictures") && error.contains("--allow-changed-data"), "{error}");
    assert_eq!(resumed(at(4, 1, None), 20, true), Ok((2, 4)));
    assert!(resumed(at(9, 1, None), 12, false).is_err());
}
