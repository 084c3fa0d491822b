use super::*;
use clap::Parser;
use std::path::Path;

use super::table::Claim;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// A data set of as many pictures to train on.
fn data(at: &Path, pictures: usize) {
    for (part, count) in [("train", pictures), ("test", 2)] {
        fs::create_dir_all(at.join(part).join("class")).expect("made");
        for i in 0..count {
            fs::write(at.join(part).join(format!("class/{i}.jpg")), "").expect("written");
        }
    }
}

fn open(at: &Path, flags: &str) -> Result<Experiment> {
    let words = [
        "accuracy".to_owned(),
        at.join("photos").display().to_string(),
        "--out".into(),
        at.join("out").display().to_string(),
    ];
    let cli = Cli::try_parse_from(words.into_iter().chain(flags.split_whitespace().map(str::to_owned)));
    Experiment::open(&cli?.args)
}

/// The files that a finished run leaves: accuracies in per cent, which test pictures were right, what it began with.
fn finish(experiment: &Experiment, arm: &str, seed: u32, [knn, linear]: [f64; 2], right: &str) {
    let run =
        experiment.runs().into_iter().find(|run| run.arm.name == arm && run.seed == seed).expect("a run");
    let folder = run.folder(&experiment.out);
    fs::create_dir_all(&folder).expect("made");
    let write = |name: &str, value: Value| experiment::write(&folder.join(name), &value).expect("written");
    let row = |features: &str, share: f64| json!({ "features": features, "k": 10, "top1": share / 100.0 });
    write(
        job::KNN,
        json!({ "results": [row("checkpoint", knn), row("untrained", 20.0), row("checkpoint-whitened", knn + 5.0)] }),
    );
    write(job::LINEAR, json!({ "top1": linear / 100.0, "mean_per_class": 0.3 }));
    let mut about = job::Job::new(experiment, run, None).about().expect("flags");
    about["seconds"] = json!(60.0);
    write(job::ABOUT, about);
    write(
        "start.json",
        json!({ "encoder": format!("e{seed}"), "order": "o", "views": if arm == "simclr" { "w" } else { "v" } }),
    );
    let pictures = |k: Value| json!({ "pictures": ["a", "b", "c", "d"], "rows": [{ "features": "checkpoint", "k": k, "right": right }] });
    write("knn-pictures.json", pictures(json!(10)));
    write("linear-pictures.json", pictures(Value::Null));
}

#[test]
fn the_plan_has_every_row_at_every_size() {
    let plan = plan(100);
    let rows = plan["rows"].as_array().expect("rows");
    let names: std::collections::BTreeSet<_> = rows.iter().filter_map(|row| row["row"].as_str()).collect();
    assert_eq!(rows.len(), names.len() * SIZES.len());
    assert!(["plain", "combined-other", "lewel-m"].iter().all(|name| names.contains(name)), "{names:?}");
    let flags = |row: &Value| row["flags"].as_array().map_or(0, Vec::len);
    assert!(rows.iter().all(|row| row["epochs"] == 100 && flags(row) >= 2));
    let blur = rows.iter().find(|row| row["row"] == "blur").expect("the row");
    let words: Vec<_> = blur["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(words.windows(2).any(|pair| pair == ["--momentum-warmup-epochs", "100"]), "{words:?}");
    assert_eq!(plan["tiny"].as_array().map(Vec::len), Some(1));
}

#[test]
fn figures_of_the_seeds_are_put_together() {
    assert_eq!(
        (cell(&[]), cell(&[41.26]), cell(&[40.0, 42.0])),
        (String::new(), "41.3".into(), "41.0 ±1.0".into())
    );
}

#[test]
fn steps_become_epochs_of_the_data_and_of_the_arms_own_batch() {
    let dir = tempfile::tempdir().expect("a folder");
    data(&dir.path().join("photos"), 100);
    let experiment = open(dir.path(), "--steps 10 --batch-size 32 --arms plain,blur").expect("valid");
    let flags = |experiment: &Experiment, arm: &str, seed| {
        let run =
            experiment.runs().into_iter().find(|run| run.arm.name == arm && run.seed == seed).expect("a run");
        experiment.flags(run).expect("flags")
    };
    // three steps an epoch: the last batch is not whole
    let found = flags(&experiment, "blur", 3);
    for (flag, value) in [
        ("--epochs", 4),
        ("--momentum-warmup-epochs", 4),
        ("--seed", 3),
        ("--batch-size", 32),
        ("--image-size", 64),
    ] {
        assert_eq!(found.number(flag), Some(value), "{flag}");
    }
    assert_eq!(
        open(dir.path(), "--steps 10 --batch-size 101 --arms plain")
            .expect("valid")
            .flags(experiment.runs()[0])
            .err()
            .map(|e| e.to_string().contains("--batch-size")),
        Some(true)
    );
    let own = Cli::parse_from([
        "accuracy",
        &dir.path().join("photos").display().to_string(),
        "--out",
        "x",
        "--epochs",
        "7",
        "--arm",
        "small=plain --batch-size 16 --image-size 32",
    ]);
    let own = Experiment::open(&own.args).expect("valid");
    let found = flags(&own, "small", 0);
    assert_eq!(
        ["--epochs", "--batch-size", "--image-size"].map(|f| found.number(f)),
        [Some(7), Some(16), Some(32)]
    );
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |flags: &str| format!("{:#}", open(dir.path(), flags).err().expect("refused"));
    assert!(refused("").contains("train"), "no data");
    data(&dir.path().join("photos"), 10);
    data(&dir.path().join("more/photos"), 10);
    for (flags, part) in [
        ("--seeds 0", "--seeds"),
        ("--epochs 0", "--epochs"),
        ("--minutes 0", "--minutes"),
        ("--epochs 3 --steps 9", "cannot be used"),
        ("--arms nothing", "no arm `nothing`"),
    ] {
        assert!(refused(flags).contains(part), "{flags}: {}", refused(flags));
    }
    let twice = dir.path().join("more/photos").display().to_string();
    assert!(refused(&twice).contains("two data sets"));
    assert!(!dir.path().join("out").exists());
}

#[test]
fn runs_come_seed_by_seed() {
    let dir = tempfile::tempdir().expect("a folder");
    data(&dir.path().join("photos"), 1000);
    let experiment = open(dir.path(), "--seeds 2 --arms plain,blur").expect("valid");
    let names: Vec<String> = experiment.runs().iter().map(Run::name).collect();
    assert_eq!(
        names,
        ["photos, plain, seed 0", "photos, blur, seed 0", "photos, plain, seed 1", "photos, blur, seed 1"]
    );
}

#[test]
fn a_folder_belongs_to_one_question() {
    let dir = tempfile::tempdir().expect("a folder");
    data(&dir.path().join("photos"), 1000);
    let begun = |flags: &str| {
        let experiment = open(dir.path(), flags).expect("valid");
        Job::new(&experiment, experiment.runs()[0], None).begun()
    };
    assert!(!begun("--arms plain").expect("nothing is there"));
    finish(&open(dir.path(), "--arms plain").expect("valid"), "plain", 0, [40.0, 50.0], "0011");
    assert!(begun("--arms plain,blur --seeds 9").expect("more of the same"));
    let message = begun("--arms plain --steps 9").expect_err("shorter").to_string();
    assert!(
        message.contains("other flags") && message.contains("--epochs 2") && message.contains("--out"),
        "{message}"
    );
}

/// Three seeds, of which every one shows the same difference but for a little.
#[test]
fn a_claim_needs_all_controls_both_figures_and_three_seeds() {
    let dir = tempfile::tempdir().expect("a folder");
    data(&dir.path().join("photos"), 1000);
    let arms = "plain,random-blur,other-blur,blur";
    let experiment = open(dir.path(), &format!("--seeds 3 --arms {arms}")).expect("valid");
    let claim = || {
        let figures = Figures::read(&experiment, &experiment.data[0]).expect("read");
        Claim::of(experiment.arms.last().expect("blur"), &figures)
    };
    let all = |arm: &str, knn: f64, linear: f64| {
        for seed in 0..3u32 {
            let more = f64::from(seed) * 0.1;
            finish(&experiment, arm, seed, [knn + 2.0 * more, linear + more], "0011");
        }
    };
    assert_eq!(claim(), Claim::Open("`plain` has not been run".into()));
    finish(&experiment, "blur", 0, [45.0, 50.0], "0111");
    finish(&experiment, "plain", 0, [43.0, 48.0], "0011");
    assert_eq!(claim(), Claim::Open("1 of 3 seeds".into()));
    all("blur", 45.0, 50.0);
    all("plain", 43.1, 48.1);
    all("random-blur", 43.9, 48.9);
    assert_eq!(claim(), Claim::Open("`other-blur` has not been run".into()));
    all("other-blur", 44.3, 49.2);
    assert_eq!(claim(), Claim::Ahead);
    // against one control one figure is not ahead
    finish(&experiment, "other-blur", 1, [44.4, 52.0], "0011");
    assert_eq!(claim(), Claim::NotShown);
    for arm in ["plain", "random-blur", "other-blur"] {
        all(arm, 47.0, 55.0);
    }
    assert_eq!(claim(), Claim::Behind);
    let figures = Figures::read(&experiment, &experiment.data[0]).expect("read");
    assert_eq!(Claim::of(&experiment.arms[0], &figures), Claim::None);
}

#[test]
fn tables_say_what_was_found_and_what_it_rests_on() {
    let dir = tempfile::tempdir().expect("a folder");
    data(&dir.path().join("photos"), 1000);
    let experiment = open(dir.path(), "--seeds 2 --arms plain,simclr,mixmask").expect("valid");
    finish(&experiment, "plain", 0, [40.0, 50.0], "0011");
    finish(&experiment, "plain", 1, [42.0, 51.0], "0011");
    finish(&experiment, "simclr", 0, [43.0, 52.0], "0111");
    let all = [Figures::read(&experiment, &experiment.data[0]).expect("read")];
    let text = table::markdown(&experiment, &all);
    for line in [
        "| | kNN, k=10 | whitened, k=10 | linear | per class | seeds |",
        "| MoCo v2 (`plain`) | 41.0 ± 1.4 | 46.0 ± 1.4 | 50.5 ± 0.7 | 30.0 ± 0.0 | 2 |",
        "| SimCLR (`simclr`) | 43.0 | 48.0 | 52.0 | 30.0 | 1 |",
        "| MixMask (`mixmask`) |  |  |  |  | 0 |",
        "| untrained encoder | 20.0 |  |  |  | |",
        // of four pictures one became right: 0 to 3 of them when drawn anew, 0 with a probability of 0.32
        "| `simclr` | `plain` | +3.0 [0.0, 75.0]* | +2.0 [0.0, 75.0]* | open: 1 of 3 seeds |",
        "compared in every run",
        "but for `simclr`, whose flags change the views",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    let value = table::json(&experiment, &all);
    let arm = &value["results"][0]["arms"][1];
    assert_eq!((&arm["arm"], &arm["seeds"]["0"]["knn10"]), (&json!("simclr"), &json!(43.0)));
    assert_eq!(arm["differences"]["plain"]["linear"]["mean"], 2.0);
    assert_eq!(value["results"][0]["pairing"]["other_views"], json!(["simclr"]));
}

#[test]
fn runs_that_are_no_pairs_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    data(&dir.path().join("photos"), 1000);
    let experiment = open(dir.path(), "--seeds 1 --arms plain,mixmask,unmix").expect("valid");
    for arm in ["plain", "mixmask", "unmix"] {
        finish(&experiment, arm, 0, [40.0, 50.0], "0011");
    }
    let start = |arm: &str| experiment.out.join("photos").join(format!("{arm}-0")).join("start.json");
    experiment::write(&start("mixmask"), &json!({ "encoder": "another", "order": "o", "views": "v" }))
        .expect("written");
    fs::remove_file(start("unmix")).expect("removed");
    let figures = Figures::read(&experiment, &experiment.data[0]).expect("read");
    let said = pairing::Pairing::of(&figures).say();
    assert!(said.contains("Not paired: `mixmask-0`") && said.contains("began with: `unmix-0`"), "{said}");
}

#[test]
fn time_that_is_left_goes_by_what_ended() {
    let dir = tempfile::tempdir().expect("a folder");
    data(&dir.path().join("photos"), 1000);
    let experiment = open(dir.path(), "--seeds 3 --arms plain,mixmask").expect("valid");
    let runs = experiment.runs();
    assert_eq!(speed::left(&experiment, &runs), None);
    finish(&experiment, "plain", 0, [40.0, 50.0], "0011");
    assert_eq!(
        speed::left(&experiment, &runs[1..]),
        Some(Duration::from_secs(5 * 60)),
        "others cost as much"
    );
    assert_eq!([40.0, 119.0, 11_100.0].map(span), ["40 s", "2 min", "3 h 05 min"]);
    assert!(
        progress(&experiment, runs[0]).contains("1 of 6 runs, about 5 min left"),
        "{}",
        progress(&experiment, runs[0])
    );
}

/// Figures of other pictures, or whitened to other numbers, are no seeds of one experiment.
#[test]
fn a_finished_run_is_of_its_pictures_and_its_whitening() {
    let at = tempfile::tempdir().expect("a folder");
    data(&at.path().join("photos"), 300);
    let flags = "--arms plain --seeds 1 --epochs 2";
    let begun = |flags: &str| {
        let experiment = open(at.path(), flags).expect("sound");
        let run = experiment.runs()[0];
        Job::new(&experiment, run, None).begun().map_err(|e| e.to_string())
    };
    assert_eq!(begun(flags), Ok(false));
    finish(&open(at.path(), flags).expect("sound"), "plain", 0, [40.0, 50.0], "1010");
    assert_eq!(begun(flags), Ok(true));
    let error = begun(&format!("{flags} --whiten 64")).expect_err("another whitening");
    assert!(error.contains("--whiten") && error.contains("64"), "{error}");
    fs::write(at.path().join("photos/test/class/0.jpg"), "another").expect("written");
    let error = begun(flags).expect_err("other pictures");
    assert!(error.contains("other pictures") && error.contains("--out"), "{error}");
    // a folder of an earlier version
    let about = at.path().join("out/photos/plain-0").join(job::ABOUT);
    let mut old: Value = serde_json::from_str(&fs::read_to_string(&about).expect("there")).expect("JSON");
    for key in ["data", "whiten"] {
        old.as_object_mut().and_then(|old| old.remove(key)).expect("there");
    }
    fs::write(&about, old.to_string()).expect("written");
    assert_eq!(begun(flags), Ok(true));
}
