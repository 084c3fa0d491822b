//! Several processes over Gloo, as torchrun starts them, against one: the same weights; and how they end together.

mod together;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use occlude_checkpoint::Checkpoint;
use serde_json::Value;
use together::{alone, ends, pictures, port, rank, run, start};

/// Largest difference of a weight between several processes and one, after some steps in float32. Sums are in another order.
const WEIGHTS: f32 = 1e-5;
/// How many times as far running statistics may be.
const STATISTICS: f32 = 10.0;
/// The learning rate. At a usual one a run of such a small network on such a small batch is chaotic: one process with two
/// threads and one with one differ by more than 0.1 after six steps. At this one rounding stays rounding, and weights move by
/// much more than [`WEIGHTS`].
const RATE: &str = "1e-5";
/// The same as [`WEIGHTS`] of losses, relative.
const LOSSES: f64 = 1e-4;

const TINY: &[&str] = &[
    "--arch",
    "resnet18",
    "--image-size",
    "64",
    "--batch-size",
    "16",
    "--epochs",
    "2",
    "--warmup-epochs",
    "0",
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--workers",
    "1",
    "--log-every",
    "1",
    "--dist-timeout",
    "60",
];

struct Place {
    _dir: tempfile::TempDir,
    data: PathBuf,
    dir: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    // 3 steps of 16 an epoch, and some left over
    pictures(&data, 50);
    Place { data, dir: dir.path().to_owned(), _dir: dir }
}

impl Place {
    fn out(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn arguments<'a>(&'a self, out: &'a Path, flags: &[&'a str]) -> Vec<&'a str> {
        let text = |path: &'a Path| path.to_str().expect("UTF-8");
        let usual = TINY.chunks(2).filter(|pair| !flags.contains(&pair[0])).flatten().copied();
        ["pretrain", text(&self.data), "--out", text(out)]
            .into_iter()
            .chain(usual)
            .chain(flags.iter().copied())
            .collect()
    }
}

/// Tensors of the last checkpoint.
fn tensors(out: &Path) -> BTreeMap<String, Vec<f32>> {
    let last = std::fs::read_to_string(out.join("last")).expect("a checkpoint");
    let file = Checkpoint::open(out.join(last.trim())).expect("readable");
    // counters are no weights, and momenta are of the size of gradients
    let others = ["num_batches_tracked", "queue_ptr", "queue_filled", "optim."];
    let floats = file.tensors().filter(|t| !others.iter().any(|other| t.name.contains(other)));
    floats.map(|t| (t.name.to_owned(), t.to_f32().expect("numbers"))).collect()
}

fn rows(out: &Path, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    all.filter(|row| row["kind"] == kind).collect()
}

/// How many rows of a kind a run has written by now, the last one of which may be half a line.
fn rows_so_far(out: &Path, kind: &str) -> usize {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).count()
}

/// The largest difference of the weights, of the encoder that learns and of all that follows, and where it is. A run that
/// was stopped may lack what a finished one has, statistics of unmasked views.
fn apart(ours: &Path, theirs: &Path) -> (f32, String) {
    let (ours, theirs) = (tensors(ours), tensors(theirs));
    assert!(ours.len() > 30 && ours.keys().all(|name| theirs.contains_key(name)));
    let worst = ours.iter().map(|(name, values)| {
        // variances may be large, and those of a group of four pictures tell more of rounding than weights do
        let slack = if name.contains("running_") { STATISTICS } else { 1.0 };
        let pairs = values.iter().zip(&theirs[name]);
        let far = pairs.map(|(a, b)| (a - b).abs() / b.abs().max(1.0) / slack);
        (far.fold(0.0, f32::max), name.clone())
    });
    worst.max_by(|a, b| a.0.total_cmp(&b.0)).expect("tensors")
}

/// Runs one process and several, and compares what they leave.
fn compare(flags: &[&str], sizes: &[usize]) {
    let place = place();
    let one = place.out("one");
    run(&place.arguments(&one, flags), 1);
    let first = place.out("first");
    run(&place.arguments(&first, &[flags, &["--stop-after", "1"]].concat()), 1);
    let moved = apart(&first, &one).0;
    assert!(moved > 5.0 * WEIGHTS, "{flags:?}: weights moved by {moved:.1e} only");
    for &size in sizes {
        let many = place.out(&format!("of{size}"));
        let ended = run(&place.arguments(&many, flags), size);
        // one of them speaks
        assert!(ended[0].told.contains(&format!("{size} processes")), "{}", ended[0].told);
        assert!(ended[1..].iter().all(|end| end.told.is_empty()), "{ended:?}");
        assert!(tensors(&many).keys().eq(tensors(&one).keys()), "{flags:?}");
        let (worst, name) = apart(&many, &one);
        eprintln!("{flags:?}, {size} processes: {worst:.1e} in `{name}`");
        assert!(worst <= WEIGHTS, "{flags:?}, {size} processes: `{name}` {worst:.1e}");
        let (ours, theirs) = (rows(&many, "step"), rows(&one, "step"));
        assert_eq!((ours.len(), theirs.len()), (6, 6));
        for (a, b) in ours.iter().zip(&theirs) {
            let fields = b.as_object().expect("fields").iter();
            for (name, expected) in
                fields.filter(|(n, _)| !["images_per_s", "data_wait", "seconds"].contains(&n.as_str()))
            {
                let (found, expected) = (&a[name], expected.as_f64());
                let close = |x: f64, y: f64| (x - y).abs() <= LOSSES * y.abs().max(1.0);
                let same = found.as_f64().zip(expected).map_or(*found == b[name], |(x, y)| close(x, y));
                assert!(same, "{flags:?}, {size} processes, `{name}`: {found} for {}", b[name]);
            }
        }
        let start = |out: &Path| std::fs::read_to_string(out.join("start.json")).expect("written");
        assert_eq!(start(&many), start(&one), "the first views are the same");
    }
}

#[test]
fn moco_with_shuffled_groups_equals_one_process() {
    compare(&["--recipe", "moco-v2", "--bn-splits", "4", "--queue", "40", "--lr", RATE], &[2, 4]);
}

#[test]
fn moco_with_joint_normalisation_keys_of_the_batch_and_steps_of_two_batches_equals_one_process() {
    let flags = [
        "--recipe",
        "moco-v2",
        "--bn-splits",
        "1",
        "--queue",
        "16",
        "--in-batch",
        "true",
        "--symmetric",
        "true",
    ];
    compare(
        &[&flags[..], &["--lr", RATE, "--head-bn", "true", "--batch-size", "8", "--accumulate", "2"]]
            .concat(),
        &[2],
    );
}

#[test]
fn masks_and_hard_negatives_equal_those_of_one_process() {
    let flags =
        ["--recipe", "saliency-moco", "--saliency", "momentum", "--saliency-stage", "4", "--queue", "40"];
    for strategy in ["hp", "noise"] {
        let more = ["--bn-splits", "2", "--lr", RATE, "--strategy", strategy, "--branch", "both"];
        compare(&[&flags[..], &more].concat(), &[2]);
    }
}

#[test]
fn simclr_equals_one_process() {
    compare(&["--recipe", "simclr", "--bn-splits", "1", "--lr", RATE], &[2, 4]);
    let masked = ["--recipe", "saliency-simclr", "--saliency-stage", "4", "--saliency", "momentum"];
    compare(&[&masked[..], &["--bn-splits", "2", "--lr", RATE, "--strategy", "blur"]].concat(), &[2]);
}

#[test]
fn byol_and_lewel_equal_one_process() {
    let narrow = ["--hidden", "64", "--predictor-hidden", "64", "--lr", RATE];
    for recipe in ["byol", "lewel-b-eman", "lewel-b"] {
        compare(&[&["--recipe", recipe], &narrow[..]].concat(), &[2]);
    }
}

/// Mixtures, whose pictures are of different processes.
#[test]
fn mixtures_equal_one_process() {
    let moco = ["--bn-splits", "4", "--queue", "40", "--lr", RATE];
    for (recipe, size) in [("mixmask", 2), ("unmix+mixmask", 4)] {
        compare(&[&["--recipe", recipe], &moco[..]].concat(), &[size]);
    }
    let in_batch = ["--recipe", "moco-v2", "--mix", "unmix", "--queue", "0", "--in-batch", "true"];
    compare(&[&in_batch[..], &["--bn-splits", "2", "--lr", RATE]].concat(), &[2]);
    let byol = ["--recipe", "byol", "--mix", "mixmask", "--hidden", "64", "--predictor-hidden", "64"];
    compare(&[&byol[..], &["--lr", RATE]].concat(), &[2]);
}

#[test]
fn distillation_equals_one_process() {
    let place = place();
    let teacher = place.out("teacher");
    let of = ["--recipe", "moco-v2", "--bn-splits", "1", "--queue", "16", "--stop-after", "1"];
    run(&place.arguments(&teacher, &of), 1);
    let last = std::fs::read_to_string(teacher.join("last")).expect("a checkpoint");
    let teacher = teacher.join(last.trim());
    let cache = place.out("cache");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let flags = [
        "--recipe",
        "distill",
        "--optimizer",
        "sgd",
        "--lr",
        RATE,
        "--teacher",
        &text(&teacher),
        "--teacher-cache",
        &text(&cache),
    ];
    compare(&flags, &[2]);
}

/// With prototypes that stay at first, blocks that are dropped, and patches that are hidden where attention says.
#[test]
fn dino_and_ibot_equal_one_process() {
    let small =
        ["--arch", "vit_64x2x2_patch8_32", "--image-size", "32", "--hidden", "64", "--prototypes", "64"];
    let more = ["--views", "1,1,2x32", "--optimizer", "sgd", "--lr", "0.1", "--frozen-epochs", "1"];
    for recipe in ["dino", "ibot", "ibot-attmask"] {
        compare(&[&["--recipe", recipe, "--drop-path", "0.2"], &small[..], &more].concat(), &[2]);
    }
}

/// Stopped by a signal to one of them: all leave with its code, after one checkpoint, and go on, to the bit where they are as
/// many as before.
#[test]
fn a_signal_to_one_rank_ends_all_of_them_after_saving_and_they_resume() {
    let place = place();
    let flags = ["--recipe", "moco-v2", "--bn-splits", "2", "--queue", "40", "--lr", RATE];
    let (whole, parts) = (place.out("whole"), place.out("parts"));
    run(&place.arguments(&whole, &flags), 2);
    let endless = [&flags[..], &["--epochs", "100000"]].concat();
    let children = start(&place.arguments(&place.out("endless"), &endless), 2);
    let began = Instant::now();
    while !place.out("endless").join("metrics.jsonl").exists() && began.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    // SAFETY: a signal to a child.
    assert_eq!(unsafe { libc::kill(children[1].id() as i32, libc::SIGTERM) }, 0);
    let ended = ends(children);
    assert!(ended.iter().all(|end| end.code == Some(143)), "{ended:?}");
    assert!(ended[0].told.contains("saved `") && ended[1].told.is_empty(), "{ended:?}");
    run(&place.arguments(&parts, &[&flags[..], &["--stop-after", "2"]].concat()), 2);
    run(&place.arguments(&parts, &[&flags[..], &["--resume"]].concat()), 2);
    assert_eq!(apart(&parts, &whole).0, 0.0);
    // and on another number
    let other = place.out("other");
    run(&place.arguments(&other, &[&flags[..], &["--stop-after", "2"]].concat()), 2);
    run(&place.arguments(&other, &[&flags[..], &["--resume"]].concat()), 1);
    let (worst, name) = apart(&other, &whole);
    assert!(worst <= WEIGHTS, "`{name}` {worst:.1e}");
}

#[test]
fn a_killed_rank_ends_the_others_with_a_message() {
    let place = place();
    let (out, flags) = (place.out("run"), ["--recipe", "simclr", "--lr", RATE, "--epochs", "100000"]);
    let mut children = start(&place.arguments(&out, &flags), 2);
    let began = Instant::now();
    while !out.join("metrics.jsonl").exists() && began.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    children[1].kill().expect("killed");
    let killed = Instant::now();
    let ended = ends(children);
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    let told = &ended[0].told;
    assert!(ended[0].code == Some(1) && told.contains("error: rank 0 of 2, step "), "{ended:?}");
    assert!(told.contains("hint: another rank ended"), "{told}");
    // what was saved is there
    run(&place.arguments(&out, &[&flags[..], &["--resume", "--stop-after", "1"]].concat()), 2);
}

/// Processes that this one started.
fn children(of: u32) -> Vec<i32> {
    let parent = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        text.rsplit(") ").next()?.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let pids = std::fs::read_dir("/proc").expect("listed").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| parent(pid) == Some(of)).collect()
}

/// The real torchrun: it starts all processes again, and these go on where the run was.
#[test]
fn what_torchrun_starts_again_goes_on_without_a_flag() {
    let place = place();
    let flags = ["--recipe", "moco-v2", "--bn-splits", "2", "--queue", "40", "--lr", RATE, "--epochs", "8"];
    let (whole, killed) = (place.out("whole"), place.out("killed"));
    run(&place.arguments(&whole, &flags), 2);
    let python = std::env::var("OCCLUDE_PYTHON").expect("`OCCLUDE_PYTHON`: run `cargo xtask setup`");
    let mut torchrun = std::process::Command::new(python);
    torchrun
        .args(
            "-m torch.distributed.run --standalone --no-python --nproc-per-node 2 --max-restarts 2"
                .split(' '),
        )
        .arg(env!("CARGO_BIN_EXE_occlude-train"))
        .args(place.arguments(&killed, &flags))
        .env("OMP_NUM_THREADS", "1")
        .stderr(std::process::Stdio::piped());
    let torchrun = torchrun.spawn().expect("started");
    let began = Instant::now();
    while rows_so_far(&killed, "epoch") < 2 && began.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let victim = *children(torchrun.id()).last().expect("workers");
    // SAFETY: a signal to a process that was found a moment ago.
    assert_eq!(unsafe { libc::kill(victim, libc::SIGKILL) }, 0);
    let end = ends(vec![torchrun]).remove(0);
    assert_eq!(end.code, Some(0), "{}", end.told);
    assert!(end.told.contains("torchrun restarted the processes (attempt 1): resuming"), "{}", end.told);
    assert_eq!(apart(&killed, &whole).0, 0.0);
}

/// Half the bytes, and nearly the same weights.
#[test]
fn gradients_may_travel_in_half_precision() {
    let place = place();
    let flags = ["--recipe", "simclr", "--lr", RATE];
    let exact = place.out("none");
    run(&place.arguments(&exact, &flags), 2);
    for format in ["fp16", "bf16"] {
        let out = place.out(format);
        run(&place.arguments(&out, &[&flags[..], &["--comm-hook", format]].concat()), 2);
        let (worst, name) = apart(&out, &exact);
        eprintln!("{format}: {worst:.1e} in `{name}`");
        assert!(worst > 0.0 && worst <= WEIGHTS, "{format}: `{name}` {worst:.1e}");
    }
}

/// What cannot be is said once, by rank 0, and nobody hangs.
#[test]
fn what_several_ranks_cannot_do_is_one_error() {
    let place = place();
    let vit = "vit_64x2x2_patch8_32";
    for (flags, expected) in [
        (
            &[
                "--recipe",
                "ibot",
                "--arch",
                vit,
                "--image-size",
                "32",
                "--views",
                "1,1,2x32",
                "--patch-choice",
                "spread",
            ][..],
            "patches hidden by foreground and background are for one process",
        ),
        (&["--recipe", "moco-v2", "--bn-splits", "1", "--batch-size", "15"], "2 ranks cannot divide it"),
        (&["--recipe", "moco-v2", "--bn-splits", "5", "--batch-size", "10"], "`--bn-splits 5`"),
        (
            &["--recipe", "saliency-moco", "--bn-splits", "2", "--strategy", "other-picture"],
            "another picture of the batch",
        ),
        (
            &["--recipe", "moco-v2", "--bn-splits", "2", "--batch-size", "60"],
            "50 pictures, fewer than the 60",
        ),
    ] {
        let ended = ends(start(&place.arguments(&place.out("refused"), flags), 2));
        assert!(
            ended[0].told.contains("error: ") && ended[0].told.contains(expected),
            "{flags:?}: {ended:?}"
        );
        assert!(ended[1].told.is_empty(), "{flags:?}: {ended:?}");
        assert!(ended.iter().all(|end| end.code == Some(1)), "{flags:?}: {ended:?}");
    }
}

#[test]
fn ranks_that_were_told_different_things_are_one_error() {
    let place = place();
    let out = place.out("run");
    let port = port();
    let flags = |lr| ["--recipe", "moco-v2", "--bn-splits", "2", "--queue", "8", "--lr", lr];
    let (a, b) = (flags("0.01"), flags("0.02"));
    let start = |r, flags: &[&str]| rank(&place.arguments(&out, flags), r, 2, port).spawn().expect("started");
    let ended = ends(vec![start(0, &a), start(1, &b)]);
    assert!(ended[0].told.contains("the configuration differs between ranks: "), "{ended:?}");
    assert!(ended[1].told.is_empty() && ended.iter().all(|end| end.code == Some(1)), "{ended:?}");
    // a rank that cannot read its data is named
    let missing = place.out("missing");
    let of_missing: Vec<&str> = {
        let mut all = place.arguments(&out, &a);
        all[1] = missing.to_str().expect("UTF-8");
        all
    };
    let port = together::port();
    let good = rank(&place.arguments(&out, &a), 0, 2, port).spawn().expect("started");
    let ended = ends(vec![good, rank(&of_missing, 1, 2, port).spawn().expect("started")]);
    assert!(ended[0].told.contains("error: rank 1: "), "{ended:?}");
}

#[test]
fn half_of_the_environment_is_an_error() {
    let place = place();
    let arguments = place.arguments(Path::new("run"), &["--recipe", "moco-v2"]);
    let child = alone(&arguments).env("RANK", "0").env("WORLD_SIZE", "2").spawn().expect("started");
    let ended = ends(vec![child]);
    let expected = "the environment has `RANK`, `WORLD_SIZE`, but not `MASTER_ADDR`, `MASTER_PORT`";
    assert!(ended[0].code == Some(1) && ended[0].told.contains(expected), "{ended:?}");
}

/// Other commands would do the same work several times.
#[test]
fn commands_for_one_process_say_so_once() {
    let port = port();
    let start = |r| rank(&["doctor"], r, 2, port).spawn().expect("started");
    let ended = ends(vec![start(0), start(1)]);
    assert!(ended[0].told.contains("this command works in one process"), "{ended:?}");
    assert!(ended[1].told.is_empty() && ended.iter().all(|end| end.code == Some(1)), "{ended:?}");
}

/// Accuracy by nearest neighbours along the way is that of one process.
#[test]
fn online_accuracy_is_measured_together() {
    let place = place();
    let val = place.out("val");
    pictures(&val, 13);
    let val = val.to_str().expect("UTF-8").to_owned();
    let flags = ["--recipe", "moco-v2", "--bn-splits", "2", "--queue", "8", "--lr", RATE, "--knn-val", &val];
    let (one, two) = (place.out("one"), place.out("two"));
    run(&place.arguments(&one, &flags), 1);
    run(&place.arguments(&two, &flags), 2);
    let knn = |out: &Path| -> Vec<_> {
        rows(out, "knn")
            .iter()
            .map(|r| (r["queries"].clone(), r["neighbours"].clone(), r["top1"].clone()))
            .collect()
    };
    assert!(knn(&one).len() == 2 && knn(&one) == knn(&two), "{:?} {:?}", knn(&one), knn(&two));
    assert!(two.join("neighbours.png").exists());
}
