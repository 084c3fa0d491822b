//! `knn`, `linear`, `finetune` and `embed` in several processes, against one: what they print, to the bit where no weights are
//! trained together.

mod together;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use occlude_checkpoint::Checkpoint;
use serde_json::Value;
use together::{alone, ends, pictures, port, rank, run};

/// Largest difference of a weight that two processes trained together from that of one; sums are in another order.
const WEIGHTS: f32 = 1e-5;
/// How many times as far running statistics may be.
const STATISTICS: f32 = 10.0;
/// Of one process's work; the threads of both are the same.
const MACHINE: &str = " --device cpu --threads 1 --workers 1";

/// Pictures to learn from (three chunks of features), pictures to classify (two), one of which is broken, and a checkpoint.
struct Place {
    dir: PathBuf,
    checkpoint: PathBuf,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("evaluated-{}", std::process::id()));
        pictures(&dir.join("train"), 150);
        pictures(&dir.join("val"), 70);
        std::fs::write(dir.join("val/b/broken.png"), b"no picture").expect("written");
        let out = dir.join("run");
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let line = format!(
            "pretrain {} --out {} --recipe moco-v2 --arch resnet18 --image-size 32 --batch-size 8 --queue 8 --bn-splits 1 \
             --device cpu --threads 1 --workers 1 --stop-after 2 --lr 0.01 --warmup-epochs 0",
            text(&dir.join("train")),
            text(&out)
        );
        run(&line.split_whitespace().collect::<Vec<_>>(), 1);
        let last = std::fs::read_to_string(out.join("last")).expect("a checkpoint");
        Place { checkpoint: out.join(last.trim()), dir }
    })
}

/// How processes ended.
#[derive(Debug)]
struct Ended {
    codes: Vec<Option<i32>>,
    /// What each wrote to stdout.
    said: Vec<String>,
    /// And to stderr.
    told: Vec<String>,
}

/// `line` in `size` processes; `@` stands for the folder, `CHECKPOINT` for the checkpoint.
fn ended(line: &str, size: usize) -> Ended {
    let place = place();
    let line = line.replace('@', place.dir.to_str().expect("UTF-8"));
    let line = line.replace("CHECKPOINT", place.checkpoint.to_str().expect("UTF-8"));
    let words: Vec<&str> = line.split_whitespace().collect();
    let (port, scratch) = (port(), tempfile::tempdir().expect("a folder"));
    let file = |r: usize| scratch.path().join(r.to_string());
    let start = |r: usize| {
        let mut command = if size == 1 { alone(&words) } else { rank(&words, r, size, port) };
        command.stdout(File::create(file(r)).expect("created")).spawn().expect("started")
    };
    let children = (0..size).map(start).collect();
    let (codes, told) = ends(children).into_iter().map(|end| (end.code, end.told)).unzip();
    let said = (0..size).map(|r| std::fs::read_to_string(file(r)).expect("UTF-8")).collect();
    Ended { codes, said, told }
}

/// What the first of them prints; all must end well, and the others be silent.
fn answer(line: &str, size: usize) -> String {
    let mut ended = ended(line, size);
    assert!(ended.codes.iter().all(|&code| code == Some(0)), "{line}, {size}: {ended:?}");
    assert!(ended.said[1..].iter().all(String::is_empty), "{line}, {size}: {ended:?}");
    assert!(ended.told[1..].iter().all(|told| silent(told)), "{line}, {size}: {ended:?}");
    ended.said.remove(0)
}

/// Whether it is said of nothing but pictures, which only this process may have read.
fn silent(told: &str) -> bool {
    told.lines().all(|line| line.contains("broken.png"))
}

/// More processes than there are chunks leave some with nothing to do.
const SIZES: [usize; 2] = [2, 4];

#[test]
fn neighbours_are_those_of_one_process() {
    for more in ["", " --whiten 8 --unweighted --no-floors"] {
        let line = format!("knn CHECKPOINT @/train @/val --json --k 1,7{more}{MACHINE}");
        let one = answer(&line, 1);
        let rows = serde_json::from_str::<Value>(&one).expect("JSON")["results"].as_array().map(Vec::len);
        assert_eq!(rows, Some(if more.is_empty() { 6 } else { 4 }), "{one}");
        for size in SIZES {
            assert_eq!(answer(&line, size), one, "{line}, {size} processes");
        }
    }
}

#[test]
fn what_is_known_is_not_measured_again_and_one_process_writes() {
    let line = format!("knn CHECKPOINT @/train @/val --json --k 3 --out @/knn{MACHINE}");
    let first = answer(&line, 2);
    assert_eq!(answer(&line, 2), first);
    std::fs::remove_file(place().dir.join("knn/pixels.json")).expect("there");
    assert_eq!(answer(&line, 2), first, "what is missing is measured");
    assert_eq!(answer(&line, 1), first);
}

#[test]
fn embeddings_are_those_of_one_process_in_the_order_of_the_pictures() {
    let line = format!("embed CHECKPOINT @/train @/train/a --normalize{MACHINE}");
    let one = answer(&line, 1);
    assert_eq!(one.lines().count(), 225);
    for size in SIZES {
        assert!(answer(&line, size) == one, "{size} processes");
    }
    // a picture that is missing from the answer is a failure, of the one that answers
    let ended = ended(&format!("embed CHECKPOINT @/val{MACHINE}"), 2);
    assert!(ended.codes == [Some(1), Some(0)] && ended.said[0].lines().count() == 70, "{ended:?}");
    assert_eq!(ended.told.concat().matches("broken.png").count(), 1, "{ended:?}");
}

/// Batches of 128 are parts of one or two whole blocks of a forward pass, and the last one of 22 is not: features are rounded
/// alike anyway, since no sum goes over pictures.
#[test]
fn a_linear_classifier_is_that_of_one_process() {
    for more in ["--views cached --lr auto --epochs 2", "--views fresh --batch-size 128 --epochs 2 --lr 0.3"]
    {
        let line = format!("linear CHECKPOINT @/train @/val --json {more}{MACHINE}");
        let one: Value = serde_json::from_str(&answer(&line, 1)).expect("JSON");
        assert!(one["top1"].as_f64().is_some_and(|top1| top1 > 0.0), "{one}");
        for size in SIZES {
            let many: Value = serde_json::from_str(&answer(&line, size)).expect("JSON");
            assert_eq!(many, one, "{line}, {size} processes");
        }
    }
}

/// Stopped in the middle of an epoch, all together, and resumed by one: as if nobody had.
#[test]
fn a_linear_classifier_is_resumed_by_all() {
    let line = |out: &str, more: &str| {
        format!(
            "linear CHECKPOINT @/train @/val --json --views fresh --batch-size 64 --epochs 3 --lr 0.3 --out @/{out}{more}{MACHINE}"
        )
    };
    let whole = answer(&line("linear-whole", ""), 2);
    assert_eq!(answer(&line("linear-parts", " --stop-after 4"), 2), "");
    assert_eq!(answer(&line("linear-parts", ""), 1), whole, "by any number of processes");
    assert_eq!(answer(&line("linear-parts", ""), 2), whole, "the result of an earlier call");
}

/// Weights of a fine-tuned model.
fn weights(out: &str) -> Vec<(String, Vec<f32>)> {
    let file = Checkpoint::open(place().dir.join(out).join("model.safetensors")).expect("saved");
    let floats = file.tensors().filter(|t| !t.name.contains("num_batches"));
    floats.map(|t| (t.name.to_owned(), t.to_f32().expect("numbers"))).collect()
}

/// The largest difference of two models, relative to a weight's size where it is above one, and where it is.
fn apart(a: &str, b: &str) -> (f32, String) {
    let (a, b) = (weights(a), weights(b));
    assert!(a.len() > 60 && a.iter().map(|w| &w.0).eq(b.iter().map(|w| &w.0)));
    let worst = a.iter().zip(&b).map(|((name, a), (_, b))| {
        // variances may be large, and tell more of rounding than weights do
        let slack = if name.contains("running_") { STATISTICS } else { 1.0 };
        let far = a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs().max(1.0) / slack);
        (far.fold(0.0, f32::max), name.clone())
    });
    worst.max_by(|a, b| a.0.total_cmp(&b.0)).expect("tensors")
}

#[test]
fn fine_tuning_together_gives_the_weights_of_one_process_and_is_resumed() {
    // at a usual rate rounding of so small a network grows by itself; the last batch is of 22 pictures
    let line = |out: &str, more: &str| {
        let epochs = if more.contains("--epochs") { "" } else { " --epochs 2" };
        format!(
            "finetune CHECKPOINT @/train @/val --json --batch-size 32{epochs} --lr 1e-5 --lr-classifier 1e-3 \
             --out @/{out}{more}{MACHINE}"
        )
    };
    answer(&line("tuned1", ""), 1);
    answer(&line("tuned-less", " --epochs 1"), 1);
    let moved = apart("tuned1", "tuned-less").0;
    assert!(moved > 5.0 * WEIGHTS, "weights moved by {moved:.1e} only");
    for size in [2, 3] {
        let out = format!("tuned{size}");
        let said: Value = serde_json::from_str(&answer(&line(&out, ""), size)).expect("JSON");
        assert_eq!(said["unreadable"], 1);
        let (worst, name) = apart(&out, "tuned1");
        eprintln!("{size} processes: {worst:.1e} in `{name}`");
        assert!(worst <= WEIGHTS, "{size} processes: {worst:.1e} in `{name}`");
    }
    assert_eq!(answer(&line("tuned-parts", " --stop-after 3"), 2), "");
    answer(&line("tuned-parts", ""), 2);
    assert_eq!(apart("tuned-parts", "tuned2").0, 0.0);
}

/// Once, by the first, and nobody hangs.
#[test]
fn what_cannot_be_evaluated_together_is_one_error() {
    for (line, size, expected) in [
        // 150 pictures in batches of 37 leave 2
        ("finetune CHECKPOINT @/train @/val --batch-size 37", 3, "a batch of 2 of the 150 training pictures"),
        ("linear CHECKPOINT @/train @/val --batch-size 2", 3, "a batch of 2 of the 150 training pictures"),
        ("knn CHECKPOINT @/nowhere @/val", 2, "nowhere"),
        ("knn CHECKPOINT @/train @/val --k 1000", 2, "`--k 1000` exceeds the 150 pictures"),
        ("embed @/nothing.safetensors @/val", 2, "nothing.safetensors"),
        ("linear CHECKPOINT @/train @/val --out @/run", 2, "something other than an evaluation"),
    ] {
        let ended = ended(&format!("{line}{MACHINE}"), size);
        assert!(ended.codes.iter().all(|&code| code == Some(1)), "{line}: {ended:?}");
        assert!(ended.told[0].contains("error: ") && ended.told[0].contains(expected), "{line}: {ended:?}");
        assert!(ended.told[1..].iter().all(|told| silent(told)), "{line}: {ended:?}");
    }
}

#[test]
fn processes_that_were_asked_different_things_are_one_error() {
    let place = place();
    let (checkpoint, train, val) = (&place.checkpoint, place.dir.join("train"), place.dir.join("val"));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let port = port();
    let start = |r, k: &str| {
        let all = [text(checkpoint), text(&train), text(&val)];
        let words: Vec<&str> = ["knn"].into_iter().chain(all.iter().map(String::as_str)).collect();
        let more: Vec<&str> = MACHINE.split_whitespace().chain(["--k", k]).collect();
        rank(&[words, more].concat(), r, 2, port).spawn().expect("started")
    };
    let ended = ends(vec![start(0, "1"), start(1, "2")]);
    assert!(ended[0].told.contains("what is asked differs between ranks: "), "{ended:?}");
    assert!(ended[1].told.is_empty() && ended.iter().all(|end| end.code == Some(1)), "{ended:?}");
}

/// A wrong flag is said once, too, with the code of wrong usage.
#[test]
fn wrong_usage_is_said_once() {
    let ended = ended(&format!("linear CHECKPOINT @/train @/val --epochs 0{MACHINE}"), 2);
    assert!(ended.codes == [Some(2); 2] && ended.told[0].contains("`--epochs`"), "{ended:?}");
    assert!(ended.told[1].is_empty(), "{ended:?}");
}

/// Gloo's collectives in two processes; and other parts are of one.
#[test]
fn the_selftest_checks_what_processes_do_together() {
    let said = answer("selftest --device cpu", 2);
    assert!(said.matches("Gloo, 2 processes, ").count() == 7 && !said.contains("FAILED"), "{said}");
    let alone = answer("selftest --device cpu --only collectives", 1);
    assert!(alone.matches("Gloo, 1 processes, ").count() == 7 && !alone.contains("FAILED"), "{alone}");
    let refused = ended("selftest --device cpu --only resume", 2);
    assert!(refused.codes == [Some(2); 2] && refused.told[0].contains("`collectives` alone"), "{refused:?}");
}
