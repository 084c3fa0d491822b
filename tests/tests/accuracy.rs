//! `cargo xtask accuracy`, driven as people drive it: killed and called again, and twice at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use occlude_tests::pictures;
use occlude_tests::run::{self, Said};
use serde_json::Value;
use xtask::{paths, sh};

/// Longer than any run here takes on a machine that has other work, too.
const PATIENCE: Duration = Duration::from_secs(300);

/// The task as a program, so that signals meet it and not `cargo`.
fn program() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let build = sh::capture(sh::cargo().args(["build", "--release", "-p", "xtask"]));
        build.unwrap_or_else(|error| panic!("{error:#}"));
        paths::tool("xtask")
    })
}

fn accuracy(folder: &Path, flags: &str) -> Command {
    let tools = run::tool("occlude-train");
    let mut command = Command::new(program());
    command.arg("accuracy").arg(folder.join("shapes")).arg("--out").arg(folder.join("runs"));
    command.args(flags.split_whitespace()).env("OCCLUDE_BIN_DIR", tools.parent().expect("a folder"));
    command.stdin(Stdio::null());
    command
}

/// A scratch folder with pictures of three classes.
fn scratch(name: &str) -> PathBuf {
    let folder = run::scratch(name);
    pictures::tree(&folder.join("shapes/train"), 8, 1);
    pictures::tree(&folder.join("shapes/test"), 3, 2);
    folder
}

/// Two arms with two seeds, as small as they can be.
const TINY: &str = "--arms plain,random-blur --seeds 2 --image-size 32 --batch-size 8 --epochs 2 --device cpu --threads 1 --whiten 4";

fn kill(child: &mut Child) {
    child.kill().expect("killed");
    child.wait().expect("ended");
}

/// Waits until a file of a run is there, and then a little.
fn until(child: &mut Child, path: &Path, more: u64) {
    let since = Instant::now();
    while !path.exists() && child.try_wait().expect("a status").is_none() {
        assert!(since.elapsed() < PATIENCE, "no `{}`", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(more));
}

#[test]
fn an_experiment_that_is_killed_goes_on_and_no_second_call_disturbs_it() {
    let folder = scratch("accuracy");
    let runs = folder.join("runs/shapes");
    // killed in pretraining, between two evaluations, and in the next run
    for (file, more) in [("plain-0/last", 40), ("plain-0/knn.json", 10), ("random-blur-0/start.json", 0)] {
        let mut first =
            accuracy(&folder, TINY).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        until(&mut first, &runs.join(file), more);
        if file == "plain-0/last" && first.try_wait().expect("a status").is_none() {
            let second = Said::of(&mut accuracy(&folder, TINY));
            assert!(
                second.code == 1 && second.stderr.contains("another `cargo xtask accuracy`"),
                "{second:?}"
            );
        }
        kill(&mut first);
    }
    let said = Said::of(&mut accuracy(&folder, TINY)).ok();
    for part in [
        "| MoCo v2 (`plain`) |",
        "| `random-blur` | `plain` |",
        "compared in every run",
        "views were the same, too.",
        "untrained encoder",
    ] {
        assert!(said.stdout.contains(part), "no `{part}` in\n{}", said.stdout);
    }
    assert!(
        said.stderr.contains("lowest priority") && said.stderr.contains("4 of 4 runs"),
        "{}",
        said.stderr
    );
    let text = fs::read_to_string(folder.join("runs/table.json")).expect("written");
    let table: Value = serde_json::from_str(&text).expect("JSON");
    let difference = &table["results"][0]["arms"][1]["differences"]["plain"]["knn10"];
    assert_eq!(difference["seeds"], 2, "{table:#}");
    assert!(
        difference["over_seeds"].is_array()
            && table["results"][0]["arms"][1]["claim"] == "open: 2 of 3 seeds"
    );
    per_picture_is_the_accuracy(&runs.join("plain-0"));
    // nothing is left to do, and other flags are another experiment
    let again = Said::of(&mut accuracy(&folder, TINY)).ok();
    assert!(again.stderr.contains("4 of 4 runs are done") && again.stdout == said.stdout, "{}", again.stderr);
    let other = Said::of(&mut accuracy(&folder, &TINY.replace("--epochs 2", "--epochs 3")));
    assert!(other.code == 1 && other.stderr.contains("begun with other flags"), "{}", other.stderr);
}

/// What is said of single pictures adds up to what is said of all.
fn per_picture_is_the_accuracy(run: &Path) {
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(run.join(name)).expect("written")).expect("JSON")
    };
    let share = |row: &Value| {
        let right = row["right"].as_str().expect("marks");
        right.matches('1').count() as f64 / right.len() as f64
    };
    let (knn, linear) = (read("knn.json"), read("linear.json"));
    let (of_knn, of_linear) = (read("knn-pictures.json"), read("linear-pictures.json"));
    let all = knn["results"].as_array().expect("rows");
    let rows = of_knn["rows"].as_array().expect("rows");
    assert!(
        rows.len() == all.len() && rows.iter().any(|row| row["features"] == "pixels-whitened"),
        "{of_knn}"
    );
    for row in rows {
        let same =
            all.iter().find(|r| r["features"] == row["features"] && r["k"] == row["k"]).expect("the row");
        assert!((same["top1"].as_f64().expect("a share") - share(row)).abs() < 1e-12, "{row} {same}");
    }
    assert!((linear["top1"].as_f64().expect("a share") - share(&of_linear["rows"][0])).abs() < 1e-12);
    assert_eq!(of_knn["pictures"], of_linear["pictures"]);
    assert_eq!(of_knn["pictures"].as_array().map(Vec::len), Some(9));
}

#[test]
fn the_trainer_knows_the_flags_of_every_arm() {
    let folder = scratch("accuracy-arms");
    for set in ["experiment", "methods"] {
        let flags = format!("--set {set} --device cpu --image-size 32 --batch-size 8 --minutes 0.00001");
        let said = Said::of(&mut accuracy(&folder, &flags)).ok();
        assert!(said.stdout.contains("No run has ended yet"), "{}", said.stdout);
    }
}

#[test]
fn a_plan_says_what_would_run_and_how_long() {
    let folder = scratch("accuracy-plan");
    let said = Said::of(&mut accuracy(&folder, &format!("{TINY} --plan"))).ok();
    let row = said.stdout.lines().find(|line| line.starts_with("| shapes | `plain` | 2 |"));
    let cells: Vec<&str> = row.expect("a row").split('|').map(str::trim).collect();
    assert!(cells[4].parse::<f64>().is_ok_and(|rate| rate > 0.0) && !cells[5].is_empty(), "{}", said.stdout);
    assert!(said.stdout.contains("--recipe moco-v2") && said.stdout.contains("in all"), "{}", said.stdout);
    assert!(!folder.join("runs/shapes").exists(), "nothing was run");
    let nothing = Said::of(&mut accuracy(&folder, "--arm hot=cold"));
    assert!(nothing.code == 1 && nothing.stderr.contains("no arm `cold`"), "{}", nothing.stderr);
}
