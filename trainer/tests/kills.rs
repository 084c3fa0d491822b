//! Processes that train together, one of which is killed at a random moment, again and again: the others end with a
//! message that says where, what was saved can be read, and the run ends with the bits of one that nobody killed.

mod together;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use occlude_checkpoint::Checkpoint;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use together::{End, ends, pictures, run, start};

/// Kills of a usual run of this test; `OCCLUDE_KILLS` asks for another number.
const KILLS: usize = 5;
/// Of the moments; `OCCLUDE_KILLS_SEED` sets another one.
const SEED: u64 = 20;
/// Seconds that a collective may last.
const TIMEOUT: &str = "10";
/// From a kill to the end of the others, at most: the time-out of those that have not met yet, on a busy machine.
const BOUND: Duration = Duration::from_secs(40);

/// A small transformer whose head has a normalisation over all processes, and a queue; a checkpoint after nearly every step.
const FLAGS: &str = "--recipe moco-v2 --arch vit_64x2x2_patch8_32 --image-size 32 --batch-size 12 --bn-splits 1 \
    --head-bn true --queue 24 --epochs 12 --warmup-epochs 0 --optimizer sgd --lr 0.01 --precision fp32 --device cpu \
    --threads 1 --workers 1 --log-every 1 --save-minutes 0.0001 --dist-timeout";

fn number<T: std::str::FromStr>(variable: &str, otherwise: T) -> T {
    match std::env::var(variable) {
        Ok(text) => {
            text.parse().unwrap_or_else(|_| panic!("`{variable}`: expected a number, found `{text}`"))
        }
        Err(_) => otherwise,
    }
}

/// Steps of a run: 4 of 12 pictures an epoch.
const STEPS: u64 = 48;
/// Of the kills, the share that come while processes start.
const EARLY: f64 = 0.2;

/// A run of some processes, and one that nobody disturbs.
struct Runs {
    arguments: Vec<String>,
    size: usize,
    out: PathBuf,
    whole: PathBuf,
}

impl Runs {
    fn new(dir: &Path, size: usize, number: usize) -> Self {
        let arguments = std::iter::once("pretrain".to_owned())
            .chain([dir.join("data").to_str().expect("UTF-8").to_owned()])
            .chain(FLAGS.split_whitespace().chain([TIMEOUT]).map(str::to_owned))
            .collect();
        let (out, whole) = (dir.join(format!("killed{number}")), dir.join(format!("whole{size}")));
        let runs = Self { arguments, size, out, whole };
        if !runs.whole.exists() {
            run(&runs.line(&runs.whole, false), size);
        }
        runs
    }

    /// The last step that the run has told of.
    fn step(&self) -> u64 {
        let text = std::fs::read_to_string(self.out.join("metrics.jsonl")).unwrap_or_default();
        let rows = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        rows.filter_map(|row| row["step"].as_u64()).max().unwrap_or_default()
    }

    /// Waits for a random moment: of the start, or within a step that the run has not reached before.
    fn wait(&self, children: &mut [Child], rng: &mut ChaCha8Rng) -> String {
        if rng.random_bool(EARLY) {
            let moment = rng.random_range(0.0..2.0);
            std::thread::sleep(Duration::from_secs_f64(moment));
            return format!("{moment:.3} s after its start");
        }
        let (step, within) =
            (rng.random_range(self.step().min(STEPS - 2) + 1..STEPS), rng.random_range(0.0..0.1));
        while self.step() < step && children.iter_mut().all(|c| c.try_wait().expect("a child").is_none()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_secs_f64(within));
        format!("{within:.3} s after step {step}")
    }

    fn line<'a>(&'a self, out: &'a Path, resume: bool) -> Vec<&'a str> {
        let all = self.arguments.iter().map(String::as_str);
        let out = ["--out", out.to_str().expect("UTF-8")];
        all.chain(out).chain(resume.then_some("--resume")).collect()
    }

    fn saved(&self) -> bool {
        self.out.join("last").exists()
    }

    fn start(&self) -> Vec<Child> {
        start(&self.line(&self.out, self.saved()), self.size)
    }

    /// Starts or goes on, kills one process, and looks at how the others end. Whether the run is not over.
    fn kill(&self, rng: &mut ChaCha8Rng) -> bool {
        let victim = rng.random_range(0..self.size);
        let mut children = self.start();
        let moment = self.wait(&mut children, rng);
        let over = children[victim].try_wait().expect("a child").is_some();
        // of one that has ended it does nothing
        let _ = children[victim].kill();
        let killed = Instant::now();
        let ended = ends(children);
        let (size, took) = (self.size, killed.elapsed());
        eprintln!("rank {victim} of {size} killed {moment}, all ended {took:?} later: {}", told(&ended));
        if over || ended.iter().all(|end| end.code == Some(0)) {
            assert!(ended.iter().all(|end| end.code == Some(0)), "{ended:?}");
            return false;
        }
        assert!(took < BOUND, "{took:?}");
        for (rank, end) in ended.iter().enumerate().filter(|(rank, _)| *rank != victim) {
            // the last checkpoint may have been written when the other was killed
            if end.code == Some(0) {
                continue;
            }
            assert_eq!(end.code, Some(1), "{ended:?}");
            let line = end.told.lines().find(|line| line.contains("error: ")).unwrap_or_default();
            let early = format!("error: rank {rank} of {size} cannot join the others at ");
            let late = format!("error: rank {rank} of {size}, step ");
            let operation = line.strip_prefix(&late).and_then(|rest| rest.split_once(", "));
            let named = operation.is_some_and(|(step, rest)| {
                step.parse::<u64>().is_ok() && rest.split_once(": ").is_some_and(|(what, _)| !what.is_empty())
            });
            assert!(line.starts_with(&early) || named, "rank {rank}: {ended:?}");
        }
        if self.saved() {
            assert!(bits(&self.out).len() > 30, "the checkpoint has all tensors");
        }
        true
    }
}

/// The bytes of every tensor of a run's last checkpoint, counters and momenta included.
fn bits(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let last = std::fs::read_to_string(out.join("last")).expect("a checkpoint");
    let file = Checkpoint::open(out.join(last.trim())).expect("readable");
    file.tensors().map(|t| (t.name.to_owned(), t.to_bytes().expect("whole").into_owned())).collect()
}

/// What the others said, shortly.
fn told(ended: &[End]) -> String {
    let lines = ended.iter().filter_map(|end| end.told.lines().find(|line| line.contains("error: ")));
    lines.collect::<Vec<_>>().join(" | ")
}

#[test]
fn kills_at_random_moments_change_no_bit() {
    let kills = number("OCCLUDE_KILLS", KILLS);
    let seed = number("OCCLUDE_KILLS_SEED", SEED);
    eprintln!("{kills} kills, seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("a folder");
    // 4 steps of 12 an epoch, and some left over
    pictures(&dir.path().join("data"), 50);
    let (mut done, mut number) = (0, 0);
    while done < kills {
        let runs = Runs::new(dir.path(), [2, 3, 4][number % 3], number);
        // so that several runs see kills, and each of them some
        for _ in 0..3.min(kills - done) {
            if !runs.kill(&mut rng) {
                break;
            }
            done += 1;
        }
        for end in ends(runs.start()) {
            // a run that is over may not be resumed further, and says so
            assert!(end.code == Some(0), "{end:?}");
        }
        assert!(bits(&runs.out) == bits(&runs.whole), "run {number} of {} processes", runs.size);
        number += 1;
    }
    eprintln!("{done} kills in {number} runs");
}
